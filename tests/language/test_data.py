"""Reading records: every form, every mistake, one sentence that names the place and never the content."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest

from expunge.errors import InputError
from expunge.language.data import Record, cluster_ids, digest, read_records, require_disjoint

SECRET = "Zaphod Beeblebrox"


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_json_csv_and_parquet_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": "q1", "answer": "a1", "author": "x"}, {"question": "q2", "answer": "a2", "author": "y"}]
    files = [
        put(tmp_path / "r.jsonl", "\n".join(json.dumps(r) for r in rows) + "\n\n"),
        put(tmp_path / "r.json", json.dumps(rows)),
        put(tmp_path / "r.csv", "question,answer,author\r\nq1,a1,x\r\nq2,a2,y\r\n"),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    expected = [Record("q1", "a1", "x"), Record("q2", "a2", "y")]
    for file in (*files, tmp_path / "r.parquet"):
        assert read_records(file) == expected


def test_text_chat_and_tofu_fields(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    rows = [
        {"text": "some words"},
        {"messages": chat},
        {"question": "q", "answer": "a", "paraphrased_question": "p", "perturbed_answer": ["w1", "w2"]},
    ]
    file = put(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows)))
    text, talk, tofu = read_records(file)
    assert text == Record("", "some words")
    assert talk == Record("q", "a", history=(("system", "s"),))
    assert tofu.perturbed_answers == ("w1", "w2")
    assert tofu.asked_otherwise().question == "p"


def test_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = put(tmp_path / "r.jsonl", b"\xef\xbb\xbf" + b'{"question": "q", "answer": "a"}\n')
    assert read_records(file) == [Record("q", "a")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", '{"question": "q", "answer": "a"}\n{"question": ', r"r.jsonl, line 2: not JSON"),
        ("r.jsonl", f'{{"question": "{SECRET}"}}\n', r"r.jsonl, line 1: field 'answer' is missing or empty"),
        ("r.jsonl", f'{{"answer": "{SECRET}"}}\n', r"line 1: field 'question' is missing or empty"),
        ("r.jsonl", '\n\n{"question": "q", "answer": 7}\n', r"line 3: field 'answer' must be text, found int"),
        ("r.jsonl", '{"question": "q", "answer": "  "}\n', r"field 'answer' is empty"),
        ("r.jsonl", "[1, 2]\n", r"line 1: expected an object with fields, found list"),
        ("r.jsonl", "", r"r.jsonl: no records in it"),
        ("r.jsonl", b"\xff\xfe\x00", r"r.jsonl, line 1: not UTF-8 text"),
        ("r.jsonl", '{"messages": [{"role": "user", "content": "q"}]}\n', r"at least a question and an answer"),
        ("r.jsonl", '{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}\n', r"messages\[0\]"),
        ("r.json", '{"question": "q"}', r"r.json: expected a list of records, found dict"),
        ("r.json", "[", r"r.json: not JSON"),
        ("r.csv", "question,answer\na,b,c\n", r"record 1: more values than the header has columns"),
        ("r.csv", "question,answer\na\n", r"record 1: field 'answer' is missing or empty"),
        ("r.parquet", b"not parquet", r"not a readable Parquet file"),
        ("r.txt", "x", r"cannot read .txt"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_records(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.jsonl: no such file"):
        read_records(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_records(tmp_path)


def test_mangled_files_never_raise_anything_else(tmp_path: Path) -> None:
    """A few hundred seeded mutations of good files: each reads, or is refused with an InputError."""
    rng = random.Random(0)
    good = b'{"question": "q", "answer": "a", "perturbed_answer": ["x"]}\n{"messages": [{"role": "user"}]}\n'
    for i in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.randint(1, 9)]
            else:
                data[at:at] = rng.choice([b"\x00", b'"', b"\\ud800", b"[" * 40, b"NaN", b"1e999", b"\r"])
            data = data or bytearray(b"x")
        file = put(tmp_path / f"m{i}{rng.choice(['.jsonl', '.json', '.csv'])}", bytes(data))
        with suppress(InputError):  # anything else fails the test
            read_records(file)


def test_overlap_is_counted_and_placed_without_content() -> None:
    forget = [Record(SECRET, "a"), Record("r", "b")]
    with pytest.raises(InputError, match=r"share 2 records \(first: retain record 2\)") as caught:
        require_disjoint(forget, [Record("x", "y"), Record("r", "b"), Record(SECRET, "a")], "retain")
    assert SECRET not in str(caught.value)
    require_disjoint(forget, [Record(SECRET, "another answer")], "retain")


def test_clusters_and_digests() -> None:
    rows = [Record("q", "a", "x"), Record("q", "b"), Record("q", "c", "x"), Record("q", "d")]
    assert cluster_ids(rows) == [0, 1, 0, 2]
    assert digest(rows) == digest(list(rows))
    assert digest(rows) != digest(rows[::-1])
