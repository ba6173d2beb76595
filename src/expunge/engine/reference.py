"""The frozen reference, answered from the cheapest source that can answer.

A loss reads `view.reference`; it never owns a second model. What it reads is found out by showing it its
first batch before training. The source is then, in this order:

1. a cache: one forward pass over the rows the run will visit, before the first update. Scalars and
   per-token log-probabilities cost next to nothing; logits are kept as final hidden states and
   projected again through a frozen head, about vocabulary/width times smaller;
2. the same weights with the adapters switched off, if the cache would outgrow the model;
3. a frozen copy of the model, the last resort.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expunge.errors import InputError, RunError

Decode = Callable[[Tensor], Tensor]


class Examples(Protocol):
    """A wing's encoded examples, as the engine sees them."""

    @property
    def sizes(self) -> Tensor:
        """[n] input length of each example, for bucketing."""
        ...

    @property
    def counts(self) -> Tensor:
        """[n] labelled positions of each example."""
        ...

    def __len__(self) -> int: ...

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> Any:
        """Lazy view of some rows; `totals` = (rows, labelled tokens) of the whole step."""
        ...

    def stored_as(self, signal: str, model: nn.Module) -> tuple[str, Decode | None]:
        """How a signal is kept in a cache: the signal to store, and what turns it back."""
        ...

    def extent(self, signal: str, rows: Tensor) -> Tensor:
        """[len(rows)] number of positions the signal has in each row."""
        ...

    def width(self, signal: str, model: nn.Module) -> int:
        """Numbers per position of the signal."""
        ...

    def checkpointing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within, a training model recomputes its activations in the backward pass.

        Raises:
            InputError: The model cannot do this.
        """
        ...


class Reference(Protocol):
    """Answers a signal of the frozen reference for some rows of a stream, flattened over the rows."""

    name: str

    def signal(self, stream: str, rows: Tensor, signal: str) -> Tensor:
        """Return [sum of extents, ...] values without gradient."""
        ...


class Recorder:
    """Answers from the model as it stands (before training it IS the reference) and notes what is asked."""

    name = "recorder"

    def __init__(self, model: nn.Module, examples: Mapping[str, Examples]) -> None:
        self.live = Live(model, examples)
        self.asked: set[tuple[str, str]] = set()

    def signal(self, stream: str, rows: Tensor, signal: str) -> Tensor:
        """Note the request and answer it."""
        self.asked.add((stream, signal))
        return self.live.signal(stream, rows, signal)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off and no gradients; the mode is restored afterwards."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(mode)


class Live:
    """Runs a model for each request: adapters off, or a frozen copy."""

    def __init__(
        self,
        model: nn.Module,
        examples: Mapping[str, Examples],
        frozen: Callable[[], AbstractContextManager[Any]] = nullcontext,
        name: str = "live",
    ) -> None:
        self.model, self.examples, self.frozen, self.name = model, examples, frozen, name

    def signal(self, stream: str, rows: Tensor, signal: str) -> Tensor:
        """Forward pass of the reference on these rows."""
        with evaluating(self.model), self.frozen():
            view = self.examples[stream].view(self.model, rows, (1, 1), None)
            return view.signal(signal)  # type: ignore[no-any-return]


@dataclass
class Table:
    """A ragged table: row r of the examples owns ``start[r] : start[r] + extent[r]`` of the values."""

    values: Tensor  # [total, ...]
    start: Tensor  # [n], -1 where the row was not visited
    extent: Tensor  # [n]

    def gather(self, rows: Tensor) -> Tensor:
        """Values of some rows, concatenated in the given order."""
        start, extent = self.start[rows], self.extent[rows]
        if bool((start < 0).any()):
            raise IndexError("a row was asked of the reference cache that the run was not to visit")
        ends = extent.cumsum(0)
        offset = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - extent, extent)
        return self.values[torch.repeat_interleave(start, extent) + offset]


class Cached:
    """Reference values computed once, before training, for exactly the rows the run will visit."""

    name = "cache"

    def __init__(self, tables: dict[tuple[str, str], Table], decode: dict[tuple[str, str], Decode | None]) -> None:
        self.tables, self.decode = tables, decode

    def signal(self, stream: str, rows: Tensor, signal: str) -> Tensor:
        """Look the rows up.

        Raises:
            RunError: The loss did not ask for this signal of its first batch.
        """
        key = (stream, signal)
        if key not in self.tables:
            raise RunError(
                f"The loss asked for the reference's {signal} of the {stream} records only after its first "
                f"batch; the method must read it from the first step on."
            )
        values = self.tables[key].gather(rows)
        decode = self.decode[key]
        return values if decode is None else decode(values)


def parameter_bytes(model: nn.Module) -> int:
    """Memory of all parameters, in bytes."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def build(
    model: nn.Module,
    examples: Mapping[str, Examples],
    visited: Mapping[str, Tensor],
    asked: set[tuple[str, str]],
    *,
    batch: int = 64,
    limit: int | None = None,
) -> Reference | None:
    """Choose and build the reference source for what a loss asked.

    Args:
        model: The model at its starting weights.
        examples: Stream name to examples.
        visited: Stream name to the distinct rows the run will draw.
        asked: (stream, signal) pairs, from a `Recorder`.
        batch: Rows per forward pass while filling the cache.
        limit: Largest cache in bytes; default: the size of the model (what a copy would cost), and
            256 MiB for models smaller than that.

    Returns:
        None when nothing was asked.
    """
    if not asked:
        return None
    limit = max(parameter_bytes(model), 2**28) if limit is None else limit
    stored = {(stream, signal): examples[stream].stored_as(signal, model) for stream, signal in asked}
    size = sum(
        4 * int(examples[stream].extent(kept, visited[stream]).sum()) * examples[stream].width(kept, model)
        for stream, kept in {(stream, kept) for (stream, _), (kept, _) in stored.items()}
    )
    if size > limit:
        return _live(model, examples)
    tables: dict[tuple[str, str], Table] = {}
    for stream in sorted({stream for stream, _ in asked}):
        kept = sorted({k for (s, _), (k, _) in stored.items() if s == stream})
        for name, table in zip(kept, _fill(model, examples[stream], visited[stream], kept, batch), strict=True):
            tables[stream, name] = table
    return Cached(
        {(stream, signal): tables[stream, kept] for (stream, signal), (kept, _) in stored.items()},
        {key: decode for key, (_, decode) in stored.items()},
    )


def _fill(model: nn.Module, examples: Examples, visited: Tensor, signals: list[str], batch: int) -> list[Table]:
    order = visited[examples.sizes[visited].argsort(stable=True)]
    pieces: list[list[Tensor]] = [[] for _ in signals]
    with evaluating(model):
        for rows in torch.split(order, batch):
            view = examples.view(model, rows, (1, 1), None)
            for piece, signal in zip(pieces, signals, strict=True):
                piece.append(view.signal(signal).float().cpu())
    tables = []
    for piece, signal in zip(pieces, signals, strict=True):
        extent = torch.zeros(len(examples), dtype=torch.long)
        extent[order] = examples.extent(signal, order)
        start = torch.full((len(examples),), -1, dtype=torch.long)
        start[order] = extent[order].cumsum(0) - extent[order]
        tables.append(Table(torch.cat(piece), start, extent))
    return tables


def _live(model: nn.Module, examples: Mapping[str, Examples]) -> Reference:
    if fresh_adapters(model):
        return Live(model, examples, lambda: adapters_off(model), "adapters-off")
    return frozen_copy(model, copy.deepcopy(model), examples)


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Within, the adapters do nothing. Switching them on again would make all of them trainable: put back."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def fresh_adapters(model: nn.Module) -> bool:
    """Whether the model carries adapters that still change nothing, so that off means the reference."""
    ups = [p for name, p in model.named_parameters() if ".lora_B." in name]
    return bool(ups) and all(not bool(p.any()) for p in ups)


def frozen_copy(trained: nn.Module, reference: nn.Module, examples: Mapping[str, Examples]) -> Reference:
    """Use a second model as the reference.

    Raises:
        InputError: The two models share memory, so training would move the reference too.
    """
    own = {p.data_ptr() for p in trained.parameters()}
    if any(p.data_ptr() in own for p in reference.parameters()):
        raise InputError("The reference shares weights with the model being trained; it must be a copy of its own.")
    reference.requires_grad_(False)
    return Live(reference, examples, name="frozen-copy")
