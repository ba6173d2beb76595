"""Local processes and Ray carry out the same jobs; a dead worker is one failed job, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from expunge.bench import engines
from expunge.bench.cells import Job, Outcome, perform
from expunge.bench.engines import LocalEngine, RayEngine, make_engine, physical_cores
from expunge.errors import InputError
from tiny_bench import tiny


def collect(engine: Any, count: int) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    until = time.monotonic() + 120
    while len(found) < count and time.monotonic() < until:
        found |= {job.method: outcome for job, outcome in engine.wait(1.0)}
    return found


def quick(folder: Path, method: str) -> Job:
    """A job that needs no model: a search over nothing."""
    bench = tiny(folder, methods=[{"name": name, "search": {}} for name in ("npo", "grad-diff", "ga")])
    return Job("search", bench, 0, method)


def broken(folder: Path) -> Job:
    """A job that fails: a cell whose references are missing."""
    return Job("cell", tiny(folder, methods=[{"name": "rmu", "search": {}}]), 0, "rmu")


@pytest.fixture
def local() -> Iterator[LocalEngine]:
    engine = LocalEngine(2)
    yield engine
    engine.close()


def test_jobs_are_done_and_failures_are_sentences(local: LocalEngine, tmp_path: Path) -> None:
    assert local.free == 2
    local.submit(quick(tmp_path, "npo"))
    local.submit(broken(tmp_path))
    assert local.free == 0
    found = collect(local, 2)
    assert local.free == 2
    assert found["npo"].status == "done"
    assert found["rmu"] == Outcome(
        "failed",
        error="The references of seed 0 are missing; the same command makes them again.",
        seconds=found["rmu"].seconds,
    )
    assert "Traceback" in broken(tmp_path).log.read_text()
    assert quick(tmp_path, "npo").result() == found["npo"].result
    pids = [worker.process.pid for worker in local.workers]
    local.submit(quick(tmp_path, "ga"))  # a worker is used again
    assert collect(local, 1)["ga"].status == "done"
    assert [worker.process.pid for worker in local.workers] == pids


def test_a_killed_worker_is_one_failed_job(local: LocalEngine, tmp_path: Path) -> None:
    local.submit(quick(tmp_path, "npo"))
    (worker,) = local.workers
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    found = collect(local, 1)
    assert found["npo"].status == "failed"
    assert "its process was ended by SIGKILL" in found["npo"].error
    local.submit(quick(tmp_path, "ga"))
    assert collect(local, 1)["ga"].status == "done"


def test_closing_ends_busy_workers(tmp_path: Path) -> None:
    engine = LocalEngine(1)
    engine.submit(quick(tmp_path, "npo"))
    (worker,) = engine.workers
    process = worker.process
    engine.close()
    assert process.exitcode is not None
    assert engine.workers == []


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers(workers: int) -> None:
    with pytest.raises(InputError, match="at least one worker"):
        make_engine("local", workers)


def test_unknown_engine() -> None:
    with pytest.raises(InputError, match="'spark': must be 'local' or 'ray'"):
        make_engine("spark", 1)


def test_siblings_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(engines, "_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    assert physical_cores() == 2

    def untold(cpu: int) -> str:
        raise FileNotFoundError(cpu)

    monkeypatch.setattr(engines, "_siblings", untold)
    assert physical_cores() == 4


# -- ray ----------------------------------------------------------------------------------------------


class FakeRay(ModuleType):
    """Ray's init, remote, wait, get, cancel and shutdown, carried out on the spot."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.options: dict[str, Any] = {}
        self.done: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.stopped = False

    def init(self, **options: Any) -> None:
        self.options = options

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "max_retries": 0}
        ray = self

        def wrap(function: Any) -> Any:
            assert function is perform

            class Remote:
                def remote(self, job: Job) -> str:
                    reference = f"ref-{len(ray.done)}"
                    ray.done[reference] = MemoryError("gone") if job.method == "ga" else function(job)
                    return reference

            return Remote()

        return wrap

    def wait(self, references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: str) -> Any:
        if isinstance(self.done[reference], Exception):
            raise self.done[reference]
        return self.done[reference]

    def cancel(self, reference: str, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    def shutdown(self) -> None:
        self.stopped = True


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fake


def test_ray_carries_out_the_same_function(ray: FakeRay, tmp_path: Path) -> None:
    engine = make_engine("ray", 3)
    assert ray.options["num_cpus"] == 3
    jobs = [quick(tmp_path, "npo"), broken(tmp_path), quick(tmp_path, "ga")]
    for job in jobs:
        engine.submit(job)
    assert engine.free == 0
    found = collect(engine, 3)
    assert [found[name].status for name in ("npo", "rmu", "ga")] == ["done", "failed", "failed"]
    assert found["ga"].error == "Ray lost it (MemoryError: gone)."
    assert jobs[0].result() == found["npo"].result
    assert engine.wait(0.0) == []
    engine.submit(quick(tmp_path, "grad-diff"))
    engine.close()
    assert len(ray.cancelled) == 1
    assert ray.stopped


def test_a_running_cluster_keeps_its_own_size(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    RayEngine(2)
    assert "num_cpus" not in ray.options


def test_without_ray_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; pip install 'expunge\[ray\]'"):
        make_engine("ray", 2)
