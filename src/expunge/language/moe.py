"""Where the experts and routers of a mixture-of-experts model are, whatever the family calls them.

Two layouts are known: all experts of a layer fused into tensors with a leading expert dimension
(transformers 5: Qwen2-MoE, Qwen3-MoE, Mixtral, OLMoE, DeepSeek-V2), and a list of one module per expert
(transformers 4 and code of that shape). Both are told by structure, not by name: a decoder block holds one
module with a ``gate`` and ``experts``. Blocks without one are dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.engine.slices import tensor_of
from expunge.errors import InputError
from expunge.language.forward import decoder_layers, unwrap

# Routers that pick experts by something else than the softmax of their logits (DeepSeek-V3 and its kin).
OTHER_ROUTERS = ("e_score_correction_bias",)


class Routing(NamedTuple):
    """What a router decided at N positions."""

    probabilities: Tensor  # [N, E] softmax of the router's logits, with its gradient
    chosen: Tensor  # [N, K] the experts each position went to
    scores: Tensor  # [N, E] the gate score of the chosen experts, 0 elsewhere


@dataclass(frozen=True)
class MoeLayer:
    """One decoder block's mixture of experts.

    Attributes:
        index: Index of the decoder block (not of the mixture: dense blocks count).
        gate: The router, to be watched in a forward pass.
        num_experts: E, routed experts.
        top_k: K, experts each token goes to.
        norm_topk: Whether the gate scores of the chosen experts are rescaled to sum 1.
        gate_names: Names of the router's weight, in the whole model.
        expert_names: For each routed expert its parameters: a name, and which slice of it (None: all of it).
        shared_names: Names of the parameters of the experts every token goes to.
    """

    index: int
    gate: nn.Module
    num_experts: int
    top_k: int
    norm_topk: bool
    gate_names: tuple[str, ...]
    expert_names: tuple[tuple[tuple[str, int | None], ...], ...]
    shared_names: tuple[str, ...]

    def expert_params(self, expert: int) -> list[tuple[str, int | None]]:
        """The parameters of one routed expert: name and slice index (None: the whole tensor).

        Raises:
            InputError: The layer has no such expert.
        """
        if not 0 <= expert < self.num_experts:
            raise InputError(
                f"expert {self.index}.{expert}: layer {self.index} has the experts 0 to {self.num_experts - 1}."
            )
        return list(self.expert_names[expert])

    def route(self, output: Any) -> Routing:
        """Read what the gate put out.

        The score of a chosen expert is its softmax probability, or its share of the chosen ones' where the
        model renormalises; a constant factor that the model applies on top (DeepSeek's
        ``routed_scaling_factor``) is left out, so that scores never sum to more than 1.

        Args:
            output: Logits [..., E], or a tuple of them, the weights and the indices of the chosen experts.

        Raises:
            InputError: No logits over the layer's experts are in it.
        """
        logits, chosen = (output, None) if isinstance(output, Tensor) else (output[0], output[-1])
        if not logits.is_floating_point() or logits.shape[-1] != self.num_experts:
            raise InputError(
                f"layer {self.index}: {type(self.gate).__name__} does not put out logits over its "
                f"{self.num_experts} experts; this kind of router is not supported."
            )
        logits = logits.reshape(-1, self.num_experts)
        # bf16 probabilities of many experts lose digits; a float64 model is checked in float64
        probabilities = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)
        chosen = probabilities.topk(self.top_k, -1).indices if chosen is None else chosen.reshape(len(logits), -1)
        picked = probabilities.gather(-1, chosen)
        if self.norm_topk:
            picked = picked / picked.sum(-1, keepdim=True)
        return Routing(probabilities, chosen, torch.zeros_like(probabilities).scatter(-1, chosen, picked))


def moe_layers(model: nn.Module) -> dict[int, MoeLayer]:
    """The mixtures of a model by the index of their decoder block, in order; dense blocks are left out.

    Raises:
        InputError: A dense model; a kind of mixture that is not known here.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    config = unwrap(model).config.get_text_config()
    found = {}
    for index, block in enumerate(decoder_layers(model)[2]):
        mixtures = [m for m in block.modules() if hasattr(m, "gate") and hasattr(m, "experts")]
        if mixtures:
            found[index] = _read(index, mixtures[0], config, names)
    if not found:
        kind = type(unwrap(model)).__name__
        raise InputError(f"{kind} is dense: no decoder block has routed experts; this needs a mixture of experts.")
    return found


def _read(index: int, mixture: Any, config: Any, names: dict[int, str]) -> MoeLayer:
    gate, kind = mixture.gate, type(mixture).__name__
    if any(hasattr(gate, name) for name in OTHER_ROUTERS) or getattr(gate, "weight", None) is None:
        raise InputError(
            f"layer {index}: {kind} does not route by the softmax of its gate's logits; it is not supported."
        )
    count = int(gate.weight.shape[0])
    top_k = next((int(v) for o in (gate, mixture) if (v := getattr(o, "top_k", None))), config.num_experts_per_tok)
    return MoeLayer(
        index,
        gate,
        count,
        top_k,
        _norm_topk(mixture),
        (names[id(gate.weight)],),
        _expert_names(index, mixture, count, names),
        tuple(names[id(p)] for n, p in mixture.named_parameters() if n.startswith("shared_expert")),
    )


def _norm_topk(mixture: Any) -> bool:
    """Whether the mixture renormalises: its own setting; Mixtral always does, DeepSeek-V2 (here) never."""
    for owner in (mixture.gate, mixture):
        value = getattr(owner, "norm_topk_prob", None)
        if value is not None:
            return bool(value)
    return type(mixture).__name__.startswith("Mixtral")


def _expert_names(
    index: int, mixture: Any, count: int, names: dict[int, str]
) -> tuple[tuple[tuple[str, int | None], ...], ...]:
    experts = mixture.experts
    if isinstance(experts, nn.ModuleList):
        if len(experts) == count:
            return tuple(tuple((names[id(p)], None) for p in expert.parameters()) for expert in experts)
    else:
        fused = list(experts.parameters())
        if fused and all(p.ndim >= 2 and p.shape[0] == count for p in fused):
            return tuple(tuple((names[id(p)], e) for p in fused) for e in range(count))
    raise InputError(
        f"layer {index}: {type(experts).__name__} holds its {count} experts neither as a list of modules nor as "
        f"tensors with one slice for each; it is not supported."
    )


def slice_name(name: str, index: int | None) -> str:
    """How a method names a parameter or one slice of it (see `Trained.trainable`).

    >>> slice_name("experts.down_proj", 3), slice_name("gate.weight", None)
    ('experts.down_proj[3]', 'gate.weight')
    """
    return name if index is None else f"{name}[{index}]"


def tunable_share(model: nn.Module, names: Sequence[str]) -> float:
    """Scalars that are trained over all scalars of the model; a slice counts as what it holds, not as its tensor.

    Args:
        model: The model.
        names: Parameters and slices, as `Trained.trainable` names them.

    Returns:
        Share in [0, 1]: (3 H I M + E H) / total for M experts of one layer and its router.
    """
    parameters = dict(model.named_parameters())
    return sum(tensor_of(parameters, n).numel() for n in names) / sum(p.numel() for p in parameters.values())
