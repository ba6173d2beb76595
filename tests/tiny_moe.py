"""Mixtures of experts for tests: untrained ones of every layout, and a small trained test bed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from expunge.language import testbed_moe
from expunge.language.data import Record
from expunge.language.methods.fine_tune import FineTune
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob
from tiny_bed import TRAINING, WORLD, Bed
from tiny_models import SMALL

EXPERTS, CHOSEN, WIDTH = 8, 2, 12
_COMMON = {**SMALL, "num_hidden_layers": 2, "initializer_range": 0.3, "num_experts_per_tok": CHOSEN}
_HEADS = {"num_key_value_heads": 1, "head_dim": 8}
_INNER = {"moe_intermediate_size": WIDTH}
FAMILIES: dict[str, Any] = {
    "qwen2-moe": lambda **changes: Qwen2MoeConfig(
        **{**_COMMON, **_INNER, "num_experts": EXPERTS, "shared_expert_intermediate_size": 16}
        | {"num_key_value_heads": 1}
        | changes
    ),
    "qwen3-moe": lambda **changes: Qwen3MoeConfig(**{**_COMMON, **_HEADS, **_INNER, "num_experts": EXPERTS} | changes),
    "mixtral": lambda **changes: MixtralConfig(
        **{**_COMMON, **_HEADS, "num_local_experts": EXPERTS, "intermediate_size": WIDTH} | changes
    ),
    "olmoe": lambda **changes: OlmoeConfig(
        **{**_COMMON, "num_key_value_heads": 1, "num_experts": EXPERTS, "intermediate_size": WIDTH}
        | {"pad_token_id": 0, "eos_token_id": 2}
        | changes
    ),
    "deepseek-v2": lambda **changes: DeepseekV2Config(
        **{**_COMMON, **_INNER, "n_routed_experts": EXPERTS, "n_shared_experts": 2, "first_k_dense_replace": 1}
        | {"num_hidden_layers": 3, "num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": None}
        | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "routed_scaling_factor": 2.0}
        | changes
    ),
}


def tiny_moe(family: str = "qwen2-moe", seed: int = 0, **changes: Any) -> Any:
    """A random mixture of experts of two sparse layers (DeepSeek: a dense one before them)."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**changes)).eval()
    spread(model)
    return model


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Give every router random weights: some families start with all of them 0."""
    for name, p in model.named_parameters():
        if name.endswith(".gate.weight"):
            p.normal_(0, 0.7)


class Expert(nn.Module):
    """One expert as a module of its own."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        width = len(gate_up) // 2
        self.gate_proj, self.up_proj = (nn.Linear(gate_up.shape[1], width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(width, len(down), bias=False)
        with torch.no_grad():
            self.gate_proj.weight.copy_(gate_up[:width])
            self.up_proj.weight.copy_(gate_up[width:])
            self.down_proj.weight.copy_(down)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return made


class ListedMoe(nn.Module):
    """A mixture in the layout of transformers 4: a linear gate, and a list of experts."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        gate, experts = fused.gate, fused.experts
        self.top_k, self.norm_topk_prob = gate.top_k, getattr(gate, "norm_topk_prob", True)
        self.gate = nn.Linear(gate.weight.shape[1], gate.weight.shape[0], bias=False)
        with torch.no_grad():
            self.gate.weight.copy_(gate.weight)
        pairs = zip(experts.gate_up_proj, experts.down_proj, strict=True)
        self.experts = nn.ModuleList(Expert(up.detach(), down.detach()) for up, down in pairs)

    def forward(self, states: Tensor) -> Tensor:
        x = states.reshape(-1, states.shape[-1])
        scores, chosen = self.gate(x).softmax(-1).topk(self.top_k, -1)
        if self.norm_topk_prob:
            scores = scores / scores.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == index)
            out = out.index_add(0, rows, scores[rows, place, None] * expert(x[rows]))
        return out.reshape(states.shape)


def listed(model: Any) -> Any:
    """The same model (a family without shared experts) with its experts as modules; changed in place."""
    for block in model.model.layers:
        block.mlp = ListedMoe(block.mlp)
    return model


@dataclass(frozen=True)
class MoeBed(Bed):
    """The test bed's twelve people on a mixture of experts of 0.32 million parameters that knows them all."""

    def base(self) -> Subject:
        """The model before any training."""
        return testbed_moe.base_subject(WORLD, hidden=64)


def make_moe_bed(folder: Path) -> MoeBed:
    """Train the target and the gold model, or read them from the folder."""
    records = WORLD.records()
    target = _trained(folder / "moe-bed-target.safetensors", records["train_retain"] + records["train_forget"])
    return MoeBed(records, target, _trained(folder / "moe-bed-gold.safetensors", records["train_retain"]))


def _trained(path: Path, records: list[Record]) -> Subject:
    subject = testbed_moe.base_subject(WORLD, hidden=64)
    parameters = dict(subject.model.named_parameters())
    if not path.exists():
        UnlearnJob(subject, [], records, replace(TRAINING, epochs=14)).train(FineTune(), subject)
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({name: p.detach() for name, p in parameters.items()}, temporary)
        os.replace(temporary, path)
    with torch.no_grad():
        for name, value in load_file(path).items():
            parameters[name].copy_(value)
    return subject
