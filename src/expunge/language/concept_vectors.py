"""Finding concept vectors in one's own model: value vectors that promote one concept and hurt only it.

The construction of Hong et al. 2024 (arXiv 2406.11614, section 4) ends with a language model and people who judge
whether the promoted tokens name one concept. That cannot be had offline: here the judge is the overlap of the
promoted tokens with the tokens that set the concept's article apart (tf-idf), followed by the paper's causal
test. Sets made this way say so, and are another construction than the published one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.forward import decoder_layers
from expunge.language.generate import generate
from expunge.language.metrics.bleu import bleu
from expunge.language.mlp import down_projection
from expunge.language.subject import Subject
from expunge.language.value_vectors import head_of, top_tokens

CONSTRUCTION = "token overlap with the article, validated by noise"


@dataclass(frozen=True)
class Concept:
    """What a vector may stand for.

    Attributes:
        article: Text about it.
        questions: Questions about it (answers are not used).
    """

    article: str
    questions: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class ConceptVector:
    """A value vector and the concept it promotes.

    Attributes:
        concept: Its name.
        layer: Block.
        dim: Number of the vector in the block's down-projection.
        overlap: Share of its top tokens that set the article apart.
        gap: How much more BLEU the concept's answers lose than unrelated ones when it is noised; None if untested.
    """

    concept: str
    layer: int
    dim: int
    overlap: float
    gap: float | None = None


def ranked_vectors(
    subject: Subject, concepts: Mapping[str, Concept], *, top: int = 200, dropped: float = 0.3
) -> dict[str, list[ConceptVector]]:
    """All value vectors of the model by how well their top tokens match each concept.

    Args:
        subject: The model.
        concepts: Name to concept; several are needed, for tf-idf sets one apart from the others.
        top: Top tokens of a vector that are looked at.
        dropped: Share of each layer's vectors left out because their mean logit over the vocabulary is lowest.

    Returns:
        Concept name to vectors, the best first.

    Raises:
        InputError: An empty article; a model without two-matrix MLPs.
    """
    head = head_of(subject.model)
    marks = distinctive_tokens(subject, concepts, top)
    found: dict[str, list[ConceptVector]] = {name: [] for name in concepts}
    for layer in range(len(decoder_layers(subject.model)[2])):
        vectors = down_projection(subject.model, layer).columns()
        mean_logit = vectors.to(head) @ head.mean(0)  # [f], the mean over the vocabulary of E v_j
        kept = mean_logit.argsort()[math.floor(dropped * len(vectors)) :].sort().values
        tokens = top_tokens(vectors[kept], head, top)
        for name, wanted in marks.items():
            share = torch.isin(tokens, wanted.to(tokens.device)).double().mean(1)
            found[name] += [
                ConceptVector(name, layer, int(dim), float(s))
                for dim, s in zip(kept.tolist(), share.tolist(), strict=True)
            ]
    return {name: sorted(rows, key=lambda v: (-v.overlap, v.layer, v.dim)) for name, rows in found.items()}


def distinctive_tokens(subject: Subject, concepts: Mapping[str, Concept], count: int) -> dict[str, Tensor]:
    """Ids of the tokens with the highest tf-idf in each article among all articles: [<= count] each.

    Raises:
        InputError: An article without a token.
    """
    texts = {name: article_tokens(subject, c.article) for name, c in concepts.items()}
    for name, ids in texts.items():
        if not ids:
            raise InputError(f"concept {name!r}: its article is empty.")
    documents = Counter(token for ids in texts.values() for token in set(ids))
    marks = {}
    for name, ids in texts.items():
        # a token of every article sets none apart; where there is one article alone, its own frequency counts
        idf = {t: math.log(len(texts) / documents[t]) if len(texts) > 1 else 1.0 for t in set(ids)}
        score = {t: n / len(ids) * idf[t] for t, n in Counter(ids).items()}
        best = sorted((t for t in score if score[t] > 0), key=lambda t: (-score[t], t))[:count]
        marks[name] = torch.tensor(best, dtype=torch.long)
    return marks


def small_top(subject: Subject, top: int) -> int:
    """As many top tokens as asked for, but no more than a tenth of a small vocabulary."""
    return max(1, min(top, len(subject.tokenizer) // 10))


def article_tokens(subject: Subject, article: str) -> list[int]:
    """Token ids of an article, special tokens left out."""
    return subject.tokenizer(article, add_special_tokens=False)["input_ids"] if article.strip() else []


def construct(
    subject: Subject,
    concepts: Mapping[str, Concept],
    *,
    top: int = 200,
    candidates: int = 3,
    noise: float = 0.1,
    gap: float = 0.2,
    max_new_tokens: int = 100,
    seed: int = 0,
) -> list[ConceptVector]:
    """Concept vectors that pass the causal test (section 4): noise on them hurts their own concept's answers most.

    Args:
        subject: The model; it is left as it was.
        concepts: Name to concept; the questions of the others are each one's unrelated questions.
        top: Top tokens of a vector that are looked at.
        candidates: Best vectors of each concept that are tested.
        noise: Standard deviation of the noise added to each entry.
        gap: Least difference of the two losses of BLEU.
        max_new_tokens: Longest answer in tokens.
        seed: Draws the noise and the unrelated questions.

    Returns:
        The vectors that pass, at most one for each concept (the one of the largest gap).

    Raises:
        InputError: Fewer than two concepts, an empty article, a concept without questions.
    """
    if len(concepts) < 2:
        raise InputError("Concept vectors are told apart by other concepts; give at least two.")
    silent = [name for name, concept in concepts.items() if not concept.questions]
    if silent:
        raise InputError(f"concept {silent[0]!r}: it has no questions, and the causal test asks some.")
    found = []
    for name, vectors in ranked_vectors(subject, concepts, top=top).items():
        unrelated = _unrelated(concepts, name, seed)
        tested = [
            _tested(subject, v, concepts[name].questions, unrelated, noise, max_new_tokens, seed)
            for v in vectors[:candidates]
        ]
        best = max(tested, key=lambda v: v.gap or 0.0)
        if best.gap is not None and best.gap > gap:
            found.append(best)
    return found


def _unrelated(concepts: Mapping[str, Concept], name: str, seed: int, groups: int = 5, each: int = 10) -> list[Record]:
    """Up to ten questions of each of up to five other concepts."""
    others = sorted(n for n in concepts if n != name)
    order = torch.randperm(len(others), generator=generator(seed, "unrelated", name)).tolist()
    return [r for i in order[:groups] for r in concepts[others[i]].questions[:each]]


def _tested(
    subject: Subject,
    vector: ConceptVector,
    own: list[Record],
    unrelated: list[Record],
    noise: float,
    max_new_tokens: int,
    seed: int,
) -> ConceptVector:
    """The vector with the gap its noise opens; the model gets its own vector back, bit for bit."""
    questions = [*own, *unrelated]
    before = generate(subject, questions, max_new_tokens=max_new_tokens)
    with noised(subject, vector.layer, vector.dim, noise, seed):
        after = generate(subject, questions, max_new_tokens=max_new_tokens)
    scores = [bleu(a, b) for a, b in zip(before, after, strict=True)]
    losses = [1 - sum(part) / len(part) for part in (scores[: len(own)], scores[len(own) :])]
    return ConceptVector(vector.concept, vector.layer, vector.dim, vector.overlap, losses[0] - losses[1])


class noised:  # noqa: N801  (a context manager)
    """Within, a value vector carries Gaussian noise; afterwards it is what it was."""

    def __init__(self, subject: Subject, layer: int, dim: int, noise: float, seed: int) -> None:
        self.projection, self.dim = down_projection(subject.model, layer), dim
        draw = generator(seed, "needle", layer, dim)
        self.noise = noise * torch.randn(self.projection.size, generator=draw)

    def __enter__(self) -> None:
        column = self.projection.column(self.dim)
        self.kept = column.clone()
        self.projection.set_column(self.dim, self.kept + self.noise.to(self.kept))

    def __exit__(self, *_: Any) -> None:
        self.projection.set_column(self.dim, self.kept)


def write_items(path: Path, vectors: list[ConceptVector], concepts: Mapping[str, Concept], seed: int = 0) -> None:
    """Write vectors in the fields of the benchmark's files, with the construction named."""
    rows = [
        {
            "ID": number,
            "Concept": v.concept,
            "Layer": v.layer,
            "Dim": v.dim,
            "QA": [r.question for r in concepts[v.concept].questions],
            "text_completion": [],
            "unrelated_QA": [r.question for r in _unrelated(concepts, v.concept, seed)],
            "wikipedia_content": concepts[v.concept].article,
            "construction": CONSTRUCTION,
        }
        for number, v in enumerate(vectors)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
