"""The embedded test bed on a mixture of experts: the same people, a small Qwen2-MoE instead of a Llama."""

from __future__ import annotations

import torch

from expunge.engine.training import derive_seed
from expunge.language.subject import Subject, default_device
from expunge.language.testbed import TEMPLATE, World, make_tokenizer


def base_subject(world: World, *, seed: int = 0, hidden: int = 128, layers: int = 2, experts: int = 8) -> Subject:
    """An untrained Qwen2-MoE with the world's tokenizer: `experts` routed experts, two for each token, one shared."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    tokenizer = make_tokenizer(world)
    torch.manual_seed(derive_seed(seed, "testbed weights"))
    config = Qwen2MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        moe_intermediate_size=hidden,
        shared_expert_intermediate_size=hidden,
        num_experts=experts,
        num_experts_per_tok=2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.04,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Qwen2MoeForCausalLM(config).to(default_device()).eval()
    return Subject(model, tokenizer, TEMPLATE, "testbed", max_length=128)
