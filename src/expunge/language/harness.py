"""lm-evaluation-harness on a model in memory: any of its tasks, or a task file of your own, scored by our passes.

The harness brings tasks, prompts and metrics; the model is a `Subject`, so whatever wraps it (a guard, adapters)
is measured too. Needs the extra ``eval``. Only the files of the tasks asked for are read: the harness's own
index of all its tasks takes half a minute.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from expunge.errors import InputError
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding


@dataclass(frozen=True)
class TaskResult:
    """What the harness says about one task, or about a group of tasks.

    Attributes:
        task: Its name.
        metrics: Metric to value: ``acc``, or ``exact_match,strict`` when a filter of the harness was at work.
        errors: Standard errors under the same names, where the harness has one.
        higher: Under the same names, whether more is better.
        n: Questions that were scored.
        version: The task's version.
        shots: Examples in each prompt; None for a group.
        samples: One entry for each question, as the harness logs it; empty for a group.
    """

    task: str
    metrics: dict[str, float]
    errors: dict[str, float]
    higher: dict[str, bool]
    n: int
    version: str
    shots: int | None
    samples: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def by_question(self) -> dict[str, list[float]]:
        """Value of each question, in the order of the data, for the metrics that are plain means of them."""
        found = {}
        for label, value in self.metrics.items():
            metric, _, chosen = label.partition(",")
            each = _each(metric, chosen or "none", self.samples)
            if each is not None and np.isclose(np.mean(each), value, rtol=1e-9, atol=1e-12):
                found[label] = each
        return found

    def findings(self, subject: str) -> list[Finding]:
        """One finding for each metric, with an interval of 1.96 standard errors (of width 0 without one).

        Args:
            subject: The model's name in the scorecard.
        """
        found = []
        for name, value in self.metrics.items():
            half = 1.96 * self.errors.get(name, 0.0)
            way = self.higher.get(name, True)
            found.append(
                Finding(
                    f"harness.{name}", self.task, subject, value, value - half, value + half, self.n,
                    "higher" if way else "lower",
                )
            )  # fmt: skip
        return found


def evaluate_tasks(
    subject: Subject,
    tasks: Sequence[str | dict[str, Any]],
    *,
    limit: int | None = None,
    shots: int | None = None,
    chat_template: bool = False,
    batch_tokens: int = 4096,
    bootstrap: int = 0,
    seed: int = 0,
) -> list[TaskResult]:
    """Run tasks of lm-evaluation-harness on a subject.

    The model's mode and the random states come back as they were; weights and tokenizer are not touched.

    Args:
        subject: The model; its `max_length` cuts contexts on the left.
        tasks: Names of the harness's tasks, tags or groups, paths of YAML task files, or task configurations.
        limit: First questions of each task only.
        shots: Examples in each prompt; None takes each task's own number. A task that fixes 0 keeps it.
        chat_template: Wrap prompts in the tokenizer's chat template.
        batch_tokens: Padded tokens per forward pass.
        bootstrap: Draws for standard errors without a closed form; 0 gives those of plain means only.
        seed: Seed of few-shot sampling.

    Returns:
        Tasks, then groups, in the harness's order.

    Raises:
        InputError: The extra is missing, no or an unknown task, data that cannot be loaded, or a request the
            model cannot answer.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("Tasks of lm-evaluation-harness need the extra 'eval': pip install 'expunge[eval]'.")
    if isinstance(tasks, str) or not tasks:
        raise InputError(f"tasks={tasks!r} must be a list of at least one task of lm-evaluation-harness.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} must be at least 1 question.")
    with _as_it_was(seed), _quiet():
        from lm_eval.evaluator import evaluate

        from expunge.language._harness_model import HarnessModel
        from expunge.language._harness_tasks import load_tasks

        raw = evaluate(
            lm=HarnessModel(subject, batch_tokens=batch_tokens),
            task_dict=load_tasks(tasks, shots, seed),
            limit=limit,
            bootstrap_iters=bootstrap,
            apply_chat_template=chat_template,
        )
    return _results(raw)


def evaluate_findings(
    subject: Subject, name: str, tasks: Sequence[str | dict[str, Any]], **settings: Any
) -> list[Finding]:
    """`evaluate_tasks` as findings about the model `name`; `settings` are those of `evaluate_tasks`."""
    return [f for result in evaluate_tasks(subject, tasks, **settings) for f in result.findings(name)]


@contextmanager
def _as_it_was(seed: int) -> Iterator[None]:
    """Seeded within; the three global random states are restored afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's log and progress bars out of ours; its errors are raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _results(raw: Mapping[str, Any]) -> list[TaskResult]:
    """The harness's nested dictionaries as one result for each task, then each group."""
    samples: Mapping[str, list[dict[str, Any]]] = raw["samples"]
    sizes = {name: int(size["effective"]) for name, size in raw["n-samples"].items()}
    found = [
        replace(_result(name, raw["results"][name], samples[name], raw), n=sizes[name], samples=samples[name])
        for name in samples
    ]
    groups = raw.get("group_subtasks", {})
    for name in groups:
        values = raw["results"].get(name) or raw.get("groups", {}).get(name, {})
        if any(_is_metric(key) for key in values):
            leaves = _leaves(name, groups)
            result = _result(name, values, [sample for task in leaves for sample in samples[task]], raw)
            found.append(replace(result, n=sum(sizes[task] for task in leaves), shots=None))
    return found


def _leaves(name: str, groups: Mapping[str, list[str]]) -> list[str]:
    """Tasks of a group, those of its groups included."""
    return [leaf for child in groups.get(name, []) for leaf in (_leaves(child, groups) if child in groups else [child])]


def _is_metric(key: str) -> bool:
    return "," in key and "_stderr" not in key


def _result(name: str, values: Mapping[str, Any], samples: list[dict[str, Any]], raw: Mapping[str, Any]) -> TaskResult:
    metrics, errors, higher = {}, {}, {}
    better = raw["higher_is_better"].get(name, {})
    for key in filter(_is_metric, values):
        metric, _, chosen = key.partition(",")
        label = metric if chosen == "none" else key
        metrics[label] = float(values[key])
        higher[label] = better.get(metric) is not False
        error = values.get(f"{metric}_stderr,{chosen}", "N/A")
        error = float(error) if error != "N/A" else _mean_error(metrics[label], metric, chosen, samples)
        if error is not None:
            errors[label] = error
    return TaskResult(
        name, metrics, errors, higher, len(samples), str(raw["versions"].get(name, "")), raw["n-shot"].get(name)
    )


def _mean_error(value: float, metric: str, chosen: str, samples: list[dict[str, Any]]) -> float | None:
    """Standard error of a metric that is the mean over its samples; None for any other."""
    each = _each(metric, chosen, samples)
    if each is None or len(each) < 2 or not np.isclose(np.mean(each), value, rtol=1e-9, atol=1e-12):
        return None
    return float(np.std(each, ddof=1) / np.sqrt(len(each)))


def _each(metric: str, chosen: str, samples: list[dict[str, Any]]) -> list[float] | None:
    """A metric's number for each question, in the order of the data; None where it is not one number each."""
    rows = sorted((s for s in samples if s["filter"] == chosen), key=lambda s: int(s["doc_id"]))
    each = [s[metric] for s in rows if isinstance(s.get(metric), int | float | np.number)]
    return [float(v) for v in each] if each and len(each) == len(rows) else None
