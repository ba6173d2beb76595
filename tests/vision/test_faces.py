"""Drawn faces: who is shown says nothing about the label, and everything about how old a person looks."""

from __future__ import annotations

import numpy as np
import torch

from expunge.vision.data import cluster_ids, require_disjoint
from expunge.vision.faces import GROUPS, SPLITS, Faces

FEW = Faces(3, 5, 2, 4, images=6, side=12)


def test_every_split_has_its_own_people() -> None:
    found = FEW.splits
    assert tuple(found) == SPLITS
    assert [len(found[s]) for s in SPLITS] == [18, 30, 12, 24]
    assert [len(set(found[s].clusters)) for s in SPLITS] == [3, 5, 2, 4]
    require_disjoint(found)
    require_disjoint(found, by="image")
    assert {len(set(cluster_ids(images.take(range(6))))) for images in found.values()} == {1}  # six of each
    pixels = found["retain"].pixels(torch.arange(30))
    assert pixels.shape == (30, 3, 12, 12)
    assert float(pixels.std()) > 0.1


def test_a_seed_repeats_and_another_does_not() -> None:
    again, other = (Faces(3, 5, 2, 4, images=6, side=12, seed=s).splits["forget"].digest for s in (0, 1))
    assert FEW.splits["forget"].digest == again != other


def test_the_label_is_independent_of_the_person() -> None:
    """Chi-squared of person by group stays where it is for independent draws, and groups are even."""
    many = Faces(60, 1, 1, 1, images=40, side=8).splits["forget"]
    table = np.zeros((60, GROUPS))
    np.add.at(table, (cluster_ids(many), many.labels.numpy()), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi = float(((table - expected) ** 2 / expected).sum())
    freedom = 59 * (GROUPS - 1)
    assert abs(chi - freedom) < 4 * (2 * freedom) ** 0.5
    assert bool((abs(table.sum(0) / table.sum() - 1 / GROUPS) < 0.04).all())


def spread_of_greying(offset: float) -> float:
    """Standard deviation over people of the age at which their hair would be all grey, from the pictures alone.

    Hair runs from its colour to 0.85 with age: the channels of the top of the head come together.
    """
    images = Faces(60, 1, 1, 1, images=20, side=16, offset=offset, seed=1).splits["forget"]
    top = images.pixels(torch.arange(len(images)))[:, :, 2:4, 6:10]
    shade = (top.amax(1) - top.amin(1)).mean((1, 2)).numpy()
    person, label = np.array(cluster_ids(images)), images.labels.numpy().astype(float)
    slopes, shifts = [], []
    for p in range(60):  # each person's own line: colour differs from head to head, and so does its start
        x, y = label[person == p], shade[person == p]
        slope, start = np.polyfit(x, y, 1)
        if slope < -0.02:
            slopes.append(slope)
            shifts.append(start / -slope)  # the age at which this head is all grey
    return float(np.std(shifts))


def test_without_an_offset_nobody_looks_older_than_others() -> None:
    """The age at which hair is grey is one and the same for all, and differs between people with an offset."""
    assert spread_of_greying(0.9) > 2 * spread_of_greying(0.0)
