"""Training-data detection for every wing: detectors over signals of a model, and what follows from their scores.

Detectors read per-token signals (`loss`, `min_k`, ...) or, for classifiers, `Signals` and those of `References`
(`metric_loss` to `model_robust`). From scores come exact curves, honest thresholds (`calibrated_threshold`), the share
of records still in use (`used_share`) and a lower bound on epsilon (`one_run_bound`).

Knows no wing. Every score is oriented **higher = more like a member**, so AUROC 1 is a full leak, 0.5 is
guessing, and below 0.5 the members look *less* trained than data no model has seen (over-forgetting, which
an attacker detects just as well). The public code of TOFU and others orients scores the other way and
computes P(score of a non-member > score of a member): the same AUROC.
"""

from expunge.membership.case import (
    Case,
    HeldModels,
    audit_case,
    tddbench_case,
)
from expunge.membership.classifier import (
    Classifier,
    Records,
    SklearnClassifier,
    TorchClassifier,
)
from expunge.membership.curves import (
    Roc,
    Steps,
    auroc,
    auroc_interval,
    balanced_accuracy,
    by_membership,
    roc_curve,
    roc_steps,
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
from expunge.membership.learners import (
    Learner,
    SklearnLearner,
    TorchLearner,
    Training,
)
from expunge.membership.metric_based import (
    metric_conf,
    metric_corr,
    metric_ent,
    metric_loss,
    metric_ment,
)
from expunge.membership.model_based import (
    model_calibration,
    model_fpr,
    model_lira,
    model_loss,
    model_population,
)
from expunge.membership.privacy_bound import (
    Bound,
    epsilon_bound,
    one_run_bound,
    p_value,
)
from expunge.membership.privleak import (
    PrivLeak,
    privleak,
)
from expunge.membership.references import (
    References,
    StandIn,
)
from expunge.membership.resolution import (
    LowRate,
    Resolution,
    resolution,
    tpr_at_low_fpr,
)
from expunge.membership.robust import (
    PUBLISHED_A,
    ChosenA,
    Population,
    choose_a,
    model_robust,
)
from expunge.membership.roster import (
    Limits,
)
from expunge.membership.signals import (
    Signals,
)
from expunge.membership.suite import (
    ALL,
    Detection,
    calibrate,
    run_suite,
)
from expunge.membership.thresholds import (
    Calibration,
    DecisionRates,
    PublishedRates,
    StandInScores,
    calibrated_threshold,
    published_rates,
    rates_at,
    stand_in_scores,
)
from expunge.membership.usage import (
    Usage,
    used_share,
)

__all__ = [
    "ALL",
    "PUBLISHED_A",
    "Bound",
    "Calibration",
    "Case",
    "ChosenA",
    "Classifier",
    "DecisionRates",
    "Detection",
    "HeldModels",
    "Learner",
    "Limits",
    "LowRate",
    "Population",
    "PrivLeak",
    "PublishedRates",
    "Records",
    "References",
    "Resolution",
    "Roc",
    "Signals",
    "SklearnClassifier",
    "SklearnLearner",
    "StandIn",
    "StandInScores",
    "Steps",
    "TorchClassifier",
    "TorchLearner",
    "Training",
    "Usage",
    "audit_case",
    "auroc",
    "auroc_interval",
    "balanced_accuracy",
    "by_membership",
    "calibrate",
    "calibrated_threshold",
    "choose_a",
    "compressed_bytes",
    "epsilon_bound",
    "loss",
    "metric_conf",
    "metric_corr",
    "metric_ent",
    "metric_loss",
    "metric_ment",
    "min_k",
    "min_k_plus_plus",
    "model_calibration",
    "model_fpr",
    "model_lira",
    "model_loss",
    "model_population",
    "model_robust",
    "one_run_bound",
    "p_value",
    "privleak",
    "published_rates",
    "rates_at",
    "reference",
    "resolution",
    "roc_curve",
    "roc_steps",
    "run_suite",
    "stand_in_scores",
    "tddbench_case",
    "tpr_at_fpr",
    "tpr_at_fpr_interval",
    "tpr_at_low_fpr",
    "used_share",
    "zlib_ratio",
]
