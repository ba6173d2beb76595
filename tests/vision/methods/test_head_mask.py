"""The head mask: forgets whole classes by their bias alone, and every look below the head finds them still there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from expunge import catalog
from expunge.engine.method import Edit
from expunge.errors import InputError
from expunge.report.readings import divide
from expunge.vision.attacks._common import AttackSetting
from expunge.vision.attacks.inside import Inside
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.data import cluster_ids
from expunge.vision.forward import head_of
from expunge.vision.methods.head_mask import HeadMask
from expunge.vision.subject import load_subject
from expunge.vision.unlearn import unlearn
from tiny_digits import GONE, job, model, store, work
from tiny_vision import changed, job_of, several, state


def test_it_is_listed_as_suppression_with_its_sources() -> None:
    entry = catalog.find("method", "head-mask", "vision")
    assert entry.intention == "suppression"
    assert issubclass(HeadMask, Edit)
    assert [f.name for f in entry.fields if "Source: " not in f.doc] == []


def test_only_the_biases_of_gone_classes_move() -> None:
    request = job()
    before = state(request.subject.model)
    bias = before["head.bias"].clone()
    masked = unlearn(HeadMask(offset=7.0), request)
    assert changed(before, state(masked.model)) == {"head.bias"}
    bias[list(GONE)] -= 7.0
    assert torch.equal(head_of(masked.model).bias, bias)
    assert not masked.model.training
    assert all(p.grad is None and p.requires_grad for p in masked.model.parameters())


def test_answers_are_those_of_the_target_without_the_gone_classes() -> None:
    """No gone digit is named, and every image gets the target's likeliest kept digit."""
    logits = model("target").outputs(work().splits["test"])[0].clone()
    logits[:, list(GONE)] = -torch.inf
    masked = model("masked")
    assert torch.equal(masked.outputs(work().splits["test"])[0].argmax(1), logits.argmax(1))
    assert store("masked").hits("forget").max() == store("masked").hits("forget_test").max() == 0
    assert store("masked").hits("retain").mean() >= store("target").hits("retain").mean() > 0.95


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    masked = model("masked")
    masked.save(tmp_path / "model", "# card\n")
    again = load_subject(str(tmp_path / "model"))
    assert again.fingerprint() == masked.fingerprint()


def test_nothing_below_the_head_has_changed() -> None:
    for split in work().splits:
        assert np.array_equal(store("masked").features(split), store("target").features(split))


def setting() -> AttackSetting:
    return AttackSetting(work(), 0, divide(cluster_ids(work().forget), 0, 0.4, 0.1))


@pytest.mark.parametrize("hidden", ["masked", "control"])
def test_one_image_a_class_is_enough_to_read_what_the_head_hides(hidden: str) -> None:
    """And by much more than from gold's features; what the fresh head reads is exactly what the target holds."""
    read = {
        name: float(Inside(shots=1, draws=5).run(model(name), setting())[0].scores.mean())
        for name in (hidden, "target", "gold", "gold_2")
    }
    assert read[hidden] == pytest.approx(read["target"])
    assert read[hidden] > max(read["gold"], read["gold_2"]) + 0.25
    known = float(store("target").hits("forget").mean())
    assert (read[hidden] - read["gold"]) / known > 0.3  # as much as a test must find in the positive control
    assert abs(read["gold_2"] - read["gold"]) / known < 0.2  # and no more in a spare gold than is tolerated


def test_relearning_alone_does_not_get_past_so_large_an_offset() -> None:
    """Why the audit must look inside: a few steps of training cannot lift a bias of -10,000, but lift one of -10."""
    attack = Relearn(steps=(16,), lr=1e-3, seeds=1)
    ends = [
        float(attack.run(unlearn(HeadMask(offset=offset), job()), setting())[-1].scores.mean())
        for offset in (1e4, 10.0)
    ]
    assert ends[0] == 0
    assert ends[1] > 0.5


def test_what_it_cannot_mask_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="every class of the forget images is among those to be kept"):
        unlearn(HeadMask(), job_of())
    people = job_of()
    with pytest.raises(InputError, match="head-mask: needs one class an image, and these images have 4 labels each"):
        unlearn(HeadMask(), job_of(forget=several(people.forget), retain=several(people.retain)))
    request = job()
    head_of(request.subject.model).register_parameter("bias", None)
    with pytest.raises(InputError, match="the head has no bias"):
        unlearn(HeadMask(), request)
    for offset in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"head-mask: offset=.* must be above 0"):
            HeadMask(offset=offset)
