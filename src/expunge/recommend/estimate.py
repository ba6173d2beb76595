"""What training a recommender will cost: one step of it, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch.nn.functional as F

from expunge.engine.training import Training
from expunge.recommend.data import Interactions
from expunge.recommend.subject import Subject
from expunge.wing import Cost


@dataclass(frozen=True)
class PairEstimate:
    """See `expunge.wing.Estimate`.

    Attributes:
        parameters: Of the model.
        seconds: Of one propagation over the graph, forward and backward: nearly all of a step.
        attacked: Steps that attacks train, all together.
    """

    parameters: int
    seconds: float
    attacked: int

    @classmethod
    def of(cls, subject: Subject, attacked: int) -> PairEstimate:
        """From one training step."""
        pairs = subject.served.pairs
        started = time.perf_counter()
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            z_user, z_item = subject.model(subject.graph)
            F.softplus(-(z_user[pairs[:, 0]] * z_item[pairs[:, 1]]).sum(1)).mean().backward()
            subject.model.zero_grad()
        return cls(subject.parameters, time.perf_counter() - started, attacked)

    def describe(self, rows: Interactions) -> str:
        """See `Estimate`."""
        users = int((rows.degrees[0] > 0).sum())
        return f"{len(rows)}, of {users} users"

    def training(self, training: Training, rows: Interactions, sides: int) -> Cost:
        """Weights, gradients and two moments."""
        return Cost(training.total_steps(len(rows)) * sides * self.seconds, 16.0 * self.parameters)

    def audit(self) -> float:
        """See `Estimate`: the attacks' training; ranking is a matrix product or two."""
        return self.attacked * self.seconds
