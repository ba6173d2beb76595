"""The training loop: one loop for every wing and every trained method.

Batch indices and every random draw are pure functions of (seed, step, rank), so a run that was killed
and started again ends with the same weights, bit for bit on a CPU, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.engine import reference as ref
from expunge.engine.averaging import Average
from expunge.engine.batches import Batches
from expunge.engine.batches import Stream as Stream
from expunge.engine.checkpoint import Checkpoints, restore
from expunge.engine.method import Step, Trained
from expunge.engine.optimizers import make_optimizers, select_trainable
from expunge.engine.smoothing import smoothing
from expunge.engine.training import Training, derive_seed
from expunge.engine.weights import Weights
from expunge.errors import InputError, RunError

VISIBLE = 0.05  # share of half-precision weights that smoothing must change to mean anything

Probe = Callable[[nn.Module], dict[str, float]]
Score = Callable[[dict[str, float]], tuple[float, ...]]
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass
class TrainLog:
    """What happened: one entry of loss terms per step, the probes, and how it ended."""

    steps: list[dict[str, float]] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    resumed_at: int | None = None
    stopped: str | None = None
    selected_step: int | None = None
    reference: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Observers:
    """What looks on while a model trains.

    Attributes:
        probe: Cheap measurements of the model as it stands, called every `evaluate_every` steps.
        score: Orders probes; the best one's weights are returned. None keeps the last weights.
        floor: Name of the probe that must not fall under `utility_floor` times its starting value.
        progress: Called after every step with (step, total, terms).
        stop: Called with the values of every probe; a sentence ends the run, and says why it ended.
    """

    probe: Probe | None = None
    score: Score | None = None
    floor: str = "retain"
    progress: Progress | None = None
    stop: Callable[[dict[str, float]], str | None] | None = None


class Loop:
    """One training run of one method. `run` may be called once."""

    def __init__(
        self,
        model: nn.Module,
        method: Trained,
        streams: Mapping[str, Stream],
        training: Training,
        *,
        seed: int,
        folder: Path | None = None,
        observers: Observers | None = None,
        reference: nn.Module | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: Trained in place.
            method: The loss.
            streams: What the method draws from (`Trained.streams`), each with the same number of steps.
            training: Settings of the loop.
            seed: Fixes every random draw.
            folder: Where checkpoints go; None for none.
            observers: Probes, selection and progress.
            reference: A reference model other than `model` at its starting weights.

        Raises:
            InputError: A stream is missing or empty, the batch does not divide over the processes.
        """
        self.accelerator = Accelerator(cpu=next(model.parameters()).device.type == "cpu")
        _refuse_sharding(self.accelerator)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.model, self.method, self.training, self.seed = model, method, training, seed
        if not method.streams:
            raise InputError("The method has no loss under these settings: there is nothing to train.")
        for name in method.streams:
            if name not in streams or len(streams[name].examples) == 0:
                raise InputError(f"The method needs {name} records and there are none.")
        own = {name: streams[name] for name in method.streams}
        self.total = len(next(iter(own.values())).order)
        if training.batch_size % world:
            raise InputError(f"batch_size={training.batch_size} does not divide over {world} processes.")
        self.batches = Batches(model, own, seed, training.micro_batch, rank, world)
        self.checkpoints = Checkpoints(folder)
        self.observers = observers or Observers()
        self.smoothing = smoothing(training)
        self.average = Average(training, self.total)
        self.given_reference = reference
        self.log = TrainLog()
        self.best: tuple[float, ...] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.start_utility: float | None = None

    # -- one step ------------------------------------------------------------------------------------

    def run(self) -> TrainLog:
        """Train, resuming from the newest checkpoint if there is one.

        Raises:
            RunError: A loss term or the gradient is not finite (the weights before it are kept), or a
                checkpoint cannot be written or read.
        """
        names, flags = select_trainable(self.model, self.method)
        was_training = self.model.training
        try:
            with ExitStack() as stack:
                if self.training.gradient_checkpointing:
                    lead = next(iter(self.batches.streams.values()))
                    stack.enter_context(lead.examples.checkpointing(self.model))
                self.batches.reference = self._reference()
                self.batches.state = self._begin()
                self.weights = Weights(self.model, names)
                stack.enter_context(self.weights.attached())
                self.parameters = self.weights.parameters
                self.optimizers = make_optimizers(self.model, self.weights.moved, self.training)
                self._train(self._resume())
                self._finish()
        finally:
            for name, p in self.model.named_parameters():
                p.requires_grad_(flags[name])
                p.grad = None
            self.model.train(was_training)
        return self.log

    def _train(self, first: int) -> None:
        for step in range(first, self.total + 1):
            if not self.log.stopped:
                self._probe(step)
            if self.log.stopped or step == self.total:
                break
            self._step(step)

    def _step(self, step: int) -> None:
        factor = self.training.rate(step, self.total)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        self.model.train()
        terms = self._gradients(step)
        self._refuse_nonfinite(step, terms)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.weights.sync()
        self.average.see(step + 1, self.weights.state())
        self.batches.state = {k: v.detach() for k, v in self.method.update(self.batches.state, terms, step).items()}
        self.log.steps.append({"step": step, **terms})
        cap = self.training.loss_cap
        if cap is not None and terms.get("forget", cap) > cap:
            self.log.stopped = f"forget term {terms['forget']:.4g} passed the cap {cap:g} at step {step}"
        if self.observers.progress:
            self.observers.progress(step + 1, self.total, terms)
        if self.checkpoints.due():
            self._save(step + 1)

    def _gradients(self, step: int) -> dict[str, float]:
        """Gradients of both sides into ``.grad``; returns the value of each term."""
        sums: dict[str, Tensor] = {}
        if self.method.has_forget:
            self.smoothing(_Side(self, step, "forget", self.batches.forget, sums))
            self._warn_if_invisible()
        if self.method.has_retain:
            _Side(self, step, "retain", ("retain",), sums).backward()
        if self.batches.world > 1:
            zero = torch.zeros((), device=self.parameters[0].device)  # for a process whose rows had no loss
            terms = [n for n in ("forget", "retain") if getattr(self.method, f"has_{n}")]
            terms += sorted(sums.keys() - {"forget", "retain"})
            sums = {n: self.accelerator.reduce(sums.get(n, zero).double(), reduction="sum") for n in terms}
        return {k: float(v) for k, v in sums.items()}

    def _warn_if_invisible(self) -> None:
        share = self.weights.visible
        if share is not None and share < VISIBLE and not self.log.notes:
            self.log.notes.append(
                f"smoothing moved only {share:.1%} of the half-precision weights after rounding; "
                f"load the model in float32 (model.dtype), or the smoothing does nothing"
            )

    @contextmanager
    def _summed_over_processes(self) -> Iterator[None]:
        """Within, each process adds its share to ``.grad``; afterwards all hold the sum over processes.

        The sum is taken here and not by DistributedDataParallel: a loss that reads hidden states never
        reaches the blocks above them, and two forward passes may share one backward pass; DDP counts on
        neither. A parameter that no process touched keeps no gradient, as in a single process.
        """
        world = self.batches.world
        if world > 1:  # what an earlier side left is the same everywhere; summing it must give it back
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.div_(world)
        yield
        if world > 1:
            held = torch.tensor([float(p.grad is not None) for p in self.parameters])
            anywhere = self.accelerator.reduce(held.to(self.parameters[0].device), reduction="sum")
            for p, count in zip(self.parameters, anywhere.tolist(), strict=True):
                if count:
                    share = torch.zeros_like(p) if p.grad is None else p.grad
                    p.grad = self.accelerator.reduce(share, reduction="sum")

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, torch.bfloat16)

    def _refuse_nonfinite(self, step: int, terms: dict[str, float]) -> None:
        clip = self.training.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, float("inf") if clip is None else clip)
        bad = [name for name, value in terms.items() if not torch.isfinite(torch.tensor(value))]
        if not bad and bool(torch.isfinite(norm)):
            return
        what = f"the {bad[0]} term" if bad else "the gradient"
        for p in self.parameters:
            p.grad = None
        self._save(step)
        kept = f" The weights before it are kept in {self.checkpoints.folder}." if self.checkpoints.folder else ""
        raise RunError(f"Training stopped at step {step}: {what} is not finite.{kept} Lower the learning rate.")

    # -- reference, start constants, resume ----------------------------------------------------------

    def _reference(self) -> ref.Reference | None:
        """Show the losses their first batch, note what they ask of the reference, build its source.

        The reference runs in the precision of the training, so that a model equals itself at the start.
        """
        if self.total == 0:
            return None
        examples = {name: s.examples for name, s in self.batches.streams.items()}
        recorder = ref.Recorder(self.given_reference or self.model, examples)
        self.batches.reference = recorder
        with ref.evaluating(self.model), self._autocast():
            self._first_losses()
        if self.given_reference is not None:
            source: ref.Reference | None = ref.frozen_copy(self.model, self.given_reference, examples)
        else:
            visited = {name: torch.unique(s.order) for name, s in self.batches.streams.items()}
            with self._autocast():
                # no wider than a training step, or filling the cache would be the peak of the run
                batch = self.training.micro_batch or self.training.batch_size
                source = ref.build(self.model, examples, visited, recorder.asked, batch=batch)
        self.log.reference = source.name if source and recorder.asked else None
        return source

    def _first_losses(self) -> None:
        """Both losses on the first two rows of the run, for what they touch, not for their value."""
        state: dict[str, Tensor] = {}
        if self.method.has_forget:
            step = self.batches.few(self.batches.forget, 2)
            state = step.state = self.method.begin(step)
            self.method.forget_loss(step)
        if self.method.has_retain:
            step = self.batches.few(("retain",), 2)
            step.state = state
            self.method.retain_loss(step)

    def _begin(self) -> dict[str, Tensor]:
        if self.total == 0 or not self.method.has_forget:
            return {}
        with ref.evaluating(self.model), self._autocast():
            first = self.batches.whole(0, self.batches.forget)
            return {k: v.detach().clone() for k, v in self.method.begin(first).items()}

    def _resume(self) -> int:
        found = self.checkpoints.load()
        if found is None:
            return 0
        tensors, state = found
        if tensors["weights"].keys() != self.weights.state().keys() or state["step"] > self.total:
            raise RunError(
                f"The checkpoint in {self.checkpoints.folder} belongs to another run; remove it or use another folder."
            )
        self.weights.load(tensors["weights"])
        restore(self.optimizers, tensors["optimizer"])
        self.average.restore(tensors["average"], state["snapshots"])
        self.batches.state = tensors["begun"]
        self.log.steps, self.log.probes = state["steps"], state["probes"]
        self.log.selected_step, self.log.stopped = state["selected_step"], state["stopped"]
        self.log.notes = state["notes"]
        self.best = tuple(state["best"]) if state["best"] is not None else None
        self.start_utility = state["start_utility"]
        self.log.resumed_at = int(state["step"])
        return int(state["step"])

    def _save(self, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": step,
            "steps": self.log.steps,
            "probes": self.log.probes,
            "selected_step": self.log.selected_step,
            "stopped": self.log.stopped,
            "best": self.best,
            "start_utility": self.start_utility,
            "notes": self.log.notes,
            "snapshots": self.average.count,
        }
        self.checkpoints.save(self.weights.state(), self.optimizers, self.batches.state, self.average.mean, state)

    # -- probes and selection ------------------------------------------------------------------------

    def _probe(self, step: int) -> None:
        every, probe = self.training.evaluate_every, self.observers.probe
        if probe is None or not every or (step % every and step != self.total):
            return
        if any(p["step"] == step for p in self.log.probes):
            return
        with ref.evaluating(self.model):
            values = {name: float(value) for name, value in probe(self.model).items()}
        self.log.probes.append({"step": step, **values})
        utility = values.get(self.observers.floor)
        if self.start_utility is None:
            self.start_utility = utility
        low = (
            utility is not None
            and self.start_utility is not None
            and utility < self.training.utility_floor * self.start_utility
        )
        if low and self.training.stop_below_floor and step:
            self.log.stopped = f"{self.observers.floor} fell under the utility floor at step {step}"
        elif self.observers.stop is not None and step:
            self.log.stopped = self.observers.stop(values)
        if self.observers.score is None or step == 0:
            return
        rank = (0.0 if low else 1.0, *map(float, self.observers.score(values)))
        if self.best is None or rank > self.best:
            self.best, self.log.selected_step = rank, step
            self.best_weights = {k: v.clone() for k, v in self.weights.state().items()}
            if self.accelerator.is_main_process:
                self.checkpoints.keep_best(self.best_weights)

    def _finish(self) -> None:
        if self.average.on:
            if not self.average.count:
                raise RunError("Weight averaging took no snapshot: the run ended before average_from.")
            self.weights.load(self.average.mean)
            return
        if self.log.selected_step is None or self.observers.score is None:
            return
        kept = self.best_weights or self.checkpoints.load_best()
        if kept is None:
            raise RunError("The weights of the selected step are missing from the checkpoint folder.")
        self.weights.load(kept)


@dataclass
class _Side:
    """One side of one step: what smoothing may ask of it (`smoothing.ForgetSide`)."""

    loop: Loop
    step: int
    name: str
    streams: tuple[str, ...]
    sums: dict[str, Tensor]

    @property
    def weights(self) -> Weights:
        return self.loop.weights

    def generator(self, draw: int) -> torch.Generator:
        """See `smoothing.ForgetSide`."""
        return torch.Generator().manual_seed(derive_seed(self.loop.seed, "noise", self.step, draw))

    def backward(self) -> None:
        """Add this side's gradient to ``.grad``, and file the value of its terms."""
        values: dict[str, Tensor] = {}
        with self.loop._summed_over_processes():
            for chunk, loss in self._losses():
                loss.backward()  # accelerate would divide by the launcher's accumulation steps
                for name, value in {self.name: loss.detach(), **chunk.notes}.items():
                    values[name] = values[name] + value if name in values else value
        self.sums.update(values)

    def backward_along(self, vector: list[Tensor | None]) -> None:
        """Add the Hessian times `vector` to ``.grad``: the gradient of <gradient, vector>."""
        weights = self.loop.weights
        # fused attention kernels have no second derivative
        with self.loop._summed_over_processes(), sdpa_kernel(SDPBackend.MATH):
            for _, loss in self._losses():
                slopes = torch.autograd.grad(loss, weights.leaves(), create_graph=True, allow_unused=True)
                along = weights.along(slopes, vector)
                if along.requires_grad:  # not so where the loss is linear in the weights
                    along.backward()

    def _losses(self) -> Iterator[tuple[Step, Tensor]]:
        loop = self.loop
        for number, chunk in enumerate(loop.batches.micro(self.step, self.streams)):
            torch.manual_seed(derive_seed(loop.seed, self.name, self.step, number, loop.batches.rank))
            with loop._autocast():
                loss = loop.method.forget_loss(chunk) if self.name == "forget" else loop.method.retain_loss(chunk)
            if loss is not None and loss.requires_grad:
                yield chunk, loss


def _refuse_sharding(accelerator: Accelerator) -> None:
    sharded = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}
    if accelerator.distributed_type in sharded:
        raise InputError(
            f"Training under {accelerator.distributed_type.value} is not supported; "
            f"launch plain data-parallel processes (accelerate launch --multi_gpu)."
        )
