"""UnlearnRec as a method: what each stage may move, what it reaches, what it keeps for the next request."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.errors import InputError, RunError
from expunge.recommend import pretraining
from expunge.recommend.data import Interactions
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.retrain import Retrain
from expunge.recommend.methods.unlearnrec import STAGE_D, UnlearnRec
from expunge.recommend.pretraining import random_edges
from expunge.recommend.ranking import evaluate
from expunge.recommend.requests import adversarial_edges
from expunge.recommend.rewriting import Rewritten
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import UnlearnJob, unlearn
from recommend.tiny import STEPS, TRAINING, changed, forget_of, job_of, state, trained, untrained, world

SMALL: dict[str, Any] = {"pretrain_epochs": 2, "sim_epoch": 1, "pretrain_batch": 128, "pretrain_lr": 1e-2}


def run(**settings: Any) -> tuple[Subject, UnlearnJob]:
    job = job_of(STEPS)
    return unlearn(UnlearnRec(**{**SMALL, **settings}), job), job


def spy(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """States of the rewritten recommender after pre-training and after tuning."""
    seen: dict[str, dict[str, Tensor]] = {}
    pretrained, tune = UnlearnRec._pretrained, UnlearnRec._tune

    def first(self: UnlearnRec, job: Any, model: Rewritten) -> None:
        seen["fresh"] = state(model)
        pretrained(self, job, model)
        seen["pretrained"] = state(model)

    def second(self: UnlearnRec, job: Any, model: Rewritten, request: Any) -> None:
        tune(self, job, model, request)
        seen["tuned"] = state(model)

    monkeypatch.setattr(UnlearnRec, "_pretrained", first)
    monkeypatch.setattr(UnlearnRec, "_tune", second)
    return seen


def test_each_stage_moves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training: H0, w, W, b. Tuning: W, b and the embeddings; H0 and w stay bit for bit."""
    seen = spy(monkeypatch)
    run()
    assert changed(seen["fresh"], seen["pretrained"]) == {n for n in seen["fresh"] if n.startswith("encoder.")}
    moved = changed(seen["pretrained"], seen["tuned"])
    assert moved == {n for n in seen["tuned"] if n.startswith(STAGE_D)}
    assert not moved & {"encoder.states", "encoder.influence", "original"}


def test_without_influence_it_is_dropping_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """w = 0 and H0 = 0: E0' = E0 for any request; scores are those of the old weights over A(K)."""

    def nothing(self: UnlearnRec, job: Any, model: Rewritten) -> None:
        model.encoder.influence.data.zero_()

    monkeypatch.setattr(UnlearnRec, "_pretrained", nothing)
    served, job = run(zero_shot=True)
    every = torch.arange(world().users)
    assert torch.equal(served.scores(every), trained().with_served(job.retain).scores(every))


def test_zero_shot_takes_no_step_on_the_request() -> None:
    served, job = run(zero_shot=True)
    assert len(job.logs) == 1
    assert job.logs[0].steps
    assert changed(state(trained().model), state(served.model)) == {"table"}
    assert len(run()[1].logs) == 2


def test_pretraining_does_not_see_the_real_request(tmp_path: Path) -> None:
    """Two requests on one recommender: the second takes the encoder of the first, and says so."""
    first = job_of(STEPS)
    method = UnlearnRec(**SMALL, zero_shot=True, stored=str(tmp_path))
    unlearn(method, first)
    assert "pre-training took" in first.logs[0].notes[-1]
    assert len(list(tmp_path.iterdir())) == 1
    second = job_of(STEPS, "edges")
    reused = unlearn(method, second)
    assert not second.logs[0].steps
    assert "earlier request" in second.logs[0].notes[0]
    alone = unlearn(UnlearnRec(**SMALL, zero_shot=True), job_of(STEPS, "edges"))
    assert torch.equal(reused.model.get_parameter("table"), alone.model.get_parameter("table"))
    unlearn(replace(method, finetune_lambda_u=0.5), job_of(STEPS))  # tuning is no part of the key,
    assert len(list(tmp_path.iterdir())) == 1
    unlearn(replace(method, lambda_u=0.5), job_of(STEPS))  # pre-training is
    unlearn(method, job_of(STEPS, subject=trained(seed=1)))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_checkpoint_is_chosen_on_held_out_requests() -> None:
    """The weights kept are those of the probe with the widest gap; nothing of the real request is looked at."""
    log = run(zero_shot=True, pretrain_epochs=4)[1].logs[0]
    assert [p["step"] for p in log.probes][:2] == [0, log.probes[1]["step"]]
    gaps = {p["step"]: p["gap"] for p in log.probes if p["step"]}
    assert log.selected_step == max(gaps, key=lambda step: gaps[step])
    other = job_of(STEPS, "edges")
    unlearn(UnlearnRec(**SMALL, zero_shot=True), other)
    assert other.logs[0].probes == run(zero_shot=True)[1].logs[0].probes


def test_pretraining_that_destroys_the_recommender_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "RANKED", 3)  # of 40 items nearly all are among the first 20
    with pytest.raises(RunError, match=r"lowered validation recall from 0\.\d+ to 0\.\d+, under perf_degrade=1"):
        run(lambda_u=50.0, lambda_p=0.0, pretrain_lr=0.5, perf_degrade=1.0)


def test_without_validation_interactions_the_last_weights_are_kept() -> None:
    job = job_of(STEPS, held_out=None)
    unlearn(UnlearnRec(**SMALL, zero_shot=True), job)
    assert not job.logs[0].probes
    assert job.logs[0].selected_step is None


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run()[0]
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    killed: list[int] = []

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 4 and total not in killed:  # once in pre-training, once in tuning
            killed.append(total)
            raise KilledError

    method = UnlearnRec(**SMALL)
    for _ in range(2):
        with suppress(KilledError):
            unlearn(method, job_of(STEPS, folder=tmp_path, observers=Observers(progress=kill)))
    job = job_of(STEPS, folder=tmp_path)
    resumed = unlearn(method, job)
    assert len(killed) == len(job.logs) == 2
    assert all(log.resumed_at for log in job.logs)
    assert not changed(state(resumed.model), state(straight.model))


def test_probes_of_the_job_see_the_rewritten_recommender() -> None:
    tables = []

    def probe(model: Any) -> dict[str, float]:
        tables.append(model.get_parameter("table").detach().clone())
        return {"retain": 1.0}

    job = job_of(replace(STEPS, evaluate_every=5), observers=Observers(probe=probe))
    served = unlearn(UnlearnRec(**SMALL), job)
    assert len(tables) == 2
    assert torch.equal(tables[-1], served.model.get_parameter("table"))


# -- the planted edges of the paper --------------------------------------------------------------------


def attacked() -> tuple[Interactions, Interactions]:
    """The training interactions with random pairs across the two blocks, and these pairs."""
    train = world().train
    known = world().all
    planted = adversarial_edges(train, known, trained().scores, 0.5, 0)
    return train.union(planted), planted


@cache
def attacked_models() -> tuple[Subject, Subject]:
    """The model that was trained on the planted edges too, and one that was not."""
    both, planted = attacked()
    subject = untrained().with_served(both)
    UnlearnJob(subject, both.take([]), both, TRAINING, 0).train(FineTune(), subject)
    clean = UnlearnJob(subject, planted, world().train, TRAINING, base=untrained, base_training=TRAINING)
    return subject, unlearn(Retrain(), clean)


def test_forgets_planted_edges_and_keeps_recall() -> None:
    """20 epochs of pre-training and 1 of tuning: s(D) far under s(K), recall within 10% of retraining's."""
    _, planted = attacked()
    attacked_model, gold = attacked_models()
    job = UnlearnJob(
        attacked_model, planted, world().train, replace(TRAINING, steps=None, epochs=1, batch_size=64, lr=1e-2),
        held_out=world().valid,
    )  # fmt: skip
    before = [float(attacked_model.pair_scores(p.pairs).mean()) for p in (planted, world().train)]
    served = unlearn(UnlearnRec(pretrain_epochs=20, sim_epoch=5, pretrain_batch=128, pretrain_lr=1e-2), job)
    after = [float(served.pair_scores(p.pairs).mean()) for p in (planted, world().train)]
    assert after[0] < after[1] - 1.0
    assert after[1] - after[0] > before[1] - before[0]
    mine, golds = (evaluate(s, world().test, world().train, [10]).mean("recall", 10) for s in (served, gold))
    assert mine >= 0.9 * golds


# -- what it refuses -----------------------------------------------------------------------------------


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match=r"rewrites one table .* VBPR does not have"):
        unlearn(UnlearnRec(**SMALL), job_of(STEPS, kind="vbpr"))
    with pytest.raises(InputError, match="4 of 4 interactions"):
        unlearn(UnlearnRec(), job_of(forget=world().test.take([0, 1, 2, 3])))
    with pytest.raises(InputError, match="nothing to unlearn"):
        unlearn(UnlearnRec(), job_of(forget=forget_of().take([])))
    with pytest.raises(InputError, match=r"pretrain_drop_rate=1\.0"):
        UnlearnRec(pretrain_drop_rate=1.0)
    with pytest.raises(InputError, match=r"pretrain_batch=1\b"):
        UnlearnRec(pretrain_batch=1)
    with pytest.raises(InputError, match="micro_batch=4 would change the method"):
        unlearn(UnlearnRec(**SMALL), job_of(replace(STEPS, micro_batch=4)))
    with pytest.raises(InputError, match="outside 0 to"):
        replace(forget_of(), pairs=torch.tensor([[0, world().items]]), about=())
    with pytest.raises(InputError, match="cannot be divided"):
        random_edges(world().train.take([0]), 0.2, 0)
