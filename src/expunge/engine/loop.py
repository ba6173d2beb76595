"""The training loop: one loop for every wing and every trained method.

Batch indices and every random draw are pure functions of (seed, step, rank), so a run that was killed
and started again ends with the same weights, bit for bit on a CPU, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from expunge.engine import reference as ref
from expunge.engine.averaging import Average
from expunge.engine.batches import Batches
from expunge.engine.batches import Stream as Stream
from expunge.engine.checkpoint import Checkpoints, restore
from expunge.engine.gradients import Gradients, Turn, autocast
from expunge.engine.method import Trained
from expunge.engine.optimizers import make_optimizers, select_trainable
from expunge.engine.training import Training
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
        turns: Sequence[Turn] | None = None,
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
            turns: Which side each step has, for methods that pass over one set and then over the other; None
                gives every step both.

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
        self.average = Average(training, self.total)
        self.given_reference = reference
        self.turns = turns
        if turns is not None and len(turns) != self.total:
            raise ValueError(f"{len(turns)} turns for {self.total} steps")
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
                self.weights = Weights(self.model, names, self.method.mask(self.model))
                stack.enter_context(self.weights.attached())
                self.parameters = self.weights.parameters
                self.gradients = Gradients(
                    self.accelerator, self.batches, self.method, self.training, self.weights, self.seed, self.turns
                )
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
        terms = self.gradients.of_step(step)
        self._warn_if_invisible()
        self._refuse_nonfinite(step, terms)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.weights.sync()
        if self.average.on:
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

    def _warn_if_invisible(self) -> None:
        share = self.weights.visible
        if share is not None and share < VISIBLE and not self.log.notes:
            self.log.notes.append(
                f"smoothing moved only {share:.1%} of the half-precision weights after rounding; "
                f"load the model in float32 (model.dtype), or the smoothing does nothing"
            )

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.training, self.accelerator.device)

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
            asked = {stream for stream, _ in recorder.asked}  # sorting the visits of a long run takes its time
            visited = {n: torch.unique(s.order) for n, s in self.batches.streams.items() if n in asked}
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


def _refuse_sharding(accelerator: Accelerator) -> None:
    sharded = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}
    if accelerator.distributed_type in sharded:
        raise InputError(
            f"Training under {accelerator.distributed_type.value} is not supported; "
            f"launch plain data-parallel processes (accelerate launch --multi_gpu)."
        )
