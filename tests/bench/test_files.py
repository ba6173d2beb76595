"""Files of a bench folder: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expunge.bench.files import read_json, share_files, sweep, write_json


def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"n": 1.5})
    assert read_json(tmp_path / "a" / "x.json") == {"n": 1.5}
    assert os.listdir(tmp_path / "a") == ["x.json"]


def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"n": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"n": float("nan")})
    assert read_json(tmp_path / "x.json") == {"n": 1}


@pytest.mark.parametrize("content", [None, b"{", b"[1]", b"\xff\xfe"])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("links", [True, False])
def test_files_are_lent_without_touching_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError

        monkeypatch.setattr(os, "link", refuse)
    for name, text in (("a.json", "new"), ("deep/b.json", "b"), ("c.json.12.tmp", "half")):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a.json").write_text("own")
    share_files(tmp_path / "source", tmp_path / "target")
    found = {p.name: p.read_text() for p in (tmp_path / "target").rglob("*") if p.is_file()}
    assert found == {"a.json": "own", "b.json": "b"}


def test_sweeping_takes_only_what_is_half_written(tmp_path: Path) -> None:
    for name in ("keep.json", "x.json.77.tmp", "gone.tmp", "model.tmp/weights", "model/weights", "key.tmp123/weights"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    sweep(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"keep.json", "model/weights"}
