"""FILA: adapters that start from the part of the weights that matters to the forget set (Cha et al. 2025).

Three steps: measure how much each output row of a weight matrix matters to the forget set and how little to
the retain set; split the matrix into a low-rank part, fitted best where that ratio is large, and the rest; let
the low-rank part be the adapter and the rest the frozen base. The model computes what it computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.encode import Encoded
from expunge.language.forward import LanguageExamples, unwrap
from expunge.language.score import length_batches

Reduce = Literal["elements", "rows"]
FULL_SVD = 1024  # matrices whose smaller side is at most this get the exact decomposition
OVERSAMPLE, POWER = 8, 4  # of the randomised one: directions more than the rank, and power iterations


# -- importance ---------------------------------------------------------------------------------------


def importances(
    model: nn.Module,
    encoded: Encoded,
    modules: Mapping[str, nn.Module],
    *,
    group: int = 1,
    reduce: Reduce = "elements",
    batch_tokens: int = 4096,
    what: str = "records",
) -> dict[str, Tensor]:
    """Fisher information of weight matrices, per labelled token (Cha et al. 2025, equation 5).

    I = sum over groups g of (grad of the mean loss of g)^2 * n_g / N, n_g labelled tokens of the group, N of all.
    With one example in a group this is the Fisher information; with more it is the square of a batch mean, as in
    the reference code. The gradient of a group is formed from the inputs and output gradients of the layers, so
    groups of one need no more passes than any other, and no gradient of a whole model is ever held.

    Args:
        model: The model, adapters doing nothing.
        encoded: The sequences.
        modules: Name to linear layer.
        group: Examples whose gradients are averaged before they are squared.
        reduce: ``elements`` keeps a number per weight, ``rows`` their sums over the inputs: [out] numbers.
        batch_tokens: Padded tokens per forward pass; the result does not depend on it.
        what: Name of the set in errors.

    Returns:
        Name to [out, in] or [out] information, in float32 (float64 for a float64 model).

    Raises:
        InputError: No labelled token, or a layer that does not see every position of every row.
    """
    if len(encoded.lengths) == 0 or int(encoded.counts.sum()) == 0:
        raise InputError(f"loku: the {what} have no labelled token, so nothing says what matters to them.")
    sums: dict[str, Tensor] = {}
    examples = LanguageExamples(encoded)
    lengths = encoded.counts  # of the rows of the batch in hand, once there is one

    def fold(name: str, states: Tensor, gradients: Tensor) -> None:
        if states.shape[:-1] != (len(lengths), gradients.shape[1]):
            raise InputError(f"loku: {name} does not see whole rows of text; leave it out of targets.")
        for part in torch.arange(len(lengths)).split(group):
            square = _gradient(states[part], gradients[part]).square() / lengths[part].sum().clamp(min=1)
            found = square.sum(1) if reduce == "rows" else square
            sums[name] = sums[name].add_(found) if name in sums else found

    with _folding(model, modules, fold):
        for rows in _batches(encoded, group, batch_tokens):
            lengths = encoded.counts[rows]
            examples.view(model, rows, (1, 1), None).nll_sum.sum().backward()
    silent = sorted(set(modules) - set(sums))
    if silent:
        raise InputError(f"loku: no gradient reaches {silent[0]}; leave it out of targets.")
    return {name: total / encoded.counts.sum() for name, total in sums.items()}


def _batches(encoded: Encoded, group: int, tokens: int) -> Iterator[Tensor]:
    """Batches of whole groups; a group is `group` records that follow one another."""
    if group == 1:
        yield from length_batches(encoded.lengths, tokens)
        return
    groups = torch.arange(len(encoded.lengths)).split(group)
    longest = torch.stack([encoded.lengths[g].max() * len(g) for g in groups])
    for some in length_batches(longest, tokens):
        # a shorter last group must stay the last of its batch, or the split into groups would shift
        yield torch.cat([groups[i] for i in sorted(some.tolist())])


def _gradient(states: Tensor, gradients: Tensor) -> Tensor:
    """[B, L, in] inputs and [B, L, out] output gradients to the [out, in] gradient of the weight."""
    kind = torch.float64 if states.dtype == torch.float64 else torch.float32
    return gradients.flatten(0, 1).to(kind).T @ states.flatten(0, 1).to(kind)


@contextmanager
def _folding(
    model: nn.Module, modules: Mapping[str, nn.Module], fold: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Within, a backward pass hands each layer's input and output gradient over and forms no weight gradient."""

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            states = args[0].detach()
            output.register_hook(lambda gradient: fold(name, states, gradient))

        return hook

    def start(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.requires_grad_()  # every weight is frozen: the graph begins at the embeddings

    flags = [(p, p.requires_grad) for p in model.parameters()]
    mode = model.training
    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    handles.append(unwrap(model).get_input_embeddings().register_forward_hook(start))
    try:
        model.requires_grad_(False).eval()
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for p, flag in flags:
            p.requires_grad_(flag)
        model.train(mode)


def relative_importance(forget: Tensor, retain: Tensor, floor: float = 1e-3) -> tuple[Tensor, float]:
    """I_f / (I_r + floor * mean I_r): large where a weight matters to what must go and not to what must stay.

    The reference code adds 1e-5 instead (`expunge.language.compat_loku`), which swamps I_r on large models.

    Args:
        forget: I_f of one matrix, per token.
        retain: I_r of the same shape.
        floor: Share of the mean of I_r; where I_r is 0 throughout, of the mean of I_f.

    Returns:
        The ratio, and the share of its denominators in which the floor outweighs I_r.
    """
    level = floor * (retain.mean() if bool(retain.any()) else forget.mean())
    ratio = forget / (retain + level)
    return torch.where(forget > 0, ratio, 0.0), float((retain < level).double().mean())


def row_weights(relative: Tensor, width: int) -> Tensor:
    """s_i = sqrt(sum_j rel_ij), the weight of output row i (Cha et al. 2025, section 4.2).

    Args:
        relative: [out, in], or [out] ratios of sums over the inputs: each then stands for all its inputs.
        width: in.

    Returns:
        [out]; all 1 where the forget set reaches no row at all, for then every split is as good.
    """
    s = (relative.sum(1) if relative.dim() == 2 else relative * width).sqrt()
    return s if bool(s.any()) else torch.ones_like(s)


# -- the split ----------------------------------------------------------------------------------------


def weighted_split(weight: Tensor, s: Tensor, rank: int, scaling: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The adapter that minimises sum_i s_i^2 ||(W - scaling B A)_i||^2 over rank r (Cha et al. 2025, equation 7).

    With diag(s) W = U S V^T cut to r terms: A = sqrt(S / scaling) V^T and B = diag(1/s) U sqrt(S / scaling). Here
    diag(1/s) U is written W V / S, which is the same and divides by no s: the reference code's 1 / (s + 1e-5)
    takes B away from the minimiser on rows of small weight. A row of weight 0 is split like the others, along V.

    Args:
        weight: W, [out, in].
        s: [out] row weights, at least 0, not all 0.
        rank: r.
        scaling: What the adapter's product is multiplied by (lora_alpha / r).
        seed: Of the randomised decomposition, used where both sides exceed 1024.

    Returns:
        A [r, in] and B [out, r]. Where diag(s) W has rank below r, spare directions have B = 0, as in plain LoRA.

    Raises:
        InputError: The rank is below 1 or above min(out, in).
    """
    if not 1 <= rank <= min(weight.shape):
        raise InputError(f"loku: rank={rank} must lie between 1 and {min(weight.shape)}, the matrix's smaller side.")
    W = weight if weight.dtype == torch.float64 else weight.float()
    S, V = _leading(s.to(W)[:, None] * W, rank, seed)
    live = S[0] * torch.finfo(W.dtype).eps * max(W.shape) < S
    root = torch.where(live, S, S[0]).sqrt()
    A = root[:, None] * V.T / scaling**0.5
    B = torch.where(live, W @ V / root, 0.0) / scaling**0.5
    return A, B


def _leading(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The first singular values [r] and right singular vectors [in, r]."""
    if min(matrix.shape) <= FULL_SVD:
        _, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        return S[:rank], Vh[:rank].T
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(seed)
        _, S, V = torch.svd_lowrank(matrix, q=min(rank + OVERSAMPLE, *matrix.shape), niter=POWER)
    return S[:rank], V[:, :rank]


# -- on a model ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """What the initialisation did to the adapted matrices.

    Attributes:
        floored: Share of the relative importances whose denominator is mostly floor, over all matrices.
        kept: Share of sum_i s_i^2 ||W_i||^2 that the adapters hold, over all matrices.
        drift: Largest change of a weight of base + adapter, from rounding the base to the model's dtype.
    """

    floored: float = 0.0
    kept: float = 0.0
    drift: float = 0.0
    matrices: int = field(default=0)


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """The linear layers that carry adapters, by name.

    Raises:
        InputError: There are none; an adapted layer is no linear one, or shares its weight with another.
    """
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not found:
        raise InputError("loku: no module of the model carries an adapter.")
    owners: dict[int, int] = {}
    for module in unwrap(model).modules():
        for p in module._parameters.values():
            if p is not None:
                owners[p.data_ptr()] = owners.get(p.data_ptr(), 0) + 1
    for name, layer in found.items():
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is None or weight.dim() != 2 or isinstance(layer.get_base_layer(), nn.Embedding):
            raise InputError(f"loku: {name} is no linear layer; leave it out of targets.")
        if owners[weight.data_ptr()] > 1:
            raise InputError(f"loku: {name} shares its weight with another module; leave it out of targets.")
    return found


def oriented(layer: Any) -> Tensor:
    """The base weight of an adapted layer as [out, in] (GPT-2 keeps it transposed): a view of it."""
    weight: Tensor = layer.get_base_layer().weight.data
    return weight.T if layer.fan_in_fan_out else weight


@torch.no_grad()
def initialise(layers: Mapping[str, Any], weights: Mapping[str, Tensor], seed: int = 0) -> Splits:
    """Turn each W into base W - scaling B A and adapter B, A, in place; the sum is taken in float32.

    Args:
        layers: From `lora_layers`.
        weights: Name to [out] row weights.
        seed: See `weighted_split`.
    """
    kept = total = drift = 0.0
    for name, layer in layers.items():
        (adapter,) = layer.active_adapters
        weight, scaling = oriented(layer), layer.scaling[adapter]
        W = weight if weight.dtype == torch.float64 else weight.float()
        s = weights[name].to(W)
        A, B = weighted_split(W, s, layer.r[adapter], scaling, seed)
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        down.copy_(A)
        up.copy_(B)
        held = scaling * (up.to(W) @ down.to(W))  # of the adapter as stored
        before, after = (float((s[:, None] * m).square().sum()) for m in (W, W - held))
        kept, total = kept + before - after, total + before
        base = (W - held).to(weight.dtype)
        drift = max(drift, float((base.to(W) + held - W).abs().max()))
        weight.copy_(base)
    return Splits(kept=kept / total if total else 0.0, drift=drift, matrices=len(layers))
