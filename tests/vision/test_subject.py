"""Subjects: what is saved is what is loaded; other people's folders load; what cannot is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.networks import Normalised, Shape
from expunge.vision.subject import load_subject, own_module, reset, small_cnn

SHAPE = Shape(3, 4, (6, 8), 10)
IMAGES = Images.of(
    torch.randint(256, (5, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(5) % 4,
)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    subject = small_cnn(SHAPE, 0)
    subject.model.train()(torch.rand(4, 3, 8, 8))  # moves the running statistics too
    subject.save(tmp_path / "m", "# card\n")
    again = load_subject(str(tmp_path / "m"))
    assert again.fingerprint() == subject.fingerprint()
    assert torch.equal(again.outputs(IMAGES)[0], subject.outputs(IMAGES)[0])
    assert not again.model.training
    assert sorted(f.name for f in (tmp_path / "m").iterdir()) == ["README.md", "model.safetensors", "network.json"]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_transformers_folder(kind: str, tmp_path: Path) -> None:
    """A folder in the library's layout gives the library's logits on its own normalised pixels; heads can be new."""
    import transformers as t

    if kind == "resnet":
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
        model, size = t.ResNetForImageClassification(config).eval(), {"shortest_edge": 24}
        processor = t.ConvNextImageProcessorPil(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    else:
        config = t.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=24,
            patch_size=8, num_labels=5,
        )  # fmt: skip
        model, size = t.ViTForImageClassification(config).eval(), {"height": 24, "width": 24}
        processor = t.ViTImageProcessorPil(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    model.save_pretrained(tmp_path / "hub")
    processor.save_pretrained(tmp_path / "hub")
    subject = load_subject(str(tmp_path / "hub"))
    assert subject.classes == 5
    pixels = IMAGES.pixels(torch.arange(5))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        expected = model((pixels - mean) / std).logits
    torch.testing.assert_close(subject.outputs(IMAGES)[0], expected)
    for wanted in (5, 3):
        made = load_subject(str(tmp_path / "hub"), classes=wanted)
        made.save(tmp_path / f"ours{wanted}", "# card\n")
        again = load_subject(str(tmp_path / f"ours{wanted}"))
        assert again.classes == wanted
        assert torch.equal(again.outputs(IMAGES)[0], made.outputs(IMAGES)[0])


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.mean((2, 3)))  # type: ignore[no-any-return]

    subject = own_module(Mine(), 4)
    assert subject.outputs(IMAGES)[0].shape == (5, 4)
    assert subject.outputs(IMAGES)[1].shape == (5, 3)
    subject.save(tmp_path / "mine", "# card\n")
    with pytest.raises(InputError, match="a module of the user's own; build the module"):
        load_subject(str(tmp_path / "mine"))
    with pytest.raises(InputError, match="The head of Mine has 4 outputs, and there are 5 classes"):
        own_module(Mine(), 5)


def test_what_cannot_be_loaded_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model folder there"):
        load_subject(str(tmp_path / "nothing"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no \.safetensors weights"):
        load_subject(str(tmp_path / "pickled"))
    small_cnn(SHAPE, 0).save(tmp_path / "cut", "# card\n")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="not a classifier that can be loaded"):
        load_subject(str(tmp_path / "cut"))


def test_reset_reaches_every_depth() -> None:
    """Nothing keeps its value: weights in nested blocks, and running statistics too."""
    subject = small_cnn(SHAPE, 0)
    subject.model.train()(torch.rand(4, 3, 8, 8))
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    torch.manual_seed(7)
    reset(subject.model)
    for name, value in subject.model.state_dict().items():
        constant = name.endswith(("weight", "bias")) and "convolutions" in name and value.ndim == 1  # norm scales
        assert constant or not torch.equal(value, before[name]), name
    kept = subject.model.convolutions[0].weight.clone()  # type: ignore[attr-defined, union-attr]
    reset(subject.model, ["head"])
    assert torch.equal(subject.model.convolutions[0].weight, kept)  # type: ignore[attr-defined, union-attr]

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(InputError, match="Odd holds weights and has no reset_parameters"):
        reset(nn.Sequential(Odd()))


def test_pixels_are_resized_to_what_the_model_wants() -> None:
    seen: list[tuple[int, ...]] = []

    class Inner(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape))
            return images.mean((2, 3))

    out = Normalised(Inner(), (0.5,) * 3, (0.25,) * 3, 12)(torch.full((2, 3, 24, 24), 0.75))
    assert seen == [(2, 3, 12, 12)]
    assert torch.allclose(out, torch.ones(2, 3))
