"""What each command prints and passes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge import api, catalog
from expunge.recipe import Recipe
from expunge.report.scorecard import Scorecard


def test_list_json_is_the_catalog(invoke: Any) -> None:
    result = invoke("list", "--json")
    listed = json.loads(result.stdout)
    assert [entry["name"] for entry in listed] == [entry.name for entry in catalog.entries()]
    assert all(list(entry) == ["name", "kind", "wing", "summary", "paper"] for entry in listed)
    assert {entry["kind"] for entry in listed} <= {"method", "metric", "attack", "benchmark"}


def test_list_of_one_kind(invoke: Any) -> None:
    result = invoke("list", "attacks", "--json")
    assert {entry["kind"] for entry in json.loads(result.stdout)} == {"attack"}
    assert "relearn" in invoke("list", "attacks").stdout
    assert "npo" not in invoke("list", "attacks").stdout


def test_show(invoke: Any) -> None:
    shown = invoke("show", "NPO").stdout
    entry = catalog.find("method", "npo")
    for part in (entry.summary, entry.paper, "intended for removal", "retain_weight", "log sigmoid"):
        assert part in shown
    assert "Attributes:" not in shown


def test_cp_refuses_to_overwrite(invoke: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    assert invoke("cp", "demo", mine).exit_code == 0
    assert Recipe.load(mine) == Recipe.load("demo")
    mine.write_text("name: precious")
    refused = invoke("cp", "demo", mine)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert mine.read_text() == "name: precious"
    assert invoke("cp", "demo", mine, "--force").exit_code == 0
    assert Recipe.load(mine) == Recipe.load("demo")


def test_dry_run_prints_a_recipe_that_loads_and_writes_nothing(invoke: Any, stub: Any, tmp_path: Path) -> None:
    result = invoke("run", "demo", "seed=5", "methods.npo.beta=0.25", "--dry-run")
    assert result.exit_code == 0
    assert "# memory: about 1 GB" in result.stdout
    assert stub.calls == []
    assert list(tmp_path.iterdir()) == []
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(result.stdout)
    assert Recipe.load(resolved) == Recipe.load("demo", ["seed=5", "methods.npo.beta=0.25"])


def test_unlearn_passes_everything_on(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fake(*args: Any, **options: Any) -> api.UnlearnResult:
        calls.append((args, options))
        return api.UnlearnResult(Path("x/model"), Path("x"))

    monkeypatch.setattr(api, "unlearn", fake)
    result = invoke(
        "unlearn", "--model", "testbed", "--forget", "F.jsonl", "--retain", "R.jsonl", "--method", "npo",
        "--seed", 4, "--set", "beta=2e-1", "--set", "train.lr=1e-4", "--force",
        "--set", "model.max_length=64", "--out", "x",
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (0, "x/model\n")
    ((args, options),) = calls
    assert args == ("testbed", "F.jsonl", "R.jsonl")
    assert (options["method"], options["seed"], options["force"]) == ("npo", 4, True)
    assert (options["hyper"], options["train"]) == ({"beta": 0.2}, {"lr": 1e-4})
    assert options["settings"] == {"max_length": 64}


def test_unlearn_dry_run(invoke: Any, stub: Any) -> None:
    result = invoke("unlearn", "--model", "m", "--forget", "F.jsonl", "--set", "train.lr=1e-4", "--dry-run")
    assert result.exit_code == 0
    for line in ("  source: m", "  forget: F.jsonl", "- name: npo", "# memory: about 1 GB"):
        assert line in result.stdout.splitlines()


def test_audit_passes_everything_on_and_gates(invoke: Any, card: Scorecard, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fake(*args: Any, **options: Any) -> Scorecard:
        calls.append((args, options))
        return card

    monkeypatch.setattr(api, "audit", fake)
    result = invoke(
        "audit", "--model", "M", "--forget", "F", "--retain", "R", "--holdout", "H", "--target", "T",
        "--gold", "G", "--out", "a", "--set", "attacks=relearn", "--fail-on", "accuracy@forget:npo>0.2",
        "--fail-on", "accuracy>9",
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout == "a/report.html\n"
    assert result.stderr.count("gate ") == 1
    ((args, options),) = calls
    assert args == ("M", "F", "R", "H")
    assert (options["target"], options["gold"], options["attacks"]) == ("T", "G", ["relearn"])


def test_audit_by_a_recipe_leaves_its_methods_and_models_aside(
    invoke: Any, card: Scorecard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge import runner

    seen: list[Any] = []
    monkeypatch.setattr(runner, "audit_only", lambda recipe, **options: seen.append((recipe, options)) or card)
    result = invoke(
        "audit", "--recipe", "demo-recommend", "--model", "M", "--target", "T", "--control", "--set",
        "benchmark.share=0.2", "--out", "a",
    )  # fmt: skip
    assert result.exit_code == 0
    ((recipe, options),) = seen
    assert (recipe.model.source, recipe.methods, recipe.target, recipe.gold) == ("M", [], None, None)
    assert recipe.benchmark.fields["share"] == 0.2
    assert recipe.audit.control
    assert [a.name for a in recipe.audit.attacks] == ["relearn", "benign-relearn", "quantise"]
    assert (options["target"], options["gold"]) == ("T", None)


@pytest.fixture
def runs(tmp_path: Path, card: Scorecard) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        card.save(tmp_path / name / "scorecard.json")
    return tmp_path / "one", tmp_path / "two"


def test_compare_table(invoke: Any, runs: tuple[Path, Path]) -> None:
    lines = [line.split() for line in invoke("compare", *runs).stdout.splitlines()]
    assert ["two", "npo", "suppressed", "0.25", "–"] in lines  # NaN is said, not printed as a number
    assert ["one", "gold", "0.10"] in lines
    chosen = invoke("compare", runs[0], "--metric", "forget_quality@forget").stdout
    assert "0.25" not in chosen
    wrong = invoke("compare", runs[0], "--metric", "acuracy@forget")
    assert wrong.exit_code == 2
    assert "Did you mean 'accuracy@forget'?" in wrong.stderr


def test_compare_json(invoke: Any, runs: tuple[Path, Path]) -> None:
    rows = json.loads(invoke("compare", *runs, "--json").stdout)
    assert [(r["run"], r["model"]) for r in rows] == [(r, m) for r in ("one", "two") for m in ("target", "gold", "npo")]
    assert rows[2]["verdict"] == "suppressed"
    assert rows[0]["verdict"] is None
    assert [f["value"] for f in rows[2]["findings"]] == [0.25, None]


def test_version(invoke: Any) -> None:
    assert invoke("--version").stdout.startswith("expunge 0.")
