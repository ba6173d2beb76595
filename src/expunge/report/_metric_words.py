"""What each metric is called, what it means in a sentence, and how its value is written."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["share", "number", "p"]


class Label(NamedTuple):
    """A metric for readers: its name, one line on what it means, and how its value is written."""

    name: str
    meaning: str
    kind: Kind = "share"


METRICS: dict[str, Label] = {
    "accuracy": Label("Correct answers", "Share answered correctly."),
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
        "Correct answers on forgotten records after brief training on something unrelated.",
    ),
    "open_unlearning.memorization": Label(
        "Not memorised (aggregate)", "Harmonic mean of how little is extracted, completed or preferred.", "number"
    ),
    "open_unlearning.privacy": Label(
        "Not detectable (aggregate)", "Harmonic mean of how close four detectors come to their value on gold.", "number"
    ),
    "open_unlearning.utility": Label("Utility (aggregate)", "Model utility as it enters the aggregate.", "number"),
    "open_unlearning.overall": Label("All three (aggregate)", "Harmonic mean of the three aggregates.", "number"),
    "memorization_accuracy": Label("Memorisation accuracy", "Share of tokens predicted from those before them."),
    "multiple_choice": Label("Right option", "Share of questions whose right option the model finds likeliest."),
    "multiple_choice.standard_error": Label("Right option, standard error", "", "number"),
    "form_probability": Label("Answer probability, by form", "The same facts asked in different forms."),
    "form_change": Label("Change by form", "How far the probability fell in each form.", "number"),
    "form_bias": Label("Bias towards the trained form", "How much more was forgotten in the trained form.", "number"),
    "form_spread": Label("Spread over forms", "How unevenly the forms were forgotten.", "number"),
    "bleu_to_target": Label(
        "Text like the target's (BLEU)", "How much it still writes what the target wrote.", "number"
    ),
    "rouge_l_to_target": Label("Text like the target's (ROUGE-L)", "How much it still writes what the target wrote."),
    "neurons_moved": Label("Concept vectors moved", "Share of the vectors behind the concept that changed."),
    "expert_overlap": Label("Same experts chosen", "Share of tokens that go to the experts they went to before."),
    "familiarity_probability": Label("Familiar next words", "Probability of words that give the topic away."),
    "familiarity_completion": Label("Familiar completions", "How familiar its completions sound with the topic."),
    "fluency": Label("Fluency", "Entropy of the words it writes; near 0 it repeats itself.", "number"),
    "nomus": Label(
        "NoMUS",
        "Mean of accuracy on strangers and of how little an attack can tell; models that learned nothing can win it.",
        "number",
    ),
    "forgetting_score": Label(
        "Forgetting score",
        "How far an attacker who tells forgotten from never-seen by their loss is from guessing; gold's is the ideal.",
        "number",
    ),
    "loss_difference": Label(
        "Loss against never-seen",
        "Mean loss on forgotten minus mean loss on never-seen images, nats. Below 0: remembered; well above: overdone.",
        "number",
    ),
    "knn": Label(
        "Neighbours agree",
        "Right answers by a vote of the images it sees as most alike: what its inner picture of them still tells.",
    ),
    "cka.gold": Label(
        "Inner picture like gold's (CKA)",
        "1 is the same. Two models that never saw the data do not reach 1 either.",
        "number",
    ),
    "cka.target": Label(
        "Inner picture like the target's (CKA)",
        "1: nothing below the last layer has changed, so whatever was learned is still there.",
        "number",
    ),
    "agl": Label(
        "Answers like gold's, all sets (AGL)", "1: as often right as gold, on what goes and on what stays.", "number"
    ),
    "agr": Label(
        "Inner picture like gold's, all sets (AGR)",
        "1: images lie to each other as they do for gold. Reconstructed formula.",
        "number",
    ),
    "h_lr": Label("Answers and inner picture (H-LR)", "Harmonic mean of the two; reconstructed formula.", "number"),
    "quantise_8.accuracy": Label("After 8-bit rounding", "Correct answers once the weights are rounded to 8 bits."),
    "quantise_4.accuracy": Label("After 4-bit rounding", "Correct answers once the weights are rounded to 4 bits."),
}

METRICS |= {
    "mi_bf": Label("Fall of the score (MI-BF)", "Mean score before over mean score now; 1: nothing changed.", "number"),
    "mi_ng": Label("Score of never-seen over forgotten (MI-NG)", "1: forgotten ones score like random ones.", "number"),
    "mean_rank": Label("Mean rank of the forgotten items", "Among all items a user has not kept.", "number"),
    "ks.gold": Label(
        "Difference of scores from gold's (KS)", "Largest gap between the two distributions; 0: the same.", "number"
    ),
    "overlap.gold": Label("Same recommendations as gold", "Share of the first places both models agree on."),
    "parameter_distance.gold": Label("Distance of the weights from gold's", "Relative to gold's size.", "number"),
}
# What gold scores 1 in by definition: how far a second gold model gets is what there is to get.
AGAINST_GOLD = ("cka.gold", "agl", "agr", "h_lr")

_DETECTORS = {
    "non_interactions": "score, against items never taken",
    "holdout": "score, against unseen interactions",
    "loss": "loss",
    "zlib": "loss per compressed byte",
    "min_k": "Min-K%",
    "min_k_plus_plus": "Min-K%++",
    "reference": "reference model",
    "lowercase": "loss against lower case",
    "gradient_norm": "size of the gradient",
    "lira": "LiRA",
    "lira_offline": "LiRA, offline",
    "rmia": "RMIA",
    "calibration": "calibrated loss",
    "attack_r": "rank among reference models",
    "modified_entropy": "modified entropy",
    "choi": "logistic regression on the loss",
}
_MEASURES: dict[str, tuple[str, str, Kind]] = {
    "auroc": (
        "Detection by {how} (AUROC)",
        "How well an attacker tells forgotten from never-seen records: 0.5 guessing, 1 always right.",
        "number",
    ),
    "tpr_at_1_fpr": (
        "Caught at 1% false alarms, {how}",
        "Share of forgotten records the attacker is sure about.",
        "share",
    ),
    "tpr_at_0_1_fpr": (
        "Caught at 0.1% false alarms, {how}",
        "Share of forgotten records the attacker is very sure about.",
        "share",
    ),
    "balanced_accuracy": (
        "Right accusations and acquittals, {how}",
        "At a threshold set on other models, not on these records.",
        "share",
    ),
    "accuracy": ("Right guesses, {how}", "Share of records the attacker places rightly; a half is guessing.", "share"),
}
_WHOLE = {  # what stands right after "membership."
    "usage": Label(
        "Share of the forgotten set still in use", "Estimated from how many records an attack calls trained on."
    ),
    "epsilon": Label(
        "Proven leak (epsilon, lower bound)",
        "0: nothing is proven; each unit more is a bigger provable leak.",
        "number",
    ),
}
# Benchmarks with many numbers of one kind: the pattern of their names, and what stands for its groups.
_FAMILIES: tuple[tuple[str, str, str, Kind], ...] = (
    (r"recall_at_(\d+)", "Found in the first {0} (recall)", "Share of a user's items that are recommended.", "share"),
    (r"ndcg_at_(\d+)", "Order of the first {0} (NDCG)", "1: all at the top.", "number"),
    (r"precision_at_(\d+)", "Right ones among the first {0} (precision)", "", "share"),
    (r"map_at_(\d+)", "Mean precision down to each hit of {0} (MAP)", "", "number"),
    (r"hit_at_(\d+)", "Users with a hit in the first {0}", "", "share"),
    (r"extraction_likelihood_(\d+)", "Extraction likelihood of {0} words in a row", "", "share"),
    (r"rwku\.rouge\.(\w+)(\..*)?", "Word overlap with the answer, {0} probes{1}", "", "share"),
    (r"rwku\.membership\.([\w.]+)\.auroc", "Detection by {0} (AUROC)", "", "number"),
    (r"rwku\.membership\.([\w.]+)", "Mean {0} of texts about the target", "Nats, as published.", "number"),
    (r"rwku\.(\w+)", "RWKU, {0}", "", "share"),
    (r"hubble\.gap\.(.+)", "Share of the way to gold, {0}", "0 nothing changed, 1 as if never seen.", "number"),
    (r"hubble\.membership\.(.+)\.auroc", "Detection by {0} (AUROC)", "Against texts never inserted.", "number"),
    (r"hubble\.membership\.(.+)\.p", "Chance of such a detection, {0}", "", "p"),
    (r"hubble\.(.+)", "{0}", "", "number"),
    (r"muse\.privleak(.*)", "Privacy leakage{0}", "0 the ideal, -1 a full leak, above 0 over-forgotten.", "number"),
    (r"muse\.(.+)", "{0}", "", "share"),
    (r"harness\.(.+)", "{0}", "", "number"),
)


def metric_label(metric: str) -> Label:
    """How a metric is called and explained; one without an entry is called by its own name.

    >>> metric_label("membership.min_k.auroc").name
    'Detection by Min-K% (AUROC)'
    """
    if metric in METRICS:
        return METRICS[metric]
    if metric.startswith("membership."):
        return _membership(metric.removeprefix("membership."))
    for pattern, name, meaning, kind in _FAMILIES:
        found = re.fullmatch(pattern, metric)
        if found:
            words = [_plain(group or "") for group in found.groups()]
            return Label(_capital(name.format(*words)), meaning, kind)
    return Label(_plain(metric), "", "number")


def _membership(rest: str) -> Label:
    if rest in _WHOLE:
        return _WHOLE[rest]
    detector, _, measure = rest.partition(".")
    how = _DETECTORS.get(detector, _plain(detector))
    if measure not in _MEASURES:
        return Label(f"{_capital(how)}, {_plain(measure)}", "", "number")
    name, meaning, kind = _MEASURES[measure]
    return Label(name.format(how=how), meaning, kind)


def _plain(name: str) -> str:
    """A name in words.

    >>> _plain("extraction.at_5"), _plain(".auroc")
    ('extraction, at 5', ', auroc')
    """
    return name.replace("_", " ").replace(".", ", ")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
