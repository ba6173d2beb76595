"""Who's Harry Potter: the steps put together, and a saga that is forgotten while ordinary text stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers, Stream
from expunge.engine.sampling import epochs
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.anchors import Anchors
from expunge.language.data import Record
from expunge.language.generic_labels import Generic, generic_labels
from expunge.language.methods.task_vector import Reinforce
from expunge.language.methods.whp import WHP, GenericTuning
from expunge.language.metrics.familiarity import next_token_familiarity
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.text_blocks import make_blocks
from expunge.language.unlearn import UnlearnJob, unlearn
from saga import ANCHORS, Saga, make_saga
from tiny_bed import Bed
from tiny_models import same, weights

TRAINING = Training(epochs=2, batch_size=16, lr=1e-3, schedule="constant", warmup=0.0)


@pytest.fixture(scope="module")
def saga() -> Saga:
    return make_saga()


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("anchors") / "saga.json"
    path.write_text(json.dumps(ANCHORS), encoding="utf-8")
    return str(path)


def nll(subject: Subject, records: list[Record]) -> float:
    """Token-weighted, in nats."""
    scores = score_answers(subject, records, [[r.answer] for r in records])
    return float(scores.nll_sum.sum() / scores.lengths.sum())


def known(subject: Subject, saga: Saga) -> float:
    return float(next_token_familiarity(subject, saga.probes).mean())


@pytest.mark.parametrize(
    "method",
    [
        {"retain": "kl", "retain_weight": 10.0},  # the paper's labels, with control text held in place
        {"retain": "kl", "retain_weight": 3.0, "soft": True, "alpha": 1.0},
    ],
)
def test_the_saga_goes_and_ordinary_text_stays(saga: Saga, dictionary: str, method: dict[str, Any]) -> None:
    """Giveaways at least ten times less likely; NLL of text nobody trained on within 2%."""
    training = Training(epochs=8, batch_size=8, lr=1e-3)
    job = UnlearnJob(saga.fresh(), saga.forget, saga.control, training)
    unlearned = unlearn(WHP(anchors=dictionary, **method), job)
    assert known(saga.target, saga) > 0.5
    assert known(unlearned, saga) < known(saga.target, saga) / 10
    assert nll(unlearned, saga.unseen) == pytest.approx(nll(saga.target, saga.unseen), rel=0.02)


def test_each_half_alone(saga: Saga, dictionary: str) -> None:
    """Both forget something; here the anchors carry most of it."""
    training = Training(epochs=4, batch_size=8, lr=1e-3)
    left = {}
    for name, method in (("anchors", WHP(dictionary, alpha=0.0)), ("bootstrap", WHP("none"))):
        job = UnlearnJob(saga.fresh(), saga.forget, [], training)
        left[name] = known(unlearn(method, job), saga)
    assert left["anchors"] < 0.1 * known(saga.target, saga)
    assert 2 * left["anchors"] < left["bootstrap"] < known(saga.target, saga)


def test_the_steps_put_together(bed: Bed) -> None:
    """Reinforce a copy (three times the rate), label with both models, train the baseline on the labels."""
    method = WHP(reinforce_epochs=1.0, alpha=2.0)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING)
    unlearned = unlearn(method, job)

    steps = replace(TRAINING, epochs=1.0, lr=3e-3)
    reinforced = UnlearnJob(bed.fresh(), bed.forget, [], steps).train(Reinforce(), bed.fresh())
    blocks = make_blocks(bed.target, bed.forget)
    labels = generic_labels(bed.target, reinforced, blocks, method.dictionary(job), Generic(alpha=2.0))
    log = job.logs[1].probes[0]
    assert log["divergence"] == labels.divergence > 0
    assert log["changed"] == labels.changed > 0.1
    assert log["anchors"] == len(method.dictionary(job))
    assert len(job.logs) == 3
    by_hand = bed.fresh()
    order = epochs(len(blocks), TRAINING.total_steps(len(blocks)), 16, 0, "forget")
    streams = {"forget": Stream(labels.examples, order)}
    UnlearnJob(by_hand, [], [], TRAINING).train(GenericTuning(), by_hand, streams=streams)
    assert same(weights(by_hand.model), weights(unlearned.model))
    assert not same(weights(by_hand.model), weights(bed.target.model))


def test_the_loss_at_the_start_is_minus_log_of_the_largest_probability(bed: Bed) -> None:
    """No anchors, alpha = 0: labels are b's own arg-max, so the first step's loss is their mean -log p."""
    training = replace(TRAINING, steps=1, batch_size=len(bed.forget))
    job = UnlearnJob(bed.fresh(), bed.forget, [], training)
    unlearn(WHP("none", alpha=0.0), job)
    total, count = 0.0, 0
    for block in make_blocks(bed.target, bed.forget):
        with torch.no_grad():
            logits = bed.target.model(input_ids=torch.tensor([block.ids])).logits[0]
        best = logits[block.label_start - 1 : -1].log_softmax(-1).amax(-1)
        total, count = total - float(best.sum()), count + len(best)
    assert job.logs[-1].steps[0]["forget"] == pytest.approx(total / count, rel=1e-4)


def test_soft_labels_of_the_model_itself_do_not_pull(bed: Bed) -> None:
    """No anchors, alpha = 0, all tokens kept: the loss is the entropy of b, whose gradient at b is 0."""
    training = replace(TRAINING, steps=1, batch_size=len(bed.forget), lr=1.0, optimizer="adamw", clip=None)
    method = WHP("none", alpha=0.0, soft=True, soft_top=0)
    subject = bed.fresh()
    # AdamW moves by the sign of the gradient, however small: the gradient itself is read
    gradients: list[float] = []
    for p in subject.model.parameters():
        p.register_hook(lambda g: gradients.append(float(g.abs().max())))
    unlearn(method, UnlearnJob(subject, bed.forget, [], training))
    assert gradients
    assert max(gradients) < 1e-5


def test_killed_in_the_last_step_it_ends_the_same(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the labels are learnt: the labels are made again, the same, and training goes on where it was."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    method = WHP(reinforce_epochs=0.5)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if total == 12 and step == 5:
            raise KilledError

    def job(**changes: Any) -> UnlearnJob:
        return UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING, **changes)

    with pytest.raises(KilledError):
        unlearn(method, job(folder=tmp_path, observers=Observers(progress=kill)))
    again = job(folder=tmp_path)
    resumed, whole = unlearn(method, again), unlearn(method, job())
    assert [log.resumed_at for log in again.logs] == [3, None, 4]
    assert same(weights(resumed.model), weights(whole.model))


def test_several_substitutes(bed: Bed) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, replace(TRAINING, steps=2))
    method = WHP(substitutes=3, reinforce_epochs=0.5)
    assert method.dictionary(job).most == 3
    unlearn(method, job)
    assert len(job.logs) == 3


def test_plain_text_in_several_blocks(saga: Saga, dictionary: str) -> None:
    text = Record("", " ".join(r.answer for r in saga.forget))
    job = UnlearnJob(saga.fresh(), [text], [], replace(TRAINING, steps=2, batch_size=4))
    unlearn(WHP(dictionary, block=32), job)
    blocks = make_blocks(saga.target, [text], 32)
    assert len(blocks) > 10
    assert job.logs[1].probes[0]["labelled"] > 0.5


def test_what_is_refused(bed: Bed, saga: Saga, dictionary: str, tmp_path: Path) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING)
    text = Record("", " ".join(r.answer for r in saga.forget))
    with pytest.raises(InputError, match=r"block=512\) is longer than the model's context of 64"):
        unlearn(WHP(dictionary), UnlearnJob(saga.fresh(), [text], [], TRAINING))
    with pytest.raises(InputError, match="needs retain records for its retain term"):
        unlearn(WHP(dictionary, retain="nll"), UnlearnJob(saga.fresh(), saga.forget, [], TRAINING))
    with pytest.raises(InputError, match="substitutes=2 and no anchor has more than 1"):
        unlearn(WHP(dictionary, substitutes=2), job)
    with pytest.raises(InputError, match="No such file"):
        unlearn(WHP(str(tmp_path / "none.json")), job)
    values = {"alpha": -1.0, "penalty": -1.0, "substitutes": 0, "temperature": 0.0, "scale": "mean", "block": 0}
    for name, value in values.items():
        with pytest.raises(InputError, match=f"whp: {name}="):
            WHP(**{name: value})  # type: ignore[arg-type]


def test_no_dictionary_is_the_empty_one(bed: Bed) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING)
    assert WHP("none").dictionary(job).entries == Anchors({}).entries
