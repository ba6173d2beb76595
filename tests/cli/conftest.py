from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from expunge.cli import app
from expunge.report.scorecard import Finding, Scorecard, Verdict

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the CLI in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def card() -> Scorecard:
    values = {"target": 1.0, "gold": 0.1, "npo": 0.25}
    findings = [Finding("accuracy", "forget", name, v, v, v, 16, "match-gold") for name, v in values.items()]
    findings.append(Finding("forget_quality", "forget", "npo", float("nan"), 0.0, 1.0, 16, "higher"))
    return Scorecard(findings=findings, verdicts={"npo": Verdict("suppressed", "It comes [back].")})


class Stub(ModuleType):
    """Stands in for `expunge.runner` and `expunge.planning`: records the recipe, then returns or raises."""

    def __init__(self, card: Scorecard) -> None:
        super().__init__("expunge.runner")
        self.card, self.error = card, None
        self.calls: list[dict[str, Any]] = []

    error: BaseException | None

    def execute(self, recipe: Any, *, console: Any, force: bool = False) -> Scorecard:
        self.calls.append({"recipe": recipe, "console": console, "force": force})
        if self.error is not None:
            raise self.error
        return self.card

    def plan(self, recipe: Any) -> list[tuple[str, str]]:
        return [("memory", "about 1 GB")]


@pytest.fixture
def stub(card: Scorecard, monkeypatch: pytest.MonkeyPatch) -> Stub:
    module = Stub(card)
    for name in ("expunge.runner", "expunge.planning"):
        monkeypatch.setitem(sys.modules, name, module)
    return module
