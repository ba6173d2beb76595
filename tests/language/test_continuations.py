"""Log-likelihoods of continuations: where the border lies, what is cut, and that sharing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.language.continuations import continuation_scores, encode_pairs, prefix_token, score_tokens, split_pairs
from tiny_bed import Bed


def by_hand(bed: Bed, head: list[int], tail: list[int]) -> tuple[float, bool]:
    """One row alone through the model, token by token."""
    ids = torch.tensor([head + tail])
    with torch.no_grad():
        logp = bed.target.model(ids).logits[0].double().log_softmax(-1)
    places = range(len(head) - 1, len(head) + len(tail) - 1)
    return sum(float(logp[p, t]) for p, t in zip(places, tail, strict=True)), all(
        int(logp[p].argmax()) == t for p, t in zip(places, tail, strict=True)
    )


PAIRS = [
    ("Question: Where was Ridos born?\nAnswer:", " Zomarar"),
    ("Question: Where was Ridos born?\nAnswer:", " No"),
    ("Name", " it"),
    ("Question: Where was Ridos born?\nAnswer:", " Zomarar, I think"),
    ("", "Question"),
]


def test_scores_are_those_of_rows_of_their_own(bed: Bed) -> None:
    sums, exact = continuation_scores(bed.target, PAIRS)
    for (head, tail), value, greedy in zip(split_pairs(bed.target.tokenizer, PAIRS), sums, exact, strict=True):
        expected = by_hand(bed, head, tail)
        assert value == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_a_known_answer_is_greedy_and_a_false_one_is_not(bed: Bed) -> None:
    records = bed.records["retain"][:6]
    prompts = [bed.target.template.generation_prompt(r, bed.target.tokenizer) for r in records]
    right = [(p, f" {r.answer}") for p, r in zip(prompts, records, strict=True)]
    wrong = [(p, f" {r.perturbed_answers[0]}") for p, r in zip(prompts, records, strict=True)]
    sums, exact = continuation_scores(bed.target, right + wrong)
    assert exact.tolist() == [True] * 6 + [False] * 6
    assert (sums[:6] > sums[6:]).all()


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(bed: Bed) -> None:
    a, b = split_pairs(bed.target.tokenizer, [("Answer: ", "Zomarar"), ("Answer:", " Zomarar")])
    assert a == b


def test_an_empty_context_is_the_prefix_token(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    assert prefix_token(tokenizer) == tokenizer.bos_token_id
    ((head, tail),) = split_pairs(tokenizer, [("", "Where")])
    assert head == [tokenizer.bos_token_id]
    assert tail == tokenizer("Where", add_special_tokens=False)["input_ids"]


def test_a_context_that_begins_with_the_begin_token_gets_no_second_one(bed: Bed) -> None:
    a, b = split_pairs(bed.target.tokenizer, [("<bos>Answer:", " x"), ("Answer:", " x")])
    assert a == b


def test_what_is_too_long_loses_its_beginning() -> None:
    """Rows of at most 5 tokens: the last 5 of 3 + 4, of which the last 4 are labels; 3 + 1 fits."""
    encoded = encode_pairs([([1, 2, 3], [4, 5, 6, 7]), ([1, 2, 3], [9])], 5)
    assert encoded.ids.tolist() == [3, 4, 5, 6, 7, 1, 2, 3, 9]
    assert encoded.offsets.tolist() == [0, 5, 9]
    assert encoded.label_start.tolist() == [1, 3]
    assert encode_pairs([([1, 2], [3, 4, 5])], 3).label_start.tolist() == [1]  # position 0 has no predictor


def test_sharing_a_context_changes_nothing(bed: Bed) -> None:
    tokens = split_pairs(bed.target.tokenizer, PAIRS[:2] + PAIRS[3:4] + PAIRS[2:3])
    shared, alone = (score_tokens(bed.target, tokens, share=share) for share in (True, False))
    np.testing.assert_allclose(shared.nll_sum, alone.nll_sum, atol=1e-4)


def test_small_batches_change_nothing(bed: Bed) -> None:
    sums, _ = continuation_scores(bed.target, PAIRS)
    np.testing.assert_allclose(continuation_scores(bed.target, PAIRS, batch_tokens=16)[0], sums, atol=1e-4)


def test_a_continuation_of_no_token_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="Continuation 2: '' adds no token of its own"):
        continuation_scores(bed.target, [("a", " b"), ("a", "")])
    assert continuation_scores(bed.target, [])[0].tolist() == []


def test_the_mode_of_the_model_is_restored(bed: Bed) -> None:
    subject = bed.fresh()
    subject.model.train()
    continuation_scores(subject, PAIRS)
    assert subject.model.training
