"""Needle: the oracle that knows where a concept is written, and damages that vector alone (Hong et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from expunge.engine.loop import TrainLog
from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.concept_vectors import Concept, ranked_vectors, small_top
from expunge.language.data import Record
from expunge.language.forward import decoder_layers
from expunge.language.methods._checks import not_negative
from expunge.language.methods._delegate import Delegate, base_method
from expunge.language.mlp import DownProjection, down_projection
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob

Where = Literal["vector", "random", "all"]


@dataclass(frozen=True)
class Needle(Edit):
    """Needle: noise on the value vectors that hold the concept, then a loss on them alone.

    An ORACLE and no method for a request: it is told where the knowledge is, and shows what an unlearned vector
    would look like. Without `layer` and `dim` it takes, for each cluster of the forget set, the vector whose top
    tokens match the cluster's records best, which is our stand-in for the published locations. ``where: random``
    damages as many vectors drawn at random, the control that any claim about Needle needs; ``where: all`` trains
    all down-projections and adds no noise, the paper's restriction of a method to value vectors.

    Attributes:
        layer: Block of the vector; needs `dim`. Source: paper (its data files).
        dim: Number of the vector in the block's down-projection. Source: paper (its data files).
        noise: Standard deviation of the noise on each entry. Source: paper, section 6.
        relative: The noise counts in root mean squares of the vector's entries. Source: ours; the paper's 0.1 is
            about five of them on Llama-2-7B.
        base: Method whose losses train the damaged vectors afterwards; ``none`` leaves it at the noise. Source:
            paper (all of its losses).
        settings: Its hyper-parameters, those that differ from its defaults. Source: paper.
        where: ``vector``, ``random`` or ``all``. Source: paper (random: ours).
        top: Top tokens by which vectors are located. Source: paper, section 4 (200).
        vectors: Vectors located for each cluster. Source: paper (one).
    """

    paper: ClassVar[str] = (
        "Hong, Yu, Yang, Ravfogel, Geva, Intrinsic Test of Unlearning Using Parametric Knowledge Traces, EMNLP 2025 "
        "(arXiv 2406.11614)"
    )
    intention: ClassVar[Intention] = "removal"
    adapters: ClassVar[bool] = False

    layer: int | None = None
    dim: int | None = None
    noise: float = 0.1
    relative: bool = False
    base: str = "none"
    settings: dict[str, Any] | None = None
    where: Where = "vector"
    top: int = 200
    vectors: int = 1

    def __post_init__(self) -> None:
        not_negative(self, "noise")
        if (self.layer is None) != (self.dim is None):
            raise InputError(f"needle: layer={self.layer} and dim={self.dim} must be given together.")
        if self.where not in ("vector", "random", "all"):
            raise InputError(f"needle: where={self.where!r} must be one of vector, random, all.")
        if self.where == "all" and self.base == "none":
            raise InputError("needle: where=all adds no noise, so it needs a base method to train the vectors with.")
        if self.top < 1 or self.vectors < 1:
            raise InputError(f"needle: top={self.top} and vectors={self.vectors} must be at least 1.")
        if self.base != "none":
            base_method("needle", self.base, self.settings)
        elif self.settings:
            raise InputError("needle: settings are those of a base method, and base is none.")

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject with its vectors damaged, and trained if a base method is named.

        Raises:
            InputError: A layer or vector that does not exist, a mixture of experts, adapters, or a forget set
                whose vectors cannot be located.
        """
        model = job.subject.model
        if any(".lora_" in name for name, _ in model.named_parameters()):
            raise InputError(
                "needle: changes single value vectors and the model carries adapters; unlearn without model.lora, or "
                "merge the adapters first."
            )
        if self.where == "all":
            layers = range(len(decoder_layers(model)[2]))
            return self._trained(job, tuple(down_projection(model, layer).name for layer in layers))
        places = self._places(job)
        job.logs.append(TrainLog(probes=[{"step": 0, "layer": float(p), "dim": float(j)} for p, j in places]))
        projections = {layer: down_projection(model, layer) for layer, _ in places}
        for layer, dim in places:
            self._add_noise(projections[layer], layer, dim, job.seed)
        if self.base == "none":
            return job.subject
        return self._trained(job, tuple(_name(projections[layer], dim) for layer, dim in places))

    def _trained(self, job: UnlearnJob, names: tuple[str, ...]) -> Subject:
        return job.train(Delegate(base_method("needle", self.base, self.settings), names), job.subject)

    def _add_noise(self, projection: DownProjection, layer: int, dim: int, seed: int) -> None:
        column = projection.column(dim)
        scale = self.noise * (float(column.square().mean().sqrt()) if self.relative else 1.0)
        noise = scale * torch.randn(projection.size, generator=generator(seed, "needle", layer, dim))
        projection.set_column(dim, (column.float() + noise.to(column.device)).to(column))

    def _places(self, job: UnlearnJob) -> list[tuple[int, int]]:
        """(layer, dim) of the vectors to be damaged, each once."""
        model = job.subject.model
        if self.layer is not None and self.dim is not None:
            down_projection(model, self.layer).column(self.dim)  # refuses what does not exist
            places = [(self.layer, self.dim)]
        else:
            ranked = ranked_vectors(job.subject, articles(job.forget, job.retain), top=small_top(job.subject, self.top))
            wanted = list(dict.fromkeys(r.cluster for r in job.forget))
            places = [(v.layer, v.dim) for name in wanted for v in ranked[name][: self.vectors]]
        places = list(dict.fromkeys(places))
        if self.where == "random":
            places = self._elsewhere(job, places)
        return places

    def _elsewhere(self, job: UnlearnJob, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """As many other vectors of the same layers, drawn at random."""
        drawn = []
        for number, (layer, _) in enumerate(places):
            width = down_projection(job.subject.model, layer).width
            order = torch.randperm(width, generator=generator(job.seed, "needle control", number)).tolist()
            drawn.append(next((layer, j) for j in order if (layer, j) not in places and (layer, j) not in drawn))
        return drawn


def articles(forget: list[Record], retain: list[Record]) -> dict[str, Concept]:
    """What the records say of each cluster, joined into one article; retain records set the forgotten apart.

    Raises:
        InputError: A forget record without a cluster.
    """
    for i, record in enumerate(forget):
        if not record.cluster:
            raise InputError(
                f"needle: forget, record {i + 1}: it names no cluster, so no vector can be located for it."
            )
    texts: dict[str, list[str]] = {}
    for record in (*forget, *(r for r in retain if r.cluster)):
        texts.setdefault(record.cluster, []).append(f"{record.question} {record.answer}".strip())
    return {name: Concept(" ".join(parts)) for name, parts in texts.items()}


def _name(projection: DownProjection, dim: int) -> str:
    """The slice of the weight that is this vector."""
    return f"{projection.name}[{dim}]" if projection.transposed else f"{projection.name}[:,{dim}]"
