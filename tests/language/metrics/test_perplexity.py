"""Perplexity of whole texts: against the definition, token by token, over one window and several."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.insertion import ControlledInsertion
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics.perplexity import Perplexity, perplexity, rolling
from expunge.language.subject import Subject
from tiny_insertion import background, few

TEXTS = ["note 3 goes west past gate 24 and ends", "a", "word1 of page 2  and\nmore"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    insertion = ControlledInsertion(background(60), few(6), {0: 2, 1: 2}, 40)
    return InsertionWorld(insertion, hidden=16, layers=1, vocabulary=320).base_subject()


def by_hand(subject: Subject, text: str, width: int) -> float:
    """Each token from at most `width` tokens of its own window and the one before the window."""
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    total = 0.0
    for start in range(0, len(ids), width):
        piece = [ids[start - 1] if start else subject.tokenizer.bos_token_id, *ids[start : start + width]]
        with torch.no_grad():
            logp = subject.model(torch.tensor([piece])).logits[0].double().log_softmax(-1)
        total += sum(float(logp[i, t]) for i, t in enumerate(piece[1:]))
    return total


@pytest.mark.parametrize("longest", [128, 6])
def test_every_token_counts_once_and_no_end_of_sequence(subject: Subject, longest: int) -> None:
    likelihood, sizes = rolling(replace(subject, max_length=longest), TEXTS)
    assert likelihood == pytest.approx([by_hand(subject, t, longest - 1) for t in TEXTS], abs=1e-4)
    assert sizes.tokens.tolist() == [len(subject.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS]
    assert sizes.words.tolist() == [9, 1, 6]
    assert sizes.bytes.tolist() == [len(t) for t in TEXTS]


def test_perplexity_is_of_all_texts_together() -> None:
    """Two bytes of probability 1/4 in all and one of 1/2: exp((2 ln 2 + ln 2) / 3) = 2, not the mean of 2 and 2."""
    assert perplexity(np.log([0.25, 0.5]), np.array([2.0, 1.0])) == pytest.approx(2)
    assert perplexity(np.log([0.25, 0.5]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(8))


def test_findings(subject: Subject) -> None:
    records = [Record("note 3", " goes west past gate 24 and ends", "x"), Record("", "a", "y")]
    store = EvidenceStore("npo", subject, {"forget": records, "empty": []})
    found = {f.metric: f for f in Perplexity(("forget",)).measure(store, None)}
    assert list(found) == ["hubble.nll", "hubble.word_perplexity", "hubble.byte_perplexity"]
    ll, sizes = rolling(subject, TEXTS[:2])  # question and answer are one text
    assert found["hubble.nll"].value == pytest.approx(float(np.mean(-ll / sizes.tokens)))
    assert found["hubble.byte_perplexity"].value == pytest.approx(math.exp(-ll.sum() / sizes.bytes.sum()))
    assert found["hubble.word_perplexity"].value == pytest.approx(math.exp(-ll.sum() / 10))
    for finding in found.values():
        assert finding.low <= finding.value <= finding.high
        assert (finding.n, finding.direction, finding.subject) == (2, "match-gold", "npo")
    with pytest.raises(InputError, match="Split 'empty' has no records"):
        Perplexity(("empty",)).measure(store, None)
    with pytest.raises(InputError, match="text 1 has no token"):
        rolling(subject, [""])


def test_units(subject: Subject) -> None:
    store = EvidenceStore("npo", subject, {"forget": [Record("", "a")]})
    assert [f.metric for f in Perplexity(("forget",), ("byte",)).measure(store, None)] == [
        "hubble.nll",
        "hubble.byte_perplexity",
    ]
    with pytest.raises(InputError, match="units="):
        Perplexity(units=("letter",))
