"""Making the models a run compares: base, target, gold, and the refusal-tuned control.

Models are prepared once and kept under a key of everything they depend on, so a second run starts at
once and a changed recipe remakes only what changed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from expunge.engine.loop import Stream
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import NOTE, ModelRef, Shelf, key_of
from expunge.language import testbed, testbed_moe
from expunge.language.data import Record, digest
from expunge.language.encode import Template
from expunge.language.methods.fine_tune import FineTune
from expunge.language.subject import Subject, add_lora, gguf_file, load_subject, merge_lora
from expunge.language.unlearn import UnlearnJob

EMBEDDED = ("testbed", "testbed-moe")
TESTBED = tuple(f"{name}{part}" for name in EMBEDDED for part in ("", ":base", ":gold"))


class EmbeddedWorld(Protocol):
    """Procedural data with a model small enough to be trained on it."""

    @property
    def target_training(self) -> Training:
        """How that model is trained to know the data."""
        ...

    def base_subject(self, *, seed: int = 0) -> Subject:
        """That model before any training."""
        ...

    def records(self) -> dict[str, list[Record]]:
        """Named lists of records, ``train_forget`` and ``train_retain`` among them."""
        ...


@runtime_checkable
class StreamWorld(Protocol):
    """A world whose models read one stream of tokens in its order; records say which passages stand in it."""

    def stream_key(self, records: list[Record]) -> str:
        """Content of what a model that is trained on these records reads."""
        ...

    def streams(self, subject: Subject, records: list[Record], training: Training) -> dict[str, Stream]:
        """What it reads, step by step."""
        ...


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how it is fed.

    Attributes:
        source: What `load_subject` takes, or ``testbed`` or ``testbed-moe``, each also with ``:base`` or ``:gold``.
        template: ``auto``, ``chat``, ``plain`` or the three tags.
        system: System prompt for a chat template.
        dtype: Torch dtype of the weights.
        max_length: Longest sequence in tokens.
        lora: LoRA settings (rank, alpha, targets, dropout) or None to train all weights.
        world: The world of the embedded model.
    """

    source: str
    template: str | dict[str, str] = "auto"
    system: str | None = None
    dtype: str = "float32"
    max_length: int = 512
    lora: dict[str, Any] | None = None
    world: EmbeddedWorld = field(default_factory=testbed.World)

    def load(self) -> Subject:
        """Load the model the source names (not the embedded one)."""
        return load_subject(
            self.source,
            template=self.template,
            system=self.system,
            dtype=self.dtype,
            max_length=self.max_length,
        )


class Models(Shelf):
    """Prepares models and keeps them in a cache folder."""

    spec: ModelSpec

    @cached_property
    def _base_keys(self) -> dict[int, str]:
        """Content of the base model of each seed, as far as it was asked for."""
        return {}

    def base(self, seed: int | None = None) -> Subject:
        """The model before it was trained on the benchmark's records."""
        if self.spec.source in TESTBED:
            number = self.seed if seed is None else seed
            if not self.spec.source.startswith("testbed-moe"):
                return self.spec.world.base_subject(seed=number)
            if not isinstance(self.spec.world, testbed.World):
                raise InputError("model.source=testbed-moe: this benchmark brings an embedded model of its own.")
            return testbed_moe.base_subject(self.spec.world, seed=number)
        subject: Subject = self._source().load()
        return subject

    def _source(self) -> ModelRef:
        """The model of the source; a GGUF file is converted once and kept, for that takes a while."""
        folder = Path(self.spec.source).expanduser()
        if self.spec.template == "auto" and (folder / NOTE).exists():
            return model_ref(folder, self.spec.dtype)  # made by expunge: fed as it was trained
        if not self.spec.source.endswith(".gguf") and not self.spec.source.startswith("package:"):
            return ModelRef(self.spec.load)
        file = gguf_file(self.spec.source)
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").hexdigest()
        return self.keep(key_of("gguf", content, asdict(self.spec)), self.spec.load, f"converted from {file.name}")

    def base_key(self, seed: int) -> str:
        """Content of the base model."""
        if self.spec.source in TESTBED:
            if seed not in self._base_keys:
                self._base_keys[seed] = self.base(seed).fingerprint()
            return self._base_keys[seed]
        if 0 not in self._base_keys:
            self._base_keys[0] = self._source().load().fingerprint()
        return self._base_keys[0]

    def delivered(self) -> ModelRef:
        """The model of the source as it is: the target when the recipe trains none."""
        source = self.spec.source
        if source not in TESTBED:
            return self._source()
        if source.endswith(":base"):
            key = key_of("base", self.base_key(self.seed))
            return self.keep(key, self.base, "untrained embedded model")
        records = self.spec.world.records()
        rows = records["train_retain"] + ([] if source.endswith(":gold") else records["train_forget"])
        return self.trained(rows, self.spec.world.target_training, self.seed, "embedded model")

    def trained(self, records: list[Record], training: Training, seed: int, title: str) -> ModelRef:
        """The base model fine-tuned on some records."""
        world = self.spec.world if isinstance(self.spec.world, StreamWorld) else None
        read = [world.stream_key(records)] if world else []
        key = key_of("trained", self.base_key(seed), digest(records), asdict(training), seed, self.spec.lora, *read)

        def make() -> Subject:
            subject = self.adapted(self.base(seed), seed)
            job = UnlearnJob(subject, [], records, training, seed, self.part(key), self.observers(title))
            job.train(FineTune(), subject, streams=world.streams(subject, records, training) if world else None)
            self.resumed(title, job.logs[0].resumed_at)
            return merge_lora(subject)

        return self.keep(key, make, title)

    def adapted(self, subject: Subject, seed: int) -> Subject:
        """The subject with fresh LoRA adapters if the recipe asks for them."""
        if self.spec.lora is None:
            return subject
        settings = self.spec.lora
        return add_lora(subject, settings["rank"], settings["alpha"], settings["targets"], settings["dropout"], seed)

    def adapted_base(self) -> Subject:
        """What the target was trained from, ready to be trained again."""
        return self.adapted(self.base(), self.seed)

    def ref(self, folder: Path) -> ModelRef:
        """See `Shelf`."""
        return model_ref(folder, self.spec.dtype)

    def feeding(self, subject: Subject) -> dict[str, Any]:
        """See `Shelf`."""
        return feeding(subject)


def feeding(subject: Subject) -> dict[str, Any]:
    """How a model is fed, filed beside its weights for `model_ref`."""
    return {"template": asdict(subject.template), "max_length": subject.max_length, "source": subject.source}


def model_ref(folder: Path, dtype: str = "float32") -> ModelRef:
    """A model kept by expunge, by its folder.

    Raises:
        InputError: The folder holds no model kept by expunge.
    """
    try:
        entry = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise InputError(f"{folder}: no model kept by expunge.") from None
    template, max_length = Template(**entry["template"]), entry["max_length"]

    def load() -> Subject:
        subject = load_subject(str(folder), template="plain", dtype=dtype, max_length=max_length)
        return Subject(subject.model, subject.tokenizer, template, entry["source"], max_length)

    return ModelRef(load, folder)
