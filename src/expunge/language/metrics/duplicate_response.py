"""Dose-response of membership: how well are texts of d copies told from texts of none, and could that be chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.errors import InputError, nearest
from expunge.language.insertion_verdict import permutation_p, require_null
from expunge.language.metrics._common import Floats
from expunge.language.metrics._whole_texts import matched, whole
from expunge.language.metrics.membership import membership_scores
from expunge.membership import auroc_interval
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@dataclass(frozen=True)
class DuplicateResponse:
    """AUROC of membership attacks on texts of each number of copies, against texts of the same draw with none.

    Whole texts are scored. Beside each AUROC stands a permutation p-value. What gold has not read it must not tell
    apart: if it does, the run ends, for members and non-members then differ in more than having been read.

    Attributes:
        splits: Splits of members, one for each number of copies. Source: paper.
        non_members: Texts of the same draw that were never inserted. Source: paper.
        unread: Splits that gold has not read, on which its AUROC must be 1/2 within three standard errors.
            Source: ours.
        detectors: Attacks. Source: paper.
        k: Share of tokens of Min-K% and Min-K%++. Source: Min-K% paper.
        permutations: Random divisions behind a p-value. Source: ours.
        draws: Bootstrap draws behind an interval. Source: ours.
        seed: Seeds both. Source: ours.
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget",)
    non_members: str = "holdout"
    unread: tuple[str, ...] = ("forget",)
    detectors: tuple[str, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus")
    k: float = 0.2
    permutations: int = 999
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        known = DuplicateResponse.detectors
        for name in self.detectors:
            if name not in known:
                raise InputError(f"duplicate-response: unknown detector {name!r}.{nearest(name, known)}")
        if not 0 < self.k <= 1 or self.permutations < 19 or self.draws < 1:
            raise InputError(
                f"duplicate-response: k={self.k} must lie in (0, 1], permutations={self.permutations} be at least 19, "
                f"and draws={self.draws} at least 1."
            )

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``hubble.membership.DETECTOR.auroc`` and ``.p`` of each split.

        Raises:
            InputError: A split is missing or empty.
            RunError: A NaN loss, or gold tells apart what it has not read.
        """
        texts = whole(model, (*self.splits, self.non_members))
        found = []
        for split in self.splits:
            for name in self.detectors:
                sides = self._sides(texts, split, name)
                clusters = [texts.clusters(s) for s in (split, self.non_members)]
                value = auroc_interval(*sides, *clusters, seed=self.seed, draws=self.draws)
                n, m = map(len, sides)
                if model is gold and split in self.unread:
                    require_null(value.value, n, m, f"hubble, attack {name} on {split!r} against {self.non_members!r}")
                p = permutation_p(*sides, draws=self.permutations, seed=self.seed)
                found.append(matched(f"hubble.membership.{name}.auroc", split, model, value, n + m))
                found.append(matched(f"hubble.membership.{name}.p", split, model, Interval(p, p, p), n + m))
        return found

    def _sides(self, texts: EvidenceStore, split: str, detector: str) -> tuple[Floats, Floats]:
        scores = [membership_scores(detector, texts, s, k=self.k) for s in (split, self.non_members)]
        return scores[0], scores[1]


DETECTORS = DuplicateResponse.detectors
