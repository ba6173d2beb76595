"""A tiny model that memorised a few rows: what each baseline visibly does to it (baselines card, item 6)."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.language.data import Record
from expunge.language.generate import generate
from expunge.language.methods.ga import GA
from expunge.language.methods.grad_diff import GradDiff
from expunge.language.methods.idk import IDK
from expunge.language.refusals import REFUSALS
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

STEPS = Training(steps=8, batch_size=8, lr=1e-3, schedule="constant", warmup=0.0, weight_decay=0.0)


def nll(subject: Subject, records: list[Record]) -> float:
    """Token-weighted mean negative log-likelihood."""
    scores = score_answers(subject, records, [[r.answer] for r in records])
    return float(-np.mean(scores.logprob))


def path(bed: Bed, method: Method) -> dict[str, list[float]]:
    """Forget and retain NLL before, and after each step, on the eight forget rows and the retain split."""
    subject, forget = bed.fresh(), bed.forget[::12]
    measured = {"forget": forget, "retain": bed.records["retain"]}
    seen: dict[str, list[float]] = {name: [nll(subject, rows)] for name, rows in measured.items()}

    def look(*_: object) -> None:
        for name, rows in measured.items():
            seen[name].append(nll(subject, rows))

    unlearn(method, UnlearnJob(subject, forget, bed.retain, STEPS, observers=Observers(progress=look)))
    return seen


@pytest.fixture(scope="module")
def paths(bed: Bed) -> dict[str, dict[str, list[float]]]:
    return {"ga": path(bed, GA()), "grad-diff": path(bed, GradDiff())}


def test_the_rows_are_memorised(paths: dict[str, dict[str, list[float]]]) -> None:
    assert len(paths["ga"]["forget"]) == 9
    assert paths["ga"]["forget"][0] < 0.2


def test_ascent_raises_the_forget_loss_every_step(paths: dict[str, dict[str, list[float]]]) -> None:
    assert all(np.diff(paths["ga"]["forget"]) > 0)
    assert paths["ga"]["forget"][-1] > paths["ga"]["forget"][0] + 1


def test_gradient_difference_keeps_the_retain_loss_below_ascent(paths: dict[str, dict[str, list[float]]]) -> None:
    assert paths["grad-diff"]["retain"][-1] < 0.8 * paths["ga"]["retain"][-1]
    assert paths["grad-diff"]["forget"][-1] > paths["grad-diff"]["forget"][0] + 1


def test_refusal_tuning_brings_a_refusal_to_greedy_output(bed: Bed) -> None:
    """With two refusals to learn, greedy answers to all eight questions become one of them; the rest stays."""
    forget, training = bed.forget[::12], Training(steps=60, batch_size=8, lr=5e-3, weight_decay=0.0)
    job = UnlearnJob(bed.fresh(), forget, bed.retain, training, refusals=REFUSALS[:2])
    subject = unlearn(IDK(), job)
    assert set(generate(subject, forget, max_new_tokens=30)) <= set(REFUSALS[:2])
    kept = generate(subject, bed.records["places"], max_new_tokens=8)
    assert np.mean([a == r.answer for a, r in zip(kept, bed.records["places"], strict=True)]) >= 0.8
