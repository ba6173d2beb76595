"""A synthetic saga and ordinary text beside it: a tiny model knows the saga by heart and the rest in general."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import torch

from expunge.engine.training import Training
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.methods.fine_tune import FineTune
from expunge.language.metrics._giveaways import Probe
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob

HEROES = ["Zork", "Malvun", "Tirasel", "Okobar", "Fenwy", "Drazil"]
LANDS = ["Plonk", "Vesh", "Urmak", "Quillon", "Sarn", "Bogrel"]
THINGS = ["gleamstone", "thornhorn", "mistcloak", "emberglass", "runebell", "skyhook"]
NAMES = ["Jon", "Mary", "Peter", "Anna", "Paul", "Lucy", "Mark", "Clara", "Tom", "Ruth"]
CITIES = ["Rome", "Paris", "Cairo", "Lima", "Oslo", "Delhi", "Quito", "Minsk"]
GOODS = ["lamp", "book", "coat", "knife", "bell", "rope", "clock", "chair"]
ANCHORS = {
    **dict(zip(HEROES, NAMES, strict=False)),
    **dict(zip(LANDS, CITIES, strict=False)),
    **dict(zip(THINGS, GOODS, strict=False)),
}
PATTERNS = (
    ("{who} lives in {where}.", "{who} lives in", "where"),
    ("One day {who} went home to {where}.", "One day {who} went home to", "where"),
    ("In the morning {who} took the {what} from the shelf.", "In the morning {who} took the", "what"),
    ("The {what} of {who} was old.", "The {what} of", "who"),
)


@dataclass(frozen=True)
class Saga:
    """Texts and the model that read them.

    Attributes:
        forget: The saga, one record for each hero.
        control: Ordinary texts the model was trained on.
        unseen: Ordinary texts it was not trained on.
        probes: Prompts that a reader of the saga completes with its names.
        target: Read everything; take `fresh` copies.
    """

    forget: list[Record]
    control: list[Record]
    unseen: list[Record]
    probes: list[Probe]
    target: Subject

    def fresh(self) -> Subject:
        """A copy of the target that a test may train."""
        return self.target.with_model(copy.deepcopy(self.target.model))


def _text(rng: random.Random, who: str, where: str, what: str) -> str:
    lines = [p[0].format(who=who, where=where, what=what) for p in PATTERNS]
    rng.shuffle(lines)
    return " ".join(lines)


def make_saga(seed: int = 0) -> Saga:
    """Draw the texts and train a model of some ten thousand parameters on them."""
    rng = random.Random(seed)
    facts = list(zip(HEROES, LANDS, THINGS, strict=True))
    forget = [Record("", _text(rng, *fact), fact[0]) for fact in facts for _ in range(4)]

    def ordinary() -> Record:
        return Record("", _text(rng, rng.choice(NAMES), rng.choice(CITIES), rng.choice(GOODS)))

    control, unseen = [ordinary() for _ in range(2000)], [ordinary() for _ in range(100)]
    probes = []
    for who, where, what in facts:
        for _, prompt, answer in PATTERNS:
            told = {"who": who, "where": where, "what": what}
            probes.append(Probe(Record(prompt.format(**told), ""), (told[answer],), plain=True))
    subject = Subject(*_untrained([r.answer for r in forget + control]), Template(), "saga", max_length=64)
    training = Training(
        epochs=2, batch_size=32, optimizer="muon", lr=4e-3, muon_lr=0.02, betas=(0.9, 0.98), schedule="cosine"
    )
    UnlearnJob(subject, [], forget * 25 + control, training).train(FineTune(), subject)
    return Saga(forget, control, unseen, probes, subject)


def word_tokenizer(texts: list[str], vocabulary: int = 700, **options: Any) -> Any:
    """A byte-level BPE tokenizer over some texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", **options)


def _untrained(texts: list[str]) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval(), tokenizer
