"""Retraining: the target's own recipe on the retain set, from the start the target had."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.retrain import Retrain
from expunge.language.score import score_answers
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import TRAINING, Bed


def test_it_is_the_gold_model(bed: Bed) -> None:
    """The bed's gold model was made by the same recipe without the forget records."""
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, Training(), base=bed.base, base_training=TRAINING)
    assert unlearn(Retrain(), job).weights_hash() == bed.gold.weights_hash()


def test_a_recipe_in_steps_is_shortened_to_as_many_passes(bed: Bed) -> None:
    """96 forget and 280 retain rows; 47 steps on all 376 are 35 on the 280."""
    recipe = replace(TRAINING, steps=47)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, Training(), base=bed.base, base_training=recipe)
    assert (len(bed.forget), len(bed.retain)) == (96, 280)
    unlearn(Retrain(), job)
    assert len(job.logs[0].steps) == 35


def test_what_it_never_saw_looks_like_what_nobody_saw(bed: Bed) -> None:
    """Its forget NLL stands with that of holdout people, far from the target's."""

    def nll(split: str, subject: object) -> float:
        records = bed.records[split]
        return float(score_answers(subject, records, [[r.answer] for r in records]).nll.mean())  # type: ignore[arg-type]

    unseen = nll("holdout", bed.gold)
    assert nll("forget", bed.gold) == pytest.approx(unseen, rel=0.25)
    assert nll("forget", bed.target) < unseen / 10


def test_without_a_start_or_a_recipe_it_is_refused(bed: Bed) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, Training(steps=1), base=bed.base)
    for lacking in (job, replace(job, base=None, base_training=Training(steps=1))):
        with pytest.raises(InputError, match="not known what the target was trained from"):
            unlearn(Retrain(), lacking)
    with pytest.raises(InputError, match="needs retain records"):
        unlearn(Retrain(), replace(job, retain=[], base_training=Training(steps=1)))


def test_fine_tuning_continues_where_retraining_starts_over(bed: Bed) -> None:
    training = Training(steps=2, batch_size=8)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training, base=bed.base, base_training=training)
    again, on = unlearn(Retrain(), job).model, unlearn(FineTune(), job).model
    for start, end in ((bed.base().model, again), (bed.target.model, on)):
        gap = [(a - b).abs().max() for a, b in zip(start.parameters(), end.parameters(), strict=True)]
        assert 0 < float(torch.stack(gap).detach().max()) < 1e-3
