"""The work of a bench: references of a seed, the search of a method, a cell. Each is one picklable job.

A cell is an ordinary run of `expunge.runner`, of one method with one seed; a reference is such a run without a
method. The audits of target, gold and control are made in the reference and lent to the cells of its seed, which
find them finished under the same keys.
"""

from __future__ import annotations

import shutil
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.bench.files import read_json, share_files, write_json, write_text
from expunge.bench.settings import Bench
from expunge.errors import ExpungeError, InputError, RunError
from expunge.recipe import fingerprint

Kind = Literal["reference", "search", "cell"]
REFERENCES = ("target", "gold", "gold_2", "control")


@dataclass(frozen=True)
class Job:
    """One piece of work, and where its result goes.

    Attributes:
        kind: What it is.
        bench: The bench it belongs to.
        seed: The seed; of a search the first one.
        method: The method; empty for a reference.
        settings: The settings of a cell, by name of their dimension.
        deadline: Time (`time.time`) after which a search begins no further trial.
    """

    kind: Kind
    bench: Bench
    seed: int
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    deadline: float | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        if self.kind == "search":
            return f"search {self.method}"
        return f"{self.method} seed {self.seed}" if self.kind == "cell" else f"references seed {self.seed}"

    @property
    def label(self) -> str:
        """What its files are called."""
        return self.title.replace(" ", "-").removeprefix("search-").removeprefix("references-")

    @property
    def key(self) -> str:
        """Content key of all its result depends on."""
        bench, tuning = self.bench, self.bench.tuning
        division = {"share": tuning.share, "seed": bench.seeds[0], "show": tuning.show}
        if self.kind == "search":
            return fingerprint({"search": study_key(bench, self.method), "trials": tuning.trials})
        methods = [bench.plan(self.method).entry(self.settings)] if self.kind == "cell" else []
        content = {**bench.content(self.seed, methods), "division": division}
        if self.kind == "reference":
            content |= {"rows": tuning.rows, "probed": self.seed in tuned_seeds(bench)}
        return fingerprint(content)

    @property
    def path(self) -> Path:
        """The file of its result; there only when it is finished."""
        return self.bench.out / FOLDERS[self.kind] / f"{self.label}-{self.key[:12]}.json"

    @property
    def log(self) -> Path:
        """Where the traceback of a failure goes."""
        return self.bench.out / "logs" / f"{self.title.replace(' ', '-')}.log"

    def result(self) -> dict[str, Any] | None:
        """The result, if the job is finished."""
        filed = read_json(self.path)
        return filed["result"] if filed and filed.get("key") == self.key and "result" in filed else None


FOLDERS: dict[Kind, str] = {"reference": "references", "search": "searches", "cell": "cells"}


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a result, or with one sentence.

    Attributes:
        status: ``done``; ``failed``; ``unsuitable`` (the method does not apply to the model); ``partial`` (a search
            the deadline cut short).
        result: What is filed.
        error: The sentence.
        seconds: Time it took.
    """

    status: Literal["done", "failed", "unsuitable", "partial"]
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def tuned_seeds(bench: Bench) -> tuple[int, ...]:
    """The seeds a search looks at."""
    return bench.seeds[: bench.tuning.seeds]


def study_key(bench: Bench, method: str) -> str:
    """Content key of a search: all but the number of trials, so that more of them continue it."""
    content = bench.content(bench.seeds[0])
    content["recipe"].pop("audit")
    settings = bench.tuning.model_dump(exclude={"trials", "show"})
    plan = bench.plan(method)
    space = [[d.name, d.place, d.low, d.high, d.log, d.step, list(d.choices)] for d in plan.space]
    return fingerprint({**content, "tuning": settings, "fixed": plan.fixed, "space": space, "start": plan.first()})


def run_folder(bench: Bench, seed: int, method: str = "") -> Path:
    """Where the run of a cell, or of a seed's references, lies."""
    return bench.out / "runs" / (method or "references") / f"seed-{seed}"


def perform(job: Job) -> Outcome:
    """Do one job. Whatever goes wrong becomes one sentence, with the traceback in its log."""
    started, worked = time.perf_counter(), time.process_time()
    try:
        outcome = {"reference": _reference, "search": _search, "cell": _cell}[job.kind](job)
    except Exception as error:
        write_text(job.log, traceback.format_exc())
        return Outcome("failed", error=sentence(error), seconds=time.perf_counter() - started)
    seconds = round(time.perf_counter() - started, 1)
    if outcome.status == "done":
        result = {**outcome.result, "seconds": seconds, "cpu_seconds": round(time.process_time() - worked, 1)}
        write_json(job.path, {"key": job.key, "title": job.title, "result": result})
        job.log.unlink(missing_ok=True)
        return Outcome("done", result, seconds=seconds)
    return Outcome(outcome.status, outcome.result, outcome.error, seconds)


def sentence(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, ExpungeError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; fewer --workers or a smaller train.micro_batch need less."
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"unexpected {type(error).__name__}: {first.rstrip('.')}."


# -- references ---------------------------------------------------------------------------------------


def _reference(job: Job) -> Outcome:
    """Prepare and audit target, gold and control of one seed; probe those a search compares with."""
    from expunge.bench.judge import values_of
    from expunge.bench.separation import probe, retention, separate
    from expunge.runner import execute, opened
    from expunge.stages import prepare

    bench, tuning = job.bench, job.bench.tuning
    recipe = bench.recipe(job.seed, run_folder(bench, job.seed))
    card = execute(recipe)
    with opened(recipe, None, False) as context:
        refs = prepare(context)
        wing = context.wing
        division = separate(wing, context.workload, tuning.share, tuning.rows, bench.seeds[0])
        models = ("target", "gold") if job.seed in tuned_seeds(bench) else ()
        probed = {name: probe(wing, refs[name].load(), division, context.workload) for name in models}
        kept = {
            name: retention(wing, refs[name].load(), division, context.workload) for name in REFERENCES if name in refs
        }
    judged = {split: sorted(numbers) for split, numbers in division.judged.items()}
    values = {name: values_of(Path(recipe.out), name, judged, card, score, tuning.show) for name, score in kept.items()}
    notes = ["Retention is tuned and judged on the same records; there are no others."] if division.overlap else []
    result = {"seed": job.seed, "values": values, "probes": probed, "judged": judged, "notes": notes}
    return Outcome("done", result)


def reference_of(bench: Bench, seed: int) -> dict[str, Any]:
    """The filed references of a seed.

    Raises:
        RunError: They are not there.
    """
    filed = Job("reference", bench, seed).result()
    if filed is None:
        raise RunError(f"The references of seed {seed} are missing; the same command makes them again.")
    return filed


# -- search -------------------------------------------------------------------------------------------


def _search(job: Job) -> Outcome:
    """The best settings of one method."""
    from expunge.bench.tune import search

    if reason := _unsuitable(job):
        return Outcome("unsuitable", error=reason)
    return search(job)


def _unsuitable(job: Job) -> str:
    """Why a method does not apply to the model; empty if it does."""
    from expunge.runner import opened
    from expunge.stages import prepare

    bench = job.bench
    recipe = bench.recipe(job.seed, bench.out / "searches" / job.method, [bench.plan(job.method).entry(_first(job))])
    wanted = getattr(type(recipe.methods[0].build()), "architecture", "any")
    if wanted != "moe":
        return ""
    with opened(bench.recipe(job.seed, run_folder(bench, job.seed)), None, False) as context:
        config = prepare(context)["target"].load().model.config
    return "" if experts_of(config) > 1 else "needs a mixture-of-experts model, and this one is dense"


def experts_of(config: Any) -> int:
    """Number of experts a model's configuration speaks of; 0 for a dense one."""
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return max((int(getattr(config, name, None) or 0) for name in names), default=0)


def _first(job: Job) -> dict[str, Any]:
    return job.bench.plan(job.method).first()


# -- cell ---------------------------------------------------------------------------------------------


def _cell(job: Job) -> Outcome:
    """Unlearn with the given settings, audit, judge."""
    from expunge.bench.judge import distance_of, excess_of, values_of
    from expunge.bench.separation import retention, separate
    from expunge.runner import execute
    from expunge.wing import find_wing

    bench, tuning = job.bench, job.bench.tuning
    reference, lent = reference_of(bench, job.seed), run_folder(bench, job.seed)
    recipe = bench.recipe(
        job.seed, run_folder(bench, job.seed, job.method), [bench.plan(job.method).entry(job.settings)]
    )
    if "gold" not in reference["values"]:
        raise InputError("The references hold no gold model.")
    folder = Path(recipe.out)
    share_files(lent / "audit", folder / "audit")
    share_files(lent / "stages", folder / "stages")
    card = execute(recipe)
    workload, wing = recipe.benchmark.build().load(job.seed), find_wing(bench.wing)
    division = separate(wing, workload, tuning.share, tuning.rows, bench.seeds[0])
    kept = retention(wing, wing.model_ref(folder / "model", recipe).load(), division, workload)
    values = values_of(folder, job.method, reference["judged"], card, kept, tuning.show)
    excess = excess_of(values, reference["values"]["gold"])
    shutil.rmtree(folder / "audit" / "evidence", ignore_errors=True)
    shutil.rmtree(folder / "model", ignore_errors=True)
    verdict = card.verdicts.get(job.method)
    target = reference["values"]["target"]["retain"]
    return Outcome(
        "done",
        {
            "method": job.method,
            "seed": job.seed,
            "settings": job.settings,
            "values": values,
            "excess": excess,
            "distance": distance_of(excess),
            "utility": round(values["retain"] / target, 6) if target else 0.0,
            "verdict": verdict.verdict if verdict else None,
            "run": str(folder.relative_to(bench.out)),
        },
    )
