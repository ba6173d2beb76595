"""SCRUB: a student that disagrees with its teacher on what must go, and agrees on what stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.engine.gradients import Turn
from expunge.engine.loop import Observers
from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.evidence import hits
from expunge.vision.methods._checks import above_zero, not_negative, one_of
from expunge.vision.methods._divergence import kl_divergence
from expunge.vision.methods._passes import OwnPasses, drawn, placed, rounds, steps_of
from expunge.vision.subject import Subject
from expunge.vision.unlearn import require

Variant = Literal["paper", "mufac"]
NOTHING = 1e-6  # a divergence below it is that of equal models, up to rounding


@dataclass(frozen=True)
class StudentTeacher(Trained):
    """One training; see `SCRUB`."""

    temperature: float
    alpha: float
    gamma: float
    several: bool

    def divergence(self, view: Any) -> Tensor:
        """KL_T(teacher || student) = T^2 mean over the batch of the divergence of the logits / T."""
        T = self.temperature
        loss: Tensor = T**2 * view.per_row(kl_divergence(view.reference.logits, view.logits, self.several, T))
        return loss

    def forget_loss(self, step: Step) -> Tensor:
        """-KL_T(teacher || student) on D_f."""
        return -self.divergence(step.forget)

    def retain_loss(self, step: Step) -> Tensor:
        """gamma CE + alpha KL_T(teacher || student) on D_r."""
        loss: Tensor = self.gamma * step.retain.loss
        return loss + self.alpha * self.divergence(step.retain) if self.alpha else loss


@dataclass(frozen=True)
class SCRUB(OwnPasses):
    """Epochs of a pass over D_f against the teacher theta_0 (the first M only), then always a pass over D_r with it.

    max over D_f: KL_T(teacher || student); min over D_r: gamma CE + alpha KL_T(teacher || student), KL_T with T^2 and
    the mean over the batch, in one training. Where student and teacher agree exactly (no dropout, no augmentation, no
    or frozen batch statistics) the first step over D_f stands at the minimum of KL and does nothing. `rewind`
    (SCRUB+R) keeps the student after every epoch and returns the one whose error on D_f is nearest to the last
    student's error on held-out images of the same kind. With several yes-or-no labels an image the divergence is the
    sum of theirs. Running statistics of normalisation layers move with all images, unless they are frozen. Reference
    settings: SGD, momentum 0.9, weight decay 5e-4, lr 5e-4, 3 epochs.

    Attributes:
        variant: ``paper``, or ``mufac``: the pass over D_r comes first, both passes in every epoch, T = 4, alpha =
            gamma = 1. Source: paper; reference code (MUFAC).
        max_epochs: M, epochs with a pass over D_f; None: 2 (``mufac``: all). Source: reference code.
        temperature: T; None: 4. Source: reference code.
        alpha: Weight of the divergence on D_r; None: 0.001 (``mufac``: 1). Source: reference code.
        gamma: Weight of the cross entropy on D_r; None: 0.99 (``mufac``: 1). Source: reference code.
        forget_batch: Images of D_f in a step; None: as many as of D_r. Source: reference code (32 to 128 of D_r).
        rewind: Return the epoch that fits the held-out images. Source: paper.
    """

    paper: ClassVar[str] = (
        "Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, NeurIPS 2023 "
        "(arXiv 2302.09880)"
    )
    intention: ClassVar[Intention] = "removal"

    variant: Variant = "paper"
    max_epochs: int | None = None
    temperature: float | None = None
    alpha: float | None = None
    gamma: float | None = None
    forget_batch: int | None = None
    rewind: bool = False

    def __post_init__(self) -> None:
        one_of(self, "variant", ("paper", "mufac"))
        not_negative(self, *(n for n in ("max_epochs", "alpha", "gamma") if getattr(self, n) is not None))
        above_zero(self, *(n for n in ("temperature", "forget_batch") if getattr(self, n) is not None))

    def _given(self, name: str) -> float:
        """A hyper-parameter, or the variant's own value of it."""
        own = {"temperature": 4.0, "alpha": 0.001, "gamma": 0.99}
        if self.variant == "mufac":
            own |= {"alpha": 1.0, "gamma": 1.0}
        value = getattr(self, name)
        return float(own[name] if value is None else value)

    def turns_of(self, forget_steps: int, retain_steps: int) -> Callable[[int], list[Turn]]:
        """The turns of an epoch."""
        last = self.max_epochs if self.max_epochs is not None else (2 if self.variant == "paper" else None)

        def turns(epoch: int) -> list[Turn]:
            forget: list[Turn] = ["forget"] * forget_steps if last is None or epoch < last else []
            retain: list[Turn] = ["retain"] * retain_steps
            return [*retain, *forget] if self.variant == "mufac" else [*forget, *retain]

        return turns

    def apply(self, job: Any) -> Any:
        """Return the student.

        Raises:
            InputError: No retained images; `rewind` without held-out images.
        """
        require(job.retain, "retain", self)
        if self.rewind and (job.held_out is None or not len(job.held_out)):
            raise InputError(
                "scrub: rewind needs held-out images of the kind of the forgotten ones, and there are none."
            )
        batch = job.training.batch_size
        forget_batch = self.forget_batch or batch
        turns_of = self.turns_of(steps_of(job.forget, forget_batch), steps_of(job.retain, batch))
        turns = rounds(job.training, turns_of)
        streams = {}
        for side, images, size in (("forget", job.forget, forget_batch), ("retain", job.retain, batch)):
            rows = drawn(images, turns, side, size, job.seed, side)  # type: ignore[arg-type]
            streams[side] = job.stream(images, placed(rows, turns, side))  # type: ignore[arg-type]
        loss = StudentTeacher(
            self._given("temperature"), self._given("alpha"), self._given("gamma"), job.forget.labels.ndim == 2
        )
        if not self.rewind:
            subject = job.train(loss, job.subject, streams=streams, turns=turns, freeze_norms=self.freeze_norms)
        else:
            ends = _ends(turns, turns_of)
            keeper = Keeper(job.subject, ends, job.folder)
            progress = keeper.after(job.observers)
            watched = replace(job.observers or Observers(), probe=None, score=None, progress=progress)
            inner = replace(job, observers=watched)  # shares the list of logs
            subject = inner.train(loss, job.subject, streams=streams, turns=turns, freeze_norms=self.freeze_norms)
            self._rewind(job, subject, keeper)
        _note_tie(job, turns)
        return subject

    def _rewind(self, job: Any, subject: Subject, keeper: Keeper) -> None:
        """Put the epoch into the subject whose error on D_f is nearest to the last one's on held-out images."""
        wanted = error(subject, job.held_out)
        last = _state(subject.model)
        candidates = keeper.states()
        distances: dict[int, float] = {}
        for epoch, state in candidates.items():
            subject.model.load_state_dict(state)
            distances[epoch] = abs(error(subject, job.forget) - wanted)
        if not distances:
            subject.model.load_state_dict(last)
            return
        best = min(distances, key=lambda epoch: (distances[epoch], -epoch))
        subject.model.load_state_dict(candidates[best])
        job.logs[-1].notes.append(
            f"rewound to epoch {best} of {max(distances)}: its forget error is {distances[best]:.3f} from the "
            f"held-out error {wanted:.3f}"
        )


def error(subject: Subject, images: Images) -> float:
    """Share of wrong predictions."""
    return float(1 - hits(subject.outputs(images)[0], images).mean())


def _ends(turns: list[Turn], turns_of: Callable[[int], list[Turn]]) -> dict[int, int]:
    """Steps done at the end of each epoch -> its number, counted from 1; a cut-off epoch ends with the run."""
    found, done, epoch = {}, 0, 0
    while done < len(turns):
        done = min(len(turns), done + len(turns_of(epoch)))
        epoch += 1
        found[done] = epoch
    return found


def _note_tie(job: Any, turns: list[Turn]) -> None:
    """Say so when the first step over D_f did nothing."""
    log = job.logs[-1]
    if turns[:1] == ["forget"] and log.steps and abs(log.steps[0]["forget"]) < NOTHING:
        log.notes.append("scrub: the first step over the forget set stood at the minimum of its loss and did nothing")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Keeper:
    """Keeps a student after some steps: in memory, or in a folder where a resumed run finds the earlier ones."""

    def __init__(self, subject: Subject, ends: dict[int, int], folder: Path | None) -> None:
        self.model, self.ends = subject.model, ends
        self.folder = folder / "epochs" if folder else None
        self.held: dict[int, dict[str, Tensor]] = {}

    def after(self, observers: Observers | None) -> Callable[[int, int, dict[str, float]], None]:
        """What is called after each step: keep the student, then do what was done before."""

        def progress(step: int, total: int, terms: dict[str, float]) -> None:
            if step in self.ends:
                self._keep(self.ends[step])
            if observers and observers.progress:
                observers.progress(step, total, terms)

        return progress

    def _keep(self, epoch: int) -> None:
        state = _state(self.model)
        if self.folder is None:
            self.held[epoch] = state
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{epoch}.{os.getpid()}.tmp"  # processes of one run keep the same student
        save_file({n: v.cpu().contiguous() for n, v in state.items()}, temporary)
        temporary.replace(self.folder / f"{epoch}.safetensors")

    def states(self) -> dict[int, dict[str, Tensor]]:
        """Epoch -> student."""
        if self.folder is None:
            return self.held
        files = {epoch: self.folder / f"{epoch}.safetensors" for epoch in sorted(self.ends.values())}
        return {epoch: load_file(path) for epoch, path in files.items() if path.exists()}
