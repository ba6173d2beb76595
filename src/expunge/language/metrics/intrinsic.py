"""The intrinsic test: what is left of a concept's value vectors in the weights (Hong et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.concept_vectors import Concept, article_tokens, ranked_vectors, small_top
from expunge.language.mlp import down_projection
from expunge.language.value_vectors import Match, Trace, compare_vectors, head_of, match_neuron
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore
    from expunge.language.subject import Subject


@dataclass(frozen=True)
class Place:
    """A concept vector to be watched.

    Attributes:
        concept: Name of the concept.
        layer: Block; None locates the vector in the target by the article.
        dim: Number of the vector; None with `layer`.
        article: Text about the concept; empty leaves out what needs it.
    """

    concept: str
    layer: int | None
    dim: int | None
    article: str = ""


@dataclass(frozen=True)
class Intrinsic:
    """What is left of concept vectors beside the target: cosine, distance, top tokens, tokens of the article.

    A low cosine proves no removal: one vector of each concept is watched, and knowledge elsewhere is not seen.
    A neuron that was only moved or rescaled is found again and counted (``neurons_moved``).

    Attributes:
        places: The vectors. Source: paper (its data files).
        top: Top tokens compared. Source: paper, section 5.
    """

    paper: ClassVar[str] = (
        "Hong, Yu, Yang, Ravfogel, Geva, Intrinsic Test of Unlearning Using Parametric Knowledge Traces, EMNLP 2025 "
        "(arXiv 2406.11614)"
    )
    needs_gold: ClassVar[bool] = False

    places: tuple[Place, ...] = ()
    top: int = 200

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Nothing: the measurement is a comparison."""
        return []

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """``vector_cosine``, ``vector_l2``, ``vector_jaccard``, ``vector_wiki_precision`` and ``vector_related``.

        Each is a mean over concepts with an interval over concepts; one without any known value is left out.
        """
        places = located(target.subject, self.places, self.top)
        read = [trace(target.subject, model.subject, place, self.top) for place in places]
        found = []
        for name in (f.name for f in fields(Trace)):
            values = [getattr(t, name) for t, _ in read]
            known = np.array([v for v in values if v is not None], dtype=np.float64)
            if len(known):
                interval = cluster_bootstrap(known, np.arange(len(known)))
                found.append(Finding(f"vector_{name}", "forget", model.name, *interval, len(known), "match-gold"))
        if read:
            moved = np.array([float(m.moved) for _, m in read])
            interval = cluster_bootstrap(moved, np.arange(len(moved)))
            found.append(Finding("neurons_moved", "forget", model.name, *interval, len(moved), "match-gold"))
        return found


def located(target: Subject, places: tuple[Place, ...], top: int) -> list[Place]:
    """The places with the vectors of the target that best match the articles of those without one."""
    open_ones = {p.concept: Concept(p.article) for p in places if p.layer is None}
    if not open_ones:
        return list(places)
    ranked = ranked_vectors(target, open_ones, top=small_top(target, top))
    best = {name: vectors[0] for name, vectors in ranked.items()}
    return [replace(p, layer=best[p.concept].layer, dim=best[p.concept].dim) if p.layer is None else p for p in places]


def trace(before: Subject, after: Subject, place: Place, top: int = 200) -> tuple[Trace, Match]:
    """What is left of one vector, its neuron found again first.

    Raises:
        InputError: The layer or the vector does not exist.
    """
    if place.layer is None or place.dim is None:
        raise InputError(f"concept {place.concept!r}: its vector is not located.")
    v = down_projection(before.model, place.layer).column(place.dim)
    match = match_neuron(before.model, after.model, place.layer, place.dim)
    now = down_projection(after.model, place.layer).column(match.index).float() * match.scale
    article = frozenset(article_tokens(before, place.article))
    return compare_vectors(v, head_of(before.model), now, head_of(after.model), article, top), match
