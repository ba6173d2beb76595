"""The suite in an audit: any task or split in, findings and paired changes out; wrong names before anything runs."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expunge.errors import InputError
from expunge.language.guarded import Guarded
from expunge.language.harness import evaluate_tasks
from expunge.language.harness_suite import Suite, check_tasks, choice_task, run_suite
from expunge.language.methods.whp_logits import WHPLogits
from expunge.language.subject import Subject, add_lora
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit, assemble
from tiny_bed import Bed

pytest.importorskip("lm_eval")


def test_a_split_becomes_multiple_choice(bed: Bed) -> None:
    """The target knows the retained people; gold does not know the forgotten ones and guesses among six."""
    suite = Suite(["split:retain", "split:forget"])
    found, readings = run_suite(bed.target, "target", bed.records, suite, 0)
    value = {(f.split, f.metric): f.value for f in found}
    assert value["split_retain", "harness.acc"] > 0.95
    assert value["split_forget", "harness.acc"] > 0.95
    gold, _ = run_suite(bed.gold, "gold", bed.records, suite, 0)
    value = {(f.split, f.metric): f.value for f in gold}
    assert value["split_retain", "harness.acc"] > 0.95
    assert value["split_forget", "harness.acc"] < 0.5
    reading = next(r for r in readings if r.task == "split_forget")
    assert len(reading.values) == len(bed.records["forget"])
    assert reading.about["begin_token"] is True


def test_options_are_shuffled_and_the_seed_repeats(bed: Bed) -> None:
    rows = bed.records["retain"]
    first, again, other = (choice_task("retain", rows, seed)["custom_dataset"]()["test"] for seed in (0, 0, 1))
    assert first[:] == again[:] != other[:]
    for record, row in zip(rows, first, strict=True):
        assert row["options"][row["gold"]] == record.answer
        assert sorted(row["options"]) == sorted([record.answer, *record.perturbed_answers])
    share = sum(row["gold"] == 0 for row in first) / len(rows)
    assert 0.05 < share < 0.35  # one in six


def test_constant_logits_answer_by_chance_and_perplexity_is_closed_form(bed: Bed) -> None:
    """All logits equal: options of one length tie and the first counts; byte perplexity is V^(tokens / bytes)."""
    subject = bed.fresh()
    with torch.no_grad():
        for p in subject.model.parameters():
            p.zero_()
    text = "Where was Ridos Nosava born?"
    from datasets import Dataset

    task = {
        "task": "flat", "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": text}])},
        "output_type": "loglikelihood_rolling", "test_split": "test", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }  # fmt: skip
    (result,) = evaluate_tasks(subject, [task])
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    vocabulary = subject.model.config.vocab_size
    assert result.metrics["byte_perplexity"] == pytest.approx(vocabulary ** (len(ids) / len(text)), rel=1e-5)


def test_fresh_adapters_and_a_guard_of_no_weight_change_no_answer(bed: Bed) -> None:
    """An offset of weight 0 is the model itself, one of weight 20 is not: the suite goes through the guard."""
    suite = Suite(["split:retain"], limit=8)
    _, plain = run_suite(bed.target, "m", bed.records, suite, 0)
    adapted = add_lora(bed.fresh(), 4, 8, "all-linear", 0.0, 0)
    assert run_suite(adapted, "m", bed.records, suite, 0)[1] == plain

    def guarded(alpha: float) -> Subject:
        model = Guarded(copy.deepcopy(bed.gold.model), bed.fresh().model, WHPLogits(alpha=alpha)).eval()
        return bed.gold.with_model(model)

    forget = Suite(["split:forget"])
    bare, still, served = (
        run_suite(s, "m", bed.records, forget, 0)[1][0].values for s in (bed.gold, guarded(0.0), guarded(20.0))
    )
    assert still == bare
    assert sum(served) < sum(bare)  # what the other model knows is pushed down


def test_changes_from_the_target_are_paired_in_the_scorecard(bed: Bed) -> None:
    """The same facts under a name that is to be kept are a loss; under one that is to be forgotten they are none."""
    splits = {**bed.records, "kept": bed.records["forget"]}
    suite = Suite(["split:retain", "split:forget", "split:kept"])
    audits = {}
    for name, subject in (("target", bed.target), ("npo", bed.gold)):
        found, tasks = run_suite(subject, name, splits, suite, 0)
        audits[name] = ModelAudit(name, name, 1.0, False, found, tasks=tasks)
        goals = {f.split: f.direction for f in found}
        assert goals == {"split_retain": "higher", "split_forget": "match-gold", "split_kept": "higher"}
    rows = assemble(audits, {}, tolerance=0.05).curves["suite"]["rows"]
    change = {(r["task"], r["metric"]): r["change"] for r in rows if "change" in r}
    assert change["split_kept", "acc"]["verdict"] == "lost"
    assert change["split_kept", "acc"]["p"] < 0.01
    assert change["split_retain", "acc"]["verdict"] in ("kept", "open")
    assert ("split_forget", "acc") not in change
    assert all("change" not in r for r in rows if r["model"] == "target")


def test_an_audit_survives_its_file(bed: Bed, tmp_path: Path) -> None:
    _, tasks = run_suite(bed.target, "m", bed.records, Suite(["split:retain"], limit=3), 0)
    audit = ModelAudit("m", "w", 1.0, False, tasks=tasks)
    audit.save(tmp_path / "m.json")
    assert ModelAudit.load(tmp_path / "m.json") == audit


def test_what_results_depend_on_is_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("task: own\n", encoding="utf-8")
    first = Suite([str(file)]).content()
    file.write_text("task: own\n# changed\n", encoding="utf-8")
    assert Suite([str(file)]).content() != first
    assert Suite(["split:retain"], limit=3).content() != Suite(["split:retain"]).content()
    assert Suite().content() == {}


def test_wrong_names_come_before_anything_runs(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = bed.records
    check_tasks([], splits)
    check_tasks(["split:retain", "wmdp_bio"], splits)
    with pytest.raises(InputError, match=r"split:retian: no such split.*retain"):
        check_tasks(["split:retian"], splits)
    bare = {"forget": [replace(r, perturbed_answers=()) for r in splits["forget"]]}
    with pytest.raises(InputError, match=r"split:forget: record 1 has no question or no false answers"):
        check_tasks(["split:forget"], bare)
    with pytest.raises(InputError, match=r"has no task 'mmluu'.*mmlu"):
        check_tasks(["mmluu"], splits)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs the extra 'eval'"):
        check_tasks(["mmlu"], splits)


def test_the_recipe_names_the_suite() -> None:
    raw = {"name": "x", "model": {"source": "testbed"}, "benchmark": "testbed"}
    recipe = Recipe.parse({**raw, "audit": {"harness": {"tasks": "mmlu", "limit": 10}}})
    assert (recipe.audit.harness.tasks, recipe.audit.harness.limit) == (["mmlu"], 10)
    with pytest.raises(InputError, match=r"harness.*task.*tasks"):
        Recipe.parse({**raw, "audit": {"harness": {"task": ["mmlu"]}}})
