"""WHP at inference: two models side by side, and what their logits become."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.generate import generate
from expunge.language.generic_labels import generic_logits
from expunge.language.methods.task_vector import Reinforce
from expunge.language.methods.whp_logits import WHPLogits
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed
from tiny_models import weights

TRAINING = Training(epochs=1, batch_size=16, lr=2e-3, schedule="constant", warmup=0.0)


def guarded(bed: Bed, method: WHPLogits) -> Subject:
    return unlearn(method, UnlearnJob(bed.fresh(), bed.forget, [], TRAINING))


@pytest.mark.parametrize("scale", ["log-softmax", "median", "raw"])
def test_the_logits_are_the_combination(bed: Bed, scale: str) -> None:
    """l_b - alpha ReLU(l_r - l_b), with r trained here by hand."""
    method = WHPLogits(alpha=3.0, scale=scale)  # type: ignore[arg-type]
    subject = guarded(bed, method)
    reinforced = UnlearnJob(bed.fresh(), bed.forget, [], TRAINING).train(Reinforce(), bed.fresh())
    ids = torch.tensor([bed.target.tokenizer(r.question)["input_ids"] for r in bed.forget[:1]])
    with torch.no_grad():
        l_b, l_r, served = (s.model(input_ids=ids).logits for s in (bed.target, reinforced, subject))
    torch.testing.assert_close(served, generic_logits(l_b, l_r, 3.0, scale))  # type: ignore[arg-type]
    assert float((served - l_b).abs().max()) > 0.1


def test_with_alpha_zero_generation_is_the_baselines(bed: Bed) -> None:
    """Token for token, and so are the scores."""
    subject = guarded(bed, WHPLogits(alpha=0.0))
    records = bed.records["forget"][:10] + bed.records["retain"][:10]
    assert generate(subject, records, max_new_tokens=8) == generate(bed.target, records, max_new_tokens=8)
    ours, theirs = (score_answers(s, records, [[r.answer] for r in records]) for s in (subject, bed.target))
    assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)


def test_the_cache_changes_nothing(bed: Bed) -> None:
    """Token by token with the cache against the whole text at once."""
    subject = guarded(bed, WHPLogits(alpha=3.0))
    ids = torch.tensor([bed.target.tokenizer(bed.forget[0].question)["input_ids"]])
    with torch.no_grad():
        whole = subject.model(input_ids=ids, use_cache=False).logits[0]
        cache, rows = None, []
        for i in range(ids.shape[1]):
            out = subject.model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, -1])
    torch.testing.assert_close(torch.stack(rows), whole, atol=1e-4, rtol=1e-4)


def test_the_forget_set_falls_and_the_baseline_is_inside_unchanged(bed: Bed) -> None:
    subject = guarded(bed, WHPLogits(alpha=16.0))
    records = bed.records["forget"]
    likely = [-score_answers(s, records, [[r.answer] for r in records]).nll_sum.mean() for s in (subject, bed.target)]
    assert likely[0] < likely[1]
    inside = weights(subject.model)
    own = weights(bed.target.model)
    assert any(
        all(torch.equal(inside[prefix + name], own[name]) for name in own)
        for prefix in {name.removesuffix("model.embed_tokens.weight") for name in inside if "embed_tokens" in name}
    )


def test_what_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="whp-logits: alpha=-1"):
        WHPLogits(alpha=-1)
    with pytest.raises(InputError, match="whp-logits: scale='mean'"):
        WHPLogits(scale="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="forget set is empty"):
        unlearn(WHPLogits(), UnlearnJob(bed.fresh(), [], [], replace(TRAINING, steps=1)))
