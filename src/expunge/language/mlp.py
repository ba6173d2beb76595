"""The down-projection of a decoder block's MLP: y = sum_j k_j v_j, keys k [f] in, value vectors v_j [d] out.

The second matrix of a two-matrix (or gated) MLP writes into the residual stream; its f columns are the value
vectors of the key-value memories (Geva et al., EMNLP 2021, arXiv 2012.14913). Families name and store it
differently: a linear layer keeps [d, f], GPT-2's Conv1D keeps [f, d]. The type of the module decides, never the
shape, which cannot tell the two apart when d equals f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import InputError
from expunge.language.forward import check_layer, decoder_layers

# Attribute of the MLP by family: Llama, Mistral, Qwen, Gemma; GPT-2; Phi, StarCoder use c_proj or fc2; GPT-NeoX.
NAMES = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "w2")
EXPERTS = ("experts", "router", "gate", "block_sparse_moe")


@dataclass(frozen=True)
class DownProjection:
    """The matrix that maps a block's f keys to the residual stream of size d.

    Attributes:
        module: The layer that holds it (below an adapter, if it carries one).
        name: Name of the weight among the parameters of the model it was found in.
        transposed: Whether the weight is stored as [f, d].
    """

    module: nn.Module
    name: str
    transposed: bool

    @property
    def weight(self) -> nn.Parameter:
        """The parameter: [d, f], or [f, d] if `transposed`."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def matrix(self) -> Tensor:
        """[d, f] view of the weight, without a gradient."""
        W = self.weight.detach()
        return W.T if self.transposed else W

    @property
    def size(self) -> int:
        """d, the width of the residual stream."""
        return int(self.matrix.shape[0])

    @property
    def width(self) -> int:
        """f, the number of keys."""
        return int(self.matrix.shape[1])

    def columns(self) -> Tensor:
        """[f, d] view: row j is the value vector j."""
        return self.matrix.T

    def column(self, j: int) -> Tensor:
        """[d] view of value vector j.

        Raises:
            InputError: The layer has no such vector.
        """
        return self.columns()[self._checked(j)]

    @torch.no_grad()
    def set_column(self, j: int, v: Tensor) -> None:
        """Replace value vector j by v [d], in place.

        Raises:
            InputError: The layer has no such vector, or v has another size.
        """
        if v.shape != (self.size,):
            raise InputError(f"{self.name}: a value vector of shape {list(v.shape)}; it must be [{self.size}].")
        self.columns()[self._checked(j)].copy_(v)

    @torch.no_grad()
    def add_(self, delta: Tensor) -> None:
        """W += delta [d, f], in place; the sum is rounded once to the weight's type.

        Raises:
            InputError: The delta has another shape.
        """
        if delta.shape != self.matrix.shape:
            raise InputError(
                f"{self.name}: a change of shape {list(delta.shape)}; it must be {list(self.matrix.shape)}."
            )
        self.matrix.copy_((self.matrix.to(delta.dtype) + delta.to(self.weight.device)).to(self.weight.dtype))

    def _checked(self, j: int) -> int:
        if not 0 <= j < self.width:
            raise InputError(f"{self.name}: there is no value vector {j}; it has vectors 0 to {self.width - 1}.")
        return j


def down_projection(model: nn.Module, layer: int) -> DownProjection:
    """The down-projection of one decoder block, also below distributed and adapter wrappers.

    Raises:
        InputError: The layer is out of range; its MLP is a mixture of experts, which has one such matrix for each
            expert; or the block has none that is known.
    """
    check_layer(model, layer)
    block = decoder_layers(model)[2][layer]
    holders = [child for name, child in block.named_children() if name in ("mlp", "feed_forward", "ffn")]
    holders = holders or [block]  # OPT keeps its two matrices in the block itself
    if any(_is_mixture(m) for m in (block, *holders)):
        raise InputError(
            f"layer={layer}: its MLP is a mixture of experts, with a down-projection for each expert and no single "
            f"one; choose a layer with a plain MLP, or another method."
        )
    for name in NAMES:
        found = getattr(holders[0], name, None)
        if found is not None:
            return _described(model, layer, found)
    kind = type(holders[0]).__name__
    raise InputError(f"layer={layer}: {kind} has no down-projection that is known ({', '.join(NAMES)}).")


def _is_mixture(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    return bool(names & set(EXPERTS))


def _described(model: nn.Module, layer: int, found: nn.Module) -> DownProjection:
    module: Any = found
    while hasattr(module, "base_layer"):  # an adapter around it
        module = module.base_layer
    if not isinstance(module, nn.Linear | Conv1D):
        raise InputError(
            f"layer={layer}: its down-projection is a {type(module).__name__}; only unquantised linear layers can be "
            f"edited."
        )
    name = next((n for n, p in model.named_parameters() if p is module.weight), "")
    return DownProjection(module, name, isinstance(module, Conv1D))
