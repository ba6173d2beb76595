"""Carrying out one method on one recommender: the streams it draws from, and the training it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from expunge.engine.gradients import Turn
from expunge.engine.loop import Loop, Observers, Stream, TrainLog
from expunge.engine.method import Edit, Guard, Method, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.recommend.data import Features, Interactions, require_subset
from expunge.recommend.forward import pair_stream
from expunge.recommend.graph import Graph
from expunge.recommend.sampling import Negatives
from expunge.recommend.subject import Subject


@dataclass
class UnlearnJob:
    """One request: which interactions to forget, which to keep, and how training is to be done.

    Attributes:
        subject: The target, serving both; methods work on its weights in place.
        forget: Interactions that must go.
        retain: Interactions that must stay.
        training: Settings of the loop.
        seed: Fixes every random draw.
        folder: Where checkpoints go; None for none.
        observers: Probes, selection, progress.
        base: Makes the subject as it was before it was trained on these interactions (for retraining).
        base_training: How the target was trained from it.
        held_out: Interactions of the same users that no model was trained on (the validation set).
        features: Features of the items, for methods that change them.
        keep_as_negatives: Items whose erasure is asked for stay in the catalogue and are drawn as negatives; by
            default they leave it.
        logs: What happened in each training this job caused.
    """

    subject: Subject
    forget: Interactions
    retain: Interactions
    training: Training
    seed: int = 0
    folder: Path | None = None
    observers: Observers | None = None
    base: Callable[[], Subject] | None = None
    base_training: Training | None = None
    held_out: Interactions | None = None
    features: Features | None = None
    keep_as_negatives: bool = False
    logs: list[TrainLog] = field(default_factory=list)

    # -- what is served ------------------------------------------------------------------------------

    @property
    def catalogue(self) -> Tensor | None:
        """Bool [items] that may be recommended afterwards: without the items whose erasure is asked for; None: all."""
        offered, gone = self.subject.catalogue, erased_items(self.forget)
        if self.keep_as_negatives or not len(gone):
            return offered
        left = torch.ones(self.retain.items, dtype=torch.bool) if offered is None else offered.clone()
        left[gone] = False
        return left

    def dropped(self, subject: Subject | None = None) -> Subject:
        """The subject (by default the target) with its own weights, serving the retained interactions alone."""
        return (subject or self.subject).with_served(self.retain, self.catalogue)

    # -- training ------------------------------------------------------------------------------------

    def train(
        self,
        method: Trained,
        subject: Subject,
        training: Training | None = None,
        *,
        part: str = "",
        quiet: bool = False,
        streams: Mapping[str, Stream] | None = None,
        turns: Sequence[Turn] | None = None,
        reference: nn.Module | None = None,
    ) -> Subject:
        """Train a subject in place with a loss over the graph it serves, and return it.

        Args:
            method: The loss.
            subject: What to train.
            training: Settings other than the job's.
            part: Name of this training when a method needs more than one (its own checkpoints).
            quiet: Leave the probes out (for an intermediate model nobody selects).
            streams: Ready-made streams; None makes them from the job's interactions.
            turns: Which side each step has; None gives every step both.
            reference: The reference model, if it is not the subject as it stands.

        Raises:
            InputError: A set the method needs is empty; a divided batch, and a model that penalises it as a whole.
        """
        training = training or self.training
        if subject.model.couples_batch and training.micro_batch is not None:
            raise InputError(
                f"micro_batch={training.micro_batch}: the penalty of {type(subject.model).__name__} is a norm over "
                f"the whole batch, which cannot be divided; leave micro_batch out."
            )
        if streams is None:
            streams = self.streams(method, training, subject)
        if streams and not any(len(stream.order) for stream in streams.values()):  # no step, no visit: nothing to do
            self.logs.append(TrainLog())
            return subject
        observers = self.observers
        if quiet and observers is not None:
            observers = replace(observers, probe=None, score=None)
        folder = self.folder / part if self.folder and part else self.folder
        loop = Loop(
            subject.model, method, streams, training, seed=self.seed, folder=folder, observers=observers,
            reference=reference, turns=turns,
        )  # fmt: skip
        self.logs.append(loop.run())
        return subject

    def streams(self, method: Trained, training: Training, subject: Subject) -> dict[str, Stream]:
        """What the method draws from, and which pairs each step sees, over the subject's graph.

        An epoch is one pass over the forget set; each step joins its forgotten pairs with as many retained ones drawn
        uniformly. A method without a forget side passes over the retain set instead, and never sees the forget set.

        Raises:
            InputError: A set the method needs is empty.
        """
        sets = {"forget": self.forget, "retain": self.retain}
        for name in method.streams:
            require(sets[name], name, method)
        driving = self.forget if method.has_forget else self.retain
        steps, batch = training.total_steps(len(driving)), training.batch_size
        negatives = self.negatives(subject, forget=method.has_forget)
        streams = {}
        for name in method.streams:
            draw = epochs if name == "forget" or not method.has_forget else uniform
            order = draw(len(sets[name]), steps, batch, self.seed, name)
            streams[name] = self.stream(sets[name], order, name, subject.graph, negatives)
        return streams

    def negatives(self, subject: Subject, *, forget: bool = True) -> Negatives:
        """Draws items of the subject's catalogue that users have neither kept nor (by default) asked to forget.

        A method with a forget side must not push a forgotten item down as a negative and up or down as a positive in
        one step; one that knows the retained interactions alone (`forget` false) cannot tell it from any other.
        """
        return Negatives(self.retain.union(self.forget) if forget else self.retain, subject.catalogue)

    def stream(
        self, interactions: Interactions, order: Tensor, purpose: str, graph: Graph, negatives: Negatives
    ) -> Stream:
        """A stream of interactions in a given order; streams of one training have different purposes."""
        return pair_stream(interactions.pairs, order, graph, negatives, derive_seed(self.seed, purpose))

    def passes(
        self, interactions: Interactions, count: int, batch: int, purpose: str, graph: Graph, negatives: Negatives
    ) -> Stream:
        """A stream of `count` whole passes over some interactions in steps of `batch`, each pass in a fresh order."""
        steps = count * -(-len(interactions) // batch)
        order = epochs(len(interactions), steps, batch, self.seed, purpose)
        return self.stream(interactions, order, purpose, graph, negatives)


class FeatureEdit(Edit):
    """An edit that takes features of items away; the interactions of the request stay in what the model serves from."""


def erased_items(forget: Interactions) -> Tensor:
    """int64 [k] items whose own erasure a request asks for (``item:7`` in `Interactions.about`)."""
    names = {name for name in forget.about if name.startswith("item:")}
    return torch.tensor(sorted(int(name.removeprefix("item:")) for name in names), dtype=torch.long)


def emptied_nodes(job: UnlearnJob) -> Tensor:
    """int64 [k] nodes that had interactions and have none any more (user u -> u, item i -> users + i)."""
    kept = torch.cat(job.retain.degrees)
    return ((torch.cat(job.forget.degrees) > 0) & (kept == 0)).nonzero()[:, 0]


def require(interactions: Interactions, name: str, method: Method) -> None:
    """Refuse an empty set.

    Raises:
        InputError: There is no interaction in it.
    """
    if len(interactions) == 0:
        raise InputError(f"{type(method).__name__} needs {name} interactions and there are none.")


def unlearn(method: Method, job: UnlearnJob) -> Subject:
    """Carry out a method.

    Returns:
        The unlearned subject (over the job's subject's weights changed in place, or a new one); it serves the retained
        interactions, or all of them after a `FeatureEdit`.

    Raises:
        InputError: An empty forget or retain set; forgotten pairs that the target does not serve or that are retained
            too; another catalogue; a method whose result still serves a forgotten pair.
    """
    check_request(job)
    if isinstance(method, Edit):
        result = method.apply(job)
    elif isinstance(method, Guard):
        result = method.wrap(job)
    elif isinstance(method, Trained):
        result = job.train(method, job.dropped())
    else:
        raise InputError(f"{type(method).__name__} is neither a trained method nor an edit nor a guard.")
    left = int(job.forget.contains(result.served.pairs).sum())
    if left and not isinstance(method, FeatureEdit):
        raise InputError(f"{type(method).__name__} leaves {left} forgotten interactions in what the model serves from.")
    return result  # type: ignore[no-any-return]


def check_request(job: UnlearnJob) -> None:
    """Refuse a request that cannot be carried out.

    Raises:
        InputError: See `unlearn`.
    """
    if len(job.forget) == 0:
        raise InputError("The forget set is empty: there is nothing to unlearn.")
    require_subset(job.forget, job.subject.served, "forget: not among the interactions the target serves")
    if len(job.retain) == 0:
        raise InputError(
            f"The forget set holds all {len(job.forget)} interactions the target serves: nothing would be retained."
        )
    require_subset(job.retain, job.subject.served, "retain: not among the interactions the target serves")
    both = job.forget.contains(job.retain.pairs).nonzero()[:, 0]
    if len(both):
        raise InputError(
            f"{len(both)} interactions are in the forget set and in the retain set, such as "
            f"{job.retain.shown(int(both[0]))}."
        )
