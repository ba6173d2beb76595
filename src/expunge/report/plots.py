"""The report's pictures, drawn from a scorecard as inline SVG.

Each function returns no picture rather than an empty one when its data are missing. Pictures with one line
per model are small multiples, one panel for each method, always against the same references, so that nine
methods read as easily as one. ``Scorecard.curves`` holds, none of it content of forget records:

    curves["trajectory"]        = {method: {"step": [...], "forget": [...], "retain": [...]}}
    curves["truth_ratio"]       = {model: [value of each row]}
    curves["roc"]               = {model: {"fpr": [...], "tpr": [...], "detector": "loss"}}
    curves["relearning"]        = {model: {"step": [...], "held_out": [...], "low": [...], "high": [...]}}
    curves["benign_relearning"] = the same layout

``step`` counts optimiser steps, accuracies and rates lie in [0, 1], ``low`` and ``high`` are 95% intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge.report._scatter import residue_bar, utility_forgetting
from expunge.report._svg import Axis, Series, panel
from expunge.report._words import display_name
from expunge.report.scorecard import Scorecard
from expunge.report.verdict import REFERENCES

__all__ = ["relearning", "residue_bar", "roc", "trajectory", "truth_ratio", "utility_forgetting"]

SIZE = (340.0, 236.0)
LEFT, RIGHT, WIDE, TOP, BOTTOM = 38.0, 268.0, 326.0, 26.0, 194.0
_SHARE = Axis(0.0, 1.0, BOTTOM, TOP, ticks=(0.0, 0.25, 0.5, 0.75, 1.0), percent=True)
_WORDS = {"target": "target", "gold": "gold", "control": "control"}


def _methods(curves: dict[str, Any]) -> list[str]:
    return [name for name in curves if name not in REFERENCES]


def _roles(curves: dict[str, Any], method: str, references: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(name, role, label) of the models in one panel; the judged model is drawn last, on top."""
    known = [(name, name, _WORDS[name]) for name in references if name in curves]
    return [*known, (method, "unlearned", "unlearned")]


def trajectory(scorecard: Scorecard) -> dict[str, str]:
    """Accuracy on forget and retain records while the method trains; gold's forget level dashed."""
    out = {}
    level = scorecard.value("accuracy", "forget", "gold")
    for method, curve in scorecard.curves.get("trajectory", {}).items():
        steps = curve["step"]
        if not steps or not max(steps):
            continue
        series = [
            Series("retain", "retain", steps, curve["retain"]),
            Series("unlearned", "forget", steps, curve["forget"]),
        ]
        if level is not None:
            series.insert(0, Series("gold", "gold", [0, max(steps)], [level, level]))
        name = display_name(method)
        out[method] = panel(
            series,
            Axis(0.0, float(max(steps)), LEFT, RIGHT),
            _SHARE,
            title=f"{name}: accuracy during unlearning",
            description=(
                f"Forget accuracy goes from {curve['forget'][0]:.0%} to {curve['forget'][-1]:.0%}, "
                f"retain accuracy from {curve['retain'][0]:.0%} to {curve['retain'][-1]:.0%} "
                f"in {max(steps)} steps."
                + (f" The gold model's forget accuracy is {level:.0%}." if level is not None else "")
            ),
            x_label="optimiser steps",
            y_label="accuracy",
            size=SIZE,
            uid=f"trajectory-{method}",
        )
    return out


def truth_ratio(scorecard: Scorecard) -> dict[str, str]:
    """Share of forget records whose truth ratio lies below each value (empirical distribution), log axis."""
    values = {
        name: np.asarray([v for v in row if v is not None and v > 0], dtype=np.float64)
        for name, row in scorecard.curves.get("truth_ratio", {}).items()
    }
    values = {name: np.clip(v[np.isfinite(v)], 1e-4, 1e4) for name, v in values.items()}
    values = {name: v for name, v in values.items() if len(v)}
    out: dict[str, str] = {}
    if not values:
        return out
    ends = np.concatenate([np.quantile(v, [0.005, 0.995]) for v in values.values()])
    first = int(np.floor(np.log10(ends.min())))
    last = max(first + 1, int(np.ceil(np.log10(ends.max()) - 1e-9)))
    x = Axis(10.0**first, 10.0**last, LEFT, WIDE, "log")
    shares = np.linspace(0, 1, 101)
    for method in _methods(values):
        roles = _roles(values, method, ("target", "gold"))
        medians = ", ".join(f"{label} {np.median(values[name]):.2g}" for name, _, label in roles)
        name = display_name(method)
        out[method] = panel(
            [
                Series(role, label, [x.low, *np.quantile(values[n], shares), x.high], [0.0, *shares, 1.0])
                for n, role, label in roles
            ],
            x,
            _SHARE,
            title=f"{name}: truth ratio of the forget records",
            description=f"Median truth ratio: {medians}.",
            label_at={"target": 0.6, "gold": 0.25, "unlearned": 0.7},
            x_label="truth ratio (log scale)",
            y_label="share of records below",
            size=SIZE,
            uid=f"truth-{method}",
        )
    return out


def roc(scorecard: Scorecard) -> dict[str, str]:
    """Membership inference: true against false positive rate, false positives on a log axis from 0.1%."""
    curves = scorecard.curves.get("roc", {})
    x = Axis(1e-3, 1.0, LEFT, WIDE, "log", percent=True)
    chance = np.logspace(-3, 0, 31)
    out = {}
    for method in _methods(curves):
        roles = _roles(curves, method, ("target", "gold"))
        low_rate = ", ".join(
            f"{label} {np.interp(0.01, curves[n]['fpr'], curves[n]['tpr']):.0%}" for n, _, label in roles
        )
        name = display_name(method)
        out[method] = panel(
            [
                Series("chance", "chance", chance.tolist(), chance.tolist()),
                *(Series(role, label, *_thinned(curves[n]["fpr"], curves[n]["tpr"])) for n, role, label in roles),
            ],
            x,
            _SHARE,
            title=f"{name}: membership inference ({curves[method].get('detector', 'loss')})",
            description=f"True positive rate at 1% false positives: {low_rate}.",
            label_at={"chance": 0.1, "target": 0.7, "gold": 0.3, "unlearned": 0.5},
            x_label="false positives (log scale)",
            y_label="true positives",
            size=SIZE,
            uid=f"roc-{method}",
        )
    return out


def _thinned(fpr: list[float], tpr: list[float], points: int = 80) -> tuple[list[float], list[float]]:
    """The curve at log-spaced rates, where the axis can show it; steps become straight pieces."""
    rates = np.logspace(-3, 0, points)
    return rates.tolist(), np.interp(rates, fpr, tpr).tolist()


def relearning(scorecard: Scorecard, key: str = "relearning") -> dict[str, str]:
    """Accuracy on held-out forget records as an attacker trains the model again.

    Args:
        scorecard: Where the curves are.
        key: ``relearning`` (trained on other forget records) or ``benign_relearning`` (something unrelated).
    """
    curves = scorecard.curves.get(key, {})
    what = "relearning on other forgotten records" if key == "relearning" else "fine-tuning on something unrelated"
    out = {}
    for method in _methods(curves):
        roles = _roles(curves, method, ("target", "gold", "control"))
        steps = sorted({s for n, _, _ in roles for s in curves[n]["step"]})
        if len(steps) < 2:
            continue
        series = [
            Series(
                role,
                label,
                curves[n]["step"],
                curves[n]["held_out"],
                curves[n].get("low", ()) if role in ("unlearned", "gold") else (),
                curves[n].get("high", ()) if role in ("unlearned", "gold") else (),
                markers=role == "unlearned",
            )
            for n, role, label in roles
        ]
        rise = ", ".join(f"{s.label} from {s.y[0]:.0%} to {s.y[-1]:.0%}" for s in series)
        name = display_name(method)
        out[method] = panel(
            series,
            Axis(float(steps[0]), float(steps[-1]), LEFT, RIGHT, "steps", ticks=tuple(steps)),
            _SHARE,
            title=f"{name}: held-out accuracy after {what}",
            description=f"In {steps[-1]} steps: {rise}.",
            x_label="attacker's training steps",
            y_label="held-out accuracy",
            size=SIZE,
            uid=f"{key}-{method}",
        )
    return out
