"""What MUSE's paper and open-unlearning printed, and how the paper's eight methods are written in a recipe here."""

from __future__ import annotations

from typing import Any

from expunge.report.scorecard import Published

MODELS = {"news": "LLaMA-2 7B", "books": "ICLM 7B"}

# What the paper's eight names are here, with its settings (see `TRAINING`): entries of a recipe.
BASELINES: dict[str, dict[str, Any]] = {
    "GA": {"name": "ga"},
    "GA_GDR": {"name": "grad-diff", "retain_weight": 1.0},
    "GA_KLR": {"name": "kl-min", "retain_weight": 1.0},
    "NPO": {"name": "npo", "beta": 0.1, "retain": "none"},
    "NPO_GDR": {"name": "npo", "beta": 0.1, "retain": "nll", "retain_weight": 1.0},
    "NPO_KLR": {"name": "npo", "beta": 0.1, "retain": "kl", "retain_weight": 1.0},
    "TV": {"name": "task-vector", "train": {"schedule": "cosine"}},
    "WHP": {"name": "whp-logits", "scale": "raw", "train": {"schedule": "cosine"}},
}
TRAINING = {"epochs": 10.0, "batch_size": 32, "lr": 1e-5, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
ALPHAS = {"TV": (1, 2, 4, 8, 16), "WHP": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
# Passes over the forget set after which the first release stopped, and alphas it took.
CHOSEN = {
    "news": {"GA": 1, "GA_GDR": 7, "GA_KLR": 10, "NPO": 1, "NPO_GDR": 10, "NPO_KLR": 10, "TV": 16, "WHP": 4},
    "books": {"GA": 1, "GA_GDR": 1, "GA_KLR": 4, "NPO": 1, "NPO_GDR": 1, "NPO_KLR": 3, "TV": 1, "WHP": 256},
}

GOLD_KNOWMEM = {"news": 0.331, "books": 0.289}  # of the forget set, as the paper prints it

# VerbMem, KnowMem (forget), PrivLeak, KnowMem (retain), all in per cent: News, then Books.
_MEMORY = "Shi et al., main table, {corpus}, from memory"
_TABLE = """
before  58.4  63.9  -99.8  55.2   99.8  59.4  -57.5  66.9
gold    20.8  33.1    0.0  55.0   14.3  28.9    0.0  74.5
GA       0.0   0.0    5.2   0.0    0.0   0.0  -25.0   0.0
GA_GDR   4.9  31.0  108.1  27.3    0.0   0.0  -26.5  10.7
GA_KLR  27.4  50.2  -96.1  44.8   16.0  21.9  -40.2  37.2
NPO      0.0   0.0   24.4   0.0    0.0   0.0  -24.3   0.0
NPO_GDR  1.2  54.6  105.8  40.5    0.0   0.0  -30.8  22.8
NPO_KLR 26.9  49.0  -95.8  45.4   17.0  25.0  -43.5  44.6
TV      57.2  66.2  -99.8  55.8   99.7  52.4  -57.5  64.7
WHP     19.7  21.2  109.6  28.3   18.0  55.7   56.5  63.6
"""
_OPEN = "open-unlearning, docs/repro.md, {corpus} (10 epochs, stemmed ROUGE, its own NPO)"
_OPEN_TABLE = """
before      58.0  64.0  -99.81  56.0  100.0  47.0  -57.26  69.0
gold        20.0  33.0    0.0   56.0   14.0  30.0    0.0   69.0
GradAscent   0.0   0.0   52.11   0.0    0.0   0.0   -0.67   0.0
GradDiff     0.892 41.0  93.23  37.0   16.0  18.0  -37.79  30.0
NPO         35.0  56.0  -86.0   51.0   84.0  32.0  -54.24  55.0
SimNPO      36.0  54.0  -86.11  51.0   84.0  32.0  -54.26  54.0
RMU          5.0  48.0   56.36  51.0   79.0  29.0  -60.52  48.0
"""
COLUMNS = (("muse.verbmem", "forget"), ("muse.knowmem", "forget"), ("muse.privleak", "forget"),
           ("muse.knowmem", "retain"))  # fmt: skip


def published(corpus: str) -> tuple[Published, ...]:
    """The printed numbers for ``news`` or ``books``, as fractions."""
    first = list(MODELS).index(corpus) * len(COLUMNS)
    found = []
    for source, table in ((_MEMORY, _TABLE), (_OPEN, _OPEN_TABLE)):
        for method, *values in (line.split() for line in table.strip().splitlines()):
            own = values[first : first + len(COLUMNS)]
            found += [
                Published(metric, split, MODELS[corpus], method, round(float(v) / 100, 6), source.format(corpus=corpus))
                for (metric, split), v in zip(COLUMNS, own, strict=True)
            ]
    return tuple(found)
