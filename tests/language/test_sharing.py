"""Answers that share their prompt in one row get exactly the scores they get in rows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from expunge.language import score as scoring
from expunge.language.data import Record
from expunge.language.encode import Encoded, collate, join
from expunge.language.forward import ForwardPass
from expunge.language.score import score_answers
from expunge.language.sharing import TreePass, pack, places, takes_trees
from tiny_bed import Bed
from tiny_models import VOCABULARY, sequences, tiny


def branching() -> tuple[Encoded, list[int]]:
    """Records 0, 2 and 5: three answers to a prompt of five tokens, one alone, two that begin alike."""
    prompt = [5, 6, 7, 8, 9]
    rows = [
        (0, [*prompt, 10, 11, 2], 5), (0, [*prompt, 12, 2], 5), (0, [*prompt, 10, 13, 14, 15, 2], 5),
        (2, [20, 21, 22, 2], 2),
        (5, [30, 31, 9, 8, 2], 2), (5, [30, 31, 9, 7, 2], 3),
    ]  # fmt: skip
    parts = [Encoded(torch.tensor(r), torch.tensor([0, len(r)]), torch.tensor([start])) for _, r, start in rows]
    return join(parts), [owner for owner, _, _ in rows]


def test_a_row_is_the_common_beginning_and_the_branches() -> None:
    """The last prompt token opens each branch: its prediction is the branch's first label."""
    packed = pack(*branching())
    assert packed.lengths.tolist() == [4 + 4 + 3 + 6, 4, 1 + 4 + 4]
    first = slice(0, 17)
    assert packed.ids[first].tolist() == [5, 6, 7, 8, 9, 10, 11, 2, 9, 12, 2, 9, 10, 13, 14, 15, 2]
    assert packed.branch[first].tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 6
    assert packed.position[first].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    assert packed.place[first].tolist() == [-1] * 4 + [-1, 0, 1, 2] + [-1, 3, 4] + [-1, 5, 6, 7, 8, 9]


def test_every_label_has_one_place() -> None:
    encoded, owners = branching()
    packed = pack(encoded, owners)
    found = torch.cat([places(packed, torch.tensor([2, 0])), places(packed, torch.tensor([1]))])
    assert found.sort().values.tolist() == list(range(int(encoded.counts.sum())))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@torch.no_grad()
def test_logits_equal_those_of_rows_of_their_own(family: str, attention: str) -> None:
    model = tiny(family, attn_implementation=attention).double()
    assert takes_trees(model)
    encoded, owners = branching()
    packed = pack(encoded, owners)
    rows = torch.tensor([1, 0, 2])  # any order, padded to the longest
    tree = TreePass(model, packed, rows)
    plain = ForwardPass(model, collate(encoded, torch.arange(6)), (1, 1))
    place = places(packed, rows)
    exact = 1e-5 if attention == "eager" else 1e-10  # the library's eager attention takes its softmax in float32
    torch.testing.assert_close(tree.logits, plain.logits[place], atol=exact, rtol=0)
    assert torch.equal(tree.labels, plain.labels[place])


@torch.no_grad()
def test_branches_do_not_see_each_other() -> None:
    """Another first answer changes no score of the others, bit for bit."""
    model = tiny().double()
    encoded, owners = branching()
    other = encoded._replace(ids=encoded.ids.clone())
    other.ids[5:8] = torch.tensor([33, 34, 35])
    found = [TreePass(model, pack(e, owners), torch.tensor([0])).logits for e in (encoded, other)]
    assert not torch.equal(found[0][:3], found[1][:3])
    assert torch.equal(found[0][3:], found[1][3:])


WINDOWED: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (tiny("gemma2"), "sliding windows on every other layer, wider than the example"),
        (tiny("qwen2", **WINDOWED), "sliding windows on all layers"),
        (tiny().bfloat16(), "half precision"),
    ],
)
def test_models_that_do_not_take_trees_are_found_out(model: Any, why: str) -> None:
    assert not takes_trees(model), why


def test_a_model_that_ignores_positions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried, not guessed: a model that counts positions by itself computes something else from a tree row."""
    model = tiny()
    forward = model.forward

    def counting(position_ids: Any = None, **inputs: Any) -> Any:
        return forward(**inputs)

    assert takes_trees(model)
    monkeypatch.setattr(model, "forward", counting)
    assert not takes_trees(model)


def test_scores_are_the_same_with_and_without_sharing(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*bed.forget[:7], Record("", "plain words without a question")]
    answers = [[r.answer, *r.perturbed_answers[: i % 4]] for i, r in enumerate(rows)]
    passes: list[int] = []
    real = TreePass._forward
    monkeypatch.setattr(TreePass, "_forward", lambda self: (passes.append(1), real(self))[1])
    shared = score_answers(bed.gold, rows, answers, batch_tokens=256)
    assert len(passes) > 1
    monkeypatch.setattr(scoring, "takes_trees", lambda model: False)
    passes.clear()
    plain = score_answers(bed.gold, rows, answers)
    assert passes == []
    assert np.array_equal(shared.offsets, plain.offsets)
    assert np.array_equal(shared.has_eos, plain.has_eos)
    for name in ("logprob", "mean", "variance"):
        assert np.allclose(getattr(shared, name), getattr(plain, name), atol=1e-4), name
    assert (shared.hit == plain.hit).all()


def test_single_answers_are_not_packed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "takes_trees", lambda model: pytest.fail("nothing to share"))
    score_answers(bed.gold, bed.forget[:3], [[r.answer] for r in bed.forget[:3]])


def test_unrelated_sequences_share_nothing() -> None:
    encoded = sequences(6)
    packed = pack(encoded, list(range(6)))
    assert torch.equal(packed.ids, encoded.ids)
    assert torch.equal(packed.offsets, encoded.offsets)
    assert int(packed.ids.max()) < VOCABULARY
    assert bool((packed.branch == 1).all())
