"""The lazy view of one batch of images, and the examples behind it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.vision.data import Images

Augment = Callable[[Tensor], Tensor]  # [b, c, h, w] in [0, 1] -> the same; draws from torch's global generator


def head_of(model: nn.Module) -> nn.Linear:
    """The classifier's last linear layer: the one that makes its logits.

    Raises:
        InputError: The model has no linear layer.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    named = getattr(model, "head_name", None)
    if named is not None:
        module = model.get_submodule(named)
        if not isinstance(module, nn.Linear):
            raise InputError(f"{type(model).__name__}: the head {named!r} is no linear layer.")
        return module
    if not found:
        raise InputError(f"{type(model).__name__}: no linear layer makes its logits; name the head.")
    return found[-1]


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, what reaches the head is kept: the penultimate features, [b, d]."""
    seen: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


def per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """[b] loss of each image in nats: cross entropy, or the mean binary cross entropy of independent labels."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


class ImagePass:
    """Everything a loss may read of one batch of images under the current weights."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, total: int, reference: Any = None) -> None:
        """Bind a batch.

        Args:
            model: Images in [0, 1] to logits.
            images: [b, c, h, w].
            labels: [b] classes or [b, k] independent labels.
            total: Images in the whole optimiser step.
            reference: Answers the same quantities under the frozen reference.
        """
        self.model, self.images, self.labels, self.total = model, images, labels, total
        self._reference = reference

    @cached_property
    def _ran(self) -> tuple[Tensor, Tensor]:
        with head_inputs(self.model) as seen:
            logits = self.model(self.images)
        return logits, seen[-1]

    @property
    def logits(self) -> Tensor:
        """[b, C]."""
        return self._ran[0]

    @property
    def features(self) -> Tensor:
        """[b, d] penultimate features."""
        return self._ran[1]

    @cached_property
    def logprobs(self) -> Tensor:
        """[b, C] log-probabilities."""
        return self.logits.log_softmax(-1)

    @cached_property
    def losses(self) -> Tensor:
        """[b] task loss of each image, in nats."""
        return per_image(self.logits, self.labels)

    @property
    def loss(self) -> Tensor:
        """Scalar: mean task loss of the step (this micro-batch's share)."""
        return self.per_row(self.losses)

    def per_row(self, values: Tensor) -> Tensor:
        """Mean over the images of the step of [b] values."""
        return values.sum() / self.total

    @cached_property
    def reference(self) -> ReferencePass:
        """The same quantities under the frozen reference, on the very same pixels."""
        return ReferencePass(self)

    def signal(self, name: str) -> Tensor:
        """A quantity by name, one row for each image (what the reference cache stores)."""
        if name not in ("logits", "features"):
            raise KeyError(name)
        return getattr(self, name)  # type: ignore[no-any-return]


class ReferencePass:
    """What a loss may read of the reference on the images of a view; no gradient flows here."""

    def __init__(self, view: ImagePass) -> None:
        # A view owns this object; owning the view back would keep its graph alive until the cycle is collected.
        self._view: ImagePass = weakref.proxy(view)

    def _ask(self, signal: str) -> Tensor:
        if self._view._reference is None:
            raise InputError("The loss needs a reference model and there is none.")
        values: Tensor = self._view._reference.signal(signal)
        return values.to(self._view.images.device)

    @cached_property
    def logits(self) -> Tensor:
        """[b, C] reference logits."""
        return self._ask("logits")

    @cached_property
    def logprobs(self) -> Tensor:
        """[b, C] reference log-probabilities."""
        return self.logits.log_softmax(-1)

    @cached_property
    def features(self) -> Tensor:
        """[b, d] reference features."""
        return self._ask("features")


class ImageExamples:
    """Images as the engine sees them (`engine.reference.Examples`).

    Augmented pixels are drawn when a view of the model in training is made, and a view of the reference on the same
    rows sees the very same ones; a cache of the reference is then of no use, and none is built.
    """

    def __init__(self, images: Images, labels: Tensor | None = None, augment: Augment | None = None) -> None:
        """Bind images.

        Args:
            images: The images.
            labels: Labels to train on instead of their own.
            augment: Changes a batch at random while the model trains.
        """
        self.images, self.augment = images, augment
        self.labels = images.labels if labels is None else labels
        self._drawn: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes(self) -> Tensor:
        """[n] ones: images of one set have one size."""
        return torch.ones(len(self), dtype=torch.long)

    @property
    def counts(self) -> Tensor:
        """[n] ones: one label each."""
        return self.sizes

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> ImagePass:
        """See `Examples`."""
        device = next(model.parameters()).device
        return ImagePass(
            model, self._pixels(rows, model).to(device), self.labels[rows].to(device), totals[0], reference
        )

    def _pixels(self, rows: Tensor, model: nn.Module) -> Tensor:
        if self.augment is None:
            return self.images.pixels(rows)
        if not model.training:  # the reference, or a first look
            if self._drawn is not None and torch.equal(self._drawn[0], rows):
                return self._drawn[1]
            return self.images.pixels(rows)
        self._drawn = (rows, self.augment(self.images.pixels(rows)))
        return self._drawn[1]

    def stored_as(self, signal: str, model: nn.Module) -> tuple[str, Any]:
        """Signals are kept as they are."""
        return signal, None

    def extent(self, signal: str, rows: Tensor) -> Tensor:
        """[len(rows)] one row of the signal for each image."""
        return torch.ones(len(rows), dtype=torch.long)

    def width(self, signal: str, model: nn.Module) -> int:
        """Numbers of the signal for each image; more than any cache may hold where pixels change from step to step."""
        if self.augment is not None:
            return 2**48
        head = head_of(model)
        return head.out_features if signal == "logits" else head.in_features

    def checkpointing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Not offered: classifiers are small beside their batches.

        Raises:
            InputError: Always.
        """
        raise InputError("gradient_checkpointing: not offered for image classifiers; lower micro_batch instead.")
