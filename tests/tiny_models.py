"""Untrained models of a few thousand parameters, and random token sequences for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, Qwen2Config

from expunge.engine.loop import Stream
from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.language.encode import Encoded
from expunge.language.forward import LanguageExamples

VOCABULARY = 37
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
ROPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}


def tiny(family: str = "llama", seed: int = 0, layers: int = 2, **changes: Any) -> Any:
    """A random causal LM; weights are large enough that attention matters."""
    configs: dict[str, Any] = {
        "llama": lambda: LlamaConfig(**{**ROPED, "num_hidden_layers": layers, "initializer_range": 0.3, **changes}),
        "qwen2": lambda: Qwen2Config(**{**ROPED, "num_hidden_layers": layers, "initializer_range": 0.3, **changes}),
        "gemma2": lambda: Gemma2Config(
            **{
                **ROPED,
                "num_hidden_layers": layers,
                "initializer_range": 0.3,
                "final_logit_softcapping": 2.0,
                **changes,
            }
        ),
        "gpt2": lambda: GPT2Config(
            **{"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": layers, "n_head": 2, "initializer_range": 0.3}
            | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
            | changes
        ),
    }
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(configs[family]()).eval()


def sequences(count: int, seed: int = 0, longest: int = 11) -> Encoded:
    """Random token sequences of different lengths with at least one label each."""
    rng = random.Random(seed)
    rows = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(4, longest))] for _ in range(count)]
    lengths = torch.tensor([len(r) for r in rows])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    starts = torch.tensor([rng.randrange(1, len(r)) for r in rows])
    return Encoded(torch.tensor([t for r in rows for t in r]), offsets, starts)


def streams(steps: int = 6, batch: int = 8, seed: int = 0) -> dict[str, Stream]:
    """A forget and a retain stream of random sequences."""
    forget, retain = LanguageExamples(sequences(11, 1)), LanguageExamples(sequences(17, 2))
    return {
        "forget": Stream(forget, epochs(11, steps, batch, seed, "forget")),
        "retain": Stream(retain, uniform(17, steps, batch, seed, "retain")),
    }


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two sets of weights."""
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@dataclass(frozen=True)
class Ascent(Trained):
    """Raise the forget loss (through a bounded function), lower the retain loss; both use the reference."""

    paper: ClassVar[str] = "ours"
    intention: ClassVar[Intention] = "removal"

    def begin(self, step: Step) -> dict[str, Tensor]:
        return {"start": step.forget.nll_sum.mean()}

    def forget_loss(self, step: Step) -> Tensor:
        S = step.forget.nll_sum
        return step.forget.per_row(torch.tanh((step.forget.reference.nll_sum - S) / step.state["start"]))

    def retain_loss(self, step: Step) -> Tensor:
        return step.retain.nll + 0.1 * step.retain.per_row(
            (step.retain.nll_sum - step.retain.reference.nll_sum).square()
        )
