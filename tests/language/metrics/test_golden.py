"""Every number of TOFU's golden values, computed again from the published logs: none is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from expunge.language.metrics.forget_quality import forget_quality
from expunge.language.metrics.model_utility import harmonic_mean
from expunge.language.metrics.probability import answer_probability, choice_probability
from expunge.language.metrics.truth_ratio import closer_to_1, true_better, truth_ratio

STAYS = ("retain", "real_authors", "world_facts")


def columns(rows, name, mean):
    """[n, 3] recall, probability and truth ratio's aggregate of one set of one log, and its truth ratios."""
    right, wrong = np.array(rows["avg_paraphrased_loss"]), np.array(rows["average_perturb_loss"])
    answer, owner = np.array(rows["avg_gt_loss"]), np.repeat(np.arange(len(wrong)), wrong.shape[1])
    own = name in ("retain", "forget")
    probability = answer_probability(answer) if own else choice_probability(answer, wrong.ravel(), owner)
    ratio = truth_ratio(right, wrong, mean)
    better = closer_to_1(ratio) if name == "forget" else true_better(ratio)
    return np.column_stack([rows["rougeL_recall"], probability, better]), ratio


def utility(log, mean):
    parts = [columns(log[s], s, mean)[0].mean(axis=0) for s in STAYS]
    return float(harmonic_mean(np.concatenate(parts)))


def recomputed(logs):
    """The golden file's tree."""
    tree = {}
    for model, log in logs.items():
        sets = {}
        for name, rows in log.items():
            recall, probability, ratio = columns(rows, name, "geometric")[0].mean(axis=0)
            n = len(rows["avg_gt_loss"])
            sets[name] = {"rougeL_recall": recall, "probability": probability, "truth_ratio": ratio, "n": n}
        tree[model] = {
            "geometric": {**sets, "model_utility": utility(log, "geometric")},
            "arithmetic_model_utility": utility(log, "arithmetic"),
        }
        gold = logs.get(model.replace("_full", "_retain90"))
        if model.endswith("_full"):
            found = forget_quality(*(columns(x["forget"], "forget", "geometric")[1] for x in (log, gold)))
            tree[model]["forget_quality_vs_retain90"] = {"ks_statistic": found.ks, "p_value": found.p}
    return tree


def leaves(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for name, branch in tree.items() for k, v in leaves(branch, (*path, name)).items()}


def test_every_golden_number(tofu, golden):
    logs = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in tofu.glob("*_*.json")}
    stored = {
        model: values for model, values in golden.items() if model != "published_csv_check"
    }  # its log is not here
    found, expected = leaves(recomputed(logs)), leaves(stored)
    assert found.keys() == expected.keys()
    assert len(expected) == 8 * (4 * 4 + 2) + 2 * 2
    for path, value in expected.items():
        assert found[path] == pytest.approx(value, rel=1e-6), path
