"""Files of a bench folder: written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.tmp\d*$|\.tmp-journal$")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write plain data atomically as JSON; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


def share_files(source: Path, target: Path) -> None:
    """Make the files below one folder appear in another: linked where the file system can, else copied."""
    for path in sorted(p for p in source.rglob("*") if p.is_file() and not _TEMPORARY.search(p.name)):
        place = target / path.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
            shutil.copyfile(path, temporary)
            os.replace(temporary, place)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written. Nobody may be at work in the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if _TEMPORARY.search(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
