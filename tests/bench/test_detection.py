"""Recipes of detection benches: what they may hold, what is refused in which words. Nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.bench.detection import NAMES, DetectionBench, is_detection, load_detection, read_raw
from expunge.errors import InputError

CASE = {"name": "a", "data": "purchase", "model": "mlp"}


def load(*overrides: str, named: str | None = None, out: Path | None = None, **raw: Any) -> DetectionBench:
    return load_detection(
        {"detectors": "all", "cases": [dict(CASE)], **raw}, "my.yaml", overrides, detectors=named, out=out
    )  # fmt: skip


def test_the_packaged_recipe_runs_all_detectors_on_three_modalities() -> None:
    raw = read_raw("tddbench")
    assert is_detection(raw)
    bench = load_detection(raw, "tddbench")
    assert bench.detectors == NAMES
    assert len(NAMES) == 21
    assert {case.data for case in bench.cases} == {"digits", "breast-cancer", "purchase", "sentences"}
    assert (bench.targets, bench.references, bench.ref_dis) == (5, 16, "target_ref")
    assert not is_detection(read_raw("demo"))


def test_defaults_are_the_papers() -> None:
    limits = load().limits
    assert (limits.queries, limits.boundary_records, limits.boundary_iterations) == (10, 1000, 50)
    assert (limits.boundary_evaluations, limits.gamma, load().seed) == (10_000, 2.0, 2024)


def test_the_names_here_are_the_suites() -> None:
    from expunge.bench.detection import PARADIGMS
    from expunge.membership.suite import DETECTORS

    assert tuple(DETECTORS) == NAMES
    assert {name: d.paradigm for name, d in DETECTORS.items()} == {
        n: p for p, names in PARADIGMS.items() for n in names
    }


def test_limits_here_are_the_suites() -> None:
    from expunge.membership.roster import Limits

    ours = load().limits.model_dump()
    assert Limits(**ours) == Limits()


def test_overrides_names_and_folder(tmp_path: Path) -> None:
    bench = load("cases.a.limit=50", "targets=2", named="metric-loss, Model-lira", out=tmp_path)
    assert bench.cases[0].limit == 50
    assert (bench.targets, bench.detectors, bench.folder) == (2, ("Metric-loss", "Model-lira"), tmp_path)
    assert load(name="mine").folder == Path("runs/bench-mine")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"detectors": ["Metric-los"]}, "detectors: 'Metric-los' is no detector. Did you mean 'Metric-loss'?"),
        ({"detectors": []}, "must be 'all', or a list of detectors"),
        ({"references": 7}, "references: 7 must be even: reference models come in complementary pairs"),
        ({"references": 2}, "references: 2 must be greater than or equal to 4"),
        ({"ref_dis": "shadows"}, "Did you mean 'shadow'?"),
        ({"target": 5}, "target: unknown key. Did you mean 'targets'?"),
        ({"cases": []}, "cases: []"),
        ({"cases": [CASE, CASE]}, "two cases are called 'a'"),
        ({"cases": [{**CASE, "model": "mpl"}]}, "cases.0.model: 'mpl' is no model of a bench. Did you mean 'mlp'?"),
        ({"cases": [{**CASE, "model": "cnn"}]}, "model 'cnn' does not take binary records; these do: mlp, logistic"),
        ({"cases": [{**CASE, "data": "purchases"}]}, "neither built in nor a .csv file. Did you mean 'purchase'?"),
        ({"cases": [{**CASE, "data": "x.csv"}]}, "a CSV file needs 'label'"),
        ({"cases": [{**CASE, "label": "y"}]}, "'label' and 'kind' are for CSV files"),
        ({"cases": [{**CASE, "limit": 3}]}, "cases.0.limit: 3 must be greater than or equal to 40"),
        ({"cases": [{**CASE, "name": "a b"}]}, "cases.0.name: 'a b'"),
        ({"limits": {"query": 3}}, "limits.query: unknown key. Did you mean 'queries'?"),
    ],
)
def test_refused(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load(**raw)
    assert str(caught.value).startswith("my.yaml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_names_on_the_command_line() -> None:
    with pytest.raises(InputError, match="no detector"):
        load(named="all,nobody")
    with pytest.raises(InputError, match="must be 'all'"):
        load(named=",")


def test_not_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_raw(str(path))
