"""The dose-response of one model: loss, membership and extraction of texts by how often it has read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.errors import InputError
from expunge.language.continuations import continuation_scores
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.insertion import Text
from expunge.language.insertion_verdict import permutation_p, require_null
from expunge.language.metrics._choices import Choice
from expunge.language.metrics.duplicate_response import DETECTORS
from expunge.language.metrics.membership import membership_scores
from expunge.language.subject import Subject
from expunge.membership import auroc


@dataclass(frozen=True)
class Dose:
    """What a model shows of the texts of one number of copies.

    Attributes:
        d: Copies in the stream.
        exposures: How often the model has read each: d times the passes over the stream.
        texts: Number of texts.
        nll: Mean loss of whole texts, in nats per token.
        auroc: Attack to AUROC against the texts of d = 0; empty for those.
        p: Attack to permutation p-value.
        extracted: Share of the texts whose id greedy decoding writes, given what stands before it; NaN if nobody
            asked.
    """

    d: int
    exposures: float
    texts: int
    nll: float
    auroc: dict[str, float]
    p: dict[str, float]
    extracted: float


def extracted(subject: Subject, asked: Sequence[Choice]) -> list[bool]:
    """Whether greedy decoding writes the right option token by token."""
    _, exact = continuation_scores(subject, [(c.context, c.options[0]) for c in asked])
    return [bool(x) for x in exact]


def dose_response(
    subject: Subject,
    texts: dict[int, list[Text]],
    *,
    epochs: float = 1.0,
    read: bool = True,
    secret: Callable[[Text, str], Choice] | None = None,
    k: float = 0.2,
    seed: int = 0,
) -> list[Dose]:
    """Measure texts by their number of copies; those of d = 0 are the non-members.

    Args:
        subject: The model.
        texts: For each d its texts, of one kind.
        epochs: Passes over the stream.
        read: Whether the model has read the texts at all. One that has not, a standard model, must not tell them
            apart.
        secret: Makes the question for a text's unique part; None asks for none.
        k: Share of tokens of Min-K%.
        seed: Draws the permutations.

    Returns:
        One entry for each d, rising.

    Raises:
        InputError: There are no texts of d = 0, or none of some d.
        RunError: A model that has read nothing tells members from non-members.
    """
    empty = next((d for d in (0, *texts) if not texts.get(d)), None)
    if empty is not None:
        raise InputError(f"Dose-response: there is no text with d={empty}.")
    splits = {f"d={d}": [Record("", t.text, t.id) for t in rows] for d, rows in texts.items()}
    store = EvidenceStore("model", subject, splits)
    found = []
    for d in sorted(texts):
        nll = float(np.mean(store.answers(f"d={d}").without_eos().nll))
        sides = {
            name: [membership_scores(name, store, split, k=k) for split in (f"d={d}", "d=0")]
            for name in (DETECTORS if d else ())
        }
        values = {name: auroc(*side) for name, side in sides.items()}
        if not read:
            for name, value in values.items():
                require_null(value, len(texts[d]), len(texts[0]), f"Dose-response, attack {name} on d={d}")
        hits = extracted(subject, [secret(t, f"d={d}") for t in texts[d]]) if secret else []
        found.append(
            Dose(
                d, d * epochs if read else 0.0, len(texts[d]), nll, values,
                {name: permutation_p(*side, seed=seed) for name, side in sides.items()},
                float(np.mean(hits)) if hits else float("nan"),
            )
        )  # fmt: skip
    return found
