"""The rows of each step as micro-batches: what a loss is shown, and with which totals."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from expunge.engine import reference as ref
from expunge.engine.method import Step
from expunge.errors import InputError


@dataclass
class Stream:
    """The examples behind one stream and the rows each step draws: [steps, batch]."""

    examples: ref.Examples
    order: Tensor


@dataclass
class Batches:
    """Hands out the micro-batches of one process.

    Attributes:
        model: What the views run.
        streams: What the method draws from.
        seed: The run's seed.
        micro_batch: Rows per micro-batch; None for the whole share of this process.
        rank: Number of this process.
        world: Number of processes.
        reference: The frozen reference, once it is built.
        state: Constants of the method's `begin`, once they are fixed.
    """

    model: nn.Module
    streams: dict[str, Stream]
    seed: int
    micro_batch: int | None = None
    rank: int = 0
    world: int = 1
    reference: ref.Reference | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def forget(self) -> tuple[str, ...]:
        """Names of the streams of the forget side."""
        return tuple(s for s in self.streams if s != "retain")

    def micro(self, step: int, names: tuple[str, ...]) -> list[Step]:
        """The micro-batches of this process: rows of similar length together, totals of the whole step."""
        mine = self._by_length(step, names)[self.rank :: self.world]
        return [self._step(step, names, piece) for piece in torch.split(mine, self.micro_batch or len(mine))]

    def whole(self, step: int, names: tuple[str, ...]) -> Step:
        """The whole step as one micro-batch, whatever the micro-batch and the number of processes."""
        return self._step(step, names, self._by_length(step, names))

    def few(self, names: tuple[str, ...], rows: int) -> Step:
        """The first few rows of the run."""
        return self._step(0, names, self._by_length(0, names)[:rows])

    def _by_length(self, step: int, names: tuple[str, ...]) -> Tensor:
        lead = self.streams[names[0]]
        return lead.examples.sizes[lead.order[step]].argsort(stable=True)

    def _step(self, step: int, names: tuple[str, ...], piece: Tensor) -> Step:
        tokens = {n: int(s.examples.counts[s.order[step]].sum()) for n, s in self.streams.items()}
        views = {}
        for name in names:
            stream = self.streams[name]
            rows = stream.order[step]
            bound = Bound(self.reference, name, rows[piece]) if self.reference else None
            totals = (len(rows), tokens[name])
            views[name] = stream.examples.view(self.model, rows[piece], totals, bound)
        return Step(step, self.seed, views, tokens, self.state)


@dataclass(frozen=True)
class Bound:
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
