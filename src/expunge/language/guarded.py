"""A guarded model: the target's weights stay inside as they were, and what it says changes.

Either a companion reads the same text and one set of logits is made of both models' (`Guarded`), or the target's
own pass is changed (`Wrapped`): what it is fed, or what its blocks put out. It is fed, scored, asked, trained,
saved and loaded like any other model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.engine.method import Guard
from expunge.errors import InputError
from expunge.language.encode import Template
from expunge.language.forward import POST_HEAD, unwrap
from expunge.language.methods._checks import public_name

NOTE = "guard.json"
PARTS = ("target", "companion")
TENSORS = "guard.safetensors"


class KeptGuard(Guard):
    """A guard whose model is kept in a folder, with a note of it; subclasses are frozen dataclasses."""

    def assemble(self, folder: Path, load: Callable[[Path], Any]) -> nn.Module:
        """The guarded model of a folder.

        Args:
            folder: Where it was saved.
            load: Reads one of the models in it.
        """
        raise NotImplementedError

    def template(self, template: Template) -> Template:
        """How prompts are built under the guard."""
        return template


class LogitGuard(KeptGuard):
    """A guard that makes its logits of two models' at every position; subclasses are frozen dataclasses."""

    def combine(self, target: Tensor, companion: CompanionLogits, *, decoding: bool) -> Tensor:
        """Logits that are served.

        Args:
            target: [T, V] logits of the target.
            companion: Logits of the companion at the same positions, computed where they are asked for.
            decoding: The logits choose the next token; otherwise they score a given one.
        """
        raise NotImplementedError

    def assemble(self, folder: Path, load: Callable[[Path], Any]) -> nn.Module:
        """See `KeptGuard`: both models, joined."""
        target, companion = (load(folder / part) for part in PARTS)
        return Guarded(target, companion, self)


@dataclass(frozen=True)
class CompanionLogits:
    """The companion's vocabulary projection, not made until it is known which tokens matter."""

    head: nn.Module
    states: Tensor  # [T, d]

    def everywhere(self) -> Tensor:
        """[T, V] logits."""
        return _wide(self.head(self.states))

    def few(self, count: int) -> bool:
        """Whether the logits of `count` tokens in all are cheaper one by one than the whole projection."""
        return isinstance(self.head, nn.Linear) and 2 * count < self.head.weight.shape[0]

    def at(self, tokens: Tensor) -> Tensor:
        """Logits of some tokens of each position: [T, m] token ids -> [T, m]."""
        if not isinstance(self.head, nn.Linear):
            return self.everywhere().gather(-1, tokens)
        logits = torch.einsum("td,tmd->tm", self.states, self.head.weight[tokens])
        return _wide(logits if self.head.bias is None else logits + self.head.bias[tokens])


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class PairCache:
    """The key-value caches of both models."""

    def __init__(self, both: list[Any]) -> None:
        self.both = both

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep some rows of the batch."""
        for cache in self.both:
            cache.batch_select_indices(rows)


class _Heads(nn.Module):
    """Both vocabulary projections, and what becomes of their logits."""

    def __init__(self, heads: tuple[nn.Module, nn.Module], widths: list[int], guard: LogitGuard) -> None:
        super().__init__()
        # not registered: they are parts of the models, and would be saved and counted twice
        self._heads, self.widths, self.guard = heads, widths, guard
        self.decoding = False

    def forward(self, states: Tensor) -> Tensor:
        """[..., d_1 + d_2] -> [..., V]."""
        first, second = states.flatten(0, -2).split(self.widths, -1)
        target: Tensor = _wide(self._heads[0](first))
        if len(target):  # a loss that reads hidden states alone hands over no position
            target = self.guard.combine(target, CompanionLogits(self._heads[1], second), decoding=self.decoding)
        return target.view(*states.shape[:-1], target.shape[-1])


class GuardedModel(nn.Module):
    """A target under a guard.

    Attributes:
        target: The model as delivered.
        guard: What changes what it says.
        beside: Other models that are run, whose configuration counts.
    """

    target: Any
    guard: KeptGuard
    beside: tuple[Any, ...] = ()

    def keep_note(self, place: Path) -> None:
        """Write which guard this is, and its settings."""
        note = {"guard": public_name(self.guard), "settings": asdict(self.guard)}  # type: ignore[call-overload]
        (place / NOTE).write_text(json.dumps(note), encoding="utf-8")


class Wrapped(GuardedModel):
    """A target whose own forward pass is guarded. Costs nothing beside it.

    Attributes:
        target: The model as delivered.
        tensors: What the guard keeps; no attack trains it.
    """

    def __init__(self, target: Any, guard: KeptGuard, tensors: dict[str, Tensor] | None = None) -> None:
        """Wrap a model; a subclass changes its pass."""
        super().__init__()
        self.target, self.guard, self.names = target, guard, tuple(tensors or {})
        self.config, self.generation_config = target.config, target.generation_config
        for name, tensor in (tensors or {}).items():
            self.register_buffer(name, tensor)

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Activations are not recomputed."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The target's own."""
        head: nn.Module = unwrap(self.target).get_output_embeddings()
        return head

    def forward(self, **inputs: Any) -> Any:
        """Run the target."""
        return self.target(**inputs)

    def save_pretrained(self, folder: Any, **options: Any) -> None:
        """Write the target, the guard and its tensors; the folder does not load as a plain model."""
        place = Path(folder)
        self.target.save_pretrained(place / "target", **options)
        self.keep_note(place)
        if self.names:
            kept = {name: getattr(self, name).detach().cpu().contiguous() for name in self.names}
            save_file(kept, place / TENSORS)


class Guarded(GuardedModel):
    """A target under a guard. Costs the companion's forward pass on top of the target's.

    Attributes:
        target: The model as delivered.
        companion: What is run beside it; its weights are the guard's, and no attack trains them.
    """

    def __init__(self, target: Any, companion: Any, guard: LogitGuard) -> None:
        """Join two models.

        Args:
            target: Gives its configuration.
            companion: Of the same vocabulary.
            guard: What is made of their logits.

        Raises:
            InputError: Different vocabularies, or a family that changes logits after the head.
        """
        super().__init__()
        self.target, self.companion, self.guard = target, companion.requires_grad_(False), guard
        self.beside = (companion,)
        self.config, self.generation_config = target.config, target.generation_config
        heads = tuple(unwrap(m).get_output_embeddings() for m in (target, companion))
        sizes = [head.weight.shape[0] for head in heads]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"{public_name(guard)}: the two models have vocabularies of {sizes[0]} and {sizes[1]} tokens; they "
                f"must share one."
            )
        changed = [key for key in POST_HEAD if getattr(self.config.get_text_config(), key, None) is not None]
        if changed:
            raise InputError(
                f"{public_name(guard)}: {type(target).__name__} changes logits after the head ({changed[0]}); such "
                f"models cannot be guarded."
            )
        self.heads = _Heads((heads[0], heads[1]), [head.weight.shape[1] for head in heads], guard)

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Activations of two models are not recomputed."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """What turns final states of both models into logits."""
        return self.heads

    def forward(
        self, past_key_values: PairCache | None = None, logits_to_keep: int = 0, use_cache: bool = False, **inputs: Any
    ) -> SimpleNamespace:
        """Run both models.

        Args:
            past_key_values: Caches of an earlier call.
            logits_to_keep: Last positions whose logits are wanted; 0 for all.
            use_cache: Return caches.
            inputs: What both models are given.

        Returns:
            ``logits`` [B, L, V] and ``past_key_values``.
        """
        states, caches = [], []
        for number, model in enumerate((self.target, self.companion)):
            past = past_key_values.both[number] if past_key_values else None
            with _final_states(model) as seen:
                out = model(past_key_values=past, use_cache=use_cache, **inputs)
            states.append(seen[0])
            caches.append(out.past_key_values)
        self.heads.decoding = use_cache  # text is generated with a cache, and given text scored without
        logits = self.heads(torch.cat(states, -1)[:, -logits_to_keep:])
        return SimpleNamespace(logits=logits, past_key_values=PairCache(caches) if use_cache else None)

    def save_pretrained(self, folder: Any, **options: Any) -> None:
        """Write both models and the guard; the folder does not load as one plain model, which would be unguarded."""
        place = Path(folder)
        self.target.save_pretrained(place / "target", **options)
        self.companion.save_pretrained(place / "companion", **options)
        self.keep_note(place)


@contextmanager
def _final_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the model's own head is given nothing; yields a list that receives its final states [B, L, d]."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(args[0])
        return (args[0][:, :0], *args[1:])

    handle = unwrap(model).get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def is_guard_folder(folder: Path) -> bool:
    """Whether a folder holds a guarded model."""
    return (folder / NOTE).is_file()


def read_guard(folder: Path) -> KeptGuard:
    """The guard kept in a folder.

    Raises:
        InputError: The note is damaged, or names no guard of the catalog.
    """
    from expunge import catalog

    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        guard = catalog.find("method", note["guard"], "language").load()(**note["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / NOTE}: not a guard kept by expunge ({error}).") from None
    if not isinstance(guard, KeptGuard):
        raise InputError(f"{folder / NOTE}: {note['guard']!r} is no guard.")
    return guard
