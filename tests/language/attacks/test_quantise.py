"""Quantisation: the rounding itself, and that only linear layers are touched."""

from __future__ import annotations

import copy

import pytest
import torch

from expunge.engine.rounding import round_to_nearest
from expunge.errors import InputError
from expunge.language.attacks.quantise import Quantise, quantise_linear
from expunge.language.testbed import World, base_subject


def test_hand_example() -> None:
    """Row (-7, 3.2, 0.4), 4 bits: top level 7, scale 7 / 7 = 1, so the row rounds to (-7, 3, 0).

    Row (0, 0, 0) stays zero although its scale is 0.
    """
    weight = torch.tensor([[-7.0, 3.2, 0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[-7.0, 3.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(round_to_nearest(weight, 4), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_is_at_most_half_a_level_and_levels_are_few(bits: int) -> None:
    weight = torch.randn(5, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = round_to_nearest(weight, bits)
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((weight - rounded).abs() <= scale / 2 + 1e-12).all()
    for row, level in zip(rounded, scale, strict=True):
        assert len((row / level).round().unique()) <= 2**bits - 1
    assert torch.allclose(round_to_nearest(rounded, bits), rounded)  # idempotent


def test_more_bits_mean_less_error() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    errors = [float((weight - round_to_nearest(weight, b)).pow(2).mean()) for b in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)


def test_only_linear_layers_change_and_embeddings_and_head_do_not() -> None:
    model = base_subject(World(2, 2, 2, 2), hidden=32, layers=1).model
    before = copy.deepcopy(model.state_dict())
    quantise_linear(model, 4)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {n for n in before if n.endswith("proj.weight")}


def test_bits_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"bits=\(1,\)"):
        Quantise(bits=(1,))
