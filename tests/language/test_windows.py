"""Windows of raw text: every token once, the last one filled as published, fed as they were cut."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.language.encode import encode
from expunge.language.windows import Window, windows
from tiny_bed import Bed

TEXTS = ["Where was Ridos Nosava born?", "In Zomarar, they say, and Belin Tirak too."]


def test_every_token_once_and_the_last_window_is_filled_from_the_first(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    tokens = tokenizer("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]
    found = windows(tokenizer, TEXTS, 9)
    begin = tokenizer.bos_token_id
    assert all(len(w.ids) == 9 and w.ids[0] == begin for w in found)
    text = [t for w in found for t in w.ids[1:]]
    assert text[: len(tokens)] == tokens
    rest = len(found) * 8 - len(tokens)
    assert list(found[-1].ids[9 - rest :]) == [begin, *tokens][:rest]


def test_as_open_unlearning_cuts_them_the_last_stays_short(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    tokens = tokenizer("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]
    found = windows(tokenizer, TEXTS, 8, "open-unlearning")
    assert len(found) == -(-len(tokens) // 8)
    assert found[-1].answer == tokenizer.decode(tokens[8 * (len(found) - 1) :])


def test_a_window_is_fed_as_it_was_cut(bed: Bed) -> None:
    """No end of sequence behind it, all tokens but the first are labels, and another tokenizer is refused."""
    subject = bed.target
    found = windows(subject.tokenizer, TEXTS, 9)
    encoded = encode([*found], subject.tokenizer, subject.template, max_length=9)
    assert encoded.ids.tolist() == [t for w in found for t in w.ids]
    assert encoded.label_start.tolist() == [1] * len(found)
    with pytest.raises(InputError, match="a window of 9 tokens does not fit into max_length=8"):
        encode([*found], subject.tokenizer, subject.template, max_length=8)
    other = Window("", "something else", ids=found[0].ids)
    with pytest.raises(InputError, match="cut with another tokenizer"):
        encode([other], subject.tokenizer, subject.template, max_length=9)


def test_what_cannot_be_cut_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="window=1: a window needs at least 2 tokens"):
        windows(bed.target.tokenizer, TEXTS, 1)
    with pytest.raises(InputError, match="no text of at least two tokens"):
        windows(bed.target.tokenizer, [""], 8)
