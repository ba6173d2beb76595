"""Training on labels that are not the next token: each position has a label of its own, or none."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.encode import Batch, Encoded, collate
from expunge.language.forward import ForwardPass, LanguageExamples

NO_LABEL = -100


class SoftLabels(NamedTuple):
    """Distributions over the next token, k tokens of each; row t belongs to the t-th label of the examples."""

    tokens: Tensor  # [T, k] int64
    probabilities: Tensor  # [T, k], rows sum to 1


class RelabelledPass(ForwardPass):
    """A forward pass whose label at a position is given, instead of the token that follows."""

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        totals: tuple[int, int],
        reference: Any,
        given: Tensor,
        soft: SoftLabels | None,
    ) -> None:
        super().__init__(model, batch, totals, reference)
        self._given, self._soft = given, soft

    @cached_property
    def labels(self) -> Tensor:
        """[T] the given labels."""
        return self._given.to(self.input_ids.device)

    @property
    def soft_labels(self) -> SoftLabels:
        """[T, k] tokens and their probabilities.

        Raises:
            InputError: The examples have none.
        """
        if self._soft is None:
            raise InputError("The loss reads soft labels and the examples have none.")
        device = self.input_ids.device
        return SoftLabels(self._soft.tokens.to(device), self._soft.probabilities.to(device))


class RelabelledExamples(LanguageExamples):
    """Sequences with a label for some positions; what a label belongs to is the prediction made THERE."""

    def __init__(self, encoded: Encoded, targets: Tensor, soft: SoftLabels | None = None) -> None:
        """Bind labels to sequences.

        Args:
            encoded: n sequences of N tokens in all; their label_start is not used.
            targets: [N] label of the prediction made at each token, -100 for none. The last token of a sequence
                predicts nothing.
            soft: Distributions for the T labels, in the order of the tokens.

        Raises:
            InputError: Not one target for each token, a label at the end of a sequence, a sequence without a label,
                or soft labels of another number.
        """
        super().__init__(encoded)
        if targets.shape != encoded.ids.shape:
            raise InputError(f"{len(targets)} labels for {len(encoded.ids)} tokens; there must be one for each.")
        has = targets != NO_LABEL
        self._before = torch.cat([torch.zeros(1, dtype=torch.long), has.long().cumsum(0)])  # [N + 1]
        if bool(has[encoded.offsets[1:] - 1].any()):
            raise InputError("The last token of a sequence predicts nothing, and one of them has a label.")
        if bool((self.counts == 0).any()):
            row = int((self.counts == 0).nonzero()[0, 0])
            raise InputError(f"Sequence {row + 1} has no label; leave it out.")
        if soft is not None and len(soft.tokens) != int(has.sum()):
            raise InputError(f"{len(soft.tokens)} soft labels for {int(has.sum())} labelled positions.")
        self.targets, self.soft = targets, soft

    @property
    def counts(self) -> Tensor:
        """[n] labels per sequence."""
        return self._before[self.encoded.offsets].diff()

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> RelabelledPass:
        """See `Examples`."""
        batch = collate(self.encoded, rows)
        index = (self.encoded.offsets[rows][:, None] + torch.arange(batch.mask.shape[1])).clamp(
            max=len(self.targets) - 1
        )
        targets = torch.where(batch.mask, self.targets[index], NO_LABEL)  # [B, L]
        predicts = targets != NO_LABEL
        labelled = torch.zeros_like(predicts)
        labelled[:, 1:] = predicts[:, :-1]  # a view marks the token a prediction is about, not where it is made
        soft = None
        if self.soft is not None:
            place = self._before[index[predicts]]
            soft = SoftLabels(self.soft.tokens[place], self.soft.probabilities[place])
        return RelabelledPass(
            model, Batch(batch.input_ids, batch.mask, labelled), totals, reference, targets[predicts], soft
        )
