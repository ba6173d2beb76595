"""Influence: one step towards the optimum without the removed points; inverses against dense algebra."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.methods._gradients import every_parameter, flat, flat_rows, image_gradients
from expunge.vision.methods.influence import Influence, direction, recursion, woodfisher
from expunge.vision.subject import own_module
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained


class Logistic(nn.Module):
    """One logit on four pixels, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1).double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.double().flatten(1))  # type: ignore[no-any-return]


def toy() -> Images:
    draw = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (60, 1, 2, 2), dtype=torch.uint8, generator=draw)
    score = pixels.double().flatten(1) @ torch.tensor([3.0, -2.0, 1.0, 0.5]).double() / 255 - 1.2
    labels = (score + torch.randn(60, generator=draw) > 0).double()
    return Images.of(pixels, labels[:, None])


def optimum(model: Logistic, images: Images) -> Logistic:
    """The minimum of the mean loss, by L-BFGS to the last digit."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    pixels, labels = images.pixels(torch.arange(len(images))), images.labels

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(pixels), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def weights(model: nn.Module) -> Tensor:
    return flat({n: p.detach() for n, p in model.named_parameters()})


@pytest.mark.parametrize("removed", [[7], [0, 5, 9]])
def test_the_step_lands_near_the_retrained_optimum(removed: list[int]) -> None:
    """With the exact Hessian: the right direction and the right length."""
    every = toy()
    forget, retain = every.take(removed), every.take([i for i in range(60) if i not in removed])
    target = optimum(Logistic(), every)
    wanted = weights(optimum(target, retain)) - weights(target)
    subject = own_module(copy.deepcopy(target), 1)
    unlearn(Influence(1.0, "exact", damping=0.0), UnlearnJob(subject, forget, retain, Training()))
    step = weights(subject.model) - weights(target)
    assert float(torch.cosine_similarity(step, wanted, 0)) > 0.9
    assert float((step - wanted).norm()) < 0.2 * float(wanted.norm())
    for method in (Influence(1.0, "woodfisher", damping=1e-3), Influence(1.0, "recursion")):
        subject = own_module(copy.deepcopy(target), 1)
        unlearn(method, UnlearnJob(subject, forget, retain, Training()))
        assert float((weights(subject.model) - weights(target)) @ wanted) > 0  # towards it, at least


def test_at_an_optimum_the_direction_is_minus_the_retained_gradient() -> None:
    every = toy()
    forget, retain = every.take(range(6)), every.take(range(6, 60))
    model = optimum(Logistic(), every)
    with every_parameter(model) as parameters:
        v = direction(model, forget, retain, parameters)
        of_retain = torch.cat([flat_rows(c) for c in image_gradients(model, retain)]).mean(0)
    torch.testing.assert_close(v, -of_retain, rtol=1e-5, atol=1e-8)


def test_woodfisher_equals_the_dense_inverse() -> None:
    draw = torch.Generator().manual_seed(0)
    for k in (3, 20):  # fewer gradients than weights, and more
        g, v = torch.randn(k, 8, generator=draw).double(), torch.randn(8, generator=draw).double()
        dense = 0.3 * torch.eye(8).double() + g.T @ g / k
        torch.testing.assert_close(woodfisher(g, v, 0.3), torch.linalg.solve(dense, v))


def test_the_recursion_of_the_reference_code_by_hand() -> None:
    """Two gradients, K = 10; with one gradient it changes nothing, and it never leaves the first one's line."""
    g = torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0]])
    v = torch.tensor([1.0, 1.0, 1.0])
    t, along = 2.5, 4.5  # o.g and k.g
    expected = v - along / (10 + t) * g[0]
    assert torch.allclose(recursion([g], v, 10), expected)
    assert torch.allclose(recursion([g[:1], g[1:]], v, 10), expected)
    assert torch.equal(recursion([g[:1]], v, 10), v)
    more = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    moved = recursion([more], v, 10) - v
    assert abs(float(torch.cosine_similarity(moved, more[0], 0))) == pytest.approx(1, abs=1e-5)


def test_gradients_of_images_add_up_to_the_batch() -> None:
    images, model = splits()["retain"].take(range(10)), trained().model
    with every_parameter(model) as parameters:
        found = torch.cat([flat_rows(c) for c in image_gradients(model, images, chunk=4)])
        loss = nn.functional.cross_entropy(model(images.pixels(torch.arange(10))), images.labels)
        whole = torch.autograd.grad(loss, list(parameters.values()))
    torch.testing.assert_close(found.mean(0), torch.cat([g.flatten() for g in whole]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("inverse", ["woodfisher", "recursion"])
def test_zero_alpha_returns_the_target_and_runs_repeat(inverse: str) -> None:
    target = trained().weights_hash()

    def run(alpha: float) -> str:
        found = splits()
        job = UnlearnJob(trained(), found["forget"], found["retain"], Training())
        return unlearn(Influence(alpha, inverse, samples=40), job).weights_hash()  # type: ignore[arg-type]

    assert run(0.0) == target
    first = run(10.0)
    assert run(10.0) == first != target


def test_a_step_raises_the_forgotten_loss() -> None:
    found, subject = splits(), trained()

    def loss(name: str) -> float:
        return float(nn.functional.cross_entropy(subject.outputs(found[name])[0], found[name].labels))

    before = {n: loss(n) for n in ("forget", "retain")}
    buffers = [b.clone() for b in subject.model.buffers()]
    unlearn(Influence(1.0), UnlearnJob(subject, found["forget"], found["retain"], Training()))
    assert loss("forget") - before["forget"] > 2 * max(0.0, loss("retain") - before["retain"])
    assert all(torch.equal(a, b) for a, b in zip(buffers, subject.model.buffers(), strict=True))


def test_bad_settings_are_refused_in_words() -> None:
    for fields in ({"alpha": -1.0}, {"inverse": "cg"}, {"samples": 0}, {"damping": 0.0}, {"damping": -1.0}):
        with pytest.raises(InputError, match=f"influence: {next(iter(fields))}="):
            Influence(**fields)  # type: ignore[arg-type]
    found = splits()
    with pytest.raises(InputError, match="exact is for at most 5,000 parameters"):
        unlearn(Influence(inverse="exact"), UnlearnJob(trained(), found["forget"], found["retain"], Training()))
    with pytest.raises(InputError, match="Influence needs retain images"):
        unlearn(Influence(), UnlearnJob(trained(), found["forget"], found["retain"].take([]), Training()))
    blank = Images.of(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, 1))
    job = UnlearnJob(own_module(Logistic(), 1), blank.take([0]), blank.take([1, 2, 3]), Training())
    with pytest.raises(InputError, match="the Hessian is singular"):
        unlearn(Influence(inverse="exact", damping=0.0), job)
