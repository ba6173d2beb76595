"""Where jobs run: a pool of local processes, or Ray. Both carry out the same function, `expunge.bench.cells.perform`.

A local worker keeps torch loaded between jobs. One that dies takes its job with it and no other; one whose parent
is gone, however that ended, leaves at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Protocol

from expunge.bench.cells import Job, Outcome, perform
from expunge.errors import InputError

GRACE = 5.0  # seconds a worker has to leave before it is killed
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Engine(Protocol):
    """Runs jobs, a few at a time."""

    @property
    def free(self) -> int:
        """How many jobs can be submitted now."""
        ...

    def submit(self, job: Job) -> None:
        """Begin a job; there must be room."""
        ...

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Jobs that ended, at least one unless the time is up first."""
        ...

    def close(self) -> None:
        """End everything at once; nothing is left running."""
        ...


def physical_cores() -> int:
    """Cores this process may use, each counted once however many threads it runs.

    Where the machine does not tell, the number of logical ones.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    try:
        siblings = {_siblings(cpu) for cpu in allowed}
    except OSError:
        return max(1, len(allowed))
    return max(1, len(siblings))


def _siblings(cpu: int) -> str:
    with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
        return file.read().strip()


def make_engine(name: str, workers: int) -> Engine:
    """An engine by name.

    Raises:
        InputError: No such engine, or its package is missing.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: at least one worker is needed.")
    if name == "local":
        return LocalEngine(workers)
    if name == "ray":
        return RayEngine(workers)
    raise InputError(f"--engine {name!r}: must be 'local' or 'ray'.")


# -- local --------------------------------------------------------------------------------------------


class Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.job: Job | None = None
        with _environment(ONE_THREAD):
            self.process.start()
        theirs.close()

    def ask(self) -> None:
        """Ask the process to end; an idle one leaves by itself when its pipe closes."""
        if self.job is None:
            self.connection.close()
        else:
            self.process.terminate()

    def stop(self) -> None:
        """Wait for the end of a process that was asked; one that takes too long is killed."""
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


class LocalEngine:
    """Processes of this machine, each with one thread of torch."""

    def __init__(self, workers: int) -> None:
        """Processes are started when there is a job for them."""
        self.limit = workers
        self.workers: list[Worker] = []

    @property
    def free(self) -> int:
        """See `Engine`."""
        return self.limit - sum(worker.job is not None for worker in self.workers)

    def submit(self, job: Job) -> None:
        """See `Engine`."""
        worker = next((w for w in self.workers if w.job is None), None)
        if worker is None:
            worker = Worker()
            self.workers.append(worker)
        worker.job = job
        worker.connection.send(job)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """See `Engine`. A worker that died is one failed job; another takes its place."""
        busy: dict[Any, Worker] = {}
        for worker in self.workers:
            if worker.job is not None:
                busy |= {worker.connection: worker, worker.process.sentinel: worker}
        ended = []
        for worker in dict.fromkeys(busy[ready] for ready in wait(list(busy), timeout)):
            job, outcome = worker.job, self._receive(worker)
            assert job is not None
            worker.job = None
            ended.append((job, outcome))
        return ended

    def _receive(self, worker: Worker) -> Outcome:
        try:
            outcome = worker.connection.recv()
        except (EOFError, OSError):
            worker.stop()
            self.workers.remove(worker)
            return Outcome("failed", error=_death(worker.process.exitcode))
        assert isinstance(outcome, Outcome)
        return outcome

    def close(self) -> None:
        """See `Engine`."""
        for worker in self.workers:
            worker.ask()
        for worker in self.workers:
            worker.stop()
        self.workers = []


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory? fewer --workers need less)" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{hint}; the same command tries again."
    return f"its process ended unexpectedly (exit code {code}); the same command tries again."


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(connection: Connection) -> None:
    """The life of a worker: job after job until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)  # by an exception, so that files and locks are let go of
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(perform(job))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# -- ray ----------------------------------------------------------------------------------------------


class RayEngine:
    """A Ray cluster: the one that ``RAY_ADDRESS`` names, else one started on this machine.

    The bench folder and the cache must lie where every node of the cluster reaches them.
    """

    def __init__(self, workers: int) -> None:
        """Connect.

        Raises:
            InputError: Ray is not installed.
        """
        try:
            import ray
        except ImportError:
            raise InputError(
                "--engine ray: Ray is not installed; pip install 'expunge[ray]', or leave it out."
            ) from None
        self.ray, self.limit = ray, workers
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "ignore_reinit_error": True}
        if not os.environ.get("RAY_ADDRESS"):
            options |= {"num_cpus": workers, "include_dashboard": False}
        ray.init(**options)
        self.remote = ray.remote(num_cpus=1, max_retries=0)(perform)
        self.jobs: dict[Any, Job] = {}

    @property
    def free(self) -> int:
        """See `Engine`."""
        return self.limit - len(self.jobs)

    def submit(self, job: Job) -> None:
        """See `Engine`."""
        self.jobs[self.remote.remote(job)] = job

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """See `Engine`. A task whose process died is one failed job."""
        if not self.jobs:
            return []
        ready, _ = self.ray.wait(list(self.jobs), num_returns=1, timeout=timeout)
        ended = []
        for reference in ready:
            job = self.jobs.pop(reference)
            try:
                outcome = self.ray.get(reference)
            except Exception as error:  # a dead worker, a lost node: Ray has a class for each
                first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
                outcome = Outcome("failed", error=f"Ray lost it ({type(error).__name__}: {first}).")
            ended.append((job, outcome))
        return ended

    def close(self) -> None:
        """See `Engine`."""
        for reference in self.jobs:
            self.ray.cancel(reference, force=True)
        self.jobs = {}
        self.ray.shutdown()
