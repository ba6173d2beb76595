"""What UnlearnRec's losses see: a recommender whose table an influence encoder rewrites, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.encoder import InfluenceEncoder
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender
from expunge.recommend.sampling import Negatives


@dataclass(frozen=True, eq=False)
class Request:
    """One deletion, real or made up: which edges go, which stay, and what may be recommended afterwards.

    Attributes:
        forgotten: D.
        kept: K, without any of D.
        catalogue: Bool [items], what may be drawn as a negative; None for all.
    """

    forgotten: Interactions
    kept: Interactions
    catalogue: Tensor | None = None

    @cached_property
    def forgotten_graph(self) -> Graph:
        """A(D), normalised by its own degrees."""
        return Graph(self.forgotten)

    @cached_property
    def kept_graph(self) -> Graph:
        """A(K)."""
        return Graph(self.kept)

    @cached_property
    def negatives(self) -> Negatives:
        """Draws items that a user does not keep."""
        return Negatives(self.kept, self.catalogue)


class Rewritten(nn.Module):
    """A base recommender with an influence encoder over its table of layer-0 embeddings.

    Attributes:
        base: f, whose parameter `table` is E0.
        encoder: g.
        original: Z = f(A(train), E0), [nodes, width], a constant.
    """

    original: Tensor

    def __init__(self, base: Recommender, encoder: InfluenceEncoder, original: Tensor) -> None:
        super().__init__()
        self.base, self.encoder = base, encoder
        self.register_buffer("original", original)

    @property
    def table(self) -> Tensor:
        """E0, [nodes, width]."""
        return cast(Tensor, self.base.get_parameter("table"))

    def changed(self, request: Request) -> tuple[Tensor, list[Tensor]]:
        """E0' [nodes, width], and the influence states."""
        kept = request.kept_graph if self.encoder.smoothing else None
        change, layers = self.encoder.change(request.forgotten_graph, self.original, kept)
        return self.table + change, layers

    def served(self, table: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """f(A(K), E0'): final embeddings of users and items."""
        found: tuple[Tensor, Tensor] = functional_call(self.base, {"table": table}, (request.kept_graph,))
        return found


def rewritten(base: Recommender, graph: Graph, encoder: InfluenceEncoder) -> Rewritten:
    """Bind a trained recommender and an encoder.

    Args:
        base: Trained; not copied.
        graph: The graph it was trained on, A(train).
        encoder: Fresh or pre-trained.
    """
    with torch.no_grad():
        original = torch.cat(base.embeddings(graph))
    return Rewritten(base, encoder, original.clone()).eval()


def require_table(model: Recommender, who: str) -> None:
    """Refuse a recommender that has no single table of layer-0 embeddings.

    Raises:
        InputError: Names the model.
    """
    if model.node_rows.get("table") != "node":
        raise InputError(
            f"{who}: rewrites one table of user and item embeddings, which {type(model).__name__} does not have; use "
            f"it with LightGCN or BPR-MF."
        )


class InfluencePass:
    """Everything a loss may read of one batch of kept triples under the current encoder."""

    def __init__(self, model: Rewritten, request: Request, triples: Tensor, total: int) -> None:
        """Bind a batch.

        Args:
            model: The recommender with its encoder.
            request: What is being forgotten.
            triples: [b, 3] user, positive, negative.
            total: Triples in the whole optimiser step.
        """
        self.model, self.request, self.total = model, request, total
        self.users, self.positives, self.negatives = triples.unbind(1)

    @cached_property
    def _changed(self) -> tuple[Tensor, list[Tensor]]:
        return self.model.changed(self.request)

    @property
    def layers(self) -> list[Tensor]:
        """H_0 to H_L of the encoder, each [nodes, width]."""
        return self._changed[1]

    @cached_property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Z' of users and of items."""
        return self.model.served(self._changed[0], self.request)

    @cached_property
    def margin(self) -> Tensor:
        """[b] s'_ui - s'_uj."""
        z_u, z_i = self.embeddings
        u = z_u.index_select(0, self.users)  # its backward pass is much faster than that of indexing
        return (u * (z_i.index_select(0, self.positives) - z_i.index_select(0, self.negatives))).sum(1)

    @cached_property
    def forgotten_scores(self) -> Tensor:
        """[m] s' of all pairs of the request."""
        z_u, z_i = self.embeddings
        users, items = self.request.forgotten.pairs.unbind(1)
        return (z_u.index_select(0, users) * z_i.index_select(0, items)).sum(1)

    def batch_scores(self, z_u: Tensor, z_i: Tensor) -> Tensor:
        """[b, b] scores of the batch's users with the batch's positives."""
        return z_u.index_select(0, self.users) @ z_i.index_select(0, self.positives).T

    @property
    def original_scores(self) -> Tensor:
        """`batch_scores` under the original model."""
        z_u, z_i = self.model.original.split([self.model.base.users, self.model.base.items])
        return self.batch_scores(z_u, z_i)

    def per_row(self, values: Tensor) -> Tensor:
        """Mean over the triples of the step of [b] values."""
        return values.sum() / self.total

    def signal(self, name: str) -> Tensor:
        """No quantity is asked of a reference.

        Raises:
            KeyError: Always.
        """
        raise KeyError(name)


class RequestTriples:
    """Visits of kept pairs, a stretch of them for each request (`engine.reference.Examples`).

    Pairs and negatives of a stretch are drawn when its first visit is asked for, from the seed and its number, so a
    run that is resumed in the middle of it sees the same ones.
    """

    def __init__(self, request: Callable[[int], Request], visits: int, stretches: int, seed: int) -> None:
        """Plan the visits.

        Args:
            request: The request of a stretch, by its number.
            visits: Visits of each stretch.
            stretches: How many there are.
            seed: Fixes orders and negatives.
        """
        self._request, self.visits, self.stretches, self.seed = request, visits, stretches, seed
        self._current: tuple[int, Request, Tensor] | None = None

    def __len__(self) -> int:
        return self.visits * self.stretches

    @cached_property
    def sizes(self) -> Tensor:
        """[n] ones."""
        return torch.ones(len(self), dtype=torch.long)

    @property
    def counts(self) -> Tensor:
        """[n] ones."""
        return self.sizes

    def stretch(self, number: int) -> tuple[Request, Tensor]:
        """The request of a stretch and its triples [visits, 3]: pass after pass over K, each in a fresh order."""
        if self._current is None or self._current[0] != number:
            request = self._request(number)
            triples = torch.cat(list(self._passes(request, number)))[: self.visits]
            self._current = number, request, triples
        return self._current[1], self._current[2]

    def _passes(self, request: Request, number: int) -> Iterator[Tensor]:
        kept = request.kept.pairs
        for turn in range(-(-self.visits // len(kept))):
            draw = generator(self.seed, "triples", number, turn)
            pairs = kept[torch.randperm(len(kept), generator=draw)]
            yield torch.cat([pairs, request.negatives.draw(pairs[:, 0], draw)[:, None]], 1)

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> InfluencePass:
        """See `Examples`; the rows of a step belong to one stretch."""
        request, triples = self.stretch(int(rows[0]) // self.visits)
        return InfluencePass(cast(Rewritten, model), request, triples[rows % self.visits], totals[0])

    def stored_as(self, signal: str, model: nn.Module) -> tuple[str, Any]:
        """Signals are kept as they are."""
        return signal, None

    def extent(self, signal: str, rows: Tensor) -> Tensor:
        """[len(rows)] ones."""
        return torch.ones(len(rows), dtype=torch.long)

    def width(self, signal: str, model: nn.Module) -> int:
        """One number for each triple."""
        return 1

    def checkpointing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Not offered.

        Raises:
            InputError: Always.
        """
        raise InputError("gradient_checkpointing: not offered for recommenders.")
