"""lm-evaluation-harness on subjects in memory: the same numbers as its own model, nothing left changed."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.language.harness import TaskResult, evaluate_findings, evaluate_tasks
from expunge.language.subject import Subject
from tiny_bed import Bed

lm_eval = pytest.importorskip("lm_eval")
datasets = pytest.importorskip("datasets")

from expunge.language import _harness_tasks  # noqa: E402
from expunge.language._harness_model import HarnessModel, _generation, _until  # noqa: E402
from expunge.language._harness_tasks import folders, load_tasks, task_manager  # noqa: E402


def data(bed: Bed, split: str = "retain", count: int = 12) -> Any:
    """Questions with four options of which the right one stands anywhere."""
    rng, rows = random.Random(0), []
    for record in bed.records[split][:count]:
        options = [record.answer, *record.perturbed_answers[:3]]
        rng.shuffle(options)
        prompt = bed.target.template.generation_prompt(record, bed.target.tokenizer)
        rows.append({"prompt": prompt, "options": options, "gold": options.index(record.answer), "text": record.answer})
    return lambda **_: {"test": datasets.Dataset.from_list(rows)}


def choosing(bed: Bed, **changes: Any) -> dict[str, Any]:
    return {
        "task": "choosing",
        "custom_dataset": data(bed),
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
        "metadata": {"version": 2},
        **changes,
    }


def writing(bed: Bed) -> dict[str, Any]:
    return {
        "task": "writing",
        "custom_dataset": data(bed),
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": " {{text}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


def reading(bed: Bed) -> dict[str, Any]:
    return {
        "task": "reading",
        "custom_dataset": data(bed),
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{prompt}} {{text}}",
        "metric_list": [
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        ],
        "metadata": {"version": 1},
    }


def theirs(subject: Subject, tasks: list[Any], **settings: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=4, **settings)
    return lm_eval.evaluate(lm=model, task_dict=load_tasks(tasks, None, 0), bootstrap_iters=100)


# -- the numbers --------------------------------------------------------------------------------------


def test_the_same_choices_and_scores_as_the_harness_with_its_own_model(bed: Bed) -> None:
    raw = theirs(bed.fresh(), [choosing(bed)])
    (ours,) = evaluate_tasks(bed.target, [choosing(bed)])
    values = raw["results"]["choosing"]
    for metric in ("acc", "acc_norm"):
        assert ours.metrics[metric] == values[f"{metric},none"]
        assert ours.errors[metric] == pytest.approx(values[f"{metric}_stderr,none"], abs=1e-9)
    both = [sorted(s, key=lambda x: x["doc_id"]) for s in (raw["samples"]["choosing"], ours.samples)]
    logp = [np.array([[r[0] for r in s["filtered_resps"]] for s in samples]) for samples in both]
    np.testing.assert_allclose(logp[0], logp[1], atol=1e-4)
    assert [[r[1] for r in s["filtered_resps"]] for s in both[0]] == [
        [r[1] for r in s["filtered_resps"]] for s in both[1]
    ]
    assert (ours.task, ours.version, ours.n, ours.shots) == ("choosing", "2", 12, 0)


def test_the_same_answers_as_the_harness_with_its_own_model(bed: Bed) -> None:
    subject = bed.fresh()
    raw = theirs(subject, [writing(bed)])
    (ours,) = evaluate_tasks(bed.target, [writing(bed)])
    assert [s["resps"] for s in ours.samples] == [s["resps"] for s in raw["samples"]["writing"]]
    assert ours.metrics["exact_match"] == raw["results"]["writing"]["exact_match,none"] > 0.9


def test_rolling_likelihood_predicts_each_token_once(bed: Bed) -> None:
    """Equal to the harness's model where that adds no begin token of its own; perplexities from it."""
    (ours,) = evaluate_tasks(bed.target, [reading(bed)])
    raw = theirs(bed.fresh(), [reading(bed)], add_bos_token=False)
    for metric in ("byte_perplexity", "word_perplexity"):
        assert ours.metrics[metric] == pytest.approx(raw["results"]["reading"][f"{metric},none"], rel=1e-4)
        assert ours.higher[metric] is False
    text = f"{ours.samples[0]['doc']['prompt']} {ours.samples[0]['doc']['text']}"
    ids = torch.tensor([bed.target.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logp = bed.target.model(ids).logits[0, :-1].double().log_softmax(-1)
    total = float(logp.gather(1, ids[0, 1:, None]).sum())
    assert ours.samples[0]["filtered_resps"][0] == pytest.approx(total, abs=1e-3)


def test_windows_of_a_long_text_do_not_overlap(bed: Bed) -> None:
    """A text of 3 windows: each begins with the token before it, and all tokens are predicted once."""
    subject = Subject(bed.target.model, bed.target.tokenizer, bed.target.template, "short", max_length=9)
    text = "Where was Ridos Nosava born? In Zomarar, they say, and Belin Tirak too."
    ids = bed.target.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 16
    expected = 0.0
    for start in range(0, len(ids), 8):
        row = [ids[start - 1] if start else bed.target.tokenizer.bos_token_id, *ids[start : start + 8]]
        with torch.no_grad():
            logp = bed.target.model(torch.tensor([row])).logits[0, :-1].double().log_softmax(-1)
        expected += float(logp.gather(1, torch.tensor(row[1:])[:, None]).sum())

    class Request:
        args = (text,)

    (found,) = HarnessModel(subject).loglikelihood_rolling([Request()])
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_lookup_model_scores_one_and_constant_logits_chance(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right option first in likelihood gives 1.0 whatever its place; noise gives 1/4 within 3 sd."""
    gold = {r.answer for r in bed.records["retain"][:12]}
    monkeypatch.setattr(
        HarnessModel, "loglikelihood", lambda _, rs: [(0.0 if r.args[1].strip() in gold else -9.0, False) for r in rs]
    )
    rows = [{"prompt": "q", "options": [a, "x", "y", "z"], "gold": 0} for a in sorted(gold)]
    for row in rows:
        random.Random(str(row)).shuffle(row["options"])
        row["gold"] = next(i for i, o in enumerate(row["options"]) if o in gold)
    task = choosing(bed, custom_dataset=lambda **_: {"test": datasets.Dataset.from_list(rows)})
    assert evaluate_tasks(bed.target, [task])[0].metrics["acc"] == 1
    rng = random.Random(0)
    monkeypatch.setattr(HarnessModel, "loglikelihood", lambda _, rs: [(rng.random(), False) for _ in rs])
    many = choosing(bed, custom_dataset=lambda **_: {"test": datasets.Dataset.from_list(rows * 40)})
    (result,) = evaluate_tasks(bed.target, [many])
    assert abs(result.metrics["acc"] - 0.25) < 3 * result.errors["acc"]


# -- what a call leaves behind ------------------------------------------------------------------------


def test_three_kinds_of_task_in_one_call_leave_everything_as_it_was(bed: Bed, capfd: Any) -> None:
    subject = bed.fresh()
    subject.model.train()
    side, weights = subject.tokenizer.padding_side, subject.weights_hash()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    results = evaluate_tasks(subject, [choosing(bed), writing(bed), reading(bed)])
    assert [r.task for r in results] == ["choosing", "writing", "reading"]
    assert all(np.isfinite(v) for r in results for v in r.metrics.values())
    assert subject.model.training
    assert subject.tokenizer.padding_side == side
    assert subject.weights_hash() == weights
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert capfd.readouterr().err == ""


def test_limit_takes_the_first_questions_and_a_seed_repeats(bed: Bed) -> None:
    whole, first, again = (evaluate_tasks(bed.target, [choosing(bed)], limit=n)[0] for n in (None, 5, 5))
    assert first.n == 5
    assert [s["doc"] for s in first.samples] == [s["doc"] for s in whole.samples[:5]]
    assert [s["resps"] for s in first.samples] == [s["resps"] for s in again.samples]


def test_examples_stand_in_the_prompt(bed: Bed) -> None:
    """Two examples with their answers, then the question; a task that fixes 0 examples keeps 0."""
    (result,) = evaluate_tasks(bed.target, [choosing(bed, fewshot_split="test")], shots=2, limit=3)
    assert result.shots == 2
    prompt = result.samples[0]["arguments"][0][0]
    assert prompt.count("Answer:") == 3
    (fixed,) = evaluate_tasks(bed.target, [choosing(bed, num_fewshot=0)], shots=2, limit=3)
    assert fixed.shots == 0


def test_findings(bed: Bed) -> None:
    found = evaluate_findings(bed.target, "npo", [choosing(bed), reading(bed)])
    by_name = {(f.split, f.metric): f for f in found}
    acc = by_name["choosing", "harness.acc"]
    assert (acc.subject, acc.n, acc.direction) == ("npo", 12, "higher")
    error = evaluate_tasks(bed.target, [choosing(bed)])[0].errors["acc"]
    assert (acc.low, acc.high) == pytest.approx((acc.value - 1.96 * error, acc.value + 1.96 * error))
    perplexity = by_name["reading", "harness.byte_perplexity"]
    assert perplexity.direction == "lower"
    assert perplexity.low == perplexity.value == perplexity.high


# -- tasks by name, by file, in groups ----------------------------------------------------------------


def write_tasks(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({"q": f"Is it {i}?", "c": ["A", "B"], "a": i % 2}) for i in range(6)), encoding="utf-8"
    )
    for name, where in (("first", "one.yaml"), ("second", "two.yaml")):
        (folder / where).write_text(
            f"""task: {name}_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{c}}}}"
doc_to_target: a
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
""",
            encoding="utf-8",
        )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("offline")
def test_a_task_file_of_your_own(bed: Bed, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    results = evaluate_tasks(bed.target, [str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")])
    assert [(r.task, r.n) for r in results] == [("first_local", 6), ("second_local", 6)]


@pytest.mark.usefixtures("offline")
def test_a_group_is_the_mean_over_its_questions(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in a group are found where the installed tasks are; here that is the folder of the test."""
    write_tasks(tmp_path)
    (tmp_path / "both.yaml").write_text(
        "group: both_local\ntask: [first_local, second_local]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\nmetadata: {version: 7}\n",
        encoding="utf-8",
    )
    (local,) = (r for r in evaluate_tasks(bed.target, [str(tmp_path / "both.yaml")]) if r.task == "both_local")
    places = {name: frozenset({tmp_path}) for name in ("both_local", "first_local", "second_local")}
    monkeypatch.setattr(_harness_tasks, "folders", lambda: places)
    results = {r.task: r for r in evaluate_tasks(bed.target, ["both_local"])}
    assert set(results) == {"first_local", "second_local", "both_local"}
    group = results["both_local"]
    assert group.metrics["acc"] == pytest.approx(
        (results["first_local"].metrics["acc"] + results["second_local"].metrics["acc"]) / 2
    )
    assert (group.n, group.shots, group.samples) == (12, None, [])
    assert local == group


def test_only_the_files_of_the_tasks_asked_for_are_read() -> None:
    """The index of everything holds more than ten thousand names, that of WMDP its group and three tasks."""
    assert len(folders()) > 10_000
    manager, specs = task_manager(["wmdp"])
    assert specs == ["wmdp"]
    assert set(manager.all_tasks) == {"wmdp", "wmdp_bio", "wmdp_chem", "wmdp_cyber"}
    wide, _ = task_manager(["mmlu"])
    assert {"mmlu", "mmlu_stem", "mmlu_virology"} <= set(wide.all_tasks)
    assert len(wide.all_tasks) < 500


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_what_cannot_be_run_is_refused_in_words(bed: Bed, tmp_path: Path) -> None:
    subject = bed.target
    with pytest.raises(InputError, match=r"has no task 'wmdp_bioo'.*wmdp_bio"):
        evaluate_tasks(subject, ["wmdp_bioo"])
    with pytest.raises(InputError, match=r"cannot load wmdp_bio .*cais/wmdp"):
        evaluate_tasks(subject, ["wmdp_bio"])
    with pytest.raises(InputError, match=r"nothing.yaml: no such task file"):
        evaluate_tasks(subject, [str(tmp_path / "nothing.yaml")])
    (tmp_path / "broken.yaml").write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken.yaml: not a task file of lm-evaluation-harness"):
        evaluate_tasks(subject, [str(tmp_path / "broken.yaml")])
    with pytest.raises(InputError, match="must be a list of at least one task"):
        evaluate_tasks(subject, [])
    with pytest.raises(InputError, match="tasks='mmlu' must be a list"):
        evaluate_tasks(subject, "mmlu")
    with pytest.raises(InputError, match="limit=0 must be at least 1"):
        evaluate_tasks(subject, [choosing(bed)], limit=0)
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        evaluate_tasks(subject, [choosing(bed)], chat_template=True)


def test_without_the_harness_there_is_one_sentence(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="need the extra 'eval': pip install"):
        evaluate_tasks(bed.target, ["wmdp"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "only greedy decoding"),
        ({"max_gen_toks": 0}, "max_gen_toks=0 must be at least 1"),
    ],
)
def test_generation_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _generation(settings)


def test_generation_settings() -> None:
    assert _generation({"until": "\n", "max_gen_toks": 5}) == (5, ("\n",))
    assert _generation({"until": ["a", "b"], "do_sample": True, "temperature": 0.0}) == (256, ("a", "b"))
    assert _until("one two three", ("three", "two")) == "one "
    assert _until("one", ()) == "one"


def test_a_result_holds_what_it_was_given() -> None:
    result = TaskResult("t", {"acc": 0.5}, {}, {}, 4, "1", 0)
    assert [f.direction for f in result.findings("m")] == ["higher"]
