"""Influence unlearning: one step towards where training without the forgotten images would have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import per_image
from expunge.vision.methods._gradients import (
    Named,
    add_flat,
    every_parameter,
    finite,
    flat,
    flat_rows,
    gradient,
    image_gradients,
)
from expunge.vision.unlearn import require

EXACT_LIMIT = 5000  # parameters of which the whole Hessian is formed
TOGETHER = 256


@dataclass(frozen=True)
class Influence(Edit):
    """One Newton-like step towards where training without the forgotten images would have ended.

    theta <- theta_0 + alpha H^-1 v, with v = (1/N) sum_f grad - (N_f / (N N_r)) sum_r grad of the task loss. At a
    minimum of the loss over all N images v is minus the gradient of the mean loss over D_r, and alpha = 1 with the
    Hessian of D_r is Newton's step towards the model trained without D_f. H is approximated by
    F = damping I + (1/K) sum_k g_k g_k^T over K retained images. Evaluation mode; running statistics stay.

    Attributes:
        alpha: Length of the step; 0 leaves the model as it is. Source: reference code (searched from 1 to 20).
        inverse: ``woodfisher``: F^-1 v in closed form (the recursion of the paper gives the same; it holds K
            gradients, so its memory is K times the model); ``recursion``: the reference code's recursion, which keeps
            one vector and so only ever corrects v along the first image's gradient; ``exact``: the Hessian of the mean
            loss on D_r, for models of at most 5,000 parameters. Source: paper; reference code; ours.
        samples: K. Source: reference code.
        damping: Of F and of the exact Hessian. Source: reference code (its recursion starts from v itself, that is 1).
    """

    paper: ClassVar[str] = (
        "Koh, Liang, ICML 2017 (arXiv 1703.04730), with WoodFisher of Singh, Alistarh, NeurIPS 2020 (arXiv "
        "2004.14340), as unlearning by Jia et al., NeurIPS 2023 (arXiv 2304.04934)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "iu woodfisher"

    alpha: float = 1.0
    inverse: Literal["woodfisher", "recursion", "exact"] = "woodfisher"
    samples: int = 1000
    damping: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise InputError(f"influence: alpha={self.alpha} must be a number not below 0.")
        if self.inverse not in ("woodfisher", "recursion", "exact"):
            raise InputError(f"influence: inverse={self.inverse!r}; woodfisher, recursion or exact.")
        if self.samples < 1:
            raise InputError(f"influence: samples={self.samples} must be at least 1.")
        if not self.damping >= 0 or (self.inverse == "woodfisher" and not self.damping > 0):
            raise InputError(f"influence: damping={self.damping} must be above 0 (exact: not below).")

    def apply(self, job: Any) -> Any:
        """Return the subject after the step.

        Raises:
            InputError: No retained images; ``exact`` with too many parameters, or a singular Hessian.
            RunError: A gradient is not finite.
        """
        require(job.retain, "retain", self)
        model = job.subject.model
        if self.inverse == "exact" and job.subject.parameters > EXACT_LIMIT:
            raise InputError(
                f"influence: inverse=exact is for at most {EXACT_LIMIT:,} parameters; the model has "
                f"{job.subject.parameters:,}."
            )
        if self.alpha == 0:
            return job.subject
        with every_parameter(model) as parameters:
            v = direction(model, job.forget, job.retain, parameters)
            step = self._solve(model, job.retain, v, job.seed)
        add_flat(parameters, self.alpha * step)
        return job.subject

    def _solve(self, model: nn.Module, retain: Images, v: Tensor, seed: int) -> Tensor:
        if self.inverse == "exact":
            return _by_hessian(model, retain, v, self.damping)
        chosen = torch.randperm(len(retain), generator=generator(seed, "influence"))[: self.samples]
        chunks = (flat_rows(finite(c, "influence")).detach() for c in image_gradients(model, retain.take(chosen)))
        if self.inverse == "recursion":
            return recursion(chunks, v, self.samples)
        return woodfisher(torch.cat(list(chunks)), v, self.damping)


def direction(model: nn.Module, forget: Images, retain: Images, parameters: Named) -> Tensor:
    """v = (1/N) sum over D_f of the gradients - (N_f / (N N_r)) sum over D_r."""
    everything = len(forget) + len(retain)
    of_forget = _summed(model, forget, parameters) / everything
    of_retain = _summed(model, retain, parameters) / (everything * len(retain))
    return of_forget - len(forget) * of_retain


def _summed(model: nn.Module, images: Images, parameters: Named) -> Tensor:
    first = next(iter(parameters.values()))
    total = torch.zeros(sum(p.numel() for p in parameters.values())).to(first)
    for rows in torch.arange(len(images)).split(TOGETHER):
        logits = model(images.pixels(rows).to(first.device))
        loss = per_image(logits, images.labels[rows].to(first.device)).sum()
        total += flat(gradient(loss, parameters, "influence"))
    return total


def woodfisher(gradients: Tensor, v: Tensor, damping: float) -> Tensor:
    """(damping I + G^T G / K)^-1 v for gradients G [K, n], by Woodbury's identity in K dimensions."""
    k = len(gradients)
    gram = gradients @ gradients.T + damping * k * torch.eye(k).to(gradients)
    inner = torch.linalg.solve(gram.double(), (gradients @ v).double()).to(v)
    found: Tensor = (v - gradients.T @ inner) / damping
    return found


def recursion(chunks: Any, v: Tensor, samples: int) -> Tensor:
    """k of the reference code: t = o.g, k <- k - (k.g)/(K + t) o, o <- o - t/(K + t) o, with o the first g."""
    k, o = v.clone(), None
    for chunk in chunks:
        for g in chunk:
            if o is None:
                o = g.clone()
                continue
            t = o @ g
            k -= (k @ g) / (samples + t) * o
            o -= t / (samples + t) * o
    return k


def _by_hessian(model: nn.Module, retain: Images, v: Tensor, damping: float) -> Tensor:
    """(H + damping I)^-1 v with the Hessian of the mean loss on D_r."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    shapes = [p.shape for p in parameters.values()]
    start = flat(parameters)
    total = torch.zeros(len(start), len(start)).to(start)
    for rows in torch.arange(len(retain)).split(TOGETHER):
        pixels, labels = retain.pixels(rows).to(start), retain.labels[rows].to(start.device)

        def loss(weights: Tensor, pixels: Tensor = pixels, labels: Tensor = labels) -> Tensor:
            pieces = weights.split([s.numel() for s in shapes])
            given = {n: w.view(s) for n, w, s in zip(parameters, pieces, shapes, strict=True)}
            return per_image(functional_call(model, given, (pixels,)), labels).sum() / len(retain)

        total += hessian(loss)(start)
    total.diagonal().add_(damping)
    found, singular = torch.linalg.solve_ex(total.double(), v.double())
    if int(singular) or not bool(found.isfinite().all()):
        raise InputError("influence: the Hessian is singular; set damping above 0.")
    solved: Tensor = found.to(v)
    return solved
