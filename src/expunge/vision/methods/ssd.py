"""Selective synaptic dampening: weights that matter more for the forgotten than for everything are made smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import per_image
from expunge.vision.methods._gradients import Named, every_parameter, gradient
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class SSD(Edit):
    """Dampen each weight whose importance for D_f exceeds alpha times its importance for all of D; no training.

    theta_i <- min(dampening I_D,i / I_f,i, 1) theta_i where I_f,i > alpha I_D,i, with I the mean over minibatches of
    the squared gradient of the minibatch's mean task loss, in evaluation mode, and D = D_r and D_f together. The
    square of a mean depends on how many images it is over: `batch_size` is part of the definition (1 gives the
    empirical Fisher information), and a stored I_D holds for its own batch size alone. Running statistics of
    normalisation layers stay as they are.

    Attributes:
        alpha: How much more a weight must matter for D_f to be touched; inf touches none. Source: paper (10 for
            ResNet-18, 50 for faces).
        dampening: lambda of the paper: how far it is dampened. Source: paper (1; 0.1 for faces).
        batch_size: Images of a minibatch of the importances. Source: reference code (its loader's).
        label_free: Importances without labels: the mean over minibatches of the absolute gradient of the mean squared
            norm of the logits (LFSSD). Source: paper (Foster et al. 2024).
        stored: Safetensors file of I_D. One that is there is read, and D_r is not looked at; one that is not is
            written. Source: paper (I_D can be kept when the model is trained).
    """

    paper: ClassVar[str] = (
        "Foster, Schoepf, Brintrup, Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, "
        "AAAI 2024 (arXiv 2308.07707); label-free: Foster et al. 2024 (arXiv 2402.19308)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "lfssd"

    alpha: float = 10.0
    dampening: float = 1.0
    batch_size: int = 64
    label_free: bool = False
    stored: str | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "dampening"):
            if not getattr(self, name) >= 0:
                raise InputError(f"ssd: {name}={getattr(self, name)} must not be below 0.")
        if self.batch_size < 1:
            raise InputError(f"ssd: batch_size={self.batch_size} must be at least 1.")

    def apply(self, job: Any) -> Any:
        """Return the dampened subject.

        Raises:
            InputError: No retained images and no stored I_D, or a stored I_D of another model, batch size or kind.
            RunError: A gradient is not finite.
        """
        model = job.subject.model
        everything = self._of_everything(job)
        of_forget = self.importances(model, (job.forget,), job.seed)
        dampen(dict(model.named_parameters()), everything, of_forget, self.alpha, self.dampening)
        return job.subject

    def importances(self, model: nn.Module, parts: Sequence[Images], seed: int) -> Named:
        """I of every weight over some sets together, in an order drawn from the seed."""
        total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        count = -(-sum(map(len, parts)) // self.batch_size)
        with every_parameter(model) as parameters:
            device = next(iter(parameters.values())).device
            for pixels, labels in _mixed(parts, self.batch_size, seed):
                logits = model(pixels.to(device))
                if self.label_free:
                    value = logits.square().sum(1).mean()
                else:
                    value = per_image(logits, labels.to(device)).mean()
                for name, g in gradient(value, parameters, "ssd").items():
                    total[name] += (g.abs() if self.label_free else g.square()) / count
        return total

    def _of_everything(self, job: Any) -> Named:
        path = Path(self.stored).expanduser() if self.stored else None
        made = {
            "batch_size": str(self.batch_size),
            "kind": "label-free" if self.label_free else "task loss",
            "weights": job.subject.weights_hash(),
        }
        if path is not None and path.exists():
            return _read(path, made, dict(job.subject.model.named_parameters()))
        require(job.retain, "retain", self)
        found = self.importances(job.subject.model, (job.forget, job.retain), job.seed)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            save_file({n: v.cpu().contiguous() for n, v in found.items()}, part, made)
            part.replace(path)
        return found


def factor(everything: Tensor, of_forget: Tensor, alpha: float, dampening: float) -> Tensor:
    """What each weight is multiplied by: min(dampening I_D / I_f, 1) where I_f > alpha I_D, else 1."""
    chosen = of_forget > alpha * everything  # never where alpha is infinite: inf * 0 compares as false
    ratio = dampening * everything / torch.where(chosen, of_forget, torch.ones_like(of_forget))
    return torch.where(chosen, ratio.clamp(max=1), torch.ones_like(ratio))


@torch.no_grad()
def dampen(parameters: Named, everything: Named, of_forget: Named, alpha: float, dampening: float) -> None:
    """Dampen parameters in place."""
    for name, p in parameters.items():
        p *= factor(everything[name].to(p), of_forget[name].to(p), alpha, dampening)


def _mixed(parts: Sequence[Images], batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels and labels of minibatches over several sets, shuffled together."""
    ends = torch.tensor([len(p) for p in parts]).cumsum(0)
    order = torch.randperm(int(ends[-1]), generator=generator(seed, "ssd"))
    for rows in order.split(batch):
        pixels, labels = [], []
        for images, end in zip(parts, ends.tolist(), strict=True):
            start = end - len(images)
            mine = rows[(rows >= start) & (rows < end)] - start
            if len(mine):
                pixels.append(images.pixels(mine))
                labels.append(images.labels[mine])
        yield torch.cat(pixels), torch.cat(labels)


def _read(path: Path, wanted: dict[str, str], parameters: Named) -> Named:
    """A stored I_D of this very model, batch size and kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({str(error).splitlines()[0]}).") from None
    for name, value in wanted.items():
        if metadata.get(name) != value:
            raise InputError(
                f"{path}: importances of {name} {metadata.get(name, 'unknown')!r}, and {value!r} is asked for."
            )
    shapes = {n: v.shape for n, v in found.items()}
    if shapes != {n: p.shape for n, p in parameters.items()}:
        raise InputError(f"{path}: its tensors are not the parameters of this model.")
    return found
