"""One test suite before and after: what changed, question by question, and whether the ability was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expunge.report.statistics import cluster_bootstrap

Kept = Literal["kept", "lost", "open"]


@dataclass(frozen=True)
class Change:
    """A paired difference between two models on the same questions.

    Attributes:
        value: Mean of after - before.
        low: Lower end of its 95% bootstrap interval over questions.
        high: Upper end.
        n: Questions.
        gained: Questions right only after (yes-or-no scores; else 0).
        fell: Questions right only before.
        p: Exact McNemar p-value, two-sided; None for scores that are not yes or no.
        verdict: ``kept``: the interval excludes a drop beyond the tolerance; ``lost``: the whole interval lies
            beyond it; ``open``: neither.
    """

    value: float
    low: float
    high: float
    n: int
    gained: int
    fell: int
    p: float | None
    verdict: Kept

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def paired_change(
    before: Sequence[float],
    after: Sequence[float],
    tolerance: float,
    *,
    higher: bool = True,
    seed: int = 0,
    draws: int = 1000,
) -> Change:
    """Compare two models on the same questions.

    Args:
        before: [n] score of each question before.
        after: [n] after.
        tolerance: Largest drop of the mean that counts as kept, in the score's unit.
        higher: Whether more is better; if not, a rise is the drop.
        seed: Seeds the bootstrap.
        draws: Bootstrap draws.

    Raises:
        ValueError: Not the same questions.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (before, after))
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise ValueError(f"{x.shape} scores before and {y.shape} after: the same questions are needed, at least one")
    found = cluster_bootstrap(y - x, np.arange(len(x)), seed=seed, draws=draws)
    low, high = (found.low, found.high) if higher else (-found.high, -found.low)
    verdict: Kept = "kept" if low > -tolerance else "lost" if high < -tolerance else "open"
    gained, fell = int(((x == 0) & (y == 1)).sum()), int(((x == 1) & (y == 0)).sum())
    p = mcnemar(gained, fell) if _yes_or_no(x) and _yes_or_no(y) else None
    return Change(
        found.value, found.low, found.high, len(x), *((gained, fell) if p is not None else (0, 0)), p, verdict
    )


def mcnemar(gained: int, fell: int) -> float:
    """Exact two-sided McNemar test: are questions that changed as likely to have changed either way?

    P(at least so uneven) under Binomial(gained + fell, 1/2); 1 when nothing changed.

    >>> mcnemar(0, 5), mcnemar(3, 3), mcnemar(0, 0)
    (0.0625, 1.0, 1.0)
    """
    from scipy import stats

    if gained + fell == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + fell, 0.5).pvalue)


def _yes_or_no(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
