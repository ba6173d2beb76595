"""What a method is: its hyper-parameters plus one verb.

A *trained* method writes down its loss on the forget side and, if it has one, on the retain side; the
engine does the rest. The two sides run forward and backward one after the other, so only one graph is
alive at a time, and smoothing can touch the forget side alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Intention = Literal["removal", "suppression"]

# Where substitute answers to forget questions come from: refusals, the answers of other records, or other
# answers to the same question that the target made up itself.
Substitute = Literal["refusal", "mismatch", "alternate"]


class View(Protocol):
    """The lazy view of one micro-batch that a wing hands to a loss. Wings add their own attributes."""

    def signal(self, name: str) -> Tensor:
        """Compute a per-row signal, flattened over the rows: [sum of counts, ...]."""
        ...


@dataclass
class Step:
    """One micro-batch of one optimiser step, as a loss sees it.

    Attributes:
        index: Optimiser step, from 0.
        seed: The run's seed.
        views: Stream name to lazy view.
        tokens: Stream name to labelled tokens in the WHOLE step, over micro-batches and processes.
        state: Tensors returned by the method's `begin`, as its `update` left them.
        notes: What the losses noted beside their own value.
    """

    index: int
    seed: int
    views: Mapping[str, Any]
    tokens: Mapping[str, int]
    state: Mapping[str, Tensor]
    notes: dict[str, Tensor] = field(default_factory=dict)

    def note(self, name: str, value: Tensor) -> None:
        """Have a part of the loss summed over the step and logged beside the loss (see `Trained.update`).

        Args:
            name: Key in the log.
            value: Scalar, this micro-batch's share of the step's value, like the loss itself.
        """
        self.notes[name] = value.detach()

    @property
    def forget(self) -> Any:
        """View of the forget rows."""
        return self.views["forget"]

    @property
    def retain(self) -> Any:
        """View of the retain rows."""
        return self.views["retain"]

    @property
    def substitute(self) -> Any:
        """View of the forget questions with the substitute answers the method asked for."""
        return self.views["substitute"]


class Method:
    """Common ground of all methods.

    Class attributes:
        paper: Citation.
        intention: What the authors claim: ``removal`` or ``suppression``.
        architecture: What kind of model it needs: ``any``, or ``moe`` for a mixture of experts.
    """

    paper: ClassVar[str]
    intention: ClassVar[Intention]
    architecture: ClassVar[Literal["any", "moe"]] = "any"


class Trained(Method):
    """A method that is a loss. Subclasses are frozen dataclasses of the paper's hyper-parameters.

    Losses are sums over the micro-batch divided by totals of the whole step (`View.per_row`,
    `View.per_token` do this), so that accumulation and several processes equal one large batch.

    Class attributes:
        substitute: Where substitute answers to forget questions come from (`Substitute`), or None when the
            method uses none.
    """

    substitute: ClassVar[Substitute | None] = None

    def forget_loss(self, step: Step) -> Tensor | None:
        """Loss on the forget side; None when the method has none."""
        return None

    def retain_loss(self, step: Step) -> Tensor | None:
        """Loss on the retain side; None when the method has none."""
        return None

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams this method draws from; nothing else is loaded, tokenised or sampled."""
        forget = ("forget", "substitute") if self.substitute else ("forget",)
        return (*(forget if self.has_forget else ()), *(("retain",) if self.has_retain else ()))

    @property
    def has_forget(self) -> bool:
        """Whether the method has a forget-side loss under these hyper-parameters."""
        return type(self).forget_loss is not Trained.forget_loss

    @property
    def has_retain(self) -> bool:
        """Whether the method has a retain-side loss under these hyper-parameters."""
        return type(self).retain_loss is not Trained.retain_loss

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics the method tells apart: step i works on topic i mod K. Empty when it does not."""
        return ()

    @property
    def alternates(self) -> int:
        """Alternate answers wanted of each forget record (`substitute` is ``alternate``)."""
        return 0

    def begin(self, step: Step) -> dict[str, Tensor]:
        """Constants fixed before the first update, from the first batch; kept across a resume."""
        return {}

    def update(self, state: Mapping[str, Tensor], terms: Mapping[str, float], step: int) -> dict[str, Tensor]:
        """The state after an optimiser step; it is `Step.state` of the next one, and kept across a resume.

        Args:
            state: As `begin` or the last `update` left it.
            terms: Values of the step: ``forget``, ``retain`` and what the losses noted.
            step: Its index, from 0.
        """
        return dict(state)

    def trainable(self, model: nn.Module) -> list[str] | None:
        """Names of the parameters to train; None for all that require gradients.

        A name such as ``mlp.experts.down_proj[3]`` stands for one row of a parameter (its first dimension),
        ``mlp.down_proj.weight[:,7]`` for one column: nothing else of it moves, weight decay included.

        Raises:
            InputError: The method's layers or parameters do not exist in this model.
        """
        return None

    def mask(self, model: nn.Module) -> Mapping[str, Tensor] | None:
        """Entries that may move, by name of a trained parameter: bool tensors of its shape; None for all.

        An entry that may not move keeps its value bit for bit, under momentum, weight decay and smoothing too. The
        run asks once, of the model as it starts, and again when it is resumed: the answer must be the same.
        """
        return None


class Guard(Method):
    """A method for inference time: the weights stay as they are, what the model says changes."""

    def wrap(self, job: Any) -> Any:
        """Return the guarded subject. `job` is the wing's `UnlearnJob`."""
        raise NotImplementedError


class Edit(Method):
    """A method that computes new weights directly: `apply` turns a subject into the unlearned one.

    Class attributes:
        adapters: Whether it works on a model with adapters; one that does not refuses in words.
        rebases: Given a model with adapters, it changes the weights beneath them too.
    """

    adapters: ClassVar[bool] = True
    rebases: ClassVar[bool] = False

    def apply(self, job: Any) -> Any:
        """Return the unlearned subject. `job` is the wing's `UnlearnJob`."""
        raise NotImplementedError
