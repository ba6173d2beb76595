"""A causal LM that says what a rule says: for metrics whose value is known by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Rule = Callable[[list[int]], int]


@dataclass
class Cache:
    """The tokens seen so far, [B, L]."""

    ids: Tensor

    def batch_select_indices(self, rows: Tensor) -> None:
        self.ids = self.ids[rows]


class Stub(nn.Module):
    """Puts all logits on `rule(tokens so far)`; padding is what the mask says it is.

    Attributes:
        calls: Rows of each decoding step (one new position), to see how much was decoded.
    """

    def __init__(self, rule: Rule, vocabulary: int) -> None:
        super().__init__()
        self.rule, self.vocabulary = rule, vocabulary
        self.anchor = nn.Parameter(torch.zeros(1))
        self.head = nn.Identity()
        self.calls: list[int] = []

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_key_values: Cache | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> Any:
        ids = input_ids if past_key_values is None else torch.cat([past_key_values.ids, input_ids], 1)
        if logits_to_keep:
            self.calls.append(len(ids))
        first = ids.shape[1] - (logits_to_keep or input_ids.shape[1])
        states = torch.zeros(len(ids), ids.shape[1] - first, self.vocabulary)
        for row, (tokens, mask) in enumerate(zip(ids.tolist(), attention_mask.bool().tolist(), strict=True)):
            for at in range(first, ids.shape[1]):
                so_far = [t for t, real in zip(tokens[: at + 1], mask[: at + 1], strict=True) if real]
                states[row, at - first, self.rule(so_far)] = 1.0
        return SimpleNamespace(logits=self.head(states), past_key_values=Cache(ids))
