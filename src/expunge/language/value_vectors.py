"""Value vectors read in the vocabulary, and what becomes of them (Hong et al. 2024, arXiv 2406.11614).

The second matrix of an MLP writes sum_j m_j(x) v_j into the residual stream; E v_j, E the output embedding, shows
which tokens v_j promotes. The numbers here compare a vector before and after unlearning. They speak of one
vector: knowledge elsewhere is not seen, and swapping or rescaling hidden neurons changes them without changing
what the model computes, so neurons are matched first (`match_neuron`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import InputError
from expunge.language.forward import decoder_layers, unwrap
from expunge.language.mlp import down_projection

# Matrices of the MLP's first half by family; a gate fixes the scale of its rows, an up projection does not.
GATED = (("gate_proj", "up_proj"), ("w1", "w3"))
PLAIN = ("fc1", "c_fc", "dense_h_to_4h", "fc_in", "up_proj")


def head_of(model: nn.Module) -> Tensor:
    """[V, d] output embedding."""
    return unwrap(model).get_output_embeddings().weight.detach()  # type: ignore[no-any-return]


def top_tokens(vectors: Tensor, head: Tensor, k: int, batch: int = 1024) -> Tensor:
    """The k tokens each vector promotes most.

    Args:
        vectors: [n, d] value vectors.
        head: [V, d] output embedding E; no final norm is applied.
        k: Tokens wanted, at most V.
        batch: Vectors projected at a time.

    Returns:
        [n, k] token ids, the most promoted first.
    """
    k = min(k, len(head))
    parts = [(part.to(head) @ head.T).topk(k, -1).indices for part in vectors.split(batch)]
    return torch.cat(parts) if parts else torch.zeros(0, k, dtype=torch.long)


@dataclass(frozen=True)
class Trace:
    """What is left of one vector.

    Attributes:
        cosine: cos(v, v'); 1 is untouched.
        l2: ||v - v'||.
        jaccard: Overlap of the top-token sets of E v and E' v', E' the new output embedding.
        wiki_precision: Tokens of the article among the top tokens of v', as a share of their number before; None
            when there were none. Above 1 if there are more than before.
        related: Tokens of the article that were promoted and still are, as a share of their number before.
    """

    cosine: float
    l2: float
    jaccard: float
    wiki_precision: float | None
    related: float | None


def compare_vectors(
    v: Tensor, head: Tensor, after: Tensor, head_after: Tensor, article: frozenset[int] = frozenset(), k: int = 200
) -> Trace:
    """Compare a vector before and after, in float32 whatever the models are stored in (section 5.1).

    Args:
        v: [d] before.
        head: [V, d] output embedding before.
        after: [d] afterwards.
        head_after: [V, d] output embedding afterwards.
        article: Token ids of the concept's article; empty leaves out what needs them.
        k: Top tokens looked at.
    """
    v, after, head, head_after = (t.float() for t in (v, after, head, head_after))
    before, now = (set(top_tokens(x[None], E, k)[0].tolist()) for x, E in ((v, head), (after, head_after)))
    known = before & article
    return Trace(
        cosine=float(F.cosine_similarity(v.double(), after.double(), dim=0)),
        l2=float((v - after).norm()),
        jaccard=len(before & now) / len(before | now),
        wiki_precision=len(now & article) / len(known) if known else None,
        related=len(now & known) / len(known) if known else None,
    )


# -- matching neurons ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """Where a hidden neuron is in another model of the same shape.

    Attributes:
        index: Its number there.
        scale: What its value vector there must be multiplied with to stand for the same function: rows of an up
            projection and value vectors may be rescaled against each other.
        similarity: Likeness of the two neurons' inputs, in [-1, 1].
        moved: It has another number or another scale there.
    """

    index: int
    scale: float
    similarity: float
    moved: bool


def match_neuron(before: nn.Module, after: nn.Module, layer: int, dim: int) -> Match:
    """The hidden neuron of `after` whose inputs are most like those of neuron `dim` in `before`.

    A gated neuron computes act(g x) (u x) v: it is known by its gate row g and, up to a factor that v takes back, by
    its up row u. A plain one computes act(w x + b) v and is known by (w, b).

    Raises:
        InputError: The layer has no two-matrix MLP; no such neuron.
    """
    down_projection(before, layer).column(dim)  # refuses what does not exist
    firm, free = _inputs(before, layer)
    firm_after, free_after = _inputs(after, layer)
    likeness = F.cosine_similarity(firm_after, firm[dim][None], dim=-1)
    if free is None or free_after is None:
        index = int(likeness.argmax())
        return Match(index, 1.0, float(likeness[index]), index != dim)
    turned = F.cosine_similarity(free_after, free[dim][None], dim=-1)
    index = int((likeness * turned.abs()).argmax())
    sign = -1.0 if turned[index] < 0 else 1.0
    scale = sign * float(free_after[index].norm() / free[dim].norm())
    similarity = float(likeness[index] * turned[index].abs())
    return Match(index, scale, similarity, index != dim or abs(scale - 1) > 1e-3)


def _inputs(model: nn.Module, layer: int) -> tuple[Tensor, Tensor | None]:
    """[f, ..] rows that fix a hidden neuron, and [f, d] rows whose scale is free (None without a gate)."""
    block = decoder_layers(model)[2][layer]
    holder: Any = next((c for n, c in block.named_children() if n in ("mlp", "feed_forward", "ffn")), block)
    for gate, up in GATED:
        if hasattr(holder, gate) and hasattr(holder, up):
            return _rows(getattr(holder, gate)), _rows(getattr(holder, up))
    for name in PLAIN:
        if hasattr(holder, name):
            return _rows(getattr(holder, name)), None
    raise InputError(f"layer={layer}: {type(holder).__name__} has no first MLP matrix that is known.")


def _rows(module: Any) -> Tensor:
    """[f, d (+1)] rows of a linear layer with their biases, in float32."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    W = module.weight.detach().float()
    W = W.T if isinstance(module, Conv1D) else W
    return W if module.bias is None else torch.cat([W, module.bias.detach().float()[:, None]], 1)
