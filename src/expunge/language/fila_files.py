"""Files of FILA: the adapter with the base it was split from, and importances measured once.

An adapter initialised by FILA means nothing without its base, which is no longer the model that was delivered.
Each file therefore names the weights it belongs to by their hash, and is refused beside others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.forward import unwrap
from expunge.language.subject import Subject, load_subject

NOTE = "pair.json"


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its adapters, under the names it has without them."""
    state = unwrap(model).state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}


def base_hash(model: nn.Module) -> str:
    """Content hash of a model's weights without its adapters, by name."""
    h = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(base_state(model).items()):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        h.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return h.hexdigest()


def save_pair(subject: Subject, folder: Path) -> None:
    """Write the base to FOLDER/base and the adapter to FOLDER/adapter, with the hash of the base beside it.

    For a subject whose adapters `loku` trained: give the job a subject with adapters (`subject.add_lora`), and
    what `unlearn` returns still has them.

    Raises:
        InputError: The model has no adapter.
    """
    from peft import PeftModel

    if not isinstance(subject.model, PeftModel):
        raise InputError(f"{folder}: the model has no adapter, so there is no pair to write; save the model itself.")
    folder.mkdir(parents=True, exist_ok=True)
    inner = unwrap(subject.model)
    inner.save_pretrained(folder / "base", state_dict=base_state(subject.model), safe_serialization=True)
    subject.tokenizer.save_pretrained(folder / "base")
    subject.model.save_pretrained(str(folder / "adapter"), safe_serialization=True)
    note = {"base": base_hash(subject.model), "dtype": str(inner.dtype).removeprefix("torch.")}
    (folder / "adapter" / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def load_pair(folder: Path, base: str | None = None, **options: Any) -> Subject:
    """Load what `save_pair` wrote.

    Args:
        folder: Its folder.
        base: Another place of the base; None for the base in the folder.
        options: Template, system prompt and maximum length (`load_subject`).

    Raises:
        InputError: No pair there, or the base is not the one the adapter was split from.
    """
    from peft import PeftModel

    path = folder / "adapter" / NOTE
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        wanted, dtype = note["base"], note["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder}: no adapter with its base in it ({path.name} is missing or broken).") from None
    source = str(folder / "base") if base is None else base
    subject = load_subject(source, dtype=dtype, **options)
    found = base_hash(subject.model)
    if found != wanted:
        raise InputError(
            f"{source}: these weights (hash {found[:8]}) are not the base the adapter in {folder} was split from "
            f"(hash {wanted[:8]}); load the pair with its own base."
        )
    return subject.with_model(PeftModel.from_pretrained(subject.model, str(folder / "adapter"), is_trainable=True))


Importances = dict[str, dict[str, Tensor]]


def save_importances(path: Path, found: Mapping[str, Mapping[str, Tensor]], belongs: Mapping[str, str]) -> None:
    """Write importances of several sets, with what they belong to.

    Args:
        path: A safetensors file.
        found: Set to layer to importance.
        belongs: What they were computed from and how; `load_importances` asks for the same.
    """
    tensors = {f"{side} {name}": t.contiguous().cpu() for side, layers in found.items() for name, t in layers.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata=dict(belongs))
    os.replace(temporary, path)


def load_importances(path: Path, shapes: Mapping[str, tuple[int, ...]], belongs: Mapping[str, str]) -> Importances:
    """Read what `save_importances` wrote.

    Args:
        path: The file.
        shapes: Layer to shape of its importance in this model.
        belongs: What it must belong to.

    Raises:
        InputError: The file is broken, or of other layers, another model, other records or other settings.
    """
    found: Importances = {"forget": {}, "retain": {}}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - no mapping, its only iterator is keys()
                side, _, name = key.partition(" ")
                found.setdefault(side, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable file of importances ({error}).") from None
    for side in ("forget", "retain"):
        other = {name: tuple(t.shape) for name, t in found[side].items()}
        if other != dict(shapes):
            odd = sorted(name for name in {*other, *shapes} if other.get(name) != shapes.get(name))
            raise InputError(
                f"{path}: importances of another model or other targets ({odd[0]} is {other.get(odd[0], 'missing')} "
                f"in it and {shapes.get(odd[0], 'no target')} here); remove it or name another file."
            )
    wrong = [key for key, value in belongs.items() if metadata.get(key) != value]
    if wrong:
        raise InputError(f"{path}: importances of another {wrong[0]}; remove it or name another file.")
    return found
