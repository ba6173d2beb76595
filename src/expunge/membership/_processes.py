"""A few processes of this machine that carry out one function, and that leave with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from expunge.errors import RunError

T = TypeVar("T")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_shared: tuple[Any, ...] = ()


def in_processes(work: Callable[..., None], jobs: Sequence[T], shared: tuple[Any, ...], workers: int) -> Iterator[T]:
    """Call ``work(job, *shared)`` for every job; a job is handed back when it is done, in the order they end.

    `shared` travels to a process once. The processes hold the reading end of a pipe whose writing end is ours alone:
    when it closes, because this process is killed or because something went wrong here, they end at once.

    Raises:
        RunError: A process died.
        Exception: Whatever `work` raised first.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(reader, shared))
    try:
        with _environment(ONE_THREAD):  # processes are started by the first submission
            waiting = {pool.submit(_call, work, job): job for job in jobs}
        for future in as_completed(waiting):
            future.result()
            yield waiting[future]
    except BrokenProcessPool:
        raise RunError(
            "A training process was ended from outside (out of memory? fewer workers need less); "
            "the same command continues with the models that are left."
        ) from None
    except BaseException:
        writer.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
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


def _begin(reader: Connection, shared: tuple[Any, ...]) -> None:
    """The first thing in a new process."""
    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _shared = shared
    threading.Thread(target=_leave_with, args=(reader,), daemon=True).start()


def _leave_with(reader: Connection) -> None:
    try:
        reader.recv()
    except (EOFError, OSError):
        os._exit(1)


def _call(work: Callable[..., None], job: Any) -> None:
    work(job, *_shared)
