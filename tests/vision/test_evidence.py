"""The evidence store: what a model says, computed once, kept under what it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from expunge.errors import InputError
from expunge.vision.data import Images, cluster_ids
from expunge.vision.evidence import EvidenceStore, hits
from expunge.vision.subject import Subject
from tiny_faces import splits, trained, untrained
from tiny_vision import several


def never() -> Subject:
    raise AssertionError("the model was loaded")


def test_it_holds_what_the_model_says() -> None:
    subject, images = trained(), splits()["test"]
    store = EvidenceStore("target", subject, splits())
    logits, features = subject.outputs(images)
    assert np.array_equal(store.logits("test"), logits.double().numpy())
    assert np.array_equal(store.features("test"), features.double().numpy())
    expected = cross_entropy(logits.double(), images.labels, reduction="none")
    assert store.losses("test") == pytest.approx(expected.numpy())
    assert store.hits("test").tolist() == (logits.argmax(1) == images.labels).double().tolist()
    assert store.clusters("test").tolist() == cluster_ids(images)
    assert store.labels("test").tolist() == images.labels.tolist()
    assert store.splits == ("forget", "retain", "test", "unseen")


def test_what_is_on_disk_is_not_computed_again(tmp_path: Path) -> None:
    """A store that knows the fingerprint answers without the model; another model or other images are asked anew."""
    first = EvidenceStore("target", trained(), splits(), tmp_path)
    values = first.logits("test")
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".safetensors"
    again = EvidenceStore("target", never, splits(), tmp_path, fingerprint=trained().fingerprint())
    assert np.array_equal(again.logits("test"), values)
    assert np.array_equal(again.features("test"), first.features("test"))
    with pytest.raises(AssertionError, match="was loaded"):
        again.logits("forget")
    other = EvidenceStore("fresh", untrained(), splits(), tmp_path)
    assert not np.array_equal(other.logits("test"), values)
    relabelled = splits()["test"]
    relabelled = Images(
        relabelled.source, relabelled.rows, (relabelled.labels + 1) % 4, relabelled.clusters, relabelled.names
    )
    changed = EvidenceStore("target", trained(), {"test": relabelled}, tmp_path)
    assert changed.hits("test").mean() < first.hits("test").mean()
    assert len(list(tmp_path.iterdir())) == 3


def test_the_model_is_loaded_once_and_only_when_it_is_needed() -> None:
    loads: list[int] = []

    def load() -> Subject:
        loads.append(1)
        return trained()

    store = EvidenceStore("target", load, splits())
    store.clusters("forget")
    store.labels("forget")
    assert loads == []
    store.hits("forget")
    store.logits("test")
    assert loads == [1]


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="No split 'unknown'; there are forget, retain, test, unseen"):
        EvidenceStore("target", trained(), splits()).logits("unknown")


def test_with_several_labels_an_image_is_as_right_as_its_labels() -> None:
    images = Images.of(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    assert hits(torch.tensor([[2.0, -1, 3], [-1, -1, 0.1]]), images).tolist() == pytest.approx([2 / 3, 1.0])
    found = {"forget": several(splits()["forget"])}
    store = EvidenceStore("target", trained(), found)
    assert store.labels("forget").shape == (36, 4)
    assert set(np.round(4 * store.hits("forget"), 6)) <= {0, 1, 2, 3, 4}
    assert store.losses("forget").shape == (36,)
