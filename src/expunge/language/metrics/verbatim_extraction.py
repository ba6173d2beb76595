"""Verbatim extraction: given the beginning of a text, does greedy decoding write the rest of it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.continuations import prefix_token, tokenise
from expunge.language.generate import _greedy as greedy
from expunge.language.metrics._common import Floats
from expunge.language.metrics._whole_texts import mean_matched, text_of
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

TOGETHER = 32  # texts continued at a time


@torch.inference_mode()
def continued(
    subject: Subject, texts: Sequence[str], lengths: Sequence[int], limit: int
) -> tuple[list[str], list[str]]:
    """The rest of each text after its first tokens, and what greedy decoding writes there.

    The prefix is cut from the text's own tokens, and is not decoded and split again.

    Args:
        subject: The model.
        texts: N texts.
        lengths: Tokens of each prefix, fewer than the text has.
        limit: Longest continuation in tokens.

    Returns:
        N suffixes and N continuations.
    """
    tokenizer = subject.tokenizer
    ids = tokenise(tokenizer, texts, special=False)
    prefix, room = prefix_token(tokenizer), subject.max_length - 1
    wrote = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: lengths[i])
    with evaluating(subject.model):
        for start in range(0, len(order), TOGETHER):
            rows = order[start : start + TOGETHER]
            longest = max(lengths[i] for i in rows)
            made = greedy(subject, [[prefix, *ids[i][: lengths[i]]] for i in rows], min(limit, room - longest))
            for i, text in zip(rows, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
                wrote[i] = text
    return [tokenizer.decode(row[n:]) for row, n in zip(ids, lengths, strict=True)], wrote


def verbatim_scores(suffixes: Sequence[str], wrote: Sequence[str]) -> dict[str, Floats]:
    """How much of each suffix was written.

    ``exact_match`` compares whole strings without case and outer spaces, and is 0 where decoding ran on past the end
    of the text; ``prefix_match`` asks only that what was written begins with the suffix.

    >>> {k: v.tolist() for k, v in verbatim_scores(["a b c"], ["A b c d"]).items() if "match" in k}
    {'exact_match': [0.0], 'prefix_match': [1.0]}

    Returns:
        [N] in [0, 1] under ``rouge_l_precision``, ``_recall``, ``_f1``, each also ``_stemmed``, ``exact_match`` and
        ``prefix_match``.
    """
    pairs = [(a.strip().lower(), b.strip().lower()) for a, b in zip(suffixes, wrote, strict=True)]
    found: dict[str, Floats] = {}
    for end in ("", "_stemmed"):
        scores = [_rouge(bool(end)).score(a, b)["rougeL"] for a, b in pairs]
        for name, field in (("precision", "precision"), ("recall", "recall"), ("f1", "fmeasure")):
            found[f"rouge_l_{name}{end}"] = np.array([getattr(s, field) for s in scores], dtype=float)
    found["exact_match"] = np.array([a == b for a, b in pairs], dtype=float)
    found["prefix_match"] = np.array([b.startswith(a) for a, b in pairs], dtype=float)
    return found


@cache
def _rouge(stemmed: bool) -> Any:
    from rouge_score import rouge_scorer  # imports nltk, a second that only this metric needs

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmed)


@dataclass(frozen=True)
class VerbatimExtraction:
    """Greedy continuations of the first tokens of each text, against the rest of it.

    Texts that are no longer than a prefix are left out there; a prefix no text is longer than has no finding.

    Attributes:
        splits: Splits it is measured on. Source: paper.
        prefixes: Lengths of the given beginning in tokens. Source: paper.
        shares: Lengths as shares of the text, for texts that are too short for those. Source: ours.
        max_new_tokens: Longest continuation. Source: paper.
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain", "holdout")
    prefixes: tuple[int, ...] = (25, 50, 75, 100)
    shares: tuple[float, ...] = ()
    max_new_tokens: int = 500

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.prefixes) or any(not 0 < s < 1 for s in self.shares) or self.max_new_tokens < 1:
            raise InputError(
                f"verbatim-extraction: prefixes={list(self.prefixes)} and max_new_tokens={self.max_new_tokens} must be "
                f"at least 1, and shares={list(self.shares)} lie between 0 and 1."
            )
        if not self.prefixes and not self.shares:
            raise InputError("verbatim-extraction: prefixes and shares are both empty: nothing to continue.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``hubble.verbatim_25.rouge_l_f1`` and so on for each prefix and split; ``verbatim_50_percent`` for a share.

        Raises:
            InputError: A split is missing or empty, or no text is longer than any prefix.
        """
        found: list[Finding] = []
        for split in self.splits:
            texts, clusters = [text_of(r) for r in model.records(split)], model.clusters(split)
            sizes = [len(ids) for ids in tokenise(model.subject.tokenizer, texts, special=False)]
            lengths = {f"verbatim_{n}": [n] * len(texts) for n in self.prefixes}
            lengths |= {f"verbatim_{100 * s:g}_percent": [max(1, round(s * n)) for n in sizes] for s in self.shares}
            made = 0
            for name, wanted in lengths.items():
                rows = [i for i, n in enumerate(wanted) if n < min(sizes[i], model.subject.max_length - 1)]
                if not rows:
                    continue
                suffixes, wrote = continued(
                    model.subject, [texts[i] for i in rows], [wanted[i] for i in rows], self.max_new_tokens
                )
                scores = verbatim_scores(suffixes, wrote)
                found += [
                    mean_matched(f"hubble.{name}.{k}", split, model, v, clusters[rows]) for k, v in scores.items()
                ]
                made += 1
            if not made:
                raise InputError(
                    f"verbatim-extraction: split {split!r} has no text longer than {min(self.prefixes, default=0)} "
                    f"tokens; give shares."
                )
        return found
