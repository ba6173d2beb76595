"""VerbMem of MUSE: how much of a text greedy decoding gives back when it is shown the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.continuations import tokenise
from expunge.language.generate import _greedy as greedy
from expunge.language.metrics._common import Floats
from expunge.language.metrics.rouge import rouge_l_f1
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore
    from expunge.language.subject import Subject

PAPER = (
    "Shi, Lee, Huang, Malladi, Zhao, Holtzman, Liu, Zettlemoyer, Smith, Zhang, MUSE: Machine Unlearning Six-Way "
    "Evaluation for Language Models, ICLR 2025 (arXiv 2407.06460)"
)


@torch.inference_mode()
def continued(subject: Subject, prompts: Sequence[str], limit: int, batch: int = 32) -> list[str]:
    """What greedy decoding writes after texts that are fed as they stand, without a template.

    Args:
        subject: The model.
        prompts: n texts; one that leaves no room for `limit` tokens loses its beginning.
        limit: Most tokens written; an end of sequence ends a text earlier.
        batch: Prompts decoded together; the texts do not depend on it beyond rounding.

    Returns:
        n texts, special tokens left out.

    Raises:
        InputError: No room for `limit` tokens in the model's context.
    """
    if limit >= subject.max_length:
        raise InputError(f"max_new_tokens={limit} leaves no room for a prompt within max_length={subject.max_length}.")
    tokenizer, room = subject.tokenizer, subject.max_length - limit
    fed = [_without_end(ids, tokenizer)[-room:] for ids in tokenise(tokenizer, prompts)]
    order = sorted(range(len(fed)), key=lambda i: len(fed[i]))
    texts = [""] * len(fed)
    with evaluating(subject.model):
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            made = greedy(subject, [fed[i] for i in rows], limit)
            for i, text in zip(rows, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
                texts[i] = text
    return texts


def _without_end(ids: list[int], tokenizer: Any) -> list[int]:
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def beginning(tokenizer: Any, text: str, tokens: int) -> str:
    """The first tokens of a text, as text.

    The first release counts a begin-of-sequence token among the 128 of the right continuation and none among those
    of the generated one; here both have as many tokens of text.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= tokens else str(tokenizer.decode(ids[:tokens], skip_special_tokens=True))


def verbatim_memorization(truths: Sequence[str], continuations: Sequence[str]) -> Floats:
    """[n] ROUGE-L F1 of a continuation and the true one, words compared as they are written (VerbMem, per text).

    Shi et al. 2024, section 2, C1: VerbMem(f, D) is its mean over D.

    >>> verbatim_memorization(["the old house burned"], ["the house burned"]).round(4).tolist()
    [0.8571]
    """
    return rouge_l_f1(truths, continuations, stem=False)


@dataclass(frozen=True)
class VerbatimMemorization:
    """ROUGE-L F1 of the greedy continuation of a text's beginning and the text's own continuation (VerbMem).

    The ideal is the retrained model's value: it is not 0, for some of any text can be guessed.

    Attributes:
        records: Split of what is continued: the question is the beginning, the answer what follows. Source: ours.
        split: Split the finding is filed under. Source: ours.
        max_new_tokens: Tokens generated, and of the true continuation. Source: paper.
        batch: Texts decoded together. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    needs_gold: ClassVar[bool] = False

    records: str = "forget_verbatim"
    split: str = "forget"
    max_new_tokens: int = 128
    batch: int = 32

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch < 1:
            raise InputError(
                f"verbatim-memorization: max_new_tokens={self.max_new_tokens} and batch={self.batch} must be at least "
                f"1."
            )

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """The finding ``muse.verbmem``, in [0, 1].

        Raises:
            InputError: The split is missing or empty.
        """
        records = model.records(self.records)
        if not records:
            raise InputError(f"Split {self.records!r} has no records, so there is no muse.verbmem.")
        subject = model.subject
        said = continued(subject, [r.question for r in records], self.max_new_tokens, self.batch)
        truths = [beginning(subject.tokenizer, r.answer, self.max_new_tokens) for r in records]
        values = verbatim_memorization(truths, said)
        found = cluster_bootstrap(values, model.clusters(self.records))
        return [Finding("muse.verbmem", self.split, model.name, *found, n=len(values), direction="match-gold")]
