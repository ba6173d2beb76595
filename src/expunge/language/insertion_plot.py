"""The picture of a dose-response: detection and extraction by number of copies, of readers and non-readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from expunge.errors import InputError
from expunge.language.insertion_response import Dose
from expunge.language.insertion_verdict import null_error
from expunge.report import plots
from expunge.report._svg import Axis, Series, panel

SIZE = (420.0, 250.0)
LEFT, RIGHT, TOP, BOTTOM = 40.0, 300.0, 28.0, 206.0
ROLES = ("gold", "unlearned", "target", "control")  # styles of the lines, gold for what has read nothing
_STYLE = (Path(plots.__file__).parent / "style.css").read_text(encoding="utf-8")
_PAGE = (
    "body { padding: 18px 22px; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 26px; width: 1010px; }"
)


def dose_panels(curves: Mapping[str, Sequence[Sequence[Dose]]], detector: str = "loss") -> list[str]:
    """Two panels: AUROC against never-inserted texts, and the share of ids that are extracted, by copies in the stream.

    Args:
        curves: Label of a model to its dose-responses, one for each seed: lines are their mean, bands their range. The
            first one is the model that has read nothing, drawn as gold, with the range of two standard errors in which
            its AUROC has to lie instead of its own.
        detector: The membership attack.

    Returns:
        Two SVG elements.

    Raises:
        InputError: No curve, more than there are styles for, or curves over different numbers of copies.
    """
    if not 0 < len(curves) <= len(ROLES):
        raise InputError(f"A dose plot shows 1 to {len(ROLES)} models; there are {len(curves)}.")
    doses = [x.d for x in next(iter(curves.values()))[0]]
    if any([x.d for x in run] != doses for runs in curves.values() for run in runs):
        raise InputError("A dose plot needs the same numbers of copies for all models and seeds.")
    read = [d for d in doses if d]
    if len(read) < 2 or 0 not in doses:
        raise InputError("A dose plot needs d = 0 and at least two numbers of copies above it.")
    counts = {x.d: x.texts for x in next(iter(curves.values()))[0]}
    errors = [2 * null_error(counts[d], counts[0]) for d in read]
    low, high = [0.5 - e for e in errors], [0.5 + e for e in errors]
    detected = [Series("chance", "chance", read, [0.5] * len(read), low, high)]
    written: list[Series] = []
    for role, (label, runs) in zip(ROLES, curves.items(), strict=False):
        auc = np.array([[x.auroc[detector] for x in run if x.d] for run in runs])
        ids = np.array([[x.extracted for x in run] for run in runs])
        for found, values, at in ((detected, auc, read), (written, ids, doses)):
            banded = len(runs) > 1 and role != "gold"
            low, high = (values.min(0).tolist(), values.max(0).tolist()) if banded else ([], [])
            found.append(Series(role, label, at, values.mean(0).tolist(), low, high, markers=True))
    seeds = max(len(runs) for runs in curves.values())
    share = Axis(0.0, 1.0, BOTTOM, TOP, ticks=(0.0, 0.25, 0.5, 0.75, 1.0))
    shown = [
        (detected, read, "log", f"AUROC of the {detector} attack against d = 0", "detection"),
        (written, doses, "steps", "share of ids written by greedy decoding", "extraction"),
    ]
    return [
        panel(
            series,
            Axis(float(at[0]), float(at[-1]), LEFT, RIGHT, scale, ticks=tuple(map(float, at))),  # type: ignore[arg-type]
            share,
            title=f"{name} by number of copies",
            description=f"{'; '.join(f'{s.label}: {s.y[0]:.2f} to {s.y[-1]:.2f}' for s in series)}; {seeds} seeds.",
            x_label="copies in the stream (d)",
            y_label=y_label,
            size=SIZE,
            uid=f"dose-{name}",
        )
        for series, at, scale, y_label, name in shown
    ]


def dose_page(curves: Mapping[str, Sequence[Sequence[Dose]]], title: str = "Dose-response") -> str:
    """Both panels side by side as one self-contained page."""
    pictures = "".join(f"<figure>{picture}</figure>" for picture in dose_panels(curves))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<style>{_STYLE}{_PAGE}</style></head><body><div class="pair">{pictures}</div></body></html>\n'
    )


def dose_table(curves: Mapping[str, Sequence[Sequence[Dose]]], detectors: Sequence[str]) -> list[str]:
    """The numbers as lines of a Markdown table; values of several seeds with slashes between."""
    lines = [f"| model | copies | exposures | loss | AUROC {', '.join(detectors)} | p ({detectors[0]}) | ids written |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for label, runs in curves.items():
        for same in zip(*runs, strict=True):
            first = same[0]
            auc = ", ".join(" / ".join(f"{x.auroc[k]:.2f}" for x in same) for k in detectors) if first.d else ""
            p = " / ".join(f"{x.p[detectors[0]]:.3f}" for x in same) if first.d else ""
            loss = " / ".join(f"{x.nll:.2f}" for x in same)
            ids = " / ".join(f"{x.extracted:.0%}" for x in same)
            lines.append(f"| {label} | {first.d} | {first.exposures:g} | {loss} | {auc} | {p} | {ids} |")
    return lines
