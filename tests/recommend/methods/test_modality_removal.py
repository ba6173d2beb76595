"""Modality removal: no score depends on the banned rows, exactly; what is lawful stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.methods.modality_removal import ModalityRemoval
from expunge.recommend.modality import modalities, remove_modality, replacement
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import unlearn
from recommend.tiny import STEPS, changed, forget_of, job_of, state, trained, world

ITEMS = forget_of("items").pairs[:, 1].unique()


def removed(kind: str, subject: Subject | None = None, *, steps: int = 5, modality: str | None = None) -> Subject:
    job = job_of(replace(STEPS, steps=steps), "items", kind)
    if subject is not None:
        job.subject = subject
    return unlearn(ModalityRemoval(modality), job)


def scores(subject: Subject) -> Tensor:
    return subject.scores(torch.arange(world().users))


@pytest.mark.parametrize("kind", ["vbpr", "mmgcn"])
@pytest.mark.parametrize("modality", ["visual", None])
def test_perturbing_the_banned_rows_changes_no_score(kind: str, modality: str | None) -> None:
    """Two targets that differ in the banned rows alone end in the very same scores."""
    perturbed = trained(kind)
    for name in ["visual"] if modality is None else [modality]:
        perturbed.model.get_buffer(f"features_{name}")[ITEMS] += 100.0
    assert not torch.equal(scores(perturbed), scores(trained(kind)))
    ends = [scores(removed(kind, subject, modality=modality)) for subject in (perturbed, trained(kind))]
    assert torch.equal(*ends)


def test_the_other_modality_and_the_other_items_stay() -> None:
    before = state(trained("vbpr").model)
    after = state(removed("vbpr", steps=0, modality="visual").model)
    assert changed(before, after) == {"features_visual"}
    moved = (before["features_visual"] != after["features_visual"]).any(1).nonzero()[:, 0]
    assert torch.equal(moved, ITEMS)
    assert changed(before, state(removed("vbpr", steps=0).model)) == {"features_text", "features_visual"}


def test_the_mean_is_that_of_the_other_items() -> None:
    """Rows 1, 3 and 8 of one number; without the last the mean is 2."""
    table, banned = torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([2])
    assert replacement(table, banned, "mean").tolist() == [2.0]
    assert replacement(table, banned, "zero").tolist() == [0.0]
    with pytest.raises(InputError, match="All 3 items lose their features"):
        replacement(table, torch.arange(3), "mean")


def test_the_items_are_still_served() -> None:
    served = removed("mmgcn")
    assert bool(served.served.contains(forget_of("items").pairs).all())
    assert served.catalogue is None


def test_fine_tuning_moves_what_is_learnt() -> None:
    assert changed(state(removed("vbpr").model), state(removed("vbpr", steps=0).model)) >= {"projection.weight"}


def test_refuses_what_is_not_there() -> None:
    assert modalities(trained("mmgcn").model) == ["text", "visual"]
    with pytest.raises(InputError, match="LightGCN reads no features"):
        remove_modality(trained().model, ITEMS, None)
    with pytest.raises(InputError, match=r"modality='visula' .* Did you mean 'visual'"):
        remove_modality(trained("vbpr").model, ITEMS, "visula")
    with pytest.raises(InputError, match="fill='median'"):
        ModalityRemoval(fill="median")  # type: ignore[arg-type]
