"""Query-ref: images made to tell models that were trained on a record from models that were not (Wen et al. 2023).

Near each image, further ones are optimised on reference models so that the true class's logit of models trained on the
image goes to 10 and of the others to 0; these *canaries* are put to the target, and their LiRA scores averaged (arXiv
2210.10750; TDDBench, arXiv 2411.03363). Canaries of many records are optimised in one batch: at each step every canary
draws a model that was trained on its record and one that was not, and each model sees the canaries that drew it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.membership.augmentations import in_range
from expunge.membership.classifier import Classifier, Floats, Ints, Records, TorchClassifier
from expunge.membership.model_based import model_lira
from expunge.membership.query_based import Queried
from expunge.membership.references import References
from expunge.membership.signals import Signals

if TYPE_CHECKING:
    import torch

Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class CanarySettings:
    """How canaries are optimised; pixels are counted from -1 to 1 over the range of the records.

    Attributes:
        queries: Canaries Q of each record. Source: paper.
        steps: Steps of AdamW. Source: reference code.
        lr: Learning rate. Source: reference code.
        weight_decay: Of AdamW. Source: reference code.
        epsilon: Largest change of a pixel, in 255ths of the range. Source: reference code.
        inside: Logit of the true class that models trained on the record are drawn to. Source: reference code.
        outside: That of the others. Source: reference code.
        together: Records whose canaries are optimised in one batch. Source: ours.
    """

    queries: int = 10
    steps: int = 30
    lr: float = 0.05
    weight_decay: float = 1e-3
    epsilon: float = 1.0
    inside: float = 10.0
    outside: float = 0.0
    together: int = 256

    def __post_init__(self) -> None:
        for name in ("queries", "together"):
            if getattr(self, name) < 1:
                raise InputError(f"Query-ref: {name}={getattr(self, name)} must be at least 1.")
        if self.steps < 0 or self.epsilon < 0:
            raise InputError(f"Query-ref: steps={self.steps} and epsilon={self.epsilon} must not be negative.")


def query_ref(
    target: Classifier,
    records: Records,
    models: Sequence[Classifier],
    inside: Bools,
    *,
    seed: int,
    settings: CanarySettings | None = None,
) -> Queried:
    """Mean LiRA log-likelihood ratio over a record's canaries, one variance for all (`model_lira`, ``pooled``).

    Args:
        target: The model under attack.
        records: Images with their true labels.
        models: M reference models, `TorchClassifier`, on one device.
        inside: [M, n] whether record i was among the training data of model m; of each record one that was and one
            that was not, at least.
        seed: Fixes which models the canaries are optimised on.
        settings: See `CanarySettings`.

    Returns:
        [n] scores in nats. Q queries for each record, M Q of reference models, and 2 Q for each step of a record run
        forward and backward through these.

    Raises:
        InputError: Not images, models without gradients, masks that do not fit, a record without one kind of model, a
            pixel outside the range.
    """
    s = settings or CanarySettings()
    parts, of_models = [], []
    for rows, queries in canaries(records, models, inside, seed=seed, settings=s):
        labels = np.repeat(records.labels[rows], s.queries)
        flat = queries.reshape(-1, *queries.shape[2:])
        parts.append(Signals(target.logits(flat), labels).rescaled)
        of_models.append(np.stack([Signals(model.logits(flat), labels).rescaled for model in models]))
    references = References(np.concatenate(of_models, axis=1), np.repeat(inside, s.queries, axis=1))
    ratios = model_lira(np.concatenate(parts), references, variance="pooled")
    n, q = len(records), s.queries
    return Queried(
        ratios.reshape(n, q).mean(1), np.full(n, q, dtype=np.int64), other_queries=len(models) * n * q,
        gradients=2 * s.steps * n * q,
    )  # fmt: skip


def canaries(
    records: Records, models: Sequence[Classifier], inside: Bools, *, seed: int, settings: CanarySettings
) -> Iterator[tuple[Ints, Floats]]:
    """Canaries of the records, in blocks of records.

    What is found for a record depends on its place among the records and on the seed, not on the blocks. The public
    code draws one pair of models for all canaries of a record, so that these are equal where a training augments
    nothing; here each draws its own.

    Yields:
        Rows [b] and their canaries [b, Q, channels, height, width].

    Raises:
        InputError: As `query_ref`.
    """
    if records.kind != "image":
        raise InputError(f"Query-ref optimises the pixels of images; the records are of kind {records.kind!r}.")
    networks = [model for model in models if isinstance(model, TorchClassifier)]
    if len(networks) < len(models) or len(networks) < 2:
        raise InputError(
            "Query-ref needs at least two reference models, all torch modules: it follows their gradients."
        )
    mask = np.asarray(inside)
    if mask.shape != (len(models), len(records)) or mask.dtype != np.bool_:
        raise InputError(
            f"{len(models)} models and {len(records)} records need training masks of that shape; found {mask.shape}."
        )
    alone = mask.all(0) | ~mask.any(0)
    if alone.any():
        which = "every" if mask[:, alone.argmax()].all() else "no"
        raise InputError(f"Record {int(alone.argmax()) + 1}: {which} reference model was trained on it.")
    inputs, low, high = in_range(records)
    for start in range(0, len(records), settings.together):
        rows = np.arange(start, min(start + settings.together, len(records)))
        drawn = _pairs(mask, rows, seed, settings)
        yield rows, _optimised(inputs[rows], records.labels[rows], low, high, networks, drawn, settings)


def _pairs(inside: Bools, rows: Ints, seed: int, s: CanarySettings) -> Iterator[tuple[Ints, Ints]]:
    """For each step, [b, Q] a model that was trained on the record and [b, Q] one that was not."""
    order = np.argsort(~inside, axis=0, kind="stable")  # those trained on a record come first
    many = inside.sum(0)
    for step in range(s.steps):
        u = np.random.default_rng([seed, step]).random((2, inside.shape[1], s.queries))[:, rows]
        column = rows[:, None]
        first = (u[0] * many[rows, None]).astype(np.int64)
        second = many[rows, None] + (u[1] * (len(inside) - many[rows, None])).astype(np.int64)
        yield order[first, column], order[second, column]


def _optimised(
    images: Floats, labels: Ints, low: Floats, high: Floats, models: Sequence[TorchClassifier],
    drawn: Iterator[tuple[Ints, Ints]], s: CanarySettings,
) -> Floats:  # fmt: skip
    """[b, Q, ...] canaries of b images: within epsilon of the image, and within the range."""
    import torch

    half, centre = np.where(high > low, high - low, 2.0) / 2, (high + low) / 2
    device = models[0].device
    x = torch.from_numpy(np.repeat(((images - centre) / half).astype(np.float32), s.queries, axis=0)).to(device)
    least, most = ((x + sign * 2 * s.epsilon / 255).clamp(-1, 1) for sign in (-1, 1))
    scale, shift = (torch.from_numpy(part.astype(np.float32)).to(device) for part in (half, centre))
    y = torch.from_numpy(np.repeat(labels, s.queries)).to(device)
    v = x.clone()
    optimizer = torch.optim.AdamW([v], lr=s.lr, weight_decay=s.weight_decay)
    training = [model.module.training for model in models]
    for model in models:
        model.module.eval()
    for pair in drawn:
        v.grad = torch.zeros_like(v)
        inside, outside = (torch.from_numpy(part.reshape(-1)).to(device) for part in pair)
        for m, model in enumerate(models):
            rows = torch.nonzero((inside == m) | (outside == m))[:, 0]
            if len(rows):
                goal = torch.where(inside[rows] == m, s.inside, s.outside)
                v.grad[rows] += _pull(model, v[rows], y[rows], goal, scale, shift)
        optimizer.step()
        v.clamp_(least, most)  # in place: it is the optimizer's tensor
    for model, before in zip(models, training, strict=True):
        model.module.train(before)
    found = v.double().cpu().numpy().reshape(len(images), s.queries, *images.shape[1:]) * half + centre
    return np.asarray(np.clip(found, low, high), dtype=np.float64)


def _pull(
    model: TorchClassifier,
    v: torch.Tensor,
    y: torch.Tensor,
    goal: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
) -> torch.Tensor:
    """Gradient in v of sum (z_y - goal)^2."""
    import torch

    with torch.enable_grad():
        leaf = v.detach().requires_grad_()
        pixels = leaf * scale + shift
        parameter = next(model.module.parameters(), pixels)
        z = model.forward(pixels.to(parameter.dtype)).gather(1, y[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(((z - goal) ** 2).sum(), leaf)
    return gradient
