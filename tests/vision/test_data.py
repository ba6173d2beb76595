"""Images: what is taken is what was there; splits that share an identity are refused."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import InputError
from expunge.vision.data import Images, check_labels, cluster_ids, concatenate, folder_of, require_disjoint


def images(n: int = 6) -> Images:
    pixels = torch.arange(n * 12, dtype=torch.uint8).view(n, 3, 2, 2)
    return Images.of(pixels, torch.arange(n) % 3, ["a", "a", "b", "", "", "c"][:n])


def test_pixels_lie_between_0_and_1_and_keep_their_order() -> None:
    values = Images.of(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.zeros(3).long())
    assert values.pixels(torch.tensor([2, 0, 1])).flatten().tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_taking_twice_is_taking_once() -> None:
    every = images()
    some = every.take([4, 2, 0]).take([2, 0])
    assert some.rows.tolist() == [0, 4]
    assert some.names == ("image 1", "image 5")
    assert some.clusters == ("a", "")
    assert torch.equal(some.labels, every.labels[[0, 4]])
    assert torch.equal(some.pixels(torch.tensor([0, 1])), every.pixels(torch.tensor([0, 4])))


def test_an_image_without_identity_is_its_own() -> None:
    assert cluster_ids(images()) == [0, 0, 1, 2, 3, 4]


def test_the_digest_sees_pixels_labels_identities_and_order() -> None:
    first = images()
    assert first.digest == images().digest
    changed = Images.of(first.source.values.clone().flip(0), first.labels, first.clusters)  # type: ignore[attr-defined]
    relabelled = Images.of(first.source.values, first.labels + 1, first.clusters)  # type: ignore[attr-defined]
    renamed = Images.of(first.source.values, first.labels, ["z", *first.clusters[1:]])  # type: ignore[attr-defined]
    turned = first.take(torch.arange(5, -1, -1))
    assert len({first.digest, changed.digest, relabelled.digest, renamed.digest, turned.digest}) == 5


def test_one_source_can_be_put_together_and_two_cannot() -> None:
    every = images()
    both = concatenate([every.take([5]), every.take([0, 1])])
    assert both.rows.tolist() == [5, 0, 1]
    assert both.clusters == ("c", "a", "a")
    with pytest.raises(ValueError, match="different sources"):
        concatenate([every, images()])


def test_an_identity_in_two_splits_is_refused_by_name() -> None:
    every = images()
    require_disjoint({"forget": every.take([0, 1]), "retain": every.take([2, 3, 4, 5])})
    with pytest.raises(InputError, match=r"identity 'a' is in forget \(image 1\) and in retain \(image 2\)"):
        require_disjoint({"forget": every.take([0]), "retain": every.take([1, 2])})
    require_disjoint({"forget": every.take([3]), "retain": every.take([4])})  # no identity is no shared identity
    with pytest.raises(InputError, match="image 'image 4' is in forget"):
        require_disjoint({"forget": every.take([3]), "retain": every.take([3, 4])}, by="image")


def test_labels_outside_the_classes_are_refused_by_image() -> None:
    check_labels(images(), 3, "train")
    with pytest.raises(InputError, match=r"train, image 3: label 2 is outside the classes 0 to 1"):
        check_labels(images(), 2, "train")
    several = Images.of(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2, 3))
    check_labels(several, 3, "train")
    with pytest.raises(InputError, match="3 labels an image, and the model has 4 outputs"):
        check_labels(several, 4, "train")


def test_pixels_are_bytes() -> None:
    with pytest.raises(InputError, match=r"uint8 of shape \[n, channels"):
        Images.of(torch.zeros(2, 3, 4, 4), torch.zeros(2).long())


def test_a_folder_that_is_not_there(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert folder_of(tmp_path, "of images") == tmp_path
    with pytest.raises(InputError, match="no such folder; one with images is needed"):
        folder_of(tmp_path / "no", "one with images is needed")
