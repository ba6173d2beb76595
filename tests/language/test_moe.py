"""The adapter: every family and both layouts, the routing it reads, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from expunge.errors import InputError
from expunge.language.moe import moe_layers, slice_name, tunable_share
from tiny_models import tiny
from tiny_moe import CHOSEN, EXPERTS, FAMILIES, WIDTH, listed, tiny_moe

TOKENS = torch.tensor([[3, 9, 4, 7, 21, 30, 12]])


def gate_output(model: Any, gate: nn.Module) -> Any:
    seen: list[Any] = []
    handle = gate.register_forward_hook(lambda _, __, output: seen.append(output))
    model(TOKENS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_experts_parameters_are_what_its_tokens_go_through(family: str) -> None:
    """Noise in the parameters of one expert moves the tokens routed to it and, in that layer, no other."""
    model = tiny_moe(family)
    layers = moe_layers(model)
    last = layers[max(layers)]
    chosen = last.route(gate_output(model, last.gate)).chosen
    expert = int(chosen[0, 0])
    before = model(TOKENS).logits[0]
    with torch.no_grad():
        for name, index in last.expert_params(expert):
            dict(model.named_parameters())[name][index].add_(0.5)
    moved = (model(TOKENS).logits[0] != before).any(-1)
    assert moved.tolist() == (chosen == expert).any(-1).tolist()
    assert moved.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_fused_experts(family: str) -> None:
    model = tiny_moe(family)
    layers = moe_layers(model)
    assert list(layers) == ([1, 2] if family == "deepseek-v2" else [0, 1])
    for index, layer in layers.items():
        assert (layer.index, layer.num_experts, layer.top_k) == (index, EXPERTS, CHOSEN)
        mixture = f"model.layers.{index}.mlp"
        assert layer.gate is model.get_submodule(f"{mixture}.gate")
        assert layer.gate_names == (f"{mixture}.gate.weight",)
        parts = [f"{mixture}.experts.gate_up_proj", f"{mixture}.experts.down_proj"]
        assert layer.expert_params(3) == [(parts[0], 3), (parts[1], 3)]
        shared = [n for n, _ in model.named_parameters() if n.startswith(f"{mixture}.shared_expert")]
        assert sorted(layer.shared_names) == sorted(shared)
        assert bool(shared) == (family in ("qwen2-moe", "deepseek-v2"))


@pytest.mark.parametrize(
    ("family", "settings"), [*((f, {}) for f in FAMILIES), ("qwen2-moe", {"norm_topk_prob": True})]
)
def test_scores_are_what_the_model_weighs_its_experts_with(family: str, settings: dict[str, Any]) -> None:
    """DeepSeek's constant factor apart (2 here), the scores at the chosen experts are the model's own weights."""
    model = tiny_moe(family, **settings)
    layer = list(moe_layers(model).values())[-1]
    output = gate_output(model, layer.gate)
    routing = layer.route(output)
    _, weights, chosen = output
    factor = 2.0 if family == "deepseek-v2" else 1.0
    torch.testing.assert_close(routing.scores.gather(-1, chosen) * factor, weights)
    assert torch.equal((routing.scores > 0).sum(-1), torch.full((7,), CHOSEN))
    assert layer.norm_topk == (family == "mixtral" or "norm_topk_prob" in settings)
    sums = routing.scores.sum(-1)
    assert (sums <= 1 + 1e-6).all()
    assert layer.norm_topk == bool(((sums - 1).abs() < 1e-6).all())
    torch.testing.assert_close(routing.probabilities.sum(-1), torch.ones(7))


def test_the_layout_of_transformers_4_is_the_same_mixture() -> None:
    """A linear gate and a list of experts: same logits, same routing; names without slices."""
    fused, unfused = tiny_moe("qwen3-moe"), listed(tiny_moe("qwen3-moe"))
    torch.testing.assert_close(fused(TOKENS).logits, unfused(TOKENS).logits)
    for a, b in zip(moe_layers(fused).values(), moe_layers(unfused).values(), strict=True):
        assert (a.index, a.num_experts, a.top_k, a.norm_topk) == (b.index, b.num_experts, b.top_k, b.norm_topk)
        ours, theirs = a.route(gate_output(fused, a.gate)), b.route(gate_output(unfused, b.gate))
        torch.testing.assert_close(ours.scores, theirs.scores)
        assert torch.equal(ours.chosen.sort(-1).values, theirs.chosen.sort(-1).values)
        stem = f"model.layers.{b.index}.mlp.experts.5"
        names = [f"{stem}.{part}_proj.weight" for part in ("gate", "up", "down")]
        assert b.expert_params(5) == [(name, None) for name in names]


def test_dense_blocks_are_left_out_by_their_index() -> None:
    """Qwen2-MoE's `mlp_only_layers` and `decoder_sparse_step`; the index is the block's."""
    assert list(moe_layers(tiny_moe("qwen2-moe", num_hidden_layers=4, decoder_sparse_step=2))) == [1, 3]
    assert list(moe_layers(tiny_moe("qwen2-moe", num_hidden_layers=3, mlp_only_layers=[1]))) == [0, 2]


def test_the_share_of_an_expert_and_its_router() -> None:
    """(2 I H + H I + E H) / total, H = 16, I = 12, E = 8; the other slices do not count."""
    model = tiny_moe("qwen2-moe")
    layer = moe_layers(model)[1]
    names = [slice_name(*part) for part in layer.expert_params(3)] + list(layer.gate_names)
    total = sum(p.numel() for p in model.parameters())
    assert tunable_share(model, names) == (2 * WIDTH * 16 + 16 * WIDTH + EXPERTS * 16) / total
    everything = [name for name, _ in model.named_parameters()]
    assert tunable_share(model, everything) == 1


def test_a_dense_model_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^LlamaForCausalLM is dense: no decoder block has routed experts; [^.]*\.$"):
        moe_layers(tiny())


def test_an_expert_that_does_not_exist_is_refused() -> None:
    layer = moe_layers(tiny_moe())[1]
    for expert in (EXPERTS, -1):
        with pytest.raises(InputError, match=rf"expert 1\.{expert}: layer 1 has the experts 0 to 7"):
            layer.expert_params(expert)


def test_other_kinds_of_mixture_are_refused() -> None:
    biased = tiny_moe()
    biased.model.layers[1].mlp.gate.e_score_correction_bias = torch.zeros(EXPERTS)
    with pytest.raises(InputError, match="layer 1: Qwen2MoeSparseMoeBlock does not route by the softmax"):
        moe_layers(biased)
    odd = tiny_moe()
    odd.model.layers[0].mlp.experts = nn.Linear(3, 3)
    with pytest.raises(InputError, match="layer 0: Linear holds its 8 experts neither"):
        moe_layers(odd)
    layer = moe_layers(tiny_moe())[0]
    with pytest.raises(InputError, match="does not put out logits over its 8 experts"):
        layer.route((torch.zeros(5, 2, dtype=torch.long), torch.zeros(5, 2)))
