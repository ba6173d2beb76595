"""Training-data detection for every wing: detectors over per-token signals, exact curves over their scores.

Knows no wing. Every score is oriented **higher = more like a member**, so AUROC 1 is a full leak, 0.5 is
guessing, and below 0.5 the members look *less* trained than data no model has seen (over-forgetting, which
an attacker detects just as well). TOFU's card and the public code orient scores the other way and
compute P(score of a non-member > score of a member): the same AUROC.
"""

from expunge.membership.curves import (
    Roc,
    auroc,
    auroc_interval,
    balanced_accuracy,
    roc_curve,
    tpr_at_fpr,
    tpr_at_fpr_interval,
)
from expunge.membership.detectors import (
    compressed_bytes,
    loss,
    min_k,
    min_k_plus_plus,
    reference,
    zlib_ratio,
)
from expunge.membership.privleak import PrivLeak, privleak

__all__ = [
    "PrivLeak",
    "Roc",
    "auroc",
    "auroc_interval",
    "balanced_accuracy",
    "compressed_bytes",
    "loss",
    "min_k",
    "min_k_plus_plus",
    "privleak",
    "reference",
    "roc_curve",
    "tpr_at_fpr",
    "tpr_at_fpr_interval",
    "zlib_ratio",
]
