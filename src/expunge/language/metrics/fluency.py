"""Fluency: how varied the word pairs and triples of what the model writes are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.language.generate import generate, require_room
from expunge.language.metrics._common import mean_finding
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def entropy(items: Sequence[object]) -> float:
    """Entropy in bits of how often each item occurs; 0 without items.

    >>> entropy("aabb"), entropy([])
    (1.0, 0.0)
    """
    total = len(items)
    return -sum(n / total * math.log2(n / total) for n in Counter(items).values()) + 0.0


def ngram_entropy(text: str) -> float:
    """((2/3) H_2 + (4/3) H_3) / 2, H_n the entropy in bits of a text's word n-grams (Zhang et al. 2018; ROME).

    Words are runs of letters, digits and apostrophes; any other mark is a word of its own. A text of fewer than
    three words has H_3 = 0, of fewer than two words H_2 = 0 as well.

    >>> round(ngram_entropy("a b c d e"), 6), ngram_entropy("go go go go"), ngram_entropy("go")
    (1.723308, 0.0, 0.0)
    """
    words = re.findall(r"[\w'’]+|[^\w\s]", text)
    pairs, triples = list(pairwise(words)), list(zip(words, words[1:], words[2:], strict=False))
    return (2 / 3 * entropy(pairs) + 4 / 3 * entropy(triples)) / 2


@dataclass(frozen=True)
class Fluency:
    """Weighted n-gram entropy of what the model writes to open instructions; a text that repeats itself scores low.

    The reference code takes words from a trained tokenizer of the package nltk; here a rule splits them, which
    changes the number a little. Printed is 100 times the entropy.

    Attributes:
        splits: Splits of instructions. Source: paper (AlpacaEval).
        max_new_tokens: Longest text. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Zhang, Galley, Gao, Gan, Li, Brockett, Dolan, Generating Informative and Diverse Conversational Responses via "
        "Adversarial Information Maximization, NeurIPS 2018 (arXiv 1809.05972); weights as in Meng et al., ROME, "
        "NeurIPS 2022 (arXiv 2202.05262) and Jin et al., RWKU, NeurIPS 2024 (arXiv 2406.10890)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("utility_fluency",)
    max_new_tokens: int = 256

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``fluency`` for each split, in bits.

        Raises:
            InputError: A split is missing or empty, or a prompt leaves no room for the text.
        """
        found = []
        for split in self.splits:
            records = model.records(split)
            require_room(model.subject, records, self.max_new_tokens, f"Split {split!r}")
            texts = generate(model.subject, records, max_new_tokens=self.max_new_tokens)
            values = np.array([ngram_entropy(text) for text in texts], dtype=np.float64)
            found.append(mean_finding("fluency", split, model, values))
        return found
