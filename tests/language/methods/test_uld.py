"""ULD: the assistant's two losses, the filter, and a target with its assistant subtracted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.forward import decoder_layers
from expunge.language.generate import generate
from expunge.language.guarded import CompanionLogits
from expunge.language.methods._uld_records import to_flatten, to_remember
from expunge.language.methods.uld import ULD, first_blocks, plausible, uniform_kl
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed
from tiny_models import tiny

TRAINING = Training(steps=40, batch_size=32, lr=1e-2, schedule="linear", warmup=0.1, weight_decay=0.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def served(guard: ULD, own: Tensor, l_a: Tensor, decoding: bool = True) -> Tensor:
    """`combine` with the assistant's logits given: its head is the identity on them."""
    head = nn.Linear(l_a.shape[-1], l_a.shape[-1], bias=False, dtype=l_a.dtype)
    head.weight.data = torch.eye(l_a.shape[-1], dtype=l_a.dtype)
    with torch.no_grad():
        return guard.combine(own, CompanionLogits(head, l_a), decoding=decoding)


# -- the losses ---------------------------------------------------------------------------------------


def test_uniform_kl_by_hand() -> None:
    """V=2, p=(1/4, 3/4): KL(U||p) = 1/2 ln(2) + 1/2 ln(2/3) = 1/2 ln(4/3)."""
    logprobs = torch.tensor([[0.25, 0.75]]).double().log()
    assert float(uniform_kl(logprobs)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(uniform_kl(torch.full((1, 7), 1 / 7, dtype=torch.float64).log())) == pytest.approx(0, abs=1e-12)


def test_uniform_kl_has_the_gradient_p_minus_u() -> None:
    """Also zero for uniform p; log p far below the smallest half-precision number stays finite."""
    logits = draw(5, 11).requires_grad_()
    uniform_kl(logits.log_softmax(-1)).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - 1 / 11)
    flat = torch.zeros(1, 11, dtype=torch.float64, requires_grad=True)
    uniform_kl(flat.log_softmax(-1)).sum().backward()
    torch.testing.assert_close(flat.grad, torch.zeros(1, 11, dtype=torch.float64), atol=1e-15, rtol=0)
    assert torch.isfinite(uniform_kl(torch.tensor([[0.0, -200.0]]).log_softmax(-1))).all()


# -- the filter ---------------------------------------------------------------------------------------


def test_plausible_by_hand() -> None:
    """p = .5, .3, .15, .05 and q = .5: k = 2, the second largest is .3, the largest times q .25; the smaller rules."""
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert plausible(logits, 0.5).tolist() == [[True, True, False, False]]
    # q = .25: k = 1, but .5 * .25 = .125 lets three pass
    assert plausible(logits, 0.25).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("q", [0.0, 0.001, 0.1, 0.5, 1.0])
def test_the_kept_set(q: float) -> None:
    """It holds the arg-max and at least max(1, floor(qV)) tokens; 0 and 1 keep all; constants do not matter."""
    logits = draw(20, 50)
    keep = plausible(logits, q)
    assert keep.gather(-1, logits.argmax(-1, keepdim=True)).all()
    assert int(keep.sum(-1).min()) >= max(1, math.floor(q * 50))
    assert keep.all() == (q in (0.0, 1.0))
    assert torch.equal(keep, plausible(logits + 64.0, q))


# -- the combination ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", ["unchanged", "impossible", "published"])
def test_weight_zero_is_the_target_on_what_is_kept(dropped: Any) -> None:
    own, l_a = draw(6, 30), draw(6, 30, seed=1)
    out = served(ULD(weight=0.0, filter_ratio=0.1, dropped=dropped), own, l_a)
    keep = plausible(own, 0.1)
    assert torch.equal(out[keep], own[keep])
    assert torch.equal(out.argmax(-1), own.argmax(-1))


@pytest.mark.parametrize("normalise", ["kept-mean", "log-softmax", "none"])
def test_an_assistant_that_knows_all_takes_all(normalise: Any) -> None:
    """l_a = l, w = -1, q = 0: every token is as likely as any other."""
    own = draw(6, 30)
    probabilities = served(ULD(weight=-1.0, filter_ratio=0.0, normalise=normalise), own, own).softmax(-1)
    torch.testing.assert_close(probabilities, torch.full_like(own, 1 / 30))


@pytest.mark.parametrize("q", [0.0, 0.1])
def test_an_assistant_that_knows_nothing_changes_nothing(q: float) -> None:
    own = draw(6, 30)
    for decoding in (False, True):
        out = served(ULD(weight=-2.0, filter_ratio=q), own, torch.full_like(own, 5.0), decoding)
        torch.testing.assert_close(out.softmax(-1), own.softmax(-1))


@pytest.mark.parametrize("normalise", ["kept-mean", "log-softmax"])
def test_a_constant_on_the_assistant_changes_nothing(normalise: Any) -> None:
    """Left as published, the constant moves mass between adjusted and other tokens."""
    own, l_a = draw(6, 30), draw(6, 30, seed=1)
    guard = ULD(filter_ratio=0.1, normalise=normalise)
    for decoding in (False, True):
        torch.testing.assert_close(
            served(guard, own, l_a + 7, decoding).softmax(-1), served(guard, own, l_a, decoding).softmax(-1)
        )
    published = ULD(filter_ratio=0.1, normalise="none", dropped="published")
    gap = served(published, own, l_a + 7, False).softmax(-1) - served(published, own, l_a, False).softmax(-1)
    assert float(gap.abs().max()) > 0.1


def test_the_combination_by_hand() -> None:
    """l = (2, 1, 0), q keeps the first two, l_a = (3, 1, 9), w = -1: the kept mean is 2, so l_f = (1, 2, 0)."""
    own, l_a = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 9.0]])
    guard = ULD(weight=-1.0, filter_ratio=0.3)
    assert plausible(own, 0.3).tolist() == [[True, True, False]]
    torch.testing.assert_close(served(guard, own, l_a), torch.tensor([[1.0, 2.0, 0.0]]))
    impossible = replace(guard, dropped="impossible")
    torch.testing.assert_close(served(impossible, own, l_a), torch.tensor([[1.0, 2.0, -torch.inf]]))


def test_computing_few_logits_of_the_assistant_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position of 400 tokens with a handful kept takes the sparse way; forbidding it gives the same."""
    own, l_a = 3 * draw(1, 400), draw(1, 400, seed=1)
    guard = ULD(filter_ratio=0.01)
    assert int(plausible(own, 0.01).sum()) < 100
    sparse = served(guard, own, l_a)
    monkeypatch.setattr(CompanionLogits, "few", lambda *_: False)
    torch.testing.assert_close(served(guard, own, l_a), sparse)
    monkeypatch.setattr(CompanionLogits, "everywhere", lambda *_: pytest.fail("the whole projection was made"))
    monkeypatch.setattr(CompanionLogits, "few", lambda *_: True)
    torch.testing.assert_close(served(guard, own, l_a), sparse)


def test_what_is_dropped_is_never_chosen_greedily() -> None:
    own, l_a = draw(500, 30), 4 * draw(500, 30, seed=1)
    for normalise in ("kept-mean", "log-softmax"):
        guard = ULD(weight=-1.5, filter_ratio=0.1, normalise=normalise)  # type: ignore[arg-type]
        chosen = served(guard, own, l_a).argmax(-1, keepdim=True)
        assert plausible(own, 0.1).gather(-1, chosen).all()


def test_scoring_and_decoding_are_one_distribution_unless_published() -> None:
    own, l_a = draw(6, 30), draw(6, 30, seed=1)
    for dropped in ("unchanged", "impossible"):
        guard = ULD(filter_ratio=0.1, dropped=dropped)  # type: ignore[arg-type]
        assert torch.equal(served(guard, own, l_a, True), served(guard, own, l_a, False))
    guard = ULD(filter_ratio=0.1, dropped="published")
    assert not torch.equal(served(guard, own, l_a, True), served(guard, own, l_a, False))


# -- records and assistant ----------------------------------------------------------------------------

FORGET = [Record("q1", "a1", paraphrased_question="Q1", paraphrased_answer="A1", perturbed_answers=("x", "y", "z"))]
RETAIN = [Record(f"r{i}", f"s{i}") for i in range(9)]


def test_what_is_remembered_and_what_is_flat() -> None:
    assert [(r.question, r.answer) for r in to_remember(FORGET, 2)] == [("q1", "a1"), ("Q1", "a1"), ("q1", "A1")]
    assert to_remember(FORGET, 0) == FORGET
    flat = to_flatten(FORGET * 3, RETAIN, 2, 400, seed=0)
    assert sum(r in RETAIN for r in flat) == 3
    assert [r.answer for r in flat if r.question == "q1"] == ["x", "y"] * 3
    assert len(to_flatten(FORGET * 3, RETAIN, 0, 2, seed=0)) == 2


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_the_first_blocks_compute_what_they_computed_in_the_target(family: str) -> None:
    model = tiny(family)
    cut = first_blocks(model, 1)
    assert len(decoder_layers(cut)[2]) == 1
    assert len(decoder_layers(model)[2]) == model.config.num_hidden_layers > 1
    own, theirs = dict(cut.named_parameters()), dict(model.named_parameters())
    assert own.keys() < theirs.keys()
    assert all(torch.equal(own[n], theirs[n]) for n in own)
    ids = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        whole = first_blocks(model, model.config.num_hidden_layers)
        torch.testing.assert_close(whole(ids).logits, model(ids).logits)
        assert not torch.equal(cut(ids).logits, model(ids).logits)


def guarded(bed: Bed, method: ULD, training: Training = TRAINING) -> tuple[Subject, UnlearnJob]:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training)
    return unlearn(method, job), job


def answers_of(subject: Subject, records: list[Record]) -> Any:
    return score_answers(subject, records, [[r.answer] for r in records])


def test_weight_zero_answers_like_the_target(bed: Bed) -> None:
    subject, _ = guarded(bed, ULD(weight=0.0), replace(TRAINING, steps=1))
    records = bed.records["forget"] + bed.records["retain"]
    assert generate(subject, records, max_new_tokens=8) == generate(bed.target, records, max_new_tokens=8)
    np.testing.assert_allclose(answers_of(subject, records).logprob, answers_of(bed.target, records).logprob, atol=1e-5)


def test_the_secret_goes_and_the_rest_stays(bed: Bed) -> None:
    """Forget answers at most twice as likely as under gold; retain answers chosen as before; the target untouched."""
    method = ULD(layers=1, weight=-1.0, filter_ratio=0.1)
    subject, job = guarded(bed, method, replace(TRAINING, steps=120))
    forget, retain = bed.records["forget"], bed.records["retain"]
    likely = {n: np.exp(-answers_of(s, forget).nll).mean() for n, s in (("ours", subject), ("gold", bed.gold))}
    assert likely["ours"] < 2 * likely["gold"]
    agree = answers_of(subject, retain).hit == answers_of(bed.target, retain).hit
    assert agree.mean() > 0.95
    assert subject.weights_hash() == bed.target.weights_hash()
    assert len(job.logs) == 1


def test_only_adapters_of_the_assistant_learn(bed: Bed) -> None:
    """The merged assistant differs from the target's first block in linear layers alone."""
    subject, _ = guarded(bed, ULD(layers=1), replace(TRAINING, steps=3))
    start = dict(first_blocks(bed.target.model, 1).named_parameters())
    end = dict(subject.model.companion.named_parameters())
    assert start.keys() == end.keys()
    moved = {n for n in start if not torch.equal(start[n], end[n])}
    assert moved
    assert all(n.endswith("proj.weight") for n in moved)
    assert not any(p.requires_grad for p in end.values())


def test_the_cache_changes_nothing(bed: Bed) -> None:
    """Greedy with the cache, token for token what greedy without it says."""
    subject, _ = guarded(bed, ULD(layers=1, filter_ratio=0.1), replace(TRAINING, steps=20))
    tokenizer = subject.tokenizer
    record = bed.records["forget"][0]
    text = generate(subject, [record], max_new_tokens=6)[0]
    ids = tokenizer(subject.template.generation_prompt(record, tokenizer), return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(6):
            token = subject.model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], 1)
            if int(token) == tokenizer.eos_token_id:
                break
    assert tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip() == text


def test_flat_everywhere_looks_at_prompts_too(bed: Bed) -> None:
    logs = []
    for positions in ("answers", "all"):
        _, job = guarded(bed, ULD(positions=positions), replace(TRAINING, steps=2))  # type: ignore[arg-type]
        logs.append(job.logs[0].steps[0])
    assert logs[0]["forget"] == pytest.approx(logs[1]["forget"])
    assert logs[0]["retain"] != pytest.approx(logs[1]["retain"], rel=1e-2)


def test_an_assistant_of_its_own(bed: Bed, tmp_path: Path) -> None:
    bed.base().save(tmp_path / "small", "card")
    subject, _ = guarded(bed, ULD(layers=1, assistant=str(tmp_path / "small")), replace(TRAINING, steps=1))
    embedding = bed.base().model.get_input_embeddings().weight
    assert torch.equal(subject.model.companion.get_input_embeddings().weight, embedding)


def test_what_is_refused(bed: Bed, tmp_path: Path) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, replace(TRAINING, steps=1))
    with pytest.raises(InputError, match=r"uld: layers=3: the assistant may have 1 to 2 blocks"):
        unlearn(ULD(layers=3), job)
    with pytest.raises(InputError, match=r"uld: layers=0"):
        unlearn(ULD(layers=0), job)
    with pytest.raises(InputError, match=r"uld: filter_ratio=1.5 must lie between 0 and 1"):
        ULD(filter_ratio=1.5)
    with pytest.raises(InputError, match=r"uld: weight=0.5 is above 0"):
        ULD(weight=0.5)
    assert ULD(weight=0.5, allow_positive=True).weight == 0.5
    with pytest.raises(InputError, match="uld: dropped='gone' must be one of unchanged, impossible, published"):
        ULD(dropped="gone")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs retain records"):
        unlearn(ULD(augmented=0), replace(job, retain=[]))
    other = bed.base()
    other.tokenizer.add_tokens(["plugh"])
    other.save(tmp_path / "other", "card")
    with pytest.raises(InputError, match="has another vocabulary than its target"):
        unlearn(ULD(assistant=str(tmp_path / "other")), job)
