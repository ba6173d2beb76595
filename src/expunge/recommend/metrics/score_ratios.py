"""MI-BF and MI-NG: mean scores of the forgotten before and after, and beside those of random pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from scipy.special import expit

from expunge.errors import InputError
from expunge.recommend.metrics._common import Floats, by_users, ratio_of_means
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class ScoreRatios:
    """MI-BF and MI-NG: mean forgotten score before over after, and of random pairs over forgotten ones.

    MI-BF = mean p_before(forgotten) / mean p_after(forgotten); MI-NG = mean p_after(random) / mean p_after(forgotten).
    The paper reports both as higher-better. They reward over-forgetting without bound, and how low a forgotten score
    should be depends on the request: on MovieLens a retrained model has MI-BF 5 to 14 on planted interactions, by how
    they were planted, and 1.03 on random real ones. The ideal here is gold's value.

    Attributes:
        link: What p is: the ``sigmoid`` of the score, or the ``raw`` score, whose ratios blow up or change sign near
            0. Source: a re-implementation from the paper; reference code.
        seed: Seeds the bootstrap over users. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = "Chen, Xia, Huang, Pre-training for Recommendation Unlearning, SIGIR 2025 (arXiv 2505.22649)"
    needs_gold: ClassVar[bool] = False

    link: Literal["sigmoid", "raw"] = "sigmoid"
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        if self.link not in ("sigmoid", "raw"):
            raise InputError(f"score-ratios: link={self.link!r}; sigmoid or raw.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Finding ``mi_ng``; none where there are no random pairs."""
        if not len(model.interactions("non_interactions")):
            return []
        return [self._finding("mi_ng", model, (model, "non_interactions"))]

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """Finding ``mi_bf``: 1 where nothing has changed."""
        return [self._finding("mi_bf", model, (target, "forget"))]

    def _finding(self, name: str, model: EvidenceStore, above: tuple[EvidenceStore, str]) -> Finding:
        store, split = above
        a, b = self._p(store, split), self._p(model, "forget")
        sides = store.users(split), model.users("forget")
        ends = by_users(ratio_of_means(a, b), sides, seed=self.seed, draws=self.draws)
        return Finding(name, "forget", model.name, *ends, len(a) + len(b), "match-gold")

    def _p(self, store: EvidenceStore, split: str) -> Floats:
        scores = store.scores(split)
        return scores if self.link == "raw" else expit(scores)
