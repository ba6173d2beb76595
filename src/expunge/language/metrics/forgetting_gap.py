"""The share of what the target knew that is gone, of the texts to be forgotten and of those to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.insertion_verdict import normalised_gap
from expunge.language.metrics._common import Floats, row_nll
from expunge.language.metrics._whole_texts import matched, whole
from expunge.language.metrics.exact_memorization import exact_memorization
from expunge.language.metrics.membership import membership_scores
from expunge.membership import auroc
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval, cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@dataclass(frozen=True)
class ForgettingGap:
    """(before - after) / (before - gold): 0 for the target, 1 as if never read, above 1 for over-forgetting.

    On the texts to be kept the loss is counted in the same unit, (before - after) on them over (before - gold) on the
    forget texts: both have as many copies and come from one draw. It must be 0. Measures are the loss per token of
    whole texts (``nll``), the share of tokens predicted exactly (``memorised``), and the AUROC of the loss attack
    against texts nobody has read (``auroc``).

    Attributes:
        forget: Texts to be forgotten. Source: ours.
        keep: Texts to be kept that no method was shown. Source: ours.
        non_members: Texts no model has read. Source: ours.
        measures: What is compared. Source: ours.
    """

    paper: ClassVar[str] = (
        "ours; unlearning as in Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM "
        "Memorization, 2025 (arXiv 2510.19811)"
    )
    needs_gold: ClassVar[bool] = True

    forget: str = "forget"
    keep: str = "retain"
    non_members: str = "holdout"
    measures: tuple[str, ...] = ("nll", "memorised", "auroc")

    def __post_init__(self) -> None:
        known = ForgettingGap.measures
        if not self.measures or any(m not in known for m in self.measures):
            raise InputError(f"forgetting-gap: measures={list(self.measures)} must be some of {', '.join(known)}.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Nothing about one model alone; see `place`."""
        return []

    def place(self, model: EvidenceStore, target: EvidenceStore, gold: EvidenceStore) -> list[Finding]:
        """``hubble.gap.MEASURE`` on the forget and on the keep split; left out where the target knew nothing.

        Raises:
            InputError: A split is missing or empty.
            RunError: A NaN loss.
        """
        splits = (self.forget, self.keep, self.non_members)
        after, before, never = (whole(store, splits) for store in (model, target, gold))
        found = []
        for name in self.measures:
            b, g = (_level(store, self.forget, name, self.non_members) for store in (before, never))
            if b == g:
                continue
            for split in (self.forget, self.keep):
                a, c = (_level(store, split, name, self.non_members) for store in (after, before))
                gap = normalised_gap(b, a, g) if split == self.forget else (c - a) / (b - g)
                ends = Interval(gap, float("nan"), float("nan"))
                if name != "auroc":
                    ends = self._interval(after, before, never, split, name, gap)
                found.append(matched(f"hubble.gap.{name}", split, model, ends, len(model.records(split))))
        return found

    def _interval(
        self, after: EvidenceStore, before: EvidenceStore, gold: EvidenceStore, split: str, name: str, gap: float
    ) -> Interval:
        """The gap with its interval over texts; on the keep split the unit is taken as known."""
        a, b, g = (_rows(store, split, name) for store in (after, before, gold))
        if split == self.forget:
            rows = np.stack([b - a, b - g], axis=1)
            ends = cluster_bootstrap(rows, after.clusters(split), _ratio)
        else:
            unit = float(np.mean(_rows(before, self.forget, name) - _rows(gold, self.forget, name)))
            ends = cluster_bootstrap((b - a) / unit, after.clusters(split))
        return Interval(gap, ends.low, ends.high)


def _ratio(rows: Floats) -> float:
    total = rows.sum(axis=0)
    return float(total[0] / total[1]) if total[1] else float("nan")


def _rows(texts: EvidenceStore, split: str, name: str) -> Floats:
    """[n] value of each text."""
    scores = texts.answers(split)
    return row_nll(scores, split) if name == "nll" else exact_memorization(scores)


def _level(texts: EvidenceStore, split: str, name: str, non_members: str) -> float:
    """The value of a split."""
    if name != "auroc":
        return float(np.mean(_rows(texts, split, name)))
    return auroc(*(membership_scores("loss", texts, s) for s in (split, non_members)))
