"""Generic labels: the equation, its limits, the two fixes for consistency, and labels of whole blocks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.language.anchor_proposals import propose_anchors
from expunge.language.anchors import Anchors
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.generic_labels import (
    Generic,
    Scale,
    divergence,
    generic_labels,
    generic_logits,
    lower_used,
    reinforcement,
)
from expunge.language.relabelled import NO_LABEL
from expunge.language.subject import Subject
from expunge.language.text_blocks import Block, make_blocks
from expunge.language.translated_blocks import repeated_starts, translate_block
from saga import word_tokenizer
from tiny_bed import Bed
from tiny_models import tiny

SCALES: tuple[Scale, ...] = ("log-softmax", "median", "raw")
TEXT = "Zork went to Plonk and saw Zork in Rome"
SAGA = Anchors({"Zork": ["Jon", "Tom"], "Plonk": ["Paris", "Oslo"]})


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the equation -------------------------------------------------------------------------------------


def test_the_hand_case() -> None:
    """v_r - v_b = [1, 0, -1], so only the first token is pushed down: 2 - 5 * 1 = -3."""
    v_b, v_r = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, -1.0])
    v_gen = generic_logits(v_b, v_r, alpha=5.0, scale="raw")
    assert v_gen.tolist() == [-3.0, 1.0, 0.0]
    assert int(v_gen.argmax()) == 1


def test_the_hand_case_by_log_probabilities() -> None:
    """log p_r - log p_b = [1, 0, -1] - log(Z_r / Z_b), Z_b = e^2 + e + 1, Z_r = e^3 + e + 1/e."""
    v_b, v_r = torch.tensor([2.0, 1.0, 0.0]).double(), torch.tensor([3.0, 1.0, -1.0]).double()
    e = math.e
    shift = math.log((e**3 + e + 1 / e) / (e**2 + e + 1))
    expected = torch.tensor([2 - 5 * (1 - shift), 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(generic_logits(v_b, v_r, 5.0, "log-softmax"), expected)
    torch.testing.assert_close(generic_logits(v_b, v_r, 5.0, "median"), torch.tensor([-3.0, 1.0, 0.0]).double())


@pytest.mark.parametrize("scale", SCALES)
def test_limits(scale: Scale) -> None:
    """alpha = 0, and r = b for any alpha, give v_b itself."""
    v_b, v_r = normal(4, 11, seed=0), normal(4, 11, seed=1)
    assert torch.equal(generic_logits(v_b, v_r, 0.0, scale), v_b)
    assert torch.equal(generic_logits(v_b, v_b, 7.0, scale), v_b)


def test_raw_where_reinforcement_raises_nothing() -> None:
    v_b = normal(4, 11, seed=0)
    assert torch.equal(generic_logits(v_b, v_b - normal(4, 11, seed=1).abs(), 7.0, "raw"), v_b)


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_raised_and_more_alpha_pushes_further(scale: Scale) -> None:
    v_b, v_r = normal(4, 11, seed=0), normal(4, 11, seed=1)
    near, far = generic_logits(v_b, v_r, 1.0, scale), generic_logits(v_b, v_r, 2.0, scale)
    assert bool((near <= v_b).all())
    torch.testing.assert_close(far - v_b, 2 * (near - v_b))


def test_a_constant_on_the_reinforced_logits() -> None:
    """A softmax does not see it, so labels must not; raw differences do, and the labels may change.

    v_b = [1, 0], v_r = [1, 0] + c: raw pushes both down by the same amount. v_b = [1, 0], v_r = [2, -1]: without
    the constant token 0 loses 1 * alpha; with c = -2 nothing is pushed down at all and the label changes.
    """
    v_b, v_r = normal(50, 11, seed=0), normal(50, 11, seed=1)
    for scale in ("log-softmax", "median"):
        for shift in (-3.0, 40.0):
            moved = generic_logits(v_b, v_r + shift, 2.0, scale)
            torch.testing.assert_close(moved, generic_logits(v_b, v_r, 2.0, scale))
    b, r = torch.tensor([1.0, 0.0]), torch.tensor([2.0, -1.0])
    labels = [int(generic_logits(b, r + shift, 2.0, "raw").argmax()) for shift in (0.0, -2.0)]
    assert labels == [1, 0]


def test_reinforcement_is_zero_on_average_or_in_the_middle() -> None:
    """sum_v p_b (p_r / p_b) = 1 by log-softmax; the median of the differences is 0 by median."""
    v_b, v_r = normal(6, 11, seed=0), normal(6, 11, seed=1)
    ratio = reinforcement(v_b, v_r, "log-softmax").exp()
    torch.testing.assert_close((v_b.softmax(-1) * ratio).sum(-1), torch.ones(6).double())
    assert reinforcement(v_b, v_r, "median").median(-1).values.abs().max().item() == 0


def test_log_probabilities_cannot_rise_above_what_the_baseline_is_sure_of() -> None:
    """p_b = 1 / (1 + 2 e^-10) of token 0; r adds 10 to its logit: log p_r - log p_b < 2 e^-10, the median gives 10."""
    v_b, v_r = torch.tensor([10.0, 0.0, 0.0]).double(), torch.tensor([20.0, 0.0, 0.0]).double()
    bound = float(-v_b.log_softmax(-1)[0])
    assert 0 < float(reinforcement(v_b, v_r, "log-softmax")[0]) < bound < 1e-4
    assert reinforcement(v_b, v_r, "median").tolist() == [10.0, 0.0, 0.0]
    assert [int(generic_logits(v_b, v_r, 5.0, s).argmax()) for s in ("log-softmax", "median")] == [0, 1]


def test_other_vocabularies_are_refused() -> None:
    with pytest.raises(InputError, match="vocabulary of 5 tokens and the reinforced model one of 6"):
        generic_logits(torch.zeros(2, 5), torch.zeros(2, 6), 1.0)


def test_divergence() -> None:
    """KL of (1/2, 1/2) from (1/4, 3/4) is 1/2 ln 2 + 1/2 ln (2/3) = ln 2 - ln 3 / 2; of equals 0."""
    v_b, v_gen = torch.zeros(2).double(), torch.tensor([0.25, 0.75]).double().log()
    assert divergence(v_b, v_gen).item() == pytest.approx(0.6931471805599453 - 1.0986122886681098 / 2)
    assert divergence(v_b, v_b + 3).item() == pytest.approx(0.0, abs=1e-15)


def test_used_substitutes_are_lowered_from_their_place_on() -> None:
    v = normal(4, 7, seed=0)
    lowered = lower_used(v, [0, 2, 5, 6], [(5, 3), (2, 1), (2, 1)], 5.0)
    expected = v.clone()
    expected[1:, 1] -= 5.0
    expected[2:, 3] -= 5.0
    assert torch.equal(lowered, expected)
    assert torch.equal(lower_used(v, [0, 2, 5, 6], [], 5.0), v)


# -- labels of blocks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject() -> Subject:
    tokenizer = word_tokenizer([TEXT, "Jon Tom Paris Oslo", "a Jon a Tom a Paris a Oslo a Zork a Plonk"] * 3)
    model = tiny(vocab_size=len(tokenizer), max_position_embeddings=64)
    return Subject(model, tokenizer, Template(), "tiny", max_length=64)


@pytest.fixture(scope="module")
def reinforced(subject: Subject) -> Subject:
    return subject.with_model(tiny(seed=1, vocab_size=len(subject.tokenizer), max_position_embeddings=64))


def blocks_of(subject: Subject) -> list[Block]:
    return make_blocks(subject, [Record("", TEXT), Record("", "Tom went to Rome"), Record("", "and Zork saw")], 64)


def greedy(subject: Subject, ids: list[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = subject.model(input_ids=torch.tensor([ids])).logits[0]
    return logits


def test_without_anchors_and_alpha_the_labels_are_greedy_predictions(subject: Subject) -> None:
    """And the same with r = b for any alpha."""
    for r, alpha in ((subject.with_model(tiny(seed=1, vocab_size=len(subject.tokenizer))), 0.0), (subject, 7.0)):
        blocks = blocks_of(subject)
        made = generic_labels(subject, r, blocks, Anchors({}), Generic(alpha=alpha))
        expected = []
        for block in blocks:
            expected += [*greedy(subject, block.ids).argmax(-1).tolist()[:-1], NO_LABEL]
        assert made.examples.targets.tolist() == expected
        assert made.labelled == 1.0
        assert made.divergence == pytest.approx(0.0, abs=1e-6)


def test_the_loss_at_the_start_is_minus_log_of_the_largest_probability(subject: Subject) -> None:
    made = generic_labels(subject, subject, blocks_of(subject), Anchors({}), Generic())
    rows = torch.arange(3)
    view = made.examples.view(subject.model, rows, (3, int(made.examples.counts.sum())), None)
    largest = torch.cat([greedy(subject, b.ids)[:-1].softmax(-1).amax(-1) for b in blocks_of(subject)])
    assert view.nll.item() == pytest.approx(float(-largest.log().mean()), rel=1e-5)


def by_hand(subject: Subject, reinforced: Subject, block: Block, how: Generic, draws: int) -> dict[int, Tensor]:
    """Distribution at each labelled position of one block, position by position."""
    found: dict[int, list[Tensor]] = {}
    left_out = repeated_starts(block, SAGA)
    v_r = greedy(reinforced, block.ids)
    for draw in range(draws):
        aligned = translate_block(subject, block, SAGA, draw)
        v_b = greedy(subject, aligned.ids)
        for i, j in aligned.pairs:
            if i in left_out or i == len(block.ids) - 1:
                continue
            v_gen = generic_logits(v_b[j], v_r[i], how.alpha, how.scale).clone()
            for token in {token for since, token in aligned.used if j >= since}:
                v_gen[token] -= how.penalty
            found.setdefault(i, []).append((v_gen / how.temperature).softmax(-1))
    return {i: torch.stack(rows).mean(0) for i, rows in found.items()}


@pytest.mark.parametrize(
    "how", [Generic(alpha=2.0), Generic(alpha=2.0, scale="median", substitutes=2), Generic(alpha=1.0, scale="raw")]
)
def test_labels_are_those_made_position_by_position(subject: Subject, reinforced: Subject, how: Generic) -> None:
    blocks = blocks_of(subject)
    made = generic_labels(subject, reinforced, blocks, SAGA, how, tokens=30)
    expected = []
    for block in blocks:
        own = by_hand(subject, reinforced, block, how, how.substitutes)
        expected += [int(own[i].argmax()) if i in own else NO_LABEL for i in range(len(block.ids))]
    assert made.examples.targets.tolist() == expected
    true = torch.cat([made.examples.encoded.ids[1:], torch.tensor([0])])
    at = made.examples.targets != NO_LABEL
    assert made.changed == pytest.approx(float((made.examples.targets != true)[at].double().mean()))
    assert made.divergence > 0


def test_soft_labels_are_the_averaged_distribution(subject: Subject, reinforced: Subject) -> None:
    how = Generic(alpha=2.0, substitutes=2, soft=True, temperature=2.0, soft_top=0)
    blocks = blocks_of(subject)
    made = generic_labels(subject, reinforced, blocks, SAGA, how, tokens=30)
    hand = [by_hand(subject, reinforced, b, how, 2) for b in blocks]
    expected = torch.stack([own[i] for own in hand for i in sorted(own)])
    soft = made.examples.soft
    assert soft is not None
    dense = torch.zeros_like(expected).scatter(1, soft.tokens, soft.probabilities)
    torch.testing.assert_close(dense, expected, atol=1e-6, rtol=1e-4)
    few = generic_labels(subject, reinforced, blocks, SAGA, replace(how, soft_top=3)).examples.soft
    assert few is not None
    assert few.tokens.shape[1] == 3
    torch.testing.assert_close(few.probabilities.sum(-1), torch.ones(len(expected)))
    assert torch.equal(few.tokens[:, 0], expected.argmax(-1))


def test_the_second_appearance_of_a_name_has_no_label(subject: Subject, reinforced: Subject) -> None:
    """ "... and saw Zork": nothing is taught at "saw", where "Zork" comes for the second time."""
    (block, *_) = blocks_of(subject)
    made = generic_labels(subject, reinforced, [block], SAGA, Generic())
    at = block.text.index(" Zork")
    place = next(i for i, (a, b) in enumerate(block.offsets) if a < b and b > at) - 1
    assert subject.tokenizer.decode([block.ids[place]]).strip() == "saw"
    assert made.examples.targets[place] == NO_LABEL
    assert made.examples.targets[place - 1] != NO_LABEL


def test_the_penalty_keeps_substitutes_from_coming_back(subject: Subject, reinforced: Subject) -> None:
    """With an endless penalty no label after the first "Jon" begins with it; without one, b itself would say so."""
    (block, *_) = blocks_of(subject)
    aligned = translate_block(subject, block, SAGA, 0)
    used = {token for _, token in aligned.used}
    eager = copy.deepcopy(subject.model)

    class Says(torch.nn.Module):
        """A head that always favours the substitutes."""

        def __init__(self, head: torch.nn.Linear) -> None:
            super().__init__()
            self.head, self.weight = head, head.weight

        def forward(self, states: Tensor) -> Tensor:
            logits: Tensor = self.head(states)
            logits[..., sorted(used)] += 100.0
            return logits

    eager.lm_head = Says(eager.lm_head)
    b = subject.with_model(eager)
    first = min(i for i, j in aligned.pairs if j >= min(since for since, _ in aligned.used))
    labels = {}
    for penalty in (0.0, 1000.0):
        made = generic_labels(b, b, [block], SAGA, Generic(penalty=penalty))
        targets = made.examples.targets
        labels[penalty] = set(targets[first:][targets[first:] != NO_LABEL].tolist())
    assert labels[0.0] <= used
    late = {token for since, token in aligned.used if since == min(s for s, _ in aligned.used)}
    assert not labels[1000.0] & late


def test_only_answers_of_questions_are_labelled(bed: Bed) -> None:
    """The question is context: labels stand where an answer token is predicted, as everywhere."""
    blocks = make_blocks(bed.target, bed.forget[:6])
    anchors = propose_anchors(bed.forget, bed.retain)
    made = generic_labels(bed.target, bed.target, blocks, anchors, Generic())
    offsets = made.examples.encoded.offsets.tolist()
    for block, start, end in zip(blocks, offsets, offsets[1:], strict=False):
        targets = made.examples.targets[start:end]
        assert bool((targets[: block.label_start - 1] == NO_LABEL).all())
        assert bool((targets[block.label_start - 1 : -1] != NO_LABEL).any())


def test_blocks_without_a_label_are_left_out(subject: Subject) -> None:
    made = generic_labels(subject, subject, blocks_of(subject), Anchors({}), Generic())
    assert len(made.examples) == 3
    unlabelled = [replace(b, label_start=len(b.ids)) if b.record == 1 else b for b in blocks_of(subject)]
    kept = generic_labels(subject, subject, unlabelled, Anchors({}), Generic())
    assert len(kept.examples) == 2
    assert kept.examples.counts.tolist() == made.examples.counts[[0, 2]].tolist()
    with pytest.raises(InputError, match="No position of the forget records got a generic label"):
        generic_labels(subject, subject, unlabelled[1:2], Anchors({}), Generic())


def test_models_of_other_vocabularies_are_refused(subject: Subject) -> None:
    other = Subject(tiny(), word_tokenizer(["something else"]), Template(), "other")
    with pytest.raises(InputError, match="different vocabularies"):
        generic_labels(subject, other, blocks_of(subject), SAGA, Generic())
    wider = subject.with_model(tiny(vocab_size=len(subject.tokenizer) + 3))
    with pytest.raises(InputError, match="they must share one"):
        generic_labels(subject, wider, blocks_of(subject), SAGA, Generic())
