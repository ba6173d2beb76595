"""Membership inference on interactions: can forgotten ones be told by their score from ones no model has seen?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.recommend.metrics._common import by_users, weighted_auroc
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class Membership:
    """AUROC of the score: forgotten interactions against random non-interactions, and against unseen real ones.

    Against random items of the same users even a model that never saw the forgotten interactions does better than
    guessing, because people's tastes show in what is left (0.91 for gold on random interactions of MovieLens); the
    second comparison, with the test interactions of those who are forgotten, takes taste out. Both ideals are gold's
    values: far below 0.5 betrays the forgotten as well as far above does.

    Attributes:
        members: Interactions whose training is to be detected. Source: ours.
        others: Splits that no model was trained on. Source: ours.
        seed: Seeds the bootstrap over users. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = "score threshold as in Yeom et al., CSF 2018 (arXiv 1709.01604); the non-members are ours"
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    others: tuple[str, ...] = ("non_interactions", "holdout")
    seed: int = 0
    draws: int = 1000

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``membership.OTHER.auroc``, filed under the members' split; none for a list that is empty.

        Raises:
            InputError: A split is missing, or nothing is forgotten.
        """
        members = model.scores(self.members)
        found = []
        for split in self.others:
            others = model.scores(split)
            if not len(others):  # users without test interactions have nothing to be compared with
                continue
            sides = model.users(self.members), model.users(split)
            ends = by_users(weighted_auroc(members, others), sides, seed=self.seed, draws=self.draws)
            n = len(members) + len(others)
            found.append(Finding(f"membership.{split}.auroc", self.members, model.name, *ends, n, "match-gold"))
        return found
