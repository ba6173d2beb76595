"""A benchmark's metrics on other splits than its own: those of a further erasure request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from expunge.language.data import Record, Splits
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.workload import Metric, Score, Workload

EARLIER = "forget_earlier"  # what all earlier requests of a chain asked to forget


def contrasted(records: list[Record]) -> bool:
    """Whether all records have false answers, equally many of them."""
    counts = {len(r.perturbed_answers) for r in records}
    return len(counts) == 1 and counts != {0}


def carries(metric: Metric, records: list[Record]) -> bool:
    """Whether records hold what a metric reads of them."""
    if isinstance(metric, TruthRatio | ForgetQuality):
        return contrasted(records)
    return all(r.question for r in records) if isinstance(metric, Rouge) else True


def without(metrics: Iterable[Metric], before: Splits, now: Splits) -> list[Metric]:
    """The metrics on the splits that are left; one that has none left is left out.

    Args:
        metrics: The benchmark's.
        before: The splits they were made for.
        now: The splits there are.
    """
    fitted = (_fitted(metric, before, now) for metric in metrics)
    return [metric for metric in fitted if metric is not None]


def _fitted(metric: Any, before: Splits, now: Splits) -> Metric | None:
    changes: dict[str, tuple[str, ...]] = {}
    named = 0
    for field in fields(metric):
        value = getattr(metric, field.name)
        if isinstance(value, str) and value in before and not _usable(metric, value, now):
            return None
        if isinstance(value, tuple | list) and value and all(v in before for v in value):
            left = tuple(v for v in value if _usable(metric, v, now))
            named += len(left)
            changes |= {field.name: left} if len(left) < len(value) else {}
    if changes and not named:
        return None
    return replace(metric, **changes) if changes else metric  # type: ignore[no-any-return]


def _usable(metric: Metric, split: str, now: Splits) -> bool:
    return split in now and (not split.startswith("forget") or carries(metric, now[split]))


def with_earlier(metrics: Sequence[Metric], now: Splits) -> list[Metric]:
    """What is measured on the forget set is measured on the earlier ones too."""
    if EARLIER not in now:
        return list(metrics)
    out: list[Metric] = []
    for metric in metrics:
        splits = getattr(metric, "splits", ())
        if "forget" in splits and carries(metric, now[EARLIER]):
            out.append(replace(metric, splits=(*splits, EARLIER)))  # type: ignore[type-var]
        else:
            out.append(metric)
        if isinstance(metric, Membership) and metric.members == "forget":
            out.append(replace(metric, members=EARLIER))
    return out


def scored(work: Workload) -> Workload:
    """The workload with scores its forget records can carry: no false answers or no questions change them."""
    asked = all(r.question for rows in work.splits.values() for r in rows)

    def fitting(score: Score) -> Score:
        if score == "choice" and not contrasted(work.splits["forget"]):
            score = "rouge"
        return "token" if score == "rouge" and not asked else score

    return replace(work, behaviour=fitting(work.behaviour), attack_score=fitting(work.attack_score))
