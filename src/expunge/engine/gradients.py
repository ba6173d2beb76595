"""The gradient of one step: both sides, over micro-batches and processes, the forget side smoothed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.engine.batches import Batches
from expunge.engine.method import Step, Trained
from expunge.engine.smoothing import Gradient, smoothing
from expunge.engine.training import Training, derive_seed
from expunge.engine.weights import Weights

Turn = Literal["forget", "retain", "both"]


def autocast(training: Training, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward passes."""
    return nullcontext() if training.precision == "fp32" else torch.autocast(device.type, torch.bfloat16)


@dataclass
class Gradients:
    """Computes the gradients of a run's steps; `turns` says which side each step has (None: both, always)."""

    accelerator: Accelerator
    batches: Batches
    method: Trained
    training: Training
    weights: Weights
    seed: int
    turns: Sequence[Turn] | None = None

    def of_step(self, step: int) -> dict[str, float]:
        """Leave the gradient of the step's sides in ``.grad``; returns the value of each term and note."""
        sums: dict[str, Tensor] = {}
        turn = self.turns[step] if self.turns else "both"
        active = [n for n in ("forget", "retain") if turn in (n, "both") and getattr(self.method, f"has_{n}")]
        if "forget" in active:
            smoothing(self.training)(Side(self, step, "forget", self.batches.forget, sums))
        if "retain" in active:
            Side(self, step, "retain", ("retain",), sums).backward()
        if self.batches.world > 1:
            zero = torch.zeros((), device=self.accelerator.device)  # for a process whose rows had no loss
            terms = active + sorted(sums.keys() - {"forget", "retain"})
            sums = {n: self.accelerator.reduce(sums.get(n, zero).double(), reduction="sum") for n in terms}
        return {k: float(v) for k, v in sums.items()}

    @contextmanager
    def summed_over_processes(self) -> Iterator[None]:
        """Within, each process adds its share to ``.grad``; afterwards all hold the sum over processes.

        The sum is taken here and not by DistributedDataParallel: a loss that reads hidden states never
        reaches the blocks above them, and two forward passes may share one backward pass; DDP counts on
        neither. A parameter that no process touched keeps no gradient, as in a single process.
        """
        world, parameters = self.batches.world, self.weights.parameters
        if world > 1:  # what an earlier side left is the same everywhere; summing it must give it back
            for p in parameters:
                if p.grad is not None:
                    p.grad.div_(world)
        yield
        if world > 1:
            held = torch.tensor([float(p.grad is not None) for p in parameters])
            anywhere = self.accelerator.reduce(held.to(self.accelerator.device), reduction="sum")
            for p, count in zip(parameters, anywhere.tolist(), strict=True):
                if count:
                    share = torch.zeros_like(p) if p.grad is None else p.grad
                    p.grad = self.accelerator.reduce(share, reduction="sum")


@dataclass
class Side:
    """One side of one step: what smoothing may ask of it (`smoothing.ForgetSide`)."""

    run: Gradients
    step: int
    name: str
    streams: tuple[str, ...]
    sums: dict[str, Tensor]

    @property
    def weights(self) -> Weights:
        """See `smoothing.ForgetSide`."""
        return self.run.weights

    def generator(self, draw: int) -> torch.Generator:
        """See `smoothing.ForgetSide`."""
        return torch.Generator().manual_seed(derive_seed(self.run.seed, "noise", self.step, draw))

    def backward(self) -> None:
        """Add this side's gradient to ``.grad``, and file the value of its terms."""
        values: dict[str, Tensor] = {}
        with self.run.summed_over_processes():
            for chunk, loss in self._losses():
                loss.backward()  # accelerate would divide by the launcher's accumulation steps
                for name, value in {self.name: loss.detach(), **chunk.notes}.items():
                    values[name] = values[name] + value if name in values else value
        self.sums.update(values)

    def backward_along(self, vector: Gradient) -> None:
        """Add the Hessian times `vector` to ``.grad``: the gradient of <gradient, vector>."""
        # fused attention kernels have no second derivative
        with self.run.summed_over_processes(), sdpa_kernel(SDPBackend.MATH):
            for _, loss in self._losses():
                slopes = torch.autograd.grad(loss, self.weights.leaves(), create_graph=True, allow_unused=True)
                along = self.weights.along(slopes, vector)
                if along.requires_grad:  # not so where the loss is linear in the weights
                    along.backward()

    def _losses(self) -> Iterator[tuple[Step, Tensor]]:
        run = self.run
        for number, chunk in enumerate(run.batches.micro(self.step, self.streams)):
            _seed_all(derive_seed(run.seed, self.name, self.step, number, run.batches.rank), run.accelerator.device)
            with autocast(run.training, run.accelerator.device):
                loss = run.method.forget_loss(chunk) if self.name == "forget" else run.method.retain_loss(chunk)
            if loss is not None and loss.requires_grad:
                yield chunk, loss


def _seed_all(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`; on a CPU without the stack traces it formats for devices that were never used (1 ms)."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
