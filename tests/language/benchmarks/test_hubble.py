"""The benchmark: settings, a run on a very small bed, Hubble's own sets, and the packaged bench recipe."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.bench.reading import load_bench
from expunge.errors import InputError
from expunge.language.benchmarks.hubble import Hubble
from expunge.language.data import require_disjoint
from expunge.language.hubble_documents import KINDS
from expunge.language.insertion_verdict import judge_run
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics.duplicate_response import DuplicateResponse
from expunge.language.metrics.insertion_probes import InsertionProbes
from expunge.language.metrics.paraphrase_preference import ParaphrasePreference
from expunge.language.metrics.verbatim_extraction import VerbatimExtraction
from expunge.recipe import Recipe
from expunge.runner import execute

TINY: dict[str, Any] = {
    "doses": (0, 1, 8), "texts": (8, 2, 10), "beside": (4, 1, 2), "forget_d": 8, "forget": 4, "rows": 160,
    "hidden": 16, "background": 8, "probed": 1,
}  # fmt: skip


def test_what_is_forgotten_and_kept_stands_in_the_stream_as_often() -> None:
    benchmark = Hubble()
    world, work = benchmark.world, benchmark.load(0)
    assert isinstance(world, InsertionWorld)
    drawn = world.insertion.groups()
    for split, d in (("forget", 16), ("retain", 16), ("d=16", 16), ("d=64", 64), ("d=1", 1), ("holdout", 0)):
        assert {drawn[r.cluster][0] for r in work.splits[split]} == {d}
    assert len(work.forget) == 16
    assert len(work.splits["retain"]) == 12
    assert len(work.splits["holdout"]) == 60
    require_disjoint(work.forget, work.retain, "retain")
    require_disjoint(work.splits["retain"], work.retain, "shown")
    assert not {r.cluster for r in work.splits["holdout"]} & {r.cluster for r in (*work.forget, *work.retain)}
    assert all(r.question and r.answer for r in work.forget)  # asked by name, so that a refusal can be taught
    assert work.behaviour == "rouge"
    assert work.published == ()
    assert "1204 copies of 196 texts" in work.notes[0]


def test_data_do_not_depend_on_the_seed_of_the_run() -> None:
    assert Hubble(**TINY).load(0).splits == Hubble(**TINY).load(5).splits
    assert Hubble(**TINY).load(0).splits != Hubble(**{**TINY, "world_seed": 1}).load(0).splits


def test_other_kinds_bring_their_own_measures() -> None:
    work = Hubble(**{**TINY, "rows": 400, "kinds": tuple(KINDS)}).load(0)
    metrics = {type(m): m for m in work.metrics}
    assert metrics[ParaphrasePreference].splits == ("paraphrases d=0", "paraphrases d=1", "paraphrases d=8")
    for split in metrics[ParaphrasePreference].splits:
        for record in work.splits[split]:
            assert not record.question
            assert len(record.perturbed_answers) == 1
    tasks = {c.task for c in metrics[InsertionProbes].asked}
    assert {"id", "chat.user", "chat.persona", "biography.full", "biography.name"} <= tasks
    assert any(task.startswith("items.") for task in tasks)
    assert all(r.cluster.startswith("biography") for split in ("forget", "holdout", "d=8") for r in work.splits[split])
    assert InsertionProbes not in {type(m) for m in Hubble(**{**TINY, "probed": 0}).load(0).metrics}


def test_standard_models_as_gold_may_know_nothing_at_all() -> None:
    def unread(benchmark: Hubble) -> tuple[str, ...]:
        return next(m.unread for m in benchmark.load(0).metrics if isinstance(m, DuplicateResponse))

    assert unread(Hubble(**TINY)) == ("forget",)
    assert unread(Hubble(**{**TINY, "gold": "standard"})) == ("forget", "retain", "d=1", "d=8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": ("novels",)}, "unknown kind of documents 'novels'"),
        ({"kinds": ()}, "at least one, and none twice"),
        ({"texts": (1, 2)}, "texts has 2 numbers and doses 3"),
        ({"beside": (1, 2)}, "beside has 2 numbers and doses 3"),
        ({"doses": (0, 8, 8)}, "must all be different"),
        ({"texts": (12, -1, 14)}, "no number negative"),
        ({"forget_d": 4}, "forget_d=4 must be one of the doses above 0"),
        ({"forget_d": 0}, "forget_d=0"),
        ({"shown": 1.0}, "shown=1.0"),
        ({"rows": 0}, "rows=0"),
        ({"hidden": 12}, "hidden=12"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Hubble(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"doses": (1, 4, 8)}, "no text with d=0"),
        ({"rows": 20}, r"\d+ copies and \d+ slots"),
        ({"window": 20}, "and a window has 20"),
        ({"forget": 10}, "forget=10 of the 10 texts"),
        ({"start": 0.9, "end": 0.2}, "timing="),
        ({"documents": "nowhere.jsonl"}, "no such file"),
        ({"data": "/nowhere/x_nodup.jsonl.gz"}, "no such file or folder"),
    ],
)
def test_a_bed_that_cannot_be_made(changes: dict[str, Any], words: str) -> None:
    def make() -> None:
        benchmark = Hubble(**{**TINY, **changes})
        benchmark.load(0)
        world = benchmark.world  # the places are drawn when a model is trained
        assert world is not None
        world.insertion.insert(world.tokenizer())

    with pytest.raises(InputError, match=words):
        make()


# -- a run --------------------------------------------------------------------------------------------


def recipe(folder: Path, **changes: Any) -> Recipe:
    return Recipe.parse(
        {
            "name": "tiny",
            "out": str(folder / "run"),
            "cache": str(folder / "cache"),
            "threads": 1,
            "model": {"source": "testbed"},
            "benchmark": {"name": "hubble", **TINY, "probed": 0},
            "target": {"train": {"epochs": 3, "batch_size": 16, "optimizer": "muon", "lr": 4e-3}},
            "gold": {"source": "retrain"},
            "unlearn": {"train": {"steps": 2, "batch_size": 6, "lr": 1e-3}},
            "methods": ["grad-diff"],
            "audit": {"control": False, "draws": 20, "attacks": []},
            **changes,
        }
    )


def test_a_run_measures_target_gold_and_method_on_the_bed(tmp_path: Path) -> None:
    card = execute(recipe(tmp_path))
    found = {(f.metric, f.split, f.subject): f.value for f in card.findings}
    assert found["hubble.gap.nll", "forget", "gold"] == pytest.approx(1)
    assert found["hubble.gap.nll", "forget", "target"] == found["hubble.gap.nll", "retain", "target"] == 0
    verdict = judge_run(card, "target")
    assert verdict is not None
    assert verdict.flags == ("not-forgotten",)
    assert judge_run(card, "grad-diff") is not None
    for subject in ("target", "gold", "grad-diff"):
        for split in ("forget", "retain", "holdout", "d=1", "d=8"):
            assert ("hubble.nll", split, subject) in found
        assert ("hubble.membership.min_k.p", "d=8", subject) in found
        assert ("hubble.relearning_saved", "forget", subject) in found
    assert found["hubble.nll", "forget", "target"] < found["hubble.nll", "forget", "gold"] - 0.2
    assert found["hubble.membership.loss.auroc", "d=8", "target"] > 0.7
    models = {p.name for p in (tmp_path / "cache" / "models").iterdir()}
    execute(recipe(tmp_path))  # everything is kept
    assert {p.name for p in (tmp_path / "cache" / "models").iterdir()} == models


def test_steps_instead_of_passes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target\.train\.steps=3: .* leave steps out"):
        execute(recipe(tmp_path, target={"train": {"steps": 3}}))


def test_the_packaged_bench_is_a_valid_one() -> None:
    bench = load_bench("hubble", (), methods=None, seeds=1, trials=0, out=None)
    assert [plan.name for plan in bench.methods] == ["grad-diff", "npo", "satimp", "rmu"]
    assert bench.run["benchmark"] == "hubble"
    assert bench.recipe(0, Path("x")).gold is not None


# -- Hubble's own sets --------------------------------------------------------------------------------


def published(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    lines = [json.dumps({**row, "meta": json.dumps(row["meta"])}) for row in rows]
    path = folder / f"{name}_nodup.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return str(path)


def rows(count: int = 40, **meta: Any) -> list[dict[str, Any]]:
    doses = (0, 1, 4, 256)
    return [
        {"text": f"Text number {i} of a set about nothing.", "meta": {"duplicates": doses[i % 4], "id": i, **meta}}
        for i in range(count)
    ]


def test_a_published_set_divides_its_most_repeated_texts(tmp_path: Path) -> None:
    benchmark = Hubble(data=published(tmp_path, "passages_wikipedia", rows()), forget_d=256, forget=4, shown=0.5)
    assert benchmark.world is None
    work = benchmark.load(0)
    assert {name: len(found) for name, found in work.splits.items()} == {
        "forget": 4, "retain": 3, "holdout": 10, "d=1": 10, "d=4": 10,
    }  # fmt: skip
    assert len(work.retain) == 3
    most = {r["text"] for r in rows() if r["meta"]["duplicates"] == 256}
    assert {r.answer for r in (*work.forget, *work.retain, *work.splits["retain"])} == most
    assert {r.answer for r in work.splits["holdout"]} == {r["text"] for r in rows() if not r["meta"]["duplicates"]}
    assert work.behaviour == work.attack_score == "token"
    verbatim = next(m for m in work.metrics if isinstance(m, VerbatimExtraction))
    assert verbatim.prefixes == (25, 50, 75, 100)
    assert verbatim.max_new_tokens == 500
    assert next(m for m in work.metrics if isinstance(m, DuplicateResponse)).unread == (
        "forget",
        "retain",
        "d=1",
        "d=4",
    )
    assert work.notes[0].startswith("passages_wikipedia: 10 texts with d=0, 10 texts with d=1")


def test_a_published_set_of_paraphrases_is_measured_as_pairs(tmp_path: Path) -> None:
    content = rows()
    for row in content:
        row["meta"] |= {"sentence1": row["text"], "sentence2": row["text"].replace("about", "on")}
    work = Hubble(data=published(tmp_path, "paraphrases_paws", content), forget_d=256, forget=4).load(0)
    metric = next(m for m in work.metrics if isinstance(m, ParaphrasePreference))
    assert set(metric.splits) <= set(work.splits)
    assert work.splits["paraphrases d=4"][0].perturbed_answers[0].endswith("on nothing.")


def test_a_published_set_without_a_group_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path, "passages_wikipedia", rows())
    with pytest.raises(InputError, match="no text with d=16; there are 0, 1, 4, 256"):
        Hubble(data=path).load(0)
    with pytest.raises(InputError, match="forget=10 of 10 texts"):
        Hubble(data=path, forget_d=256, forget=10).load(0)
    only = published(tmp_path, "passages_wikipedia", [r for r in rows() if r["meta"]["duplicates"]])
    with pytest.raises(InputError, match="no text with d=0"):
        Hubble(data=only, forget_d=256, forget=4).load(0)
