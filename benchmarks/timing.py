"""What every piece prints: its seconds, and the peak memory of its process."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping

import torch


def run_piece(pieces: Mapping[str, Callable[[], float]]) -> None:
    """Carry out the piece the command names, on one thread, and print what it took as JSON."""
    torch.set_num_threads(1)
    seconds = pieces[sys.argv[1]]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "mib": peak}))
