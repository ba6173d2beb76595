"""The catalog: a file is enough, nothing is imported, and a malformed file is named precisely."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from expunge import catalog
from expunge.errors import InputError

GOOD = """
    from typing import ClassVar, Literal
    from dataclasses import dataclass, field
    from ._shared import Base, Mode

    raise ImportError("a catalogued file must not be imported to be listed")

    def formula(x: float) -> float:
        '''L = x^2.'''

    @dataclass(frozen=True)
    class HalfLife(Base):
        '''Decay: forget by halves.

        Attributes:
            rate: Decay per step,
                in nats.
        '''

        intention: ClassVar[str] = "removal"
        rate: float = -0.5
        mode: Mode = "soft"
        layers: tuple[int, ...] = (1, 2)
        names: dict[str, int] = field(default_factory=dict)
"""
SHARED = """
    from typing import ClassVar, Literal

    PAPER = "Somebody, Halves, 2030"
    Mode = Literal["soft", "hard"]

    class Base:
        '''Shared.'''
        paper: ClassVar[str] = PAPER
        weight: float
"""


@pytest.fixture
def folder(tmp_path: Path) -> catalog.Folder:
    path = tmp_path / "plug" / "methods"
    path.mkdir(parents=True)
    (path / "_shared.py").write_text(dedent(SHARED))
    return catalog.Folder(path, "plug.methods", "language", "method")


def add(folder: catalog.Folder, name: str, text: str) -> Path:
    path = folder.path / name
    path.write_text(dedent(text))
    return path


def test_reads_class_bases_and_defaults_without_import(
    folder: catalog.Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    add(folder, "half_life.py", GOOD)
    found = catalog.scan([folder])
    assert found.problems == ()
    entry = found.find("method", "Half_Life")
    assert (entry.name, entry.qualname, entry.module) == ("half-life", "HalfLife", "plug.methods.half_life")
    assert entry.summary == "Decay: forget by halves."
    assert entry.paper == "Somebody, Halves, 2030"  # a constant of the base's module
    assert entry.intention == "removal"
    assert entry.formulas == ("formula(x: float)\nL = x^2.",)
    fields = {f.name: f for f in entry.fields}
    assert list(fields) == ["weight", "rate", "mode", "layers", "names"]  # dataclass order: bases first
    assert fields["weight"].default is None
    assert fields["rate"].literal() == -0.5
    assert fields["rate"].doc == "Decay per step, in nats."
    assert fields["mode"].annotation == "Literal['soft', 'hard']"
    assert fields["layers"].literal() == (1, 2)
    with pytest.raises(ValueError, match="malformed"):
        fields["names"].literal()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("class Other:\n    '''x'''", "defines no class named after the file ('HalfLife', in any case)."),
        ("class Halflife: pass", "class Halflife has no docstring; its first line is the summary."),
        ("class HalfLife:\n    '''x'''", "class HalfLife names no paper"),
        (
            "class HalfLife:\n    '''x'''\n    paper = 'P'\n    intention = 'delete'",
            "has intention 'delete'; it must be 'removal' or 'suppression'.",
        ),
        ("x = 1\nclass HalfLife(:", "line 2: not valid Python"),
    ],
)
def test_malformed_file_is_named_and_spares_the_others(folder: catalog.Folder, text: str, sentence: str) -> None:
    path = add(folder, "half_life.py", text)
    add(folder, "fine.py", "class Fine:\n    '''F.'''\n    paper = 'P'\n    intention = 'removal'")
    found = catalog.scan([folder])
    assert [e.name for e in found.entries] == ["fine"]
    (problem,) = found.problems
    assert problem.startswith(str(path))
    assert sentence in problem
    with pytest.raises(InputError) as caught:  # asked for by name: the reason, not "unknown method"
        found.find("method", "half-life")
    assert str(caught.value) == problem


def test_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^Unknown method 'nppo'\. Did you mean 'npo'\?$"):
        catalog.find("method", "nppo")
    with pytest.raises(InputError, match=r"^Unknown method 'xyzzy'\. Known: .*npo"):
        catalog.find("method", "xyzzy")


def test_same_name_in_two_wings_needs_the_wing(folder: catalog.Folder) -> None:
    text = "class Fine:\n    '''F.'''\n    paper = 'P'\n    intention = 'removal'"
    add(folder, "fine.py", text)
    found = catalog.scan([folder, folder._replace(wing="vision")])
    assert found.find("method", "fine", "vision").wing == "vision"
    with pytest.raises(InputError, match="several wings: language, vision"):
        found.find("method", "fine")
    again = catalog.scan([folder, folder])  # the same wing twice: the first wins, the second is reported
    assert len(again.entries) == len(again.problems) == 1


def test_everything_of_ours_is_well_formed_and_loads() -> None:
    assert catalog.catalog().problems == ()
    assert catalog.entries("method")
    for entry in catalog.entries():
        loaded = entry.load()
        assert loaded.__name__ == entry.qualname
        assert loaded.paper == entry.paper
        for field in entry.fields:  # what the source says is what the class has
            assert field.name in loaded.__dataclass_fields__
            if field.default is not None and "(" not in field.default[1:]:
                assert getattr(loaded, field.name) == field.literal()


def test_entry_point_adds_a_folder(folder: catalog.Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping a file into a package that an entry point names is all it takes; nothing of it is imported."""
    add(folder, "half_life.py", GOOD)
    (tmp_path / "plug" / "__init__.py").write_text("raise ImportError('not to be imported')")
    info = tmp_path / "plug-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: plug\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[expunge]\nlanguage.methods = plug.methods\nlanguage.verbs = plug.methods\nvision.methods = gone.methods\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog.catalog.cache_clear()
    try:
        entry = catalog.find("method", "half-life")
        assert (entry.wing, entry.module) == ("language", "plug.methods.half_life")
        verbs, gone = sorted(catalog.catalog().problems, key=lambda p: "gone" in p)
        assert "'language.verbs'" in verbs
        assert "KIND one of methods, metrics, attacks, benchmarks" in verbs
        assert "there is no such package folder" in gone
        assert "plug" not in sys.modules
    finally:
        catalog.catalog.cache_clear()


def test_wings_are_the_folders_that_hold_rooms(tmp_path: Path) -> None:
    for part in ("vision/methods", "vision/layers", "engine", "sound/attacks"):
        (tmp_path / part).mkdir(parents=True)
    found = catalog.wing_folders(tmp_path, "pkg")
    assert [(f.package, f.wing, f.kind) for f in found] == [
        ("pkg.sound.attacks", "sound", "attack"),
        ("pkg.vision.methods", "vision", "method"),
    ]


def test_the_paper_ledger_is_up_to_date() -> None:
    """docs/papers.md holds every entry as its docstring stands today; `make docs` writes it."""
    root = Path(__file__).parents[1]
    ledger = runpy.run_path(str(root / "scripts" / "papers.py"))["ledger"]
    assert (root / "docs" / "papers.md").read_text(encoding="utf-8") == ledger(catalog.entries())


def test_a_method_answers_to_its_other_name() -> None:
    assert catalog.find("method", "uoe") is catalog.find("method", "SEUF")
