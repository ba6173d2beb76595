"""Reading MUSE: every layout gives the same rows, folds are what they claim, and what is wrong is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from expunge.errors import InputError
from expunge.language.benchmarks.muse import MUSE
from expunge.language.muse_data import (
    blocks_of,
    fold_texts,
    open_source,
    read_rows,
    require_disjoint_folds,
    require_nested,
    require_unseen,
)
from expunge.language.muse_twin import Twin

TWIN = Twin(forget=2, school=4, retain=2, holdout=2, articles=2)


def write(folder: Path, rows: list[dict[str, str]], config: str, split: str) -> None:
    place = folder / config / f"{split}.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The twin's tables as a folder of the published layout."""
    for (config, split), rows in TWIN.tables().items():
        write(tmp_path, rows, config, split)
    return tmp_path


def test_every_layout_gives_the_same_rows(folder: Path) -> None:
    expected = read_rows(open_source(str(folder)), "knowmem", "forget_qa", ("question", "answer"))
    place = folder / "knowmem"
    rows = (place / "forget_qa.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "forget_qa.jsonl").unlink()
    for i, part in enumerate((rows[:3], rows[3:])):
        (place / f"forget_qa-{i:05d}-of-00002.jsonl").write_text("".join(part), encoding="utf-8")
    assert read_rows(open_source(str(folder)), "knowmem", "forget_qa", ("question", "answer")) == expected
    (place / "forget_qa-00001-of-00002.jsonl").unlink()
    with pytest.raises(InputError, match="has 2 parts by their names, and 1 are there"):
        read_rows(open_source(str(folder)), "knowmem", "forget_qa", ("question", "answer"))
    (place / "forget_qa-00000-of-00002.jsonl").unlink()
    (place / "forget_qa").mkdir()
    (place / "forget_qa" / "any.jsonl").write_text("".join(rows), encoding="utf-8")
    assert read_rows(open_source(str(folder)), "knowmem", "forget_qa", ("question", "answer")) == expected


def test_what_is_missing_is_named(folder: Path) -> None:
    source = open_source(str(folder))
    with pytest.raises(InputError, match=r"no folder 'rawr', one of MUSE's configurations; it holds knowmem"):
        read_rows(source, "rawr", "forget", ("text",))
    with pytest.raises(InputError, match=r"no split 'forget_qb'; there is forget_qa, forget_qa_icl"):
        read_rows(source, "knowmem", "forget_qb", ("question", "answer"))
    with pytest.raises(InputError, match=r"forget.jsonl, line 1: field 'question' is missing"):
        read_rows(source, "raw", "forget", ("question", "answer"))
    write(folder, [{"text": "fine"}, {"text": " "}], "raw", "forget")
    with pytest.raises(InputError, match=r"forget.jsonl, line 2: field 'text' is empty"):
        read_rows(source, "raw", "forget", ("text",))
    with pytest.raises(InputError, match="not a folder with MUSE's configurations"):
        open_source(str(folder / "nothing"))


def test_folds_are_nested_or_share_nothing(folder: Path) -> None:
    source = open_source(str(folder))
    scal = [set(fold_texts(source, f"scal_{i}")) for i in range(1, 5)]
    assert all(small < large for small, large in itertools.pairwise(scal))
    sust = [set(fold_texts(source, f"sust_{i}")) for i in range(1, 5)]
    assert sum(map(len, sust)) == len(set.union(*sust))
    assert set(fold_texts(source, "")) == scal[0] == sust[0]
    assert [blocks_of(f) for f in ("", "scal_4", "sust_4")] == [(1,), (1, 2, 3, 4), (4,)]


def test_folds_that_are_not_what_they_claim_are_refused() -> None:
    with pytest.raises(InputError, match=r"scal/forget_2 does not hold record 1 of scal/forget_1"):
        require_nested([["a"], ["b", "c"]])
    with pytest.raises(InputError, match=r"scal/forget_2 holds no more than scal/forget_1"):
        require_nested([["a"], ["a"]])
    with pytest.raises(InputError, match=r"sust/forget_2, record 2 stands in sust/forget_1 too"):
        require_disjoint_folds([["a"], ["b", "a "]])
    with pytest.raises(InputError, match=r"raw/holdout, record 1 stands in raw/forget too \(1 such records\)"):
        require_unseen(["a", "b"], ["b"], "raw")


def test_a_bad_fold_and_a_holdout_that_is_forgotten_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"fold='scal_5'; one of scal_1.*Did you mean"):
        MUSE(fold="scal_5")
    with pytest.raises(InputError, match="Books has no folds"):
        MUSE(path="x", corpus="books", fold="scal_1")
    (folder / "knowmem" / "retain_qa_icl.jsonl").unlink()
    with pytest.raises(InputError, match="no split 'retain_qa_icl'"):
        MUSE(path=str(folder)).load(0)
    write(folder, TWIN.tables()["raw", "forget"][:1], "raw", "holdout")
    with pytest.raises(InputError, match="raw/holdout, record 1 stands in raw/forget too"):
        MUSE(path=str(folder)).load(0)


def test_a_folder_of_the_published_layout_becomes_a_workload(folder: Path, tmp_path: Path) -> None:
    from expunge.language.muse_twin import make_tokenizer

    make_tokenizer(TWIN).save_pretrained(tmp_path / "tokenizer")
    work = MUSE(path=str(folder), tokenizer=str(tmp_path / "tokenizer"), window=24, retain="all").load(0)
    assert {type(m).__name__ for m in work.metrics} == {
        "VerbatimMemorization", "KnowledgeMemorization", "PrivacyLeakage",
    }  # fmt: skip
    assert {"forget", "retain", "forget_verbatim", "forget_texts", "holdout_texts"} <= set(work.splits)
    assert all(len(r.history) == 4 for r in work.splits["forget"])  # two shots
    with pytest.raises(InputError, match=r"benchmark.tokenizer='.*nothing' cannot be loaded"):
        MUSE(path=str(folder), tokenizer=str(tmp_path / "nothing")).load(0)
