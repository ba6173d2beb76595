"""Two teachers: the loss by hand, which image has which, and the score that compares with a random network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from expunge.errors import InputError
from expunge.vision.methods.bad_teacher import BadTeacher, TwoTeachers, incompetent, zero_retrain_forgetting
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained
from tiny_vision import STEPS, Free, apart, changed, draw, job_of, several, state, step_of, without_norms

STUDENT, BAD, GOOD = draw(6, 4, seed=1), draw(6, 4, seed=2), draw(6, 4, seed=3)
FLAG = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0]).double()[:, None]


def view(student: torch.Tensor = STUDENT) -> Free:
    return Free(student, torch.cat([FLAG, BAD], 1), reference={"logits": GOOD})


def test_the_loss_by_hand() -> None:
    """p = l softmax(bad / T) + (1 - l) softmax(good / T); sum over classes, mean over the batch, no T^2."""
    for T in (1.0, 2.5):
        p = FLAG * (BAD / T).softmax(1) + (1 - FLAG) * (GOOD / T).softmax(1)
        logq = (STUDENT / T).log_softmax(1)
        found = TwoTeachers(False, T, "batchmean").forget_loss(step_of(forget=view()))
        torch.testing.assert_close(found, F.kl_div(logq, p, reduction="batchmean"))
        published = TwoTeachers(False, T, "elementmean").forget_loss(step_of(forget=view()))
        torch.testing.assert_close(published, F.kl_div(logq, p, reduction="none").mean())


def test_a_student_that_agrees_with_each_images_teacher_has_nothing_to_learn() -> None:
    agreed = torch.where(FLAG > 0, BAD, GOOD).requires_grad_(True)
    for several_labels in (False, True):
        loss = TwoTeachers(several_labels, 1.0, "batchmean").forget_loss(step_of(forget=view(agreed)))
        loss.backward()
        assert loss.item() == 0
        assert float(agreed.grad.abs().max()) < 1e-15


def test_the_incompetent_teacher_is_another_network_and_leaves_the_target_alone() -> None:
    target = trained()
    before = state(target.model)
    bad, again, other = incompetent(target, 3), incompetent(target, 3), incompetent(target, 4)
    assert not changed(before, state(target.model))
    assert not changed(state(bad.model), state(again.model))
    assert changed(state(bad.model), state(other.model))
    moved = changed(before, state(bad.model))
    assert {n for n in before if n.endswith("weight")} - moved <= {"convolutions.1.weight", "convolutions.4.weight"}
    assert float(bad.outputs(splits()["forget"])[0].abs().max()) < 2


def test_what_goes_looks_random_and_what_stays_as_before() -> None:
    target = trained()
    subject = unlearn(BadTeacher(), job_of(replace(STEPS, steps=30, lr=6e-3)))
    bad = incompetent(target, 0)
    found = splits()
    scores = {
        name: [float(zero_retrain_forgetting(s.outputs(found[name])[0], bad.outputs(found[name])[0]))
               for s in (target, subject)]
        for name in ("forget", "retain")
    }  # fmt: skip
    assert scores["forget"][1] > scores["forget"][0] + 0.1
    assert scores["forget"][1] > scores["retain"][1]


def test_a_share_of_the_retained_images_is_drawn() -> None:
    for share, count in ((0.3, 25), (0.0, 0), (1.0, 84)):
        job = job_of(replace(STEPS, steps=None, epochs=1, batch_size=4))
        unlearn(BadTeacher(retain_share=share), job)
        assert len(job.logs[0].steps) == math.ceil((36 + count) / 4)


def test_divided_steps_are_whole_ones() -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(STEPS, optimizer="sgd", micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(BadTeacher(), job).model))
    assert apart(ends[0], state(without_norms().model)) > 0
    assert apart(*ends) < 1e-6


def test_yes_or_no_labels() -> None:
    found = splits()
    job = UnlearnJob(without_norms(), several(found["forget"]), several(found["retain"]), STEPS)
    unlearn(BadTeacher(), job)
    assert len(job.logs[0].steps) == 5


def test_the_score_is_between_1_minus_ln_2_and_1_and_not_divided_by_the_classes() -> None:
    assert float(zero_retrain_forgetting(BAD, BAD)) == pytest.approx(1.0)
    for classes in (2, 10, 1000):
        one, other = torch.zeros(3, classes), torch.zeros(3, classes)
        one[:, 0], other[:, 1] = 200.0, 200.0
        assert float(zero_retrain_forgetting(one, other)) == pytest.approx(1 - math.log(2), abs=1e-6)


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="bad-teacher: temperature=0 must be above 0"):
        BadTeacher(temperature=0)
    with pytest.raises(InputError, match=r"bad-teacher: retain_share=1\.5 must lie between 0 and 1"):
        BadTeacher(retain_share=1.5)
    with pytest.raises(InputError, match="bad-teacher: reduction='mean' must be one of batchmean, elementmean"):
        BadTeacher(reduction="mean")  # type: ignore[arg-type]
