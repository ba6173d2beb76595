"""Pairwise ranking losses as functions of the margin d = s_ui - s_uj, element by element.

Forward BPR trains a recommender, reverse BPR unlearns, ascent is BPR with its sign turned. Their slopes tell them
apart: reverse BPR pulls with sigmoid(d), hardest while the forgotten item is still ranked high, and comes to rest
once it is not; ascent pulls with sigmoid(-d), next to nothing on a trained model, and never comes to rest.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def forward_bpr(margin: Tensor) -> Tensor:
    """Softplus(-d) = -log sigmoid(s_ui - s_uj): small where the positive is ranked above the negative.

    Args:
        margin: d, any shape.

    Source: Rendle et al., UAI 2009.

    >>> import torch
    >>> round(float(forward_bpr(torch.tensor(0.0))), 4)
    0.6931
    """
    return F.softplus(-margin)


def reverse_bpr(margin: Tensor) -> Tensor:
    """Softplus(d) = -log sigmoid(s_uj - s_ui): positive and negative change places. Bounded below by 0.

    Args:
        margin: d, any shape.

    Source: Sinha et al. (arXiv 2405.15328).

    >>> import torch
    >>> d = torch.tensor(1.5)
    >>> round(float(reverse_bpr(d) - forward_bpr(d)), 4)
    1.5
    """
    return F.softplus(margin)


def ascent(margin: Tensor) -> Tensor:
    """-softplus(-d): forward BPR with its sign turned. No lower bound.

    Args:
        margin: d, any shape.

    >>> import torch
    >>> round(float(reverse_bpr(torch.tensor(0.0)) - ascent(torch.tensor(0.0))), 4)
    1.3863
    """
    return -F.softplus(-margin)
