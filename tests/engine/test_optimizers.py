"""Which parameters train, and with which optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from expunge.engine.optimizers import make_optimizers, select_trainable
from expunge.engine.training import Training
from expunge.engine.weights import Weights
from expunge.errors import InputError
from tiny_models import Ascent, tiny


@dataclass(frozen=True)
class Only(Ascent):
    """Trains the parameters it is told to."""

    names: tuple[str, ...] = ()

    def trainable(self, model: nn.Module) -> list[str] | None:
        return list(self.names)


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    own = {id(p) for g in optimizer.param_groups for p in g["params"]}
    return {n for n, p in model.named_parameters() if id(p) in own}


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_hidden_matrices_and_nothing_else(tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied)
    names = [n for n, _ in model.named_parameters()]
    adam, muon = make_optimizers(
        model, Weights(model, names).moved, Training(optimizer="muon", lr=1e-3, muon_lr=0.5, weight_decay=0.3)
    )
    assert isinstance(muon, torch.optim.Muon)
    outside = {n for n in names if "norm" in n or "embed" in n or "lm_head" in n}
    assert names_of(model, adam) == outside
    assert names_of(model, muon) == set(names) - outside
    assert (adam.param_groups[0]["initial_lr"], muon.param_groups[0]["initial_lr"]) == (1e-3, 0.5)
    assert (adam.param_groups[0]["weight_decay"], muon.param_groups[0]["weight_decay"]) == (0.3, 0.0)


def test_adamw_takes_all() -> None:
    model = tiny()
    names = [n for n, _ in model.named_parameters()]
    (adam,) = make_optimizers(model, Weights(model, names).moved, Training(lr=0.2, betas=(0.5, 0.6)))
    assert names_of(model, adam) == set(names)
    assert adam.param_groups[0]["betas"] == (0.5, 0.6)


def test_only_matrices_or_only_vectors_make_one_optimiser() -> None:
    """LoRA factors are all hidden matrices: no empty AdamW, and Muon keeps its own rate."""
    model, training = tiny(), Training(optimizer="muon", lr=1e-3, muon_lr=0.5)
    (muon,) = make_optimizers(model, Weights(model, ["model.layers.0.mlp.up_proj.weight"]).moved, training)
    assert muon.param_groups[0]["initial_lr"] == 0.5
    (adam,) = make_optimizers(model, Weights(model, ["model.norm.weight"]).moved, training)
    assert adam.param_groups[0]["initial_lr"] == 1e-3


def test_selection_freezes_the_rest_and_remembers() -> None:
    model = tiny()
    model.model.norm.weight.requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    names, flags = select_trainable(model, Only(("model.norm.weight",)))
    assert names == ["model.norm.weight"]
    assert flags == before
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["model.norm.weight"]


def test_without_a_wish_the_frozen_stay_frozen() -> None:
    model = tiny()
    model.model.norm.weight.requires_grad_(False)
    names, _ = select_trainable(model, Ascent())
    assert "model.norm.weight" not in names
    assert len(names) == len(list(model.named_parameters())) - 1


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(InputError, match="No parameter is left"):
        select_trainable(tiny(), Only(()))
    with pytest.raises(InputError, match=r"Only trains 'model\.nrom\.weight'"):
        select_trainable(tiny(), Only(("model.nrom.weight",)))
    with pytest.raises(InputError, match="all are frozen"):
        select_trainable(tiny().requires_grad_(False), Ascent())


def test_sgd_by_hand() -> None:
    """g' = g + wd w; buf = m buf + g'; w -= lr buf: two steps on one weight with gradient 1."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    settings = Training(optimizer="sgd", lr=0.1, momentum=0.5, weight_decay=0.25)
    (optimizer,) = make_optimizers(model, {"weight": model.weight}, settings)
    for _ in range(2):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    first = 1 + 0.25 * 2.0  # 1.5
    second = 0.5 * first + 1 + 0.25 * (2.0 - 0.1 * first)
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * first - 0.1 * second)
