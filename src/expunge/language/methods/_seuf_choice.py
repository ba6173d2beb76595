"""What SEUF says about its choice of experts, and what it makes of experts and layers named by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

from expunge.engine.loop import TrainLog
from expunge.engine.method import Trained
from expunge.errors import InputError
from expunge.language.experts import Attribution, Pick
from expunge.language.moe import MoeLayer


def report(found: Attribution, seed: int) -> TrainLog:
    """The first experts of the ranking, and how sure the first is."""
    first, support = found.ranking[0], found.support(seed)
    values: dict[str, float] = {"step": 0, "affinity": first.affinity, "margin": support.margin, "first": support.share}
    best = ", ".join(f"{p.name} ({p.affinity:.3f})" for p in found.ranking[:3])
    notes = [
        f"affinity of the forget set: {best}; {first.name} leads by {support.margin:.3f} "
        f"(95% {support.low:.3f} to {support.high:.3f}) and comes first in {support.share:.0%} of resamplings"
    ]
    return TrainLog(probes=[values], notes=notes)


def parse(name: str, layers: dict[int, MoeLayer]) -> Pick:
    """``LAYER.EXPERT`` as an expert the model has."""
    parts = str(name).split(".")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise InputError(f"seuf: experts: {name!r} is neither LAYER.EXPERT, as in '4.5', nor 'shared'.")
    layer, expert = map(int, parts)
    if layer not in layers:
        known = ", ".join(map(str, layers))
        raise InputError(f"seuf: experts: {name!r}: layer {layer} has no routed experts; layers that do: {known}.")
    layers[layer].expert_params(expert)
    return Pick(layer, expert, float("nan"))


def reading(base: Trained, deepest: int) -> Trained:
    """An activation loss reads the output of the deepest selected layer, unless it names another above it."""
    if "layer" not in {f.name for f in fields(cast(Any, base))}:
        return base
    layer = getattr(base, "layer")  # noqa: B009 (not every method has one)
    if layer is None:
        return cast(Trained, replace(cast(Any, base), layer=deepest))
    if layer < deepest:
        raise InputError(f"seuf: layer={layer} of the base method lies below layer {deepest}, whose expert is trained.")
    return base
