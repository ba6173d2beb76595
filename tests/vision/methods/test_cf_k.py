"""The last stages alone: what is frozen is frozen to the bit, its statistics too; EU-k starts anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.vision.methods._stages import stages
from expunge.vision.methods.cf_k import CFk
from expunge.vision.methods.eu_k import EUk
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.retrain import Retrain
from expunge.vision.subject import small_cnn
from expunge.vision.unlearn import unlearn
from tiny_faces import SHAPE, trained, untrained
from tiny_vision import SGD, STEPS, changed, forget_loss, job_of, state

EVERY = len(stages(untrained().model))


def module_of(name: str) -> str:
    return name.rpartition(".")[0]


def test_only_the_last_stages_move_and_only_their_statistics() -> None:
    moved = changed(state(trained().model), state(unlearn(CFk(k=3), job_of(SGD)).model))
    assert {module_of(n) for n in moved} == {"convolutions.6", "convolutions.7", "feature", "head"}
    assert {"convolutions.7.running_mean", "convolutions.7.running_var"} <= moved
    moved = changed(state(trained().model), state(unlearn(CFk(k=2), job_of(SGD)).model))
    assert {module_of(n) for n in moved} == {"feature", "head"}


def test_with_all_stages_it_is_fine_tuning() -> None:
    assert not changed(state(unlearn(CFk(k=EVERY), job_of()).model), state(unlearn(FineTune(), job_of()).model))


def test_patterns_choose_modules() -> None:
    subject = unlearn(CFk(trainable=["convolutions.0", "head"]), job_of())
    moved = changed(state(trained().model), state(subject.model))
    assert {module_of(n) for n in moved} == {"convolutions.0", "head"}  # not the norm behind the convolution


def test_statistics_learn_again_afterwards() -> None:
    subject = unlearn(CFk(k=1), job_of())
    before = state(subject.model)
    subject.model.train()(torch.rand(4, 3, 16, 16))
    assert any("running_mean" in name for name in changed(before, state(subject.model)))


def test_eu_k_puts_the_first_values_back_where_they_are_known() -> None:
    """Without a step, the last stages are those of the base, and the rest is the target."""
    none = replace(STEPS, steps=0)
    subject = unlearn(EUk(k=2, recipe="own"), job_of(none))
    first, target, found = state(untrained().model), state(trained().model), state(subject.model)
    for name, value in found.items():
        assert torch.equal(value, (first if name.startswith(("feature", "head")) else target)[name]), name


def test_eu_k_makes_fresh_ones_otherwise_by_the_seed() -> None:
    none = replace(STEPS, steps=0)
    runs = [unlearn(EUk(k=2, recipe="own"), job_of(none, base=None, seed=seed)) for seed in (1, 1, 2)]
    once, again, other = (state(r.model) for r in runs)
    assert not changed(once, again)
    assert changed(once, other) == {"feature.weight", "feature.bias", "head.weight", "head.bias"}
    assert not changed(once, state(trained().model)) & {n for n in once if n.startswith("convolutions")}


def test_eu_k_trains_as_long_as_the_target_was() -> None:
    job = job_of(STEPS, base_training=replace(STEPS, steps=10))
    unlearn(EUk(k=1), job)
    share = len(job.retain) / (len(job.retain) + len(job.forget))
    assert len(job.logs[0].steps) == round(10 * share) == 7
    for job in (job_of(STEPS, base_training=None), job_of(STEPS)):
        unlearn(EUk(k=1, recipe="own"), job)
        assert len(job.logs[0].steps) == 5


def test_eu_k_of_all_stages_is_retraining() -> None:
    assert not changed(state(unlearn(EUk(k=EVERY), job_of()).model), state(unlearn(Retrain(), job_of()).model))


def test_eu_k_forgets_what_cf_k_keeps() -> None:
    training = replace(STEPS, steps=15, lr=4e-3)
    kept, gone = (forget_loss(unlearn(method, job_of(training))) for method in (CFk(k=2), EUk(k=2)))
    assert gone > kept


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CFk(k=0), "cf-k: k=0 must be at least 1"),
        (lambda: EUk(k=-1), "eu-k: k=-1 must be at least 1"),
        (lambda: CFk(trainable="head"), "trainable='head' must be a list of module names"),
        (lambda: EUk(recipe="mine"), "eu-k: recipe='mine' must be one of original, own"),
    ],
)
def test_bad_values_are_refused(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_another_base_is_refused() -> None:
    job = job_of(base=lambda: small_cnn(replace(SHAPE, classes=5), 0))
    with pytest.raises(InputError, match=r"the model before training has no head.weight of shape \(4, 32\)"):
        unlearn(EUk(k=1), job)
