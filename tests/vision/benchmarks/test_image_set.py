"""Images of the user's own: who goes, who is set apart, and every way such a folder can be wrong."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from expunge.errors import InputError
from expunge.vision.benchmarks.image_set import ImageSet

PEOPLE = [f"p{i}" for i in range(12)]


def write(folder: Path, *, people: list[str] = PEOPLE, each: int = 3, split: dict[str, str] | None = None) -> Path:
    """Pictures of one colour each, two classes in turn, with their table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, person in enumerate(people):
        for i in range(each):
            name = f"{person}_{i}.png"
            colour = np.full((12, 12, 3), 10 * number + i, dtype=np.uint8)
            Image.fromarray(colour).save(folder / name)
            row = {"file": name, "label": "old" if (number + i) % 2 else "young", "who": person}
            rows.append({**row, **({"split": split[person]} if split else {})})
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def made(folder: Path, **changes: Any) -> ImageSet:
    return ImageSet(**{"path": str(folder), "forget": ["p3", "p5"], "identity": "who", "side": 8, **changes})


def people_of(workload: Any) -> dict[str, set[str]]:
    return {name: set(images.clusters) for name, images in workload.splits.items()}


def test_whole_people_go_and_whole_people_are_set_apart(tmp_path: Path) -> None:
    work = made(write(tmp_path / "set")).load(0)
    found = people_of(work)
    assert found["forget"] == {"p3", "p5"}
    assert len(work.forget) == 6
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 12
    assert (len(found["test"]), len(found["holdout"])) == (2, 2)  # 15% of ten
    assert work.classes == 2
    pixels = work.forget.pixels(torch.tensor([0]))
    assert torch.equal(pixels, torch.full((1, 3, 8, 8), 30 / 255))


def test_classes_and_single_files_can_be_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    work = made(folder, by="class", forget=["old"], identity="").load(0)
    assert set(work.forget.labels.tolist()) == {0}  # classes by name: old, young
    assert set(work.retain.labels.tolist()) == {1}
    assert set(work.splits["holdout"].labels.tolist()) == {0}  # unseen images of what is forgotten
    work = made(folder, by="image", forget=["p0_1.png"], identity="").load(0)
    assert [Path(n).name for n in work.forget.names] == ["p0_1.png"]


def test_the_table_may_say_who_is_where(tmp_path: Path) -> None:
    split = dict.fromkeys(PEOPLE, "train") | {"p0": "test", "p1": "holdout", "p5": "test"}
    found = people_of(made(write(tmp_path / "set", split=split)).load(0))
    assert found["test"] == {"p0"}
    assert found["holdout"] == {"p1"}
    assert found["forget"] == {"p3"}
    assert found["forget_paraphrase"] == {"p5"}  # asked for, but never trained on


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": ["zz"]}, "no image has the identity 'zz'"),
        ({"forget": []}, "is a list of the names that must go"),
        ({"forget": PEOPLE}, "everything is to be forgotten"),
        ({"identity": ""}, "by=identity needs the column"),
        ({"identity": "name"}, "no column 'name'"),
        ({"table": "no.csv"}, "no such file"),
        ({"test": 0.6, "holdout": 0.5}, "together below 1"),
        ({"by": "class", "forget": ["middle"]}, "no image has the class 'middle'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "set")
    with pytest.raises(InputError, match=message):
        made(folder, **changes).load(0)


def test_a_missing_image_a_broken_one_and_one_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "p2_0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"p2_0\.png: cannot be decoded"):
        made(folder).load(0)
    work = made(folder, broken="skip").load(0)
    assert "p2_0.png" in work.notes[0]
    assert sum(map(len, work.splits.values())) == 35
    (folder / "p2_0.png").unlink()
    with pytest.raises(InputError, match=r"1 of them are not there; the first is .*p2_0\.png"):
        made(folder).load(0)
    table = folder / "images.csv"
    table.write_text(table.read_text().replace("p2_0.png", "p2_1.png"))
    with pytest.raises(InputError, match="names 1 images twice"):
        made(folder).load(0)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        made(tmp_path / "nowhere").load(0)


def test_a_data_set_in_the_hubs_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder of Parquet, as a hub data set is once it is there."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write(tmp_path / "set")
    rows = list(csv.DictReader((folder / "images.csv").read_text().splitlines()))
    table = datasets.Dataset.from_dict(
        {"image": [str(folder / r["file"]) for r in rows], "age": [r["label"] for r in rows],
         "who": [r["who"] for r in rows]}
    ).cast_column("image", datasets.Image())  # fmt: skip
    from expunge.vision import hub

    (tmp_path / "hub").mkdir()
    table.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    images, classes = hub.hub_images(str(tmp_path / "hub"), "age", "who", 8)
    assert classes == ["old", "young"]
    assert len(images) == 36
    assert images.clusters[:4] == ("p0", "p0", "p0", "p1")
    assert torch.equal(images.pixels(torch.tensor([4])), torch.full((1, 3, 8, 8), 11 / 255))
    with pytest.raises(InputError, match="no column 'label'; there are image, age, who"):
        hub.hub_images(str(tmp_path / "hub"), "label", "", 8)
