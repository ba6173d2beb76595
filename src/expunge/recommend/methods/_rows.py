"""Which rows an edit of a recommender may change: the nodes a request touches, and their entries in the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.influence import unflatten
from expunge.recommend.methods._influence import Triples
from expunge.recommend.models.base import Recommender


@contextmanager
def opened(model: Recommender) -> Iterator[dict[str, nn.Parameter]]:
    """Within, the model is in evaluation mode and all its parameters are open."""
    mode, flags = model.training, {name: p.requires_grad for name, p in model.named_parameters()}
    model.eval().requires_grad_(True)
    try:
        yield dict(model.named_parameters())
    finally:
        model.train(mode)
        for name, p in model.named_parameters():
            p.requires_grad_(flags[name])


def entries(model: Recommender, nodes: Tensor, shared: bool = False) -> Tensor:
    """Indices into the flat parameters (in the model's order) of the rows that belong to some nodes.

    Args:
        model: Says which parameters have rows per node.
        nodes: int64 node numbers.
        shared: Parameters that belong to nobody are chosen too.
    """
    found, start = [], 0
    for name, p in model.named_parameters():
        if name in model.node_rows:
            width = p[0].numel()
            found.append((start + model.rows_of(name, nodes)[:, None] * width + torch.arange(width)).flatten())
        elif shared:
            found.append(start + torch.arange(p.numel()))
        start += p.numel()
    return torch.cat(found).sort().values


@torch.no_grad()
def move(model: Recommender, chosen: Tensor, x: Tensor) -> None:
    """Add a vector to the chosen entries of the parameters, in place."""
    parameters = list(model.parameters())
    for p, step in zip(parameters, unflatten(x, parameters, chosen), strict=True):
        p.add_(step)


def nodes_of(interactions: Interactions) -> Tensor:
    """Node numbers of the users and items of some interactions, ascending."""
    nodes: Tensor = (interactions.pairs + torch.tensor([0, interactions.users])).unique()
    return nodes


def neighbourhood(nodes: Tensor, interactions: Interactions, hops: int) -> Tensor:
    """Nodes within some hops of others over a list of interactions, themselves included, ascending."""
    reached = torch.zeros(interactions.users + interactions.items, dtype=torch.bool)
    reached[nodes] = True
    user, item = (interactions.pairs + torch.tensor([0, interactions.users])).unbind(1)
    for _ in range(hops):
        either = reached[user] | reached[item]
        reached[user[either]] = True
        reached[item[either]] = True
    return reached.nonzero()[:, 0]


def removed_share(before: Graph, after: Graph) -> Tensor:
    """Float64 [nodes] share of each node's edges that are gone; 0 for a node that had none."""
    share: Tensor = (before.degree - after.degree).double() / before.degree.clamp_min(1)
    return share


def beside(triples: Triples, nodes: Tensor, users: int, count: int) -> Tensor:
    """Bool [n]: triples whose user or positive item is among some nodes.

    Args:
        triples: [n] of them.
        nodes: int64 node numbers.
        users: Number of users, the number of the first item's node.
        count: Number of nodes.
    """
    member = torch.zeros(count, dtype=torch.bool)
    member[nodes] = True
    return member[triples.users] | member[triples.positives + users]


def relevant(before: Graph, after: Graph, percentile: float) -> Tensor:
    """Nodes to which removal matters: r = s + A s, s the share of each node's edges that is gone, above a percentile.

    Args:
        before: Graph of all interactions, whose normalised A spreads the share by one hop.
        after: Graph of those kept.
        percentile: Share, from 0 to 1, of the nodes with r > 0 that are left out, the least relevant first.

    Returns:
        int64 node numbers, ascending; the most relevant node is always among them.
    """
    share = removed_share(before, after)
    relevance = share + before.propagate(share[:, None])[:, 0]
    touched = relevance[relevance > 0]
    return (relevance >= touched.quantile(percentile)).nonzero()[:, 0]
