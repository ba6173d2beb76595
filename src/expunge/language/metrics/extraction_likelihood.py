"""Extraction likelihood: how much of a text greedy decoding gives away, over all beginnings of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import encode
from expunge.language.metrics._common import Floats, mean_finding
from expunge.language.metrics._continuations import continuations, texts_of
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def overlap(a: Sequence[int], b: Sequence[int], n: int) -> float:
    """OVERLAP_n(a, b): n-grams of a that occur in b, repetitions counted, over the number of n-grams of b.

    Jang et al. (ACL 2023), equation 3. At most 1 where a is no longer than b; 0 where b has no n-gram.

    >>> overlap([1, 2, 3, 9], [1, 2, 3, 4], 2)
    0.6666666666666666
    """
    theirs = {tuple(b[i : i + n]) for i in range(len(b) - n + 1)}
    ours = Counter(tuple(a[i : i + n]) for i in range(len(a) - n + 1))
    return sum(count for gram, count in ours.items() if gram in theirs) / (len(b) - n + 1) if theirs else 0.0


def extraction_likelihood(x: Sequence[int], continued: dict[int, list[int]], n: int) -> float:
    """EL_n(x) = 1/(T - n) sum over t = 1 .. T - n of OVERLAP_n(greedy(x_<t), x_>=t).

    Jang et al. (ACL 2023), equation 2; x_<t are the first t tokens, and greedy decoding runs to total length T.

    Args:
        x: T token ids.
        continued: t to the T - t tokens after x_<t.
        n: Length of the n-grams.

    Raises:
        InputError: T <= n: the sum has no term.
    """
    if len(x) <= n:
        raise InputError(f"extraction-likelihood: a text of {len(x)} tokens has no term for n={n}; n must be smaller.")
    return sum(overlap(continued[t], x[t:], n) for t in range(1, len(x) - n + 1)) / (len(x) - n)


def measured(
    subject: Subject, records: list[Record], n: int, *, batch: int = 64, where: str = "records"
) -> tuple[Floats, Floats]:
    """EL_n and MA of each record's text, from the same passes.

    Args:
        subject: The model.
        records: Plain text, or questions with answers (then x is the answer, and the prompt stands before it).
        n: Length of the n-grams.
        batch: Prefixes decoded together.
        where: Name of the set in errors.

    Returns:
        [n] EL_n and [n] MA(x) = 1/(T - 1) sum over t = 1 .. T - 1 of 1[argmax p(.|x_<t) = x_t].

    Raises:
        InputError: A text of n tokens or fewer (names the record).
    """
    tokenizer = subject.tokenizer
    encoded = encode(records, tokenizer, subject.template, max_length=subject.max_length, where=where)
    before = leading(subject)
    texts = texts_of(encoded, tokenizer.eos_token_id, [None if r.question else before for r in records])
    short = next((i for i, (_, x) in enumerate(texts) if len(x) <= n), None)
    if short is not None:
        raise InputError(
            f"extraction-likelihood: {where}, record {short + 1}: a text of {len(texts[short][1])} tokens has no term "
            f"for n={n}; lower n or leave it out."
        )
    continued, hits = continuations(subject, texts, last=[len(x) - n for _, x in texts], batch=batch)
    el = [extraction_likelihood(x, own, n) for (_, x), own in zip(texts, continued, strict=True)]
    return np.array(el), np.array([np.mean(row) for row in hits])


def leading(subject: Subject) -> int:
    """Tokens that the tokenizer puts before plain text: 1 for a begin-of-sequence token, else 0."""
    bare = subject.tokenizer(["a"], add_special_tokens=False)["input_ids"][0]
    ids = subject.tokenizer(["a"], add_special_tokens=True)["input_ids"][0]
    return next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)


@dataclass(frozen=True)
class ExtractionLikelihood:
    """Share of a text's n-grams that greedy decoding gives away, averaged over all beginnings of the text.

    1 for a text known by heart, 0 where no n-gram comes back. Takes up to T - n continuations of each text, fewer
    the better the model knows it.

    Attributes:
        n: Length of the n-grams in tokens. Source: paper (main results).
        splits: Splits it is measured on. Source: paper (the forget set, and unseen text for the threshold).
        batch: Continuations decoded together. Source: ours.
    """

    paper: ClassVar[str] = (
        "Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models, ACL 2023 (arXiv 2210.01504)"
    )
    needs_gold: ClassVar[bool] = False

    n: int = 10
    splits: tuple[str, ...] = ("forget",)
    batch: int = 64

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch < 1:
            raise InputError(f"extraction-likelihood: n={self.n} and batch={self.batch} must be at least 1.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``extraction_likelihood_N`` for each split.

        Raises:
            InputError: A split is missing or empty, or holds a text of n tokens or fewer.
        """
        found = []
        for split in self.splits:
            values, _ = measured(model.subject, model.records(split), self.n, batch=self.batch, where=split)
            found.append(mean_finding(f"extraction_likelihood_{self.n}", split, model, values))
        return found
