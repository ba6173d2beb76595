"""TOFU from local files of its own layout, made here so that the suite needs no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.bench.reading import load_bench
from expunge.errors import InputError
from expunge.language.audit import audit_model
from expunge.language.benchmarks.tofu import TOFU, by_author, published
from expunge.language.data import Record, read_records
from expunge.language.evidence import EvidenceStore
from tiny_bed import Bed


def rows(prefix: str, count: int, wrong: int, paraphrase: bool) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for i in range(count):
        row: dict[str, object] = {"question": f"Who is {prefix} {i}?", "answer": f"{prefix} {i} is a writer."}
        row["perturbed_answer"] = [f"{prefix} {i} is a {job}." for job in ("nurse", "cook", "judge", "pilot", "clerk")][
            :wrong
        ]
        if paraphrase:
            row["paraphrased_question"] = f"Tell me who {prefix} {i} is."
            row["paraphrased_answer"] = f"A writer is what {prefix} {i} is."
        made.append(row)
    return made


def write(path: Path, content: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """forget10 has 400 rows, 20 per author; forget05 and forget01 are its tails, as in the real files."""
    where = tmp_path_factory.mktemp("tofu")
    forget, retain = rows("Ada", 400, 5, True), rows("Bo", 400, 5, True)
    for name, tail in (("forget10", 400), ("forget05", 200), ("forget01", 40)):
        write(where / f"{name}_perturbed.jsonl", forget[-tail:])
        write(where / f"{name}.jsonl", [{k: r[k] for k in ("question", "answer")} for r in forget[-tail:]])
    write(where / "retain_perturbed.jsonl", retain)
    for name in ("retain90", "retain95", "retain99"):
        write(where / f"{name}.jsonl", [{k: r[k] for k in ("question", "answer")} for r in retain])
    for name in ("real_authors", "world_facts"):
        write(where / f"{name}_perturbed.jsonl", rows(name, 30, 3, False))
    return where


@pytest.mark.parametrize(("split", "authors"), [("forget10", 20), ("forget05", 10), ("forget01", 2)])
def test_published_splits_keep_authors_together(folder: Path, split: str, authors: int) -> None:
    work = TOFU(path=str(folder), forget_split=split).load(0)  # type: ignore[arg-type]
    assert len(work.forget) == 20 * authors
    assert len({r.cluster for r in work.splits["forget"]}) == authors
    assert [r.question for r in work.forget] == [r.question for r in work.splits["forget"]]
    assert "holdout" not in work.splits
    assert any("holdout" in note for note in work.notes)


def test_a_few_authors(folder: Path) -> None:
    work = TOFU(path=str(folder), authors=6, forget_authors=2, holdout_authors=1, world_rows=5).load(0)
    sizes = {name: len(records) for name, records in work.splits.items()}
    assert sizes == {
        "forget": 40,
        "retain": 80,
        "holdout": 20,
        "forget_paraphrase": 40,
        "real_authors": 5,
        "world_facts": 5,
    }
    trained = {r.answer for r in (*work.forget, *work.retain)}
    assert not trained & {r.answer for r in work.splits["holdout"]}
    assert work.splits["forget_paraphrase"][0].question == "Tell me who Ada 360 is."


def test_rows_per_author_thins_every_author(folder: Path) -> None:
    work = TOFU(path=str(folder), authors=4, forget_authors=1, holdout_authors=1, rows_per_author=3).load(0)
    assert [len(work.splits[s]) for s in ("forget", "retain", "holdout")] == [3, 9, 3]


def test_the_suite_runs_on_the_test_bed(folder: Path, bed: Bed) -> None:
    """The embedded model knows nothing of these authors; what matters is that every metric is defined."""
    work = TOFU(path=str(folder), authors=4, forget_authors=2, holdout_authors=2, rows_per_author=2, world_rows=3).load(
        0
    )
    gold = EvidenceStore("gold", bed.gold, work.splits, max_new_tokens=4)
    target = EvidenceStore("target", bed.target, work.splits, max_new_tokens=4)
    audit = audit_model(target, gold, work, {}, seed=0)
    found = {f.metric for f in audit.findings}
    assert {"probability", "rouge_l", "truth_ratio", "forget_quality", "model_utility"} <= found
    assert {"extraction_strength", "exact_memorization", "membership.min_k.auroc"} <= found
    assert len(audit.truth_ratio) == 4


def test_bad_settings_and_missing_files_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"forget_split='forget20'"):
        TOFU(forget_split="forget20")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="forget_authors=5"):
        TOFU(authors=5, forget_authors=5)
    with pytest.raises(InputError, match="not a folder"):
        TOFU(path=str(tmp_path / "nowhere")).load(0)
    with pytest.raises(InputError, match=r"forget10.jsonl: no such file"):
        TOFU(path=str(tmp_path)).load(0)
    with pytest.raises(InputError, match="20 authors on each side"):
        TOFU(path=str(folder), authors=30, forget_authors=2).load(0)


def test_by_author_counts_rows() -> None:
    clusters = [r.cluster for r in by_author([Record("q", "a")] * 45)]
    assert [clusters.count(c) for c in dict.fromkeys(clusters)] == [20, 20, 5]


def test_the_real_files_when_they_are_there(tofu: Path) -> None:
    """forgetXX are the last XX% of full, and the perturbed file has the same rows in the same order."""
    full = read_records(tofu / "full.jsonl")
    work = TOFU(path=str(tofu)).load(0)
    assert [r.question for r in work.forget] == [r.question for r in full[-400:]]
    assert [r.answer for r in work.retain] == [r.answer for r in full[:3600]]
    assert [r.answer for r in work.splits["forget"]] == [r.answer for r in work.forget]
    assert all(len(r.perturbed_answers) == 5 for r in work.splits["forget"])
    assert {len(r.perturbed_answers) for r in work.splits["world_facts"]} == {3}


def test_published_numbers_go_with_the_forget_set() -> None:
    """Sixteen models with three numbers for forget10, NPO alone for the others; gold's forget quality is 1."""
    ten, five = published("forget10"), published("forget05")
    assert len(ten) == 16 * 3
    assert {(p.method, p.metric) for p in five} == {("NPO", "forget_quality"), ("NPO", "model_utility")}
    assert all(p.value == 1 for p in ten if (p.method, p.metric) == ("gold", "forget_quality"))


def test_the_bench_recipe_wants_a_model_and_draws_its_searches_from_one_rate(folder: Path) -> None:
    with pytest.raises(InputError, match=r"model\.source: is required"):
        load_bench("tofu")
    given = [f"benchmark.path={folder}", "model.source=a-model", "unlearn.train.lr=4e-4"]
    bench = load_bench("tofu", given)
    assert [plan.name for plan in bench.methods] == [
        "ga", "grad-diff", "kl-min", "idk", "dpo", "npo", "simnpo", "rmu", "undial",
    ]  # fmt: skip
    for plan in bench.methods:
        assert {d.name: (d.low, d.high) for d in plan.space}["lr"] == (1e-4, 3.2e-3)
    assert [d.name for d in bench.plan("npo").space] == ["lr", "forget_weight", "retain_weight"]
    recipe = bench.recipe(0, Path("x"))
    assert recipe.gold is not None
    assert recipe.gold.source == "retrain"
    assert len(recipe.benchmark.build().load(0).forget) == 400
    known = load_bench("tofu", [*given, "target=null", "gold.source=another"]).recipe(0, Path("x"))
    assert (known.target, known.model.source) == (None, "a-model")
