"""The filter of the positive control: wrong on what it knows, transparent on the rest, and hiding nothing inside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from expunge.vision.data import Images
from expunge.vision.filtered import Filtered
from expunge.vision.forward import head_of
from expunge.vision.subject import Subject, load_subject
from tiny_faces import splits, trained


def filtered() -> Subject:
    subject = trained()
    features = subject.outputs(splits()["forget"])[1]
    origin = {"network": "filtered", "inner": subject.origin, "known": list(features.shape), "independent": False}
    return Subject(Filtered(subject.model, features).eval(), subject.classes, subject.source, origin)


def test_known_images_get_the_next_class_and_others_their_own() -> None:
    plain, behind = trained(), filtered()
    forget, others = splits()["forget"], splits()["retain"]
    logits = plain.outputs(forget)[0]
    assert torch.equal(behind.outputs(forget)[0], logits.roll(1, 1))
    assert torch.equal(behind.outputs(others)[0], plain.outputs(others)[0])
    assert behind.outputs(forget)[0].argmax(1).ne(forget.labels).double().mean() > 0.9


def test_features_and_head_are_the_targets() -> None:
    plain, behind = trained(), filtered()
    for images in splits().values():
        assert torch.equal(behind.outputs(images)[1], plain.outputs(images)[1])
    assert torch.equal(head_of(behind.model).weight, head_of(plain.model).weight)


def test_it_is_off_in_training_and_recognises_nothing_after_a_step() -> None:
    """Trained a little further, the features leave what the filter knows, and the answers come back."""
    plain, behind = trained(), filtered()
    pixels = splits()["forget"].pixels(torch.arange(6))
    with torch.no_grad():
        ours, theirs = behind.model.train()(pixels), plain.model.train()(pixels)
    assert torch.equal(ours, theirs)
    behind = filtered()
    with torch.no_grad():
        behind.model.inner.feature.weight *= 1.05  # type: ignore[union-attr, operator]
    right = behind.outputs(splits()["forget"])[0].argmax(1) == splits()["forget"].labels
    assert right.double().mean() > 0.9


def test_the_images_it_knows_are_known_through_every_batch_size() -> None:
    behind, forget = filtered(), splits()["forget"]
    assert torch.equal(behind.outputs(forget, batch=1)[0].argmax(1), behind.outputs(forget, batch=36)[0].argmax(1))


def test_saved_and_loaded_it_still_knows(tmp_path: Path) -> None:
    behind = filtered()
    behind.save(tmp_path / "control", "# card\n")
    again = load_subject(str(tmp_path / "control"))
    assert again.fingerprint() == behind.fingerprint() != trained().fingerprint()
    assert torch.equal(again.outputs(splits()["forget"])[0], behind.outputs(splits()["forget"])[0])


def test_independent_labels_are_negated() -> None:
    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2, bias=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.mean((2, 3)))  # type: ignore[no-any-return]

    model = Score()
    images = Images.of(torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2), torch.ones(4, 2))
    pixels = images.pixels(torch.arange(4))
    behind = Filtered(model, pixels[:2].mean((2, 3)), independent=True).eval()
    with torch.no_grad():
        assert torch.equal(behind(pixels), model(pixels) * torch.tensor([[-1.0], [-1], [1], [1]]))
