"""Boundary shrink: what must go is pushed across the nearest boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from expunge.engine.method import Intention
from expunge.engine.sampling import epochs
from expunge.errors import InputError
from expunge.vision.methods._adversarial import nearest_labels
from expunge.vision.methods._checks import above_zero, classes_only
from expunge.vision.methods._passes import Descend, OwnPasses


@dataclass(frozen=True)
class BoundaryShrink(OwnPasses):
    """min CE(D_f, y'), with y' the answer of the frozen original to each image after a step up its loss.

    x' = clip(x + epsilon sign(grad_x CE(f(x), y)), 0, 1), rounded to bytes; y' = argmax f(x'). One step need not
    cross a boundary: it is repeated, and at the end the best other class is taken, so that y' is never y. Labels are
    those of the images as they are (not augmented). No retained image is used. Running statistics of normalisation
    layers move with the forgotten images, unless they are frozen. Reference settings: SGD, lr 1e-5, 10 epochs.

    Attributes:
        epsilon: Length of a step in every pixel. Source: reference code.
        steps: Most steps to cross a boundary. Source: ours (the paper: 1).
        published: One step, whatever class it ends in, the image's own too. Source: reference code.
    """

    paper: ClassVar[str] = "Chen, Gao, Liu, Peng, Wang, Boundary Unlearning, CVPR 2023 (arXiv 2303.11570)"
    intention: ClassVar[Intention] = "removal"

    epsilon: float = 0.1
    steps: int = 10
    published: bool = False

    def __post_init__(self) -> None:
        above_zero(self, "epsilon")
        if self.steps < 1:
            raise InputError(f"boundary-shrink: steps={self.steps} must be at least 1.")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: Several labels an image.
        """
        classes_only(self, job.forget)
        labels = nearest_labels(job.subject.model, job.forget, self.epsilon, self.steps, published=self.published)
        training = job.training
        order = epochs(
            len(job.forget), training.total_steps(len(job.forget)), training.batch_size, job.seed, "forget"
        )  # fmt: skip
        streams = {"forget": job.stream(job.forget, order, labels)}
        return job.train(Descend(sides=("forget",)), job.subject, streams=streams, freeze_norms=self.freeze_norms)
