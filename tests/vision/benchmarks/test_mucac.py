"""MUCAC from files in CelebA-HQ's layout: who is in which set, the three labels, and malformed lines, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from expunge.errors import InputError
from expunge.vision.benchmarks.mucac import ATTRIBUTES, BORDERS, MUCAC, read_attributes, read_identities
from expunge.vision.data import require_disjoint

PEOPLE = (0, 189, 190, 700, 1249, 1250, 3000, 4854, 4855, 6000)  # both ends of every set
NAMES = " ".join(f"attribute{i}" for i in range(1, 41))


def values(i: int) -> list[str]:
    """-1 everywhere but gender, smiling and young, which count i in binary."""
    row = ["-1"] * 40
    for bit, column in enumerate(ATTRIBUTES.values()):
        row[column - 1] = "1" if i >> bit & 1 else "-1"
    return row


def write(folder: Path) -> MUCAC:
    (folder / "images").mkdir(parents=True)
    files = [f"{i}.jpg" for i in range(2 * len(PEOPLE))]
    for i, name in enumerate(files):
        Image.new("RGB", (24, 20), (10 * i, 5, 9)).save(folder / "images" / name, quality=95)
    pairs = [f"{name} {PEOPLE[i // 2]}" for i, name in enumerate(files)]
    (folder / "identities.txt").write_text("\n".join(reversed(pairs)) + "\n", encoding="utf-8")
    rows = [f"{name} {' '.join(values(i))}" for i, name in enumerate(files)]
    (folder / "attributes.txt").write_text("\n".join([str(len(rows)), NAMES, *rows]) + "\n", encoding="utf-8")
    return MUCAC(str(folder / "images"), str(folder / "identities.txt"), str(folder / "attributes.txt"), side=16)


def test_sets_are_divided_by_the_persons_number(tmp_path: Path) -> None:
    work = write(tmp_path).load(0)
    people = {name: sorted(set(map(int, images.clusters))) for name, images in work.splits.items()}
    assert people == {
        "test": [0, 189], "forget": [190, 700, 1249], "retain": [1250, 3000, 4854], "holdout": [4855, 6000],
    }  # fmt: skip
    assert {k: len(v) for k, v in work.splits.items()} == {k: 2 * len(v) for k, v in people.items()}
    require_disjoint(work.splits)
    assert work.classes == 3
    assert list(BORDERS) == ["test", "forget", "retain", "holdout"]
    for images in work.splits.values():  # by name, whatever the order of the lines; each label to its picture
        assert list(images.names) == sorted(images.names)
        for name, label in zip(images.names, images.labels.tolist(), strict=True):
            i = int(Path(name).stem)
            assert label == [float(i >> bit & 1) for bit in range(3)]
    assert sum("the published set has" in n for n in work.notes) == 4


@pytest.mark.parametrize("task", list(ATTRIBUTES))
def test_one_attribute_is_a_task_of_two_classes(task: str, tmp_path: Path) -> None:
    plain = write(tmp_path)
    work = MUCAC(plain.images, plain.identities, plain.attributes, task=task, side=16).load(0)  # type: ignore[arg-type]
    assert work.classes == 2
    bit = list(ATTRIBUTES).index(task)
    assert work.forget.labels.tolist() == [int(Path(n).stem) >> bit & 1 for n in work.forget.names]


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_count_in_the_first_line_must_be_that_of_the_lines(tmp_path: Path) -> None:
    plain = write(tmp_path)
    path = edited(Path(plain.attributes), "20\n", "21\n")
    with pytest.raises(InputError, match=r"attributes\.txt: the first line says 21 pictures and 20 follow"):
        plain.load(0)
    path.write_text("hello\n", encoding="utf-8")
    with pytest.raises(InputError, match="the first line must be the number of pictures"):
        read_attributes(path)


@pytest.mark.parametrize(
    "broken", ["3.jpg", "3.jpg 1 -1", "3.jpg " + " ".join(["0", *["1"] * 39]), "3.jpg" + " 1" * 41]
)
def test_a_malformed_line_of_attributes(broken: str, tmp_path: Path) -> None:
    plain = write(tmp_path)
    path = edited(Path(plain.attributes), f"3.jpg {' '.join(values(3))}", broken)
    with pytest.raises(InputError, match=r"attributes\.txt, line 6: a file name and 40 values of -1 or 1 are needed"):
        read_attributes(path)


@pytest.mark.parametrize("broken", ["3.jpg", "3.jpg x", "3.jpg 4 5", "3.jpg -4", "3.jpg 1.5"])
def test_a_malformed_line_of_identities(broken: str, tmp_path: Path) -> None:
    plain = write(tmp_path)
    path = edited(Path(plain.identities), "\n3.jpg 189", f"\n{broken}")
    with pytest.raises(InputError, match=rf"identities\.txt, line 17: '{broken}' is not a file name and a person's"):
        read_identities(path)


def test_files_that_are_missing_or_nobody_in_a_set(tmp_path: Path) -> None:
    plain = write(tmp_path)
    (Path(plain.images) / "4.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of them are not there; the first is .*4\.jpg"):
        plain.load(0)
    skipping = MUCAC(plain.images, plain.identities, plain.attributes, side=16, broken="skip").load(0)
    assert len(skipping.forget) == 5
    assert any("4.jpg" in n for n in skipping.notes)
    with pytest.raises(InputError, match=r"no\.txt: no such file"):
        MUCAC(plain.images, str(tmp_path / "no.txt"), plain.attributes).load(0)
    with pytest.raises(InputError, match="no such folder; MUCAC's pictures are needed"):
        MUCAC(str(tmp_path / "no"), plain.identities, plain.attributes).load(0)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        MUCAC(plain.images, str(binary), plain.attributes).load(0)
    path = Path(plain.identities)
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.endswith((" 4855", " 6000"))]
    path.write_text("\n".join(kept), encoding="utf-8")
    skip = MUCAC(plain.images, plain.identities, plain.attributes, side=16, broken="skip")
    with pytest.raises(InputError, match=r"nobody has a number from 4855 .*the holdout set"):
        skip.load(0)
    path.write_text("other.jpg 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="have no picture in common"):
        plain.load(0)


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="mucac: task='age'"):
        MUCAC("i", "n", "a", task="age")  # type: ignore[arg-type]
