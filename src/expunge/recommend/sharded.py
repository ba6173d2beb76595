"""Training in shards, so that forgetting exactly means training few models again: what all such methods share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from expunge.engine.loop import TrainLog
from expunge.engine.method import Edit, Intention
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.aggregation import Aggregator
from expunge.recommend.data import Interactions
from expunge.recommend.ensemble import ShardEnsemble
from expunge.recommend.fitting import Fit
from expunge.recommend.graph import Graph
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.models.base import Recommender
from expunge.recommend.partition import Partition
from expunge.recommend.subject import CONFIG, Subject, load_subject
from expunge.recommend.unlearn import UnlearnJob

Stage = Literal["original", "request"]


@dataclass(frozen=True)
class Sharded(Edit):
    """A recommender trained in shards: to forget, the shards that hold forgotten interactions are trained again.

    First comes the sharded original: everything the target serves is divided (`partition`), one model is trained on
    each shard by the target's recipe, from initial values and a seed of its own, and the aggregation is fitted. Then
    the request: every shard that loses interactions is trained anew on what it keeps, all others stay bit for bit,
    and the aggregation is fitted again, on the retained interactions. A shard sees its own edges alone, in its graph
    and as what is no negative, so the result is the one that training without the forgotten interactions gives, by
    the same partition. The partition itself was made from everything; what is kept of it afterwards lists only what
    is retained.

    The target is used where the partition follows its vectors, and is the sharded original itself if it is one
    already: requests in a row divide once, and `shards` and `by` are then its own.

    Items whose erasure is asked for are no negatives of the shards trained anew (unless the request keeps them in the
    catalogue); shards without an interaction of theirs stay as they are, and have only ever seen them as negatives.

    Attributes:
        shards: S. Source: 10 (RecEraser; CURE4Rec).
        epochs: Passes over each shard; None takes the target's recipe (as many steps fewer as the shard is smaller).
            Source: ours.
        stored: Folder in which the sharded original is kept and found again, with all that is to be forgotten in it;
            None trains it for this request and drops it. Source: ours.
    """

    intention: ClassVar[Intention] = "removal"

    shards: int = 10
    epochs: float | None = None
    stored: str | None = None

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise InputError(f"{self.name}: shards={self.shards} must be at least 1.")
        if self.epochs is not None and not self.epochs > 0:
            raise InputError(f"{self.name}: epochs={self.epochs} must be above 0.")

    @property
    def name(self) -> str:
        """For messages."""
        return type(self).__name__.lower()

    def partition(self, subject: Subject, seed: int) -> Partition:
        """Divide what a target serves.

        Raises:
            InputError: More shards than there are elements.
        """
        raise NotImplementedError

    def combine(self, fit: Fit) -> Aggregator:
        """Fit what combines the shards."""
        raise NotImplementedError

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the ensemble without the forgotten interactions.

        Raises:
            InputError: Nothing says how the target was trained; more shards than elements.
        """
        original = self.original(job)
        model = original.model
        assert isinstance(model, ShardEnsemble)
        gone = job.subject.served.without(job.retain)
        touched = set(model.partition.of(gone.pairs).tolist())
        parts = model.partition.split(job.retain)
        again = [k for k in sorted(touched) if len(parts[k])]
        members = {k: model.shard_models[k] for k, part in enumerate(parts) if len(part)}  # others are all forgotten
        members |= {k: self._trained(job, k, parts[k], "request") for k in again}
        told = (
            f"{self.name}: {len(touched)} of {len(parts)} shards held forgotten interactions; trained again on "
            f"{sum(len(parts[k]) for k in again)} of {len(job.retain)} retained ones."
        )
        job.logs.append(TrainLog(notes=[told]))
        partition = model.partition.only(job.retain)
        return self._assembled(job, list(members.values()), partition, job.dropped(), "request")

    def original(self, job: UnlearnJob) -> Subject:
        """The sharded model before anything is forgotten: the target, what is stored, or trained now.

        Raises:
            InputError: Nothing says how the target was trained; more shards than elements; a damaged stored model.
        """
        if job.base is None or job.base_training is None:
            raise InputError(f"{self.name}: nothing says how the target was trained (target.train in the recipe).")
        if isinstance(job.subject.model, ShardEnsemble):
            return job.subject
        folder = Path(self.stored).expanduser() / f"original-{self._key(job)}" if self.stored else None
        if folder is not None and (folder / CONFIG).is_file():
            return load_subject(str(folder))
        partition = self.partition(job.subject, job.seed)
        parts = partition.split(job.subject.served)
        members = [self._trained(job, k, part, "original") for k, part in enumerate(parts)]
        job.logs.append(TrainLog(notes=[f"{self.name}: the sharded original was trained, {len(parts)} shards."]))
        found = self._assembled(job, members, partition, job.subject, "original")
        if folder is not None:
            found.save(folder, f"# {type(self).__name__}\n\nThe sharded model before forgetting, by expunge.\n")
        return found

    def _trained(self, job: UnlearnJob, shard: int, part: Interactions, stage: Stage) -> Recommender:
        """The model of one shard, a function of its interactions, its number and the seed.

        The first shard starts where the target did: with one shard this is plain training.
        """
        assert job.base is not None
        assert job.base_training is not None
        seed = job.seed if shard == 0 else derive_seed(job.seed, "shard", shard)
        subject = job.base().with_served(part, job.catalogue if stage == "request" else job.subject.catalogue)
        if shard:
            subject.model.reset_rows(torch.arange(part.users + part.items), seed)
        recipe = job.base_training.for_share(len(part), len(job.subject.served))
        if self.epochs is not None:
            recipe = replace(recipe, steps=None, epochs=self.epochs)
        none = part.take(torch.zeros(0, dtype=torch.long))
        own = replace(job, subject=subject, seed=seed, forget=none, retain=part)  # its logs are the job's
        return own.train(FineTune(), subject, recipe, part=f"{stage}-shard-{shard}", quiet=True).model

    def _assembled(
        self, job: UnlearnJob, members: Sequence[Recommender], partition: Partition, serving: Subject, stage: Stage
    ) -> Subject:
        """The ensemble of some members serving what a subject serves, its aggregation fitted on that."""
        with torch.no_grad():
            each = [m.eval()(Graph(p)) for m, p in zip(members, partition.split(serving.served), strict=True)]
            vectors = torch.stack([z for z, _ in each]), torch.stack([z for _, z in each])
        aggregator = self.combine(Fit(job, serving.served, serving.catalogue, partition, vectors, stage))
        return serving.with_model(ShardEnsemble(members, partition, aggregator).eval())

    def _key(self, job: UnlearnJob) -> str:
        """Names everything the sharded original depends on."""
        assert job.base is not None
        assert job.base_training is not None
        settings = {k: v for k, v in asdict(self).items() if k != "stored"}
        parts = [self.name, settings, job.base().fingerprint(), job.subject.fingerprint(), asdict(job.base_training),
                 job.seed]  # fmt: skip
        return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()
