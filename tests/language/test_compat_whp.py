"""The published defect does what its name says is wrong, and WHP of expunge does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.language.compat_whp import whp_loss_unmasked_muse
from expunge.language.generic_labels import generic_logits


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_changes_with_padding() -> None:
    """Four tokens, then the same padded to eight with token 0, which the logits at padding call unlikely."""
    v_b, v_r = normal(1, 4, 7, seed=0), normal(1, 4, 7, seed=1)
    labels = torch.tensor([[3, 4, 5, 6]])
    plain = whp_loss_unmasked_muse(v_b, v_r, labels, 2.0)
    logprobs = generic_logits(v_b, v_r, 2.0, "raw")[0, :3].log_softmax(-1)
    assert plain.item() == pytest.approx(float(-logprobs.gather(-1, labels[0, 1:, None]).mean()))
    unlikely = torch.zeros(1, 4, 7, dtype=torch.float64)
    unlikely[..., 0] = -20.0
    v_b[:, -1, 0] = v_r[:, -1, 0] = -20.0
    padded = whp_loss_unmasked_muse(
        torch.cat([v_b, unlikely], 1), torch.cat([v_r, unlikely], 1), torch.nn.functional.pad(labels, (0, 4)), 2.0
    )
    assert padded.item() > plain.item() + 5


def test_a_constant_changes_what_is_served() -> None:
    """v_r + 40 pushes every logit down by about 40 alpha less or more: the raw loss moves, the normalised not."""
    v_b, v_r, labels = normal(2, 5, 7, seed=0), normal(2, 5, 7, seed=1), torch.arange(10).view(2, 5) % 7
    losses = [whp_loss_unmasked_muse(v_b, v_r + c, labels, 2.0).item() for c in (0.0, 40.0)]
    assert abs(losses[0] - losses[1]) > 0.1
    torch.testing.assert_close(generic_logits(v_b, v_r, 2.0), generic_logits(v_b, v_r + 40.0, 2.0))
