"""What ROCR reads from a model: keys and block outputs at the tokens of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.reference import evaluating
from expunge.language.data import Record
from expunge.language.encode import Batch, collate, encode
from expunge.language.forward import ForwardPass
from expunge.language.methods._rocr_concepts import Mention
from expunge.language.mlp import DownProjection
from expunge.language.score import length_batches
from expunge.language.subject import Subject

BATCH_TOKENS = 4096  # padded tokens per forward pass; only memory depends on it


@dataclass(frozen=True)
class Reading:
    """What a model computes at some mentions.

    Attributes:
        keys: Layer to [n, f] inputs of its down-projection.
        outputs: [n, d] output of the last edited block.
    """

    keys: dict[int, Tensor]
    outputs: Tensor


@contextmanager
def inputs_of(modules: Mapping[int, DownProjection]) -> Iterator[dict[int, Tensor]]:
    """Within, the inputs of the down-projections of the newest forward pass, by layer: [B, L, f]."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen[layer] = args[0].detach()

        return hook

    handles = [m.module.register_forward_pre_hook(keep(layer)) for layer, m in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def padded(mentions: Sequence[Mention]) -> Batch:
    """Right-padded texts; the token after each name is labelled, where there is one."""
    lengths = torch.tensor([len(m.ids) for m in mentions])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(m.ids) for m in mentions], batch_first=True)
    position = torch.arange(ids.shape[1])[None]
    after = torch.tensor([m.position for m in mentions])[:, None] + 1
    mask = position < lengths[:, None]
    return Batch(ids, mask, mask & (position == after))


def read(model: nn.Module, modules: Mapping[int, DownProjection], mentions: Sequence[Mention]) -> Reading:
    """Keys of the layers, and outputs of the last of them, at mentions; the model stops after that block.

    Args:
        model: A causal LM.
        modules: Layer to down-projection.
        mentions: n of them.

    Returns:
        In float32 (float64 for a float64 model).
    """
    last = max(modules)
    keys: dict[int, list[Tensor]] = {layer: [] for layer in modules}
    outputs = []
    lengths = torch.tensor([len(m.ids) for m in mentions])
    batches = length_batches(lengths, BATCH_TOKENS)
    with evaluating(model), inputs_of(modules) as seen:
        for rows in batches:
            chosen = [mentions[i] for i in rows.tolist()]
            view = ForwardPass(model, padded(chosen), (1, 1))
            states = view.hidden(last)
            at = torch.tensor([m.position for m in chosen], device=states.device)
            sizes = view.mask.sum(1)
            outputs.append(_exact(states[sizes.cumsum(0) - sizes + at]))
            for layer in modules:
                keys[layer].append(_exact(seen[layer][torch.arange(len(chosen), device=states.device), at]))
    back = torch.cat(batches).argsort().to(outputs[0].device)
    return Reading({layer: torch.cat(k)[back] for layer, k in keys.items()}, torch.cat(outputs)[back])


def second_moments(
    subject: Subject, modules: Mapping[int, DownProjection], records: Sequence[Record]
) -> dict[int, Tensor]:
    """C0 = E[k k^T] of each layer over all tokens of some records: [f, f], uncentred."""
    encoded = encode(list(records), subject.tokenizer, subject.template, max_length=subject.max_length, where="retain")
    sums: dict[int, Tensor] = {}
    with evaluating(subject.model), inputs_of(modules) as seen:
        for rows in length_batches(encoded.lengths, BATCH_TOKENS):
            view = ForwardPass(subject.model, collate(encoded, rows), (1, 1))
            view.hidden(max(modules))
            for layer in modules:
                keys = _exact(seen[layer][view.mask])
                square = keys.T @ keys
                sums[layer] = sums[layer].add_(square) if layer in sums else square
    return {layer: total / len(encoded.ids) for layer, total in sums.items()}


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
