"""Familiarity with a text: does a model give its names away, in probabilities and in what it writes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.data import cluster_ids
from expunge.language.encode import Batch, Template
from expunge.language.forward import ForwardPass
from expunge.language.generate import generate
from expunge.language.metrics._common import Floats, direction
from expunge.language.metrics._giveaways import (
    Grader,
    Probe,
    first_tokens,
    giveaway_grade,
    probes_of,
    read_probes,
)
from expunge.language.score import length_batches
from expunge.language.subject import Subject
from expunge.language.text_blocks import context
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

PLAIN = Template(user_start="", user_end="", assistant_start="")  # continues the prompt as text


def familiarity(grades: Sequence[int]) -> Floats:
    """Share of each completion in the completion-based familiarity (#3 + 0.2 * #2) / N, which is their mean.

    Eldan & Russinovich (2023), section 3.

    Args:
        grades: One for each of N completions: 3 reveals names or plot that the prompt does not hold, 2 uses terms
            of the text, 1 might, 0 is unrelated.

    Returns:
        [N] of 1, 0.2 or 0; lower is less familiar.

    Raises:
        InputError: No grade, or one that is not 0, 1, 2 or 3.

    >>> round(float(familiarity([3, 2, 2, 1, 0]).mean()), 2)
    0.28
    """
    wrong = [g for g in grades if g not in (0, 1, 2, 3)]
    if wrong or not grades:
        raise InputError(f"familiarity: {wrong[0]!r} is no grade (0, 1, 2 or 3)." if wrong else "No completion graded.")
    return np.array([0.0, 0.0, 0.2, 1.0])[list(grades)]


def giveaway_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Total next-token probability of some tokens (Eldan & Russinovich 2023, section 3).

    Args:
        logits: [V] after a prompt.
        tokens: First tokens of the giveaways; one that stands there twice counts once.

    Returns:
        Scalar in [0, 1].
    """
    return logits.double().softmax(-1)[tokens.unique()].sum().clamp(max=1.0)


@torch.inference_mode()
def next_token_familiarity(subject: Subject, probes: Sequence[Probe], *, batch_tokens: int = 4096) -> Floats:
    """Total probability that the next token after each prompt begins a giveaway.

    Args:
        subject: The model.
        probes: N prompts; a prompt longer than the context loses its beginning.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        [N] in [0, 1]; their mean is the probability-based familiarity.
    """
    room = context(subject) - 1
    prompts = [_prompt(subject, probe)[-room:] for probe in probes]
    wanted = [torch.tensor(first_tokens(subject.tokenizer, probe.giveaways)) for probe in probes]
    values = np.empty(len(probes))
    with evaluating(subject.model):
        for rows in length_batches(torch.tensor([len(p) for p in prompts]), batch_tokens):
            chosen = [prompts[i] for i in rows.tolist()]
            lengths = torch.tensor([len(p) for p in chosen])[:, None]
            position = torch.arange(int(lengths.max()) + 1)
            ids = torch.tensor([p + [0] * (len(position) - len(p)) for p in chosen])
            # the padding behind each prompt stands for the token that is predicted; nothing reads it
            view = ForwardPass(subject.model, Batch(ids, position < lengths, position == lengths), (1, 1))
            for i, logits in zip(rows.tolist(), view.logits, strict=True):
                values[i] = float(giveaway_probability(logits, wanted[i].to(logits.device)))
    return values


def completions(subject: Subject, probes: Sequence[Probe], max_new_tokens: int) -> list[str]:
    """Greedy completions of the prompts."""
    made: dict[int, str] = {}
    for plain in (False, True):
        rows = [i for i, probe in enumerate(probes) if probe.plain == plain]
        fed = replace(subject, template=PLAIN) if plain else subject
        texts = generate(fed, [probes[i].record for i in rows], max_new_tokens=max_new_tokens)
        made.update(zip(rows, texts, strict=True))
    return [made[i] for i in range(len(probes))]


def _prompt(subject: Subject, probe: Probe) -> list[int]:
    """Token ids to continue from, as in generation."""
    tokenizer, template = subject.tokenizer, PLAIN if probe.plain else subject.template
    text = template.generation_prompt(probe.record, tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=template.kind != "chat")["input_ids"]
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


@dataclass(frozen=True)
class Familiarity:
    """Familiarity with a text: probability of giveaways right after a prompt, and completions that hold them.

    Attributes:
        prompts: JSONL file of prompts with their giveaways (`_giveaways.read_probes`); empty asks the questions of
            `splits`, with their answers as giveaways. Source: paper (30 prompts with lists of tokens, 300 to complete;
            they were not published).
        splits: Splits whose questions are asked when there is no file. Source: ours.
        completion: Also complete the prompts and grade what comes. Source: paper.
        grader: Grades a completion 0 to 3 (probe, text) -> int; None takes `giveaway_grade`, which goes by words
            alone. Source: ours; paper: a large language model.
        max_new_tokens: Longest completion in tokens; 0 takes the benchmark's. Source: ours.
    """

    paper: ClassVar[str] = (
        "Eldan, Russinovich, Who's Harry Potter? Approximate Unlearning in LLMs, 2023 (arXiv 2310.02238)"
    )
    needs_gold: ClassVar[bool] = False

    prompts: str = ""
    splits: tuple[str, ...] = ("forget",)
    completion: bool = True
    grader: Grader | None = None
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise InputError(f"familiarity: max_new_tokens={self.max_new_tokens} must not be below 0.")
        if self.grader is not None and not callable(self.grader):
            raise InputError(f"familiarity: grader={self.grader!r} must be a function (probe, text) -> 0, 1, 2 or 3.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``familiarity_probability`` and ``familiarity_completion`` for each split, or for the file.

        Raises:
            InputError: A split or the file is missing, empty or malformed, or a grade is out of range.
        """
        if self.prompts:
            sets = {"forget_prompts": read_probes(self.prompts)}
        else:
            sets = {split: probes_of(model.records(split), split) for split in self.splits}
        found = []
        for split, probes in sets.items():
            if not probes:
                raise InputError(f"Split {split!r} has no records, so there is no familiarity.")
            values = {"familiarity_probability": next_token_familiarity(model.subject, probes)}
            if self.completion:
                texts = completions(model.subject, probes, self.max_new_tokens or model.max_new_tokens)
                grade = self.grader or giveaway_grade
                graded = [grade(probe, text) for probe, text in zip(probes, texts, strict=True)]
                values["familiarity_completion"] = familiarity(graded)
            clusters = np.array(cluster_ids([p.record for p in probes]), dtype=np.int64)
            for name, value in values.items():
                numbers = cluster_bootstrap(value, clusters)
                found.append(Finding(name, split, model.name, *numbers, n=len(value), direction=direction(split)))
        return found
