"""Membership inference on answers: can forget records be told from records no model has seen?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.errors import InputError, nearest
from expunge.language.metrics._common import Floats, require_tokens, row_nll
from expunge.membership import (
    auroc_interval,
    compressed_bytes,
    loss,
    min_k,
    min_k_plus_plus,
    reference,
    roc_curve,
    tpr_at_fpr_interval,
    zlib_ratio,
)
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def membership_scores(
    detector: str,
    store: EvidenceStore,
    split: str,
    *,
    k: float = 0.4,
    reference_store: EvidenceStore | None = None,
) -> Floats:
    """[n] scores of a split's answers, higher = more like a member.

    All labelled tokens count for loss, zlib and reference; the Min-K family leaves the end of sequence out.

    Args:
        detector: One of ``DETECTORS``.
        store: The model attacked.
        split: Records scored.
        k: Share of tokens for the Min-K family.
        reference_store: A model that has not seen the records; ``reference`` needs it.

    Raises:
        InputError: No such detector or split, ``reference`` without a reference model, or a row without
            tokens.
        RunError: A NaN loss.
    """
    if detector not in DETECTORS:
        raise InputError(f"Unknown membership detector {detector!r}.{nearest(detector, DETECTORS)}")
    scores = store.answers(split)
    row_nll(scores, split)  # refuses rows without tokens and NaN losses
    if detector in ("min_k", "min_k_plus_plus"):
        scores = scores.without_eos()
        require_tokens(scores, split)
        if detector == "min_k":
            return min_k(scores.logprob, scores.offsets, k)
        return min_k_plus_plus(scores.logprob, scores.mean, scores.variance, scores.offsets, k)
    score = loss(scores.logprob, scores.offsets)
    if detector == "zlib":
        return zlib_ratio(score, compressed_bytes([r.answer for r in store.records(split)]))
    if detector == "reference":
        if reference_store is None:
            raise InputError("The membership detector 'reference' needs a gold model to compare with.")
        other = reference_store.answers(split)
        row_nll(other, split)
        return reference(score, loss(other.logprob, other.offsets))
    return score


def loss_roc(store: EvidenceStore, members: str = "forget", non_members: str = "holdout") -> dict[str, Any]:
    """The ROC curve of the loss detector as plain data: ``fpr``, ``tpr``, ``detector``."""
    sides = [membership_scores("loss", store, split) for split in (members, non_members)]
    curve = roc_curve(*sides)
    return {"fpr": curve.fpr.tolist(), "tpr": curve.tpr.tolist(), "detector": "loss"}


@dataclass(frozen=True)
class Membership:
    """Likelihood membership inference: AUROC and TPR at 1% FPR of forget records against unseen ones.

    The ideal is gold's value: 0.5 only if the two sets differ in nothing but training, and a value below
    gold's is detectable over-forgetting. ``reference`` uses the gold model as the attacker's reference, the
    best one there is; without gold it is left out, and for gold itself its scores are all 0, so its AUROC is
    0.5. The TPR is left out below 100 non-members, which cannot resolve 1%.

    Attributes:
        members: Records whose training is to be detected. Source: reference code.
        non_members: Records no model was trained on. Source: reference code.
        detectors: Names of detectors. Source: reference code (its gradnorm left out).
        k: Share of tokens for Min-K% and Min-K%++. Source: reference code.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "Yeom et al. 2018 (loss, arXiv 1709.01604); Carlini et al. 2021 (zlib, reference, arXiv 2012.07805); "
        "Shi et al. 2024 (Min-K%, arXiv 2310.16789); Zhang et al. 2025 (Min-K%++, arXiv 2404.02936); "
        "settings as in Dorna et al., OpenUnlearning, 2025 (arXiv 2506.12618)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    detectors: tuple[str, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    k: float = 0.4
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in self.detectors:
            if name not in DETECTORS:
                raise InputError(f"membership: unknown detector {name!r}.{nearest(name, DETECTORS)}")
        if not 0 < self.k <= 1:
            raise InputError(f"membership: k={self.k} must lie in (0, 1].")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``membership.DETECTOR.auroc`` and ``.tpr_at_1_fpr``, filed under the members' split.

        Raises:
            InputError: A split is missing or empty, or a row has no labelled token.
            RunError: A NaN loss.
        """
        names = [d for d in self.detectors if d != "reference" or gold is not None]
        return [finding for name in names for finding in self._measure(name, model, gold)]

    def _measure(self, detector: str, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        splits = (self.members, self.non_members)
        x, y = (membership_scores(detector, model, s, k=self.k, reference_store=gold) for s in splits)
        a, b = (model.clusters(s) for s in splits)
        found = {"auroc": auroc_interval(x, y, a, b, seed=self.seed, draws=self.draws)}
        if len(y) >= 100:
            found["tpr_at_1_fpr"] = tpr_at_fpr_interval(x, y, a, b, 0.01, seed=self.seed, draws=self.draws)
        return [
            Finding(
                f"membership.{detector}.{name}",
                self.members,
                model.name,
                *ends,
                len(x) + len(y),
                "match-gold",
            )
            for name, ends in found.items()
        ]


DETECTORS = Membership.detectors
