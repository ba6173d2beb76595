"""Perplexity of whole texts, as lm-evaluation-harness defines it: over words, over bytes, and per token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from expunge.errors import InputError, RunError
from expunge.language.continuations import Tokens, prefix_token, score_tokens, tokenise
from expunge.language.metrics._common import Floats
from expunge.language.metrics._whole_texts import matched, text_of
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


class Sizes(NamedTuple):
    """What the log-likelihood of texts is divided by: [n] each."""

    tokens: Floats
    words: Floats
    bytes: Floats


def rolling(subject: Subject, texts: Sequence[str], *, batch_tokens: int = 4096) -> tuple[Floats, Sizes]:
    """Log-likelihood of whole texts, every token predicted once.

    Texts longer than the model's longest sequence are cut into windows that do not overlap. The first token of a
    window is predicted from the one before it, the first of a text from the begin (or end) token; no end of sequence
    is predicted.

    Returns:
        [n] log-likelihoods in nats, and the sizes of the texts.

    Raises:
        InputError: A text without a token.
        RunError: A likelihood that is no number.
    """
    ids = tokenise(subject.tokenizer, texts, special=False)
    empty = next((i for i, row in enumerate(ids, 1) if not row), None)
    if empty is not None:
        raise InputError(f"perplexity: text {empty} has no token.")
    prefix, width = prefix_token(subject.tokenizer), subject.max_length - 1
    pieces: list[tuple[Tokens, Tokens]] = []
    owners: list[int] = []
    for i, row in enumerate(ids):
        for start in range(0, len(row), width):
            pieces.append(([row[start - 1] if start else prefix], row[start : start + width]))
            owners.append(i)
    scores = score_tokens(subject, pieces, share=False, batch_tokens=batch_tokens)
    likelihood: Floats = np.bincount(owners, weights=-scores.nll_sum, minlength=len(texts)).astype(np.float64)
    if np.isnan(likelihood).any():
        raise RunError(f"perplexity: the loss of text {int(np.isnan(likelihood).argmax()) + 1} is NaN.")
    words = [len(re.split(r"\s+", text)) for text in texts]
    sizes = Sizes(*(np.array(n, dtype=float) for n in ([len(r) for r in ids], words, [len(t.encode()) for t in texts])))
    return likelihood, sizes


def perplexity(likelihood: Floats, sizes: Floats) -> float:
    """exp(-sum log p / sum of sizes): of all texts together, as the harness weighs them.

    >>> round(perplexity(np.log([0.25, 0.5]), np.array([2.0, 1.0])), 6)
    2.0
    """
    return float(np.exp(-likelihood.sum() / sizes.sum()))


@dataclass(frozen=True)
class Perplexity:
    """Word and byte perplexity of whole texts, and their mean loss per token.

    Questions count as part of their text. Perplexities are of all texts of a split together.

    Attributes:
        splits: Splits it is measured on. Source: paper.
        units: ``word``, ``byte`` or both. Source: reference code (both).
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811): loss of inserted texts, with the perplexities of lm-evaluation-harness"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain", "holdout")
    units: tuple[str, ...] = ("word", "byte")

    def __post_init__(self) -> None:
        if any(unit not in ("word", "byte") for unit in self.units):
            raise InputError(f"perplexity: units={list(self.units)} must be word or byte.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``hubble.nll`` (mean over texts of nats per token), ``hubble.word_perplexity``, ``hubble.byte_perplexity``.

        Raises:
            InputError: A split is missing or empty.
            RunError: A NaN loss.
        """
        found = []
        for split in self.splits:
            texts, clusters = [text_of(r) for r in model.records(split)], model.clusters(split)
            if not texts:
                raise InputError(f"Split {split!r} has no records, so it has no perplexity.")
            likelihood, sizes = rolling(model.subject, texts, batch_tokens=model.batch_tokens)
            nll = cluster_bootstrap(-likelihood / sizes.tokens, clusters)
            found.append(matched("hubble.nll", split, model, nll, len(texts)))
            for name in self.units:
                rows = np.stack([likelihood, sizes.words if name == "word" else sizes.bytes], axis=1)
                ends = cluster_bootstrap(rows, clusters, lambda x: perplexity(x[:, 0], x[:, 1]))
                found.append(matched(f"hubble.{name}_perplexity", split, model, ends, len(texts)))
        return found
