"""Speed and memory, as ratios within one sitting on one machine: `make bench`.

Each piece runs in a process of its own, several times in turn, and the median is printed. The model is a
random Llama of 12 layers (12 M parameters, vocabulary 8,192) unless a line says otherwise; times and
memory do not depend on what the weights say. Recommenders are LightGCN of 3 layers and 64 numbers a node on
interactions of MovieLens-100k's size; what unlearning costs is timed on MovieLens-100k itself if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from typing import Any

ROUNDS = 2
SPEED = (
    # name, the piece, what it is held against, the target
    ("NPO step / bare forward and backward", "npo", "bare", "at most 1.15"),
    ("NPO step / GradDiff step", "npo", "grad-diff", "about 1"),
    ("RMU step (layer 4 of 12) / GradDiff step", "rmu", "grad-diff", "below 0.5"),
    ("NPO step under SAM / plain NPO step", "npo-sam", "npo", "at most 2.2"),
    ("ULD (3 of 12 blocks) / its target, per decoded token", "decode-uld", "decode", "at most 1.35"),
    ("naive batch-1 TOFU suite / ours", "suite-naive", "suite", "at least 5"),
    ("likelihood suite / a plain forward pass over its sequences", "likelihood", "likelihood-pass", "at most 1.3"),
    ("membership detectors / a plain forward pass over its records", "membership", "membership-pass", "at most 1.3"),
)
TRAINED_MIB = 11.6e6 * 4 / 2**20  # float32 weights of the model below
MEMORY = (("peak memory of NPO / GradDiff", "npo", "grad-diff", "at most 1.05"),)
RECOMMEND = (
    ("LightGCN step / the loop written by hand", "lightgcn", "lightgcn-by-hand", "at most 1.15"),
    ("three layers through torch's autograd on CSR / ours", "product-csr", "product", "above 1"),
    ("torch_geometric's LightGCN on a list of edges / ours", "geometric", "product", "above 1"),
    ("torch_geometric's LightGCN on CSR / ours", "geometric-csr", "product", "above 1"),
)
COSTS = (
    ("UnlearnRec, pre-training counted / retraining", "unlearnrec-first", "retrain", "below 1"),
    ("UnlearnRec, encoder there / retraining", "unlearnrec-next", "retrain", "below 0.1"),
    ("UnlearnRec, encoder there, 1 epoch of tuning / retraining", "unlearnrec-tuned", "retrain", "below 0.1"),
    ("MMRecUn, 100 steps at most / retraining", "mmrecun", "retrain", "below 0.1"),
    ("fresh rows / retraining", "row-reset", "retrain", "nothing"),
    ("dropped edges / retraining", "drop-edges", "retrain", "nothing"),
)


def piece(name: str, module: str = "pieces") -> dict[str, Any]:
    """Run one piece in a fresh process: its seconds and the process's peak memory in MiB."""
    words = [sys.executable, "-m", f"benchmarks.{module}", name]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(title: str, ratios: list[float], target: str, digits: int = 2) -> None:
    """One row of the table."""
    middle, low, high = (f"{f(ratios):.{digits}f}" for f in (statistics.median, min, max))
    print(f"| {title} | {middle} | {low} | {high} | {target} |", flush=True)


def main() -> None:
    language()
    recommenders()


def language() -> None:
    """The language wing's table."""
    names = sorted({n for _, a, b, _ in (*SPEED, *MEMORY) for n in (a, b)})
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            results[name].append(piece(name))
    print("| measured | median ratio | min | max | target |\n| --- | --- | --- | --- | --- |")
    for key, rows in (("seconds", SPEED), ("mib", MEMORY)):
        for title, a, b, target in rows:
            line(title, [x[key] / y[key] for x, y in zip(results[a], results[b], strict=True)], target)
    extra = [x["mib"] - y["mib"] for x, y in zip(results["npo-sam"], results["npo"], strict=True)]
    line("memory that SAM adds, in copies of the trained weights", [e / TRAINED_MIB for e in extra], "about 1")
    for name in names:
        seconds = statistics.median(r["seconds"] for r in results[name])
        mib = statistics.median(r["mib"] for r in results[name])
        print(f"{name}: {seconds:.3f} s, peak {mib:.0f} MiB", file=sys.stderr)


def recommenders() -> None:
    """The recommender wing's rows, as far as what they need is installed."""
    rows = [r for r in RECOMMEND if importlib.util.find_spec("torch_geometric") or not r[1].startswith("geometric")]
    names = sorted({n for _, a, b, _ in rows for n in (a, b)})
    taken = [{name: piece(name, "recommend")["seconds"] for name in names} for _ in range(ROUNDS)]
    for title, a, b, target in rows:
        line(title, [round_[a] / round_[b] for round_ in taken], target)
    if len(rows) < len(RECOMMEND):
        print("torch_geometric is not installed: no comparison with its LightGCN.", file=sys.stderr)
    spent = [piece("costs", "recommend") for _ in range(ROUNDS)]
    if "missing" in spent[0]:
        print(f"What unlearning costs was left out: {spent[0]['missing']}", file=sys.stderr)
        spent = []
    for title, a, b, target in COSTS if spent else ():
        line(title, [round_[a] / round_[b] for round_ in spent], target, digits=4)
    for found in (taken, spent):
        for name in found[0] if found else ():
            seconds = statistics.median(round_[name] for round_ in found)
            print(f"{name}: {seconds:.3f} s of processor time", file=sys.stderr)


if __name__ == "__main__":
    main()
