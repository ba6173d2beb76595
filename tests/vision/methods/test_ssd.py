"""Selective synaptic dampening: the closed form on one weight, its limits, and what a stored I_D is good for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.errors import InputError, RunError
from expunge.vision.data import Images
from expunge.vision.methods import ssd
from expunge.vision.methods.ssd import SSD, factor
from expunge.vision.subject import Subject, own_module
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained


class OneWeight(nn.Module):
    """z = w x on an image of one pixel."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.head.weight, w)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))  # type: ignore[no-any-return]


def grey(values: list[int], labels: list[float]) -> Images:
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images.of(pixels, torch.tensor(labels)[:, None])


FORGET, RETAIN = grey([255, 204], [1.0, 0.0]), grey([102, 51, 255], [0.0, 0.0, 0.0])
W = 0.7


def gradients(w: float, images: Images) -> list[float]:
    """d BCE / dw of each image, by hand: (sigma(w x) - y) x."""
    x = images.pixels(torch.arange(len(images))).flatten().double()
    return ((torch.sigmoid(w * x) - images.labels[:, 0]) * x).tolist()


@pytest.mark.parametrize("batch", [1, 5])
def test_closed_form_on_one_weight(batch: int) -> None:
    """The weight is multiplied by exactly lambda I_D / I_f, with I of single images or of whole sets."""
    of_forget, of_retain = gradients(W, FORGET), gradients(W, RETAIN)
    everything = of_forget + of_retain
    if batch == 1:
        i_f, i_d = (sum(g * g for g in gs) / len(gs) for gs in (of_forget, everything))
    else:
        i_f, i_d = ((sum(gs) / len(gs)) ** 2 for gs in (of_forget, everything))
    for alpha, dampening in ((0.0, 0.5), (0.0, 2.0), (0.0, 1e9), (1e9, 0.5)):
        subject = own_module(OneWeight(W), 1)
        unlearn(SSD(alpha, dampening, batch), UnlearnJob(subject, FORGET, RETAIN, Training()))
        expected = W * (min(dampening * i_d / i_f, 1.0) if i_f > alpha * i_d else 1.0)
        assert float(subject.model.head.weight.detach()) == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr, arg-type]


def test_the_batch_size_matters() -> None:
    model = OneWeight(W)
    single, whole = (float(SSD(batch_size=b).importances(model, (FORGET, RETAIN), 0)["head.weight"]) for b in (1, 5))
    assert single > 1.5 * whole  # the square of a mean is at most the mean of squares


def test_label_free_importance_by_hand() -> None:
    """|d mean z^2 / dw| = 2 w mean x^2, whatever the labels are."""
    x = RETAIN.pixels(torch.arange(3)).flatten()
    found = SSD(label_free=True, batch_size=3).importances(OneWeight(W), (RETAIN,), 0)["head.weight"]
    assert float(found) == pytest.approx(2 * W * float(x.square().mean()), rel=1e-5)
    other = Images.of(RETAIN.source.values, 1 - RETAIN.labels)  # type: ignore[attr-defined]
    assert torch.equal(SSD(label_free=True, batch_size=3).importances(OneWeight(W), (other,), 0)["head.weight"], found)


def test_the_factor_lies_between_0_and_1() -> None:
    draw = torch.Generator().manual_seed(0)
    everything, of_forget = torch.rand(500, generator=draw) ** 4, torch.rand(500, generator=draw) ** 4
    everything[:5], of_forget[5:10] = 0, 0
    found = factor(everything, of_forget, 0.5, 3.0)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(found[:5], torch.zeros(5))  # only the forgotten need them
    assert torch.equal(found[5:10], torch.ones(5))  # the forgotten do not need them
    assert torch.equal(factor(everything, of_forget, math.inf, 0.0), torch.ones(500))


def test_infinite_alpha_returns_the_target() -> None:
    subject = trained()
    before = subject.weights_hash()
    unlearn(SSD(alpha=math.inf, dampening=0.0), job(subject))
    assert subject.weights_hash() == before


def test_scaling_the_loss_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both importances grow by the square (by four: exactly, in binary)."""
    first = unlearn(SSD(alpha=1.5), job(trained())).weights_hash()
    plain = ssd.per_image
    monkeypatch.setattr(ssd, "per_image", lambda logits, labels: 4 * plain(logits, labels))
    assert unlearn(SSD(alpha=1.5), job(trained())).weights_hash() == first != trained().weights_hash()


def test_it_forgets_and_only_ever_shrinks_weights() -> None:
    """Every weight keeps its sign and never grows; statistics rest; the forgotten lose more than the retained."""
    found, subject = splits(), trained()
    before = {n: v.clone() for n, v in subject.model.state_dict().items()}
    unlearn(SSD(alpha=2.0, dampening=0.5), job(subject))
    weights = dict(subject.model.named_parameters())
    for name, value in subject.model.state_dict().items():
        if name in weights:
            assert bool((value.abs() <= before[name].abs()).all()), name
            assert bool((value * before[name] >= 0).all()), name
        else:
            assert torch.equal(value, before[name]), name
    loss = {
        k: float(nn.functional.cross_entropy(subject.outputs(found[k])[0], found[k].labels))
        for k in ("forget", "retain")
    }
    assert loss["forget"] > 1.1 * loss["retain"]
    assert not subject.model.training


def test_a_stored_importance_stands_for_the_retained_images(tmp_path: Path) -> None:
    """The second deletion reads the file and needs no retained image; another model, batch or kind is refused."""
    path, found = tmp_path / "kept" / "i.safetensors", splits()
    method = SSD(alpha=1.5, stored=str(path))
    expected = unlearn(SSD(alpha=1.5), job(trained())).weights_hash()
    assert unlearn(method, job(trained())).weights_hash() == expected
    bare = UnlearnJob(trained(), found["forget"], found["retain"].take([]), Training())
    assert unlearn(method, bare).weights_hash() == expected
    with pytest.raises(InputError, match="SSD needs retain images"):
        unlearn(SSD(), bare)
    for wrong in (SSD(stored=str(path), batch_size=8), SSD(stored=str(path), label_free=True)):
        with pytest.raises(InputError, match=r"i\.safetensors: importances of (batch_size|kind) '(64|task loss)'"):
            unlearn(wrong, job(trained()))
    with pytest.raises(InputError, match="importances of weights"):
        unlearn(method, job(unlearn(SSD(alpha=1.5), job(trained()))))
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a safetensors file"):
        unlearn(method, job(trained()))


def test_bad_settings_and_gradients_are_refused_in_words() -> None:
    for fields, words in (
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"dampening": math.nan}, "dampening=nan"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(InputError, match=words):
            SSD(**fields)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"ssd: the gradient of head\.weight is not finite"):
        unlearn(SSD(), UnlearnJob(own_module(OneWeight(math.nan), 1), FORGET, RETAIN, Training()))


def job(subject: Subject) -> UnlearnJob:
    found = splits()
    return UnlearnJob(subject, found["forget"], found["retain"], Training())
