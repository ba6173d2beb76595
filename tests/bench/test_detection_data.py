"""Data of a detection bench: drawn by seed, read from CSV with sentences for what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.bench.detection_data import NotInstalledError, load, purchases, read_csv, repeated, sentences
from expunge.errors import InputError
from expunge.membership.classifier import Records

TABLE = "age,smoker,outcome\n30,0,ill\n40,1,well\n50,0,ill\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("data", ["purchase", "sentences"])
def test_drawn_records_are_a_function_of_the_seed(data: str) -> None:
    one, same, other = load(data, seed=1), load(data, seed=1), load(data, seed=2)
    assert np.array_equal(one.records.inputs, same.records.inputs)
    assert np.array_equal(one.records.labels, same.records.labels)
    assert not np.array_equal(one.records.labels, other.records.labels)


def test_purchases_tell_their_class() -> None:
    """The nearest class mean, of other records, finds the class of most: there is something to generalise."""
    drawn = purchases(0)
    x, y = np.asarray(drawn.records.inputs), drawn.records.labels
    assert set(np.unique(x)) == {0.0, 1.0}
    means = np.stack([x[:1200][y[:1200] == c].mean(0) for c in range(20)])
    guess = ((x[1200:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == y[1200:]).mean() > 0.8


def test_sentences_use_their_vocabulary_and_some_labels_are_noise() -> None:
    drawn = sentences(0, n=400)
    words = {word for text in drawn.records.inputs for word in str(text).split()}
    assert words <= set(drawn.vocabulary)
    clean = sentences(0, n=400, noise=0.0).records
    assert clean.inputs == drawn.records.inputs
    assert 0.03 < (clean.labels != drawn.records.labels).mean() < 0.2  # half of 20% fall on the old label


def test_limit_and_noise() -> None:
    assert len(load("purchase", seed=0, limit=50).records) == 50
    clean, noisy = load("purchase", seed=0).records, load("purchase", seed=0, noise=0.5).records
    assert (clean.labels != noisy.labels).mean() == pytest.approx(0.5 * 19 / 20, abs=0.05)


def test_scikit_learn_data() -> None:
    pytest.importorskip("sklearn")
    digits, cancer = load("digits", seed=0).records, load("breast-cancer", seed=0)
    assert np.shape(digits.inputs) == (1797, 1, 8, 8)
    assert (np.min(digits.inputs), np.max(digits.inputs)) == (0.0, 1.0)
    assert cancer.classes == ("malignant", "benign")
    assert np.max(cancer.records.inputs) == 1.0
    assert repeated(cancer.records) == 0


def test_without_scikit_learn_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'expunge\[detect\]'"):
        load("digits", seed=0)
    assert len(load("purchase", seed=0).records) == 2400


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    read = read_csv(write(tmp_path, TABLE), "outcome", "continuous")
    assert read.classes == ("ill", "well")
    assert read.records.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(read.records.inputs, [[0, 0], [0.5, 1], [1, 0]])
    binary = read_csv(
        write(tmp_path, TABLE.replace("30", "1").replace("40", "1").replace("50", "0")), "outcome", "binary"
    )
    np.testing.assert_array_equal(binary.records.inputs, [[1, 0], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("text", "label", "kind", "message"),
    [
        (TABLE, "outcom", "continuous", "has no column 'outcom'. Did you mean 'outcome'"),
        (TABLE.replace("40", "old"), "outcome", "continuous", "record 2, column 'age': 'old' is no number"),
        (TABLE.replace("40", "nan"), "outcome", "continuous", "record 2, column 'age': 'nan' is not finite"),
        (TABLE, "outcome", "binary", "record 1, column 'age': '30' must be 0 or 1, since kind is binary"),
        (TABLE.replace(",1,", ","), "outcome", "continuous", "record 2: has 2 values; the heading has 3"),
        (TABLE.replace("well", "ill"), "outcome", "continuous", "holds one class only, 'ill'"),
        ("outcome\nill\nwell\n", "outcome", "continuous", "beside the label 'outcome' there is no column"),
        ("a,b\n", "b", "continuous", "at least one record"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, label: str, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_csv(write(tmp_path, text), label, kind)


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_csv(tmp_path / "none.csv", "y", "continuous")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00a,b")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_csv(tmp_path / "b.csv", "y", "continuous")


def test_repeated_records_are_counted() -> None:
    rows = np.array([[0.0], [1.0], [0.0], [0.0]])
    assert repeated(Records(rows, np.array([0, 0, 0, 1]), "continuous")) == 1
    assert repeated(Records(["a", "a"], np.array([0, 0]), "text")) == 1
