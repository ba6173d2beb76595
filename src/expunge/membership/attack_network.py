"""The small network that learns, from a model whose training data is known, what members look like.

TDDBench (Zhu et al. 2025, arXiv 2411.03363): two hidden layers of 64 and 32 units with ReLU, two outputs, cross
entropy, Adam; a tenth of the rows is set aside, and the weights with the best accuracy on it are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttackSettings:
    """How the network is built and trained.

    Attributes:
        hidden: Units of the hidden layers. Source: reference code.
        lr: Learning rate of Adam. Source: reference code.
        batch: Rows of a step. Source: reference code.
        epochs: Passes at most. Source: reference code.
        patience: Epochs without better validation accuracy after which training ends. Source: reference code.
        validation: Share of the rows set aside. Source: reference code.
    """

    hidden: tuple[int, ...] = (64, 32)
    lr: float = 1e-3
    batch: int = 128
    epochs: int = 500
    patience: int = 30
    validation: float = 0.1


@dataclass(frozen=True, eq=False)
class AttackNetwork:
    """A trained network.

    Attributes:
        module: Features to two logits, of a non-member and of a member.
        accuracy: On the rows set aside.
        epochs: How many were done.
    """

    module: torch.nn.Module
    accuracy: float
    epochs: int

    def score(self, features: ArrayLike) -> Floats:
        """[n] probability of membership of rows [n, d]."""
        import torch

        with torch.inference_mode():
            logits = self.module(torch.from_numpy(_rows(features).astype(np.float32))).double()
            return np.asarray(logits.softmax(-1)[:, 1].numpy(), dtype=np.float64)


def train_attack(
    features: ArrayLike, member: ArrayLike, *, seed: int, settings: AttackSettings | None = None
) -> AttackNetwork:
    """Learn membership from the outputs of a model whose training data is known.

    Args:
        features: [n, d] what the model says about each row; taken as it is, without standardising.
        member: [n] whether the row was among its training data.
        seed: Fixes initial weights, the rows set aside and the order of the others.
        settings: See `AttackSettings`.

    Raises:
        InputError: Rows and memberships do not match, a feature is not finite, one side is missing, or fewer than
            ten rows.
    """
    import torch

    s, x, y = settings or AttackSettings(), _rows(features), np.asarray(member, dtype=bool)
    if y.shape != (len(x),):
        raise InputError(f"{len(x)} rows of attack features but memberships of shape {y.shape}.")
    if y.all() or not y.any() or len(x) < 10:
        raise InputError(f"{int(y.sum())} members and {int((~y).sum())} non-members are too few to learn from.")
    order = np.random.default_rng([seed, 0]).permutation(len(x))
    held = max(1, round(s.validation * len(x)))
    inputs, labels = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.int64))
    kept, apart = torch.from_numpy(order[held:]), torch.from_numpy(order[:held])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _network(x.shape[1], s.hidden)
    best, accuracy, epoch = _fit(module, inputs, labels, kept, apart, seed, s)
    module.load_state_dict(best)
    return AttackNetwork(module.eval(), accuracy, epoch)


def _fit(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, kept: torch.Tensor, apart: torch.Tensor, seed: int,
    s: AttackSettings,
) -> tuple[dict[str, torch.Tensor], float, int]:  # fmt: skip
    """The weights with the best accuracy on the rows set aside (the earliest of equals), that accuracy, epochs."""
    import torch

    optimizer = torch.optim.Adam(module.parameters(), lr=s.lr)
    draw = torch.Generator().manual_seed(seed)
    best: dict[str, torch.Tensor] = {}
    accuracy, since, epoch = -1.0, 0, 0
    while epoch < s.epochs and since < s.patience:
        for rows in kept[torch.randperm(len(kept), generator=draw)].split(s.batch):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.inference_mode():
            now = float((module(x[apart]).argmax(-1) == y[apart]).double().mean())
        epoch, since = epoch + 1, since + 1
        if now > accuracy:
            accuracy, since = now, 0
            best = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return best, accuracy, epoch


def _network(d: int, hidden: tuple[int, ...]) -> torch.nn.Sequential:
    def layers() -> Iterator[torch.nn.Module]:
        from torch import nn

        widths = (d, *hidden)
        for before, after in zip(widths, hidden, strict=False):
            yield nn.Linear(before, after)
            yield nn.ReLU()
        yield nn.Linear(widths[-1], 2)

    from torch import nn

    return nn.Sequential(*layers())


def _rows(features: ArrayLike) -> Floats:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"Attack features have shape {x.shape}; they must be [rows, features].")
    if not np.isfinite(x).all():
        raise InputError(f"The attack features of row {int((~np.isfinite(x)).any(1).argmax()) + 1} are not finite.")
    return x
