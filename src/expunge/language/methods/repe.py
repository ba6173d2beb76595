"""RepE: push the states from those of an expert on somebody to those of one who never heard of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.engine.method import Intention
from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded, collate
from expunge.language.forward import ForwardPass, check_layer, decoder_layers
from expunge.language.generate import _prompts as prompts_of
from expunge.language.guarded import TENSORS, KeptGuard, Wrapped
from expunge.language.methods._names import forgotten_names
from expunge.language.rwku_corpus import OPENINGS
from expunge.language.score import length_batches
from expunge.language.subject import Subject, merge_lora
from expunge.language.unlearn import UnlearnJob

EXPERT = "Speak as somebody who knows all there is to know about {name}. Tell me about {name}."
NOVICE = "Speak as somebody who has never heard of {name}. Tell me about {name}."


@dataclass(frozen=True)
class RepE(KeptGuard):
    """Representation engineering: add alpha (h_novice - h_expert) to the states of some blocks, at every position.

    The control vector of a block is the mean difference of its outputs at the last token of two prompts, one that
    asks an expert and one that asks somebody who never heard of the name, over names and over words the answer
    begins with. The weights are unchanged; the vectors are kept beside them as safetensors.

    Attributes:
        alpha: Strength. Source: paper (0.5, 1 and 1.5 were tried).
        layers: Blocks that are pushed, from 0; None for the middle half. Source: ours.
        names: Whom or what the prompts name; empty for the clusters of the forget records. Source: ours.
    """

    paper: ClassVar[str] = (
        "Zou et al., Representation Engineering: A Top-Down Approach to AI Transparency, 2023 (arXiv 2310.01405); for "
        "unlearning as in Jin et al., RWKU, NeurIPS 2024 (arXiv 2406.10890)"
    )
    intention: ClassVar[Intention] = "suppression"

    alpha: float = 1.0
    layers: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))  # a note kept as JSON has lists
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers or len(set(self.layers)) < len(self.layers):
                raise InputError(f"repe: layers={list(self.layers)} must name at least one block, and none twice.")

    def assemble(self, folder: Path, load: Callable[[Path], Any]) -> nn.Module:
        """See `KeptGuard`."""
        target = load(folder / "target")
        vectors = load_file(folder / TENSORS)["vectors"].to(next(target.parameters()).device)
        return Steered(target, self, vectors)

    def wrap(self, job: UnlearnJob) -> Subject:
        """Return the job's model with its control vectors.

        Raises:
            InputError: No name to ask about, or a block the model does not have.
        """
        target = merge_lora(job.subject)
        guard = replace(
            self,
            names=forgotten_names(self, self.names, job),
            layers=middle_half(target.model) if self.layers is None else self.layers,
        )
        return target.with_model(Steered(target.model, guard, control_vectors(target, guard)).eval())


def middle_half(model: nn.Module) -> tuple[int, ...]:
    """The blocks from a quarter to three quarters of the depth; at least one."""
    depth = len(decoder_layers(model)[2])
    return tuple(range(depth // 4, max(depth // 4 + 1, 3 * depth // 4)))


def control_vectors(subject: Subject, guard: RepE) -> Tensor:
    """h_novice - h_expert for each block of the guard: [layers, d].

    Raises:
        InputError: A block the model does not have.
    """
    sides = []
    for wording in (NOVICE, EXPERT):
        asked = [
            Record(wording.replace("{name}", name), "", prefill=opening) for name in guard.names for opening in OPENINGS
        ]
        sides.append(last_states(subject, asked, guard.layers or ()).mean(1))
    return sides[0] - sides[1]


@torch.inference_mode()
def last_states(subject: Subject, records: list[Record], layers: tuple[int, ...], tokens: int = 4096) -> Tensor:
    """[layers, n, d] outputs of some blocks at the last token of each record's prompt.

    Raises:
        InputError: A block the model does not have.
    """
    for layer in layers:
        check_layer(subject.model, layer)
    rows = [ids[-subject.max_length :] for ids in prompts_of(subject, records)]
    lengths = torch.tensor([len(ids) for ids in rows])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    encoded = Encoded(torch.tensor([t for ids in rows for t in ids]), offsets, lengths)
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    with evaluating(subject.model):
        for batch in length_batches(lengths, tokens):
            view = ForwardPass(subject.model, collate(encoded, batch), (1, 1))
            ends = lengths[batch].cumsum(0) - 1
            view.hidden(max(layers))  # the shallower blocks come with it
            states = torch.stack([view.hidden(layer)[ends] for layer in layers], 1)  # [B, layers, d]
            for row, state in zip(batch.tolist(), states, strict=True):
                found[row] = state
    return torch.stack(found, 1).clone()


class Steered(Wrapped):
    """A target some of whose blocks put out alpha v more, at every position."""

    def __init__(self, target: Any, guard: RepE, vectors: Tensor) -> None:
        """Wrap a model.

        Args:
            target: The model.
            guard: Its layers say which blocks are pushed.
            vectors: [layers, d].
        """
        super().__init__(target, guard, {"vectors": vectors})
        self.vectors: Tensor
        blocks = decoder_layers(target)[2]
        self.pushed = [blocks[layer] for layer in guard.layers or ()]  # a list: the blocks are the target's
        self.alpha = guard.alpha

    def forward(self, **inputs: Any) -> Any:
        """Run the target with its blocks pushed; hooks that are there already see what is put out in the end."""
        with ExitStack() as stack:
            for block, vector in zip(self.pushed, self.alpha * self.vectors, strict=True):
                stack.enter_context(block.register_forward_hook(_plus(vector), prepend=True))
            return super().forward(**inputs)


def _plus(vector: Tensor) -> Callable[..., Any]:
    def push(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    return push
