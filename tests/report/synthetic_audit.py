"""A synthetic but realistic audit: nine ways to forget 20 authors, each failing in its own way.

Numbers are drawn with the shapes seen on small models; nothing here is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge.report.scorecard import ChannelEvidence, Direction, Evidence, Finding, Scorecard
from expunge.report.verdict import judge

# forget accuracy, paraphrase, retain accuracy, forget quality, held-out after relearning, utility ratio
MODELS: dict[str, tuple[float, ...]] = {
    "target": (0.98, 0.91, 0.97, 1e-7, 0.96, 1.0),
    "gold": (0.06, 0.07, 0.97, 1.0, 0.08, 1.0),
    "gold_2": (0.07, 0.06, 0.96, 0.81, 0.09, 0.99),
    "control": (0.03, 0.04, 0.95, 2e-9, 0.78, 0.98),
}
METHODS: dict[str, tuple[float, ...]] = {
    "npo": (0.07, 0.10, 0.92, 0.31, 0.46, 0.95),
    "grad-ascent": (0.00, 0.00, 0.11, 1e-12, 0.05, 0.11),
    "grad-diff": (0.02, 0.11, 0.90, 3e-6, 0.38, 0.93),
    "simnpo": (0.05, 0.08, 0.95, 0.12, 0.31, 0.98),
    "rmu": (0.04, 0.05, 0.94, 4e-8, 0.62, 0.97),
    "dpo-refusal": (0.02, 0.06, 0.93, 7e-9, 0.75, 0.96),
    "task-vector": (0.55, 0.41, 0.96, 2e-5, 0.83, 0.99),
    "fine-tune-retain": (0.09, 0.08, 0.96, 0.55, 0.11, 0.99),
    "prompt-guard": (0.03, 0.09, 0.97, 1e-7, 0.97, 1.0),
}
CLUSTERS, FACTS = 20, 10
BUDGETS = (1, 4, 16)


def channel(name: str, budget: str, excess: Any, facts: int = FACTS) -> ChannelEvidence:
    return ChannelEvidence(name, budget, [float(e) for e in excess], [facts] * len(excess))


def spread(mean: float, n: int = CLUSTERS, sd: float = 0.05, seed: int = 0) -> np.ndarray:
    """Exactly the given mean and standard deviation (ddof 1), clipped to legal differences of scores."""
    z = np.random.default_rng(seed).standard_normal(n)
    z = (z - z.mean()) / z.std(ddof=1)
    return np.clip(mean + sd * z, -1, 1)


def _finding(metric: str, split: str, model: str, value: float, direction: Direction, half: float) -> Finding:
    top = float("inf") if metric.startswith("truth") else 1.0
    return Finding(metric, split, model, value, max(0.0, value - half), min(top, value + half), 200, direction)


def _findings(name: str, row: tuple[float, ...]) -> list[Finding]:
    forget, paraphrase, retain, quality, held_out, _ = row
    leak = 0.5 + 0.45 * forget
    found: list[tuple[str, str, float, Direction, float]] = [
        ("accuracy", "forget", forget, "match-gold", 0.04),
        ("accuracy", "forget_paraphrase", paraphrase, "match-gold", 0.05),
        ("probability", "forget", 0.9 * forget + 0.01, "match-gold", 0.03),
        ("truth_ratio", "forget", 0.35 + 0.4 * (1 - forget), "match-gold", 0.05),
        ("rouge_l", "forget", 0.25 + 0.7 * forget, "match-gold", 0.03),
        ("extraction_strength", "forget", 0.04 + 0.8 * forget, "match-gold", 0.03),
        ("exact_memorization", "forget", 0.3 + 0.65 * forget, "match-gold", 0.03),
        ("accuracy", "retain", retain, "higher", 0.02),
        ("accuracy", "retain_paraphrase", 0.93 * retain, "higher", 0.03),
        ("probability", "retain", 0.92 * retain, "higher", 0.02),
        ("accuracy", "holdout", 0.06, "match-gold", 0.03),
        ("accuracy", "places", 0.9 * retain, "higher", 0.05),
        ("model_utility", "all", 0.8 * retain, "higher", 0.03),
        ("relearning.held_out_accuracy", "forget", held_out, "match-gold", 0.07),
        ("benign_relearning.accuracy", "forget", 0.8 * held_out, "match-gold", 0.07),
        ("quantise_8.accuracy", "forget", forget, "match-gold", 0.04),
        ("quantise_4.accuracy", "forget", min(1.0, forget + 0.06), "match-gold", 0.05),
    ]
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference"):
        found.append((f"membership.{attack}.auroc", "forget", leak, "match-gold", 0.04))
        found.append((f"membership.{attack}.tpr_at_1_fpr", "forget", 0.01 + 0.6 * forget, "match-gold", 0.03))
    out = [_finding(m, s, name, v, d, h) for m, s, v, d, h in found]
    if name != "gold":
        out.append(_finding("forget_quality", "forget", name, quality, "higher", 0.0))
        out.append(_finding("forget_quality.ks", "forget", name, min(1.0, 0.05 + forget), "lower", 0.05))
    return out


def _evidence(name: str, row: tuple[float, ...], seed: int) -> Evidence:
    forget, paraphrase, _, _, held_out, utility = row
    gold = MODELS["gold"]
    channels = [
        channel("direct", "greedy", spread(forget - gold[0], seed=seed)),
        channel("paraphrase", "1 rewording", spread(paraphrase - gold[1], seed=seed + 1)),
        channel("quantise-8", "8 bits", spread(forget - gold[0], seed=seed + 2)),
        channel("quantise-4", "4 bits", spread(forget - gold[0] + 0.02, seed=seed + 3)),
    ]
    for steps in BUDGETS:
        share = np.log2(1 + steps) / np.log2(17)
        for attack, power in (("relearn", 1.0), ("benign-relearn", 0.8)):
            excess = (held_out - gold[4]) * share * power
            channels.append(channel(attack, f"{steps} steps", spread(excess, 10, 0.08, seed + steps)))
    intention = "suppression" if name in ("rmu", "dpo-refusal", "prompt-guard") else "removal"
    return Evidence(channels, name == "prompt-guard", utility, name == "grad-ascent", intention)


def _curves(rows: dict[str, tuple[float, ...]], methods: list[str]) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    steps, relearn = np.arange(0, 61, 5), [0, 1, 2, 4, 8, 16, 32]
    curves: dict[str, Any] = {"trajectory": {}, "truth_ratio": {}, "roc": {}}
    curves |= {"relearning": {}, "benign_relearning": {}}
    for name, (forget, _, retain, _, held_out, _) in rows.items():
        if name in methods:
            decay = np.exp(-steps / 14.0)
            curves["trajectory"][name] = {
                "step": steps.tolist(),
                "forget": (forget + (0.98 - forget) * decay).tolist(),
                "retain": (retain + (0.97 - retain) * np.exp(-steps / 30.0)).tolist(),
            }
        curves["truth_ratio"][name] = np.exp(rng.normal(1.2 - 3 * forget, 0.8, 200)).tolist()
        fpr = np.append(0.0, np.logspace(-3, 0, 100))
        curves["roc"][name] = {
            "fpr": fpr.tolist(),
            "tpr": (fpr ** (1 - 0.85 * forget)).tolist(),
            "detector": "loss",
        }
        grown = forget + (held_out - forget) * np.log2(1 + np.array(relearn)) / np.log2(33)
        for key, share in (("relearning", 1.0), ("benign_relearning", 0.8)):
            value = forget + (grown - forget) * share
            curves[key][name] = {
                "step": relearn,
                "held_out": value.tolist(),
                "low": np.clip(value - 0.06, 0, 1).tolist(),
                "high": np.clip(value + 0.06, 0, 1).tolist(),
            }
    return curves


def build(methods: list[str] | None = None, gold: bool = True) -> Scorecard:
    """The scorecard of an audit of some methods (all nine if None), judged."""
    methods = list(METHODS) if methods is None else methods
    rows = {**MODELS, **{m: METHODS[m] for m in methods}}
    if not gold:
        rows = {name: row for name, row in rows.items() if not name.startswith("gold")}
    card = Scorecard(
        findings=[f for name, row in rows.items() for f in _findings(name, row)],
        gap=list(spread(0.92, seed=9)) if gold else [],
        evidence={n: _evidence(n, r, 10 * i) for i, (n, r) in enumerate(rows.items()) if n not in ("target", "gold")},
        curves=_curves(rows, methods),
        run={
            "recipe": "data: authors\nmethods: [npo, rmu]\nnote: '<script>alert(1)</script>'\nseed: 0\n",
            "versions": {"expunge": "0.1.0", "torch": "2.9.0", "python": "3.11.2"},
            "seed": 0,
            "hardware": {"processor": "x86_64, 8 cores", "memory": "16 GB", "accelerator": "none"},
            "data": {
                "forget": {"digest": "9f2c" * 16, "records": 200},
                "retain": {"digest": "01ab" * 16, "records": 800},
            },
            "seconds": {"prepare": 61.2, "unlearn": 240.0, "audit": 512.5},
            "started": "2026-03-01T09:30:00+00:00",
            "notes": ["The holdout set has fewer records than the forget set."],
        },
    )
    card.verdicts = judge(card)
    return card
