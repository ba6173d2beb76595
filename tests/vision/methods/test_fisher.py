"""Fisher forgetting: the information against sums written out, the noise's size, and what stays."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.methods.fisher import Fisher, fisher_information, noise_variance
from expunge.vision.subject import own_module
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained


def by_sums(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """sum_y p_y (d log p_y)^2 image after image and class after class, by ordinary backward passes."""
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for i in range(len(images)):
        logits = model(images.pixels(torch.tensor([i])))[0]
        if images.labels.ndim == 2:
            terms = [p for z in logits for p in (nn.functional.logsigmoid(z), nn.functional.logsigmoid(-z))]
        else:
            terms = list(logits.log_softmax(-1))
        for term in terms:
            found = torch.autograd.grad(term, list(model.parameters()), retain_graph=True)
            for n, g in zip(total, found, strict=True):
                total[n] += term.exp().detach() * g.square() / len(images)
    return total


@pytest.mark.parametrize("several", [False, True])
def test_information_is_the_expectation_over_the_models_own_labels(several: bool) -> None:
    """With classes and with independent labels; the images' own labels are not read."""
    images, model = splits()["retain"].take(range(5)), trained().model
    if several:
        images = Images(images.source, images.rows, torch.zeros(5, 4), images.clusters, images.names)
    found, expected = fisher_information(model, images), by_sums(model, images)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8, msg=name)
    if not several:
        other = Images(images.source, images.rows, (images.labels + 1) % 4, images.clusters, images.names)
        assert all(torch.equal(v, found[n]) for n, v in fisher_information(model, other).items())


def test_a_network_that_branches_on_values_is_run_image_by_image() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, images: Tensor) -> Tensor:
            means = images.mean((2, 3))
            return self.head(means if float(means.detach().sum()) > 0 else -means)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    images, model = splits()["retain"].take(range(4)), Branching()
    for name, value in by_sums(model, images).items():
        torch.testing.assert_close(fisher_information(model, images)[name], value, rtol=1e-4, atol=1e-8)


def test_variance_follows_caps_rows_and_tens() -> None:
    small, large = torch.zeros(2, 3), torch.full((2, 3), 0.5)
    assert torch.allclose(noise_variance(small, 1e-6, head=False), torch.full((2, 3), 1e-3))  # cap 1e3
    assert torch.allclose(noise_variance(small, 1e-6, head=True), torch.full((2, 3), 1e-3))  # cap 1e2, ten times
    assert torch.allclose(noise_variance(large, 1e-6, head=False), torch.full((2, 3), 2e-6))
    assert torch.allclose(noise_variance(torch.tensor([0.5, 0.0]), 1e-6, head=False), torch.tensor([2e-5, 1e-2]))
    uneven = torch.tensor([[0.5, 0.25], [1.0, 1.0]])
    found = noise_variance(uneven, 1.0, head=False)  # averaged over the second dimension: (2 + 4) / 2 and 1
    assert torch.allclose(found, torch.tensor([[3.0, 3.0], [1.0, 1.0]]))
    four = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert torch.allclose(noise_variance(four, 1.0, head=False), torch.full((1, 2, 2, 2), 3.0))


def test_zero_alpha_returns_the_target_and_seeds_repeat() -> None:
    target = trained().weights_hash()
    assert unlearn(Fisher(alpha=0.0), job()).weights_hash() == target
    first = unlearn(Fisher(), job()).weights_hash()
    assert unlearn(Fisher(), job()).weights_hash() == first != target
    assert unlearn(Fisher(), job(seed=1)).weights_hash() != first


def test_noise_has_the_stated_size_and_statistics_rest() -> None:
    before = trained()
    after = unlearn(Fisher(alpha=1e-4), job())
    information = fisher_information(before.model, splits()["retain"].take(range(24)))
    ratios = []
    for name, p in before.model.named_parameters():
        moved = (after.model.get_parameter(name) - p).detach()
        ratios.append((moved / noise_variance(information[name], 1e-4, head=name.startswith("head")).sqrt()).flatten())
    unit = torch.cat(ratios)
    assert abs(float(unit.mean())) < 0.05
    assert float(unit.std()) == pytest.approx(1, abs=0.05)
    for (name, old), new in zip(before.model.named_buffers(), after.model.buffers(), strict=True):
        assert torch.equal(old, new), name


def test_a_whole_class_loses_its_row_of_the_head() -> None:
    """The last layer is found by its place, not by its size: a first layer of as many channels stays."""
    rows = torch.cat([unlearn(Fisher(0.0, whole_class=2), job(seed=s)).model.head.weight[2] for s in range(8)])  # type: ignore[union-attr, index]
    assert float(rows.detach().std()) == pytest.approx(1e-2, rel=0.2)
    subject = unlearn(Fisher(0.0, whole_class=2), job())
    for name, p in trained().model.named_parameters():
        changed = (subject.model.get_parameter(name) != p).nonzero()
        assert {int(c[0]) for c in changed} == ({2} if name.startswith("head") else set()), name

    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.first(images).mean((2, 3)))  # type: ignore[no-any-return]

    model = Four()
    first = copy.deepcopy(model.first.weight)
    found = splits()
    unlearn(Fisher(0.0, whole_class=1), UnlearnJob(own_module(model, 4), found["forget"], found["retain"], Training()))
    assert torch.equal(model.first.weight, first)


def test_bad_settings_are_refused_in_words() -> None:
    for fields in ({"alpha": -1e-6}, {"alpha": math.inf}, {"whole_class": -1}):
        with pytest.raises(InputError, match="fisher: "):
            Fisher(**fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="whole_class=4 is outside the classes 0 to 3"):
        unlearn(Fisher(whole_class=4), job())
    found = splits()
    with pytest.raises(InputError, match="Fisher needs retain images"):
        unlearn(Fisher(), UnlearnJob(trained(), found["forget"], found["retain"].take([]), Training()))


def job(seed: int = 0) -> UnlearnJob:
    found = splits()
    return UnlearnJob(trained(), found["forget"], found["retain"].take(range(24)), Training(), seed)
