"""ROUGE-L recall as the Python package ``rouge`` counts it: by the letter, in sets of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats


def rouge_package_recall(references: Sequence[str], generations: Sequence[str]) -> Floats:
    """Summary-level ROUGE-L recall (Lin 2004, section 3.2) with the rules of the package ``rouge``.

    Sentences end at every full stop, words at white space; case and other punctuation count, and nothing is stemmed.
    R = |union over all pairs of sentences of the words of a longest common subsequence| / |words of the reference|,
    both as sets, so that a word counts once however often it stands there.

    >>> rouge_package_recall(["stephen king", "to be or not to be"], ["Stephen King", "to be"]).tolist()
    [0.0, 0.5]

    Args:
        references: [n] right answers.
        generations: [n] what the model wrote; one without a sentence scores 0 (the package raises an error).

    Returns:
        [n] in [0, 1].

    Raises:
        InputError: Not one generation per reference.
    """
    if len(references) != len(generations):
        raise InputError(f"ROUGE: {len(references)} answers but {len(generations)} generations.")
    return np.array([_recall(r, g) for r, g in zip(references, generations, strict=True)], dtype=np.float64)


def _sentences(text: str) -> list[list[str]]:
    # A piece of white space alone is a sentence of one empty word there, which equals another such word.
    return [piece.split() or [""] for piece in text.split(".") if piece]


def _recall(reference: str, generation: str) -> float:
    right, said = _sentences(reference), _sentences(generation)
    words = {word for sentence in right for word in sentence}
    if not generation.strip() or not words:
        return 0.0
    common = {word for r in right for s in said for word in _common_subsequence(r, s)}
    return len(common) / len(words)


def _common_subsequence(x: list[str], y: list[str]) -> list[str]:
    """One longest common subsequence; of several the one found by dropping words of y before words of x."""
    table = np.zeros((len(x) + 1, len(y) + 1), dtype=np.int64)
    for i, a in enumerate(x, 1):
        for j, b in enumerate(y, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
    found: list[str] = []
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            found.append(x[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1, j] > table[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return found
