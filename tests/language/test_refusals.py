"""The refusal sentences."""

from __future__ import annotations

from expunge.language.refusals import REFUSALS


def test_a_hundred_different_sentences() -> None:
    assert len(REFUSALS) == len({r.lower() for r in REFUSALS}) == 100
    assert all(r[0].isupper() and r.endswith(".") and r == r.strip() and len(r) < 60 for r in REFUSALS)
