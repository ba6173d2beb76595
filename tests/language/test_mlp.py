"""The down-projection of every family: the same [d, f] matrix, however it is stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MixtralConfig, PhiConfig

from expunge.errors import InputError
from expunge.language.encode import Template
from expunge.language.forward import decoder_layers
from expunge.language.mlp import down_projection
from expunge.language.subject import Subject, add_lora
from tiny_models import VOCABULARY, tiny

SQUARE = {"hidden_size": 16, "intermediate_size": 16}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}


def phi(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = PhiConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                       num_attention_heads=2, **TOKENS, **changes)  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def model_of(family: str) -> Any:
    return phi() if family == "phi" else tiny(family)


FAMILIES = {
    "llama": ("mlp.down_proj.weight", 24, False),
    "qwen2": ("mlp.down_proj.weight", 24, False),
    "gemma2": ("mlp.down_proj.weight", 24, False),
    "gpt2": ("mlp.c_proj.weight", 64, True),
    "phi": ("mlp.fc2.weight", 24, False),
}


def outputs(model: Any, keys: Tensor) -> Tensor:
    module = down_projection(model, 1).module
    with torch.no_grad():
        return module(keys)  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_the_sum_of_its_value_vectors(family: str) -> None:
    """y = sum_j k_j v_j + bias, so one unit key gives the value vector of its number."""
    name, width, transposed = FAMILIES[family]
    model = model_of(family)
    down = down_projection(model, 1)
    assert (down.width, down.size, down.transposed) == (width, 16, transposed)
    assert down.name.endswith(name)
    assert dict(model.named_parameters())[down.name] is down.weight
    zero = outputs(model, torch.zeros(1, width))
    unit = torch.eye(width)[5:6]
    torch.testing.assert_close(outputs(model, unit) - zero, down.column(5)[None])
    torch.testing.assert_close(outputs(model, torch.ones(1, width)) - zero, down.columns().sum(0)[None])


@pytest.mark.parametrize("family", FAMILIES)
def test_changes_reach_the_model(family: str) -> None:
    model = model_of(family)
    down = down_projection(model, 1)
    before, vector = down.matrix.clone(), torch.arange(16.0)
    down.set_column(3, vector)
    torch.testing.assert_close(down_projection(model, 1).column(3), vector)
    delta = torch.randn(16, down.width, generator=torch.Generator().manual_seed(0))
    down.set_column(3, before[:, 3])
    keys = torch.randn(2, down.width, generator=torch.Generator().manual_seed(1))
    start = outputs(model, keys)
    down.add_(delta)
    torch.testing.assert_close(outputs(model, keys), start + keys @ delta.T)
    assert down.weight.requires_grad


def test_the_type_decides_where_the_shape_cannot() -> None:
    """d = f: the stored matrix is square, and GPT-2 still keeps it the other way round."""
    square = tiny("gpt2", n_inner=16)
    down = down_projection(square, 0)
    assert down.weight.shape == (16, 16)
    assert down.transposed
    torch.testing.assert_close(down.column(2), down.weight.detach()[2])
    llama = down_projection(tiny("llama", **SQUARE), 0)
    assert not llama.transposed
    torch.testing.assert_close(llama.column(2), llama.weight.detach()[:, 2])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_below_adapters_and_wrappers(family: str) -> None:
    plain = model_of(family)
    own = down_projection(plain, 1).weight
    adapted = add_lora(Subject(plain, None, Template(), "tiny"), 2, 4.0, "all-linear", 0.0, seed=0).model
    down = down_projection(adapted, 1)
    assert down.weight is own
    assert down.transposed == (family == "gpt2")
    assert dict(adapted.named_parameters())[down.name] is own

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    assert down_projection(Wrapped(adapted), 1).weight is own


def test_rounding_happens_once_in_the_precision_of_the_change() -> None:
    model = tiny("llama").to(torch.bfloat16)
    down = down_projection(model, 0)
    delta = torch.full((16, 24), 1e-3)
    wanted = (down.matrix.float() + delta).to(torch.bfloat16)
    down.add_(delta)
    assert torch.equal(down.matrix, wanted)


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(InputError, match="layer=2: the model has layers 0 to 1"):
        down_projection(tiny(), 2)
    torch.manual_seed(0)
    mixture = AutoModelForCausalLM.from_config(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )
    with pytest.raises(InputError, match="layer=0: its MLP is a mixture of experts"):
        down_projection(mixture, 0)
    strange = tiny()
    decoder_layers(strange)[2][0].mlp = nn.Sequential(nn.Linear(16, 16))
    with pytest.raises(InputError, match="Sequential has no down-projection that is known"):
        down_projection(strange, 0)
    odd = tiny()
    odd.model.layers[0].mlp.down_proj = nn.Bilinear(4, 4, 16)
    with pytest.raises(InputError, match="is a Bilinear; only unquantised linear layers"):
        down_projection(odd, 0)


def test_wrong_columns_and_shapes_are_refused() -> None:
    down = down_projection(tiny(), 0)
    with pytest.raises(InputError, match="no value vector 24; it has vectors 0 to 23"):
        down.column(24)
    with pytest.raises(InputError, match="no value vector -1"):
        down.set_column(-1, torch.zeros(16))
    with pytest.raises(InputError, match=r"shape \[24\]; it must be \[16\]"):
        down.set_column(0, torch.zeros(24))
    with pytest.raises(InputError, match=r"shape \[24, 16\]; it must be \[16, 24\]"):
        down.add_(torch.zeros(24, 16))
