"""Names of slices: ``NAME[3]`` is row 3 of parameter NAME (its first dimension), ``NAME[:,3]`` its column 3.

Mixtures of experts keep all experts of a layer in one tensor. Masking its gradient does not keep the other
experts still, since decoupled weight decay moves whatever the optimiser holds; so the optimiser is given the
slice as a parameter of its own (`engine.weights`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from expunge.errors import InputError

Index = int | tuple[slice, int]
_SLICE = re.compile(r"(.+)\[(:,)?(\d+)\]")


def split_name(name: str) -> tuple[str, Index | None]:
    """The parameter a name speaks of, and the index of the slice; None for the whole.

    >>> split_name("experts.down_proj[3]"), split_name("gate.weight"), split_name("down_proj.weight[:,7]")
    (('experts.down_proj', 3), ('gate.weight', None), ('down_proj.weight', (slice(None, None, None), 7)))
    """
    found = _SLICE.fullmatch(name)
    if not found:
        return name, None
    return found[1], (slice(None), int(found[3])) if found[2] else int(found[3])


def tensor_of(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor or slice of that name; a slice shares the storage of the whole."""
    whole, index = split_name(name)
    return tensors[whole] if index is None else tensors[whole].detach()[index]


def check_names(parameters: Mapping[str, Tensor], names: list[str], who: str) -> None:
    """Refuse names of parameters or slices the model does not have.

    Raises:
        InputError: Names the first one.
    """
    for name in names:
        whole, index = split_name(name)
        shape = parameters[whole].shape if whole in parameters else ()
        place, size = (index[1], shape[1:2]) if isinstance(index, tuple) else (index, shape[:1])
        if whole not in parameters or (place is not None and (not size or place >= size[0])):
            raise InputError(f"{who} trains {name!r}, which the model does not have.")
