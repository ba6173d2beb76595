"""Membership inference on answers: can forget records be told from records no model has seen?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.errors import InputError, nearest
from expunge.language.data import Record, Splits
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
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

RATES = {0.01: "tpr_at_1_fpr", 0.001: "tpr_at_0_1_fpr"}  # false positive rates, and what their findings are called


def membership_scores(
    detector: str,
    store: EvidenceStore,
    split: str,
    *,
    k: float = 0.4,
    reference_store: EvidenceStore | None = None,
) -> Floats:
    """[n] scores of a split's answers, higher = more like a member.

    All labelled tokens count for loss, zlib, lowercase and reference; the Min-K family leaves the end of
    sequence out.

    Args:
        detector: One of ``DETECTORS``.
        store: The model attacked.
        split: Records scored.
        k: Share of tokens for the Min-K family.
        reference_store: A model that has not seen the records; ``reference`` needs it.

    Raises:
        InputError: No such detector or split, ``reference`` without a reference model, ``lowercase`` on
            records with questions, or a row without tokens.
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
    if detector == "lowercase":
        return lowercase_ratio(score, lowercased(store, split))
    if detector == "reference":
        if reference_store is None:
            raise InputError("The membership detector 'reference' needs a gold model to compare with.")
        other = reference_store.answers(split)
        row_nll(other, split)
        return reference(score, loss(other.logprob, other.offsets))
    return score


def lowercase_ratio(loss_score: Floats, lowercase_score: Floats) -> Floats:
    """Loss beside that of the lower-cased text (Carlini et al. 2021): minus NLL(text) / NLL(lower-cased text).

    A text that was memorised is much likelier as it was written than in lower case. Mean token NLLs are
    compared, because the two texts have different tokens.

    >>> lowercase_ratio(np.array([-0.1, -2.0]), np.array([-2.0, -2.0])).tolist()
    [-0.05, -1.0]

    Args:
        loss_score: [n] mean token log-probability of the texts, not positive.
        lowercase_score: [n] the same of the lower-cased texts.

    Returns:
        [n] scores, higher = more like a member.
    """
    return loss_score / np.maximum(-lowercase_score, 1e-12)


def lowercased(store: EvidenceStore, split: str) -> Floats:
    """[n] mean token log-probability of a split's texts in lower case, from a pass of their own.

    Raises:
        InputError: A record with a question (the answer to a question is no text of its own), or without tokens.
        RunError: A NaN loss.
    """
    from expunge.language.evidence import EvidenceStore

    records = store.records(split)
    asked = next((i for i, r in enumerate(records, 1) if r.question), None)
    if asked is not None:
        raise InputError(f"The detector 'lowercase' is for plain text; split {split!r}, row {asked} has a question.")
    small = {split: [replace(r, answer=r.answer.lower()) for r in records]}
    beside = EvidenceStore(
        store.name, lambda: store.subject, small, store.folder, batch_tokens=store.batch_tokens
    )  # filed under the content of the small texts
    scores = beside.answers(split)
    row_nll(scores, split, "lower-cased text")
    return loss(scores.logprob, scores.offsets)


def loss_roc(store: EvidenceStore, members: str = "forget", non_members: str = "holdout") -> dict[str, Any]:
    """The ROC curve of the loss detector as plain data: ``fpr``, ``tpr``, ``detector``."""
    sides = [membership_scores("loss", store, split) for split in (members, non_members)]
    curve = roc_curve(*sides)
    return {"fpr": curve.fpr.tolist(), "tpr": curve.tpr.tolist(), "detector": "loss"}


def require_strangers(members: list[Record], others: list[Record], splits: tuple[str, str]) -> None:
    """Refuse a record that is called trained on and unseen at once, up to case and white space.

    Args:
        members: Records that were trained on.
        others: Records that no model has seen.
        splits: What the two sets are called.

    Raises:
        InputError: Names the first such row of both sets, counted from 1.
    """
    known = {_normal(r): i for i, r in reversed(list(enumerate(members, 1)))}
    for j, record in enumerate(others, 1):
        i = known.get(_normal(record))
        if i is not None:
            raise InputError(
                f"Membership: row {i} of {splits[0]!r} and row {j} of {splits[1]!r} are the same but for case and "
                f"white space, and one set was trained on while the other was not: take one of them out."
            )


def _normal(record: Record) -> tuple[str, ...]:
    texts = (*(text for _, text in record.history), record.question, record.answer)
    return tuple(" ".join(text.split()).casefold() for text in texts)


@dataclass(frozen=True)
class Membership:
    """Likelihood membership inference: AUROC and TPR at 1% and 0.1% FPR of forget records against unseen ones.

    The ideal is gold's value: 0.5 only if the two sets differ in nothing but training, and a value below
    gold's is detectable over-forgetting. ``reference`` uses the gold model as the attacker's reference, the
    best one there is; without gold it is left out, and for gold itself its scores are all 0, so its AUROC is
    0.5. A rate that the non-members cannot resolve (1% needs 100 of them, 0.1% a thousand) is left out and
    noted. ``lowercase``, off by default, compares plain texts with themselves in lower case and costs one more
    pass; everything else is read off the one pass that scores the answers.

    Attributes:
        members: Records whose training is to be detected. Source: reference code.
        non_members: Records no model was trained on. Source: reference code.
        detectors: Names of detectors; ``lowercase`` besides those of the default. Source: reference code (its
            gradnorm is the metric gradient-norm).
        k: Share of tokens for Min-K% and Min-K%++. Source: reference code.
        ks: Further shares of tokens at which the AUROC of Min-K% is measured. Source: ours.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "Yeom et al. 2018 (loss, arXiv 1709.01604); Carlini et al. 2021 (zlib, lowercase, reference, arXiv "
        "2012.07805); Shi et al. 2024 (Min-K%, arXiv 2310.16789); Zhang et al. 2025 (Min-K%++, arXiv 2404.02936); "
        "settings as in Dorna et al., OpenUnlearning, 2025 (arXiv 2506.12618)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    detectors: tuple[str, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    k: float = 0.4
    ks: tuple[float, ...] = ()
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in self.detectors:
            if name not in DETECTORS:
                raise InputError(f"membership: unknown detector {name!r}.{nearest(name, DETECTORS)}")
        for name, values in (("k", (self.k,)), ("ks", self.ks)):
            for value in values:
                if not 0 < value <= 1:
                    raise InputError(f"membership: {name}={value} must lie in (0, 1].")

    def check(self, splits: Splits) -> None:
        """Refuse splits that share a record; one that is missing is left to `measure`.

        Raises:
            InputError: Names both rows.
        """
        if self.members in splits and self.non_members in splits:
            require_strangers(splits[self.members], splits[self.non_members], (self.members, self.non_members))

    def notes(self, splits: Splits) -> list[str]:
        """What a reader of the findings should know about these splits."""
        count = len(splits.get(self.non_members, ()))
        missing = [f"{100 * rate:g}%" for rate in RATES if not resolves(count, rate)]
        if not count or not missing:
            return []
        return [
            f"Membership: {count} non-members resolve no false positive rate below 1/{count} = {1 / count:.2%}, "
            f"so the true positive rate at {' and '.join(missing)} is left out."
        ]

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``membership.DETECTOR.auroc``, ``.tpr_at_1_fpr``, ``.tpr_at_0_1_fpr``, and ``min_k_K.auroc``.

        All are filed under the members' split.

        Raises:
            InputError: A split is missing or empty, a row has no labelled token, or a record is on both sides.
            RunError: A NaN loss.
        """
        splits = (self.members, self.non_members)
        require_strangers(model.records(splits[0]), model.records(splits[1]), splits)
        names = [d for d in self.detectors if d != "reference" or gold is not None]
        found = []
        for name in names:
            sides = [membership_scores(name, model, s, k=self.k, reference_store=gold) for s in splits]
            found += detection(name, model, splits, sides, seed=self.seed, draws=self.draws)
        for k in self.ks:
            sides = [membership_scores("min_k", model, s, k=k) for s in splits]
            name = f"min_k_{100 * k:g}".replace(".", "_")
            found += detection(name, model, splits, sides, seed=self.seed, draws=self.draws, rates=())
        return found


def resolves(non_members: int, rate: float) -> bool:
    """Whether so many non-members resolve a false positive rate.

    >>> resolves(100, 0.01), resolves(99, 0.01), resolves(1000, 0.001)
    (True, False, True)
    """
    return non_members * rate >= 1 - 1e-9


def detection(
    detector: str,
    store: EvidenceStore,
    splits: tuple[str, str],
    sides: Sequence[Floats],
    *,
    seed: int = 0,
    draws: int = 1000,
    rates: Iterable[float] = RATES,
) -> list[Finding]:
    """Findings ``membership.DETECTOR...``: AUROC and TPR at low FPR of scores, with intervals over clusters.

    Args:
        detector: What the scores are called.
        store: The model that was scored, and whose clusters these are.
        splits: Members and non-members.
        sides: [n] and [m] scores of the two, higher = more like a member.
        seed: Seeds the bootstrap.
        draws: Bootstrap draws.
        rates: False positive rates; those the non-members do not resolve are left out.
    """
    x, y = sides
    a, b = (store.clusters(s) for s in splits)
    found: dict[str, Interval] = {"auroc": auroc_interval(x, y, a, b, seed=seed, draws=draws)}
    for rate in rates:
        if resolves(len(y), rate):
            found[RATES[rate]] = tpr_at_fpr_interval(x, y, a, b, rate, seed=seed, draws=draws)
    return [
        Finding(f"membership.{detector}.{name}", splits[0], store.name, *ends, len(x) + len(y), "match-gold")
        for name, ends in found.items()
    ]


DETECTORS = (*Membership.detectors, "lowercase")
