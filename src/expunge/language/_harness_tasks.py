"""Finding the files of the harness's tasks that are asked for, without indexing the other fourteen thousand."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from expunge.errors import InputError, nearest

Spec = str | dict[str, Any]

# The lines of a task file that give it a name; a list of tags stands on the lines after its key.
NAMED = re.compile(r"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*["']?([\w.\-]+)["']?[ \t]*\r?$""", re.MULTILINE)
TAGS = re.compile(r"""^["']?tag["']?[ \t]*:[ \t]*\r?\n((?:[ \t]*-[^\n]*\n?)+)""", re.MULTILINE)
LISTED = re.compile(r"""-[ \t]*["']?([\w.\-]+)""")
SUFFIXES = (".yaml", ".yml")


@cache
def folders() -> dict[str, frozenset[Path]]:
    """Name of each task, group and tag of the installed harness to the folders whose files define it.

    Files are searched as text: that takes about a second, parsing them half a minute.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return {}
    found: dict[str, set[Path]] = {}
    for folder, _, files in os.walk(Path(spec.submodule_search_locations[0]) / "tasks"):
        for file in files:
            if file.endswith(("yaml", "yml")):  # templates end in "_yaml" and may hold the tags
                text = (Path(folder) / file).read_text(encoding="utf-8", errors="replace")
                lists = [name for block in TAGS.findall(text) for name in LISTED.findall(block)]
                for name in (*NAMED.findall(text), *lists):
                    found.setdefault(name, set()).add(Path(folder))
    return {name: frozenset(places) for name, places in found.items()}


def task_manager(tasks: Sequence[Spec]) -> tuple[Any, list[Spec]]:
    """A task manager that knows the tasks asked for and what their groups are made of.

    Args:
        tasks: Names, paths of YAML files, or configurations.

    Returns:
        The manager, and what it is to load.

    Raises:
        InputError: A name the harness does not know, or a file that is not there or no task.
    """
    from lm_eval.tasks import TaskManager

    places: set[Path] = set()
    names: set[str] = set()
    specs: list[Spec] = []
    for task in tasks:
        if isinstance(task, dict):
            names |= _children(task)
        elif _is_file(task):
            config = _read(task)
            names |= _children(config)
            if "group" in config:  # the harness takes the file of a task, but a group by its name only
                places.add(Path(task).expanduser().parent)
                task = config["group"]
        elif task in folders():
            names.add(task)
        else:
            raise InputError(f"lm-evaluation-harness has no task {task!r}.{nearest(task, list(folders()))}")
        specs.append(str(Path(task).expanduser()) if isinstance(task, str) and _is_file(task) else task)
    known: set[str] = set()
    while wanted := sorted(name for name in names - known if name in folders()):
        places |= {place for name in wanted for place in folders()[name]}
        known |= names
        manager = TaskManager(include_defaults=False, include_path=[str(p) for p in sorted(places)])
        names |= {m for name in wanted if (entry := manager.task_index.get(name)) for m in _children(entry.cfg)}
    return TaskManager(include_defaults=False, include_path=[str(p) for p in sorted(places)] or None), specs


def load_tasks(tasks: Sequence[Spec], shots: int | None, seed: int) -> Any:
    """The tasks with their data, and how many examples their prompts have.

    Args:
        tasks: Names, paths of YAML files, or configurations.
        shots: Examples in each prompt; None takes the task's own number, a task that fixes 0 keeps it.
        seed: Seed of the draw of examples.

    Returns:
        What the harness's `evaluate` takes.

    Raises:
        InputError: An unknown task, a broken task file, or data that cannot be loaded.
    """
    manager, specs = task_manager(tasks)
    try:
        loaded = manager.load(specs)
    except Exception as error:  # the task's own code, its data set, the network: a zoo of errors
        reason = str(error).strip("'\"").splitlines()[0] if str(error) else type(error).__name__
        named = ", ".join(str(t.get("task")) if isinstance(t, dict) else t for t in tasks)
        raise InputError(f"lm-evaluation-harness cannot load {named} ({reason}).") from error
    for task in loaded["tasks"].values():
        fixed = task.get_config("num_fewshot")
        if shots is not None and fixed != 0:
            task.set_config(key="num_fewshot", value=shots)
        elif fixed is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return loaded


def _is_file(task: str) -> bool:
    return task.endswith(SUFFIXES) or os.sep in task


def _read(task: str) -> dict[str, Any]:
    """A task file of one's own.

    Raises:
        InputError: It is not there, or no task file.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(task).expanduser()
    if not path.is_file():
        raise InputError(f"{task}: no such task file.")
    try:
        return dict(load_yaml(path, resolve_func=False))
    except Exception as error:  # whatever a YAML file can get wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{task}: not a task file of lm-evaluation-harness ({reason}).") from error


def _children(config: dict[str, Any] | None) -> set[str]:
    """Names of the members of a group."""
    members = (config or {}).get("task")
    if not isinstance(members, list):
        return set()
    found: set[str] = set()
    for member in members:
        if isinstance(member, str):
            found.add(member)
        elif isinstance(member, dict):
            found |= {v for v in (member.get("task"), member.get("group")) if isinstance(v, str)} | _children(member)
    return found
