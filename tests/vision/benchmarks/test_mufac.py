"""MUFAC from a folder in the published layout: counts, households, and what is wrong with a folder, in words."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expunge.errors import InputError
from expunge.vision.benchmarks.mufac import FILES, LETTERS, MUFAC
from expunge.vision.data import require_disjoint

HOUSEHOLDS = {"train": range(1, 11), "test": range(21, 24), "unseen": range(31, 34)}
EACH = 4  # pictures of a household


def write(folder: Path, changes: dict[str, list[list[str]]] | None = None) -> Path:
    """Three tables and three folders; the training rows go household by household, shades tell pictures apart."""
    for part, (table, pictures) in FILES.items():
        (folder / pictures).mkdir(parents=True)
        rows = []
        for household in HOUSEHOLDS[part]:
            for i in range(EACH):
                name = f"F{household:04d}_AGE_{'FMSD'[i]}_{10 * i + 5}_{i}.jpg"
                shade = np.full((20 + 4 * i, 24, 3), (7 * household + i) % 256, dtype=np.uint8)
                Image.fromarray(shade).save(folder / pictures / name, quality=95)
                rows.append([f"{pictures}/{name}", LETTERS[(household + i) % 8]])
        with (folder / table).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", "age_class"])
            writer.writerows([*rows, *(changes or {}).get(part, [])])
    return folder


def test_counts_labels_and_people(tmp_path: Path) -> None:
    """Forget is the published share of the training rows, rounded up to whole households."""
    work = MUFAC(str(write(tmp_path)), side=16).load(0)
    sizes = {name: len(images) for name, images in work.splits.items()}
    assert sizes == {"forget": 8, "retain": 32, "test": 12, "holdout": 12}  # 6 of 40 rows reach into the second
    assert set(work.forget.clusters) == {"F0001", "F0002"}
    require_disjoint(work.splits)
    assert work.forget.labels.tolist() == [1, 2, 3, 4, 2, 3, 4, 5]
    assert work.classes == 8
    assert work.forget.pixels(torch.tensor([0])).shape == (1, 3, 16, 16)
    shades = work.retain.pixels(torch.arange(32)).mean((1, 2, 3)) * 255  # pictures are their own
    assert shades.tolist() == pytest.approx([7 * (h + 3) + i for h in range(8) for i in range(4)], abs=2)
    assert sum("the published set has" in n for n in work.notes) == 3
    assert work.augment is not None
    assert MUFAC(str(tmp_path), side=16, augment=False).load(0).augment is None
    printed = {(p.method, p.metric): p.value for p in work.published}
    for method in {p.method for p in work.published}:  # the printed columns agree with their formula
        value = printed[method, "accuracy"] / 2 + (1 - 2 * printed[method, "forgetting_score"]) / 2
        assert printed[method, "nomus"] == pytest.approx(value, abs=6e-4)


def test_rows_as_published_cut_through_a_household_and_say_so(tmp_path: Path) -> None:
    work = MUFAC(str(write(tmp_path)), by="rows", side=16).load(0)
    assert len(work.forget) == 6
    assert any("cut through 1 households (such as F0002)" in n for n in work.notes)
    assert set(work.forget.clusters) & set(work.retain.clusters) == {"F0002"}


def test_a_household_in_two_sets_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    stray = "F0005_AGE_D_20_1.jpg"
    with (tmp_path / FILES["test"][0]).open("a", encoding="utf-8") as file:
        file.write(f"val_images/{stray},c\n")
    Image.new("RGB", (20, 20)).save(tmp_path / "val_images" / stray)
    with pytest.raises(InputError, match=r"identity 'F0005' is in training \(.*\) and in test \(.*F0005_AGE_D_20_1"):
        MUFAC(str(tmp_path), side=16).load(0)


@pytest.mark.parametrize("letter", ["i", "A", "ab", "1"])
def test_a_letter_outside_a_to_h(letter: str, tmp_path: Path) -> None:
    write(tmp_path, {"train": [["train_images/F0001_AGE_F_5_0.jpg", letter]]})
    with pytest.raises(InputError, match=rf"custom_train_dataset\.csv, record 41: age_class '{letter}' must be one"):
        MUFAC(str(tmp_path), side=16).load(0)


def test_a_missing_picture_stops_or_is_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train_images" / "F0009_AGE_F_5_0.jpg").unlink()
    with pytest.raises(InputError, match=r"names 40 images and 1 of them are not there; the first is .*F0009_AGE_F"):
        MUFAC(str(tmp_path), side=16).load(0)
    work = MUFAC(str(tmp_path), side=16, broken="skip").load(0)
    assert len(work.retain) == 31
    assert any("Left out: " in n and "F0009_AGE_F_5_0.jpg" in n for n in work.notes)


def test_an_undecodable_picture_stops_or_is_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    picture = tmp_path / "val_images" / "F0021_AGE_F_5_0.jpg"
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(InputError, match=r"F0021_AGE_F_5_0\.jpg: cannot be decoded"):
        MUFAC(str(tmp_path), side=16).load(0)
    work = MUFAC(str(tmp_path), side=16, broken="skip").load(0)
    assert len(work.splits["test"]) == 11
    assert any("F0021_AGE_F_5_0.jpg" in n for n in work.notes)


def test_a_folder_that_is_not_mufac(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; MUFAC's folder holds three tables"):
        MUFAC(str(tmp_path / "no")).load(0)
    with pytest.raises(InputError, match=r"custom_train_dataset\.csv: no such file"):
        MUFAC(str(tmp_path)).load(0)
    write(tmp_path / "m")
    table = tmp_path / "m" / "custom_train_dataset.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("age_class", "age"), encoding="utf-8")
    with pytest.raises(InputError, match="no column 'age_class'; there are image_path, age"):
        MUFAC(str(tmp_path / "m")).load(0)
    table.write_text(text.replace("F0001_AGE_F_5_0.jpg,b", "F0001_AGE_F_5_0.jpg,"), encoding="utf-8")
    with pytest.raises(InputError, match="record 1: no value for 'age_class'"):
        MUFAC(str(tmp_path / "m")).load(0)


def test_bad_settings() -> None:
    for fields in ({"by": "person"}, {"side": 4}):
        with pytest.raises(InputError, match=f"mufac: {next(iter(fields))}="):
            MUFAC("x", **fields)  # type: ignore[arg-type]
