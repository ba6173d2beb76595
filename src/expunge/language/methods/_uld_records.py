"""The records ULD's assistant is trained on: more ways to say what must go, and wrong answers that must not count."""

from __future__ import annotations

import random
from dataclasses import replace

from expunge.language.data import Record


def to_remember(forget: list[Record], augmented: int) -> list[Record]:
    """F': the forget records, and each again in up to `augmented` other wordings it comes with.

    The other wordings are the paraphrased question with the answer, then the question with the paraphrased answer.
    """
    rows = list(forget)
    for record in forget:
        wordings = []
        if record.paraphrased_question:
            wordings.append(record.asked_otherwise())
        if record.paraphrased_answer:
            wordings.append(replace(record, answer=record.paraphrased_answer))
        rows += wordings[:augmented]
    return rows


def to_flatten(forget: list[Record], retain: list[Record], augmented: int, most: int, seed: int) -> list[Record]:
    """R': some retain records, and up to `augmented` wrong answers to each forget question.

    The wrong answers teach the assistant to be flat off the truth, so that subtracting it takes the fact and
    leaves the form of the answer.
    """
    kept = min(most, len(forget), len(retain))
    chosen = sorted(random.Random(seed).sample(range(len(retain)), kept))
    wrong = [replace(r, answer=text) for r in forget for text in r.perturbed_answers[:augmented]]
    return [retain[i] for i in chosen] + wrong
