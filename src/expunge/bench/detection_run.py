"""A detection bench carried out: models trained, thresholds calibrated, every detector on every target, all filed.

Each result is a file under the content it depends on, written when it is known, so the same command goes on where a
killed one stopped and loses at most the models in training and the detectors at work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge import _yaml
from expunge.bench import detection_data
from expunge.bench.detection import CaseSettings, DetectionBench
from expunge.bench.detection_models import learner_of
from expunge.bench.files import read_json, sweep, write_json, write_text
from expunge.errors import InputError
from expunge.journal import lock_folder
from expunge.membership._processes import in_processes
from expunge.membership.case import Case, Division, tddbench_case
from expunge.membership.classifier import Floats
from expunge.membership.roster import Limits
from expunge.membership.shadows import digest_of
from expunge.membership.suite import Detection, calibrate, find_detector, run_suite
from expunge.membership.thresholds import rates_at
from expunge.recipe import fingerprint

FORMAT = 1  # part of every key: raise it when a change alters what a row measures
Tell = Callable[[str], None]
STAND_IN = -1


@dataclass(frozen=True)
class Cell:
    """One model under attack: target `target` of a case, or the stand-in thresholds are calibrated on."""

    bench: DetectionBench
    settings: CaseSettings
    target: int

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{self.settings.name} {'thresholds' if self.target == STAND_IN else f'target {self.target + 1}'}"

    @property
    def folder(self) -> Path:
        """Where its files go."""
        name = "stand-in" if self.target == STAND_IN else f"target-{self.target}"
        return self.bench.folder / "cells" / self.settings.name / name

    def path(self, detector: str) -> Path:
        """The file of one detector."""
        return self.folder / f"{detector}.json"

    def filed(self, detector: str, key: str) -> dict[str, Any] | None:
        """What is filed for one detector under a key."""
        found = read_json(self.path(detector))
        return found if found and found.get("key") == key else None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case with its models."""

    settings: CaseSettings
    data: detection_data.Loaded
    division: Division
    content: dict[str, Any]

    def key(self, target: int, detector: str) -> str:
        """Content key of a detector's row."""
        return fingerprint({**self.content, "target": target, "detector": detector})


def read(bench: DetectionBench, settings: CaseSettings) -> detection_data.Loaded:
    """The data of a case.

    Raises:
        InputError: They cannot be read, or are too few.
        NotInstalledError: They need a package that is missing.
    """
    s = settings
    data = detection_data.load(s.data, seed=bench.seed, limit=s.limit, label=s.label, kind=s.kind, noise=s.noise)
    if len(data.records) < 40:
        raise InputError(f"{s.name}: {len(data.records)} records are too few; at least 40 are needed.")
    return data


def prepare(bench: DetectionBench, settings: CaseSettings, workers: int, tell: Tell) -> Prepared:
    """Read the data of a case and train what is not trained yet.

    Raises:
        InputError: The data cannot be read, or hold too few records.
        NotInstalledError: They need a package that is missing.
    """
    from expunge import __version__

    s, data = settings, read(bench, settings)
    learner = learner_of(s.model, data, s.epochs, s.widths)

    def told(done: int, total: int) -> None:
        if done == total or done % 8 == 0:
            tell(f"{s.name}: {done} of {total} models trained")

    division = tddbench_case(
        data.records, learner, bench.folder / "models" / s.name, targets=bench.targets, models=bench.references,
        distribution=bench.ref_dis, seed=bench.seed, workers=workers, tell=told,
    )  # fmt: skip
    content = {
        "format": FORMAT, "version": __version__, "records": digest_of(data.records), "kind": data.records.kind,
        "learner": learner.name, "seed": bench.seed, "references": bench.references, "ref_dis": bench.ref_dis,
        "limits": bench.limits.model_dump(), "draws": bench.draws,
    }  # fmt: skip
    return Prepared(s, data, division, content)


def run_detection(bench: DetectionBench, *, workers: int = 1, tell: Tell = lambda line: None) -> dict[str, Any]:
    """Carry a detection bench out, or on.

    Returns:
        What is filed as ``results.json``: see `collected`.

    Raises:
        InputError: Wrong data; no case is left; another process is at work in the folder.
        RunError: A training or a worker process failed.
    """
    bench.folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(bench.folder):
        sweep(bench.folder)
        write_text(bench.folder / "recipe.yaml", _yaml.dump(bench.model_dump(mode="json")))
        prepared, missing = _prepared(bench, workers, tell)
        if not prepared:
            raise InputError(next(iter(missing.values())))
        cells = [Cell(bench, p.settings, target) for p in prepared for target in (STAND_IN, *range(bench.targets))]
        for cell in _carried_out(perform, [c for c in cells if _left(c, prepared)], workers):
            tell(f"{cell.title}: done")
        results = collected(bench, prepared, missing)
        write_json(bench.folder / "results.json", results)
    return results


def _prepared(bench: DetectionBench, workers: int, tell: Tell) -> tuple[list[Prepared], dict[str, str]]:
    """All cases with their models, and why others cannot be run.

    With as many cases as workers each worker trains the models of whole cases, else all work on one case at a time.
    """
    known, missing = [], {}
    for settings in bench.cases:
        try:
            learner_of(settings.model, read(bench, settings), settings.epochs, settings.widths)
            known.append(settings)
        except detection_data.NotInstalledError as error:
            missing[settings.name] = str(error)
            tell(f"{settings.name}: not run. {error}")
    if len(known) >= workers > 1:
        for cell in _carried_out(train, [Cell(bench, settings, 0) for settings in known], workers):
            tell(f"{cell.settings.name}: models trained")
    return [prepare(bench, settings, workers, tell) for settings in known], missing


def _left(cell: Cell, prepared: list[Prepared]) -> bool:
    case = next(p for p in prepared if p.settings.name == cell.settings.name)
    return any(cell.filed(name, case.key(cell.target, name)) is None for name in cell.bench.detectors)


def _carried_out(work: Callable[[Cell], None], cells: list[Cell], workers: int) -> Iterator[Cell]:
    """Cells as they end."""
    if workers > 1 and len(cells) > 1:
        yield from in_processes(work, cells, (), min(workers, len(cells)))
        return
    for cell in cells:
        work(cell)
        yield cell


def train(cell: Cell) -> None:
    """Train what is not trained yet in a cell's case."""
    prepared = prepare(cell.bench, cell.settings, 1, lambda line: None)
    case_of(prepared, 0, models_folder(cell))


def perform(cell: Cell) -> None:
    """Run what is left of a cell."""
    bench = cell.bench
    prepared = prepare(bench, cell.settings, 1, lambda line: None)
    keys = {name: prepared.key(cell.target, name) for name in bench.detectors}
    left = [name for name in bench.detectors if cell.filed(name, keys[name]) is None]
    case = case_of(prepared, max(0, cell.target), models_folder(cell))
    limits = Limits(**bench.limits.model_dump())
    if cell.target == STAND_IN:
        found = calibrate(case, left, limits=limits)
        for name in left:
            write_json(cell.path(name), {"key": keys[name], "threshold": _threshold(found.get(name))})
        return

    def file(row: Detection) -> None:
        if row.scores is not None and row.rows is not None:
            _write_scores(cell.path(row.name).with_suffix(".safetensors"), row.scores, case.audited[row.rows])
        key = "" if row.status == "failed" else keys[row.name]  # a failure is tried again by the next command
        write_json(cell.path(row.name), {"key": key, "row": row.to_dict()})

    run_suite(case, left, limits=limits, thresholds={}, draws=bench.draws, tell=file)


def models_folder(cell: Cell) -> Path:
    """Where the models of a cell's case lie."""
    return cell.bench.folder / "models" / cell.settings.name


def case_of(prepared: Prepared, target: int, folder: Path) -> Case:
    """A target of a prepared case under attack; for texts with a model that finds similar ones."""
    division, vocabulary = prepared.division, prepared.data.vocabulary
    if prepared.data.records.kind != "text":
        return division.case(target)
    from expunge.bench.detection_neighbours import population_neighbours

    texts = [str(division.data.inputs[row]) for row in division.parts.shadow]
    return division.case(target, population_neighbours(texts, vocabulary, folder, division.seed))


def _threshold(value: float | None) -> float | str | None:
    """JSON has no infinity: a threshold nobody reaches is a word."""
    return "never" if value == float("inf") else value


def read_thresholds(stand_in: Cell, prepared: Prepared) -> dict[str, float]:
    """Calibrated thresholds of a case by detector."""
    found = {}
    for name in stand_in.bench.detectors:
        filed = stand_in.filed(name, prepared.key(STAND_IN, name))
        value = filed["threshold"] if filed else None
        if value is not None:
            found[name] = float("inf") if value == "never" else float(value)
    return found


def _write_scores(path: Path, scores: Floats, rows: np.ndarray[Any, Any]) -> None:
    """Scores of audited records, so that single records can be looked up."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({"scores": np.ascontiguousarray(scores), "rows": np.ascontiguousarray(rows)}, temporary)
    os.replace(temporary, path)


def collected(bench: DetectionBench, prepared: list[Prepared], missing: Mapping[str, str]) -> dict[str, Any]:
    """All rows as plain data: the recipe, one entry for each case, one row for each target and detector."""
    cases = []
    for p in prepared:
        records = p.data.records
        thresholds = read_thresholds(Cell(bench, p.settings, STAND_IN), p)
        cells = [Cell(bench, p.settings, target) for target in range(bench.targets)]
        rows = [_row_of(cell, p, name, thresholds.get(name)) for cell in cells for name in bench.detectors]
        cases.append({
            "name": p.settings.name, "data": p.settings.data, "model": p.settings.model, "kind": records.kind,
            "records": len(records), "classes": len(p.data.classes), "repeated": detection_data.repeated(records),
            "noise": p.settings.noise, "note": p.data.note, "accuracy": accuracies(p), "rows": rows,
        })  # fmt: skip
    return {
        "schema": 1, "name": bench.name, "seed": bench.seed, "targets": bench.targets, "references": bench.references,
        "ref_dis": bench.ref_dis, "detectors": list(bench.detectors), "limits": bench.limits.model_dump(),
        "cases": cases, "missing": dict(missing),
    }  # fmt: skip


def _row_of(cell: Cell, prepared: Prepared, name: str, threshold: float | None) -> dict[str, Any]:
    """A filed row with the rates at the calibrated threshold."""
    filed = read_json(cell.path(name))
    if filed is None:
        paradigm = find_detector(name).paradigm
        return {
            "target": cell.target,
            "name": name,
            "paradigm": paradigm,
            "status": "failed",
            "notes": ["not finished"],
        }
    row = {"target": cell.target, **filed["row"]}
    if row["status"] == "measured" and threshold is not None:
        from safetensors.numpy import load_file

        scored = load_file(cell.path(name).with_suffix(".safetensors"))
        member = prepared.division.targets.inside[cell.target, scored["rows"]]
        rates = rates_at(threshold, scored["scores"], member)._asdict()
        row["calibrated"] = {**rates, "threshold": _threshold(threshold)}
    return row


def accuracies(prepared: Prepared) -> dict[str, float]:
    """Mean accuracy of the targets on their training data and on the rest of the target part."""
    division = prepared.division
    labels, rows = division.data.labels, division.parts.target
    found = []
    for t in range(len(division.targets)):
        right = division.targets.logits(t)[rows].argmax(1) == labels[rows]
        inside = division.targets.inside[t, rows]
        found.append((right[inside].mean(), right[~inside].mean()))
    seen, unseen = np.mean(found, axis=0)
    return {"members": round(float(seen), 4), "nonmembers": round(float(unseen), 4)}
