"""Several answers to one question in one row: the prompt is computed once, answers do not see each other.

A row is the tokens all sequences of a record begin with, then what is left of each sequence. Attention is
a tree: a token sees the shared beginning and the earlier tokens of its own branch. Positions restart where
the branches begin, so every token is computed from exactly what it sees in a row of its own. Tokens are
those of the jointly tokenised sequences; nothing is tokenised here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.language.encode import Batch, Encoded, collate
from expunge.language.forward import ForwardPass, unwrap

SAME = 1e-4  # largest difference in logits between the two ways of computing them


class Packed(NamedTuple):
    """Rows of one or more sequences, stored flat; row i owns ``offsets[i] : offsets[i + 1]``."""

    ids: Tensor  # [N]
    offsets: Tensor  # [rows + 1]
    position: Tensor  # [N] position of the token in its own sequence
    branch: Tensor  # [N] 0 in the shared beginning, 1, 2, ... in what is left of each sequence
    place: Tensor  # [N] where a labelled token's scores go; -1 for a token without label

    @property
    def lengths(self) -> Tensor:
        """[rows] tokens per row."""
        return self.offsets.diff()


def pack(encoded: Encoded, owners: list[int]) -> Packed:
    """Put the sequences of one owner into one row.

    Args:
        encoded: n sequences.
        owners: Owner of each sequence; the sequences of one owner follow one another.

    Returns:
        One row per owner. Places count labels sequence by sequence, in the order of `encoded`.
    """
    ids, starts = encoded.ids.tolist(), encoded.label_start.tolist()
    bounds = encoded.offsets.tolist()
    flat: list[tuple[int, int, int, int]] = []
    offsets, first, place = [0], 0, 0
    while first < len(owners):
        last = first
        while last < len(owners) and owners[last] == owners[first]:
            last += 1
        sequences = [ids[bounds[i] : bounds[i + 1]] for i in range(first, last)]
        # The token before the first label stays in the branch: it predicts that label, and no other.
        shared = min(_common(sequences), min(starts[first:last]) - 1) if last - first > 1 else 0
        flat += [(token, k, 0, -1) for k, token in enumerate(sequences[0][:shared])]
        for branch, (sequence, start) in enumerate(zip(sequences, starts[first:last], strict=True), 1):
            for k in range(shared, len(sequence)):
                flat.append((sequence[k], k, branch, place if k >= start else -1))
                place += k >= start
        offsets.append(len(flat))
        first = last
    table = torch.tensor(flat, dtype=torch.long).view(-1, 4)
    return Packed(table[:, 0], torch.tensor(offsets), table[:, 1], table[:, 2], table[:, 3])


def _common(sequences: list[list[int]]) -> int:
    """Length of the common beginning."""
    first, last = min(sequences), max(sequences)  # of lists in dictionary order these two part earliest
    return next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


class TreePass(ForwardPass):
    """The forward pass of packed rows."""

    def __init__(self, model: nn.Module, packed: Packed, rows: Tensor) -> None:
        index, mask = _index(packed, rows)
        super().__init__(model, Batch(packed.ids[index] * mask, mask, mask & (packed.place[index] >= 0)), (1, 1))
        self.position = (packed.position[index] * mask).to(self.input_ids.device)
        branch = torch.where(mask, packed.branch[index], -1).to(self.input_ids.device)  # padding sees padding
        sees = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])  # [B, query, key]
        self.sees = (sees & torch.ones_like(sees[0]).tril())[:, None]

    def _forward(self) -> Tensor:
        attention = self.sees
        if unwrap(self.model).config._attn_implementation == "eager":  # adds its mask to the scores
            dtype = next(self.model.parameters()).dtype
            attention = torch.zeros(self.sees.shape, dtype=dtype, device=self.sees.device)
            attention = attention.masked_fill(~self.sees, torch.finfo(dtype).min)
        return self.model(  # type: ignore[no-any-return]
            input_ids=self.input_ids, attention_mask=attention, position_ids=self.position, use_cache=False
        ).logits


def _index(packed: Packed, rows: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] place of each token of some rows in the flat tensors, and which of them are real."""
    lengths = packed.lengths[rows]
    column = torch.arange(int(lengths.max()))[None]
    index = (packed.offsets[rows][:, None] + column).clamp(max=len(packed.ids) - 1)
    return index, column < lengths[:, None]


def places(packed: Packed, rows: Tensor) -> Tensor:
    """[T] where the scores of these rows' labels go, in the order of their pass."""
    index, mask = _index(packed, rows)
    place = packed.place[index]
    return place[mask & (place >= 0)]


@torch.inference_mode()
def takes_trees(model: nn.Module) -> bool:
    """Whether the model computes the same from a tree row as from rows of their own; tried on a small example.

    Sliding windows, position schemes that count tokens, recurrent layers and attention kernels without
    free masks do not. Half precision cannot tell a difference from rounding, so it is not tried.
    """
    config: Any = unwrap(model).config.get_text_config()
    parameter = next(model.parameters())
    windows = set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}
    if config._attn_implementation not in ("sdpa", "eager") or windows or parameter.dtype not in EXACT:
        return False
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False
    ids = torch.arange(22) % config.vocab_size
    ids[11:19] = ids[:8]  # the second sequence begins like the first
    example = Encoded(ids, torch.tensor([0, 11, 22]), torch.tensor([6, 6]))
    tree = TreePass(model, pack(example, [0, 0]), torch.zeros(1, dtype=torch.long)).logits
    plain = ForwardPass(model, collate(example, torch.arange(2)), (1, 1)).logits
    return bool((tree - plain).abs().max() < SAME)


EXACT = (torch.float32, torch.float64)
