"""The user's own records: an erasure request as files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.language.data import Record, read_records, require_disjoint
from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.model_utility import ModelUtility
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.workload import Metric, Score, Workload


@dataclass(frozen=True)
class Records:
    """Your own forget, retain and holdout records, from JSONL, JSON, CSV or Parquet files or hub data sets.

    Attributes:
        forget: Records that must go. Source: yours.
        retain: Records that must stay; empty for none. Source: yours.
        holdout: Records no model was trained on (non-members); empty for none. Source: yours.
        score: How an answer counts as known: ``exact``, ``choice``, ``rouge`` or ``token`` (share of tokens
            predicted exactly); ``auto`` picks token for plain text, choice where
            all forget records have equally many false answers, else rouge. Source: ours.
        max_new_tokens: Longest generated answer. Source: ours.
        allow_overlap: Accept records that stand in two sets. Source: ours.
    """

    paper: ClassVar[str] = "ours; metrics as in TOFU (Maini et al., COLM 2024, arXiv 2401.06121)"

    forget: str = ""
    retain: str = ""
    holdout: str = ""
    score: Literal["auto", "exact", "choice", "rouge", "token"] = "auto"
    max_new_tokens: int = 64
    allow_overlap: bool = False

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        forget = read_records(self.forget)
        retain = read_records(self.retain) if self.retain else []
        holdout = read_records(self.holdout) if self.holdout else []
        if not self.allow_overlap:
            require_disjoint(forget, retain, "retain")
            require_disjoint(forget, holdout, "holdout")
        splits = {"forget": forget}
        if all(r.paraphrased_question for r in forget):
            splits["forget_paraphrase"] = [r.asked_otherwise() for r in forget]
        splits |= {name: rows for name, rows in (("retain", retain), ("holdout", holdout)) if rows}
        asked = all(r.question for rows in splits.values() for r in rows)
        behaviour: Score = self.score if self.score in ("exact", "token") else "rouge" if asked else "token"
        return Workload(
            forget=forget,
            retain=retain,
            splits=splits,
            metrics=_metrics(splits),
            behaviour=behaviour,
            attack_score=self._attack_score(forget, asked),
            max_new_tokens=self.max_new_tokens,
            notes=_notes(retain, holdout),
        )

    def _attack_score(self, forget: list[Record], asked: bool) -> Score:
        if self.score != "auto":
            return self.score
        if not asked:
            return "token"
        return "choice" if _contrasted(forget) else "rouge"


def _contrasted(records: list[Record]) -> bool:
    """Whether all records have false answers, equally many of them."""
    counts = {len(r.perturbed_answers) for r in records}
    return len(counts) == 1 and counts != {0}


def _notes(retain: list[Record], holdout: list[Record]) -> list[str]:
    notes = []
    if not retain:
        notes.append("No retain records: what the model lost beside the forget set is not measured.")
    if not holdout:
        notes.append("No holdout records: membership inference could not be run.")
    return notes


def _metrics(splits: dict[str, list[Record]]) -> list[Metric]:
    """The metrics these records can carry."""
    asked = tuple(s for s in splits if all(r.question for r in splits[s]))
    known = tuple(s for s in ("forget", "retain") if s in splits)
    metrics: list[Metric] = [
        Accuracy(splits=tuple(splits)),
        Probability(splits=known, options=()),
        ExtractionStrength(splits=("forget",)),
        ExactMemorization(splits=("forget",)),
    ]
    if asked:
        metrics.append(Rouge(splits=asked))
    contrasted = tuple(s for s in known if _contrasted(splits[s]))
    if contrasted:
        metrics.append(TruthRatio(splits=contrasted))
    if "forget" in contrasted:
        metrics.append(ForgetQuality())
    if "retain" in contrasted and "retain" in asked:
        metrics.append(ModelUtility(splits=("retain",)))
    if "holdout" in splits:
        metrics.append(Membership())
    return metrics
