"""PrivLeak: how far a membership AUROC lies from the gold model's (Shi et al., MUSE, arXiv 2407.06460)."""

from __future__ import annotations

from typing import NamedTuple

from expunge.errors import InputError


class PrivLeak(NamedTuple):
    """PrivLeak in percent, with the two AUROCs it is made of: without them the value cannot be read."""

    value: float
    unlearned_auroc: float
    gold_auroc: float


def privleak(unlearned_auroc: float, gold_auroc: float | None) -> PrivLeak:
    """PrivLeak in percent: 0 ideal, negative still member-like, positive over-unlearned.

    PrivLeak = 100 * ((1 - A_u) - (1 - A_r)) / (1 - A_r), A the AUROC of Min-K% with members scoring higher
    (MUSE writes it with its own AUROC, which is 1 - A). It runs from -100 (A_u = 1, a full leak) to
    100 A_r / (1 - A_r), which has no bound of its own: values in the thousands only say that A_r is near 1.

    >>> round(privleak(0.0, 1 - 0.4772).value, 2), privleak(1.0, 0.5).value, privleak(0.6, 0.6).value
    (109.56, -100.0, 0.0)

    Args:
        unlearned_auroc: A_u, of the unlearned model.
        gold_auroc: A_r, of the gold model.

    Raises:
        InputError: No gold AUROC (public code then silently takes 0.5, which is wrong wherever the two sets
            differ by more than training), an AUROC outside [0, 1], or a gold AUROC of 1.
    """
    if gold_auroc is None:
        raise InputError("PrivLeak compares with the gold model, and there is none: give or train one.")
    for name, value in (("unlearned", unlearned_auroc), ("gold", gold_auroc)):
        if not 0 <= value <= 1:  # NaN fails this too
            raise InputError(f"PrivLeak: the {name} AUROC is {value}; it must lie in [0, 1].")
    if gold_auroc == 1:
        raise InputError("PrivLeak is undefined: the gold AUROC is 1, so the sets differ without training.")
    return PrivLeak(100 * (gold_auroc - unlearned_auroc) / (1 - gold_auroc), unlearned_auroc, gold_auroc)
