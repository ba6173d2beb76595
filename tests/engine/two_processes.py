"""Run as a program by `test_processes.py`, once per process: trains the toy and writes its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from safetensors.torch import save_file

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop, Observers
from expunge.engine.method import Step, Trained
from expunge.engine.training import Training
from tiny_models import Ascent, streams, tiny, weights


class OneSided(Ascent):
    """Rows beyond the first process's share carry the only loss: one process has no gradient of its own."""

    def forget_loss(self, step: Step) -> torch.Tensor | None:  # type: ignore[override]
        longest = step.forget.mask.sum(1)
        chosen = longest >= 9
        return step.forget.per_row(step.forget.nll_sum * chosen) if bool(chosen.any()) else None


def reading(step: Step) -> torch.Tensor:
    hidden = step.forget.hidden(0).square().mean(1)
    rows = step.forget.token_rows
    return torch.zeros(int(rows.max()) + 1, dtype=hidden.dtype).index_add(0, rows, hidden)


class Deep(Ascent):
    """A loss on hidden states of the first block: the second block and the head get nothing from it."""

    def forget_loss(self, step: Step) -> torch.Tensor | None:  # type: ignore[override]
        return step.forget.per_row(reading(step)) if step.index % 2 == 0 else None


METHODS: dict[str, type[Trained]] = {"likelihood": Ascent, "hidden": Deep, "one-sided": OneSided}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    Checkpoints.due = lambda self: self.folder is not None  # type: ignore[method-assign]
    for name, method in METHODS.items():
        for smoothing in ("none", "sam"):
            training = Training(steps=4, batch_size=8, lr=1e-2, smoothing=smoothing, micro_batch=3, evaluate_every=2)  # type: ignore[arg-type]
            model = tiny().double()
            score = Observers(probe=lambda m: {"retain": 1.0}, score=lambda v: (1.0,))
            where = folder / f"{name}-{smoothing}"
            loop = Loop(model, method(), streams(4), training, seed=0, folder=where, observers=score)
            log = loop.run()
            rank = loop.accelerator.process_index
            save_file(weights(model), folder / f"{name}-{smoothing}-{rank}.safetensors")
            terms = [torch.tensor([s.get("forget", 0.0), s["retain"]]) for s in log.steps]
            save_file({"terms": torch.stack(terms)}, folder / f"{name}-{smoothing}-{rank}.log")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
