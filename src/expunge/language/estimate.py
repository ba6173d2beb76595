"""What training a language model on some text will cost, from its size and the length of the text."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from expunge.engine.training import Training
from expunge.language.data import Record
from expunge.language.prepare import TESTBED
from expunge.language.subject import count_parameters
from expunge.language.workload import Workload
from expunge.recipe import Recipe
from expunge.wing import Cost

CHARACTERS_PER_TOKEN = 4.0  # English text; only for the estimate
OF_THE_TESTBED = 485_504


@dataclass(frozen=True)
class TextEstimate:
    """See `expunge.wing.Estimate`.

    Attributes:
        parameters: Of the model.
        trained: How many of them are trained.
        speed: Operations per second of this machine.
        audited: Operations of one model's audit.
    """

    parameters: int
    trained: float
    speed: float
    audited: float

    @classmethod
    def of(cls, recipe: Recipe, workload: Workload) -> TextEstimate:
        """From the model's configuration (no weights are read) and a tenth of a second of this machine."""
        source = recipe.model.source
        parameters = OF_THE_TESTBED if source in TESTBED else count_parameters(source)
        trained = parameters if recipe.model.lora is None else 0.02 * parameters
        return cls(parameters, trained, flops_per_second(), parameters * _audited(recipe, workload))

    def describe(self, rows: list[Record]) -> str:
        """See `Estimate`."""
        return f"{len(rows)}, about {_tokens(rows):,.0f} tokens"

    def training(self, training: Training, rows: list[Record], sides: int) -> Cost:
        """6 operations per parameter and token; weights, gradients, two moments, and activations."""
        per_row = _tokens(rows) / max(1, len(rows)) + 12  # the template's own tokens
        together = training.batch_size * sides
        seconds = training.total_steps(len(rows)) * together * per_row * 6 * self.parameters / self.speed
        in_flight = (training.micro_batch or training.batch_size) * per_row
        activations = in_flight * 60 * (self.parameters / 12) ** 0.5 * 4
        return Cost(seconds, 4 * self.parameters + 12 * self.trained + activations)

    def audit(self) -> float:
        """See `Estimate`."""
        return self.audited / self.speed


def _tokens(records: list[Record]) -> float:
    return sum(len(r.question) + len(r.answer) for r in records) / CHARACTERS_PER_TOKEN


def _audited(recipe: Recipe, workload: Workload) -> float:
    """Operations for each parameter: every split is scored and generated once, and attacks train a little."""
    scored = sum(
        len(r.question) + len(r.answer) + sum(len(w) + len(r.question) for w in r.perturbed_answers)
        for rows in workload.splits.values()
        for r in rows
    )
    attacked: float = sum(
        6 * 64 * 16 * 30 * a.fields.get("seeds", 1) for a in recipe.audit.attacks if "relearn" in a.name
    )
    return 2 * scored / CHARACTERS_PER_TOKEN * 2 + attacked


def flops_per_second() -> float:
    """Sustained float32 rate of this machine, from a tenth of a second of matrix products."""
    a = torch.randn(512, 512)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        a @ a
        count += 1
    # Training reaches about a third of what large matrix products do.
    return 0.35 * 2 * 512**3 * count / (time.perf_counter() - started)
