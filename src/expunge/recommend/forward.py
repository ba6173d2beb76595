"""The lazy view of one batch of triples (user, positive item, negative item), and the examples behind it."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.loop import Stream
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender, Vectors
from expunge.recommend.sampling import Negatives

BLOCK = 2**16  # visits whose negatives are drawn together
SIGNALS = ("positive_scores", "negative_scores")


class PairPass:
    """Everything a loss may read of one batch of triples under the current weights.

    Attributes:
        users: int64 [b].
        positives: int64 [b] items the users took.
        negatives: int64 [b] items they did not take.
        graph: What the model propagates over.
        total: Triples in the whole optimiser step.
    """

    def __init__(
        self, model: Recommender, graph: Graph, triples: tuple[Tensor, Tensor, Tensor], total: int,
        reference: Any = None, vectors: Vectors | None = None,
    ) -> None:  # fmt: skip
        """Bind a batch.

        Args:
            model: Computes the vectors.
            graph: What it propagates over.
            triples: Users, positives and negatives, int64 [b] each.
            total: Triples in the whole optimiser step.
            reference: Answers the scores under the frozen reference.
            vectors: Vectors of users and items computed elsewhere; None computes them once they are needed.
        """
        self.model, self.graph, self.total = model, graph, total
        self.users, self.positives, self.negatives = triples
        self._reference = reference
        self._vectors = vectors

    @cached_property
    def embeddings(self) -> Vectors:
        """Vectors of users [users, d] and of items [items, d]."""
        return self._vectors or self.model(self.graph)

    @cached_property
    def user_vectors(self) -> Tensor:
        """[b, d] vectors of the users of the triples."""
        return self.embeddings[0].index_select(0, self.users)

    @cached_property
    def positive_scores(self) -> Tensor:
        """[b] s_ui."""
        return (self.user_vectors * self.embeddings[1].index_select(0, self.positives)).sum(1)

    @cached_property
    def negative_scores(self) -> Tensor:
        """[b] s_uj."""
        return (self.user_vectors * self.embeddings[1].index_select(0, self.negatives)).sum(1)

    @cached_property
    def margin(self) -> Tensor:
        """[b] s_ui - s_uj."""
        return self.positive_scores - self.negative_scores

    @cached_property
    def losses(self) -> Tensor:
        """[b] Bayesian personalised ranking loss -log sigmoid(s_ui - s_uj), in nats."""
        return F.softplus(-self.margin)

    @property
    def loss(self) -> Tensor:
        """Scalar: mean ranking loss of the step (this micro-batch's share)."""
        return self.per_row(self.losses)

    @cached_property
    def penalty(self) -> Tensor:
        """Scalar: reg times the model's own regulariser of the step (this micro-batch's share)."""
        if not self.model.reg:
            return self.margin.new_zeros(())
        return self.per_row(self.model.reg * self.model.penalty(self.users, self.positives, self.negatives))

    @property
    def objective(self) -> Tensor:
        """Scalar: what the model was trained with, ranking loss plus penalty."""
        return self.loss + self.penalty

    def per_row(self, values: Tensor) -> Tensor:
        """Mean over the triples of the step of [b] values."""
        return values.sum() / self.total

    @cached_property
    def reference(self) -> ReferencePass:
        """The scores of the same triples under the frozen reference."""
        return ReferencePass(self)

    def signal(self, name: str) -> Tensor:
        """[b] scores by name (what the reference cache stores)."""
        if name not in SIGNALS:
            raise KeyError(name)
        return getattr(self, name)  # type: ignore[no-any-return]


class ReferencePass:
    """What a loss may read of the reference on the triples of a view; no gradient flows here."""

    def __init__(self, view: PairPass) -> None:
        # A view owns this object; owning the view back would keep its graph alive until the cycle is collected.
        self._view: PairPass = weakref.proxy(view)

    def _ask(self, signal: str) -> Tensor:
        if self._view._reference is None:
            raise InputError("The loss needs a reference model and there is none.")
        values: Tensor = self._view._reference.signal(signal)
        return values.to(self._view.users.device)

    @cached_property
    def positive_scores(self) -> Tensor:
        """[b] reference s_ui."""
        return self._ask("positive_scores")

    @cached_property
    def negative_scores(self) -> Tensor:
        """[b] reference s_uj."""
        return self._ask("negative_scores")

    @cached_property
    def margin(self) -> Tensor:
        """[b] reference s_ui - s_uj."""
        return self.positive_scores - self.negative_scores


class PairExamples:
    """Visits to pairs as the engine sees them (`engine.reference.Examples`): one example for each visit.

    A pair met again has another negative. That of visit v is a function of the seed and v alone, so that a resumed run
    draws what the straight one drew, and a step cut into micro-batches what the whole one has.
    """

    def __init__(self, pairs: Tensor, rows: Tensor, graph: Graph, negatives: Negatives, seed: int) -> None:
        """Bind visits.

        Args:
            pairs: int64 [n, 2] (user, item).
            rows: int64 [visits] row of `pairs` of each visit, in the order of the run.
            graph: What the model propagates over while it is trained on them.
            negatives: Draws the negative items.
            seed: Fixes them.
        """
        self.pairs, self.rows, self.graph, self.negatives, self.seed = pairs, rows, graph, negatives, seed
        self._drawn: dict[int, Tensor] = {}
        self._frozen: tuple[Any, Vectors] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> Tensor:
        """[visits] ones: all triples cost the same."""
        return torch.ones((), dtype=torch.long).expand(len(self))

    @property
    def counts(self) -> Tensor:
        """[visits] ones: one loss each."""
        return self.sizes

    def triples(self, visits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users, positives and negatives of some visits, int64 [b] each."""
        users, positives = self.pairs.index_select(0, self.rows.index_select(0, visits)).unbind(1)
        low, high = (int(end) // BLOCK for end in visits.aminmax())
        if low == high:
            return users, positives, self._block(low).index_select(0, visits - low * BLOCK)
        drawn = torch.empty_like(users)
        blocks = visits // BLOCK
        for block in blocks.unique().tolist():
            here = blocks == block
            drawn[here] = self._block(block)[visits[here] - block * BLOCK]
        return users, positives, drawn

    def _block(self, block: int) -> Tensor:
        """The negatives of one block of visits; the last two blocks are kept, for a step may straddle them."""
        if block not in self._drawn:
            users = self.pairs[self.rows[block * BLOCK : (block + 1) * BLOCK], 0]
            if len(self._drawn) > 1:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[block] = self.negatives.draw(users, generator(self.seed, "negatives", block))
        return self._drawn[block]

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> PairPass:
        """See `Examples`."""
        if not isinstance(model, Recommender):
            raise InputError(f"{type(model).__name__} is no recommender of this package.")
        device = next(model.parameters()).device
        users, positives, negatives = self.triples(rows)
        triples = users.to(device), positives.to(device), negatives.to(device)
        return PairPass(model, self.graph, triples, totals[0], reference, self._vectors(model))

    def _vectors(self, model: Recommender) -> Vectors | None:
        """Without gradients, the vectors are computed once for all batches that ask the same weights."""
        if torch.is_grad_enabled():
            return None
        key = (model, tuple((p.data_ptr(), p._version) for p in model.parameters()))
        if self._frozen is None or self._frozen[0] != key:
            self._frozen = (key, model(self.graph))
        return self._frozen[1]

    def stored_as(self, signal: str, model: nn.Module) -> tuple[str, Any]:
        """Scores are kept as they are."""
        return signal, None

    def extent(self, signal: str, rows: Tensor) -> Tensor:
        """[len(rows)] one score for each visit."""
        return torch.ones(len(rows), dtype=torch.long)

    def width(self, signal: str, model: nn.Module) -> int:
        """One number."""
        return 1

    def checkpointing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Not offered: the vectors of all nodes are what costs, and they are needed at once.

        Raises:
            InputError: Always.
        """
        raise InputError("gradient_checkpointing: not offered for recommenders; lower batch_size instead.")


def pair_stream(pairs: Tensor, order: Tensor, graph: Graph, negatives: Negatives, seed: int) -> Stream:
    """A stream of pairs in a given order, with a fresh negative at every visit.

    Args:
        pairs: int64 [n, 2].
        order: int64 [steps, batch] rows of `pairs`.
        graph: What the model propagates over while it is trained on them.
        negatives: Draws the negative items.
        seed: Fixes them; streams of one run need different ones (`derive_seed(seed, "forget")`).
    """
    examples = PairExamples(pairs, order.flatten(), graph, negatives, seed)
    return Stream(examples, torch.arange(order.numel()).view_as(order))
