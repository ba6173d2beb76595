"""Value vectors before and after: hand cases, scalings, and neurons that only moved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.forward import decoder_layers
from expunge.language.mlp import down_projection
from expunge.language.value_vectors import compare_vectors, head_of, match_neuron, top_tokens
from tiny_models import tiny


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_untouched_vector_is_all_there() -> None:
    head, v = draw(50, 8), draw(8, seed=1)
    article = frozenset(top_tokens(v[None], head, 10)[0, :3].tolist())
    found = compare_vectors(v, head, v.clone(), head.clone(), article, k=10)
    assert found.cosine == pytest.approx(1)
    assert (found.l2, found.jaccard, found.wiki_precision, found.related) == (0, 1, 1, 1)


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_scaling_changes_the_distance_alone(c: float) -> None:
    head, v = draw(50, 8), draw(8, seed=1)
    found = compare_vectors(v, head, c * v, head, k=10)
    assert found.cosine == pytest.approx(1)
    assert found.jaccard == 1
    assert found.l2 == pytest.approx(abs(c - 1) * float(v.norm()), rel=1e-5)


def test_the_opposite_vector_promotes_other_tokens() -> None:
    head, v = draw(50, 8), draw(8, seed=1)
    found = compare_vectors(v, head, -v, head, k=10)
    assert found.cosine == pytest.approx(-1)
    assert found.jaccard == 0


def test_noise_in_high_dimension() -> None:
    """E||eps|| = sigma sqrt(d); cos = |v| / sqrt(|v|^2 + d sigma^2)."""
    d, sigma = 4096, 0.1
    v = draw(d, seed=1)
    v = 1.3 * v / v.norm()
    found = compare_vectors(v, draw(10, d), v + sigma * draw(d, seed=2), draw(10, d), k=3)
    assert found.l2 == pytest.approx(sigma * math.sqrt(d), rel=0.05)
    assert found.cosine == pytest.approx(1.3 / math.sqrt(1.3**2 + d * sigma**2), abs=0.05)


def test_token_sets_by_hand() -> None:
    """Identity head: v = (4,3,2,1,0,0) promotes {0,1,2}; v' = (0,3,4,0,2,1) promotes {2,1,4}.

    Jaccard 2/4. Article {0, 1, 4}: two of its tokens before (0, 1), two after (1, 4), one of the first kept.
    """
    head = torch.eye(6)
    v, after = torch.tensor([4.0, 3, 2, 1, 0, 0]), torch.tensor([0.0, 3, 4, 0, 2, 1])
    found = compare_vectors(v, head, after, head, frozenset({0, 1, 4}), k=3)
    assert (found.jaccard, found.wiki_precision, found.related) == (0.5, 1.0, 0.5)


def test_without_a_token_of_the_article_nothing_is_claimed() -> None:
    found = compare_vectors(torch.eye(4)[0], torch.eye(4), torch.eye(4)[1], torch.eye(4), frozenset({3}), k=1)
    assert (found.wiki_precision, found.related) == (None, None)


def test_a_vector_that_is_a_row_of_the_head_promotes_its_token() -> None:
    model = tiny()
    head = head_of(model)
    down = down_projection(model, 1)
    down.set_column(3, head[17] * 5)
    assert int(top_tokens(down.columns(), head, 1)[3, 0]) == 17
    assert torch.equal(top_tokens(down.columns(), head, 4, batch=5), top_tokens(down.columns(), head, 4))


def neurons(model: nn.Module, layer: int) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    mlp = decoder_layers(model)[2][layer].mlp
    return mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize("factor", [1.0, 2.5, -0.5])
def test_neurons_that_were_swapped_and_rescaled_are_found_again(factor: float) -> None:
    """The function is the same; so are the vectors once the neuron is matched."""
    before = tiny()
    after = copy.deepcopy(before)
    gate, up, down = neurons(after, 1)
    with torch.no_grad():
        for rows in (gate, up):
            rows[[2, 5]] = rows[[5, 2]].clone()
        down[:, [2, 5]] = down[:, [5, 2]].clone()
        up[5] *= factor
        down[:, 5] /= factor
        ids = torch.tensor([[1, 2, 3]])
        torch.testing.assert_close(after(ids).logits, before(ids).logits)
    match = match_neuron(before, after, 1, 2)
    assert (match.index, match.moved) == (5, True)
    assert match.scale == pytest.approx(factor, rel=1e-4)
    v, found = down_projection(before, 1).column(2), down_projection(after, 1).column(match.index) * match.scale
    torch.testing.assert_close(found, v)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_an_untouched_neuron_is_itself(family: str) -> None:
    model = tiny(family)
    match = match_neuron(model, copy.deepcopy(model), 0, 3)
    assert (match.index, match.moved) == (3, False)
    assert match.similarity == pytest.approx(1, abs=1e-5)


def test_what_does_not_exist_is_refused() -> None:
    model = tiny()
    with pytest.raises(InputError, match="layer=9"):
        match_neuron(model, model, 9, 0)
    with pytest.raises(InputError, match="no value vector 10000"):
        match_neuron(model, model, 0, 10_000)
