"""The stages of a classifier, in the order of its modules, so that "the last three" means the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from expunge.errors import InputError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def stages(model: nn.Module) -> list[list[str]]:
    """Names of the modules of each stage, first to last.

    A stage is a child of the network that holds weights: the four blocks of a ResNet, its stem and its head, say.
    What merely wraps the network is looked into; so are lists of blocks and what contains one, and a plain row of
    layers. A normalisation layer of its own belongs to what comes before it.
    """
    found: list[list[str]] = []
    for name, module in _open(model, ""):
        if isinstance(module, NORMS) and found:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def _open(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The stages below a module that is to be looked into."""
    before = f"{name}." if name else ""
    inside = [(before + n, m) for n, m in module.named_children() if any(True for _ in m.parameters())]
    if isinstance(module, nn.ModuleList):
        return inside
    if len(inside) == 1 and any(True for _ in inside[0][1].children()):
        return _open(inside[0][1], inside[0][0])
    found = []
    for below, child in inside:
        found += _open(child, below) if _is_a_row(child) or _has_a_list(child) else [(below, child)]
    return found


def _is_a_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and not any(True for m in module for _ in m.children())


def _has_a_list(module: nn.Module) -> bool:
    return any(isinstance(m, nn.ModuleList) for m in module.modules())


def chosen_modules(model: nn.Module, k: int, patterns: Sequence[str], who: str) -> list[str]:
    """Names of modules: those of the last k stages, or those whose name matches a pattern.

    Raises:
        InputError: Fewer than k stages; a pattern that matches no module with weights.
    """
    if not patterns:
        every = stages(model)
        if k > len(every):
            shown = ", ".join(stage[0] for stage in every)
            raise InputError(f"{who}: k={k}, and the model has {len(every)} stages ({shown}).")
        return [name for stage in every[len(every) - k :] for name in stage]
    holding = [n for n, m in model.named_modules() if n and any(True for _ in m.parameters())]
    names: list[str] = []
    for pattern in patterns:
        matched = [n for n in holding if fnmatchcase(n, pattern)]
        if not matched:
            raise InputError(
                f"{who}: no module with weights is named {pattern!r}; the stages are "
                f"{', '.join(stage[0] for stage in stages(model))}."
            )
        names += matched
    return list(dict.fromkeys(names))


def is_below(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter or module is one of the modules or lies in one.

    >>> is_below("layer4.0.conv1.weight", ["layer4"]), is_below("layer40.weight", ["layer4"])
    (True, False)
    """
    return any(name == module or name.startswith(f"{module}.") for module in modules)
