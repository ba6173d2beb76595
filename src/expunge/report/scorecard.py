"""The scorecard: every finding of one run, the evidence behind each verdict, and the verdicts.

It is plain data. Anything drawn or decided later (report, verdict, comparison) is a pure function
of what is stored here, so a scorecard can be re-read and re-judged years after the models are gone.
It never holds the content of a forget record: subjects of the data appear as numbers.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.errors import InputError

Direction = Literal["higher", "lower", "match-gold"]
SCHEMA = 1


@dataclass(frozen=True)
class Finding:
    """One number: what was measured, on which split, of which model, and how sure we are.

    Attributes:
        metric: Dotted name, for example ``membership.loss.auroc`` or ``relearning.held_out_accuracy``.
        split: The records it was measured on (``forget``, ``retain``, ``forget_paraphrase``...).
        subject: The model: ``target``, ``gold``, ``gold_2``, ``control`` or a method's name.
        value: The estimate.
        low: Lower end of the 95% bootstrap interval over subjects of the data.
        high: Upper end of that interval.
        n: Number of records behind it.
        direction: ``higher``, ``lower`` or ``match-gold`` (the ideal value is gold's).
    """

    metric: str
    split: str
    subject: str
    value: float
    low: float
    high: float
    n: int
    direction: Direction


@dataclass(frozen=True)
class Gap:
    """A finding as the share of the way from target to gold (see ``gaps.py``): 1 as if never seen.

    Attributes:
        metric: Name of the finding.
        split: Its split.
        subject: The model it speaks of.
        value: (before - after) / (before - gold); above 1 is over-forgotten.
        low: Lower end of the finding's own 95% interval, on this scale.
        high: Upper end.
    """

    metric: str
    split: str
    subject: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Published:
    """A number printed elsewhere, shown beside ours; another model and other data unless the source says so.

    Attributes:
        metric: Name of the finding it belongs beside.
        split: Split of that finding.
        model: Model and size, as printed.
        method: Method, as printed; ``before`` for the model before unlearning, ``gold`` for the retrained one.
        value: In the finding's unit (a percentage is divided by 100).
        source: Where it is printed; ends in ", from memory" where nobody could look it up again.
    """

    metric: str
    split: str
    model: str
    method: str
    value: float
    source: str


@dataclass(frozen=True)
class ChannelEvidence:
    """What one evidence channel found about one model, cluster by cluster (``verdict.py`` judges it).

    Attributes:
        channel: ``direct``, ``paraphrase``, ``relearn``, ``benign-relearn``, ``quantise-8``...
        budget: The attack's strength as words, for example ``"16 steps"``.
        excess: For each cluster (person, author, book): mean score of the attacked model minus the mean
            score of the gold models under the same attack and seeds. Scores lie in [0, 1].
        sizes: Number of scored facts in each cluster.
        gap: For the same clusters: target's score minus gold's mean score without the attack, in this
            channel's own score. None: the scorecard's ``gap`` is the unit.
    """

    channel: str
    budget: str
    excess: list[float]
    sizes: list[int]
    gap: list[float] | None = None


@dataclass(frozen=True)
class Evidence:
    """All that the verdict on one model rests on.

    Attributes:
        channels: The evidence channels that were run.
        weights_equal_target: Whether every weight equals the target's (a wrapper, or nothing done).
        utility_ratio: Retain score of this model over the target's.
        degenerate: Whether its outputs on forget questions are degenerate (repetition, empty).
        intention: ``removal`` or ``suppression``: what the method's authors claim.
    """

    channels: list[ChannelEvidence]
    weights_equal_target: bool
    utility_ratio: float
    degenerate: bool
    intention: str = ""


@dataclass(frozen=True)
class Verdict:
    """The judgement on one model: the word, the sentence, and the numbers that decided it."""

    verdict: str
    why: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Scorecard:
    """All findings of one run.

    Attributes:
        findings: One entry for each metric, split and model.
        gap: Per forget cluster, score of the target minus mean score of gold under direct questions
            (the original knowledge; the unit in which excess is expressed). Empty without gold.
        evidence: Model name to the evidence on it. Holds ``control`` (refusal-tuned target, the positive
            control) and ``gold_2`` (a spare gold seed, the negative control) when they were made.
        verdicts: Model name to verdict.
        curves: Data behind the plots (see ``plots.py``), never forget content.
        gaps: The findings as shares of the way from target to gold, where there is one.
        published: The benchmark's published numbers.
        run: Recipe, versions, seeds, hardware, data hashes, timings.
    """

    findings: list[Finding] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    def value(self, metric: str, split: str, subject: str) -> float | None:
        """Return the value of one finding, or None when it was not measured."""
        for f in self.findings:
            if (f.metric, f.split, f.subject) == (metric, split, subject):
                return f.value
        return None

    def save(self, path: Path) -> None:
        """Write atomically as JSON (NaN and infinities as null)."""
        text = json.dumps(_finite({"schema": SCHEMA, **asdict(self)}), indent=1, allow_nan=False)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Scorecard:
        """Read a scorecard.

        Raises:
            InputError: The file is missing, is not JSON or has another schema.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no scorecard there.") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not a scorecard (line {error.lineno}: {error.msg}).") from None
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            found = raw.get("schema") if isinstance(raw, dict) else None
            raise InputError(f"{path}: scorecard schema {found!r}, this version reads schema {SCHEMA}.")
        findings = [_finding(f) for f in raw["findings"]]
        evidence = {name: _evidence(e) for name, e in raw.get("evidence", {}).items()}
        verdicts = {name: Verdict(**v) for name, v in raw.get("verdicts", {}).items()}
        gap = [_number(v) for v in raw.get("gap", [])]
        published = [Published(**p) for p in raw.get("published", [])]
        gaps = [Gap(**{k: _number(v) for k, v in g.items()}) for g in raw.get("gaps", [])]
        rest = {"curves": raw.get("curves", {}), "gaps": gaps, "published": published, "run": raw.get("run", {})}
        return cls(findings=findings, gap=gap, evidence=evidence, verdicts=verdicts, **rest)


def _number(value: Any) -> Any:
    return float("nan") if value is None else value  # JSON has no NaN: save() wrote null


def _finding(raw: dict[str, Any]) -> Finding:
    return Finding(**{k: _number(v) if k in ("value", "low", "high") else v for k, v in raw.items()})


def _channel(raw: dict[str, Any]) -> ChannelEvidence:
    lists = {k: [_number(v) for v in raw[k]] for k in ("excess", "gap") if raw.get(k) is not None}
    return ChannelEvidence(**{**raw, **lists})


def _evidence(raw: dict[str, Any]) -> Evidence:
    channels = [_channel(c) for c in raw["channels"]]
    return Evidence(**{**raw, "channels": channels, "utility_ratio": _number(raw["utility_ratio"])})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
