"""Full ranking: every item a user has not taken, by score, and what the first k places are worth.

All measures are means over users, never over interactions, and a user without anything to be found is skipped, not
counted as 0. The ideal of NDCG is cut at k, as usual; code that lets it run over all true items gives lower numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions

USERS_TOGETHER = 1024  # users of one matrix product
NOTHING = -1  # place of a ranking that no item is left for


class Scorer(Protocol):
    """What can be ranked: a subject, or the evidence about one."""

    @property
    def catalogue(self) -> Tensor | None:
        """Bool [items]: what may be recommended; None for everything."""
        ...

    @property
    def blocked(self) -> Interactions | None:
        """What is held back from users whatever its score; None for nothing."""
        ...

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """[users, d] and [items, d], whose dot products are the scores."""
        ...


def rank(scores: Tensor, mask: Tensor, k: int) -> Tensor:
    """The first k items of each row; equal scores by item id.

    Args:
        scores: [b, items].
        mask: Bool [b, items], true where an item is not to be ranked.
        k: Places.

    Returns:
        int64 [b, k] item ids, -1 where fewer than k items are left.

    Raises:
        InputError: k outside 1 to the number of items, or a score that is NaN.
    """
    if not 1 <= k <= scores.shape[1]:
        raise InputError(f"k={k} must lie between 1 and the number of items, {scores.shape[1]}.")
    if bool(scores.isnan().any()):
        raise InputError("A score is not a number; the model is broken.")
    allowed = scores.masked_fill(mask, -torch.inf)
    values, ids = allowed.topk(k, dim=1)
    ids, by_id = ids.sort(dim=1)  # equal scores must come in the order of their ids, which topk does not promise
    values, by_score = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, by_score)
    tied = (allowed >= values[:, -1:]).sum(1) > k  # the last place has rivals: only a full sort knows their order
    if bool(tied.any()):
        ids[tied] = allowed[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return ids.masked_fill(mask.gather(1, ids), NOTHING)


def recall(hits: Tensor, truths: Tensor) -> Tensor:
    """[n] hits / truths.

    Args:
        hits: Bool [n, k]: whether the item at each place is a true one.
        truths: [n] number of true items, at least 1.
    """
    return hits.double().sum(1) / truths


def precision(hits: Tensor, truths: Tensor) -> Tensor:
    """[n] hits / k; arguments as in `recall`."""
    return hits.double().mean(1)


def hit(hits: Tensor, truths: Tensor) -> Tensor:
    """[n] 1 where any place is a hit; arguments as in `recall`."""
    return hits.any(1).double()


def ndcg(hits: Tensor, truths: Tensor) -> Tensor:
    """[n] discounted gain over that of the best order: sum over hits 1/log2(r + 1) / sum_{r <= min(truths, k)}."""
    k = hits.shape[1]
    gain = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    return (hits.double() * gain).sum(1) / gain.cumsum(0)[truths.clamp_max(k) - 1]


def map_at(hits: Tensor, truths: Tensor) -> Tensor:
    """[n] average precision: sum over hits of the precision at their place / min(truths, k)."""
    k = hits.shape[1]
    precisions = hits.double().cumsum(1) / torch.arange(1, k + 1, dtype=torch.float64)
    return (precisions * hits).sum(1) / truths.clamp_max(k)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "map": map_at,
    "hit": hit,
}


@dataclass(frozen=True)
class Ranking:
    """The first places of every user who has something to be found.

    Attributes:
        users: [n] their ids.
        top: [n, k] recommended items, -1 where none is left.
        hits: Bool [n, k]: which of them are true.
        truths: [n] number of true items.
    """

    users: Tensor
    top: Tensor
    hits: Tensor
    truths: Tensor

    def per_user(self, measure: str, k: int) -> Tensor:
        """[n] float64 values of one of `MEASURES` at k."""
        return MEASURES[measure](self.hits[:, :k], self.truths)

    def mean(self, measure: str, k: int) -> float:
        """Mean over users of one of `MEASURES` at k; NaN without users."""
        return float(self.per_user(measure, k).mean())


@torch.inference_mode()
def recommended(scorer: Scorer, users: Tensor, masked: Interactions, k: int, *, served: bool = True) -> Tensor:
    """[n, k] first items of some users [n], -1 where none is left; other arguments and errors as in `evaluate`."""
    z_user, z_item = (z.cpu() for z in scorer.embeddings())
    hidden = _hidden(scorer, masked, served)
    found = [rank(z_user[block] @ z_item.T, hidden(block), k) for block in users.split(USERS_TOGETHER)]
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.long)


@torch.inference_mode()
def evaluate(
    scorer: Scorer, truth: Interactions, masked: Interactions, ks: Sequence[int], *, served: bool = True
) -> Ranking:
    """Rank for every user of `truth` all items but the masked ones.

    Args:
        scorer: A subject, or the evidence about one.
        truth: What should be found.
        masked: What is left out of each user's ranking, such as their training interactions.
        ks: Places that will be asked about; the largest is ranked.
        served: Leave out what the subject no longer offers or holds back; otherwise its weights are asked about every
            item.

    Raises:
        InputError: An interaction is in `truth` and in `masked`, another catalogue, k above the number of items, or
            scores that are not numbers.
    """
    _refuse_masked_truth(truth, masked)
    users, k = truth.degrees[0].nonzero()[:, 0], max(ks)
    top, true = recommended(scorer, users, masked, k, served=served), truth.mask()
    hits = true[users].gather(1, top.clamp_min(0)) & (top != NOTHING)
    return Ranking(users, top, hits, truth.degrees[0][users])


@torch.inference_mode()
def places(scorer: Scorer, truth: Interactions, masked: Interactions, *, served: bool = True) -> Tensor:
    """[n] place of each true item in its user's ranking, from 1; equal scores by item id.

    An item that the subject no longer offers comes after every other. Arguments and errors as in `evaluate`.
    """
    _refuse_masked_truth(truth, masked)
    z_user, z_item = (z.cpu() for z in scorer.embeddings())
    hidden, found = _hidden(scorer, masked, served), []
    for pairs in truth.pairs.split(USERS_TOGETHER):
        users, items = pairs.unbind(1)
        distinct, row = users.unique(return_inverse=True)
        scores = z_user[distinct] @ z_item.T
        if bool(scores.isnan().any()):
            raise InputError("A score is not a number; the model is broken.")
        scores = scores.masked_fill(hidden(distinct), -torch.inf)[row]  # [b, items]
        own = scores.gather(1, items[:, None])
        before = torch.arange(truth.items) < items[:, None]
        place = 1 + ((scores > own) | ((scores == own) & before)).sum(1)
        found.append(place.masked_fill(own[:, 0] == -torch.inf, truth.items))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def _hidden(scorer: Scorer, masked: Interactions, served: bool) -> Callable[[Tensor], Tensor]:
    """Users [b] to bool [b, items]: what is not ranked for them."""
    mask = masked.mask()
    catalogue, blocked = (scorer.catalogue, scorer.blocked) if served else (None, None)
    held_back = None if blocked is None else blocked.mask()

    def hidden(users: Tensor) -> Tensor:
        found = mask[users] if catalogue is None else mask[users] | ~catalogue.cpu()
        return found if held_back is None else found | held_back[users]

    return hidden


def _refuse_masked_truth(truth: Interactions, masked: Interactions) -> None:
    truth.require_catalogue_of(masked)
    both = masked.contains(truth.pairs).nonzero()[:, 0]
    if len(both):
        raise InputError(
            f"{len(both)} interactions are to be found and masked at once (user, item): {truth.shown(int(both[0]))}."
        )
