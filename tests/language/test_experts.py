"""Attribution of text to experts, on routers built by hand; choice; overlap."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.language.encode import Encoded
from expunge.language.experts import (
    Attribution,
    Pick,
    attribute,
    calibration,
    overlap,
    router_overlap,
    select,
    sequence_means,
)
from tiny_models import sequences, tiny
from tiny_moe import CHOSEN, EXPERTS, FAMILIES, MoeBed, listed, tiny_moe


def rows_of(*rows: list[int]) -> Encoded:
    lengths = torch.tensor([0, *(len(r) for r in rows)])
    ids = torch.tensor([t for r in rows for t in r], dtype=torch.long)
    return Encoded(ids, lengths.cumsum(0), torch.ones(len(rows), dtype=torch.long))


def classed(**changes: Any) -> Any:
    """A model whose first router sends tokens below 20 to expert 3 and the others to expert 5.

    Embeddings are +e_0 or -e_0, attention adds nothing, so the normed input of the router is +4 e_0 or -4 e_0
    (RMS norm of one entry among d = 16 is sqrt(d)). Logit rows: expert 3 reads +1, expert 5 -1, expert 6 is
    at rest; gate logits are 4, -4 and 0 at a token of the first class.
    """
    model = tiny_moe("qwen2-moe", **changes)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:20, 0] = 1
        model.model.embed_tokens.weight[20:, 0] = -1
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        gate = model.model.layers[0].mlp.gate.weight.zero_()
        gate[3, 0], gate[5, 0] = 1, -1
    return model


CLASS_A, CLASS_B = [4, 9, 7, 5, 11], [25, 31, 22, 30]


def test_a_router_built_by_hand_is_found_out() -> None:
    """Softmax at a token of class A: e^4, e^-4 and six times 1 over their sum Z."""
    model = classed()
    found = attribute(model, rows_of(CLASS_A, CLASS_A[:2])).affinity(0)
    total = math.exp(4) + math.exp(-4) + 6
    assert int(found.argmax()) == 3
    assert float(found[3]) == pytest.approx(math.exp(4) / total, rel=1e-4)
    assert float(found.sum()) == pytest.approx((math.exp(4) + 1) / total, rel=1e-4)  # the best and one at rest
    assert float(found[5]) == 0  # masked: never among the top two
    assert int(attribute(model, rows_of(CLASS_B)).affinity(0).argmax()) == 5


def test_a_sequence_counts_once_however_long() -> None:
    """One token of class B against 99 of class A: the mean of means gives both experts the same."""
    found = attribute(classed(), rows_of([25], CLASS_A * 19 + CLASS_A[:4])).affinity(0)
    assert float(found[3]) == pytest.approx(float(found[5]), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_affinities_sum_to_the_mass_of_the_top_k(family: str) -> None:
    found = attribute(tiny_moe(family), sequences(9))
    for layer in found.per_sequence:
        mass = float(found.affinity(layer).sum())
        assert mass == pytest.approx(1, abs=1e-6) if family == "mixtral" else 0 < mass < 1 - 1e-4
    hits = attribute(tiny_moe(family), sequences(9), kind="hits")
    for layer in hits.per_sequence:
        assert float(hits.affinity(layer).sum()) == pytest.approx(CHOSEN)
        assert float(hits.affinity(layer).max()) <= 1


def test_renormalised_gates_sum_to_one() -> None:
    found = attribute(tiny_moe("qwen2-moe", norm_topk_prob=True), sequences(9))
    assert [float(found.affinity(i).sum()) for i in found.per_sequence] == pytest.approx([1, 1], abs=1e-6)


def test_neither_padding_nor_the_order_of_the_rows_counts() -> None:
    """Each row alone gives what it gives among others of other lengths."""
    model, encoded = tiny_moe(), sequences(9)
    together = attribute(model, encoded).per_sequence
    ids = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]
    for row, tokens in enumerate(ids):
        alone = attribute(model, rows_of(tokens)).per_sequence
        for layer, values in together.items():
            torch.testing.assert_close(values[row], alone[layer][0], rtol=1e-5, atol=1e-6)


def test_special_tokens_count_neither_above_nor_below_the_line() -> None:
    """Token 25 (class B) in a text of class A, declared special: only class A is left, in L_j too."""
    mixed, plain = rows_of([25, *CLASS_A]), rows_of(CLASS_A)
    model = classed()
    assert float(attribute(model, mixed).affinity(0)[5]) > 0.1
    special = attribute(model, mixed, special=[25]).affinity(0)
    torch.testing.assert_close(special, attribute(model, plain).affinity(0), rtol=1e-5, atol=1e-7)
    with_empty = attribute(model, rows_of([25, 25], CLASS_A), special=[25])
    torch.testing.assert_close(with_empty.affinity(0), special, rtol=1e-5, atol=1e-7)  # no row, not a row of zeros
    assert len(with_empty.per_sequence[0]) == 1


def test_both_layouts_give_the_same_attribution() -> None:
    """Where transformers 4 has a list of modules, 5 has fused tensors."""
    fused, unfused = (attribute(m, sequences(9)) for m in (tiny_moe("qwen3-moe"), listed(tiny_moe("qwen3-moe"))))
    assert [(p.layer, p.expert) for p in fused.ranking] == [(p.layer, p.expert) for p in unfused.ranking]
    for layer in (0, 1):
        torch.testing.assert_close(fused.affinity(layer), unfused.affinity(layer))


def test_the_mode_and_the_gradients_of_the_model_are_left_alone() -> None:
    model = tiny_moe().train()
    attribute(model, sequences(4))
    assert model.training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_an_empty_calibration_set_is_refused(moe_bed: MoeBed) -> None:
    empty = Encoded(torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.zeros(0).long())
    with pytest.raises(InputError, match="calibration set is empty"):
        attribute(tiny_moe(), empty)
    with pytest.raises(InputError, match="padding and special tokens only"):
        attribute(tiny_moe(), rows_of([0, 1, 0], [1]), special=[0, 1, 2])
    with pytest.raises(InputError, match="calibration set is empty"):
        calibration(moe_bed.target, [], 100, 0)
    with pytest.raises(InputError, match="LlamaForCausalLM is dense"):
        attribute(tiny(), sequences(4))


def test_a_calibration_set_is_a_sample_of_at_least_so_many_tokens(moe_bed: MoeBed) -> None:
    whole = calibration(moe_bed.target, moe_bed.forget, 10**6, 0)
    assert len(whole.lengths) == len(moe_bed.forget)
    some, others = (calibration(moe_bed.target, moe_bed.forget, 300, seed) for seed in (0, 1))
    for sample in (some, others):
        assert 300 <= len(sample.ids) < 300 + int(whole.lengths.max())
    assert some.ids.tolist() != others.ids.tolist()
    again = calibration(moe_bed.target, moe_bed.forget, 300, 0)
    assert some.ids.tolist() == again.ids.tolist()


# -- choice -------------------------------------------------------------------------------------------


def given(*layers: list[list[float]]) -> Attribution:
    return Attribution({i: torch.tensor(rows, dtype=torch.float64) for i, rows in enumerate(layers)})


AFFINITIES = given([[0.1, 0.5, 0.2]], [[0.3, 0.05, 0.6]], [[0.4, 0.1, 0.1]])


def pairs(picks: list[Pick]) -> list[tuple[int, int]]:
    return [(p.layer, p.expert) for p in picks]


def test_choice_by_scope() -> None:
    assert pairs(select(AFFINITIES)) == [(1, 2)]
    assert pairs(select(AFFINITIES, 2, "same_layer")) == [(1, 2), (1, 0)]
    assert pairs(select(AFFINITIES, 3, "cross_layer")) == [(1, 2), (0, 1), (2, 0)]
    assert pairs(select(given([[0.5, 0.5]], [[0.5, 0.1]]), 3, "cross_layer")) == [(0, 0), (0, 1), (1, 0)]
    with pytest.raises(InputError, match="count=4: layer 1 has 3 experts"):
        select(AFFINITIES, 4, "same_layer")
    with pytest.raises(InputError, match="count=10: the model has 9 experts"):
        select(AFFINITIES, 10, "cross_layer")


def test_a_lead_that_every_sequence_shares_is_certain_and_one_that_hangs_on_a_sequence_is_not() -> None:
    """Three equal sequences: every resampling gives the same lead, .3. One odd one of two: a coin decides.

    With rows (.9, 0) and (.2, .5) the leads of expert 0 are .9, .3 and -.3 with odds 1 : 2 : 1.
    """
    certain = given([[0.5, 0.2]] * 3).support()
    assert certain == pytest.approx((0.3, 0.3, 0.3, 1))
    doubtful = given([[0.9, 0.0], [0.2, 0.5]]).support(draws=4000)
    assert doubtful.margin == pytest.approx(0.3)
    assert (doubtful.low, doubtful.high) == pytest.approx((-0.3, 0.9))
    assert doubtful.share == pytest.approx(0.75, abs=0.03)
    assert given([[0.9, 0.0], [0.2, 0.5]]).support(seed=1) != given([[0.9, 0.0], [0.2, 0.5]]).support(seed=2)
    second = given([[0.0, 0.1]], [[0.2, 0.7]]).support()  # the first place is found in the second layer
    assert second == pytest.approx((0.5, 0.5, 0.5, 1))


def test_means_of_each_sequence() -> None:
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 8.0]])
    assert sequence_means(values, torch.tensor([0, 0, 2]), 3).tolist() == [[2, 0], [0, 0], [0, 8]]


# -- overlap ------------------------------------------------------------------------------------------


def test_overlap_counts_shared_experts_in_any_order() -> None:
    now = torch.tensor([[0, 1], [2, 3], [4, 5]])
    then = torch.tensor([[1, 0], [3, 7], [6, 7]])
    assert overlap(now, then).tolist() == [1, 0.5, 0]


def test_overlap_of_models() -> None:
    """1 with itself; layer 0 of 2 turned round (every token elsewhere) leaves what the layer above shares."""
    model, encoded = classed(), rows_of(CLASS_A, CLASS_B)
    sums, counts = router_overlap(model, model, encoded)
    assert counts.tolist() == [5, 4]
    assert torch.equal(sums, counts)
    turned = classed()
    with torch.no_grad():  # class A now goes to 5 and one at rest, class B to 3 and one at rest; layer 1 is blind
        turned.model.layers[0].mlp.gate.weight.mul_(-1)
        for each in (model, turned):
            each.model.layers[1].mlp.gate.weight.zero_()
    sums, counts = router_overlap(turned, model, encoded)
    assert (sums / counts).tolist() == pytest.approx([(0.5 + 1) / 2] * 2)  # the expert at rest is shared
    sums, counts = router_overlap(turned, model, rows_of([0, *CLASS_A]), special=[0])
    assert counts.tolist() == [5]


def test_models_of_different_experts_are_refused() -> None:
    with pytest.raises(InputError, match="different experts"):
        router_overlap(tiny_moe(), tiny_moe(num_experts=EXPERTS // 2), sequences(4))


def test_full_training_sends_the_forget_set_elsewhere(moe_bed: MoeBed) -> None:
    """The gold model never saw the set: it routes it otherwise. The measure tells it from the target."""
    encoded = calibration(moe_bed.target, moe_bed.forget, 10**6, 0)

    def share(model: Any) -> Tensor:
        sums, counts = router_overlap(model, moe_bed.target.model, encoded)
        return sums.sum() / counts.sum()

    assert share(moe_bed.target.model) == 1
    assert share(moe_bed.gold.model) < 0.8
