"""One bench recipe for several benches (`variants`), columns that are shown and not judged (`tuning.show`), and the
judged columns that only some wings have."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from expunge.bench.board import Board, Row, explanations, markdown, ranked, reference_rows, row_of, to_dict
from expunge.bench.cells import Job, study_key
from expunge.bench.grid import run_bench
from expunge.bench.judge import DISTANCES, distance_of, excess_of, values_of
from expunge.bench.reading import load_bench, load_variants
from expunge.bench.settings import Bench
from expunge.cli import app
from expunge.errors import InputError
from expunge.report.assemble import ChannelReading, ModelAudit
from expunge.report.scorecard import Finding, Scorecard
from tiny_bench import Inline, tiny

STEADY = {"batch_size": 512, "lr": 2e-2, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
RAW: dict[str, Any] = {
    "name": "two",
    "model": {"source": "testbed"},
    "benchmark": {"name": "recommend", "share": 0.1, "d": 8, "k": 10},
    "target": {"train": {"steps": 60, **STEADY}},
    "gold": {"source": "retrain", "seeds": 2},
    "unlearn": {"train": {"steps": 4, **STEADY}},
    "tuning": {"trials": 0, "floor": 0.5, "show": ["recall_at_10@test", "mi_bf@forget", "ks.gold@forget"]},
    "methods": [{"name": "drop-edges", "search": {}}, {"name": "row-reset", "search": {}}],
    "audit": {"control": False, "draws": 20, "attacks": [{"name": "relearn", "steps": [2], "seeds": 1}]},
    "variants": {"users": ["benchmark.request=users"], "edges": ["benchmark.request=edges", "benchmark.share=0.05"]},
}


def written(folder: Path, **changes: Any) -> str:
    """The recipe as a file, with some of its sections replaced; None takes one out."""
    raw = {k: v for k, v in {**copy.deepcopy(RAW), "cache": str(folder / "cache"), **changes}.items() if v is not None}
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return str(path)


def request_of(bench: Bench) -> str:
    return str(bench.recipe(0, bench.out).benchmark.fields["request"])


# -- reading --------------------------------------------------------------------------------------------


def test_each_variant_is_a_bench_with_a_name_and_a_folder_of_its_own(tmp_path: Path) -> None:
    users, edges = load_variants(written(tmp_path), out=tmp_path / "out", seeds=2)
    assert (users.name, edges.name) == ("two-users", "two-edges")
    assert (users.out, edges.out) == (tmp_path / "out" / "users", tmp_path / "out" / "edges")
    assert (request_of(users), request_of(edges)) == ("users", "edges")
    shares = [b.recipe(0, b.out).benchmark.fields["share"] for b in (users, edges)]
    assert shares == [0.1, 0.05]  # what one variant changes, the next does not have
    assert users.seeds == edges.seeds == (0, 1)
    assert "variants" not in users.run
    assert Job("reference", users, 0).key != Job("reference", edges, 0).key


def test_without_a_folder_asked_for_they_lie_in_the_recipes(tmp_path: Path) -> None:
    for changes, folder in (({"out": "somewhere"}, "somewhere"), ({}, "runs/bench-two")):
        found = load_variants(written(tmp_path, **changes))
        assert [b.out for b in found] == [Path(folder) / "users", Path(folder) / "edges"]


def test_overrides_methods_and_trials_reach_every_variant(tmp_path: Path) -> None:
    changes = ["benchmark.d=4", "variants.edges=[benchmark.request=items]"]
    found = load_variants(written(tmp_path), changes, methods="row-reset", trials=3)
    assert [request_of(b) for b in found] == ["users", "items"]
    assert [b.recipe(0, b.out).benchmark.fields["d"] for b in found] == [4, 4]
    assert [[p.name for p in b.methods] for b in found] == [["row-reset"]] * 2
    assert [b.tuning.trials for b in found] == [3, 3]


def test_a_recipe_without_variants_is_one_bench(tmp_path: Path) -> None:
    (alone,) = load_variants(written(tmp_path, variants=None), out=tmp_path / "out")
    assert (alone.name, alone.out) == ("two", tmp_path / "out")
    assert alone == load_bench(written(tmp_path, variants=None), out=tmp_path / "out")
    (again,) = load_variants(written(tmp_path), ["variants=null"], out=tmp_path / "out")
    assert again == alone


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": ["users"]}, r"two\.yaml: variants: a mapping of names to lists of KEY=VALUE"),
        ({"variants": {}}, "variants: a mapping of names to lists"),
        ({"variants": {"users": "benchmark.request=users"}}, "variants: a mapping of names to lists"),
        ({"variants": {"users": [{"benchmark.request": "users"}]}}, "variants: a mapping of names to lists"),
        ({"variants": {"users": None}}, "variants: a mapping of names to lists"),
        ({"variants": {"users": ["benchmark.request"]}}, "benchmark.request"),
        ({"variants": {"users": ["benchmark.request=user"]}}, "two.yaml, variant users: .*user"),
        ({"variants": {"a": [], "users": ["benchmark.shre=0.1"]}}, "two.yaml, variant users: .*shre"),
        ({"variants": {"a/b": []}}, "two.yaml, variant a/b: .*name"),
        ({"variants": {"..": []}}, r"a variant cannot be called '\.\.'"),
        ({"name": None}, "two.yaml, variant users: .*name"),
        ({"tuning": {"show": ["recall_at_10"]}}, "tuning.show"),
        ({"tuning": {"show": "recall_at_10@test"}}, "tuning.show"),
    ],
)
def test_bad_variants_and_columns_are_told_in_one_sentence(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_variants(written(tmp_path, **changes), out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_plain_bench_does_not_take_variants(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="variants"):
        load_bench(written(tmp_path))


@pytest.mark.parametrize("name", ["recommend", "recommend-ml-100k"])
def test_the_packaged_recommender_benches_train_their_target_as_the_benchmark_says(name: str) -> None:
    bench, *_ = load_variants(name)
    recipe = bench.recipe(0, bench.out)
    assert recipe.target is not None
    assert recipe.target.train == recipe.benchmark.build().target_training


@pytest.mark.parametrize("name", ["recommend", "recommend-ml-100k"])
def test_the_packaged_recommender_benches_ask_four_kinds_of_request(name: str) -> None:
    found = load_variants(name)
    assert [request_of(b) for b in found] == ["users", "items", "edges", "adversarial"]
    assert {b.out.parent for b in found} == {Path(f"runs/bench-{name}")}
    for bench in found:
        names = {plan.name for plan in bench.methods}
        assert {"retrain", "drop-edges", "row-reset", "unlearnrec", "mmrecun"} <= names
        assert bench.tuning.show
        assert not bench.skipped


def test_the_command_shows_the_plan_of_every_variant(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", written(tmp_path), "--dry-run", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    plans = [json.loads("{" + text) for text in re.findall(r"(?s)^\{(.*?^\})", done.output, re.MULTILINE)]
    assert [plan["name"] for plan in plans] == ["two-users", "two-edges"]
    assert not (tmp_path / "out").exists()


# -- columns --------------------------------------------------------------------------------------------

SHOW = ["recall_at_10@test", "ks.gold@forget"]


def measured(tmp_path: Path, run: dict[str, Any]) -> dict[str, float]:
    """Of a model whose second cluster is judged; the first is what a search saw."""
    readings = [
        ChannelReading("direct", "", 0.0, [0, 1, 1], [1.0, 0.0, 0.5]),
        ChannelReading("inside", "", 0.0, [0, 1, 1], [1.0, 0.5, 1.0]),
    ]
    ModelAudit("m", "w", utility=0.3, degenerate=False, readings=readings).save(tmp_path / "audit" / "m.json")
    values = (
        ("membership.loss.auroc", "forget", 0.7), ("membership.pairs.auroc", "forget", 0.6),
        ("recall_at_10", "test", 0.25), ("recall_at_10", "forget", 0.9), ("ks.gold", "forget", float("nan")),
    )  # fmt: skip
    findings = [Finding(metric, split, "m", v, 0.0, 1.0, 4, "match-gold") for metric, split, v in values]
    card = Scorecard(findings=findings, run=run)
    return values_of(tmp_path, "m", {"forget": [1]}, card, 0.8, SHOW)


def test_what_is_read_from_the_inside_is_judged_on_the_same_subjects(tmp_path: Path) -> None:
    found = measured(tmp_path, {})
    assert (found["forget"], found["inside"]) == (0.25, 0.75)


def test_membership_is_the_attack_of_the_runs_summary(tmp_path: Path) -> None:
    assert measured(tmp_path, {})["membership"] == 0.7  # before summaries had columns
    columns = [["recall", "recall_at_10", "test"], ["AUROC", "membership.pairs.auroc", "forget"]]
    assert measured(tmp_path, {"columns": columns})["membership"] == 0.6


def test_shown_findings_are_read_of_their_split_and_left_out_where_they_are_no_number(tmp_path: Path) -> None:
    found = measured(tmp_path, {})
    assert found["recall_at_10@test"] == 0.25
    assert "ks.gold@forget" not in found


GOLD = {"forget": 0.1, "membership": 0.5, "inside": 0.2, "relearned": 0.2, "retain": 1.0, "recall_at_10@test": 0.3}


def board(show: list[str] | None = None) -> tuple[Board, Row]:
    own = {**GOLD, "forget": 0.2, "inside": 0.6, "recall_at_10@test": 0.25}
    excess = excess_of(own, GOLD)
    cell = {"values": own, "excess": excess, "distance": distance_of(excess), "utility": 1.0, "verdict": "damaged",
            "seconds": 2.0, "settings": {}}  # fmt: skip
    row = row_of("npo", [cell], 1, 0.9, None)
    references = reference_rows([{"values": {"target": {**GOLD, "forget": 1.0}, "gold": GOLD}}])
    tuning = {"trials": 0, "seeds": 1, "share": 0.5, "show": SHOW if show is None else show}
    return Board("tiny", (0,), 0.9, tuning, references, ranked([row])), row


def test_shown_findings_stand_beside_the_judged_and_do_not_count() -> None:
    shown, row = board()
    assert set(row.excess) == {"forget", "membership", "inside", "relearned"}
    assert row.distance is not None
    assert row.distance.mean == pytest.approx((0.1 + 0.4) / 4)
    heads, cells = shown.headings(), shown.cells(row)
    assert len(heads) == len(cells)
    place = heads.index("inside")
    assert cells[place] == "+0.400"
    assert heads.index(DISTANCES["membership"][0]) < place  # judged columns come before those that are only shown
    assert cells[heads.index("utility") - 2 :][:2] == ["0.250", "–"]  # the second was not measured
    assert len(shown.headings(wide=False)) == len(shown.cells(row, wide=False)) == len(heads) - 2
    bare, _ = board([])
    assert [h for h in heads if h not in bare.headings()] == heads[-4:-2]


def test_every_column_is_explained_and_the_files_hold_the_shown_values() -> None:
    shown, _ = board()
    words = "\n".join(explanations(shown))
    heads = shown.headings()
    for head in (*heads[-4:-2], "inside", DISTANCES["membership"][0]):
        assert f"{head}: " in words, head
    assert "reworded: " not in words  # nobody measured it
    table = [line for line in markdown(shown).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(heads) + 2}
    (method,) = to_dict(shown)["methods"]
    assert method["values"]["recall_at_10@test"]["mean"] == 0.25
    assert "recall_at_10@test" not in method["excess"]


def test_another_column_asks_for_measurements_again_and_for_no_search(tmp_path: Path) -> None:
    plain = tiny(tmp_path / "out")
    other = replace(plain, tuning=plain.tuning.model_copy(update={"show": ["accuracy@retain"]}))
    assert study_key(plain, "npo") == study_key(other, "npo")
    for kind in ("reference", "cell"):
        keys = {Job(kind, b, 0, "npo" if kind == "cell" else "", {"lr": 1e-3, "retain_weight": 1.0}).key
                for b in (plain, other)}  # fmt: skip
        assert len(keys) == 2


# -- whole benches --------------------------------------------------------------------------------------


def test_a_recommender_bench_with_variants_leaves_a_leaderboard_for_each(tmp_path: Path) -> None:
    boards = {}
    for bench in load_variants(written(tmp_path), out=tmp_path / "out"):
        engine = Inline()
        boards[bench.name.removeprefix("two-")] = run_bench(bench, lambda engine=engine: engine)  # type: ignore[misc]
        assert (bench.out / "leaderboard.html").is_file()
    found = {}
    for name, shown in boards.items():
        assert not shown.failed
        assert {row.name for row in shown.references} == {"target", "gold", "gold_2"}
        assert shown.judged == ["forget", "membership", "relearned"]  # no other wordings, no features within
        raw = json.loads((tmp_path / "out" / name / "leaderboard.json").read_text())
        by_name = {row["name"]: row for row in (*raw["references"], *raw["methods"])}
        assert set(by_name["row-reset"]["values"]) >= set(RAW["tuning"]["show"])
        assert by_name["gold"]["values"]["ks.gold@forget"]["mean"] == 0.0
        assert by_name["gold_2"]["values"]["ks.gold@forget"]["mean"] > 0.0
        found[name] = by_name
    # whole users: fresh rows are nearly gold, dropping edges is not; single interactions: the two are the same
    users, edges = found["users"], found["edges"]
    assert users["row-reset"]["distance"]["mean"] < 0.5 * users["drop-edges"]["distance"]["mean"]
    assert edges["row-reset"]["values"]["membership"] == edges["drop-edges"]["values"]["membership"]
    assert users["target"]["excess"]["membership"]["mean"] > 0.2
    assert users["target"]["values"]["membership"]["mean"] > 0.8
