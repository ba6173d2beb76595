"""A lower bound on a training's epsilon from one run with canaries (Steinke, Nasr and Jagielski 2023).

"Privacy auditing with one (1) training run", arXiv 2305.08846. Each of m canaries was put into the training data by
a fair coin of its own; the auditor guesses r of the coins from the trained model and abstains from the rest. Were the
training (epsilon, delta)-differentially private, v right guesses would be as unlikely as `p_value` says.

>>> round(epsilon_bound(100, 100, 100).epsilon, 5)  # -log(0.05^(-1/100) - 1)
3.49297
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

Bools = NDArray[np.bool_]
STEPS = 60  # halvings of an interval of length 1: to the last bit


class Bound(NamedTuple):
    """The training is not (epsilon, delta)-differentially private for any smaller epsilon.

    Attributes:
        epsilon: The bound, in nats; 0 where nothing can be said.
        canaries: m.
        guesses: r.
        correct: v.
        delta: Of the guarantee tested.
        significance: Probability with which the bound is too large.
    """

    epsilon: float
    canaries: int
    guesses: int
    correct: int
    delta: float
    significance: float


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0) -> float:
    """How probable v right guesses are at most, if the training is (epsilon, delta)-DP (Theorem 5.2).

    P[B >= v] + 2 m delta alpha with B ~ Binomial(r, 1 / (1 + e^-epsilon)), alpha = max_i P[v > B >= v - i] / i.

    Args:
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.
        epsilon: At least 0.
        delta: In [0, 1).

    Returns:
        A probability, at most 1.
    """
    from scipy import stats

    binomial = stats.binom(guesses, 1 / (1 + np.exp(-epsilon)))
    tail = float(binomial.sf(correct - 1))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    below = np.cumsum(binomial.pmf(np.arange(correct - 1, -1, -1)))  # P[v > B >= v - i], i = 1 .. v
    alpha = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * alpha)


def epsilon_bound(
    canaries: int, guesses: int, correct: int, delta: float = 0.0, significance: float = 0.05
) -> Bound:  # fmt: skip
    """The largest epsilon whose guarantee the guesses refute, by bisection.

    Args:
        canaries: m, each included by a fair coin of its own.
        guesses: r, fixed before the coins were looked at.
        correct: v.
        delta: Of the guarantee tested.
        significance: p-value from which on a guarantee is not refuted.

    Raises:
        InputError: Not 0 <= v <= r <= m with r at least 1, or a delta or significance outside [0, 1) or (0, 1).
    """
    if not (0 <= correct <= guesses <= canaries and guesses >= 1):
        raise InputError(
            f"One-run audit: {correct} correct of {guesses} guesses on {canaries} canaries; "
            f"0 <= correct <= guesses <= canaries is needed, and a guess."
        )
    if not 0 <= delta < 1 or not 0 < significance < 1:
        raise InputError(f"One-run audit: delta={delta} must lie in [0, 1) and significance={significance} in (0, 1).")
    low, high = 0.0, 1.0
    if p_value(canaries, guesses, correct, 0.0, delta) >= significance:
        return Bound(0.0, canaries, guesses, correct, delta, significance)
    while p_value(canaries, guesses, correct, high, delta) < significance:
        low, high = high, high + 1
    for _ in range(STEPS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) < significance:
            low = middle
        else:
            high = middle
    return Bound(low, canaries, guesses, correct, delta, significance)


def one_run_bound(
    scores: ArrayLike,
    included: ArrayLike,
    guesses: int | Sequence[int],
    *,
    delta: float = 0.0,
    significance: float = 0.05,
    seed: int = 0,
) -> Bound:
    """Guess the coins of the canaries from their scores, and bound epsilon.

    Of r guesses the half with the highest scores (one more if r is odd) is guessed in, the half with the lowest out;
    the rest is left open. Equal scores are put in an order drawn from the seed, never in that of the rows. The coins
    are looked at once, to count.

    r must be fixed in advance. Where several are named, each is tested at significance / (their number), which
    makes the largest of the bounds valid (Bonferroni).

    Args:
        scores: [m] of the canaries under the trained model, higher = more likely included.
        included: [m] their coins: independent and fair. Putting in exactly half of them is close to that, not the same.
        guesses: r, even or odd; or several.
        delta: Of the guarantee tested.
        significance: Probability with which the bound may be too large.
        seed: Orders equal scores.

    Returns:
        The bound; `significance` is the one its r was tested at.

    Raises:
        InputError: As `epsilon_bound`; scores and coins that do not match, a NaN score, no r.
    """
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included)
    if values.ndim != 1 or coins.shape != values.shape or coins.dtype != np.bool_:
        raise InputError(f"Scores of shape {values.shape} need one true or false coin each; found {coins.dtype}.")
    if np.isnan(values).any():
        raise InputError(f"The score of canary {int(np.isnan(values).argmax()) + 1} is NaN.")
    if len(coins) == 0 or coins.all() or not coins.any():
        raise InputError(f"{int(coins.sum())} of {len(coins)} canaries are included: those are no fair coins.")
    planned = list(dict.fromkeys(int(r) for r in np.atleast_1d(guesses)))
    wrong = [r for r in planned if not 1 <= r <= len(coins)]
    if not planned or wrong:
        raise InputError(f"One-run audit: guesses={wrong or planned}; name numbers from 1 to {len(coins)}.")
    order = np.lexsort((np.random.default_rng(seed).random(len(values)), values))
    ranked = coins[order]
    each = significance / len(planned)
    bounds = [epsilon_bound(len(coins), r, _correct(ranked, r), delta, each) for r in planned]
    return max(bounds, key=lambda bound: bound.epsilon)


def _correct(ranked: Bools, guesses: int) -> int:
    """Right guesses among canaries by rising score: the top half is called in, the bottom half out."""
    top = (guesses + 1) // 2
    return int(ranked[len(ranked) - top :].sum() + (~ranked[: guesses - top]).sum())
