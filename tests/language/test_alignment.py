"""Token alignment: identity, one-to-one and rising, and the position right after an anchor."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from expunge.errors import InputError
from expunge.language.alignment import Range, align, token_ranges

ZORK, JON, JO, HN, WENT, TO, PLONK, ROME, MET, BOS, EOS = range(11)


def test_identical_texts_map_as_identity() -> None:
    ids = [random.Random(0).randrange(5) for _ in range(400)]  # frequent tokens: no junk is thrown away
    assert align(ids, ids) == [(i, i) for i in range(400)]


def test_the_hand_case() -> None:
    """Zork went to Plonk . -> Jo hn went to Rome . ; both last tokens of names keep their prediction."""
    pairs = align([ZORK, WENT, TO, PLONK, EOS], [JO, HN, WENT, TO, ROME, EOS], [((0, 1), (0, 2)), ((3, 4), (4, 5))])
    assert pairs == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_a_lone_token_between_anchors_is_kept_with_the_name_before_it() -> None:
    pairs = align([ZORK, MET, PLONK, TO], [JO, HN, MET, ROME, TO], [((0, 1), (0, 2)), ((2, 3), (3, 4))])
    assert pairs == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_inside_a_name_only_the_last_token_is_aligned() -> None:
    pairs = align([BOS, TO, ZORK, ZORK, WENT, TO], [BOS, TO, JO, HN, ZORK, WENT, TO], [((2, 4), (2, 5))])
    assert pairs == [(0, 0), (1, 1), (3, 4), (4, 5), (5, 6)]


def test_a_block_that_does_not_follow_the_name_directly_is_not_extended() -> None:
    """The first token behind the name merged with it in one text only: a block further on follows no name."""
    pairs = align([ZORK, MET, WENT, TO, EOS], [JON, WENT, TO, EOS], [((0, 1), (0, 1))])
    assert pairs == [(2, 1), (3, 2), (4, 3)]


def test_single_matches_are_left_out() -> None:
    """1 stands in both, but its neighbours differ: a coincidence."""
    assert align([5, 1, 6, 8, 9], [7, 1, 2, 8, 9]) == [(3, 3), (4, 4)]
    assert align([5, 1, 6, 8, 9], [7, 1, 2, 8, 9], shortest=1) == [(1, 1), (3, 3), (4, 4)]


def test_without_anything_in_common_it_is_refused() -> None:
    with pytest.raises(InputError, match="have no block of 2 tokens in common; check the anchors"):
        align([1, 2, 3], [4, 5, 6])
    with pytest.raises(InputError, match=r"original text \(2 tokens\)"):
        align([1, 2], [2, 1])


def test_limits_leave_the_tail_of_a_cut_text_out() -> None:
    ids = list(range(10))
    assert align(ids, ids[:6], limits=(6, 6)) == [(i, i) for i in range(6)]


def test_one_to_one_and_rising_on_random_texts() -> None:
    """Random texts over few words with names of 1 to 3 tokens: every pair matches, every other token is covered."""
    rng = random.Random(1)
    for _ in range(200):
        original: list[int] = []
        translated: list[int] = []
        spans: list[tuple[Range, Range]] = []
        words = 0
        for _ in range(rng.randrange(2, 12)):
            length = rng.randrange(2, 6)
            plain = [rng.randrange(4) for _ in range(length)]
            original, translated, words = original + plain, translated + plain, words + length
            old, new = rng.randrange(1, 4), rng.randrange(1, 4)
            spans.append(((len(original), len(original) + old), (len(translated), len(translated) + new)))
            original, translated = original + [50 + rng.randrange(3)] * old, translated + [60] * new
        plain = [7, 8]
        original, translated = original + plain, translated + plain
        pairs = align(original, translated, spans)
        for (a, b), (c, d) in pairwise(pairs):
            assert a < c
            assert b < d
        lasts = {(a[1] - 1, b[1] - 1) for a, b in spans}
        assert lasts <= set(pairs)
        assert all(original[i] == translated[j] for i, j in set(pairs) - lasts)
        assert len(pairs) == words + len(plain) + len(spans)


def test_token_ranges() -> None:
    """ "a Zork in Plonk": BOS, "a", " Zo", "rk", " in", " Plonk", EOS."""
    offsets = [(0, 0), (0, 1), (1, 4), (4, 6), (6, 9), (9, 15), (15, 15)]
    assert token_ranges(offsets, [(2, 6), (10, 15)]) == [(2, 4), (5, 6)]
    assert token_ranges(offsets[:5], [(2, 6), (10, 15)]) == [(2, 4)]  # the second one was cut off
    assert token_ranges(offsets[:3], [(2, 6)]) == []  # and here a part of the first
    assert token_ranges([(0, 4)], [(0, 2), (2, 4)]) == [(0, 1), (1, 1)]  # one token, two names: the first one's
    assert token_ranges([], []) == []
