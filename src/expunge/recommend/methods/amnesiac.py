"""Amnesiac unlearning: teach random items in the place of forgotten ones, or undo the updates they took part in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from expunge.engine.loop import Observers
from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.losses import forward_bpr
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.mmrecun import paired_streams
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import UnlearnJob, require


@dataclass(frozen=True)
class Amnesiac(Edit):
    """Forgotten pairs are relabelled at random, or the recorded updates of their batches are taken back.

    ``relabel``: for each (u, i) of D an item i' that u neither keeps nor forgets takes the place of i, once and for
    all, and min alpha BPR(D') + (1 - alpha) BPR(K) + reg, each batch of K with as many pairs of D'; an epoch is a pass
    over K. ``updates``: the target is trained again from its start on everything, while the change of the parameters
    over every batch with a pair of D in it is recorded; the sum of these changes is subtracted, then the run's
    settings train on K. Batches are large beside a request, so that this soon takes back most of the training: with
    5% of the pairs in batches of 2048 every batch has one. Subtracting all changes returns the initial parameters.

    Attributes:
        form: ``relabel`` or ``updates``. Source: paper, both forms.
        alpha: Balance of ``relabel``. Source: ours (the variant used as a baseline could not be read).
    """

    paper: ClassVar[str] = "Graves, Nagisetty, Ganesh, Amnesiac Machine Learning, AAAI 2021 (arXiv 2010.10981)"
    intention: ClassVar[Intention] = "removal"

    form: Literal["relabel", "updates"] = "relabel"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.form not in ("relabel", "updates"):
            raise InputError(f"amnesiac: form={self.form!r} must be one of relabel, updates.")
        if not 0 < self.alpha <= 1:
            raise InputError(f"amnesiac: alpha={self.alpha} must be above 0 and at most 1.")

    def apply(self, job: Any) -> Any:
        """Return the trained subject, serving what is kept.

        Raises:
            InputError: No retained interactions; for ``updates``: nothing says how the target was trained.
        """
        require(job.retain, "retain", self)
        if self.form == "updates":
            return job.train(FineTune(), without_updates(job))
        subject = job.dropped()
        loss, wrong = Relabelled(self.alpha), relabelled(job)
        # an item is no negative of a user who is being taught it
        taught = replace(job, forget=job.forget.union(wrong))
        streams = paired_streams(taught, loss, job.training, subject, forget=wrong)
        return job.train(loss, subject, streams=streams)


@dataclass(frozen=True)
class Relabelled(Trained):
    """alpha (BPR + penalty) over relabelled pairs + (1 - alpha) (BPR + penalty) over K; see `Amnesiac`."""

    alpha: float

    @property
    def has_retain(self) -> bool:
        """See `Trained`."""
        return self.alpha < 1

    def forget_loss(self, step: Step) -> Tensor:
        """The relabelled side."""
        view = step.forget
        loss: Tensor = self.alpha * (view.per_row(forward_bpr(view.margin)) + view.penalty)
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """The retained side."""
        view = step.retain
        loss: Tensor = (1 - self.alpha) * (view.per_row(forward_bpr(view.margin)) + view.penalty)
        return loss


def relabelled(job: UnlearnJob) -> Interactions:
    """The forgotten pairs with other items: ones that their user neither keeps nor forgets, each pair once.

    A user who has too few such items is taught fewer pairs.
    """
    negatives = job.negatives(job.dropped())
    items = negatives.draw(job.forget.pairs[:, 0], generator(job.seed, "amnesiac"))
    pairs = torch.stack([job.forget.pairs[:, 0], items], 1).unique(dim=0)
    return replace(job.forget, pairs=pairs, about=tuple(f"user:{u}" for u in pairs[:, 0].tolist()))


def without_updates(job: UnlearnJob) -> Subject:
    """The target trained anew, less the changes of the batches that held a forgotten pair; it serves what is kept.

    Raises:
        InputError: Nothing says how the target was trained.
    """
    if job.base is None or job.base_training is None:
        raise InputError("amnesiac: nothing says how the target was trained (target.train in the recipe).")
    subject, everything = job.base(), job.subject.served
    subject = subject.with_served(everything)
    nothing = everything.take(torch.zeros(0, dtype=torch.long))
    # recorded in one piece: a recording that was interrupted is made again
    again = UnlearnJob(subject, nothing, everything, job.base_training, job.seed)
    streams = again.streams(FineTune(), job.base_training, subject)
    stream = streams["retain"]
    forgotten = job.forget.contains(everything.pairs)
    held = forgotten[stream.examples.rows[stream.order]].any(1)  # type: ignore[attr-defined]  # [steps]
    recording = Recording(subject.model, held)
    again.observers = Observers(progress=recording.after(job.observers.progress if job.observers else None))
    again.train(FineTune(), subject, streams=streams)
    job.logs += again.logs
    job.logs[-1].notes.append(f"amnesiac: took back {int(held.sum())} of {len(held)} updates")
    recording.take_back(subject.model)
    return job.dropped(subject)


Progress = Callable[[int, int, dict[str, float]], None]


class Recording:
    """The sum of the changes that some steps of a training made to the parameters, in double precision."""

    def __init__(self, model: nn.Module, wanted: Tensor) -> None:
        """Start from the parameters as they are.

        Args:
            model: What is being trained.
            wanted: Bool [steps], whose changes are recorded.
        """
        self.model, self.wanted = model, wanted
        self.last = {name: p.detach().double() for name, p in model.named_parameters()}
        self.sum = {name: torch.zeros_like(value) for name, value in self.last.items()}

    def after(self, then: Progress | None) -> Progress:
        """What is called after each step."""

        def progress(step: int, total: int, terms: dict[str, float]) -> None:
            for name, p in self.model.named_parameters():
                now = p.detach().double()
                if self.wanted[step - 1]:
                    self.sum[name] += now - self.last[name]
                self.last[name] = now
            if then is not None:
                then(step, total, terms)

        return progress

    @torch.no_grad()
    def take_back(self, model: nn.Module) -> None:
        """Subtract the recorded changes."""
        for name, p in model.named_parameters():
            p.copy_(p.double() - self.sum[name])
