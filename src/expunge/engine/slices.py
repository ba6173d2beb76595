"""Names of slices: ``NAME[3]`` is entry 3 of parameter NAME along its first dimension.

Mixtures of experts keep all experts of a layer in one tensor. Masking its gradient does not keep the other
experts still, since decoupled weight decay moves whatever the optimiser holds; so the optimiser is given the
slice as a parameter of its own (`engine.weights`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from expunge.errors import InputError

_SLICE = re.compile(r"(.+)\[(\d+)\]")


def split_name(name: str) -> tuple[str, int | None]:
    """The parameter a name speaks of, and which slice of it; None for the whole.

    >>> split_name("experts.down_proj[3]"), split_name("gate.weight")
    (('experts.down_proj', 3), ('gate.weight', None))
    """
    found = _SLICE.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


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
        if whole not in parameters or (index is not None and index >= len(parameters[whole])):
            raise InputError(f"{who} trains {name!r}, which the model does not have.")
