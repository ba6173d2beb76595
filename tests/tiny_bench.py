"""A bench that takes seconds: two methods on a world of twenty people."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from expunge.bench.cells import Job, Outcome, perform
from expunge.bench.reading import parse_bench
from expunge.bench.settings import Bench

RAW: dict[str, Any] = {
    "name": "tiny",
    "threads": 1,
    "model": {"source": "testbed"},
    "benchmark": {"name": "testbed", "forget": 4, "retain": 8, "holdout": 4, "places": 6},
    "target": {"train": {"steps": 25, "batch_size": 64, "optimizer": "muon", "lr": 4e-3, "schedule": "cosine"}},
    "gold": {"source": "retrain", "seeds": 1},
    "unlearn": {"train": {"steps": 6, "batch_size": 16, "lr": 3e-4}},
    "tuning": {"trials": 2, "rows": 32},
    "methods": [
        {
            "name": "npo",
            "beta": 0.5,
            "search": {
                "lr": {"low": 1e-4, "high": 3e-3, "log": True},
                "retain_weight": {"low": 1, "high": 10, "log": True},
            },
        },
        {"name": "grad-diff", "search": {"lr": {"low": 1e-4, "high": 3e-3, "log": True}}, "start": {"lr": 1e-3}},
    ],
    "audit": {
        "control": False,
        "draws": 20,
        "attacks": ["paraphrase", {"name": "relearn", "steps": [2, 4], "seeds": 1}],
    },
}


def raw(**changes: Any) -> dict[str, Any]:
    """The recipe as plain data, with some of its sections replaced."""
    return {**copy.deepcopy(RAW), **changes}


def tiny(folder: Path, *, seeds: int = 1, asked: str | None = None, **changes: Any) -> Bench:
    """The bench in a folder of its own; unless told otherwise the cache lies beside it."""
    content = raw(**{"cache": str(folder.parent / "cache"), **changes})
    return parse_bench(content, "tiny", methods=asked, seeds=seeds, out=folder)


class Inline:
    """An engine in this process: carries a job out when it is waited for."""

    def __init__(self, work: Any = perform) -> None:
        self.work, self.jobs, self.closed = work, [], False
        self.done: list[str] = []

    @property
    def free(self) -> int:
        return 2 - len(self.jobs)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        job = self.jobs.pop(0)
        self.done.append(job.title)
        return [(job, self.work(job))]

    def close(self) -> None:
        self.closed = True
