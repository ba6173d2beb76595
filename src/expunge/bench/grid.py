"""The grid: which jobs there are, in which order, and what becomes of their outcomes.

References come first, then method by method its search and its cells, so that what is finished when time runs out
is whole rows of the board. A failed job takes with it what depends on it, and nothing else.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from expunge.bench.board import Board, Status, markdown, ranked, reference_rows, row_of, to_dict
from expunge.bench.cells import Job, Outcome
from expunge.bench.engines import Engine
from expunge.bench.files import sweep, write_json, write_text
from expunge.bench.plot import page
from expunge.bench.settings import Bench
from expunge.bench.tune import require_optuna
from expunge.journal import lock_folder

POLL = 0.5  # seconds between looks at the clock while jobs run


@dataclass
class Grid:
    """The state of one bench: outcomes so far, and the jobs they allow.

    Attributes:
        bench: What is run.
        deadline: Time after which nothing new begins.
        tell: Told each job that begins (no outcome) and ends.
    """

    bench: Bench
    deadline: float | None = None
    tell: Callable[[Job, Outcome | None], None] = lambda job, outcome: None
    outcomes: dict[tuple[str, str, int], Outcome] = field(default_factory=dict)
    begun: set[tuple[str, str, int]] = field(default_factory=set)

    # -- jobs ------------------------------------------------------------------------------------------

    def ready(self) -> Iterator[Job]:
        """Jobs that may begin now, most wanted first."""
        bench = self.bench
        for seed in bench.seeds:
            yield from self._new(Job("reference", bench, seed))
        tuned = bench.seeds[: bench.tuning.seeds]
        for plan in bench.methods:
            search = self.outcomes.get(("search", plan.name, bench.seeds[0]))
            if search is None and all(self._done("reference", "", seed) for seed in tuned):
                yield from self._new(Job("search", bench, bench.seeds[0], plan.name, deadline=self.deadline))
            if search is not None and search.status == "done":
                for seed in bench.seeds:
                    if self._done("reference", "", seed):
                        yield from self._new(Job("cell", bench, seed, plan.name, search.result["settings"]))

    def _new(self, job: Job) -> Iterator[Job]:
        if _identity(job) not in self.begun:
            yield job

    def _done(self, kind: str, method: str, seed: int) -> bool:
        outcome = self.outcomes.get((kind, method, seed))
        return outcome is not None and outcome.status == "done"

    def keep_finished(self) -> None:
        """Take what earlier commands finished."""
        found = True
        while found:
            found = False
            for job in list(self.ready()):
                result = job.result()
                if result is not None:
                    self.begun.add(_identity(job))
                    self.outcomes[_identity(job)] = Outcome("done", result)
                    found = True

    def run(self, engine: Engine) -> None:
        """Carry out what is left, until nothing is ready or the deadline has passed."""
        running = 0
        while True:
            late = self.deadline is not None and time.time() >= self.deadline
            for job in [] if late else list(self.ready())[: engine.free]:
                self.begun.add(_identity(job))
                self.tell(job, None)
                engine.submit(job)
                running += 1
            if running == 0:
                return
            for job, outcome in engine.wait(POLL):
                running -= 1
                self.outcomes[_identity(job)] = outcome
                self.tell(job, outcome)

    def finished(self) -> bool:
        """Whether nothing is left to begin."""
        return not list(self.ready())

    # -- outcomes --------------------------------------------------------------------------------------

    def board(self) -> Board:
        """The leaderboard of what there is."""
        bench = self.bench
        references = [self.outcomes[key].result for key in self._keys("reference") if self._done(*key)]
        rows = [self._row(plan.name) for plan in bench.methods]
        rows += [_not_run(name, reason) for name, reason in bench.skipped.items()]
        return Board(
            name=bench.name,
            seeds=bench.seeds,
            floor=bench.tuning.floor,
            tuning=bench.tuning.model_dump(),
            references=reference_rows(references),
            rows=ranked(rows),
            notes=tuple(dict.fromkeys(note for r in references for note in r["notes"])),
        )

    def _keys(self, kind: str, method: str = "") -> list[tuple[str, str, int]]:
        return [(kind, method, seed) for seed in self.bench.seeds]

    def _row(self, name: str) -> Any:
        bench = self.bench
        search = self.outcomes.get(("search", name, bench.seeds[0]))
        if search is not None and search.status == "unsuitable":
            return _not_run(name, search.error)
        cells = [self.outcomes[key].result for key in self._keys("cell", name) if self._done(*key)]
        return row_of(name, cells, len(bench.seeds), bench.tuning.floor, self._problem(name, search))

    def _problem(self, name: str, search: Outcome | None) -> tuple[Status, str] | None:
        """The first failure that touches a method."""
        if search is not None and search.status == "failed":
            return "failed", search.error
        for seed in self.bench.seeds:
            reference = self.outcomes.get(("reference", "", seed))
            if reference is not None and reference.status == "failed":
                return "failed", f"references of seed {seed}: {reference.error}"
        for key in self._keys("cell", name):
            cell = self.outcomes.get(key)
            if cell is not None and cell.status == "failed":
                return "failed", f"seed {key[2]}: {cell.error}"
        if search is None or search.status == "partial":
            return "unfinished", "the search is not finished"
        return None


def _identity(job: Job) -> tuple[str, str, int]:
    return job.kind, job.method, job.seed


def _not_run(name: str, reason: str) -> Any:
    return row_of(name, [], 0, 0.0, ("not-run", reason))


def run_bench(
    bench: Bench,
    make_engine: Callable[[], Engine],
    *,
    minutes: float | None = None,
    tell: Callable[[Job, Outcome | None], None] = lambda job, outcome: None,
    plan: Callable[[int, int], None] = lambda done, total: None,
) -> Board:
    """Carry a bench out, or on; write the leaderboard.

    Args:
        bench: What to run.
        make_engine: Makes the engine; only called if something is left to do.
        minutes: Time after which nothing new begins.
        tell: Told each job that begins and ends.
        plan: Told how many jobs are finished already, and how many there are.

    Raises:
        InputError: A package is missing, or another process is at work in the folder.
        KeyboardInterrupt: Interrupted or terminated; what is finished is kept.
    """
    if bench.tuning.trials and any(p.space for p in bench.methods):
        require_optuna()
    bench.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(bench.out), _interruptible():
        sweep(bench.out)
        write_json(bench.out / "bench.json", bench.to_dict())
        grid = Grid(bench, None if minutes is None else time.time() + 60 * minutes, tell)
        grid.keep_finished()
        plan(len(grid.outcomes), len(bench.seeds) + len(bench.methods) * (1 + len(bench.seeds)))
        try:
            if not grid.finished():
                engine = make_engine()
                try:
                    grid.run(engine)
                finally:
                    engine.close()
        finally:
            sweep(bench.out)
            board = grid.board()
            write_board(bench, board)
        return board


def write_board(bench: Bench, board: Board) -> None:
    """The leaderboard's three files."""
    write_json(bench.out / "leaderboard.json", to_dict(board))
    write_text(bench.out / "leaderboard.md", markdown(board))
    write_text(bench.out / "leaderboard.html", page(board))


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the bench as Ctrl-C does, so that no worker outlives it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
