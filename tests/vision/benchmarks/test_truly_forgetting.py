"""Are We Truly Forgetting: gold is perfect, a masked head passes the answers and fails below them; class lists."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from expunge.errors import InputError
from expunge.vision.benchmarks.truly_forgetting import TARGET_TRAINING, TrulyForgetting
from expunge.vision.classes import class_folders, divide_by_class, nearest_classes, random_classes
from expunge.vision.data import Images, concatenate
from expunge.vision.evidence import EvidenceStore
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.metrics.representation import Representation
from expunge.vision.subject import Subject
from expunge.vision.unlearn import UnlearnJob
from expunge.vision.workload import Workload

BENCHMARK = TrulyForgetting()


@cache
def work() -> Workload:
    return BENCHMARK.load(0)


@cache
def trained_on(*names: str) -> Subject:
    """The benchmark's network and recipe on some of its sets."""
    subject, images = BENCHMARK.network(0), concatenate([work().splits[n] for n in names])
    UnlearnJob(subject, images.take([]), images, TARGET_TRAINING).train(FineTune(), subject)
    subject.model.eval()
    return subject


def store(name: str) -> EvidenceStore:
    subject = trained_on("retain") if name == "gold" else trained_on("forget", "retain")
    if name == "masked":
        subject = subject.with_model(copy.deepcopy(subject.model))
        with torch.no_grad():
            subject.model.head.bias[list(BENCHMARK.forget)] = -1e4  # type: ignore[union-attr, index]
    return EvidenceStore(name, subject, work().splits)


def values(model: str) -> dict[tuple[str, str], float]:
    found = Representation().measure(store(model), store("gold")) + Representation().compare(
        store(model), store("target")
    )
    return {(f.metric, f.split): f.value for f in found}


def test_digits_are_divided_once_and_for_all() -> None:
    splits = work().splits
    assert sum(len(splits[n]) for n in ("forget", "retain", "forget_test", "test")) == 1797
    for name, images in splits.items():
        gone = torch.isin(images.labels, torch.tensor([3, 5, 8]))
        assert bool(gone.all() if name.startswith(("forget", "holdout")) else (~gone).all())
    rows = [set(splits[n].rows.tolist()) for n in ("forget", "retain", "forget_test", "test")]
    assert len(set.union(*rows)) == 1797
    assert splits["holdout"].digest == splits["forget_test"].digest
    assert TrulyForgetting().load(5).forget.digest == work().forget.digest  # the run's seed does not divide


def test_gold_scores_one_in_everything() -> None:
    found = values("gold")
    for metric in ("agl", "agr", "h_lr"):
        assert found[metric, "all"] == pytest.approx(1)
    assert found["cka.gold", "forget_test"] == pytest.approx(1)
    assert found["cka.target", "forget_test"] < 0.98  # and it is another network than the target


def test_a_masked_head_is_exposed() -> None:
    """No forgotten digit is named, no kept one is lost; every feature is where it was, and neighbours tell it."""
    masked, gold = values("masked"), values("gold")
    hits = {n: store("masked").hits(n).mean() for n in ("forget", "forget_test", "retain")}
    assert hits["forget"] == hits["forget_test"] == 0
    assert hits["retain"] > 0.97
    assert masked["agl", "all"] > 0.93
    for split in ("forget_test", "test"):
        assert masked["cka.target", split] == pytest.approx(1)
    assert masked["knn", "forget_test"] > gold["knn", "forget_test"]
    assert masked["agr", "all"] < 0.95 < gold["agr", "all"]
    assert masked["h_lr", "all"] < gold["h_lr", "all"] - 0.03
    unmasked = values("target")
    assert unmasked["agl", "all"] < 0.1  # a model that still names all of them
    assert unmasked["agr", "all"] == pytest.approx(masked["agr", "all"])


def shaded(shades: list[int]) -> Images:
    """One class a shade of grey, three pictures each."""
    pixels = torch.tensor(shades, dtype=torch.uint8).repeat_interleave(3).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Images.of(pixels.contiguous(), torch.arange(len(shades)).repeat_interleave(3))


def test_similar_classes_are_the_exact_list_without_duplicates() -> None:
    images = shaded([100, 30, 110, 200, 95])
    assert nearest_classes(images, 5, 0, 4) == (0, 4, 2, 1)
    assert nearest_classes(images, 5, 3, 2) == (3, 2)
    for count in (0, 5, 6):
        with pytest.raises(InputError, match="between 1 and 4 can be forgotten"):
            nearest_classes(images, 5, 0, count)
        with pytest.raises(InputError, match="between 1 and 4 can be forgotten"):
            random_classes(5, count, 0)
    drawn = [random_classes(10, 4, seed) for seed in range(6)]
    assert all(len(set(d)) == 4 for d in drawn)
    assert len(set(drawn)) > 1
    assert random_classes(10, 4, 0) == drawn[0]


def test_chosen_classes_are_named_in_the_notes() -> None:
    for choose in ("random", "similar"):
        found = TrulyForgetting(forget=(), choose=choose, count=2).load(1)  # type: ignore[arg-type]
        gone = sorted(set(found.forget.labels.tolist()))
        assert len(gone) == 2
        named = next(n for n in found.notes if n.startswith("Forgotten classes: "))
        assert sorted(int(c) for c in named.split(": ")[1].split(" of ")[0].split(", ")) == gone


def test_bad_class_lists_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="names a class twice"):
        TrulyForgetting(forget=(3, 3))
    with pytest.raises(InputError, match="class 10 is outside the classes 0 to 9"):
        TrulyForgetting(forget=(3, 10)).load(0)
    with pytest.raises(InputError, match="names all 10 classes"):
        TrulyForgetting(forget=tuple(range(10))).load(0)
    with pytest.raises(InputError, match="class -1 is outside"):
        divide_by_class(shaded([1, 2]), 2, [-1], 0)
    with pytest.raises(InputError, match="choose='top'"):
        TrulyForgetting(choose="top")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count=0 must be at least 1"):
        TrulyForgetting(forget=(), count=0)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("apple", "pear", "plum")):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (20, 30), (80 * number, i, 0)).save(tmp_path / name / f"{i}.png")
    images, names = class_folders(str(tmp_path), 8)
    assert names == ["apple", "pear", "plum"]
    assert (images.pixels(torch.arange(30))[:, 0].mean((1, 2)) * 255 / 80).round().long().equal(images.labels)
    found = TrulyForgetting(path=str(tmp_path), forget=(1,), side=8).load(0)
    assert found.classes == 3
    assert set(found.forget.labels.tolist()) == {1}
    assert TrulyForgetting(path=str(tmp_path), forget=(1,), side=8).network(0).classes == 3
    (tmp_path / "quince").mkdir()
    with pytest.raises(InputError, match="quince: no images in it"):
        class_folders(str(tmp_path), 8)
    with pytest.raises(InputError, match="0 folders of images in it"):
        class_folders(str(tmp_path / "quince"), 8)
    with pytest.raises(InputError, match="no such folder"):
        TrulyForgetting(path=str(tmp_path / "no")).load(0)
