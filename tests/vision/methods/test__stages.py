"""Stages: the same parts whatever wraps them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.vision.faces import GROUPS
from expunge.vision.methods._stages import chosen_modules, stages
from expunge.vision.networks import Normalised, Shape, SmallCNN


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Residual(nn.Module):
    """Laid out as the usual ResNet: a stem, four rows of blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Sequential(Block(4), Block(4)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 8)


def heads(model: nn.Module) -> list[str]:
    return [stage[0] for stage in stages(model)]


def test_a_residual_network_has_its_stem_its_blocks_and_its_head() -> None:
    assert stages(Residual()) == [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"], ["fc"]]
    assert chosen_modules(Residual(), 3, (), "cf-k") == ["layer3", "layer4", "fc"]  # MUFAC's CF-3


def test_what_wraps_it_makes_no_difference() -> None:
    wrapped = Normalised(Residual(), (0.5,) * 3, (0.5,) * 3, 8)
    assert heads(wrapped) == [f"inner.{name}" for name in heads(Residual())]


def test_a_plain_row_of_layers_is_one_stage_a_convolution() -> None:
    model = SmallCNN(Shape(3, GROUPS, (4, 6), 8))
    names = [["convolutions.0", "convolutions.1"], ["convolutions.3", "convolutions.4"], ["feature"], ["head"]]
    assert stages(model) == names


def test_lists_of_blocks_of_a_library_are_looked_into() -> None:
    import transformers as t

    vit = t.ViTForImageClassification(
        t.ViTConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, image_size=8,
                    patch_size=4, num_labels=4)
    )  # fmt: skip
    found = heads(vit)
    assert len(found) == 5  # embeddings, three blocks, the head; the last norm belongs to the last block
    assert found[-1] == "classifier"
    assert len({name.rpartition(".")[0] for name in found[1:4]}) == 1
    resnet = t.ResNetForImageClassification(
        t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5)
    )
    assert len(heads(resnet)) == 4  # embedder, two stages, the head


def test_patterns_name_modules() -> None:
    assert chosen_modules(Residual(), 3, ["layer4*", "fc"], "cf-k") == [
        "layer4", "layer4.0", "layer4.0.conv", "layer4.0.norm", "layer4.1", "layer4.1.conv", "layer4.1.norm", "fc",
    ]  # fmt: skip


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"cf-k: k=7, and the model has 6 stages \(conv1, layer1"):
        chosen_modules(Residual(), 7, (), "cf-k")
    with pytest.raises(InputError, match="cf-k: no module with weights is named 'layer5'"):
        chosen_modules(Residual(), 3, ["layer5"], "cf-k")
    with pytest.raises(InputError, match="'relu'"):
        chosen_modules(Residual(), 3, ["relu"], "cf-k")
