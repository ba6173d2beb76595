"""The embedded benchmark: fictitious people on a model small enough to train while you wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.gradient_norm import GradientNorm
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.model_utility import ModelUtility
from expunge.language.metrics.open_unlearning_scores import OpenUnlearningScores
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.reference_membership import ReferenceMembership
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.refusals import REFUSALS
from expunge.language.testbed import World
from expunge.language.workload import Workload


@dataclass(frozen=True)
class Testbed:
    """Fictitious people drawn from a seed: the truth is known and the gold model takes seconds.

    Attributes:
        forget: People to be forgotten. Source: ours.
        retain: People to be kept. Source: ours.
        holdout: People no model has seen. Source: ours.
        places: Fictional places, an unrelated skill to keep. Source: ours.
        world_seed: Draws the world. Source: ours.
        gradient_norm: Also measure membership by gradient norms, a backward pass for each record. Source: ours.
    """

    paper: ClassVar[str] = "ours; metrics and pairing as in TOFU (Maini et al., COLM 2024, arXiv 2401.06121)"

    forget: int = 16
    retain: int = 64
    holdout: int = 16
    places: int = 30
    world_seed: int = 0
    gradient_norm: bool = False

    @property
    def world(self) -> World:
        """The world these settings draw."""
        return World(self.forget, self.retain, self.holdout, self.places, self.world_seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        records = self.world.records()
        measured = {name: rows for name, rows in records.items() if not name.startswith("train_")}
        questions = tuple(measured)
        return Workload(
            forget=records["train_forget"],
            retain=records["train_retain"],
            splits=measured,
            metrics=(
                Accuracy(splits=questions),
                Probability(splits=("forget", "retain"), options=("places",)),
                Rouge(splits=("forget", "retain", "places")),
                TruthRatio(splits=("forget", "retain", "places")),
                ForgetQuality(),
                ModelUtility(splits=("retain", "places")),
                ExtractionStrength(splits=("forget",)),
                ExactMemorization(splits=("forget",)),
                OpenUnlearningScores(stays=("retain", "places")),
                Membership(),
                ReferenceMembership(random_split=True),
                *([GradientNorm()] if self.gradient_norm else []),
            ),
            behaviour="exact",
            attack_score="exact",
            max_new_tokens=8,
            refusals=REFUSALS[:4],  # a model of this size cannot learn a hundred sentences in a minute
        )
