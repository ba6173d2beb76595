"""RWKU: the workload from a folder, from one file of probes, and in the twin; what is published; what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.bench.reading import load_bench
from expunge.errors import InputError
from expunge.language.benchmarks.rwku import LLAMA, RWKU, published
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.fluency import Fluency
from expunge.language.metrics.rwku_membership import RwkuMembership
from expunge.language.metrics.rwku_probes import RwkuProbes
from expunge.language.metrics.rwku_utility import RwkuUtility
from expunge.language.prepare import Models, ModelSpec
from expunge.language.rwku_data import Probe
from expunge.language.rwku_twin import Twin
from expunge.recipe import Recipe
from expunge.runner import execute

TWIN = Twin(people=2, places=8)
LEVELS = {"fb": "1", "qa": "2", "aa": "3"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def row_of(probe: Probe) -> dict[str, Any]:
    kind = {"fb": "cloze", "qa": "simple question"}.get(probe.part, probe.kind)
    return {
        "query": probe.query, "answer": probe.answer, "level": LEVELS[probe.part], "type": kind,
        "subject": probe.subject,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin's data as a folder of the data set's own layout."""
    place = tmp_path_factory.mktemp("rwku")
    records = TWIN.records()
    for side, name in (("forget", "forget"), ("neighbor", "neighbor")):
        for part, level in LEVELS.items():
            probes = [row_of(p) for p in TWIN.probes() if (p.side, p.part) == (side, part)]
            if probes:
                write(place / f"{name}_level{level}.jsonl", probes)
    write(place / "forget_target.jsonl", [{"target": n, "intro": i} for n, i in TWIN.intros.items()])
    for split, config in (("forget_mia", "mia_forget"), ("retain_mia", "mia_retain")):
        write(place / f"{config}.jsonl", [{"subject": r.cluster, "text": r.answer} for r in records[split]])
    for suite, rows in TWIN._drawn()[3].rows().items():
        write(place / f"utility_{suite}.jsonl", [{**row, "subject": TWIN.targets[0]} for row in rows])
    return place


def test_the_whole_data_set_from_a_folder(folder: Path) -> None:
    """The twin's own files give the twin's own splits."""
    load, twin = RWKU(path=str(folder)).load(0), RWKU(people=2, places=8).load(0)
    assert set(load.splits) == set(twin.splits)
    for split, rows in twin.splits.items():
        assert sorted(map(repr, load.splits[split])) == sorted(map(repr, rows)), split
    assert [r.cluster for r in load.forget] == TWIN.targets
    assert load.retain == []
    assert [type(m).__name__ for m in load.metrics] == ["RwkuProbes", "RwkuMembership", "RwkuUtility", "Fluency"]
    assert (load.behaviour, load.attack_score, load.max_new_tokens) == ("rouge", "rouge", 30)
    assert "2 of 2 targets; probes: forget fb 10, forget qa 10, forget aa 18, neighbor fb 16" in load.notes[0]
    assert load.published
    assert load.corpus is not None


def test_one_target_and_what_is_about_it(folder: Path) -> None:
    name = TWIN.targets[1]
    load = RWKU(path=str(folder), targets=(name,)).load(0)
    for split in ("forget", "retain", "forget_mia", "retain_mia"):
        assert {r.cluster for r in load.splits[split]} == {name}
    assert "utility_general" not in load.splits  # its rows are the other target's
    assert any("not measured: utility_general" in note for note in load.notes)
    drawn = [RWKU(path=str(folder), targets=1).load(seed) for seed in range(8)]
    assert {load.forget[0].cluster for load in drawn} == set(TWIN.targets)


def test_suites_and_rows_can_be_left_out(folder: Path) -> None:
    load = RWKU(path=str(folder), utility=("reason", "fluency"), utility_rows=2).load(0)
    assert {s: len(r) for s, r in load.splits.items() if s.startswith("utility")} == {
        "utility_reason": 2, "utility_fluency": 2,
    }  # fmt: skip
    assert RWKU(path=str(folder), utility=()).load(0).metrics[-1].__class__.__name__ == "RwkuMembership"


def test_one_file_of_probes_with_introductions_beside_it(tmp_path: Path) -> None:
    rows = [{**row_of(p), "set": p.side} for p in TWIN.probes()]
    write(tmp_path / "probes.jsonl", rows)
    write(tmp_path / "people.jsonl", [{"target": n, "intro": f"{n}!"} for n in TWIN.targets])
    path = str(tmp_path / "probes.jsonl")
    load = RWKU(path=path).load(0)
    assert set(load.splits) == {"forget", "retain"}
    assert any("go by their names alone" in note for note in load.notes)
    named = RWKU(path=path, introductions=str(tmp_path / "people.jsonl")).load(0)
    assert [r.answer for r in named.forget] == [f"{n}!" for n in TWIN.targets]
    assert not any("names alone" in note for note in named.notes)


def test_without_a_path_it_is_the_twin() -> None:
    benchmark = RWKU(people=2, places=8, world_seed=3, targets=1)
    assert benchmark.world == Twin(2, 8, 3)
    load = benchmark.load(0)
    assert len({r.cluster for r in load.splits["forget"]}) == 1
    assert load.retain == Twin(2, 8, 3).records()["train_retain"]
    assert len(load.refusals) == 4
    assert load.published == ()
    assert RWKU(path="jinzhuoran/RWKU").world is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"utility": ("wit",)}, "utility='wit' must be one of general, reason"),
        ({"utility_rows": -1}, "utility_rows=-1 must not be below 0"),
        ({"corpus": "llama3"}, "corpus='llama3' needs a path"),
        ({"corpora": ("npo:pair",)}, "'npo:pair' must read METHOD=CORPUS"),
        ({"scorers": ("bleu",)}, "unknown scorer 'bleu'"),
        ({"people": 1}, "people=1 must lie between 2 and 32"),
        ({"questions": 0}, "questions=0 must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RWKU(**fields)


def test_wrong_targets_and_openings(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no probes about the target 'Nobody'"):
        RWKU(path=str(folder), targets=("Nobody",)).load(0)
    with pytest.raises(InputError, match="targets=3 must lie between 0"):
        RWKU(people=2, places=8, targets=3).load(0)
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        RWKU(people=2, places=8, openings=str(tmp_path / "none.json")).load(0)


# -- published ----------------------------------------------------------------------------------------


def test_published_numbers_stand_beside_findings_of_the_same_name_and_unit() -> None:
    found = {(p.model, p.method, p.metric, p.split): p.value for p in published()}
    assert len(found) == len(published())
    assert found[LLAMA, "before", "rwku.rouge.fb", "forget"] == 0.859
    assert found[LLAMA, "NPO", "rwku.membership.loss", "forget_mia"] == 2.789
    assert found[LLAMA, "RT", "fluency", "utility_fluency"] == 5.881
    assert found[LLAMA, "GA (LoRA)", "rwku.rouge.all", "retain"] == 0.853
    subject = TWIN.base_subject(hidden=16)
    load = RWKU(people=2, places=8).load(0)
    store = EvidenceStore("m", subject, load.splits)
    short = {RwkuUtility: {"reason_tokens": 2}, Fluency: {"max_new_tokens": 2}, RwkuMembership: {"draws": 5}}
    metrics = [replace(metric, **short.get(type(metric), {})) for metric in load.metrics]  # type: ignore[type-var]
    ours = {(f.metric, f.split) for metric in metrics for f in metric.measure(store, None)}
    assert {(metric, split) for _, _, metric, split in found} <= ours


# -- runs ---------------------------------------------------------------------------------------------


def test_a_run_from_a_folder_with_a_model_of_ones_own(folder: Path, tmp_path: Path) -> None:
    """Another model than the embedded one, on files: a guard and rejection tuning, audited to a scorecard."""
    models = Models(ModelSpec("testbed:base", world=TWIN), tmp_path / "models", seed=0)
    model = models.delivered().folder
    recipe = Recipe.parse(
        {
            "name": "rwku", "out": str(tmp_path / "run"), "cache": str(tmp_path / "cache"), "threads": 1,
            "model": {"source": str(model)},
            "benchmark": {
                "name": "rwku", "path": str(folder), "targets": 1, "questions": 3, "max_new_tokens": 8,
                "utility": ["general"],
            },
            "methods": ["icu", "rejection-tuning", {"name": "dpo", "retain": "none"}],
            "unlearn": {"train": {"steps": 1, "batch_size": 2}},
            "audit": {"control": False, "attacks": [], "draws": 5},
        }
    )  # fmt: skip
    card = execute(recipe)
    names = {"target", "icu", "rejection-tuning", "dpo"}
    assert {f.subject for f in card.findings if f.metric == "rwku.rouge.all"} == names
    assert set(card.verdicts) == names - {"target"}
    notes = " ".join(card.run["notes"])
    assert "rejection-tuning: trained on the refusal corpus" in notes
    assert "dpo: trained on the pair corpus, " in notes
    assert len(list((tmp_path / "cache" / "models" / "corpora").glob("*.jsonl"))) == 3


def test_the_bench_recipe(folder: Path) -> None:
    bench = load_bench("rwku")
    assert [plan.name for plan in bench.methods] == ["icu", "repe", "ga", "npo", "dpo", "rejection-tuning"]
    real = load_bench("rwku", [f"benchmark.path={folder}", "model.source=a-model", "gold.source=another"])
    assert real.recipe(0, Path("x")).benchmark.build().path == str(folder)


# -- the real sample ----------------------------------------------------------------------------------


def test_the_sample_probes_as_a_workload() -> None:
    default = Path(__file__).parents[4] / "shared" / "data" / "rwku"
    place = Path(os.environ.get("EXPUNGE_RWKU_DIR", default))
    if not (place / "example_probes.jsonl").is_file():
        pytest.skip("RWKU's sample files are not here (EXPUNGE_RWKU_DIR)")
    load = RWKU(
        path=str(place / "example_probes.jsonl"), introductions=str(place / "targets.jsonl"),
        openings=str(place / "truncated_outputs.json"), targets=("Stephen King",),
    ).load(0)  # fmt: skip
    assert {split: len(rows) for split, rows in load.splits.items()} == {"forget": 20, "retain": 11}
    assert load.corpus is not None
    assert len(load.corpus.how.openings) == 582  # type: ignore[attr-defined]
    assert load.corpus.how.openings[0] == ""  # type: ignore[attr-defined]
    assert isinstance(load.metrics[0], RwkuProbes)
    assert isinstance(load.splits["forget"][0], Record)
    with pytest.raises(InputError, match=r"'steven king'. Did you mean 'Stephen King'"):
        RWKU(path=str(place / "example_probes.jsonl"), targets=("steven king",)).load(0)
