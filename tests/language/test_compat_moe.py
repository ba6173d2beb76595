"""Each published defect, shown."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.language.compat_moe import anchor_mean_over_experts_seuf, ga_negates_balance_seuf, npo_self_reference_seuf
from expunge.language.methods.npo import npo
from expunge.language.methods.seuf import anchor_target, router_anchor
from tiny_moe import EXPERTS, tiny_moe

TOKENS = torch.tensor([[3, 9, 4, 7, 21, 30, 12]])


@pytest.mark.parametrize("experts", [8, 60, 64])
def test_the_anchor_is_an_eth_of_equation_3(experts: int) -> None:
    """So the same alpha weighs 1/60 on one model and 1/8 on another."""
    torch.manual_seed(0)
    s, wanted = torch.randn(20, experts).softmax(-1), anchor_target([5], experts)
    theirs = anchor_mean_over_experts_seuf(s, wanted)
    assert theirs.item() == pytest.approx(router_anchor(s, wanted).mean().item() / experts, rel=1e-5)


def test_npo_against_itself_is_constant_and_ascends_whatever_beta() -> None:
    """Value (2/beta) ln 2 and slope -1 at any S; against a frozen reference the slope fades with S - S_ref."""
    S = torch.tensor([1.0, 30.0, 500.0], dtype=torch.float64, requires_grad=True)
    for beta in (0.001, 0.1, 5.0):
        loss = npo_self_reference_seuf(S, beta)
        assert loss.tolist() == pytest.approx([2 * math.log(2) / beta] * 3)
        (slope,) = torch.autograd.grad(loss.sum(), S)
        assert slope.tolist() == pytest.approx([-1, -1, -1])
    (right,) = torch.autograd.grad(npo(S, torch.ones_like(S), 0.1).sum(), S)
    assert right.tolist() == pytest.approx([-1, -2 / (1 + math.exp(2.9)), -2 / (1 + math.exp(49.9))])


def test_ascent_with_router_logits_on_unbalances_the_experts() -> None:
    """The model's own loss with router logits is nll + c aux; a step down its negative raises aux.

    The forget text's nll is kept out of the step (its gradient is subtracted), so what is left is the defect.
    """
    model = tiny_moe(router_aux_loss_coef=0.5)
    whole = model(TOKENS, labels=TOKENS, output_router_logits=True)
    plain = model(TOKENS, labels=TOKENS)
    theirs = ga_negates_balance_seuf(plain.loss, whole.aux_loss, 0.5)
    assert theirs.item() == pytest.approx(-whole.loss.item(), rel=1e-6)
    assert theirs.item() == pytest.approx(-plain.loss.item() - 0.5 * whole.aux_loss.item(), rel=1e-6)
    gates = [p for n, p in model.named_parameters() if n.endswith("gate.weight") and "shared" not in n]
    assert [len(g) for g in gates] == [EXPERTS, EXPERTS]
    (both, alone) = (torch.autograd.grad(loss, gates, retain_graph=True) for loss in (theirs, -plain.loss))
    with torch.no_grad():
        for gate, a, b in zip(gates, both, alone, strict=True):
            assert (a - b).abs().max() > 0
            gate.sub_(0.05 * (a - b))
    assert model(TOKENS, output_router_logits=True).aux_loss > whole.aux_loss + 1e-4
