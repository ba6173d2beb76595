"""EL_n: the definition by hand, and the batched pass against decoding every continuation by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded, encode
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics._continuations import continuations, texts_of
from expunge.language.metrics.extraction_likelihood import (
    ExtractionLikelihood,
    extraction_likelihood,
    leading,
    measured,
    overlap,
)
from expunge.language.subject import Subject
from stub_model import Rule, Stub
from tiny_bed import Bed

TEXT = "Where was the old house of Marat built and who keeps it now"


def tokens(bed: Bed, text: str) -> list[int]:
    """Begin of sequence, then the text."""
    found: list[int] = bed.target.tokenizer(text)["input_ids"]
    return found


def stub(bed: Bed, rule: Rule) -> Subject:
    return bed.target.with_model(Stub(rule, len(bed.target.tokenizer)))


def parrot(known: list[int], but: dict[int, int] | None = None) -> Rule:
    """Continues the known sequence by place; `but` says which token comes instead after so many tokens."""
    return lambda seen: (but or {}).get(len(seen), known[len(seen)] if len(seen) < len(known) else 2)


# -- the definition -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "n", "value"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 2, 1),
        ([9, 1, 2, 3], [1, 2, 3, 4], 2, 2 / 3),
        ([1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6], 2, 3 / 5),  # (1, 2) three times
        ([1, 2, 3, 4, 5, 6], [1, 2, 1, 2, 1, 2], 2, 1 / 5),
        ([4, 3, 2, 1], [1, 2, 3, 4], 2, 0),
        ([4, 3, 2, 1], [1, 2, 3, 4], 1, 1),
        ([1, 2], [1, 2], 3, 0),  # no n-gram
        ([], [1, 2, 3], 2, 0),
    ],
)
def test_overlap_by_hand(a: list[int], b: list[int], n: int, value: float) -> None:
    assert overlap(a, b, n) == pytest.approx(value)


def test_20_tokens_and_n_3_make_17_terms() -> None:
    """Only the continuations of 1 to 17 tokens are asked for; one perfect term of 17 makes 1/17."""
    x = list(range(20))
    nothing = {t: [99] * (20 - t) for t in range(1, 18)}
    assert extraction_likelihood(x, nothing, 3) == 0
    for t in (1, 9, 17):
        assert extraction_likelihood(x, {**nothing, t: x[t:]}, 3) == pytest.approx(1 / 17)
    with pytest.raises(KeyError):
        extraction_likelihood(x, {t: nothing[t] for t in range(1, 17)}, 3)


@pytest.mark.parametrize("length", [1, 9, 10])
def test_a_text_of_n_tokens_or_fewer_has_no_term(length: int) -> None:
    with pytest.raises(InputError, match=f"a text of {length} tokens has no term for n=10"):
        extraction_likelihood(list(range(length)), {}, 10)
    assert extraction_likelihood(list(range(11)), {1: list(range(1, 11))}, 10) == 1


# -- on models ----------------------------------------------------------------------------------------


def test_a_memorising_model_reads_1_and_1(bed: Bed) -> None:
    known = tokens(bed, TEXT)
    subject = stub(bed, parrot(known))
    for n in (1, 3, 10):
        el, ma = measured(subject, [Record("", TEXT)], n)
        assert (el.tolist(), ma.tolist()) == ([1], [1])
    assert subject.model.calls == []  # one pass under teacher forcing says it all


def test_a_token_absent_from_the_text_reads_0_and_0(bed: Bed) -> None:
    known = tokens(bed, TEXT)
    absent = next(t for t in range(3, 2000) if t not in known)
    el, ma = measured(stub(bed, lambda _: absent), [Record("", TEXT)], 2)
    assert (el.tolist(), ma.tolist()) == ([0], [0])


def test_accuracy_is_over_the_t_minus_1_predictions_after_the_first_token(bed: Bed) -> None:
    """Begin of sequence, then T tokens: missing x_0 costs nothing, missing another one 1 / (T - 1)."""
    known = tokens(bed, TEXT)
    T = len(known) - 1
    for place, share in ((1, 1.0), (2, 1 - 1 / (T - 1)), (T, 1 - 1 / (T - 1))):
        _, ma = measured(stub(bed, parrot(known, {place: 0})), [Record("", TEXT)], 2)
        assert ma[0] == pytest.approx(share)


@pytest.mark.parametrize("left", [1, 2, 3, 12])
def test_one_wrong_turn_by_hand(bed: Bed, left: int) -> None:
    """Wrong only after x_0 .. x_k, `left` tokens before the end.

    Each earlier continuation has the wrong token at its own place k + 1 - t.
    It costs the up to n n-grams of the continuation that hold it, and nothing of those that begin later.
    """
    known = tokens(bed, TEXT)
    x, n = known[1:], 3
    k = len(x) - 1 - left
    absent = next(t for t in range(3, 2000) if t not in known)
    el, _ = measured(stub(bed, parrot(known, {k + 2: absent})), [Record("", TEXT)], n)
    terms = []
    for t in range(1, len(x) - n + 1):
        grams, hit = len(x) - t - n + 1, k + 1 - t  # place of the wrong token in the continuation
        lost = sum(1 for i in range(grams) if i <= hit < i + n) if hit >= 0 else 0
        terms.append((grams - lost) / grams)
    assert el[0] == pytest.approx(np.mean(terms))
    assert el[0] < 1


def test_a_wrong_turn_behind_the_last_prefix_is_decoded_too(bed: Bed) -> None:
    """Prefixes up to T - 5 run on into the miss three tokens before the end, and past it."""
    known = tokens(bed, TEXT)
    x = known[1:]
    absent = next(t for t in range(3, 2000) if t not in known)
    subject = stub(bed, parrot(known, {len(known) - 3: absent}))
    (said,), _ = continuations(subject, [([1], x)], last=[len(x) - 5])
    assert said == {t: [*x[t:-3], absent, *x[-2:]] for t in range(1, len(x) - 4)}
    assert subject.model.calls == [1, 1]  # one row, two tokens after the miss


def test_an_end_of_sequence_ends_no_continuation(bed: Bed) -> None:
    """The text is two documents with an end of sequence between them, known by heart."""
    known = [*tokens(bed, "one two three"), 2, *tokens(bed, "four five")[1:]]
    x = known[1:]
    said, hits = continuations(stub(bed, parrot(known)), [([1], x)], last=[len(x) - 2])
    assert said[0] == {t: x[t:] for t in range(1, len(x) - 1)}
    absent = next(t for t in range(3, 2000) if t not in known)
    said, _ = continuations(stub(bed, parrot(known, {3: absent, 4: 2})), [([1], x)], last=[len(x) - 2])
    assert said[0][2] == [absent, 2, *x[4:]]
    assert all(hits[0])


def slowly(subject: Subject, before: list[int], x: list[int], t: int) -> list[int]:
    """Greedy continuation without a cache or a batch."""
    ids = before + x[:t]
    while len(ids) < len(before) + len(x):
        with torch.no_grad():
            ids.append(int(subject.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(before) + t :]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batched_pass_is_greedy_decoding_from_every_place(bed: Bed, batch: int) -> None:
    """On a trained model, which knows part of each text; texts of several lengths, short prefixes left out or not."""
    subject = bed.target
    chosen = [bed.forget[0], bed.retain[5], Record("", TEXT), Record("", "Zomarar")]
    records = [Record("", subject.template.prompt(r, None) + r.answer) if r.question else r for r in chosen]
    encoded = encode(records, subject.tokenizer, subject.template)
    texts = texts_of(encoded, 2, [1] * len(records))
    for short in (1, 4):
        last = [max(1, len(x) - short) for _, x in texts]
        found, hits = continuations(subject, texts, last=last, batch=batch)
        for (before, x), own, hit, end in zip(texts, found, hits, last, strict=True):
            assert own == {t: slowly(subject, before, x, t) for t in range(1, end + 1)}
            assert hit == [own[t][0] == x[t] if t in own else hit[t - 1] for t in range(1, len(x))]


def test_texts_are_what_follows_the_prompt_or_the_begin_of_sequence(bed: Bed) -> None:
    subject = bed.target
    asked = bed.forget[0]
    encoded = encode([asked, Record("", TEXT)], subject.tokenizer, subject.template)
    (prompt, answer), (begin, text) = texts_of(encoded, 2, [None, leading(subject)])
    assert subject.tokenizer.decode(answer).strip() == asked.answer
    assert subject.tokenizer.decode(prompt).endswith("Answer:")
    assert (begin, subject.tokenizer.decode(text)) == ([1], TEXT)
    cut = encode([Record("", TEXT)], subject.tokenizer, subject.template, max_length=6)
    assert [len(part) for part in texts_of(cut, 2, [1])[0]] == [1, 5]


def test_a_tokenizer_without_begin_of_sequence_leaves_the_first_token_unpredicted() -> None:
    encoded = Encoded(torch.tensor([5, 6, 7, 2]), torch.tensor([0, 4]), torch.tensor([1]))
    assert texts_of(encoded, 2, [0]) == [([], [5, 6, 7])]


# -- as a metric --------------------------------------------------------------------------------------


def test_one_finding_for_each_split(bed: Bed) -> None:
    """One text known by heart; of the other the model knows all but one token."""
    other = "Name the town and the year of the house that nobody has ever seen"
    texts = [tokens(bed, TEXT), tokens(bed, other)]
    slip = next(t for t in range(3, 2000) if t not in texts[1])
    rules = [parrot(texts[0]), parrot(texts[1], {9: slip})]
    subject = stub(bed, lambda seen: rules[seen[:2] == texts[1][:2]](seen))
    splits = {"forget": [Record("", TEXT)], "holdout": [Record("", other)], "retain": [Record("", TEXT)] * 2}
    store = EvidenceStore("stub", subject, splits)
    found = ExtractionLikelihood(n=3, splits=tuple(splits)).measure(store, None)
    assert {f.metric for f in found} == {"extraction_likelihood_3"}
    assert [(f.split, f.direction, f.n) for f in found] == [
        ("forget", "match-gold", 1),
        ("holdout", "match-gold", 1),
        ("retain", "higher", 2),
    ]
    assert found[0].value == found[2].value == 1
    assert 0.5 < found[1].value < 0.99


def test_short_texts_and_bad_settings_are_one_sentence(bed: Bed) -> None:
    store = EvidenceStore("target", bed.target, {"forget": [Record("", TEXT), Record("", "the")]})
    with pytest.raises(InputError, match=r"forget, record 2: a text of \d+ tokens has no term for n=10"):
        ExtractionLikelihood().measure(store, None)
    with pytest.raises(InputError, match="No split 'retain'"):
        ExtractionLikelihood(splits=("retain",)).measure(store, None)
    with pytest.raises(InputError, match="n=0 and batch=64 must be at least 1"):
        ExtractionLikelihood(n=0)
