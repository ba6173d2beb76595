"""Representation: what hides in the last layer is seen below it; the second gold model is the ceiling."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.report.scorecard import Finding
from expunge.vision.data import Images
from expunge.vision.evidence import EvidenceStore
from expunge.vision.metrics.representation import SEED, Representation
from expunge.vision.similarity import linear_cka
from expunge.wing import Comparing
from tiny_digits import store

SETS = ("forget", "retain", "forget_test", "test")


def findings(model: EvidenceStore, **settings: object) -> list[Finding]:
    metric = Representation(**settings)  # type: ignore[arg-type]
    return metric.measure(model, store("gold")) + metric.compare(model, store("target"))


def values(name: str) -> dict[tuple[str, str], float]:
    return {(f.metric, f.split): f.value for f in findings(store(name))}


def test_a_second_gold_is_the_ceiling_of_every_score() -> None:
    """Two networks that never saw the digits do not align perfectly: 1 is out of reach, and what the second one gets
    is what there is to get. Hidden knowledge stays below it."""
    spare, masked = values("gold_2"), values("masked")
    for key in (("cka.gold", "forget_test"), ("agr", "all"), ("h_lr", "all")):
        assert 0.6 < masked[key] < spare[key] - 0.02 < 0.98
    assert spare["agl", "all"] > 0.97
    harmonic = 2 * spare["agl", "all"] * spare["agr", "all"] / (spare["agl", "all"] + spare["agr", "all"])
    assert spare["h_lr", "all"] == pytest.approx(harmonic)


def test_on_what_was_kept_a_shared_start_aligns_more_than_a_second_gold() -> None:
    """The ceiling is one for forgotten classes. Target and gold start from the same weights, the second gold from
    others, so on kept classes even a model that forgot nothing aligns better with gold than a second gold does."""
    spare, masked = values("gold_2"), values("masked")
    assert masked["cka.gold", "test"] > spare["cka.gold", "test"]


@pytest.mark.parametrize("hidden", ["masked", "control"])
def test_what_only_the_last_layer_forgot_is_exposed(hidden: str) -> None:
    """Every feature is the target's; neighbours tell the forgotten digits apart as they do there, gold's do not."""
    found, target, gold = values(hidden), values("target"), values("gold")
    for split in ("forget_test", "test"):
        assert found["cka.target", split] == pytest.approx(1)
        assert gold["cka.target", split] < 0.98
        assert found["knn", split] == target["knn", split]
    assert found["knn", "forget_test"] > gold["knn", "forget_test"] + 0.1
    assert found["agr", "all"] == pytest.approx(target["agr", "all"])


def test_a_spare_gold_is_compared_with_gold_and_target_in_the_report() -> None:
    """The ceiling is only of use where it is reported: the metric measures any model, gold_2 as well."""
    metric = Representation()
    assert isinstance(metric, Comparing)
    assert not metric.needs_gold
    named = {(f.metric, f.split, f.subject) for f in findings(store("gold_2"))}
    assert {("cka.gold", "test", "gold_2"), ("agr", "all", "gold_2"), ("h_lr", "all", "gold_2")} <= named
    alone = {f.metric for f in metric.measure(store("gold_2"), None)}
    assert alone == {"knn"}  # without gold there is nothing to align with


class Toy(EvidenceStore):
    """A model with given logits and features of four sets of 40 images, of two classes."""

    def __init__(self, name: str, hits: dict[str, float], features: dict[str, np.ndarray]) -> None:
        labels = torch.arange(40) % 2
        images = Images.of(torch.zeros(40, 1, 1, 1, dtype=torch.uint8), labels)
        super().__init__(name, lambda: SimpleNamespace(), dict.fromkeys(SETS, images), fingerprint=name)  # type: ignore[arg-type, return-value]
        self.share, self.given = hits, features

    def hits(self, split: str) -> np.ndarray:
        return (np.arange(40) < 40 * self.share[split]).astype(float)

    def features(self, split: str) -> np.ndarray:
        return self.given[split]

    def logits(self, split: str) -> np.ndarray:
        return np.eye(2)[np.arange(40) % 2]


def apart() -> np.ndarray:
    """Features in which the two classes are two far points."""
    return np.eye(3)[np.arange(40) % 2] * 5 + np.random.default_rng(0).normal(0, 0.1, (40, 3))


def test_the_aggregates_by_hand() -> None:
    rng = np.random.default_rng(1)
    noise = {s: rng.normal(size=(40, 3)) for s in SETS}
    gold = Toy("gold", {"forget": 0.0, "retain": 1.0, "forget_test": 0.0, "test": 0.95}, noise)
    model = Toy(
        "model", {"forget": 0.5, "retain": 0.9, "forget_test": 0.25, "test": 0.95}, dict.fromkeys(SETS, apart())
    )
    found = {(f.metric, f.split): f for f in Representation().measure(model, gold)}
    assert found["agl", "all"].value == pytest.approx(0.5 * 0.9 * 0.75 * 1.0)
    knn = {name: {f.split: f.value for f in Representation().measure(m, None)} for name, m in
           (("model", model), ("gold", gold))}  # fmt: skip
    assert knn["model"] == {"forget_test": 1.0, "test": 1.0}
    alignment = {s: linear_cka(apart(), noise[s]) for s in ("forget_test", "test")}
    expected = np.mean([alignment[s] * (1 - (1 - knn["gold"][s])) for s in alignment])
    assert found["agr", "all"].value == pytest.approx(expected)
    assert found["h_lr", "all"].value == pytest.approx(2 / (1 / 0.3375 + 1 / expected))
    assert {f.direction for key, f in found.items() if key[0] in ("agl", "agr", "h_lr", "cka.gold")} == {"higher"}
    assert {f.direction for key, f in found.items() if key[0] == "knn"} == {"match-gold"}
    assert found["knn", "test"].n == 8  # a fifth of the set is asked
    never = Toy("never", {s: 1 - gold.share[s] for s in SETS}, noise)
    opposite = {f.metric: f.value for f in Representation().measure(never, gold)}
    assert opposite["agl"] == opposite["h_lr"] == 0  # harmonic means with a zero are zero, not a division by it


def test_neighbours_can_be_asked_in_the_logits_as_published() -> None:
    """The published code never takes the head off: logits that name every class vote right whatever features do."""
    rng = np.random.default_rng(2)
    model = Toy("model", dict.fromkeys(SETS, 1.0), {s: rng.normal(size=(40, 3)) for s in SETS})
    inner, outer = (
        {f.split: f.value for f in Representation(space=space).measure(model, None)} for space in ("features", "logits")
    )
    assert outer == {"forget_test": 1.0, "test": 1.0}
    assert max(inner.values()) < 1.0


def test_large_sets_are_compared_on_some_of_their_images_the_same_for_all() -> None:
    rows = np.random.default_rng(SEED).permutation(len(store("target").labels("test")))[:50]
    model, gold = store("masked"), store("gold")
    found = {(f.metric, f.split): f.value for f in findings(model, rows=50)}
    expected = linear_cka(model.features("test")[rows], gold.features("test")[rows])
    assert found["cka.gold", "test"] == pytest.approx(expected)


def test_a_model_that_collapsed_aligns_with_nothing_and_the_run_goes_on() -> None:
    flat = Toy("flat", dict.fromkeys(SETS, 0.5), dict.fromkeys(SETS, np.ones((40, 3))))
    gold = Toy("gold", dict.fromkeys(SETS, 0.5), dict.fromkeys(SETS, apart()))
    found = {(f.metric, f.split): f.value for f in Representation().measure(flat, gold)}
    assert found["cka.gold", "test"] == found["agr", "all"] == found["h_lr", "all"] == 0
    assert found["agl", "all"] == 1
    assert {f.value for f in Representation().compare(flat, gold)} == {0.0}


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="space='pixels'; features or logits"):
        Representation(space="pixels")  # type: ignore[arg-type]
    for k, rows in ((0, 0), (5, -1)):
        with pytest.raises(InputError, match=r"k=.* must be at least 1 and rows=.* not negative"):
            Representation(k=k, rows=rows)
    with pytest.raises(InputError, match="No split 'downstream'"):
        Representation(transfer=("downstream",)).measure(store("target"), None)
    with pytest.raises(InputError, match="has 40 images, too few for k-NN"):
        Representation(k=33).measure(Toy("m", {}, dict.fromkeys(SETS, apart())), None)
    flat = Toy("flat", dict.fromkeys(SETS, 1.0), dict.fromkeys(SETS, np.ones((40, 3))))
    with pytest.raises(InputError, match="features of a model are the same for all records"):
        Representation().measure(flat, flat)
