from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError, RunError
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.gradient_norm import GradientNorm, gradient_norms, tensor_norms
from tiny_models import tiny


def by_hand(subject, record, p):
    """The library's own loss, every gradient kept, norms taken by numpy."""
    prompt = subject.template.prompt(record, subject.tokenizer)
    ids = [*subject.tokenizer(prompt + record.answer)["input_ids"], subject.tokenizer.eos_token_id]
    head = len(subject.tokenizer(prompt.rstrip())["input_ids"])
    labels = torch.tensor([[-100] * head + ids[head:]])
    weights = list(subject.model.parameters())
    loss = subject.model(torch.tensor([ids]), labels=labels).loss
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return np.mean([0.0 if g is None else np.linalg.norm(g.numpy().ravel(), p) for g in gradients])


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_equals_an_autograd_loop(bed, p):
    """A tied embedding (the bed's) is one tensor that two paths reach."""
    records = [bed.forget[0], bed.retain[5], bed.records["holdout"][7]]
    found = gradient_norms(bed.target, records, p=p)
    assert found == pytest.approx([by_hand(bed.target, r, p) for r in records], rel=1e-4)
    assert found == pytest.approx(np.concatenate([gradient_norms(bed.target, [r], p=p) for r in records]), rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tensor_no_gradient_reaches_counts_as_0(family):
    """The norms within are those of autograd; a parameter that is not used is not among them."""
    model = tiny(family)
    model.unused = torch.nn.Parameter(torch.ones(3))
    model.get_output_embeddings().weight.requires_grad_(False)
    ids = torch.arange(3, 11)[None]
    with tensor_norms(model, 2.0) as found:
        model(ids, labels=ids).loss.backward()
        assert all(w.grad is None for w in model.parameters())  # each was dropped when it was measured
    weights = [w.requires_grad_(True) for w in model.parameters()]
    gradients = torch.autograd.grad(model(ids, labels=ids).loss, weights, allow_unused=True)
    assert sorted(map(float, found)) == pytest.approx(sorted(float(g.norm()) for g in gradients if g is not None))
    assert len(found) == len(weights) - 1


def test_the_model_is_left_as_it_was(bed):
    subject = bed.fresh()
    first = next(subject.model.parameters()).requires_grad_(False)
    before = subject.weights_hash()
    with torch.no_grad():  # as an evaluation might be called
        gradient_norms(subject, bed.forget[:2])
    assert not first.requires_grad
    assert all(w.grad is None for w in subject.model.parameters())
    assert subject.weights_hash() == before


def test_what_was_trained_on_pulls_less(bed):
    """The target has converged on the forget people and is far from the unseen ones; gold has seen neither."""
    splits = {s: bed.records[s][::4] for s in ("forget", "holdout")}
    found = {}
    for name, subject in (("target", bed.target), ("gold", bed.gold)):
        (finding,) = GradientNorm().measure(EvidenceStore(name, subject, splits), None)
        found[name] = finding
        assert (finding.metric, finding.split, finding.n) == ("membership.gradient_norm.auroc", "forget", 48)
    assert found["target"].value > 0.9
    assert found["gold"].low < 0.5 < found["gold"].high


def test_refusals(bed):
    with pytest.raises(InputError, match="p=0"):
        GradientNorm(p=0)
    same = EvidenceStore("npo", bed.target, {"forget": bed.forget[:2], "holdout": bed.forget[1:3]})
    with pytest.raises(InputError, match="row 2 of 'forget' and row 1 of 'holdout'"):
        GradientNorm().measure(same, None)
    broken = bed.fresh()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match=r"'forget', row 1.*NaN"):
        gradient_norms(broken, bed.forget[:1], where="forget")
