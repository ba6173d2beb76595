"""Reading interactions: each format, ids that do not depend on the order of lines, and malformed files in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.recommend.data import check_features
from expunge.recommend.files import ml_100k, ml_100k_features, read_features, read_log

ROWS = [("10", "b", "4"), ("9", "a", "2"), ("10", "a", "5")]


def write(path: Path, header: str, rows: list[tuple[str, ...]] = ROWS, delimiter: str = ",") -> Path:
    path.write_text("\n".join([header, *(delimiter.join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def test_formats_agree_and_ids_are_sorted_names(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    users, items, ratings = zip(*ROWS, strict=True)
    table = pa.table({"user_id": [int(u) for u in users], "item_id": items, "rating": [float(r) for r in ratings]})
    parquet.write_table(table, tmp_path / "a.parquet")
    files = [
        write(tmp_path / "a.csv", "userId,item,stars"),
        write(tmp_path / "a.tsv", "uid\titem-id\trating", delimiter="\t"),
        write(tmp_path / "a.inter", "user_id:token\titem_id:token\trating:float", delimiter="\t"),
        write(tmp_path / "b.csv", "userId,item,stars", ROWS[::-1]),
        tmp_path / "a.parquet",
    ]
    for file in files:
        found = read_log(file).interactions
        assert (found.users, found.items) == (2, 2)
        assert found.user_names == ("9", "10")  # by value, not by letters
        assert found.item_names == ("a", "b")
        assert sorted(found.pairs.tolist()) == [[0, 0], [1, 0], [1, 1]]


def test_ratings_below_the_threshold_are_no_interactions(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "user,item,rating")
    found = read_log(file, min_rating=4).interactions
    assert found.user_names == ("10",)
    assert found.pairs.tolist() == [[0, 1], [0, 0]]
    with pytest.raises(InputError, match="rated 6 or more"):
        read_log(file, min_rating=6)
    with pytest.raises(InputError, match="no column of ratings"):
        read_log(write(tmp_path / "b.csv", "user,item,when"), min_rating=4)


def test_an_mmrec_file_keeps_its_ids_and_its_division(tmp_path: Path) -> None:
    rows = [("0", "4", "0"), ("2", "1", "0"), ("2", "4", "1"), ("0", "0", "2")]
    log = read_log(write(tmp_path / "a.inter", "userID\titemID\tx_label", rows, "\t"))
    assert (log.interactions.users, log.interactions.items) == (3, 5)
    train, valid, test = log.split(0)
    assert train.pairs.tolist() == [[0, 4], [2, 1]]
    assert valid.pairs.tolist() == [[2, 4]]
    assert test.pairs.tolist() == [[0, 0]]
    np.save(tmp_path / "text_feat.npy", np.arange(10.0).reshape(5, 2))
    features = read_features(tmp_path, 5)
    assert list(features) == ["text"]
    assert features["text"][4].tolist() == [8.0, 9.0]
    with pytest.raises(InputError, match="5 rows of 2 numbers for 6 items"):
        read_features(tmp_path, 6)
    bad = write(tmp_path / "b.inter", "userID\titemID\tx_label", [("0", "4", "3")], "\t")
    with pytest.raises(InputError, match="record 1: x_label '3'"):
        read_log(bad)


def test_a_file_without_a_division_is_divided_by_the_seed(tmp_path: Path) -> None:
    rows = [(str(u), str(i), "1") for u in range(5) for i in range(10)]
    log = read_log(write(tmp_path / "a.csv", "user,item,rating", rows))
    assert [len(part) for part in log.split(0)] == [35, 5, 10]
    assert log.split(0)[2].digest == log.split(0)[2].digest != log.split(1)[2].digest


def test_a_pair_given_twice_is_refused_or_kept_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "user,item,rating", [*ROWS, ROWS[1], ROWS[0]])
    with pytest.raises(InputError, match=r"a\.csv: 2 interactions given more than once .*: \(9, a\), \(10, b\)\."):
        read_log(file)
    assert read_log(file, duplicates="first").interactions.pairs.tolist() == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(InputError, match="duplicates='last'"):
        read_log(file, duplicates="last")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("user,item\n", "no interactions"),
        ("user,film\n1,2\n", "no column for the items; expected one called item, .*, found user, film"),
        ("user,item\n1,2\n1\n", "record 2: 1 values under 2 columns"),
        ("user,item\n,2\n", "record 1: no user"),
        ("user,item,rating\n1,2,good\n", "record 1: rating 'good' is not a number"),
        ("user,user\n1,2\n", "same name"),
        ('user,item\n1,"2\n', "not a table"),
    ],
)
def test_malformed_files_are_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_log(tmp_path / "a.csv", min_rating=1 if "rating" in text else None)


def test_missing_files_other_formats_and_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_log(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"read from \.csv, \.tsv, \.inter and \.parquet"):
        read_log(tmp_path / "train.pkl")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_log(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"expected image_feat\.npy or text_feat\.npy"):
        read_features(tmp_path, 3)
    np.save(tmp_path / "image_feat.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a table of numbers that can be read safely"):
        read_features(tmp_path, 1)


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="ml-100k: pip install --no-deps recbole==1.2.1")
def test_ml_100k_has_its_published_size_and_stand_in_features() -> None:
    log = ml_100k()
    assert (log.interactions.users, log.interactions.items, len(log.interactions)) == (943, 1682, 100_000)
    assert log.interactions.shown(0) == "(196, 242)"
    assert len(ml_100k(min_rating=4).interactions) == 55_375
    features = ml_100k_features(log.interactions)
    check_features(features, 1682)
    toy_story = features["text"][log.interactions.item_names.index("1")]
    assert toy_story.sum() == 4  # three genres and a decade
    assert toy_story.unique().tolist() == [0.0, 1.0]


def test_without_the_package_ml_100k_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.recommend.files.PACKAGE", "no_such_package_here")
    with pytest.raises(InputError, match="pip install --no-deps recbole"):
        ml_100k()
