"""Row orders are pure functions of the seed and waste no row."""

from __future__ import annotations

import torch

from expunge.engine.sampling import epochs, generator, uniform


def test_each_epoch_is_a_permutation_even_across_batches() -> None:
    """7 rows in batches of 4: 7 steps are exactly 4 epochs, and batches straddle their borders."""
    flat = epochs(7, 7, 4, 0, "forget").flatten()
    for epoch in flat.view(4, 7):
        assert epoch.sort().values.tolist() == list(range(7))
    assert len({tuple(e.tolist()) for e in flat.view(4, 7)}) > 1


def test_the_first_steps_do_not_depend_on_how_many_follow() -> None:
    assert torch.equal(epochs(7, 3, 4, 0, "forget"), epochs(7, 9, 4, 0, "forget")[:3])


def test_seed_and_stream_change_the_order() -> None:
    one = epochs(50, 2, 25, 0, "forget")
    assert torch.equal(one, epochs(50, 2, 25, 0, "forget"))
    assert not torch.equal(one, epochs(50, 2, 25, 1, "forget"))
    assert not torch.equal(one, epochs(50, 2, 25, 0, "retain"))


def test_a_batch_larger_than_the_set() -> None:
    order = epochs(3, 2, 8, 0, "forget")
    assert order.shape == (2, 8)
    assert order.flatten().bincount().tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])


def test_no_steps() -> None:
    assert epochs(5, 0, 4, 0, "forget").shape == (0, 4)
    assert uniform(5, 0, 4, 0, "retain").shape == (0, 4)


def test_uniform_draws_every_row_about_equally_often() -> None:
    """20 000 draws of 10 rows: 2000 each, standard deviation sqrt(20000 * 0.1 * 0.9) = 42."""
    counts = uniform(10, 1000, 20, 3, "retain").flatten().bincount(minlength=10)
    assert (counts - 2000).abs().max() < 5 * 42
    assert torch.equal(uniform(10, 5, 4, 3, "retain"), uniform(10, 5, 4, 3, "retain"))


def test_draws_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    epochs(9, 3, 4, 0, "forget")
    uniform(9, 3, 4, 0, "retain")
    generator(1, "x")
    assert torch.equal(torch.rand(3), expected)
