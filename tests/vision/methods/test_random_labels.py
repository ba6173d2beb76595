"""Random labels: which labels are seen, when, and in which order the two sets pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.vision import forward
from expunge.vision.faces import GROUPS
from expunge.vision.methods._labels import random_labels
from expunge.vision.methods.amnesiac import Amnesiac
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.random_labels import RandomLabels
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained
from tiny_vision import STEPS, apart, changed, job_of, several, state, without_norms

EPOCHS = replace(STEPS, steps=None, epochs=2, batch_size=12)
Seen = list[tuple[Tensor, Tensor]]


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Collects (source rows, labels) of every batch that is trained on, in order."""
    seen: Seen = []
    real = forward.ImageExamples.view

    def view(self: Any, model: Any, rows: Tensor, totals: Any, reference: Any) -> Any:
        if model.training:
            seen.append((self.images.rows[rows], self.labels[rows]))
        return real(self, model, rows, totals, reference)

    with monkeypatch.context() as patch:
        patch.setattr(forward.ImageExamples, "view", view)
        yield seen


def flat(seen: Seen) -> list[tuple[int, int]]:
    """(source row, label) of every visit."""
    return [(int(r), int(y)) for rows, labels in seen for r, y in zip(rows, labels, strict=True)]


def rows_of(split: str) -> set[int]:
    return set(splits()[split].rows.tolist())


def truth() -> dict[int, int]:
    found = splits()
    both = [torch.cat([getattr(found[name], what) for name in ("forget", "retain")]) for what in ("rows", "labels")]
    return dict(zip(*(part.tolist() for part in both), strict=True))


def test_drawn_labels_are_uniform_over_the_candidates() -> None:
    true = torch.arange(4000) % GROUPS
    for exclude in (True, False):
        found = random_labels(true, GROUPS, generator(0), exclude_true=exclude)
        shift = torch.bincount((found - true) % GROUPS, minlength=GROUPS) / 4000
        expected = torch.tensor([0, 1 / 3, 1 / 3, 1 / 3] if exclude else [0.25] * 4)
        assert float((shift - expected).abs().max()) < 0.03
    assert bool((random_labels(true, GROUPS, generator(0), exclude_true=True) != true).all())


def test_of_several_labels_a_whole_vector_is_drawn() -> None:
    true = torch.tensor([[1.0, 0.0]]).repeat(4000, 1)
    found = random_labels(true, 2, generator(0), exclude_true=True)
    kinds, counts = torch.unique(found, dim=0, return_counts=True)
    assert kinds.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert float((counts / 4000 - 1 / 3).abs().max()) < 0.03


def test_one_class_has_no_other() -> None:
    with pytest.raises(InputError, match="one class only"):
        random_labels(torch.zeros(3, dtype=torch.long), 1, generator(0), exclude_true=True)


def test_sequential_passes_over_one_set_and_then_over_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """36 forgotten and 84 retained images in batches of 12: in each epoch 3 steps, then 7."""
    with watched(monkeypatch) as seen:
        unlearn(RandomLabels(), job_of(EPOCHS))
    forget, own = rows_of("forget"), truth()
    sides = ["f" if set(rows.tolist()) <= forget else "r" for rows, _ in seen]
    assert "".join(sides) == "fffrrrrrrr" * 2
    for (rows, labels), side in zip(seen, sides, strict=True):
        right = [own[int(r)] == int(y) for r, y in zip(rows, labels, strict=True)]
        assert all(right) if side == "r" else not any(right)
    passes = [torch.cat([rows for rows, _ in seen[at : at + 3]]).tolist() for at in (0, 10)]
    assert all(set(p) == forget and len(p) == len(forget) for p in passes)
    first, second = (dict(flat(seen[at : at + 3])) for at in (0, 10))
    differ = sum(first[r] != second[r] for r in forget) / len(forget)
    assert 0.4 < differ < 0.95  # fresh labels: two of three others differ


def test_joint_mixes_both_and_draws_labels_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as seen:
        unlearn(RandomLabels(variant="joint"), job_of(EPOCHS))
    forget, own = rows_of("forget"), truth()
    assert len(seen) == 20
    visits = flat(seen)
    for epoch in (visits[:120], visits[120:]):
        assert len(dict(epoch)) == 120
        assert all((own[r] == y) == (r not in forget) for r, y in epoch)
    assert any(set(rows.tolist()) & forget and set(rows.tolist()) - forget for rows, _ in seen)
    first, second = dict(visits[:120]), dict(visits[120:])
    assert {r for r in first if first[r] != second[r]} <= forget
    assert any(first[r] != second[r] for r in forget)


def test_forget_only_needs_no_retained_images(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(EPOCHS, retain=splits()["retain"].take([]))
    with watched(monkeypatch) as seen:
        unlearn(RandomLabels(variant="forget-only", exclude_true=False), job)
    assert all(set(rows.tolist()) <= rows_of("forget") for rows, _ in seen)
    own = truth()
    right = [own[int(r)] == int(y) for rows, ys in seen for r, y in zip(rows, ys, strict=True)]
    assert 0 < sum(right) < len(right) / 2  # the true label is a candidate here
    with pytest.raises(InputError, match="RandomLabels needs retain images"):
        unlearn(RandomLabels(), job)


def test_amnesiac_fixes_one_wrong_label_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as seen:
        unlearn(Amnesiac(), job_of(EPOCHS))
    forget, own = rows_of("forget"), truth()
    visits = flat(seen)
    assert dict(visits[:120]) == dict(visits[120:])
    assert all((own[r] == y) == (r not in forget) for r, y in visits)


@pytest.mark.parametrize("variant", ["sequential", "joint", "forget-only"])
def test_what_is_seen_does_not_depend_on_the_micro_batch(variant: Any) -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(EPOCHS, steps=13, micro_batch=micro, optimizer="sgd"), subject=without_norms())
        ends.append(state(unlearn(RandomLabels(variant=variant), job).model))
    assert apart(*ends) < 1e-6
    assert changed(ends[0], state(without_norms().model))


def test_statistics_rest_where_they_are_frozen() -> None:
    moved = changed(state(trained().model), state(unlearn(RandomLabels(freeze_norms=True), job_of(EPOCHS)).model))
    assert moved
    assert not any("running" in name or "tracked" in name for name in moved)
    moved = changed(state(trained().model), state(unlearn(RandomLabels(), job_of(EPOCHS)).model))
    assert any("running_mean" in name for name in moved)


def test_with_true_labels_the_retain_steps_are_those_of_fine_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws of the same set, whether or not there is a forget pass in between."""
    with watched(monkeypatch) as mixed:
        unlearn(RandomLabels(), job_of(EPOCHS))
    with watched(monkeypatch) as alone:
        unlearn(FineTune(), job_of(EPOCHS))
    kept = [rows for rows, _ in mixed if not set(rows.tolist()) & rows_of("forget")]
    assert len(kept) == len(alone)
    assert all(torch.equal(a, b) for a, (b, _) in zip(kept, alone, strict=True))


def test_yes_or_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: several(images) for name, images in splits().items()}
    for method in (RandomLabels(), RandomLabels(variant="joint"), Amnesiac()):
        job = UnlearnJob(without_norms(), found["forget"], found["retain"], STEPS)
        with watched(monkeypatch) as seen:
            unlearn(method, job)
        assert all(labels.dtype == torch.float32 and labels.shape[1] == GROUPS for _, labels in seen)
        assert len(job.logs[0].steps) == 5


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="random-labels: variant='both' must be one of sequential, joint, forget-only"):
        RandomLabels(variant="both")  # type: ignore[arg-type]
