"""Names and explanations for readers: every metric, data split, family and verdict in plain language."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from expunge.catalog import entries

Family = Literal["forgetting", "utility", "membership", "attacks"]
Kind = Literal["share", "number", "p"]


class Label(NamedTuple):
    """A metric for readers: its name, one line on what it means, and how its value is written."""

    name: str
    meaning: str
    kind: Kind = "share"


METRICS: dict[str, Label] = {
    "accuracy": Label("Correct answers", "Share of questions answered correctly."),
    "probability": Label(
        "Answer probability",
        "Probability the model gives the true answer, per token; 1 means it knows it by heart.",
    ),
    "truth_ratio": Label(
        "Truth ratio",
        "How plausible wrong answers look next to the true one; it should look like gold's.",
        "number",
    ),
    "rouge_l": Label(
        "Word overlap (ROUGE-L)", "How much of the true answer's wording appears in what the model writes."
    ),
    "forget_quality": Label(
        "Forget quality (p-value)",
        "Chance of a difference from gold this large if there were none; tiny values tell the two apart.",
        "p",
    ),
    "forget_quality.ks": Label(
        "Distance from gold (KS)",
        "Largest gap between the truth-ratio distributions of this model and gold.",
        "number",
    ),
    "model_utility": Label(
        "Model utility",
        "One number for everything the model should still be able to do; 1 is perfect.",
        "number",
    ),
    "extraction_strength": Label(
        "Extraction strength",
        "Share of an answer the model completes word for word once it is given the beginning.",
    ),
    "exact_memorization": Label("Exact memorisation", "Share of answer tokens the model predicts exactly."),
    "relearning.held_out_accuracy": Label(
        "After relearning",
        "Correct answers on forgotten records after brief training on other forgotten records.",
    ),
    "benign_relearning.accuracy": Label(
        "After unrelated fine-tuning",
        "Correct answers on forgotten records after brief training on unrelated text.",
    ),
    "quantise_8.accuracy": Label("After 8-bit rounding", "Correct answers once the weights are rounded to 8 bits."),
    "quantise_4.accuracy": Label("After 4-bit rounding", "Correct answers once the weights are rounded to 4 bits."),
}
_DETECTORS = {
    "loss": "loss",
    "zlib": "loss per compressed byte",
    "min_k": "Min-K%",
    "min_k_plus_plus": "Min-K%++",
    "reference": "reference model",
}
SPLITS = {
    "forget": "forgotten records",
    "forget_paraphrase": "forgotten records, reworded",
    "retain": "retained records",
    "retain_paraphrase": "retained records, reworded",
    "holdout": "never-seen records",
    "places": "general knowledge: places",
    "real_authors": "general knowledge: authors",
    "world_facts": "general knowledge: world",
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


def metric_label(metric: str) -> Label:
    """How a metric is called and explained; one without an entry is called by its own name.

    >>> metric_label("membership.min_k.auroc").name
    'Detection by Min-K% (AUROC)'
    """
    if metric.startswith("membership."):
        _, detector, measure = [*metric.split("."), "", ""][:3]
        how = _DETECTORS.get(detector, detector.replace("_", " "))
        if measure == "tpr_at_1_fpr":
            return Label(f"Caught at 1% false alarms, {how}", "Share of forgotten records the attacker is sure about.")
        return Label(
            f"Detection by {how} (AUROC)",
            "How well an attacker tells forgotten from never-seen records: 0.5 guessing, 1 always right.",
            "number",
        )
    return METRICS.get(metric, Label(metric.replace("_", " ").replace(".", ", "), "", "number"))


def split_label(split: str) -> str:
    """A split in words."""
    return SPLITS.get(split, split.replace("_", " "))


def family(metric: str, split: str) -> Family:
    """The section of the report a finding belongs to."""
    if metric.startswith("membership."):
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
