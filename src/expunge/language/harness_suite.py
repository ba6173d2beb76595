"""The utility suite of an audit: the harness's tasks, task files, and the run's own splits as multiple choice."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from expunge.errors import InputError, nearest
from expunge.language.data import Record, Splits, digest
from expunge.language.harness import evaluate_tasks
from expunge.language.metrics._common import direction
from expunge.language.subject import Subject
from expunge.report.assemble import TaskReading
from expunge.report.scorecard import Finding

OWN = "split:"  # split:real_authors asks the records of that split with their false answers as options


@dataclass(frozen=True)
class Suite:
    """Which tasks are run, and how.

    Attributes:
        tasks: Names of the harness's tasks, paths of task files, or ``split:NAME`` for the records of one of the
            run's own splits as multiple choice.
        limit: First questions of each task only.
        shots: Examples in each prompt; None takes each task's own number.
        chat_template: Wrap prompts in the tokenizer's chat template.
    """

    tasks: Sequence[str] = ()
    limit: int | None = None
    shots: int | None = None
    chat_template: bool = False

    def content(self) -> dict[str, Any]:
        """What the results depend on: the settings, and what stands in task files."""
        files = {t: hashlib.blake2b(Path(t).expanduser().read_bytes()).hexdigest() for t in self.tasks if _is_file(t)}
        return {**asdict(self), "files": files, "lm_eval": version("lm_eval")} if self.tasks else {}


def check_tasks(tasks: Sequence[str], splits: Splits) -> None:
    """Refuse what cannot be run before anything is.

    Raises:
        InputError: The extra is missing, an unknown task, a file that is not there, or a split without false answers.
    """
    if not tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("audit.harness.tasks needs the extra 'eval': pip install 'expunge[eval]'.")
    for name in (t.removeprefix(OWN) for t in tasks if t.startswith(OWN)):
        _asked(name, splits)
    from expunge.language._harness_tasks import task_manager

    task_manager([t for t in tasks if not t.startswith(OWN)])


def run_suite(
    subject: Subject, name: str, splits: Splits, suite: Suite, seed: int
) -> tuple[list[Finding], list[TaskReading]]:
    """Run the suite on one model.

    Args:
        subject: The model.
        name: Its name in the scorecard.
        splits: The run's splits, for ``split:`` tasks.
        suite: What to run.
        seed: Draws the order of options and the examples.

    Returns:
        The harness's metrics as findings, and what was scored question by question.

    Raises:
        InputError: See `evaluate_tasks`.
    """
    tasks: list[str | dict[str, Any]] = [
        choice_task(t.removeprefix(OWN), _asked(t.removeprefix(OWN), splits), seed) if t.startswith(OWN) else t
        for t in suite.tasks
    ]
    results = evaluate_tasks(
        subject, tasks, limit=suite.limit, shots=suite.shots, chat_template=suite.chat_template, seed=seed
    )
    tokenizer = subject.tokenizer
    findings, readings = [], []
    goals = {f"split_{t.removeprefix(OWN)}": direction(t.removeprefix(OWN)) for t in suite.tasks if t.startswith(OWN)}
    for result in results:
        goal = goals.get(result.task, "higher")
        findings += [f if goal == "higher" else replace(f, direction=goal) for f in result.findings(name)]
        about = {
            "version": result.version,
            "shots": result.shots,
            "chat_template": suite.chat_template,
            "begin_token": bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]),
            "lm_eval": version("lm_eval"),
        }
        readings += [
            TaskReading(result.task, metric, result.higher[metric], values, goal == "higher", about)
            for metric, values in result.by_question().items()
        ]
    return findings, readings


def choice_task(name: str, records: list[Record], seed: int) -> dict[str, Any]:
    """Records with false answers as a multiple-choice task of the harness.

    The options are shuffled, the order drawn from the seed and the question: with the right one always first, ties
    would count as right.
    """
    from datasets import Dataset

    rows = []
    for record in records:
        options = [record.answer, *record.perturbed_answers]
        order = random.Random(f"options {seed} {record.question}").sample(range(len(options)), len(options))
        rows.append({"question": record.question, "options": [options[i] for i in order], "gold": order.index(0)})
    data = {"test": Dataset.from_list(rows)}
    return {
        "task": f"split_{name}",
        "custom_dataset": lambda **_: data,
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "gold",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": digest(records)[:8]},
    }


def _asked(name: str, splits: Splits) -> list[Record]:
    """A split whose every record has a question and false answers.

    Raises:
        InputError: There is no such split, or it has a record without them.
    """
    if name not in splits:
        raise InputError(f"audit.harness.tasks: {OWN}{name}: no such split.{nearest(name, list(splits))}")
    for i, record in enumerate(splits[name], 1):
        if not record.question or not record.perturbed_answers:
            raise InputError(
                f"audit.harness.tasks: {OWN}{name}: record {i} has no question or no false answers "
                f"(perturbed_answer), and multiple choice needs both."
            )
    return splits[name]


def _is_file(task: str) -> bool:
    return not task.startswith(OWN) and Path(task).expanduser().is_file()
