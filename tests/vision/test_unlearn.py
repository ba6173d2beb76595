"""Requests: what each step draws, what is refused, and that a job leaves its images and augmentation as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.loop import Observers
from expunge.engine.method import Edit, Guard, Method, Step, Trained
from expunge.errors import InputError
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.ga import GA
from expunge.vision.methods.neggrad_plus import NegGradPlus
from expunge.vision.unlearn import unlearn
from tiny_faces import splits, trained
from tiny_vision import STEPS, changed, job_of, state


def test_an_epoch_is_one_pass_over_what_drives_the_method() -> None:
    """36 images to forget in steps of 8: every one once a pass, and as many retained ones at random beside them."""
    training = replace(STEPS, steps=None, epochs=2)
    streams = job_of(training).streams(NegGradPlus(), training)
    assert set(streams) == {"forget", "retain"}
    assert streams["forget"].order.shape == streams["retain"].order.shape == (10, 8)
    shown = streams["forget"].order.flatten()  # a step may reach into the next pass, so that no image is dropped
    assert [sorted(shown[start : start + 36].tolist()) for start in (0, 36)] == [list(range(36))] * 2
    assert int(streams["retain"].order.max()) < 84
    alone = job_of(training).streams(FineTune(), training)  # 84 retained images drive a method without a forget side
    assert set(alone) == {"retain"}
    assert len(alone["retain"].order) == 2 * 11
    assert set(job_of(training).streams(GA(), training)) == {"forget"}


def test_passes_are_fresh_orders_of_everything() -> None:
    found = splits()["test"]
    order = job_of().passes(found, 2, 6, "repair").order
    assert order.shape == (8, 6)
    first, second = order[:4].flatten().tolist(), order[4:].flatten().tolist()
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert torch.equal(job_of().passes(found, 2, 6, "repair").order, order)
    assert not torch.equal(job_of().passes(found, 2, 6, "impair").order, order)
    assert not torch.equal(job_of(seed=1).passes(found, 2, 6, "repair").order, order)


@dataclass(frozen=True)
class Watch(Trained):
    """Writes down which pixels and labels it is shown."""

    paper: ClassVar[str] = "ours"
    seen: ClassVar[list[Tensor]] = []
    labels: ClassVar[list[int]] = []

    def retain_loss(self, step: Step) -> Tensor:
        self.seen.append(step.retain.images.clone())
        self.labels.extend(step.retain.labels.tolist())
        return step.retain.loss  # type: ignore[no-any-return]


def test_images_are_augmented_as_the_targets_were_and_relabelled_where_asked() -> None:
    job = job_of(augment=lambda pixels: 1 - pixels)
    labels = torch.full((84,), 2)
    Watch.seen.clear()
    Watch.labels.clear()
    stream = job.stream(job.retain, torch.tensor([[3, 5], [7, 9]]), labels)
    job.train(Watch(), job.subject, replace(STEPS, steps=2, batch_size=2), streams={"retain": stream})
    for pixels, rows in zip(Watch.seen[-2:], ([3, 5], [7, 9]), strict=True):
        assert torch.equal(pixels, 1 - job.retain.pixels(torch.tensor(rows)))
    assert set(Watch.labels) == {2}
    assert job.retain.labels.tolist() == splits()["retain"].labels.tolist()


def test_a_quiet_training_is_neither_probed_nor_selected_and_every_training_is_logged() -> None:
    probed: list[int] = []

    def probe(model: nn.Module) -> dict[str, float]:
        probed.append(1)
        return {"forget": 0.0, "retain": 1.0}

    job = job_of(replace(STEPS, evaluate_every=2), observers=Observers(probe=probe, score=lambda values: (0.0,)))
    job.train(FineTune(), job.subject, quiet=True)
    assert probed == []
    job.train(FineTune(), job.subject, part="second")
    assert len(probed) >= 2
    assert [len(log.steps) for log in job.logs] == [5, 5]


def test_frozen_statistics_stay() -> None:
    job = job_of()
    before = state(job.subject.model)
    job.train(FineTune(), job.subject, freeze_norms=True)
    assert not {n for n in changed(before, state(job.subject.model)) if "running" in n or "batches" in n}


@dataclass(frozen=True)
class Shift(Edit):
    """Another subject comes back."""

    paper: ClassVar[str] = "ours"

    def apply(self, job):  # type: ignore[no-untyped-def]
        return replace(job.subject, source="edited")


@dataclass(frozen=True)
class Wrap(Guard):
    """As above, for guards."""

    paper: ClassVar[str] = "ours"

    def wrap(self, job):  # type: ignore[no-untyped-def]
        return replace(job.subject, source="guarded")


@dataclass(frozen=True)
class Neither(Method):
    """No way to carry it out."""

    paper: ClassVar[str] = "ours"


def test_each_kind_of_method_is_carried_out_its_own_way() -> None:
    assert unlearn(Shift(), job_of()).source == "edited"
    assert unlearn(Wrap(), job_of()).source == "guarded"
    job = job_of()
    assert unlearn(GA(), job) is job.subject
    assert changed(state(trained().model), state(job.subject.model))
    with pytest.raises(InputError, match="Neither is neither a trained method nor an edit nor a guard"):
        unlearn(Neither(), job_of())


def test_requests_that_cannot_be_carried_out_are_refused_in_words() -> None:
    found, none = splits(), splits()["forget"].take([])
    with pytest.raises(InputError, match="The forget set is empty: there is nothing to unlearn"):
        unlearn(Shift(), job_of(forget=none))
    with pytest.raises(InputError, match="person 1, picture 2 is in the forget set and in the retain set"):
        unlearn(Shift(), job_of(retain=found["forget"].take([1])))
    with pytest.raises(InputError, match="FineTune needs retain images and there are none"):
        unlearn(FineTune(), job_of(retain=none))
    untouched = job_of()
    before = state(untouched.subject.model)
    with pytest.raises(InputError, match="NegGradPlus needs retain images"):
        unlearn(NegGradPlus(), replace(untouched, retain=none))
    assert not changed(before, state(untouched.subject.model))
