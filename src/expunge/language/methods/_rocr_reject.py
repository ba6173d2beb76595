"""ROCR's other target: the block output that makes a model begin a refusal, found by optimisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.encode import Batch
from expunge.language.forward import ForwardPass, decoder_layers
from expunge.language.methods._rocr_concepts import Column, Mention, mention
from expunge.language.methods._rocr_read import padded
from expunge.language.subject import Subject


@dataclass(frozen=True)
class Search:
    """How the target is looked for: the settings of the same names of the method."""

    target: str
    steps: int
    lr: float
    clamp: float
    kl: float
    decay: float
    stop: float = 0.05


@contextmanager
def shifted(model: nn.Module, layer: int, positions: Tensor, delta: Tensor) -> Iterator[None]:
    """Within, delta [d] is added to the output of a block at one position of each row ([B])."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        rows = torch.arange(len(positions), device=states.device)
        moved = states.clone()
        moved[rows, positions.to(states.device)] += delta.to(states.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = decoder_layers(model)[2][layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def reject_target(subject: Subject, column: Column, layer: int, start: Tensor, search: Search) -> Tensor:
    """z* = z_0 + delta, delta making the target string likely after every context of a name.

    Adam on mean NLL(target) + kl KL(p || p_0) + decay ||delta|| / ||z_0||^2, p the next-token distribution after
    "NAME is a" at the name's last token and p_0 the same before; after each step ||delta|| is cut to clamp ||z_0||.

    Args:
        subject: The model; its weights get no gradient.
        column: The name.
        layer: The block whose output is sought.
        start: z_0 [d].
        search: The settings.

    Raises:
        InputError: The target string leaves no token of its own.
    """
    rows, labelled = _prompts(subject, column, search.target)
    batch = padded(rows)
    batch = Batch(batch.input_ids, batch.mask, labelled(batch))
    at = torch.tensor([m.position for m in rows])
    delta = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=search.lr)
    before: Tensor | None = None
    limit = search.clamp * start.norm()
    with evaluating(subject.model), torch.enable_grad():
        for _ in range(search.steps):
            with shifted(subject.model, layer, at, delta):
                view = ForwardPass(subject.model, batch, (len(rows), 1))
                target, last = view.rows < len(rows) - 1, view.rows == len(rows) - 1
                nll = -view.token_logprobs[target].mean()
                p = view.logits[last].log_softmax(-1)
            before = p.detach() if before is None else before
            divergence = F.kl_div(before, p, reduction="batchmean", log_target=True)
            loss = nll + search.kl * divergence + search.decay * delta.norm() / start.norm().square()
            if float(loss.detach()) < search.stop:
                break
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            optimizer.step()
            with torch.no_grad():
                delta.mul_((limit / delta.norm().clamp(min=1e-30)).clamp(max=1.0))
    return start + delta.detach()


def _prompts(subject: Subject, column: Column, target: str) -> tuple[list[Mention], Any]:
    """The contexts followed by the target, then "NAME is a"; and what labels their target tokens."""
    tokens = subject.tokenizer
    chat = subject.template.kind == "chat"
    rows, starts = [], []
    for context in column.contexts:
        # Tags end with their own cue, and its trailing space belongs to the target's first word.
        text = context.text + "Answer:" if chat else context.text.rstrip(" ")
        head = tokens(text, add_special_tokens=not chat)["input_ids"]
        whole = tokens(text + target, add_special_tokens=not chat)["input_ids"]
        common = next((i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b), len(head))
        if common >= len(whole):
            raise InputError(f"rocr: target={target!r} leaves no token after the prompt.")
        rows.append(mention(subject, text + target, column.name, special=not chat).before(column.back))
        starts.append(common)
    rows.append(mention(subject, f"{column.name} is a", column.name, special=True))

    def labelled(batch: Batch) -> Tensor:
        position = torch.arange(batch.input_ids.shape[1])[None]
        first = torch.tensor([*starts, 0])[:, None]
        mark: Tensor = batch.mask & (position >= first)
        mark[-1] = batch.labelled[-1]
        return mark

    return rows, labelled
