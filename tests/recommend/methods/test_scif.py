"""SCIF: labels replaced by means, on the users' rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.recommend.influence import gradient
from expunge.recommend.methods import scif
from expunge.recommend.methods._influence import Triples, frozen, joined, pointwise, total
from expunge.recommend.methods._rows import opened
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.scif import KNOWN_LABELS, SCIF, labelled, mean_labels, split_values
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import UnlearnJob, unlearn
from recommend.tiny import changed, forget_of, forget_scores, job_of, state, trained


def run(request: str = "users", kind: str = "bpr-mf", **settings: Any) -> Subject:
    return unlearn(SCIF(**settings), job_of(request=request, kind=kind))


def table(subject: Subject) -> Tensor:
    return subject.model.get_parameter("table").detach()


def long(*values: int) -> Tensor:
    return torch.tensor(values)


def test_mean_labels_by_hand() -> None:
    """User 0 keeps something: 1/2. User 1 keeps nothing: the item's share of positives; item 4 is not kept: 1/2."""
    forget = Triples(long(0, 1, 1), long(0, 0, 4), long(3, 2, 2))
    retain = Triples(long(0, 2, 3), long(0, 0, 2), long(2, 3, 0))
    # item 0: positive twice, negative once; item 2: one of each
    positive, negative = mean_labels(forget, retain, 4, 5)
    assert positive.tolist() == pytest.approx([1 / 2, 2 / 3, 1 / 2])
    assert negative.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])


def test_labels_one_and_zero_are_the_pointwise_loss() -> None:
    s = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(KNOWN_LABELS(s[0], s[1]), pointwise(s[0], s[1]))
    # a label y moves the slope by -y: sigmoid(s) - y
    at = s[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(labelled(0.3, 0.0)(at, s[1]).sum(), at)
    assert torch.allclose(slope, torch.sigmoid(s[0]) - 0.3)
    both = split_values(labelled(0.3, 0.7), KNOWN_LABELS, 3)(s[0], s[1])
    assert torch.equal(both[:3], labelled(0.3, 0.7)(s[0, :3], s[1, :3]))
    assert torch.equal(both[3:], KNOWN_LABELS(s[0, 3:], s[1, 3:]))


@pytest.mark.parametrize("kind", ["bpr-mf", "lightgcn"])
def test_labels_that_do_not_change_move_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """G is exactly 0 with y~ = y."""
    assert changed(state(trained(kind).model), state(run(kind=kind).model)) == {"table"}
    monkeypatch.setattr(scif, "mean_labels", lambda *_: (1.0, 0.0))
    assert not changed(state(trained(kind).model), state(run(kind=kind).model))


@pytest.mark.parametrize("request_", ["users", "items", "edges"])
def test_only_the_users_of_the_request_move(request_: str) -> None:
    moved = (table(run(request_)) != table(trained("bpr-mf"))).any(1).nonzero()[:, 0]
    assert torch.equal(moved, forget_of(request_).pairs[:, 0].unique())


def test_forgets_more_than_dropping_the_edges() -> None:
    for kind in ("bpr-mf", "lightgcn"):
        dropped = unlearn(DropEdges(), job_of(kind=kind))
        assert forget_scores(run(kind=kind)) < forget_scores(dropped) - 0.2


def test_both_hessians_are_the_same_on_a_factor_model() -> None:
    first, second = (table(run(hessian=h, tolerance=1e-8)) for h in ("gauss-newton", "exact"))
    assert torch.allclose(first, second, atol=1e-5)


def test_the_newton_correction_goes_towards_the_minimum_with_the_new_labels() -> None:
    """It lowers the gradient of that loss on the moved rows; without it the step aims from a minimum that is not."""

    def left(subject: Subject, job: UnlearnJob) -> float:
        forget, retain = frozen(job)
        new = labelled(*mean_labels(forget, retain, 60, 40))
        every = joined(forget, retain)
        with opened(subject.model):
            value = total(subject.model, subject.graph, every, split_values(new, KNOWN_LABELS, len(forget)))
            whole = gradient(value, list(subject.model.parameters()))
        users = forget_of("edges").pairs[:, 0].unique()
        return float(whole.view(100, -1)[users].norm())

    job = job_of(request="edges", kind="bpr-mf")
    target = left(job.dropped(), job)
    corrected = left(run("edges", newton=True, damping=1.0), job)
    plain = left(run("edges", newton=False, damping=1.0), job)
    assert corrected < 0.7 * target
    assert corrected < plain
