"""Rejection tuning: refusals in turn, answer tokens only, no retain side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.generate import generate
from expunge.language.methods.ga import GA
from expunge.language.methods.rejection_tuning import RejectionTuning
from expunge.language.rwku_corpus import in_turn
from expunge.language.score import score_answers
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

POOL = ("I do not know.", "No idea at all.", "Never heard of that.")
TRAINING = Training(steps=4, batch_size=8, lr=1e-3, schedule="constant", warmup=0.0, weight_decay=0.0)


def job_of(bed: Bed, training: Training = TRAINING) -> UnlearnJob:
    return UnlearnJob(bed.fresh(), bed.forget, [], training, refusals=POOL)


def test_the_loss_is_the_token_mean_over_refusals_and_ends(bed: Bed) -> None:
    """One step on the whole set: the mean over all their labels of -log p, whatever the questions' lengths."""
    refusals = in_turn(len(bed.forget), POOL)
    scores = score_answers(bed.target, bed.forget, [[text] for text in refusals])
    job = job_of(bed, replace(TRAINING, steps=1, batch_size=len(bed.forget)))
    unlearn(RejectionTuning(), job)
    assert job.logs[0].steps[0]["forget"] == pytest.approx(-scores.logprob.mean(), rel=1e-4)
    assert scores.has_eos.all()


@pytest.mark.parametrize("method", [RejectionTuning(), GA()])
def test_a_vanishing_learning_rate_changes_nothing(bed: Bed, method: Method) -> None:
    """Steps far below the spacing of floats leave every weight, so every metric, as it is; larger ones do not."""
    subject = unlearn(method, job_of(bed, replace(TRAINING, lr=1e-30)))
    assert subject.weights_hash() == bed.target.weights_hash()
    assert unlearn(method, job_of(bed)).weights_hash() != bed.target.weights_hash()


def test_a_question_keeps_its_refusal(bed: Bed) -> None:
    """Trained long enough, question i is answered by refusal i mod 3 and by no other."""
    job = job_of(bed, replace(TRAINING, steps=60, batch_size=16, lr=3e-3))
    job.forget = bed.forget[::8][:6]
    subject = unlearn(RejectionTuning(), job)
    said = generate(subject, job.forget, max_new_tokens=12)
    assert said == [POOL[i % 3] for i in range(6)]


def test_in_turn() -> None:
    assert in_turn(5, POOL) == [*POOL, *POOL[:2]]
    with pytest.raises(InputError, match="no refusal to teach"):
        in_turn(1, ())


def test_plain_text_cannot_be_refused(bed: Bed) -> None:
    job = job_of(bed)
    job.forget = [*bed.forget[:1], Record("", "text")]
    with pytest.raises(InputError, match="rejection-tuning: forget record 2 is plain text"):
        unlearn(RejectionTuning(), job)


def test_retain_records_are_not_read(bed: Bed) -> None:
    ends = []
    for retain in ([], bed.retain):
        job = job_of(bed)
        job.retain = retain
        ends.append(unlearn(RejectionTuning(), job).weights_hash())
    assert ends[0] == ends[1] != bed.target.weights_hash()
