"""The nearest other class of an image, by a step against the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expunge.vision.data import Images
from expunge.vision.forward import per_image
from expunge.vision.methods._noise import resting

TOGETHER = 256


def fast_gradient_sign(model: nn.Module, pixels: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """x' = clip(x + epsilon sign(grad_x CE(f(x), y)), 0, 1), rounded to bytes.

    Args:
        model: In evaluation mode.
        pixels: [b, c, h, w] in [0, 1].
        labels: [b].
        epsilon: Length of the step in every pixel.
    """
    x = pixels.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(per_image(model(x), labels).sum(), [x])
    return ((pixels + epsilon * slope.sign()).clamp(0, 1) * 255).round() / 255


def nearest_labels(model: nn.Module, images: Images, epsilon: float, steps: int, *, published: bool) -> Tensor:
    """[n] the class across the nearest boundary: what the network says of the image after a step up its loss.

    One step need not cross a boundary. Steps are then repeated, each from where the last one ended, up to `steps`;
    where the answer is still the image's own class, the best other class there is taken. With `published` the answer
    after one step is taken as it is.

    Args:
        model: The network.
        images: With one class each.
        epsilon: Length of a step.
        steps: Most steps.
        published: Take the answer to one step, the image's own class too.
    """
    found = []
    device = next(model.parameters()).device
    with resting(model):
        for rows in torch.arange(len(images)).split(TOGETHER):
            x, y = images.pixels(rows).to(device), images.labels[rows].to(device)
            near = fast_gradient_sign(model, x, y, epsilon)
            answer = model(near).argmax(1)
            for _ in range(0 if published else steps - 1):
                still = answer == y
                if not bool(still.any()):
                    break
                near[still] = fast_gradient_sign(model, near[still], y[still], epsilon)
                answer[still] = model(near[still]).argmax(1)
            if not published:
                others = model(near).detach().scatter(1, y[:, None], -torch.inf)
                answer = torch.where(answer == y, others.argmax(1), answer)
            found.append(answer.detach().cpu())
    return torch.cat(found)
