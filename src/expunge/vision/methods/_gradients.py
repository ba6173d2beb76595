"""Gradients of a classifier in evaluation mode: of batches, and of every image on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from expunge.errors import RunError
from expunge.vision.data import Images
from expunge.vision.forward import per_image

Named = dict[str, Tensor]
AT_ONCE = 2**25  # numbers of per-image gradients held at a time
PerImage = Callable[[Named, Tensor, Tensor], Named]  # parameters, one image, its label -> one tensor a parameter


@contextmanager
def every_parameter(model: nn.Module) -> Iterator[Named]:
    """Within, the model is in evaluation mode (running statistics rest, no dropout) and all parameters are open."""
    mode, flags = model.training, {name: p.requires_grad for name, p in model.named_parameters()}
    model.eval().requires_grad_(True)
    try:
        yield dict(model.named_parameters())
    finally:
        model.train(mode)
        for name, p in model.named_parameters():
            p.requires_grad_(flags[name])


def gradient(value: Tensor, parameters: Named, who: str) -> Named:
    """Gradient of a scalar; zero for a parameter it does not depend on.

    Raises:
        RunError: It is not finite.
    """
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    named = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}
    return finite(named, who)


def finite(values: Named, who: str) -> Named:
    """The values, if they are numbers.

    Raises:
        RunError: One is not; names the parameter.
    """
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise RunError(f"{who}: the gradient of {name} is not finite.")
    return values


def per_image_values(model: nn.Module, images: Images, function: PerImage, chunk: int = 0) -> Iterator[Named]:
    """A function of one image at a time, over chunks of a set: tensors [b, ...] of each parameter.

    Chunks are vectorised. A network that cannot be (its code branches on values) is run image by image.

    Args:
        model: Within `every_parameter`.
        images: The set.
        function: What is asked of each image; see `PerImage`.
        chunk: Images at a time; 0 chooses by the number of parameters.
    """
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    device = next(iter(parameters.values())).device
    chunk = chunk or max(1, min(128, AT_ONCE // sum(p.numel() for p in parameters.values())))
    together = vmap(function, in_dims=(None, 0, 0))
    vectorised = True
    for rows in torch.arange(len(images)).split(chunk):
        pixels, labels = images.pixels(rows).to(device), images.labels[rows].to(device)
        if vectorised:
            try:
                yield together(parameters, pixels, labels)
                continue
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                vectorised = False
        single = [function(parameters, image, label) for image, label in zip(pixels, labels, strict=True)]
        yield {n: torch.stack([s[n] for s in single]) for n in parameters}


def image_gradients(model: nn.Module, images: Images, chunk: int = 0) -> Iterator[Named]:
    """Gradients of the task loss of every image: tensors [b, ...] of each parameter, chunk after chunk."""

    def loss(parameters: Named, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (image[None],))
        return per_image(logits, label[None])[0]

    one: PerImage = grad(loss)
    return per_image_values(model, images, one, chunk)


def flat(values: Named) -> Tensor:
    """[n] of all tensors, one after the other."""
    return torch.cat([v.reshape(-1) for v in values.values()])


def flat_rows(values: Named) -> Tensor:
    """[b, n] of tensors [b, ...]."""
    return torch.cat([v.flatten(1) if v.ndim > 1 else v[:, None] for v in values.values()], 1)


@torch.no_grad()
def add_flat(parameters: Named, step: Tensor) -> None:
    """Add a vector to the parameters in place, in their order."""
    for p, piece in zip(parameters.values(), step.split([p.numel() for p in parameters.values()]), strict=True):
        p += piece.view_as(p).to(p)
