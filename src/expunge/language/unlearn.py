"""Carrying out one method on one subject: the streams it draws from, and the training it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from expunge.engine.loop import Loop, Observers, Stream, TrainLog
from expunge.engine.method import Edit, Guard, Method, Trained
from expunge.engine.sampling import epochs, generator, in_turn, uniform
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.alternates import alternate_answers
from expunge.language.data import Record
from expunge.language.encode import encode
from expunge.language.forward import LanguageExamples
from expunge.language.refusals import REFUSALS
from expunge.language.subject import Subject


@dataclass
class UnlearnJob:
    """One request: what to forget, what to keep, and how training is to be done.

    Attributes:
        subject: The target; methods work on it in place.
        forget: Records that must go.
        retain: Records that must stay.
        training: Settings of the loop.
        seed: Fixes every random draw.
        folder: Where checkpoints go; None for none.
        observers: Probes, selection, progress.
        base: Makes the subject as it was before it was trained on these records (for retraining).
        base_training: How the target was trained from it.
        refusals: Sentences a model may be taught to say instead of an answer.
        alternates: Other answers to each forget question; None lets the subject make them up when needed.
        reference: Loads the reference model of losses that need one; None is the subject before it is trained.
        corpus: Makes what a method trains on out of this job and the method (see `Workload.corpus`); None: the
            forget records are that.
        logs: What happened in each training this job caused.
    """

    subject: Subject
    forget: list[Record]
    retain: list[Record]
    training: Training
    seed: int = 0
    folder: Path | None = None
    observers: Observers | None = None
    base: Callable[[], Subject] | None = None
    base_training: Training | None = None
    refusals: Sequence[str] = REFUSALS
    alternates: Sequence[Sequence[str]] | None = None
    reference: Callable[[], Subject] | None = None
    corpus: Callable[[UnlearnJob, Method], tuple[UnlearnJob, Method]] | None = None
    logs: list[TrainLog] = field(default_factory=list)

    def train(
        self,
        method: Trained,
        subject: Subject,
        training: Training | None = None,
        *,
        part: str = "",
        quiet: bool = False,
        forget: list[Record] | None = None,
        retain: list[Record] | None = None,
        streams: Mapping[str, Stream] | None = None,
    ) -> Subject:
        """Train a subject in place with a loss, and return it.

        Args:
            method: The loss.
            subject: What to train.
            training: Settings other than the job's.
            part: Name of this training when a method needs more than one (its own checkpoints).
            quiet: Leave the probes out (for an intermediate model nobody selects).
            forget: Forget records other than the job's.
            retain: Retain records other than the job's.
            streams: Ready-made streams instead of records.
        """
        training = training or self.training
        if streams is None:
            forget = self.forget if forget is None else forget
            retain = self.retain if retain is None else retain
            streams = make_streams(
                method, subject, forget, retain, training, self.seed, self.refusals, self._alternates(method, forget)
            )
        observers = self.observers
        if quiet and observers is not None:
            observers = replace(observers, probe=None, score=None)
        folder = self.folder / part if self.folder and part else self.folder
        reference = self.reference().model if self.reference else None
        loop = Loop(
            subject.model, method, streams, training, seed=self.seed, folder=folder, observers=observers,
            reference=reference,
        )  # fmt: skip
        self.logs.append(loop.run())
        return subject

    def _alternates(self, method: Trained, forget: list[Record]) -> Sequence[Sequence[str]] | None:
        """Other answers to the forget questions, drawn from the target before it is trained."""
        if method.substitute != "alternate" or self.alternates is not None:
            return self.alternates
        return alternate_answers(self.subject, forget, count=method.alternates, seed=self.seed, others=self.retain)


def unlearn(method: Method, job: UnlearnJob) -> Subject:
    """Carry out a method.

    Returns:
        The unlearned subject (the job's subject changed in place, or a new one).

    Raises:
        InputError: An empty forget set; a retain set the method needs and does not have.
    """
    if not job.forget:
        raise InputError("The forget set is empty: there is nothing to unlearn.")
    if job.corpus is not None:
        job, method = job.corpus(job, method)
    if isinstance(method, Edit):
        return method.apply(job)  # type: ignore[no-any-return]
    if isinstance(method, Guard):
        return method.wrap(job)  # type: ignore[no-any-return]
    if not isinstance(method, Trained):
        raise InputError(f"{type(method).__name__} is neither a trained method nor an edit nor a guard.")
    return job.train(method, job.subject)


def make_streams(
    method: Trained,
    subject: Subject,
    forget: list[Record],
    retain: list[Record],
    training: Training,
    seed: int,
    refusals: Sequence[str] = REFUSALS,
    alternates: Sequence[Sequence[str]] | None = None,
) -> dict[str, Stream]:
    """Encode what the method draws from, and fix which rows each step sees.

    An epoch is one pass over the forget set; each step pairs its forget rows with as many retain rows
    drawn uniformly. A method without a forget side passes over the retain set instead. A method that tells
    topics apart works on one topic in each step, in turn.

    Raises:
        InputError: A set the method needs is empty.
    """
    sets = {"forget": forget, "retain": retain}
    for name in method.streams:
        if name in sets and not sets[name]:
            raise InputError(f"{type(method).__name__} needs {name} records and there are none.")
    driving = forget if method.has_forget else retain
    steps, batch = training.total_steps(len(driving)), training.batch_size
    streams: dict[str, Stream] = {}
    if method.has_forget:
        if method.topics:
            order = in_turn(_by_topic(method, forget, "forget"), steps, batch)
        else:
            order = epochs(len(forget), steps, batch, seed, "forget")
        if "forget" in method.streams:
            streams["forget"] = Stream(_encode(subject, forget, None, "forget"), order)
        if method.substitute == "alternate":
            if alternates is None or len(alternates) != len(forget):
                raise InputError(f"{type(method).__name__} needs alternate answers to each of the forget records.")
            streams["substitute"] = _alternate(subject, forget, alternates, order, seed)
        elif method.substitute:
            pool = refusals if method.substitute == "refusal" else [r.answer for r in (retain or forget)]
            streams["substitute"] = _substitute(subject, forget, pool, order, seed)
    if method.has_retain:
        if method.topics and any(r.topic for r in retain):
            order = in_turn(_by_topic(method, retain, "retain"), steps, batch)
        else:
            draw = uniform if method.has_forget else epochs
            order = draw(len(retain), steps, batch, seed, "retain")
        streams["retain"] = Stream(_encode(subject, retain, None, "retain"), order)
    return streams


def _encode(subject: Subject, records: list[Record], answers: list[str] | None, where: str) -> LanguageExamples:
    encoded = encode(
        records,
        subject.tokenizer,
        subject.template,
        answers=answers,
        max_length=subject.max_length,
        where=where,
    )
    return LanguageExamples(encoded)


def _by_topic(method: Trained, records: list[Record], name: str) -> list[Tensor]:
    """Row indices of each of the method's topics, in the order of the records."""
    groups = [torch.tensor([i for i, r in enumerate(records) if r.topic == t], dtype=torch.long) for t in method.topics]
    for topic, rows in zip(method.topics, groups, strict=True):
        if not len(rows):
            raise InputError(f"{type(method).__name__}: no {name} record has the topic {topic!r}.")
    return groups


def _alternate(
    subject: Subject, forget: list[Record], alternates: Sequence[Sequence[str]], order: Tensor, seed: int
) -> Stream:
    """Forget questions with one of their own alternate answers, drawn afresh each time a row is visited."""
    for i, texts in enumerate(alternates):
        if not texts:
            raise InputError(f"forget, record {i + 1}: there is no alternate answer to it.")
    sizes = torch.tensor([len(texts) for texts in alternates])
    draw = torch.rand(order.shape, generator=generator(seed, "alternate"))
    index = (sizes.cumsum(0) - sizes)[order] + (draw * sizes[order]).long()
    records = [r for r, texts in zip(forget, alternates, strict=True) for _ in texts]
    return Stream(_encode(subject, records, [t for texts in alternates for t in texts], "forget"), index)


def _substitute(subject: Subject, forget: list[Record], pool: Sequence[str], order: Tensor, seed: int) -> Stream:
    """Forget questions with answers drawn from a pool, afresh each time a row is visited."""
    answers = list(dict.fromkeys(pool))
    if not answers:
        raise InputError("There are no answers to substitute: the list of refusals is empty.")
    own = {text: i for i, text in enumerate(answers)}
    if len(answers) == 1 and any(r.answer == answers[0] for r in forget):
        raise InputError("All answers are the same: there is no other answer to substitute.")
    draw = torch.randint(len(answers), order.shape, generator=generator(seed, "substitute"))
    true = torch.tensor([own.get(r.answer, -1) for r in forget])[order]
    draw = torch.where(draw == true, (draw + 1) % len(answers), draw)
    pairs, index = torch.unique(order * len(answers) + draw, return_inverse=True)
    rows, texts = pairs // len(answers), pairs % len(answers)
    records = [forget[i] for i in rows.tolist()]
    return Stream(_encode(subject, records, [answers[i] for i in texts.tolist()], "forget"), index)
