"""A world made by controlled insertion: models read one stream of tokens, and it is known what they read how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from expunge.engine.batches import Stream
from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.forward import LanguageExamples
from expunge.language.insertion import ControlledInsertion, Text
from expunge.language.subject import Subject, default_device

TEMPLATE = Template(kind="tags", user_start="", user_end="", assistant_start="")  # texts are fed as they stand

# One pass reproduces Hubble's dose-response on 0.3 million parameters: nothing at d=1, everything at d=64.
TARGET_TRAINING = Training(
    epochs=1.0, batch_size=16, optimizer="adamw", lr=2e-3, betas=(0.9, 0.98), schedule="cosine", warmup=0.15
)


@dataclass(frozen=True)
class InsertionWorld:
    """The models and records of one insertion.

    The target reads the whole stream, gold the same windows in the same order without the copies of the forget texts
    (or without any copy). Models differ in nothing else.

    Attributes:
        insertion: What stands how often in the stream.
        gold: What gold has not read: ``retrain`` the forget texts, ``standard`` none of the texts at all.
        shown: Share of the texts to be kept that methods get to see; only the others are measured.
        background: Background documents that methods get to see beside them.
        target_training: How the target is trained.
        hidden: Width of the embedded model.
        layers: Blocks of the embedded model.
        vocabulary: Tokens of its tokenizer, which is made from all texts, never inserted ones included: otherwise
            their names would split into more tokens, and membership attacks would read the tokenizer.
    """

    insertion: ControlledInsertion
    gold: Literal["retrain", "standard"] = "retrain"
    shown: float = 0.5
    background: int = 64
    target_training: Training = TARGET_TRAINING
    hidden: int = 96
    layers: int = 2
    vocabulary: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.shown < 1:
            raise InputError(f"Insertion: shown={self.shown} must lie in [0, 1): some texts to be kept are measured.")
        if self.gold not in ("retrain", "standard"):
            raise InputError(f"Insertion: gold={self.gold!r} must be 'retrain' or 'standard'.")

    # -- records -------------------------------------------------------------------------------------

    def texts(self, *groups: str, d: int | None = None, kind: str | None = None) -> list[Text]:
        """The texts of some groups (all of them if none is named), of a d and of a kind, in the order of the pool."""
        drawn = self.insertion.groups()
        found = [t for t in self.insertion.pool if t.id in drawn and kind in (None, t.kind)]
        return [t for t in found if (not groups or drawn[t.id][1] in groups) and d in (None, drawn[t.id][0])]

    def records(self) -> dict[str, list[Record]]:
        """All named lists of records.

        Returns:
            ``train_forget`` and ``train_retain`` are what methods are given: the texts to be forgotten; some of the
            texts to be kept, and documents of the background. Measured are ``forget``, ``retain`` (texts with as many
            copies that methods were not shown), ``holdout`` (d = 0), and ``d=1``, ``d=4``... (all that stay).
        """
        forget = self.texts("forget")
        shown, kept = _shown(self.texts("keep"), self.shown, self.insertion.seed)
        rng = np.random.default_rng(derive_seed(self.insertion.seed, "background shown"))
        rows = rng.permutation(len(self.insertion.background))[: self.background]
        doses = sorted({d for d, _ in self.insertion.groups().values() if d})
        kinds = {text.kind for text in forget}
        kind = kinds.pop() if len(kinds) == 1 else None  # members and non-members are of one kind
        found = {
            "train_forget": forget,
            "train_retain": shown,
            "forget": forget,
            "retain": kept,
            "holdout": self.texts("test", kind=kind),
            **{f"d={d}": self.texts("keep", "other", d=d, kind=kind) for d in doses},
        }
        made = {name: [record_of(t) for t in texts] for name, texts in found.items()}
        made["train_retain"] += [Record("", self.insertion.background[i]) for i in sorted(rows)]
        return {name: rows for name, rows in made.items() if rows or name.startswith("train_")}

    # -- what the models read ------------------------------------------------------------------------

    def left_out(self, records: Iterable[Record]) -> list[str]:
        """Ids of the texts a model that is trained on these records has not read.

        With all forget texts among the records the stream is whole. Otherwise those that are missing are left out, or,
        with ``gold="standard"``, all texts. Without any record it is the bare background.
        """
        read = {r.question + r.answer for r in records}
        missing = [t.id for t in self.texts("forget") if t.text not in read]
        everything = not read or (missing and self.gold == "standard")
        return [t.id for t in self.texts()] if everything else missing

    def stream_key(self, records: list[Record]) -> str:
        """Content of what a model that is trained on these records reads."""
        text = json.dumps([asdict(self.insertion), self.left_out(records)], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def streams(self, subject: Subject, records: list[Record], training: Training) -> dict[str, Stream]:
        """The windows in the order of the stream, pass after pass.

        Raises:
            InputError: A number of steps instead of passes, windows longer than the model's longest sequence, or as
                `ControlledInsertion.insert`.
        """
        if training.steps is not None:
            raise InputError(
                f"target.train.steps={training.steps}: all models of this benchmark read one stream, as often as "
                f"target.train.epochs says; leave steps out."
            )
        if self.insertion.window > subject.max_length:
            raise InputError(
                f"Insertion: a window of {self.insertion.window} tokens is longer than model.max_length="
                f"{subject.max_length}."
            )
        windows = self.insertion.insert(subject.tokenizer).windows(self.left_out(records))
        count = len(windows.offsets) - 1
        steps, batch = training.total_steps(count), training.batch_size
        order = (torch.arange(steps * batch) % count).view(steps, batch)
        return {"retain": Stream(LanguageExamples(windows), order)}

    # -- the embedded model --------------------------------------------------------------------------

    def base_subject(self, *, seed: int = 0) -> Subject:
        """An untrained Llama of about 0.3 million parameters with a tokenizer made from all texts."""
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = self.tokenizer()
        torch.manual_seed(derive_seed(seed, "insertion weights"))
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=8 * self.hidden // 3,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.04,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = LlamaForCausalLM(config).to(default_device()).eval()
        return Subject(model, tokenizer, TEMPLATE, "testbed", max_length=max(128, self.insertion.window))

    def tokenizer(self) -> Any:
        """A byte-level BPE tokenizer over the background and every text of the pool."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(
            [*self.insertion.background, *(t.text for t in self.insertion.pool)],
            trainers.BpeTrainer(
                vocab_size=self.vocabulary,
                special_tokens=["<pad>", "<bos>", "<eos>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
        )


def divided(texts: Sequence[Text], forget: int, shown: float, seed: int) -> tuple[list[Text], list[Text], list[Text]]:
    """Texts of one d at random as those to be forgotten, those to be kept that methods see, and the others to be kept.

    Raises:
        InputError: Nothing would be forgotten, or nothing kept.
    """
    if not 0 < forget < len(texts):
        raise InputError(f"forget={forget} of {len(texts)} texts: at least one must be forgotten and one kept.")
    order = np.random.default_rng(derive_seed(seed, "insertion", "forget")).permutation(len(texts))
    gone = set(order[:forget].tolist())
    seen, rest = _shown([t for i, t in enumerate(texts) if i not in gone], shown, seed)
    return [t for i, t in enumerate(texts) if i in gone], seen, rest


def _shown(texts: Sequence[Text], share: float, seed: int) -> tuple[list[Text], list[Text]]:
    """A share of some texts at random, and the others; at least one is left."""
    order = np.random.default_rng(derive_seed(seed, "shown")).permutation(len(texts))
    seen = set(order[: min(round(share * len(texts)), len(texts) - 1)].tolist()) if texts else set()
    return [t for i, t in enumerate(texts) if i in seen], [t for i, t in enumerate(texts) if i not in seen]


def record_of(text: Text) -> Record:
    """A text as a record: its field ``prompt``, if it has one, is the question, and the rest the answer.

    Raises:
        InputError: The text does not begin with its prompt.
    """
    prompt = str(text.fields.get("prompt", ""))
    if not text.text.startswith(prompt):
        raise InputError(f"Insertion: text {text.id!r} does not begin with its prompt.")
    return Record(prompt, text.text[len(prompt) :], text.id)
