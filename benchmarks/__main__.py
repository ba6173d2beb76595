"""Speed and memory, as ratios within one sitting on one machine: `make bench`.

Each piece runs in a process of its own, several times in turn, and the median is printed. The model is a
random Llama of 12 layers (12 M parameters, vocabulary 8,192) unless a line says otherwise; times and
memory do not depend on what the weights say.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

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


def piece(name: str) -> dict[str, float]:
    """Run one piece in a fresh process: its seconds and the process's peak memory in MiB."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.pieces", name], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    names = sorted({n for _, a, b, _ in (*SPEED, *MEMORY) for n in (a, b)})
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            results[name].append(piece(name))
    print("| measured | median ratio | min | max | target |\n| --- | --- | --- | --- | --- |")
    for key, rows in (("seconds", SPEED), ("mib", MEMORY)):
        for title, a, b, target in rows:
            ratios = [x[key] / y[key] for x, y in zip(results[a], results[b], strict=True)]
            print(f"| {title} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {target} |")
    extra = [x["mib"] - y["mib"] for x, y in zip(results["npo-sam"], results["npo"], strict=True)]
    copies = [e / TRAINED_MIB for e in extra]
    print(f"| memory that SAM adds, in copies of the trained weights | {statistics.median(copies):.2f} "
          f"| {min(copies):.2f} | {max(copies):.2f} | about 1 |")  # fmt: skip
    for name in names:
        seconds = statistics.median(r["seconds"] for r in results[name])
        mib = statistics.median(r["mib"] for r in results[name])
        print(f"{name}: {seconds:.3f} s, peak {mib:.0f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
