"""RWKU's membership texts: mean loss, zlib, Min-K% and Min-K%++ of two sets, and how well they tell the sets apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, mean_finding, require_tokens, row_nll
from expunge.membership import (
    auroc_interval,
    compressed_bytes,
    loss,
    min_k,
    min_k_plus_plus,
    zlib_ratio,
)
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def detector_name(family: str, k: float) -> str:
    """A detector and its share of tokens.

    >>> detector_name("min_k", 0.2), detector_name("min_k_plus_plus", 0.125)
    ('min_k_20', 'min_k_plus_plus_12_5')
    """
    return f"{family}_{100 * k:g}".replace(".", "_")


@dataclass(frozen=True)
class RwkuMembership:
    """Mean membership signals of texts about the targets (FM) and about others (RM), both in training.

    The means are signed as the paper prints them, up when a text becomes less likely: LOSS is the mean token
    negative log-likelihood in nats, Zlib that over the bytes of the compressed text, Min-K% and Min-K%++ minus their
    usual scores. Printed is 100 times the loss. They are no test of membership; the AUROC of FM against RM is
    (0.5: they look alike; below: the forgotten ones look less familiar). Only the text's own tokens are scored, also
    under a guard that puts a sentence before them; the reference code scores that sentence too, and has the sign of
    the loss turned round and Min-K%++ filed under Min-K%.

    Attributes:
        members: Texts about the targets. Source: paper (FM).
        others: Texts about others. Source: paper (RM).
        ks: Shares of tokens for Min-K% and Min-K%++. Source: ours (reference code: every tenth).
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "Jin et al., RWKU, NeurIPS 2024 (arXiv 2406.10890); the AUROC is ours. Detectors: Yeom et al. 2018 (arXiv "
        "1709.01604), Carlini et al. 2021 (arXiv 2012.07805), Shi et al. 2024 (arXiv 2310.16789), Zhang et al. 2025 "
        "(arXiv 2404.02936)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget_mia"
    others: str = "retain_mia"
    ks: tuple[float, ...] = (0.2, 0.5, 1.0)
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        for k in self.ks:
            if not 0 < k <= 1:
                raise InputError(f"rwku-membership: ks: {k} must lie in (0, 1].")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``rwku.membership.DETECTOR`` on both splits, and ``rwku.membership.DETECTOR.auroc`` on the members.

        Raises:
            InputError: A split is missing or empty, or a text has no token to score.
            RunError: A NaN loss.
        """
        splits = (self.members, self.others)
        sides = [self._scores(model, split) for split in splits]
        found = []
        for name in sides[0]:
            for split, scores in zip(splits, sides, strict=True):
                mean = mean_finding(f"rwku.membership.{name}", split, model, -scores[name])
                found.append(mean if split == self.members else replace(mean, direction="match-gold"))
            x, y = (scores[name] for scores in sides)
            ends = auroc_interval(x, y, *(model.clusters(s) for s in splits), seed=self.seed, draws=self.draws)
            label = f"rwku.membership.{name}.auroc"
            found.append(Finding(label, self.members, model.name, *ends, n=len(x) + len(y), direction="match-gold"))
        return found

    def _scores(self, model: EvidenceStore, split: str) -> dict[str, Floats]:
        """Detector to [n] scores of a split's texts, higher = more like a member; ends of texts do not count."""
        scores = model.answers(split).without_eos()
        require_tokens(scores, split, "text")
        row_nll(scores, split, "text")  # refuses NaN losses
        mean = loss(scores.logprob, scores.offsets)
        found = {
            "loss": mean,
            "zlib": zlib_ratio(mean, compressed_bytes([r.answer for r in model.records(split)])),
        }
        for k in self.ks:
            found[detector_name("min_k", k)] = min_k(scores.logprob, scores.offsets, k)
        for k in self.ks:
            found[detector_name("min_k_plus_plus", k)] = min_k_plus_plus(
                scores.logprob, scores.mean, scores.variance, scores.offsets, k
            )
        return found
