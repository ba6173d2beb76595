"""Retraining, dropping edges, fresh rows, fine-tuning and ascent on the tiny world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.engine.loop import Observers
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.ga import GA
from expunge.recommend.methods.retrain import Retrain
from expunge.recommend.methods.row_reset import RowReset
from expunge.recommend.ranking import evaluate
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import emptied_nodes, unlearn
from recommend.tiny import (
    KINDS,
    REQUESTS,
    STEPS,
    TRAINING,
    forget_of,
    forget_scores,
    job_of,
    network,
    state,
    trained,
    untrained,
    world,
)


def recall(subject: Subject) -> float:
    """Test recall at 10 of the users who are not forgotten."""
    test = world().test
    staying = test.take(~torch.isin(test.pairs[:, 0], forget_of().pairs[:, 0]))
    return evaluate(subject, staying, world().train, (10,)).mean("recall", 10)


# -- retraining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_retraining_is_training_on_what_is_kept(kind: str) -> None:
    job = job_of(kind=kind)
    job.base_training = replace(TRAINING, steps=50)
    gold = unlearn(Retrain(), job)
    plain = untrained(kind).with_served(job.retain)
    again = replace(job, subject=plain).train(FineTune(), plain, replace(TRAINING, steps=45))
    assert gold.weights_hash() == again.weights_hash()
    assert gold.model is not job.subject.model


def test_who_has_nothing_left_keeps_initial_values_apart_from_being_a_negative() -> None:
    """Users are never negatives: their rows stay as they were drawn, bit for bit."""
    gold = unlearn(Retrain(), job_of())
    users = forget_of().pairs[:, 0].unique()
    table = gold.model.get_parameter("table")
    assert torch.equal(table[users], untrained().model.get_parameter("table")[users])


def test_erased_items_stay_as_they_were_drawn_unless_they_are_kept_as_negatives() -> None:
    items = forget_of("items").pairs[:, 1].unique() + 60
    start = network("bpr-mf").get_parameter("table")[items]
    gold = unlearn(Retrain(), job_of(request="items", kind="bpr-mf"))
    assert torch.equal(gold.model.get_parameter("table")[items], start)
    pushed = unlearn(Retrain(), job_of(request="items", kind="bpr-mf", keep_as_negatives=True))
    assert not torch.equal(pushed.model.get_parameter("table")[items], start)
    pairs = forget_of("items").pairs
    assert float(gold.pair_scores(pairs).mean().abs()) < 0.1
    assert float(pushed.pair_scores(pairs).mean()) < -0.2


def test_retraining_needs_to_know_how() -> None:
    for missing in ({"base": None}, {"base_training": None}):
        with pytest.raises(InputError, match="nothing says how the target was trained"):
            unlearn(Retrain(), job_of(**missing))


# -- dropping edges and fresh rows -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_edges_changes_no_weight_and_only_scores_that_propagate(kind: str) -> None:
    result = unlearn(DropEdges(), job_of(kind=kind))
    assert result.weights_hash() == trained(kind).weights_hash()
    users = torch.arange(60)
    same = torch.equal(result.scores(users), trained(kind).scores(users))
    assert same == (kind in ("bpr-mf", "vbpr"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_kind", REQUESTS)
def test_fresh_rows_are_those_of_emptied_nodes_alone(kind: str, request_kind: str) -> None:
    job = job_of(request=request_kind, kind=kind)
    result, emptied = unlearn(RowReset(), job), emptied_nodes(job)
    before = state(trained(kind).model)
    drawn = network(kind, derive_seed(job.seed, "row-reset"))
    for name, value in result.model.named_parameters():
        rows = torch.zeros(len(value), dtype=torch.bool)
        if name in result.model.node_rows:
            rows[result.model.rows_of(name, emptied)] = True
        assert torch.equal(value[~rows], before[name][~rows])
        assert torch.equal(value[rows], drawn.get_parameter(name)[rows])
    if request_kind == "users":
        assert set(forget_of().pairs[:, 0].tolist()) <= set(emptied.tolist())


def test_fresh_rows_are_near_retraining_for_user_requests() -> None:
    """Forgotten pairs score like retraining's, within three times the spread of two retrainings; recall holds."""
    before = forget_scores(trained())
    gold = forget_scores(unlearn(Retrain(), job_of()))
    other = forget_scores(unlearn(Retrain(), job_of(base=lambda: untrained(seed=1), seed=1)))
    reset = unlearn(RowReset(), job_of())
    assert abs(forget_scores(reset) - gold) < max(3 * abs(gold - other), 0.05 * before)
    assert forget_scores(unlearn(DropEdges(), job_of())) > 0.2 * before
    assert recall(reset) > 0.95 * recall(trained())


def test_fresh_rows_may_be_followed_by_training_on_what_is_kept() -> None:
    job = job_of(replace(STEPS, batch_size=100))
    unlearn(RowReset(epochs=2), job)
    assert len(job.logs[0].steps) == 2 * 5
    with pytest.raises(InputError, match="epochs=-1"):
        RowReset(epochs=-1)


# -- fine-tuning and ascent --------------------------------------------------------------------------


def test_ascent_lowers_the_ranking_of_forgotten_pairs_without_end() -> None:
    dropped = forget_scores(unlearn(DropEdges(), job_of()))
    few, many = (forget_scores(unlearn(GA(), job_of(replace(STEPS, steps=steps)))) for steps in (10, 40))
    assert many < few < dropped
    assert many < 0


def test_ascent_stops_when_what_is_kept_suffers() -> None:
    job = job_of(replace(STEPS, steps=200, evaluate_every=5, utility_floor=0.95, stop_below_floor=True))
    job.observers = Observers(probe=lambda model: {"retain": recall(job.dropped().with_model(model))})
    unlearn(GA(), job)
    stopped = job.logs[0].stopped
    assert stopped is not None
    assert "fell under the utility floor" in stopped


def test_fine_tuning_goes_on_with_the_targets_training() -> None:
    """From initial values, fine-tuning on everything kept is the training itself."""
    job = job_of(TRAINING, subject=untrained())
    tuned = unlearn(FineTune(), job)
    gold = unlearn(Retrain(), job_of(base_training=replace(TRAINING, steps=round(60 * 540 / 486))))
    assert tuned.weights_hash() == gold.weights_hash()
