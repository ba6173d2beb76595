"""A trained method with another one's losses: what the methods that restrict or extend a base method share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from expunge import catalog
from expunge._checked import explain, model_of
from expunge.engine.method import Step, Substitute, Trained
from expunge.errors import InputError


@dataclass(frozen=True)
class Delegate(Trained):
    """Another method's losses on chosen parameters.

    Attributes:
        base: The method whose losses are minimised.
        names: What is trained: parameters and slices.
    """

    base: Trained
    names: tuple[str, ...]

    @property
    def substitute(self) -> Substitute | None:  # type: ignore[override]
        """The base method's."""
        return self.base.substitute

    @property
    def streams(self) -> tuple[str, ...]:
        """The base method's."""
        return self.base.streams

    @property
    def has_forget(self) -> bool:
        return self.base.has_forget

    @property
    def has_retain(self) -> bool:
        return self.base.has_retain

    @property
    def topics(self) -> tuple[str, ...]:
        """The base method's."""
        return self.base.topics

    @property
    def alternates(self) -> int:
        """The base method's."""
        return self.base.alternates

    def trainable(self, model: nn.Module) -> list[str]:
        """What was chosen, whatever the base method trains."""
        return list(self.names)

    def begin(self, step: Step) -> dict[str, Tensor]:
        return self.base.begin(step)

    def update(self, state: Mapping[str, Tensor], terms: Mapping[str, float], step: int) -> dict[str, Tensor]:
        """The base method's."""
        return self.base.update(state, terms, step)

    def forget_loss(self, step: Step) -> Tensor | None:
        return self.base.forget_loss(step)

    def retain_loss(self, step: Step) -> Tensor | None:
        return self.base.retain_loss(step)


def base_method(owner: str, base: str, settings: Mapping[str, Any] | None) -> Trained:
    """A trained method by name, with its settings.

    Args:
        owner: Public name of the method that asks, for errors.
        base: Name of the method.
        settings: Its hyper-parameters, those that differ from its defaults.

    Raises:
        InputError: There is no such method, it is no loss with a forget side, or a setting is wrong.
    """
    entry = catalog.find("method", base, "language")
    kind = entry.load()
    if not issubclass(kind, Trained) or kind.architecture != "any":
        raise InputError(f"{owner}: base={base!r} is not trained with a loss; take ga, grad-diff, npo or rmu.")
    given = dict(settings or {})
    try:
        checked = model_of(entry.name, entry.fields, {}).model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InputError(f"{owner}: settings of {base}: {'; '.join(explain(error, given))}") from None
    made: Trained = kind(**checked)
    if not made.has_forget:
        raise InputError(f"{owner}: base={base!r} has no loss on the forget set; take ga, grad-diff, npo or rmu.")
    return made
