"""FILA: importances against autograd, the weighted split against the SVD, and what it does to a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language import fila
from expunge.language.encode import Encoded
from expunge.language.fila import (
    importances,
    initialise,
    lora_layers,
    oriented,
    relative_importance,
    row_weights,
    weighted_split,
)
from expunge.language.forward import LanguageExamples
from expunge.language.subject import Subject, add_lora
from tiny_models import same, sequences, tiny, weights


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if "Linear" in type(m).__name__ and "lm_head" not in name}


def adapted(
    family: str = "llama", rank: int = 3, alpha: float = 6.0, targets: str | list[str] = "all-linear"
) -> nn.Module:
    """A random model with fresh adapters."""
    subject = Subject(tiny(family), None, None, "tiny")  # type: ignore[arg-type]
    return add_lora(subject, rank, alpha, targets, 0.0, seed=0).model  # type: ignore[no-any-return]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 20)[None]).logits  # type: ignore[no-any-return]


# -- importance ---------------------------------------------------------------------------------------


def by_autograd(model: nn.Module, encoded: Encoded, group: int) -> dict[str, Tensor]:
    """(gradient of the group's mean loss)^2 * n_g, summed and divided by all tokens, one backward pass per group."""
    sums = {name: torch.zeros_like(m.weight) for name, m in linears(model).items()}  # type: ignore[arg-type]
    for rows in torch.arange(len(encoded.lengths)).split(group):
        view = LanguageExamples(encoded).view(model, rows, (1, int(encoded.counts[rows].sum())), None)
        model.zero_grad()
        view.nll.backward()
        for name, module in linears(model).items():
            sums[name] += module.weight.grad.square() * encoded.counts[rows].sum()  # type: ignore[union-attr, operator]
    model.zero_grad()
    return {name: total / encoded.counts.sum() for name, total in sums.items()}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_importances_are_squared_gradients_of_each_group(group: int) -> None:
    model, encoded = tiny().double(), sequences(7)
    found = importances(model, encoded, linears(model), group=group, batch_tokens=40)
    expected = by_autograd(model, encoded, group)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-9)  # norms are float32 inside


@pytest.mark.parametrize("tokens", [11, 30, 1000])
def test_importances_do_not_depend_on_the_batch(tokens: int) -> None:
    model, encoded = tiny().double(), sequences(9)
    for group in (1, 2):
        whole = importances(model, encoded, linears(model), group=group)
        found = importances(model, encoded, linears(model), group=group, batch_tokens=tokens)
        for name, value in found.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-15)


def test_batch_means_are_not_the_fisher_information() -> None:
    model, encoded = tiny().double(), sequences(8)
    single, four = (importances(model, encoded, linears(model), group=group) for group in (1, 4))
    for name in single:
        assert four[name].mean() < 0.8 * single[name].mean()


def test_rows_are_the_sums_over_the_inputs() -> None:
    model, encoded = tiny().double(), sequences(5)
    whole = importances(model, encoded, linears(model))
    rows = importances(model, encoded, linears(model), reduce="rows")
    for name, value in rows.items():
        torch.testing.assert_close(value, whole[name].sum(1))


def test_measuring_leaves_the_model_as_it_was() -> None:
    model, encoded = tiny(), sequences(5)
    before = weights(model)
    model.model.layers[0].requires_grad_(False)
    model.train()
    flags = [p.requires_grad for p in model.parameters()]
    importances(model, encoded, linears(model))
    assert same(before, weights(model))
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_fresh_adapters_change_no_importance() -> None:
    encoded, plain, model = sequences(5), tiny(), adapted()
    expected = importances(plain, encoded, linears(plain))
    modules = {name: layer.get_base_layer() for name, layer in lora_layers(model).items()}
    found = importances(model, encoded, modules)
    assert len(found) == len(expected) == 14
    for name, value in expected.items():
        torch.testing.assert_close(found[f"base_model.model.{name}"], value, rtol=1e-5, atol=1e-9)


def test_no_labelled_token_is_refused() -> None:
    model, encoded = tiny(), sequences(3)
    silent = encoded._replace(label_start=encoded.lengths)
    with pytest.raises(InputError, match="loku: the retain records have no labelled token"):
        importances(model, silent, linears(model), what="retain records")
    none = Encoded(torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="no labelled token"):
        importances(model, none, linears(model))


def test_the_head_sees_no_whole_rows_and_is_refused() -> None:
    model = tiny(tie_word_embeddings=False)
    with pytest.raises(InputError, match="loku: lm_head does not see whole rows"):
        importances(model, sequences(3), {"lm_head": model.lm_head})


# -- relative importance ------------------------------------------------------------------------------


def test_relative_importance_does_not_depend_on_the_scale_of_gradients() -> None:
    """Squared gradients of 1e-12 give the ratio that those of 1 give."""
    forget, retain = normal(4, 6, seed=1).square(), normal(4, 6, seed=2).square()
    plain, share = relative_importance(forget, retain)
    small, same_share = relative_importance(forget * 1e-12, retain * 1e-12)
    torch.testing.assert_close(small, plain)
    assert share == same_share
    torch.testing.assert_close(plain, forget / (retain + 1e-3 * retain.mean()))


def test_the_floored_share_counts_denominators_under_the_floor() -> None:
    """Mean of I_r is 0.5, so a floor of 0.2 is 0.1: three of the four lie under it."""
    forget, retain = torch.ones(2, 2), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    ratio, share = relative_importance(forget, retain, floor=0.2)
    assert share == 0.75
    torch.testing.assert_close(ratio, torch.tensor([[1 / 2.1, 10], [10, 10]]))


def test_without_any_retain_information_the_ratio_is_finite() -> None:
    forget = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    ratio, share = relative_importance(forget, torch.zeros(2, 2))
    torch.testing.assert_close(ratio, forget / 1e-3)
    assert share == 1
    assert not relative_importance(torch.zeros(2, 2), torch.zeros(2, 2))[0].any()


def test_row_weights() -> None:
    assert row_weights(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), 2).tolist() == [2, 0]
    assert row_weights(torch.tensor([2.0, 0.0]), 2).tolist() == [2, 0]  # each ratio stands for two inputs
    assert row_weights(torch.zeros(3, 2), 2).tolist() == [1, 1, 1]  # nothing to weigh by


# -- the split ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_the_weighted_error_is_the_tail_of_the_spectrum(shape: tuple[int, int], scaling: float) -> None:
    """min over rank r of ||diag(s) (W - scaling B A)|| is sqrt(sum of the discarded squared singular values)."""
    W, s = normal(*shape, seed=3), normal(shape[0], seed=4).square() + 0.1
    spectrum = torch.linalg.svdvals(s[:, None] * W)
    for rank in range(1, min(shape) + 1):
        A, B = weighted_split(W, s, rank, scaling)
        assert A.shape == (rank, shape[1])
        assert B.shape == (shape[0], rank)
        error = (s[:, None] * (W - scaling * B @ A)).norm()
        torch.testing.assert_close(error, spectrum[rank:].square().sum().sqrt(), rtol=1e-9, atol=1e-12)


def test_it_is_the_formula_with_u_and_one_over_s() -> None:
    """A = sqrt(S / scaling) V^T, B = diag(1/s) U sqrt(S / scaling), up to the sign of each direction."""
    W, s = normal(8, 5, seed=5), normal(8, seed=6).square() + 0.1
    U, S, Vh = torch.linalg.svd(s[:, None] * W, full_matrices=False)
    A, B = weighted_split(W, s, 3, 2.0)
    torch.testing.assert_close(A.abs(), ((S[:3] / 2).sqrt()[:, None] * Vh[:3]).abs())
    torch.testing.assert_close(B.abs(), ((U[:, :3] * (S[:3] / 2).sqrt()) / s[:, None]).abs())


def test_equal_weights_give_the_ordinary_truncated_svd() -> None:
    W = normal(8, 5, seed=7)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    for weight in (1.0, 0.01, 300.0):
        A, B = weighted_split(W, torch.full((8,), weight).double(), 2)
        torch.testing.assert_close(B @ A, U[:, :2] @ S[:2].diag() @ Vh[:2])


def test_full_rank_leaves_a_zero_base() -> None:
    for shape in ((8, 5), (5, 8)):
        W, s = normal(*shape, seed=8), normal(shape[0], seed=9).square() + 0.01
        A, B = weighted_split(W, s, 5, 2.0)
        torch.testing.assert_close(2.0 * B @ A, W)


def test_a_row_of_no_weight_is_finite_and_costs_the_others_nothing() -> None:
    """s = 0 on a row: the others are split as if it were not there, and its own B row is W V / S."""
    W, s = normal(6, 5, seed=10), torch.tensor([1.0, 0.0, 2.0, 1e-9, 1.0, 3.0], dtype=torch.float64)
    A, B = weighted_split(W, s, 2)
    assert bool(torch.isfinite(B).all())
    assert float(B.abs().max()) < 10
    rest = torch.tensor([0, 2, 4, 5])
    A_rest, B_rest = weighted_split(W[rest], s[rest], 2)
    torch.testing.assert_close(B[rest] @ A, B_rest @ A_rest, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(B @ A, W @ A.T @ torch.linalg.inv(A @ A.T) @ A)  # each row projected on the rows of A


def test_spare_directions_of_a_matrix_of_low_rank_start_like_plain_lora() -> None:
    """Rank 1, asked for 3: two directions have B = 0 and A other than 0, so that they can learn."""
    W = normal(6, 1, seed=11) @ normal(1, 5, seed=12)
    A, B = weighted_split(W, torch.ones(6).double(), 3)
    torch.testing.assert_close(B @ A, W)
    assert not B[:, 1:].any()
    assert float(A.norm(dim=1).min()) > 0.1


def test_the_randomised_decomposition_is_seeded_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A falling spectrum: the weighted error is within 1% of the exact one, and the caller's generator is let be."""
    W = normal(60, 20, seed=13) @ torch.logspace(0, -3, 20).double().diag() @ normal(20, 50, seed=14)
    s = normal(60, seed=15).square() + 0.1
    A, B = weighted_split(W, s, 4)
    exact = (s[:, None] * (W - B @ A)).norm()
    monkeypatch.setattr(fila, "FULL_SVD", 10)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    first, again = (weighted_split(W, s, 4, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert (s[:, None] * (W - first[1] @ first[0])).norm() < 1.01 * exact


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_outside_the_matrix_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match=f"loku: rank={rank} must lie between 1 and 5"):
        weighted_split(normal(8, 5), torch.ones(8).double(), rank)


# -- on a model ---------------------------------------------------------------------------------------


def random_rows(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {name: normal(oriented(m).shape[0], seed=i).abs().float() for i, (name, m) in enumerate(layers.items())}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_model_starts_unchanged(family: str) -> None:
    """base + scaling B A = W to 1e-6, and so are the logits."""
    model, plain = adapted(family), tiny(family)
    layers = lora_layers(model)
    started = {name: oriented(m).clone() for name, m in layers.items()}
    splits = initialise(layers, random_rows(layers))
    for name, layer in layers.items():
        product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        assert product.norm() > 0.1 * started[name].norm()
        torch.testing.assert_close(oriented(layer) + product.detach(), started[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=2e-5)
    assert splits.matrices == 14
    assert splits.drift < 1e-6
    assert 0.2 < splits.kept < 1


def test_transposed_layers_are_split_the_right_way_round() -> None:
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        model = adapted("gpt2", rank=16, targets=["c_attn", "c_fc"])
    layers = lora_layers(model)
    assert {tuple(oriented(m).shape) for m in layers.values()} == {(48, 16), (64, 16)}
    initialise(layers, random_rows(layers))
    torch.testing.assert_close(logits(model), logits(tiny("gpt2")), rtol=0, atol=2e-5)
    assert all(float(oriented(m).abs().max()) < 1e-5 for m in layers.values())  # full rank leaves a zero base


def test_rounding_the_base_is_measured() -> None:
    """bfloat16 keeps 8 bits: the start moves by up to 1/256 of the largest base weight, and the log says so."""
    model = adapted()
    model.to(torch.bfloat16)
    layers = lora_layers(model)
    splits = initialise(layers, random_rows(layers))
    assert 1e-5 < splits.drift < 2 / 256


def test_layers_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(InputError, match="loku: no module of the model carries an adapter"):
        lora_layers(tiny())
    with pytest.raises(InputError, match="embed_tokens is no linear layer"):
        lora_layers(adapted(targets=["embed_tokens"]))
    subject = Subject(tiny(tie_word_embeddings=True), None, None, "tiny")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="tie"):
        tied = add_lora(subject, 2, 4.0, ["lm_head"], 0.0, seed=0).model
    with pytest.raises(InputError, match="lm_head shares its weight with another module"):
        lora_layers(tied)
