"""GIF: everything moves, for any model; its recursion against conjugate gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.gif import GIF
from expunge.recommend.methods.ifru import IFRU
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import unlearn
from recommend.tiny import KINDS, apart, changed, forget_of, forget_scores, job_of, state, trained, world


def run(request: str = "edges", kind: str = "lightgcn", **settings: Any) -> Subject:
    return unlearn(GIF(**settings), job_of(request=request, kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_any_model_moves(kind: str) -> None:
    subject = run(kind=kind)
    names = {n for n, _ in subject.model.named_parameters()}
    assert changed(state(trained(kind).model), state(subject.model)) == names
    dropped = unlearn(DropEdges(), job_of(request="edges", kind=kind))
    assert forget_scores(subject, "edges") < forget_scores(dropped, "edges")


def test_the_series_converges_to_conjugate_gradients() -> None:
    exact = state(run(tolerance=1e-7, iterations=200, damping=2.0).model)
    far, near = (
        apart(exact, state(run(solver="neumann", scale=15.0, iterations=n, damping=2.0).model)) for n in (5, 150)
    )
    assert near < 1e-4
    assert far > 20 * near
    with pytest.raises(InputError, match=r"diverges at scale=0\.1"):
        run(solver="neumann", scale=0.1)


def test_hops_decide_whose_loss_is_counted_and_enough_of_them_are_all() -> None:
    forget = forget_of("edges").take([0])
    ends = []
    for hops in (0, 1, 6, 9):
        job = job_of(forget=forget, retain=world().train.without(forget))
        ends.append(state(unlearn(GIF(hops=hops), job).model))
    assert apart(ends[0], ends[1]) > 1e-6
    assert not changed(ends[2], ends[3])


def test_on_factor_models_it_is_ifru_with_every_row() -> None:
    """One hop of a large request reaches everybody, and nothing spills over."""
    everybody = state(unlearn(IFRU(rows="hop-1", damping=1.0), job_of(request="edges", kind="bpr-mf")).model)
    assert apart(everybody, state(run(kind="bpr-mf").model)) < 1e-4
    assert not torch.equal(everybody["table"], state(trained("bpr-mf").model)["table"])


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="gif: out of range: scale=0, hops=-1"):
        GIF(scale=0, hops=-1)
