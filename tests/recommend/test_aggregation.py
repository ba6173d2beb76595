"""Combinations of shards against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.recommend.aggregation import (
    Attention,
    Owned,
    Weighted,
    logistic_weights,
    made,
    shard_margins,
    simplex_weights,
)

S, U, N, D = 3, 6, 5, 4


def vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, U, D, generator=g), torch.randn(S, N, D, generator=g)


def scored(aggregator: nn.Module, z_user: Tensor, z_item: Tensor) -> Tensor:
    with torch.no_grad():
        users, items = aggregator(z_user, z_item)
    return users @ items.T  # type: ignore[no-any-return]


def perturbed(attention: Attention, seed: int = 0) -> Attention:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in attention.parameters():
            p += 0.5 * torch.randn(p.shape, generator=g)
    return attention


def test_weights_add_up_the_scores() -> None:
    z_user, z_item = vectors()
    each = z_user @ z_item.transpose(1, 2)
    torch.testing.assert_close(scored(Weighted(S), z_user, z_item), each.mean(0))
    weighted = Weighted(S)
    weighted.weights.data = torch.tensor([0.5, -2.0, 0.0])
    torch.testing.assert_close(scored(weighted, z_user, z_item), 0.5 * each[0] - 2 * each[1])


def test_an_owner_answers_alone() -> None:
    z_user, z_item = vectors()
    each = z_user @ z_item.transpose(1, 2)
    owners = torch.tensor([0, 2, 1, 1, 0, 2])
    torch.testing.assert_close(scored(Owned(owners, S), z_user, z_item), each[owners, torch.arange(U)])


def test_attention_by_hand() -> None:
    z_user, z_item = vectors()
    attention = perturbed(Attention(S, D))
    with torch.no_grad():
        users, _ = attention(z_user, z_item)
        mapped = torch.stack([z_user[k] @ attention.maps[k] + attention.shifts[k] for k in range(S)])
        a = attention.user
        for u in range(U):
            raw = torch.stack([a.outer @ torch.relu(a.inner.T @ mapped[k, u] + a.shift) for k in range(S)])
            share = raw.exp() / raw.exp().sum()
            torch.testing.assert_close(users[u], share @ mapped[:, u])
    assert attention.user.inner.shape == (D, D // 2)
    assert not torch.equal(attention.user.inner, attention.item.inner)
    torch.testing.assert_close(attention.square(), (attention.maps**2).sum() + (attention.shifts**2).sum())


def test_attention_starts_as_a_nearly_even_sum_and_as_one_model_alone() -> None:
    z_user, z_item = vectors()
    fresh = Attention(S, D)
    with torch.no_grad():
        shares = fresh.user.shares(fresh.mapped(z_user))
    assert bool(((shares - 1 / S).abs() < 0.05).all())
    torch.testing.assert_close(shares.sum(0), torch.ones(U))
    torch.testing.assert_close(scored(Attention(1, D), z_user[:1], z_item[:1]), z_user[0] @ z_item[0].T)


def test_the_order_of_the_shards_is_of_no_matter() -> None:
    z_user, z_item = vectors()
    turn = torch.tensor([2, 0, 1])
    attention = perturbed(Attention(S, D))
    turned = Attention(S, D)
    turned.load_state_dict(attention.state_dict())
    turned.maps.data, turned.shifts.data = attention.maps.data[turn], attention.shifts.data[turn]
    weighted, other = Weighted(S), Weighted(S)
    weighted.weights.data = torch.tensor([0.1, 0.7, 0.2])
    other.weights.data = weighted.weights.data[turn]
    for first, second in ((attention, turned), (weighted, other)):
        torch.testing.assert_close(scored(first, z_user, z_item), scored(second, z_user[turn], z_item[turn]))
    margins = torch.randn(300, S, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.2, 1.0, -0.1])
    torch.testing.assert_close(simplex_weights(margins[:, turn]), simplex_weights(margins)[turn])
    torch.testing.assert_close(logistic_weights(margins[:, turn]), logistic_weights(margins)[turn])


def test_gradients_reach_everything() -> None:
    z_user, z_item = (z.double().requires_grad_() for z in vectors())
    attention = perturbed(Attention(S, D)).double()
    users, items = attention(z_user, z_item)
    (users @ items.T).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in attention.parameters())
    assert z_user.grad is not None

    def shares(e: Tensor) -> Tensor:
        return attention.user(e)  # type: ignore[no-any-return]

    torch.autograd.gradcheck(shares, (z_user.detach().requires_grad_(),))


def test_margins_by_hand() -> None:
    z_user, z_item = vectors()
    pairs, negatives = torch.tensor([[0, 1], [5, 4]]), torch.tensor([3, 0])
    margins = shard_margins(z_user, z_item, pairs, negatives)
    assert margins.shape == (2, S)
    expected = float(z_user[2, 5] @ z_item[2, 4] - z_user[2, 5] @ z_item[2, 0])
    assert float(margins[1, 2]) == pytest.approx(expected, rel=1e-5)


def test_simplex_weights_stay_on_the_simplex_and_find_the_good_shard() -> None:
    g = torch.Generator().manual_seed(0)
    margins = torch.randn(2000, 4, generator=g)
    margins[:, 1] += 3  # right nearly always
    margins[:, 3] -= 3  # wrong nearly always
    weights = simplex_weights(margins, lr=1e-2)
    assert bool((weights >= 0).all())
    assert float(weights.sum()) == pytest.approx(1)
    assert int(weights.argmax()) == 1
    assert float(weights[3]) == 0
    torch.testing.assert_close(simplex_weights(margins, lr=1e-2), weights, rtol=0, atol=0)
    assert simplex_weights(margins[:, :1]).tolist() == [1]
    even = simplex_weights(torch.zeros(100, 5))
    torch.testing.assert_close(even, torch.full((5,), 0.2))


def test_simplex_weights_move_where_all_gradients_have_one_sign() -> None:
    """Shards that are all right, one of them more so: the norm holds the weights together, less of it less."""
    g = torch.Generator().manual_seed(0)
    margins = 0.5 + torch.rand(1000, 4, generator=g) + torch.tensor([0.0, 0.0, 0.5, 0.0])
    gaps = [float(simplex_weights(margins, decay=decay)[2]) - 0.25 for decay in (4.0, 1.0, 0.1)]
    assert 0.001 < gaps[0] < gaps[1] < gaps[2]


def test_logistic_weights_are_the_minimum() -> None:
    g = torch.Generator().manual_seed(0)
    margins = torch.randn(500, 4, generator=g).double() + torch.tensor([0.0, 0.5, 2.0, -1.0]).double()
    for ridge in (1e-3, 1.0):
        weights = logistic_weights(margins, ridge=ridge).requires_grad_()
        loss = nn.functional.softplus(-(margins @ weights)).mean() + ridge / 2 * weights.square().sum()
        (gradient,) = torch.autograd.grad(loss, weights)
        assert float(gradient.norm()) < 1e-8
    assert float(weights[3].detach()) < 0 < float(weights[2].detach())
    separable = torch.full((50, 2), 100.0)
    assert bool(logistic_weights(separable).isfinite().all())
    with pytest.raises(InputError, match="were not found"):
        logistic_weights(torch.full((5, 2), torch.nan))


def test_aggregators_are_made_again_by_name() -> None:
    for aggregator in (Weighted(S), Owned(torch.arange(U) % S, S), Attention(S, D)):
        blank = made(aggregator.origin())
        blank.load_state_dict(aggregator.state_dict())
        z = vectors()
        torch.testing.assert_close(scored(blank, *z), scored(aggregator, *z), rtol=0, atol=0)
    with pytest.raises(InputError, match="Unknown aggregation 'vote'"):
        made({"kind": "vote", "shards": 2})
