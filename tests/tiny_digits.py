"""Handwritten digits of which three are forgotten, and networks that did and did not see them."""

from __future__ import annotations

import copy
from functools import cache

from expunge.vision.benchmarks.truly_forgetting import TARGET_TRAINING, TrulyForgetting
from expunge.vision.data import concatenate
from expunge.vision.evidence import EvidenceStore
from expunge.vision.filtered import Filtered
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.head_mask import HeadMask
from expunge.vision.subject import Subject
from expunge.vision.unlearn import UnlearnJob, unlearn
from expunge.vision.workload import Workload

GONE = (3, 5, 8)
BENCHMARK = TrulyForgetting(forget=GONE)
SEEDS = {"target": 0, "gold": 0, "gold_2": 1}


@cache
def work() -> Workload:
    """The benchmark's images."""
    return BENCHMARK.load(0)


@cache
def _trained(name: str) -> Subject:
    images = work().retain if name != "target" else concatenate([work().forget, work().retain])
    subject = BENCHMARK.network(SEEDS[name])
    UnlearnJob(subject, images.take([]), images, TARGET_TRAINING, SEEDS[name]).train(FineTune(), subject)
    subject.model.eval()
    return subject


def model(name: str) -> Subject:
    """A copy of target, gold, gold_2, or of what hides the target's knowledge: masked, control."""
    if name == "masked":
        return unlearn(HeadMask(), job())
    if name == "control":
        target = model("target")
        filtered = Filtered(target.model, target.outputs(work().forget)[1]).eval()
        return target.with_model(filtered)
    subject = _trained(name)
    return subject.with_model(copy.deepcopy(subject.model))


def job() -> UnlearnJob:
    """A request to forget the three digits."""
    return UnlearnJob(model("target"), work().forget, work().retain, TARGET_TRAINING)


@cache
def store(name: str) -> EvidenceStore:
    """What a model says about every split."""
    return EvidenceStore(name, model(name), work().splits)
