"""Frozen features of items as buffers of a model."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Features, check_features
from expunge.recommend.models.base import Recommender


class Featured(Recommender):
    """A model that reads features: one buffer ``features_<modality>`` [items, F] for each modality.

    Attributes:
        widths: Modality -> F, in alphabetical order of the modalities.
    """

    widths: dict[str, int]

    def keep_features(self, features: Features) -> None:
        """Take copies of the tables.

        Raises:
            InputError: None at all, a table that does not fit the items, or a modality whose name is no identifier.
        """
        if not features:
            raise InputError(f"{type(self).__name__} needs features of the items; none were given.")
        check_features(features, self.items)
        for modality in sorted(features):
            if not modality.isidentifier():
                raise InputError(f"features {modality!r}: use letters, digits and _ in the name of a modality.")
            self.register_buffer(f"features_{modality}", features[modality].detach().clone())
        self.widths = {m: features[m].shape[1] for m in sorted(features)}

    def features(self, modality: str) -> Tensor:
        """[items, F] features of one modality."""
        return self.get_buffer(f"features_{modality}")

    @classmethod
    def from_origin(cls, values: dict[str, Any]) -> Self:
        """See `Recommender`: with tables of zeros, for those of its own are about to be loaded."""
        blank = {m: torch.zeros(values["items"], width) for m, width in values["features"].items()}
        return cls(**{**values, "features": blank})
