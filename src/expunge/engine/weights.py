"""The weights a run moves: whole parameters, slices, and float32 masters of half-precision weights.

AdamW at a small learning rate changes few entries of bfloat16 weights, so the optimiser moves a float32 copy
and the model computes with its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.engine.slices import Index, split_name, tensor_of

HALF = (torch.bfloat16, torch.float16)
Piece = tuple[Index | None, nn.Parameter, Tensor | None]  # where it lies in the whole, what is moved, what may move


class Weights:
    """What the optimiser moves, by name; inside `attached`, gradients of the model arrive there.

    Attributes:
        moved: Name to parameter: the model's own, or one that stands for a slice (sharing its storage), or
            a float32 master of a half-precision weight.
        visible: Share of the entries of half-precision weights that the last perturbation changed after
            rounding; None before any, and without such weights.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], masks: Mapping[str, Tensor] | None = None) -> None:
        """Bind what is moved.

        Args:
            model: Holds the weights.
            names: Parameters and slices.
            masks: Name to bool tensor of its shape: True where an entry may move (`Trained.mask`). The others keep
                the value they have now, bit for bit, whatever momentum, decay or smoothing would do to them.

        Raises:
            ValueError: A mask of what is not moved, or of another shape.
        """
        self.model = model
        self._own = dict(model.named_parameters())
        self.moved: dict[str, nn.Parameter] = {}
        self.visible: float | None = None
        for name in names:
            tensor = tensor_of(self._own, name)
            if tensor.dtype in HALF:
                self.moved[name] = nn.Parameter(tensor.detach().float())
            else:
                self.moved[name] = self._own[name] if name in self._own else nn.Parameter(tensor)
        self._masks: dict[str, Tensor] = {}
        self._rest: dict[str, Tensor] = {}
        for name, mask in (masks or {}).items():
            if name not in self.moved or mask.shape != self.moved[name].shape:
                raise ValueError(f"a mask of shape {tuple(mask.shape)} for {name}, which is not moved or not so shaped")
            self._masks[name] = mask.to(self.moved[name].device, torch.bool)
            self._rest[name] = self.moved[name].detach()[~self._masks[name]].clone()

    @property
    def parameters(self) -> list[Tensor]:
        """The moved parameters, in the order of their names."""
        return list(self.moved.values())

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within, a backward pass leaves gradients with the moved parameters; the model keeps none of its own."""
        pieces: dict[str, list[Piece]] = {}
        for name, parameter in self.moved.items():
            whole, index = split_name(name)
            if parameter is not self._own[whole] or name in self._masks:
                pieces.setdefault(whole, []).append((index, parameter, self._masks.get(name)))
        handles = [self._own[n].register_post_accumulate_grad_hook(_hand_over(mine)) for n, mine in pieces.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def sync(self) -> None:
        """Put entries that may not move back, and round the masters into the model."""
        for name, mask in self._masks.items():
            self.moved[name][~mask] = self._rest[name]
        for name, parameter in self.moved.items():
            stored = tensor_of(self._own, name)
            if stored.dtype in HALF:
                stored.detach().copy_(parameter)

    @contextmanager
    def moved_by(self, deltas: list[Tensor | None]) -> Iterator[None]:
        """Within, the weights stand at theta + delta; afterwards they are restored byte for byte.

        The list is emptied, so that the deltas take no memory while the perturbed model runs.
        """
        before = self._half_copies()
        saved: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for p, delta in zip(self.parameters, deltas, strict=True):
                if delta is not None:
                    saved.append((p, p.detach().clone()))
                    p.add_(delta)
        deltas.clear()
        self.sync()
        if before:
            changed = sum(int((tensor_of(self._own, n) != old).sum()) for n, old in before.items())
            self.visible = changed / sum(old.numel() for old in before.values())
        try:
            yield
        finally:
            with torch.no_grad():
                for p, original in saved:
                    p.copy_(original)
            self.sync()

    def _half_copies(self) -> dict[str, Tensor]:
        """Copies of the half-precision weights, until one perturbation has been measured."""
        if self.visible is not None:
            return {}
        stored = {n: tensor_of(self._own, n).detach() for n in self.moved}
        return {n: t.clone() for n, t in stored.items() if t.dtype in HALF}

    def leaves(self) -> list[nn.Parameter]:
        """The model's parameters behind the moved ones, each once."""
        return [self._own[whole] for whole in dict.fromkeys(split_name(n)[0] for n in self.moved)]

    def along(self, gradients: Sequence[Tensor | None], vector: Sequence[Tensor | None]) -> Tensor:
        """Inner product of gradients with respect to `leaves` and a vector over the moved parameters."""
        by_name = dict(zip(dict.fromkeys(split_name(n)[0] for n in self.moved), gradients, strict=True))
        total = torch.zeros((), device=self.parameters[0].device)
        for name, direction in zip(self.moved, vector, strict=True):
            whole, index = split_name(name)
            gradient = by_name[whole]
            if gradient is not None and direction is not None:
                total = total + ((gradient if index is None else gradient[index]) * direction).sum()
        return total

    def state(self) -> dict[str, Tensor]:
        """What training changes: the moved parameters, and the buffers the model saves, detached."""
        saved = self.model.state_dict(keep_vars=True).keys()
        buffers = {name: b for name, b in self.model.named_buffers() if name in saved}
        return {name: value.detach() for name, value in (*self.moved.items(), *buffers.items())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `state` gave back into place."""
        own = dict(self.moved) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)
        self.sync()


def _hand_over(pieces: list[Piece]) -> Callable[[Tensor], None]:
    def hook(whole: Tensor) -> None:
        assert whole.grad is not None
        arrived, whole.grad = whole.grad, None
        for index, piece, mask in pieces:
            share = (arrived if index is None else arrived[index]).to(piece.dtype)
            if mask is not None:
                share = share * mask
            if piece is whole:
                whole.grad = share
            else:
                piece.grad = share.clone() if piece.grad is None else piece.grad + share

    return hook
