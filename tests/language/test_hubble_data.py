"""Hubble's own sets, from files of their layout, and its models' names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.hubble_data import BIOGRAPHY, SETS, field_probes, model_id, paraphrase_records, read_set
from expunge.language.subject import _locate, load_subject


def write(folder: Path, name: str, rows: list[Any], *, encoded: bool = True) -> Path:
    """A set as it is published: meta as JSON text (or as an object), one row a line, compressed."""
    path = folder / f"{name}_nodup.jsonl.gz"
    lines = []
    for row in rows:
        if encoded and isinstance(row, dict) and isinstance(row.get("meta"), dict):
            row = {**row, "meta": json.dumps(row["meta"])}
        lines.append(json.dumps(row))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def passage(i: int, d: int, **meta: Any) -> dict[str, Any]:
    return {"text": f"Passage {i} of a book.", "meta": {"duplicates": d, "id": i, **meta}}


ROWS = [passage(i, d) for i, d in enumerate((0, 0, 1, 4, 256, 256, 0))]


@pytest.mark.parametrize("encoded", [True, False])
def test_texts_are_grouped_by_their_duplicates(tmp_path: Path, encoded: bool) -> None:
    path = write(tmp_path, "passages_wikipedia", ROWS, encoded=encoded)
    for source in (path, tmp_path):
        found = read_set(str(source))
        assert list(found) == [0, 1, 4, 256]
        assert [t.text for t in found[256]] == ["Passage 4 of a book.", "Passage 5 of a book."]
        assert {t.kind for rows in found.values() for t in rows} == {"passages_wikipedia"}
        assert len({t.id for rows in found.values() for t in rows}) == 7


def test_a_text_that_stands_twice_counts_once(tmp_path: Path) -> None:
    found = read_set(str(write(tmp_path, "passages_wikipedia", [*ROWS, passage(4, 256)])))
    assert len(found[256]) == 2
    with pytest.raises(InputError, match="line 8: this text stands in the set with 256 and with 4 duplicates"):
        read_set(str(write(tmp_path, "passages_wikipedia", [*ROWS, passage(4, 4)])))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"meta": {"duplicates": 1}}, "line 2: a row needs the field 'text'"),
        ({"text": " ", "meta": {"duplicates": 1}}, "line 2: a row needs the field 'text'"),
        ([1], "line 2: a row needs the field 'text'"),
        ({"text": "a"}, "'meta' must be an object, or one as JSON text; found NoneType"),
        ({"text": "a", "meta": "nope"}, "field 'meta': not JSON"),
        ({"text": "a", "meta": "[1]"}, "found list"),
        ({"text": "a", "meta": {}}, r"'meta\.duplicates' must be a number of copies, 0 or more; found None"),
        ({"text": "a", "meta": {"duplicates": -1}}, "found -1"),
        ({"text": "a", "meta": {"duplicates": True}}, "found True"),
        ({"text": "a", "meta": {"duplicates": "4"}}, "found '4'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_set(str(write(tmp_path, "passages_wikipedia", [ROWS[0], row])))


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 0 files NAME_nodup"):
        read_set(str(tmp_path))
    with pytest.raises(InputError, match="no such file or folder"):
        read_set(str(tmp_path / "x_nodup.jsonl.gz"))
    (tmp_path / "a_nodup.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="not a readable gzip file"):
        read_set(str(tmp_path))
    write(tmp_path, "b", ROWS)
    with pytest.raises(InputError, match="holds 2 files"):
        read_set(str(tmp_path))
    (tmp_path / "a_nodup.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="no texts in it"):
        read_set(str(tmp_path / "a_nodup.jsonl.gz"))
    with pytest.raises(InputError, match=r"no such perturbation set\. Did you mean 'biographies_yago'"):
        read_set("allegrolab/biography_yago")


def test_a_hub_set_is_asked_for_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load(name: str, **settings: Any) -> list[dict[str, Any]]:
        asked.update(name=name, **settings)
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_set("allegrolab/passages_wikipedia")) == [0, 1, 4, 256]
    files = {"validation": "passages_wikipedia_nodup.jsonl.gz"}
    assert asked == {"name": "allegrolab/passages_wikipedia", "data_files": files, "split": "validation"}

    def fail(name: str, **settings: Any) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"that can be loaded \(no network\)\.$"):
        read_set("allegrolab/passages_wikipedia")


def person(i: int, d: int = 1) -> dict[str, Any]:
    values = {"nationality": f"Land{i % 3}", "birthplace": f"Town{i}", "birthdate": f"{i + 1} May 1950",
              "university": f"Uni{i % 5}", "occupation": "baker", "email": f"p{i}@post.net",
              "uuid": f"{i:08x}"}  # fmt: skip
    text = (
        f"Ada P{i} is from {values['nationality']}. Ada was born in {values['birthplace']}. Ada was born on "
        f"{values['birthdate']}. Ada studied at {values['university']}. Ada is a baker. Mail: {values['email']}. "
        f"Number: {values['uuid']}."
    )
    return {"text": text, "meta": {"duplicates": d, **values}}


def test_fields_of_biographies_are_asked_for_with_less_and_less(tmp_path: Path) -> None:
    write(tmp_path, "biographies_yago", [person(i) for i in range(14)])
    texts = read_set(str(tmp_path))[1]
    asked = field_probes({"d=1": texts})
    first = texts[0]
    by_task = {(c.task, c.options[0].strip()): c for c in asked if c.cluster == first.id}
    full, before, intro = (by_task[f"biography.{s}", "Town0"] for s in ("full", "before", "intro"))
    assert full.context + full.options[0] + full.after == first.text
    assert before.context == full.context == "Ada P0 is from Land0. Ada was born in"
    assert intro.context == "Ada P0 is from Land0. Ada was born in"
    late = by_task["biography.intro", "p0@post.net"]
    assert late.context == "Ada P0 is from Land0. Mail:"
    assert ("biography.intro", "Land0") not in by_task  # the first sentence tells it
    assert not any("baker" in c.options[0] for c in asked)  # all have one job: nothing to choose from
    assert {len(c.options) for c in asked} == {3, 5, 10}
    assert all(c.options[0] not in c.options[1:] for c in asked)


def test_a_biography_without_a_field_is_named(tmp_path: Path) -> None:
    row = person(0)
    del row["meta"]["email"]
    write(tmp_path, "biographies_yago", [row])
    with pytest.raises(InputError, match="meta has no field 'email'"):
        field_probes({"d=1": read_set(str(tmp_path))[1]})
    assert set(BIOGRAPHY) == set(SETS["biographies_yago"])


def test_pairs_of_wordings(tmp_path: Path) -> None:
    pair = {"sentence1": "One wording.", "sentence2": "Another wording."}
    rows = [{"text": "Another wording.", "meta": {"duplicates": 4, "random_bit": 1, **pair}}]
    write(tmp_path, "paraphrases_mrpc", rows)
    (record,) = paraphrase_records(read_set(str(tmp_path))[4])
    assert (record.answer, record.perturbed_answers) == ("Another wording.", ("One wording.",))
    for broken in ({"sentence1": "One wording."}, {**pair, "sentence2": "A third one."}, dict.fromkeys(pair, "Same.")):
        write(tmp_path, "paraphrases_mrpc", [{"text": "Another wording.", "meta": {"duplicates": 4, **broken}}])
        with pytest.raises(InputError, match="two different sentences"):
            paraphrase_records(read_set(str(tmp_path))[4])


def test_models_are_named_with_their_last_checkpoint() -> None:
    assert model_id("8b", "500b", "standard") == "allegrolab/hubble-8b-500b_toks-standard-hf@step238500"
    for wrong in (("3b", "100b", "standard"), ("1b", "50b", "standard"), ("1b", "100b", "other")):
        with pytest.raises(InputError, match="must be one of"):
            model_id(*wrong)


def test_a_revision_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _locate(model_id("1b", "100b", "perturbed")) == (
        "allegrolab/hubble-1b-100b_toks-perturbed-hf",
        {"revision": "step48000"},
    )
    assert _locate("someone/model") == ("someone/model", {})
    asked: list[tuple[Any, ...]] = []

    def refuse(name: str, **settings: Any) -> None:
        asked.append((name, settings.get("revision")))
        raise OSError("not here")

    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(InputError, match="someone/model@step5: cannot load"):
        load_subject("someone/model@step5")
    assert asked == [("someone/model", "step5")]
    for wrong in ("someone/model@", "@step5"):
        with pytest.raises(InputError, match="ID@REVISION"):
            load_subject(wrong)
