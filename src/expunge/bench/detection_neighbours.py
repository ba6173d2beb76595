"""Similar texts for the text cases of a bench: a small masked language model of the population, made once and filed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.membership.text_neighbours import MaskedNeighbours

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
EPOCHS, BATCH, LR, MASKED = 12, 64, 3e-3, 0.15


def population_neighbours(texts: Sequence[str], vocabulary: Sequence[str], folder: Path, seed: int) -> MaskedNeighbours:
    """Neighbours from a two-layer BERT over whole words, trained on texts that nobody audits.

    Args:
        texts: The population.
        vocabulary: All words.
        folder: Where it is filed, under its content; the same call finds it again.
        seed: Of the training.
    """
    from transformers.utils import logging

    from expunge.recipe import fingerprint

    content = {"texts": list(texts), "vocabulary": list(vocabulary), "seed": seed, "settings": [EPOCHS, LR, MASKED]}
    place = folder / f"neighbours-{fingerprint(content)[:16]}"
    logging.disable_progress_bar()
    if not (place / "config.json").is_file():
        temporary = folder / f"{place.name}.{os.getpid()}.tmp"
        tokenizer = word_tokenizer(vocabulary)
        model = _trained(texts, tokenizer, seed)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(temporary, place)
    return MaskedNeighbours.from_folder(place, seed=seed)


def word_tokenizer(vocabulary: Sequence[str]) -> Any:
    """A fast tokenizer of whole words between blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=64, **names)


def _trained(texts: Sequence[str], tokenizer: Any, seed: int) -> Any:
    """A masked language model: of 15% of the words four fifths are masked, the rest are other words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    rng, draw = np.random.default_rng([seed, 21]), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = BertForMaskedLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        model.train()
        for _ in range(EPOCHS):
            for rows in torch.from_numpy(rng.permutation(len(texts))).split(BATCH):
                ids, seen = batch["input_ids"][rows], batch["attention_mask"][rows]
                chosen = (torch.rand(ids.shape, generator=draw) < MASKED) & (ids >= len(SPECIAL))
                others = torch.randint(len(SPECIAL), len(tokenizer), ids.shape, generator=draw)
                masked = torch.rand(ids.shape, generator=draw) < 0.8
                shown = torch.where(chosen, torch.where(masked, tokenizer.mask_token_id, others), ids)
                if not chosen.any():
                    continue
                optimizer.zero_grad(set_to_none=True)
                labels = torch.where(chosen, ids, -100)
                model(input_ids=shown, attention_mask=seen, labels=labels).loss.backward()
                optimizer.step()
    return model.eval()
