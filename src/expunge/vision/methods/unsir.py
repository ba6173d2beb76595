"""UNSIR: noise in the place of what must go breaks the network, what stays repairs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge.engine.loop import Stream
from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, generator, uniform
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import ImageExamples, ImagePass, per_image
from expunge.vision.methods._checks import above_zero, classes_only, gone_classes, not_negative
from expunge.vision.methods._noise import optimised, resting, with_made
from expunge.vision.methods._passes import Descend, OwnPasses, steps_of
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class UNSIR(OwnPasses):
    """Impair with noise in the place of the forgotten images, then repair on the retained ones.

    Classes: for each class that is forgotten entirely, `noise` images z ~ N(0, 1) move by Adam to maximise
    CE(f(z), c) - penalty mean ||z||^2; impair on `copies` of them with label c and `per_class` retained images of each
    other class; repair on those retained images. Only the labels of D_f are used.
    Instances (`instance`): for each pair of a forget and a retain batch, z ~ N(0, 1) moves by Adam to maximise the
    mean squared distance between f(z) and f(x_f), is clamped to [0, 1], and the model takes one step on
    CE(f(z), y_r) + CE(f(x_r), y_r); repair is fine-tuning on D_r. An epoch of impairing is a pass over D_f.

    Noise lives in the space of the network's inputs and is optimised in evaluation mode; in training it moves the
    running statistics of normalisation layers, unless they are frozen. Optimiser and batch are the run's; lengths and
    learning rates of the two stages are the method's own. Reference settings: Adam, batch 256 (MUFAC: SGD, batch 64).

    Attributes:
        instance: Forget single images instead of whole classes. Source: reference code (MUFAC).
        noise: Noise images of each class. Source: reference code.
        noise_steps: Steps on the noise; None: 40 (``instance``: 5). Source: paper; reference code (MUFAC).
        noise_lr: Its learning rate; None: 0.1 (``instance``: 0.01). Source: reference code; reference code (MUFAC).
        penalty: Weight of the noise's squared norm. Source: reference code.
        copies: Copies of each noise image. Source: reference code.
        per_class: Most retained images of each retained class. Source: reference code.
        impair_epochs: Epochs of impairing; None: 1 (``instance``: 2). Source: paper; reference code (MUFAC).
        impair_lr: Its learning rate; None: 0.02 (``instance``: 0.001). Source: paper; reference code (MUFAC).
        repair_epochs: Epochs of repairing. Source: paper.
        repair_lr: Its learning rate; None: 0.01 (``instance``: 0.001). Source: paper; reference code (MUFAC).
    """

    paper: ClassVar[str] = (
        "Tarun, Chundawat, Mandal, Kankanhalli, Fast Yet Effective Machine Unlearning, IEEE TNNLS 2023 (arXiv "
        "2111.08947); for instances Choi and Na, 2023 (arXiv 2311.02240)"
    )
    intention: ClassVar[Intention] = "removal"

    instance: bool = False
    noise: int = 256
    noise_steps: int | None = None
    noise_lr: float | None = None
    penalty: float = 0.1
    copies: int = 20
    per_class: int = 1000
    impair_epochs: int | None = None
    impair_lr: float | None = None
    repair_epochs: int = 1
    repair_lr: float | None = None

    def __post_init__(self) -> None:
        above_zero(self, "noise", "copies", "per_class")
        above_zero(self, *(n for n in ("noise_lr", "impair_lr", "repair_lr") if getattr(self, n) is not None))
        not_negative(self, "penalty", "repair_epochs")
        not_negative(self, *(n for n in ("noise_steps", "impair_epochs") if getattr(self, n) is not None))

    def _given(self, name: str) -> float:
        """A hyper-parameter, or the variant's own value of it."""
        classes = {"noise_steps": 40, "noise_lr": 0.1, "impair_epochs": 1, "impair_lr": 0.02, "repair_lr": 0.01}
        single = {"noise_steps": 5, "noise_lr": 0.01, "impair_epochs": 2, "impair_lr": 0.001, "repair_lr": 0.001}
        value = getattr(self, name)
        return float((single if self.instance else classes)[name] if value is None else value)

    def apply(self, job: Any) -> Any:
        """Return the repaired subject.

        Raises:
            InputError: No retained images; for classes: several labels an image, or a forgotten class of which D_r
                still has images.
        """
        require(job.retain, "retain", self)
        kept = job.retain if self.instance else self._kept(job)
        if self._given("impair_epochs"):
            if self.instance:
                self._impair_instances(job)
            else:
                self._impair_classes(job, kept)
        return self._repair(job, kept)

    def _stage(self, job: Any, name: str, loss: Trained, streams: dict[str, Stream]) -> Any:
        """One of the two trainings, as long as its streams."""
        steps = len(next(iter(streams.values())).order)
        training = replace(job.training, steps=steps, lr=self._given(f"{name}_lr"))
        return job.train(
            loss, job.subject, training, part=name, quiet=True, streams=streams, freeze_norms=self.freeze_norms
        )

    def _repair(self, job: Any, images: Images) -> Any:
        streams = {"retain": job.passes(images, self.repair_epochs, job.training.batch_size, "repair")}
        return self._stage(job, "repair", FineTune(), streams)

    # -- classes -------------------------------------------------------------------------------------

    def _kept(self, job: Any) -> Images:
        """The retained images that are used: some of each retained class."""
        classes_only(self, job.forget)
        gone = gone_classes(job.forget, job.retain)
        both = sorted(set(torch.unique(job.forget.labels).tolist()) - set(gone))
        if both:
            raise InputError(
                f"unsir: class {both[0]} is among the forgotten and among the retained images, and UNSIR forgets whole "
                f"classes; set instance to forget single images."
            )
        order = torch.randperm(len(job.retain), generator=generator(job.seed, "unsir", "retained"))
        labels = job.retain.labels[order]
        rows = [order[labels == c][: self.per_class] for c in torch.unique(labels).tolist()]
        return job.retain.take(torch.cat(rows).sort()[0])  # type: ignore[no-any-return]

    def _impair_classes(self, job: Any, kept: Images) -> None:
        model, shape = job.subject.model, job.forget.pixels(torch.arange(1)).shape[1:]
        made, labels = [], []
        for c in gone_classes(job.forget, job.retain):
            start = torch.randn(self.noise, *shape, generator=generator(job.seed, "unsir", c)).to(job.subject.device)
            made.append(self.worst(model, start, c).cpu())
            labels.append(torch.full((self.noise,), c))
        mixed = with_made(torch.cat(made), torch.cat(labels), self.copies, kept)
        batch = job.training.batch_size
        steps = int(self._given("impair_epochs")) * steps_of(mixed, batch)
        # never augmented: noise need not lie where pixels do
        stream = Stream(ImageExamples(mixed), epochs(len(mixed), steps, batch, job.seed, "impair"))
        self._stage(job, "impair", Descend(sides=("forget",)), {"forget": stream})

    def worst(self, model: nn.Module, start: Tensor, label: int) -> Tensor:
        """Noise that is least like a class: down -CE(f(z), c) + penalty mean_b ||z_b||^2.

        Args:
            model: The network.
            start: [b, c, h, w].
            label: c.
        """
        labels = torch.full((len(start),), label, device=start.device)

        def loss(z: Tensor) -> Tensor:
            return -per_image(model(z), labels).mean() + self.penalty * z.square().flatten(1).sum(1).mean()

        with resting(model):
            return optimised(start, loss, int(self._given("noise_steps")), self._given("noise_lr"))

    # -- instances -----------------------------------------------------------------------------------

    def _impair_instances(self, job: Any) -> None:
        batch = job.training.batch_size
        steps = int(self._given("impair_epochs")) * steps_of(job.forget, batch)
        streams = {
            "forget": job.stream(job.forget, epochs(len(job.forget), steps, batch, job.seed, "forget")),
            "paired": self._numbered(job, uniform(len(job.retain), steps, batch, job.seed, "retain")),
        }
        loss = ImpairInstances(int(self._given("noise_steps")), self._given("noise_lr"), job.seed)
        self._stage(job, "impair", loss, streams)

    def _numbered(self, job: Any, order: Tensor) -> Stream:
        """Retained images that know their place in the step: labels [n, 1 + k], the place before the label."""
        flat = order.flatten()
        place = torch.arange(len(flat)) % order.shape[1]
        labels = job.retain.labels[flat]
        numbered = torch.cat([place[:, None].to(labels), labels.view(len(flat), -1)], 1)
        return job.stream(job.retain.take(flat), torch.arange(len(flat)).view(order.shape), numbered)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ImpairInstances(Trained):
    """The impairing of single images; see `UNSIR`. The stream ``paired`` carries the retain batch of each step."""

    noise_steps: int
    noise_lr: float
    seed: int

    @property
    def streams(self) -> tuple[str, ...]:
        """See `Trained`."""
        return ("forget", "paired")

    def forget_loss(self, step: Step) -> Tensor:
        """CE(f(z), y_r) + CE(f(x_r), y_r)."""
        forget, paired = step.forget, step.views["paired"]
        place, labels = paired.labels[:, 0].long(), paired.labels[:, 1:]
        labels = labels[:, 0] if labels.dtype == torch.long else labels
        z = self.strange(step.index, forget, place)
        noisy = ImagePass(forget.model, z, labels, forget.total)
        loss: Tensor = noisy.loss + paired.per_row(per_image(paired.logits, labels))
        return loss

    def strange(self, step: int, view: ImagePass, place: Tensor) -> Tensor:
        """Noise whose logits are far from those of the forgotten images, in [0, 1].

        The start is drawn for the whole step and taken by place, so that it does not depend on micro-batches.
        """
        draw = generator(self.seed, "unsir", step)
        start = torch.randn(view.total, *view.images.shape[1:], generator=draw)[place.cpu()].to(view.images.device)
        model = view.model
        with resting(model):
            with torch.no_grad():
                known = model(view.images)
            z = optimised(start, lambda z: -(model(z) - known).square().mean(), self.noise_steps, self.noise_lr)
        return z.clamp(0, 1)
