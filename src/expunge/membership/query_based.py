"""Detectors that ask the model about more than the record itself, as in TDDBench (Zhu et al. 2025, arXiv 2411.03363).

The six are `query_neighbor`, `query_augment`, `query_adv` and `query_transfer` here, `query_qrm` in `quantile` and
`query_ref` in `canary`. Each gives a `Queried`: scores, higher = more like a member, and what they cost in questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError
from expunge.membership.attack_network import AttackSettings, train_attack
from expunge.membership.augmentations import (
    SHARE,
    Neighbours,
    augmented_copies,
    in_range,
    neighbours_of,
    noisy_copies,
)
from expunge.membership.classifier import Classifier, Floats, Inputs, Ints, Records
from expunge.membership.hopskipjump import BoundarySettings, hop_skip_jump
from expunge.membership.signals import Signals


@dataclass(frozen=True, eq=False)
class Queried:
    """Scores of a query-based detector and what it asked.

    Attributes:
        scores: [k] higher = more like a member.
        queries: [k] records put to the model under attack for each of them, the record itself among them.
        shared: Records put to it that serve all of them together. All its queries are ``queries.sum() + shared``.
        other_queries: Records put to reference models.
        gradients: Records run forward and backward through reference models.
        trainings: Models trained: proxies, regressors, attack networks. Reference models are the caller's to count.
        rows: [k] which of the records were scored; None for all of them.
        notes: Remarks for the reader.
    """

    scores: Floats
    queries: Ints
    shared: int = 0
    other_queries: int = 0
    gradients: int = 0
    trainings: int = 0
    rows: Ints | None = None
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All records put to the model under attack."""
        return int(self.queries.sum()) + self.shared


class Train(Protocol):
    """How a model of the attacked kind is trained; a `Learner`'s ``fit``."""

    def __call__(self, records: Records, seed: int, /) -> Classifier:
        """A classifier fitted to these records."""
        ...


# -- neighbours ---------------------------------------------------------------------------------------


def query_neighbor(
    target: Classifier,
    records: Records,
    *,
    seed: int,
    queries: int = 10,
    share: float = SHARE,
    neighbours: Neighbours | None = None,
) -> Queried:
    """A record the model has seen lies in a dip of its loss (Jayaraman et al. 2021, 2005.10881; Mattern et al. 2023).

    Numbers: the share of noisy copies whose cross entropy is above the record's (`noisy_copies`). Texts: the mean cross
    entropy of the neighbours minus the record's (arXiv 2305.18462), in nats.

    Args:
        target: The model under attack.
        records: Records with their true labels; their kind chooses the noise.
        seed: Fixes the noise.
        queries: Copies Q of each record; of a text at most so many neighbours.
        share: See `noisy_copies`; 0 leaves no copy above, and all scores 0.
        neighbours: Texts and a number to at most so many similar texts for each; for texts only.

    Returns:
        [n] scores; Q + 1 queries each, of a text one more than it has neighbours.

    Raises:
        InputError: Q below 1, answers that are not finite, labels beyond the classes, a text without neighbours.
    """
    _at_least_one(queries)
    if records.kind == "text":
        found = neighbours_of(records, neighbours, queries)
        own = _ce(target, records, records.inputs)
        many = np.array([len(similar) for similar in found])
        flat = Signals(target.logits([text for similar in found for text in similar]), np.repeat(records.labels, many))
        mean = np.add.reduceat(flat.ce, np.cumsum(many) - many) / many
        return Queried(mean - own, 1 + many)
    own, above = _ce(target, records, records.inputs), np.zeros(len(records))
    for copy in noisy_copies(records, queries, seed, share):
        above += _ce(target, records, copy) > own
    return Queried(above / queries, _each(records, queries + 1))


def _ce(target: Classifier, records: Records, inputs: Inputs) -> Floats:
    return Signals(target.logits(inputs), records.labels).ce


# -- augmentations ------------------------------------------------------------------------------------


def query_augment(
    target: Classifier,
    records: Records,
    reference: Classifier,
    known: Records,
    inside: ArrayLike,
    *,
    seed: int,
    queries: int = 10,
    settings: AttackSettings | None = None,
    neighbours: Neighbours | None = None,
) -> Queried:
    """A record the model has seen stays right when it is augmented (Choquette-Choo et al. 2021, arXiv 2007.14321).

    Whether the model is right on the record and on each of Q augmented copies (`augmented_copies`; of texts neighbours)
    is a vector of Q + 1. Those of a reference model, whose training data is known, train the attack network.

    Args:
        target: The model under attack.
        records: Records with their true labels.
        reference: A reference model.
        known: Records of its pool.
        inside: [m] which of these it was trained on.
        seed: Fixes copies and network.
        queries: Copies Q of each record. A text with fewer neighbours has them repeated in its vector, and is asked
            about each once.
        settings: Of the network.
        neighbours: See `query_neighbor`.

    Returns:
        [n] P(member) of the network; Q + 1 queries each, as many of the reference model for each known record.

    Raises:
        InputError: As `query_neighbor`; one of the two sides of `inside` is missing.
    """
    _at_least_one(queries)
    if known.kind != records.kind:
        raise InputError(f"The records are of kind {records.kind!r} and the known ones of kind {known.kind!r}.")
    taught, spent = correctness(reference, known, queries, seed, neighbours)
    network = train_attack(taught, inside, seed=seed, settings=settings)
    asked, own = correctness(target, records, queries, seed, neighbours)
    return Queried(network.score(asked), own, other_queries=int(spent.sum()), trainings=1)


def correctness(
    classifier: Classifier, records: Records, copies: int, seed: int, neighbours: Neighbours | None = None
) -> tuple[Floats, Ints]:
    """[n, copies + 1] 1 where a model is right on a record (first column) and its augmented copies; [n] queries."""
    if records.kind == "text":
        return _correct_texts(classifier, records, copies, neighbours)
    columns = _correct_on(classifier, records, augmented_copies(records, copies, seed))
    return np.stack(list(columns), axis=1), _each(records, copies + 1)


def _correct_texts(
    classifier: Classifier, records: Records, copies: int, neighbours: Neighbours | None
) -> tuple[Floats, Ints]:
    found = neighbours_of(records, neighbours, copies)
    many = np.array([len(similar) for similar in found])
    own = Signals(classifier.logits(records.inputs), records.labels).correct
    texts = [text for similar in found for text in similar]
    flat = Signals(classifier.logits(texts), np.repeat(records.labels, many)).correct
    places = (np.cumsum(many) - many)[:, None] + np.arange(copies) % many[:, None]
    return np.column_stack([own, flat[places]]).astype(np.float64), 1 + many


def _correct_on(classifier: Classifier, records: Records, copies: Iterator[Floats]) -> Iterator[Floats]:
    for inputs in chain([records.inputs], copies):
        yield Signals(classifier.logits(inputs), records.labels).correct.astype(np.float64)


# -- the decision boundary ----------------------------------------------------------------------------


def query_adv(
    target: Classifier,
    records: Records,
    *,
    seed: int,
    queries: int = 10,
    limit: int | None = 1000,
    rows: ArrayLike | None = None,
    settings: BoundarySettings | None = None,
    neighbours: Neighbours | None = None,
) -> Queried:
    """A record the model has seen lies far from the decision boundary (Choquette-Choo et al. 2021; Li and Zhang 2021).

    Images: the L2 distance to it that `hop_skip_jump` finds, within the range of the features; 0 where the image is
    misclassified, and the diagonal of the range where no image of another class is found. Other records: the share of
    the record and Q noisy copies (`noisy_copies`; of texts neighbours) that are classified correctly.

    Args:
        target: The model under attack.
        records: Records with their true labels.
        seed: Fixes all draws.
        queries: Copies Q; not used for images.
        limit: Images attacked, the first ones, as in the published code; None for all. Not used for other records.
        rows: Images to attack in place of the first ones.
        settings: Of the search.
        neighbours: See `query_neighbor`.

    Returns:
        [k] scores, of images `limit` at most: `rows` and a note say which, and such scores must not be set beside
        those of other detectors on all records.

    Raises:
        InputError: As `query_neighbor`; an image holds a value outside the range of the records.
    """
    if records.kind == "image":
        chosen = np.arange(len(records)) if rows is None else np.asarray(rows, dtype=np.int64)
        return _distances(target, records, chosen[: limit if rows is None else None], seed, settings)
    _at_least_one(queries)
    if records.kind == "text":
        vectors, asked = _correct_texts(target, records, queries, neighbours)
        return Queried(vectors.mean(1), asked)
    columns = _correct_on(target, records, noisy_copies(records, queries, seed))
    return Queried(np.mean(list(columns), axis=0), _each(records, queries + 1))


def _distances(
    target: Classifier, records: Records, rows: Ints, seed: int, settings: BoundarySettings | None
) -> Queried:
    images = records.take(rows)
    inputs, low, high = in_range(images)
    if images.labels.max() >= target.classes:
        raise InputError(f"A record has label {images.labels.max()}; the model knows {target.classes} classes.")
    found = hop_skip_jump(
        lambda points: np.asarray(target.logits(points).argmax(1), dtype=np.int64),
        inputs, images.labels, low, high, seed=seed, settings=settings,
    )  # fmt: skip
    scores = np.where(found.found, found.distances, np.linalg.norm(high - low))
    notes = []
    if len(rows) < len(records):
        notes.append(f"{len(rows)} of {len(records)} records: not comparable with detectors that score all of them")
    if not found.found.all():
        notes.append(f"no image of another class was found for {int((~found.found).sum())} of {len(rows)} records")
    return Queried(
        scores, found.queries, found.shared, rows=rows if len(rows) < len(records) else None, notes=tuple(notes)
    )


# -- a proxy ------------------------------------------------------------------------------------------


def query_transfer(
    target: Classifier, records: Records, reference: Records, train: Train, *, seed: int, share: float = 0.8
) -> Queried:
    """What the model taught a proxy through its predicted classes (Li and Zhang 2021, arXiv 2007.15528).

    The reference data are given the classes the target predicts, a proxy learns from `share` of them, and the score is
    its -CE on the record with its *true* class. The rest of them says how well it copies the target, which the notes
    report. The target is never asked about the records themselves, unless they are among the reference data.

    Args:
        target: The model under attack.
        records: Records with their true labels.
        reference: Records of the same kind; their labels are not used.
        train: Trains a model of the attacked kind.
        seed: Of the division and of the training.
        share: Of the reference data to train on.

    Returns:
        [n] scores in nats, at most 0; one query for each reference record, none for the records.

    Raises:
        InputError: Fewer than two reference records, or the target predicts one class for all to train on.
    """
    if len(reference) < 2 or not 0 < share < 1:
        raise InputError(f"A proxy cannot be trained on a share of {share} of {len(reference)} reference records.")
    predicted = np.asarray(target.logits(reference.inputs).argmax(1), dtype=np.int64)
    order = np.random.default_rng([seed, 2]).permutation(len(reference))
    count = min(max(1, round(share * len(reference))), len(reference) - 1)
    kept, apart = order[:count], order[count:]
    if len(np.unique(predicted[kept])) < 2:
        raise InputError(
            f"The target gives all {count} reference records class {predicted[kept][0]}: a proxy learns nothing."
        )
    taught = reference.take(kept)
    proxy = train(Records(taught.inputs, predicted[kept], taught.kind, taught.low, taught.high), seed)
    agreed = proxy.logits(reference.take(apart).inputs).argmax(1) == predicted[apart]
    note = f"the proxy agrees with the target on {agreed.mean():.0%} of {len(apart)} reference records set aside"
    return Queried(
        -_ce(proxy, records, records.inputs), _each(records, 0), len(reference), len(records) + len(apart),
        trainings=1, notes=(note,),
    )  # fmt: skip


def _each(records: Records, count: int) -> Ints:
    return np.full(len(records), count, dtype=np.int64)


def _at_least_one(queries: int) -> None:
    if queries < 1:
        raise InputError(f"queries={queries} must be at least 1.")
