"""Bad teaching: what must go is answered as by a network that learnt nothing, what stays as before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, generator
from expunge.engine.training import derive_seed
from expunge.vision.data import concatenate
from expunge.vision.methods._checks import above_zero, one_of, share
from expunge.vision.methods._divergence import js_divergence, kl_divergence
from expunge.vision.methods._passes import OwnPasses
from expunge.vision.subject import Subject, reset
from expunge.vision.unlearn import require

Reduction = Literal["batchmean", "elementmean"]


@dataclass(frozen=True)
class TwoTeachers(Trained):
    """One training; labels of the stream are the flag l, then the bad teacher's C logits."""

    several: bool
    temperature: float
    reduction: Reduction

    def forget_loss(self, step: Step) -> Tensor:
        """KL(p || softmax(student / T)) over the batch, p the answer of each image's teacher."""
        view = step.forget
        flag, bad = view.labels[:, 0], view.labels[:, 1:]
        teacher = torch.where(flag[:, None] > 0.5, bad, view.reference.logits)
        loss: Tensor = view.per_row(kl_divergence(teacher, view.logits, self.several, self.temperature))
        return loss / view.logits.shape[1] if self.reduction == "elementmean" else loss


@dataclass(frozen=True)
class BadTeacher(OwnPasses):
    """The student imitates two teachers: a random network on D_f, itself as it was on a share of D_r.

    L = KL(p || softmax(student / T)) with p = l softmax(bad / T) + (1 - l) softmax(theta_0 / T), l = 1 on D_f, over
    the images of D_f and of a random share of D_r, shuffled together; not multiplied with T^2. The incompetent
    teacher is the same architecture with fresh weights; its logits of the images as they are (not augmented) are
    computed once. With several yes-or-no labels an image the divergence is the sum of theirs. Running statistics of
    normalisation layers move with all images, unless they are frozen. Reference settings: Adam, lr 1e-4, one epoch,
    batch 256.

    Attributes:
        temperature: T. Source: paper.
        retain_share: Share of D_r that is drawn. Source: paper.
        reduction: ``batchmean`` divides the sum by the images of the batch; ``elementmean`` by its images times the
            classes, as the reference code does, whose learning rate goes with it. Source: ours; reference code.
    """

    paper: ClassVar[str] = (
        "Chundawat, Tarun, Mandal, Kankanhalli, Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using "
        "an Incompetent Teacher, AAAI 2023 (arXiv 2205.08096)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "badt blindspot bad-teaching"

    temperature: float = 1.0
    retain_share: float = 0.3
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        share(self, "retain_share")
        one_of(self, "reduction", ("batchmean", "elementmean"))

    def apply(self, job: Any) -> Any:
        """Return the student.

        Raises:
            InputError: No retained images, or a network that cannot be made anew.
        """
        require(job.retain, "retain", self)
        count = max(1, round(self.retain_share * len(job.retain))) if self.retain_share else 0
        few = torch.randperm(len(job.retain), generator=generator(job.seed, "bad-teacher"))[:count].sort()[0]
        images = concatenate([job.forget, job.retain.take(few)])
        bad, _ = incompetent(job.subject, job.seed).outputs(images)
        flag = (torch.arange(len(images)) < len(job.forget)).to(bad)[:, None]
        training = job.training
        order = epochs(len(images), training.total_steps(len(images)), training.batch_size, job.seed, "joint")
        streams = {"forget": job.stream(images, order, torch.cat([flag, bad], 1))}
        loss = TwoTeachers(job.forget.labels.ndim == 2, self.temperature, self.reduction)
        return job.train(loss, job.subject, streams=streams, freeze_norms=self.freeze_norms)


def incompetent(subject: Subject, seed: int) -> Subject:
    """The same architecture with fresh weights and statistics.

    Raises:
        InputError: A module cannot be made anew.
    """
    fresh = subject.with_model(copy.deepcopy(subject.model))
    torch.manual_seed(derive_seed(seed, "incompetent teacher"))
    reset(fresh.model)
    fresh.model.eval()
    return fresh


def zero_retrain_forgetting(logits: Tensor, bad_logits: Tensor) -> Tensor:
    """ZRF = 1 - mean over D_f of JS(model, random network) (section 4.3 of the paper).

    Each image's divergence is the sum over classes, in nats, so that the score lies between 1 - ln 2 and 1. The
    reference code divides by the number of classes as well, which moves every score towards 1.

    Args:
        logits: [n, C] of the judged model on D_f.
        bad_logits: [n, C] of the random network.

    Returns:
        Scalar.
    """
    return 1 - js_divergence(logits, bad_logits).mean()
