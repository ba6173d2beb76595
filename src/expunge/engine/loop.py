"""The training loop: one loop for every wing and every trained method.

Batch indices and every random draw are pure functions of (seed, step, rank), so a run that was killed
and started again ends with the same weights, bit for bit on a CPU, as one that was never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.engine import reference as ref
from expunge.engine.checkpoint import Checkpoints, load_weights, restore, trained_weights
from expunge.engine.method import Step, Trained
from expunge.engine.smoothing import smoothing
from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError, RunError

Probe = Callable[[nn.Module], dict[str, float]]
Score = Callable[[dict[str, float]], tuple[float, ...]]
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass
class Stream:
    """The examples behind one stream and the rows each step draws: [steps, batch]."""

    examples: ref.Examples
    order: Tensor


@dataclass
class TrainLog:
    """What happened: one entry of loss terms per step, the probes, and how it ended."""

    steps: list[dict[str, float]] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    resumed_at: int | None = None
    stopped: str | None = None
    selected_step: int | None = None
    reference: str | None = None


@dataclass
class Observers:
    """What looks on while a model trains.

    Attributes:
        probe: Cheap measurements of the model as it stands, called every `evaluate_every` steps.
        score: Orders probes; the best one's weights are returned. None keeps the last weights.
        floor: Name of the probe that must not fall under `utility_floor` times its starting value.
        progress: Called after every step with (step, total, terms).
    """

    probe: Probe | None = None
    score: Score | None = None
    floor: str = "retain"
    progress: Progress | None = None


def make_optimizers(model: nn.Module, names: list[str], training: Training) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for hidden matrices and AdamW for embeddings, head and norms."""
    parameters = dict(model.named_parameters())
    adam: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay, "betas": training.betas}
    if training.optimizer == "adamw":
        return [torch.optim.AdamW([parameters[n] for n in names], **adam)]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = [
        n
        for n in names
        if parameters[n].ndim == 2 and id(parameters[n]) not in embeddings and "lm_head" not in n
    ]
    others = [parameters[n] for n in names if n not in set(hidden)]
    muon = torch.optim.Muon(
        [parameters[n] for n in hidden], lr=training.muon_lr, weight_decay=0.0, momentum=0.95
    )
    return [torch.optim.AdamW(others, **adam), muon]


def select_trainable(model: nn.Module, method: Trained) -> tuple[list[str], dict[str, bool]]:
    """Freeze all but the method's parameters; returns their names and the flags to put back."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    chosen = method.trainable(model)
    names = [n for n, on in flags.items() if on] if chosen is None else chosen
    if not names:
        raise InputError("No parameter is left to train: all are frozen.")
    wanted = set(names)
    for name, p in model.named_parameters():
        p.requires_grad_(name in wanted)
    return names, flags


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
        self.model, self.method, self.training, self.seed = model, method, training, seed
        for name in method.streams:
            if name not in streams or len(streams[name].examples) == 0:
                raise InputError(f"The method needs {name} records and there are none.")
        self.streams = {name: streams[name] for name in method.streams}
        self.total = len(next(iter(self.streams.values())).order)
        if training.batch_size % self.accelerator.num_processes:
            raise InputError(
                f"batch_size={training.batch_size} does not divide over {self.accelerator.num_processes} processes."
            )
        self.checkpoints = Checkpoints(folder)
        self.observers = observers or Observers()
        self.smoothing = smoothing(training)
        self.given_reference = reference
        self.log = TrainLog()
        self.state: dict[str, Tensor] = {}
        self.best: tuple[float, ...] | None = None
        self.start_utility: float | None = None

    # -- one step ------------------------------------------------------------------------------------

    def run(self) -> TrainLog:
        """Train, resuming from the newest checkpoint if there is one.

        Raises:
            RunError: A loss term or the gradient is not finite; the weights before it are kept.
        """
        names, flags = select_trainable(self.model, self.method)
        was_training = self.model.training
        try:
            self.reference = self._reference()
            self.optimizers = make_optimizers(self.model, names, self.training)
            self.parameters: list[Tensor] = [
                p for g in self.optimizers for h in g.param_groups for p in h["params"]
            ]
            self.state = self._begin()
            first = self._resume(names)
            self.wrapped = self._prepare()
            for step in range(first, self.total):
                if self.log.stopped:
                    break
                self._probe(step, names)
                self._step(step, names)
            if not self.log.stopped:
                self._probe(self.total, names)
            self._finish(names)
        finally:
            for name, p in self.model.named_parameters():
                p.requires_grad_(flags[name])
                p.grad = None
            self.model.train(was_training)
        return self.log

    def _prepare(self) -> nn.Module:
        if self.accelerator.num_processes == 1:
            return self.model
        return self.accelerator.prepare_model(self.model)  # type: ignore[no-any-return]

    def _step(self, step: int, names: list[str]) -> None:
        factor = self.training.rate(step, self.total)
        for optimizer, base in zip(self.optimizers, self._rates(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        self.model.train()
        terms = self._gradients(step)
        self._refuse_nonfinite(step, terms, names)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.log.steps.append({"step": step, **terms})
        cap = self.training.loss_cap
        if cap is not None and terms.get("forget", cap) > cap:
            self.log.stopped = f"forget term {terms['forget']:.4g} passed the cap {cap:g} at step {step}"
        if self.observers.progress:
            self.observers.progress(step + 1, self.total, terms)
        if self.checkpoints.due():
            self._save(step + 1, names)

    def _rates(self) -> list[float]:
        return [self.training.lr, self.training.muon_lr][: len(self.optimizers)]

    def _gradients(self, step: int) -> dict[str, float]:
        """Gradients of both sides into ``.grad``; returns the value of each term."""
        sums: dict[str, Tensor] = {}

        def side(name: str, streams: tuple[str, ...]) -> None:
            sums.pop(name, None)
            chunks = list(self._chunks(step, streams))
            for number, chunk in enumerate(chunks):
                torch.manual_seed(derive_seed(self.seed, name, step, number, self.accelerator.process_index))
                with self._sync(number + 1 == len(chunks)), self._autocast():
                    loss = (
                        self.method.forget_loss(chunk) if name == "forget" else self.method.retain_loss(chunk)
                    )
                    if loss is None or not loss.requires_grad:
                        continue
                    self.accelerator.backward(loss * self.accelerator.num_processes)
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss.detach()

        if self.method.has_forget:
            forget = tuple(s for s in self.streams if s != "retain")
            self.smoothing(self.parameters, lambda: side("forget", forget))
        if self.method.has_retain:
            side("retain", ("retain",))
        if self.accelerator.num_processes > 1:
            sums = {k: self.accelerator.reduce(v, reduction="sum") for k, v in sums.items()}
        return {k: float(v) for k, v in sums.items()}

    def _chunks(self, step: int, streams: tuple[str, ...]) -> list[Step]:
        """The micro-batches of this process: rows of similar length together, totals of the whole step."""
        order = {name: self.streams[name].order[step] for name in streams}
        lead = self.streams[streams[0]]
        by_length = lead.examples.sizes[order[streams[0]]].argsort(stable=True)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = by_length[rank::world]
        tokens = {n: int(s.examples.counts[s.order[step]].sum()) for n, s in self.streams.items()}
        model = getattr(self, "wrapped", self.model)
        chunks = []
        for piece in mine.split(self.training.micro_batch or len(mine)):
            views = {}
            for name, rows in order.items():
                bound = _Bound(self.reference, name, rows[piece]) if self.reference else None
                totals = (len(rows), tokens[name])
                views[name] = self.streams[name].examples.view(model, rows[piece], totals, bound)
            chunks.append(Step(step, self.seed, views, tokens, self.state))
        return chunks

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, torch.bfloat16)

    def _sync(self, last: bool) -> AbstractContextManager[Any]:
        if last or self.accelerator.num_processes == 1:
            return nullcontext()
        return self.accelerator.no_sync(self.wrapped)  # type: ignore[no-any-return]

    def _refuse_nonfinite(self, step: int, terms: dict[str, float], names: list[str]) -> None:
        clip = self.training.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, float("inf") if clip is None else clip)
        bad = [name for name, value in terms.items() if not torch.isfinite(torch.tensor(value))]
        if not bad and bool(torch.isfinite(norm)):
            return
        what = f"the {bad[0]} term" if bad else "the gradient"
        for p in self.parameters:
            p.grad = None
        self._save(step, names)
        kept = (
            f" The weights before it are kept in {self.checkpoints.folder}."
            if self.checkpoints.folder
            else ""
        )
        raise RunError(
            f"Training stopped at step {step}: {what} is not finite.{kept} Lower the learning rate."
        )

    # -- reference, start constants, resume ----------------------------------------------------------

    def _reference(self) -> ref.Reference | None:
        """Show the losses their first batch, note what they ask of the reference, build its source."""
        if self.total == 0:
            return None
        examples = {name: s.examples for name, s in self.streams.items()}
        model = self.given_reference or self.model
        recorder = ref.Recorder(model, examples)
        self.reference: ref.Reference | None = recorder
        with ref.evaluating(self.model), self._autocast():
            self._first_losses()
        if self.given_reference is not None:
            source: ref.Reference | None = ref.frozen_copy(self.model, self.given_reference, examples)
        else:
            visited = {name: s.order.unique() for name, s in self.streams.items()}
            source = ref.build(self.model, examples, visited, recorder.asked)
        self.log.reference = source.name if source and recorder.asked else None
        return source

    def _first_losses(self) -> None:
        """Both losses on the first few rows of the run, for what they touch, not for their value."""
        chunks = []
        for streams in (tuple(s for s in self.streams if s != "retain"), ("retain",)):
            if streams and all(s in self.streams for s in streams):
                views = {}
                for name in streams:
                    s = self.streams[name]
                    rows = s.order[0][:2]
                    bound = _Bound(self.reference, name, rows)
                    totals = (len(rows), int(s.examples.counts[rows].sum()))
                    views[name] = s.examples.view(self.model, rows, totals, bound)
                chunks.append((streams[0], views, {n: 1 for n in self.streams}))
        for lead, views, tokens in chunks:
            step = Step(0, self.seed, views, tokens, {})
            if lead != "retain":
                step.state = self.method.begin(step)
                self.method.forget_loss(step)
            else:
                self.method.retain_loss(step)

    def _begin(self) -> dict[str, Tensor]:
        forget = tuple(s for s in self.streams if s != "retain")
        if self.total == 0 or not forget:
            return {}
        whole = self.training.micro_batch
        with ref.evaluating(self.model):
            first = self._chunks(0, forget)[0] if whole is None else self._whole_first(forget)
            return {k: v.detach().clone() for k, v in self.method.begin(first).items()}

    def _whole_first(self, streams: tuple[str, ...]) -> Step:
        """The whole first batch as one view, so that constants do not depend on the micro-batch."""
        views = {}
        for name in streams:
            s = self.streams[name]
            bound = _Bound(self.reference, name, s.order[0]) if self.reference else None
            views[name] = s.examples.view(self.model, s.order[0], (len(s.order[0]), 1), bound)
        return Step(0, self.seed, views, {}, {})

    def _resume(self, names: list[str]) -> int:
        found = self.checkpoints.load()
        if found is None:
            return 0
        tensors, state = found
        load_weights(self.model, tensors["weights"])
        restore(self.optimizers, tensors["optimizer"])
        self.state = tensors["begun"]
        self.log.steps, self.log.probes = state["steps"], state["probes"]
        self.log.selected_step, self.log.stopped = state["selected_step"], state["stopped"]
        self.best = tuple(state["best"]) if state["best"] is not None else None
        self.start_utility = state["start_utility"]
        self.log.resumed_at = int(state["step"])
        return int(state["step"])

    def _save(self, step: int, names: list[str]) -> None:
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
        }
        self.checkpoints.save(self.model, names, self.optimizers, self.state, state)

    # -- probes and selection ------------------------------------------------------------------------

    def _probe(self, step: int, names: list[str]) -> None:
        every, probe = self.training.evaluate_every, self.observers.probe
        if probe is None or not every or (step % every and step != self.total):
            return
        if any(p["step"] == step for p in self.log.probes):
            return
        with ref.evaluating(self.model):
            values = probe(self.model)
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
        if self.observers.score is None or step == 0:
            return
        rank = (0.0 if low else 1.0, *self.observers.score(values))
        if self.best is None or rank > self.best:
            self.best, self.log.selected_step = rank, step
            self.best_weights = {k: v.clone() for k, v in trained_weights(self.model, names).items()}
            self.checkpoints.keep_best(self.best_weights)

    def _finish(self, names: list[str]) -> None:
        if self.log.selected_step is None or self.observers.score is None:
            return
        kept = getattr(self, "best_weights", None) or self.checkpoints.load_best()
        if kept is None:
            raise RunError("The weights of the selected step are missing from the checkpoint folder.")
        load_weights(self.model, kept)


@dataclass(frozen=True)
class _Bound:
    """The reference as one view sees it: bound to its stream and rows."""

    source: ref.Reference | None
    stream: str
    rows: Tensor

    def signal(self, name: str) -> Tensor:
        """Values of a reference signal for these rows.

        Raises:
            InputError: There is no reference.
        """
        if self.source is None:
            raise InputError("The loss needs a reference model and there is none.")
        return self.source.signal(self.stream, self.rows, name)


def write_log(log: TrainLog, path: Path) -> None:
    """One JSON line per step."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in log.steps), encoding="utf-8")
