"""Names and explanations for readers: data splits, families and verdicts in plain language."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from expunge.catalog import entries
from expunge.report._metric_words import METRICS as METRICS
from expunge.report._metric_words import Kind as Kind
from expunge.report._metric_words import metric_label as metric_label

Family = Literal["forgetting", "utility", "membership", "attacks"]


SPLITS = {
    "forget": "forgotten records",
    "forget_paraphrase": "forgotten records, reworded",
    "forget_earlier": "records forgotten by earlier requests",
    "retain": "retained records",
    "retain_paraphrase": "retained records, reworded",
    "holdout": "never-seen records",
    "places": "general knowledge: places",
    "real_authors": "general knowledge: authors",
    "world_facts": "general knowledge: world",
    "forget_mia": "texts about the forgotten",
    "retain_mia": "texts about others",
    "forget_test": "unseen images of forgotten classes",
    "test": "unseen records",
    "verbmem": "beginnings of forgotten texts",
    "privleak_forget": "forgotten texts",
    "all": "",
}
FAMILIES: dict[Family, tuple[str, str]] = {
    "forgetting": (
        "What it still shows",
        "Asked about the forgotten data. The goal is the gold model's value, not zero.",
    ),
    "utility": ("What it should keep", "Everything else the model was good for."),
    "membership": (
        "Whether training can be detected",
        "An attacker tries to tell forgotten records from never-seen ones. 0.5 is guessing.",
    ),
    "attacks": (
        "What comes back under attack",
        "The same questions after somebody tampers with the weights.",
    ),
}
VERDICTS: dict[str, tuple[str, str]] = {
    "not-forgotten": ("✕", "Asking is enough: the model still gives the knowledge away."),
    "suppressed": ("◑", "It no longer says it, but the knowledge is still inside and can be brought back."),
    "damaged": ("▲", "It lost so much of its other abilities that forgetting cannot be judged."),
    "inconclusive": ("?", "Nothing proves the knowledge is still there; not enough proves that it is gone."),
    "nothing-to-forget": ("○", "The original model did not demonstrably know the data to begin with."),
    "consistent-with-removal": (
        "✓",
        "No residue above the tolerance under every attack tried, each proven able to find one.",
    ),
}
ARROWS = {
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
    "match-gold": ("◇", "closest to gold"),
}


def split_label(split: str, words: Mapping[str, str] | None = None) -> str:
    """A split in words: the wing's own, if it has any for it, or the common ones.

    >>> split_label("forget"), split_label("forget", {"records": "images"})
    ('forgotten records', 'forgotten images')
    """
    words = words or {}
    common = SPLITS.get(split, split.replace("_", " ")).replace("records", words.get("records", "records"))
    return words.get(f"split {split}", common)


def family(metric: str, split: str) -> Family:
    """The section of the report a finding belongs to."""
    if "membership." in metric or metric.startswith("muse.privleak"):
        return "membership"
    if metric.startswith(("relearning.", "benign_relearning.", "quantise_")):
        return "attacks"
    if metric == "model_utility" or metric.startswith("harness.") or not split.startswith("forget"):
        return "utility"
    return "forgetting"


def display_name(model: str) -> str:
    """A model's name for headings: short names are acronyms as their class spells them, references have words.

    >>> display_name("npo"), display_name("loku"), display_name("grad-diff"), display_name("gold_2")
    ('NPO', 'LoKU', 'grad-diff', 'spare gold')
    """
    if model in ("target", "gold", "control"):
        return model
    if model == "gold_2":
        return "spare gold"
    if len(model) > 4 or not model.isalpha():
        return model
    spelt = {entry.name: entry.qualname for entry in entries("method")}
    return spelt.get(model, model.upper())


def number(value: float, kind: Kind) -> str:
    """A value as written in tables; a dash when it is undefined.

    >>> number(0.936, "share"), number(0.936, "number"), number(3.2e-7, "p"), number(float("nan"), "p")
    ('94%', '0.94', '3e-07', '–')
    """
    if not math.isfinite(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.0f}%"
    if kind == "p":
        return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
    return f"{value:.2f}"
