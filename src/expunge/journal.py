"""What a run writes and shows while it works: its journal, its progress bars, its lock."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from expunge.engine.loop import Observers
from expunge.errors import InputError

QUIET_SECONDS = 30.0  # without a terminal there is no bar; a line is printed this often


def cache_folder(chosen: str | Path | None) -> Path:
    """Where prepared models are kept: the recipe's folder, ``$EXPUNGE_CACHE``, or the user's cache."""
    if chosen is not None:
        return Path(chosen).expanduser()
    named = os.environ.get("EXPUNGE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).expanduser() if named else Path(home) / "expunge"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder for one process; the lock goes with the process, however it ends.

    Raises:
        InputError: Another process is at work in it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another expunge process is at work in this run folder.") from None
        yield


class Journal:
    """The run's log: one JSON line per event, the notes for the report, and which stages are done."""

    def __init__(self, path: Path, console: Console | None) -> None:
        self.path, self.console = path, console
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.current, self.started = "", time.perf_counter()
        self.fingerprints: dict[int, tuple[Any, str]] = {}

    def event(self, kind: str, **values: Any) -> None:
        """Append one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def note(self, text: str) -> None:
        """Something the reader of the report should know."""
        self.notes.append(text)
        self.event("note", text=text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        self.event("begin", stage=name)
        self.current, self.started = name, time.perf_counter()
        yield
        self.seconds[name] = self._elapsed()
        self.event("end", stage=name, seconds=self.seconds[name])
        if self.console:
            self.console.print(f"[green]✓[/] {name} [dim]{self.seconds[name]:.1f} s[/]", highlight=False)

    def _elapsed(self) -> float:
        return round(time.perf_counter() - self.started, 2)

    def done(self, note: Path, key: str) -> bool:
        """Whether a stage was finished under this key."""
        try:
            filed = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return False
        if filed.get("key") != key:
            return False
        self.seconds.setdefault(filed["stage"], filed["seconds"])
        self.event("kept", stage=filed["stage"])
        return True

    def finish(self, note: Path, key: str, result: Any) -> None:
        """File that the current stage is done."""
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_suffix(".tmp")
        entry = {"key": key, "stage": self.current, "seconds": self._elapsed(), "result": result}
        temporary.write_text(json.dumps(entry), encoding="utf-8")
        os.replace(temporary, note)


class Bars:
    """Progress bars with the loss terms; silent without a console."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[terms]}"),
            console=console,
            transient=True,
            disable=console is None or not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def watch(self, title: str) -> Observers:
        """Observers that show one training."""
        task = self.progress.add_task(title, total=None, terms="")

        told = time.monotonic()

        def show(step: int, total: int, terms: dict[str, float]) -> None:
            nonlocal told
            text = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
            self.progress.update(task, completed=step, total=total, terms=text, visible=step < total)
            if self.progress.disable and self.console and time.monotonic() - told > QUIET_SECONDS:
                told = time.monotonic()
                self.console.print(f"[dim]{title}: step {step} of {total}  {text}[/]", highlight=False)

        return Observers(progress=show)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Callable[[str], None]]:
        """A bar over named pieces of work."""
        task = self.progress.add_task(title, total=total, terms="")

        def begin(name: str) -> None:
            self.progress.update(task, advance=1, terms=name)

        yield begin
        self.progress.remove_task(task)
