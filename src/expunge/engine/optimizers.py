"""Which parameters a method trains, and the optimisers that move them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from expunge.engine.method import Trained
from expunge.engine.slices import check_names, split_name
from expunge.engine.training import Training
from expunge.errors import InputError


def make_optimizers(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], training: Training
) -> list[torch.optim.Optimizer]:
    """AdamW or SGD for everything, or Muon for hidden matrices and AdamW for embeddings, head and norms.

    The peak learning rate of each group is kept in it as ``initial_lr``.

    Args:
        model: Tells which parameters are embeddings.
        parameters: What is to be moved, by name (`slices.optimised`).
        training: Settings of the loop.
    """
    names, hidden = list(parameters), list[str]()
    if training.optimizer == "muon":
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        hidden = [
            n for n in names if parameters[n].ndim == 2 and id(parameters[n]) not in embeddings and "lm_head" not in n
        ]
    others = [n for n in names if n not in set(hidden)]
    optimizers: list[torch.optim.Optimizer] = []
    if training.optimizer == "sgd":
        sgd: dict[str, Any] = {"weight_decay": training.weight_decay, "momentum": training.momentum}
        optimizers.append(torch.optim.SGD(list(parameters.values()), lr=training.lr, **sgd))
    elif others:  # with adapters alone everything may be a hidden matrix
        adam: dict[str, Any] = {"weight_decay": training.weight_decay, "betas": training.betas}
        optimizers.append(torch.optim.AdamW([parameters[n] for n in others], lr=training.lr, **adam))
    if hidden:
        matrices = [parameters[n] for n in hidden]
        optimizers.append(torch.optim.Muon(matrices, lr=training.muon_lr, weight_decay=0.0, momentum=0.95))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def select_trainable(model: nn.Module, method: Trained) -> tuple[list[str], dict[str, bool]]:
    """Freeze all but the method's parameters; returns their names and the flags to put back.

    Raises:
        InputError: Nothing is left to train, or the method names a parameter the model does not have.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    chosen = method.trainable(model)
    names = [n for n, on in flags.items() if on] if chosen is None else chosen
    if not names:
        raise InputError("No parameter is left to train: all are frozen.")
    check_names(dict(model.named_parameters()), names, type(method).__name__)
    wanted = {split_name(n)[0] for n in names}
    for name, p in model.named_parameters():
        p.requires_grad_(name in wanted)
    return names, flags
