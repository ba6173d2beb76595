"""Forgetting below the head: alignment with gold and with the target, and what neighbours still tell (UUEF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from expunge.errors import InputError
from expunge.report.scorecard import Direction, Finding
from expunge.report.statistics import cluster_bootstrap
from expunge.vision.metrics._common import Floats
from expunge.vision.similarity import Ints, knn_accuracy, linear_cka

if TYPE_CHECKING:
    from expunge.vision.evidence import EvidenceStore

SEED = 2  # of the division of every set, as published


@dataclass(frozen=True)
class Representation:
    """CKA to gold and to the target, k-NN transfer, and the aggregates of "Are We Truly Forgetting?".

    A method that edits the last layer alone passes every test of answers while each feature stays where it was: its
    CKA to the *target* is 1 and its neighbours still tell the forgotten classes apart. Two models that never saw the
    data do not align perfectly either, so the spare gold's values are the ceiling.

    The aggregates' formulas are not printed; they are reconstructed: AGL is the product over the forget and retain
    sets, seen and unseen, of 1 - |accuracy - gold's|; AGR the mean over the transfer sets of CKA(model, gold) times
    1 - |k-NN accuracy - gold's|; H-LR their harmonic mean. Gold itself scores 1 in all three.

    Attributes:
        answers: Sets whose accuracies enter AGL. Source: paper (FA, RA and their validation sets).
        transfer: Sets whose features are compared, each divided 80 to 20 for k-NN. Source: paper.
        k: Neighbours. Source: paper.
        space: What k-NN reads: penultimate ``features``, or ``logits`` as the published code does, whose head is
            never taken off. Source: ours; reference code.
        rows: Images of a set compared, at most; 0 for all. Source: ours (CKA of everything at once, not the mean
            over batches of class-sorted images).
    """

    paper: ClassVar[str] = "Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991); aggregates reconstructed"
    needs_gold: ClassVar[bool] = False

    answers: Sequence[str] = ("forget", "retain", "forget_test", "test")
    transfer: Sequence[str] = ("forget_test", "test")
    k: int = 5
    space: Literal["features", "logits"] = "features"
    rows: int = 4000

    def __post_init__(self) -> None:
        if self.space not in ("features", "logits"):
            raise InputError(f"representation: space={self.space!r}; features or logits.")
        if self.k < 1 or self.rows < 0:
            raise InputError(f"representation: k={self.k} must be at least 1 and rows={self.rows} not negative.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``knn`` of each transfer set, and beside gold ``cka.gold``, ``agl``, ``agr`` and ``h_lr``.

        Raises:
            InputError: A set is missing, too small, or gold's features do not vary on it.
        """
        votes = {split: self._knn(model, split) for split in self.transfer}
        found = [self._knn_finding(model, split, *votes[split]) for split in self.transfer]
        if gold is None:
            return found
        alignment = {split: self._cka(model, gold, split) for split in self.transfer}
        found += [self._single("cka.gold", split, model, value) for split, value in alignment.items()]
        logit = float(np.prod([1 - abs(model.hits(s).mean() - gold.hits(s).mean()) for s in self.answers]))
        gaps = {s: abs(votes[s][0].mean() - self._knn(gold, s)[0].mean()) for s in self.transfer}
        inner = float(np.mean([alignment[s] * (1 - gaps[s]) for s in self.transfer]))
        both = 2 * logit * inner / (logit + inner) if logit + inner else 0.0
        values = {"agl": logit, "agr": inner, "h_lr": both}
        return [*found, *(self._single(name, "all", model, value) for name, value in values.items())]

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """Findings ``cka.target`` of each transfer set: 1 where nothing below the head has changed."""
        return [self._single("cka.target", split, model, self._cka(model, target, split)) for split in self.transfer]

    def _cka(self, model: EvidenceStore, other: EvidenceStore, split: str) -> float:
        """Alignment; 0 for a model so broken that its features are the same for all images."""
        rows = slice(None) if not self.rows else self._order(len(model.labels(split)))[: self.rows]
        ours, theirs = model.features(split)[rows], other.features(split)[rows]
        if np.ptp(theirs, axis=0).any() and not np.ptp(ours, axis=0).any():
            return 0.0
        return linear_cka(ours, theirs)

    def _knn(self, model: EvidenceStore, split: str) -> tuple[Floats, Ints]:
        """Votes on a fifth of a set by the other four fifths, and which images that fifth is."""
        values = model.features(split) if self.space == "features" else model.logits(split)
        labels, order = model.labels(split), self._order(len(values))
        cut = round(0.8 * len(order))
        if cut < self.k or cut == len(order):
            raise InputError(f"representation: the set {split!r} has {len(order)} images, too few for k-NN.")
        train, test = order[:cut], order[cut:]
        return knn_accuracy(values[train], labels[train], values[test], labels[test], self.k), test

    def _knn_finding(self, model: EvidenceStore, split: str, votes: Floats, rows: Ints) -> Finding:
        found = cluster_bootstrap(votes, model.clusters(split)[rows])
        return Finding("knn", split, model.name, *found, len(votes), "match-gold")

    def _order(self, count: int) -> Ints:
        return np.asarray(np.random.default_rng(SEED).permutation(count), dtype=np.int64)

    def _single(self, metric: str, split: str, model: EvidenceStore, value: float) -> Finding:
        unknown = float("nan")
        ideal: Direction = "match-gold" if metric == "cka.target" else "higher"
        n = len(model.labels(split)) if split != "all" else sum(len(model.labels(s)) for s in self.answers)
        return Finding(metric, split, model.name, value, unknown, unknown, n, ideal)
