"""What RMU and Adaptive RMU share: control vectors, masked means over positions, and what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.engine.method import Step, Trained
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.forward import ForwardPass, check_layer, decoder_layers
from expunge.language.methods._checks import public_name
from expunge.language.methods._retain import retain_term

Vectors = Literal["uniform", "gaussian"]
Hold = Literal["states", "nll", "kl"]


def control_vectors(topics: int, width: int, seed: int, kind: Vectors = "uniform") -> Tensor:
    """Fixed random unit vectors, one per topic: v / ||v|| with v uniform on [0, 1)^d, or standard normal.

    Entries drawn from [0, 1) are all positive, so the vectors of different topics are nearly the same: their
    expected cosine is 3/4 (E[v]^2 / E[v^2] = (1/4) / (1/3)). Normal ones are nearly orthogonal: cosine 0 with
    standard deviation 1 / sqrt(d).

    Args:
        topics: K.
        width: d, the model's hidden size.
        seed: The run's seed.
        kind: ``uniform`` or ``gaussian``.

    Returns:
        [K, d]
    """
    draw = torch.rand if kind == "uniform" else torch.randn
    draws = [draw(width, generator=generator(seed, "control vector", k)) for k in range(topics)]
    return torch.nn.functional.normalize(torch.stack(draws), dim=-1)


def row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Mean of each row's values: [S] values, [S] row of each -> [count]."""
    sums = torch.zeros(count, device=values.device, dtype=values.dtype).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=count)


def default_layer(depth: int) -> int:
    """The block at a quarter of the depth: 7 of 32, as published for Zephyr-7B.

    >>> [default_layer(depth) for depth in (32, 16, 2, 1)]
    [7, 3, 0, 0]
    """
    return max(0, depth // 4 - 1)


@dataclass(frozen=True)
class Steering(Trained):
    """Steer one block's output on forget text, hold it on retain text, one topic per step in turn."""

    topics: tuple[str, ...] = ()
    layer: int | None = None
    layer_ids: tuple[int, ...] | None = None
    parameters: tuple[str, ...] = ("mlp.down_proj.weight",)
    alpha: float | tuple[float, ...] = 1200.0
    forget_weight: float = 1.0
    retain: Hold = "states"
    vectors: Vectors = "uniform"
    skip_first: bool = False

    def __post_init__(self) -> None:
        name = public_name(self)
        if not self.parameters:
            raise InputError(f"{name}: parameters is empty; there would be nothing to train.")
        if len(set(self.topics)) < len(self.topics):
            raise InputError(f"{name}: topics={list(self.topics)}: a topic stands in the list twice.")
        for field, value, allowed in (
            ("retain", self.retain, ("states", "nll", "kl")),
            ("vectors", self.vectors, ("uniform", "gaussian")),
        ):
            if value not in allowed:
                raise InputError(f"{name}: {field}={value!r} must be one of {', '.join(allowed)}.")
        if not self.forget_weight >= 0:
            raise InputError(f"{name}: forget_weight={self.forget_weight} must not be below 0.")
        if not min(self.per_topic("alpha")) >= 0:
            raise InputError(f"{name}: alpha={self.alpha} must not be below 0.")

    @property
    def count(self) -> int:
        """K, the number of topics; without names all records are one topic."""
        return max(1, len(self.topics))

    def per_topic(self, field: str) -> tuple[float, ...]:
        """[K] values of a hyper-parameter that is one number for all topics, or one for each.

        Raises:
            InputError: Another number of values than topics.
        """
        value = getattr(self, field)
        values = tuple(value) if isinstance(value, tuple | list) else (value,) * self.count
        if len(values) != self.count:
            raise InputError(
                f"{public_name(self)}: {field}={list(values)} has {len(values)} values and topics={list(self.topics)} "
                f"names {len(self.topics)}; give one number, or one for each topic."
            )
        return values

    def topic(self, step: Step) -> int:
        """Index of the topic this step works on: steps take the topics in turn."""
        return step.index % self.count

    def controls(self, view: ForwardPass, seed: int) -> Tensor:
        """[K, d] unit control vectors, in the precision and on the device of the model's states."""
        states = view.hidden(self.read_layer(view.model))
        return control_vectors(self.count, states.shape[-1], seed, self.vectors).to(states)

    @property
    def has_retain(self) -> bool:
        return max(self.per_topic("alpha")) > 0

    def read_layer(self, model: nn.Module) -> int:
        """Index of the block whose output is steered.

        Raises:
            InputError: The model has no such block.
        """
        if self.layer is None:
            return default_layer(len(decoder_layers(model)[2]))
        check_layer(model, self.layer)
        return self.layer

    def trainable(self, model: nn.Module) -> list[str]:
        """See `Trained`."""
        layer = self.read_layer(model)
        chosen = self.layer_ids
        if chosen is None:  # a shallow model has fewer than three blocks up to the one that is read
            chosen = tuple(i for i in (layer - 2, layer - 1, layer) if i >= 0)
        for i in chosen:
            check_layer(model, i)
            if i > layer:
                raise InputError(
                    f"{public_name(self)}: layer_ids={list(chosen)}: block {i} is above layer={layer}, whose output "
                    f"it cannot change."
                )
        names = {id(p): name for name, p in model.named_parameters()}
        adapted = any(".lora_" in name for name in names.values())
        blocks = decoder_layers(model)[2]
        return [
            names[id(p)]
            for i in chosen
            for wanted in self.parameters
            for p in self._match(blocks[i], i, wanted, adapted)
        ]

    def _match(self, block: nn.Module, index: int, wanted: str, adapted: bool) -> list[nn.Parameter]:
        """The one parameter of a block with this name; on a model with adapters the pair that moves it."""
        inside = {f".{name}": p for name, p in block.named_parameters()}
        adapters = f".{wanted.removesuffix('.weight')}.lora_"
        found = [name for name in inside if (adapters in name if adapted else name.endswith(f".{wanted}"))]
        if len(found) != (2 if adapted else 1):
            what, count = ("adapted weight", len(found) // 2) if adapted else ("weight", len(found))
            raise InputError(
                f"{public_name(self)}: parameters={wanted!r} must match one {what} of each block; in block {index} it "
                f"matches {count}."
            )
        return [inside[name] for name in found]

    def masked_mean(self, view: ForwardPass, values: Tensor) -> Tensor:
        """Mean over the step's rows of each row's mean over its real positions: [S] -> scalar."""
        rows = view.token_rows
        if self.skip_first:
            kept = view.positions > 0
            values, rows = values[kept], rows[kept]
        return view.per_row(row_means(values, rows, len(view.lengths)))

    def watch_norm(self, step: Step, states: Tensor) -> None:
        """Have the mean norm of the steered activations logged: the length to compare the target's with."""
        norms = torch.linalg.vector_norm(states.detach(), dim=-1)
        step.note("norm", self.masked_mean(step.forget, norms))

    def retain_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.retain
        alpha = self.per_topic("alpha")[self.topic(step)]
        if self.retain != "states":
            return alpha * retain_term(view, self.retain)
        layer = self.read_layer(view.model)
        gap = view.hidden(layer) - view.reference.hidden(layer)  # [S, d]
        return alpha * self.masked_mean(view, gap.square().mean(-1))
