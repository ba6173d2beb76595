"""Reading records: every form, every mistake, one sentence that names the place and never the content."""

from __future__ import annotations

import json
import random
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
        # a CSV file without header: its first record is taken for one, and must not be printed
        ("r.csv", f"{SECRET},he did\nx,y\n", r"record 1: field 'question' is missing or empty"),
        ("r.csv", "question,answer,answer\na,b,c\n", r"line 1: two columns of the header have the same name"),
        ("r.csv", f'question,answer\na,"{SECRET}\nand so on', r"r.csv, line 3: not CSV"),
        ("r.csv", b"question,answer\na,\xff\n", r"r.csv: not UTF-8 text"),
        ("r.jsonl", '{"question": "q", "answer": "a", "answer": "b"}', r"line 1: a field stands twice"),
        ("r.jsonl", '{"question": "q", "answer": NaN}', r"line 1: NaN is not JSON"),
        ("r.jsonl", '{"question": "q", "answer": "a", "author": -Infinity}', r"line 1: -Infinity is not JSON"),
        ("r.jsonl", '{"question": "q", "answer": 1e999}', r"field 'answer' must be text, found float"),
        ("r.jsonl", '{"question": "q", "answer": ' + "7" * 5000 + "}", r"line 1: not JSON \(a number with too many"),
        ("r.jsonl", "[" * 100_000, r"line 1: not JSON \(nested too deeply\)"),
        ("r.json", '{"a":' * 100_000, r"r.json: not JSON \(nested too deeply\)"),
        ("r.jsonl", '{"question": "q", "answer": "a\\ud800"}', r"field 'answer' holds half a surrogate pair"),
        ("r.jsonl", '{"question": "q", "answer": "a", "cluster": "\\udfff"}', r"field 'cluster' holds half"),
        (
            "r.jsonl",
            '{"question": "q", "answer": "a", "cluster": {"n": 1}}',
            r"field 'cluster' must be text, found dict",
        ),
        ("r.jsonl", '{"question": "q", "answer": "a", "cluster": 1.5}', r"field 'cluster' must be text, found float"),
        ("r.jsonl", '{"question": "q", "answer": "a", "perturbed_answer": 7}', r"'perturbed_answer' must be a list"),
        (
            "r.jsonl",
            '{"question": "q", "answer": "a", "perturbed_answer": {"x": 1}}',
            r"must be a list of texts, found dict",
        ),
        ("r.jsonl", '{"question": "q", "answer": "a", "perturbed_answers": ["x", null]}', r"perturbed_answer\[1\]"),
        ("r.jsonl", '{"question": ["q"], "answer": "a"}', r"field 'question' must be text, found list"),
        ("r.jsonl", '{"text": null}', r"field 'text' must be text, found NoneType"),
        ("r.jsonl", '{"text": ""}', r"field 'text' is empty"),
        ("r.jsonl", '{"messages": "hello"}', r"field 'messages' must be a list"),
        ("r.jsonl", '{"messages": [7, 8]}', r"messages\[0\] needs the fields"),
        (
            "r.jsonl",
            '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}',
            r"the last two turns",
        ),
        ("r.json", '[{"question": "q",\n"answer": }]', r"r.json, line 2: not JSON"),
        ("r.json", b"\x00\x01\x02", r"r.json: not JSON"),
        ("r", "x", r"cannot read a file without suffix"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_records(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_looks_odd_and_is_fine(tmp_path: Path) -> None:
    """Line ends of Windows, a real pair of surrogates, numbered authors, one false answer as text, an empty cluster."""
    rows = (
        b'{"question": "q", "answer": "\\ud83d\\ude00", "author": 12, "perturbed_answer": "w", "cluster": ""}\r\n'
        b'\r\n{"prompt": "q", "completion": "a", "paraphrased_answer": "", "perturbed_answer": null}'
    )
    assert read_records(put(tmp_path / "r.jsonl", rows)) == [
        Record("q", "\U0001f600", "12", perturbed_answers=("w",)),
        Record("q", "a"),
    ]


def test_quoted_csv_fields_keep_their_lines(tmp_path: Path) -> None:
    """An empty line inside a quoted field is text; one outside is nothing."""
    content = '\ufeffquestion,answer,paraphrased_answer\r\n"Who, then?","one\n\nthree ""3""",\r\n\r\nq,a,p\r\n'
    assert read_records(put(tmp_path / "r.csv", content)) == [
        Record("Who, then?", 'one\n\nthree "3"'),
        Record("q", "a", paraphrased_answer="p"),
    ]


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "a\0b.jsonl", "~nobody-of-that-name/r.jsonl"])
def test_impossible_file_names(name: str) -> None:
    with pytest.raises(InputError):
        read_records(name)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path / "r.jsonl", "{}")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"r.jsonl: cannot be read \(Permission denied\)"):
        read_records(file)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.jsonl: no such file"):
        read_records(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_records(tmp_path)


def mangle(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 6)):
        at, kind = rng.randrange(len(data)), rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            pieces = [
                b"\x00",
                b'"',
                b"\\ud800",
                b"[" * 2000,
                b"NaN",
                b"1e999",
                b"\r",
                b"null",
                b"{}",
                b",",
                b"9" * 5000,
            ]
            data[at:at] = rng.choice(pieces)
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_mangled_files_never_raise_anything_else(tmp_path: Path, suffix: str) -> None:
    """Seeded mutations of a good file, and plain noise: each reads, or is refused in one clean sentence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(suffix)
    turns = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}]
    rows = [{"question": SECRET, "answer": SECRET, "perturbed_answer": [SECRET], "author": SECRET}] * 3
    good: dict[str, bytes] = {
        ".jsonl": "\n".join(map(json.dumps, [*rows, {"messages": turns}, {"text": SECRET}])).encode(),
        ".json": json.dumps([*rows, {"messages": turns}, {"text": SECRET}]).encode(),
        ".csv": f'question,answer,author\n{SECRET},"{SECRET}\n\nx",{SECRET}\n'.encode() * 2,
    }
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "good.parquet")
    good[".parquet"] = (tmp_path / "good.parquet").read_bytes()
    refused: list[tuple[Path, str]] = []
    for i in range(150):
        content = rng.randbytes(rng.randint(0, 200)) if i % 10 == 0 else mangle(bytearray(good[suffix]), rng)
        file = put(tmp_path / f"m{i}{suffix}", content)
        try:
            records = read_records(file)
        except InputError as error:  # anything else fails the test
            refused.append((file, str(error)))
        else:
            digest(records)
            for record in records:
                (record.question + record.answer + record.cluster).encode()
                assert record.answer.strip()
    assert 20 < len(refused) <= 150
    for file, message in refused:
        assert str(file) in message
        assert "\n" not in message
        assert SECRET not in message


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
