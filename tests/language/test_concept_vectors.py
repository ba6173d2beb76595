"""Finding concept vectors: what sets an article apart, and the causal test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.errors import InputError
from expunge.language.concept_vectors import (
    CONSTRUCTION,
    Concept,
    ConceptVector,
    article_tokens,
    construct,
    distinctive_tokens,
    noised,
    ranked_vectors,
    write_items,
)
from expunge.language.data import Record
from expunge.language.mlp import down_projection
from expunge.language.subject import Subject
from expunge.language.value_vectors import head_of
from tiny_bed import Bed


def concepts(bed: Bed, count: int = 3) -> dict[str, Concept]:
    names = list(dict.fromkeys(r.cluster for r in bed.forget))[:count]
    return {
        name: Concept(
            " ".join(f"{r.question} {r.answer}" for r in bed.forget if r.cluster == name),
            [r for r in bed.records["forget"] if r.cluster == name],
        )
        for name in names
    }


def planted(bed: Bed, name: str, layer: int, dim: int) -> Subject:
    """A copy of the target with a vector that promotes the tokens of one concept and no others."""
    subject = bed.fresh()
    marks = distinctive_tokens(subject, concepts(bed), 8)[name]
    head = head_of(subject.model)
    wanted = torch.zeros(len(head), 1).index_fill(0, marks, 1.0)
    down_projection(subject.model, layer).set_column(dim, 10 * torch.linalg.lstsq(head, wanted).solution[:, 0])
    return subject


def test_tokens_of_every_article_mark_none(bed: Bed) -> None:
    """idf = log(N/df) is 0 for tokens of all articles; a name stands in its own alone."""
    marks = distinctive_tokens(bed.target, concepts(bed), 6)
    question = set(article_tokens(bed.target, " Where was born?"))
    assert not question & {t for ids in marks.values() for t in ids.tolist()}
    for name, ids in marks.items():
        assert set(article_tokens(bed.target, f" {name}")) & set(ids.tolist())


def test_a_planted_vector_ranks_first(bed: Bed) -> None:
    name = next(iter(concepts(bed)))
    subject = planted(bed, name, 1, 7)
    best = ranked_vectors(subject, concepts(bed), top=8)[name][0]
    assert (best.layer, best.dim) == (1, 7)
    assert best.overlap > 0.7


def test_the_lowest_mean_logits_are_left_out(bed: Bed) -> None:
    subject = bed.target
    width = down_projection(subject.model, 0).width
    rows = ranked_vectors(subject, concepts(bed), top=8, dropped=0.3)[next(iter(concepts(bed)))]
    head = head_of(subject.model)
    for layer in (0, 1):
        kept = {v.dim for v in rows if v.layer == layer}
        assert len(kept) == width - int(0.3 * width)
        means = (down_projection(subject.model, layer).columns() @ head.T).mean(1)
        lowest = set(means.argsort()[: int(0.3 * width)].tolist())
        assert not kept & lowest


def test_noise_is_taken_back_byte_for_byte(bed: Bed) -> None:
    subject = bed.fresh()
    before = down_projection(subject.model, 0).matrix.clone()
    with noised(subject, 0, 3, 0.1, seed=0):
        inside = down_projection(subject.model, 0).matrix.clone()
    assert torch.equal(down_projection(subject.model, 0).matrix, before)
    changed = (inside != before).any(0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_the_causal_test_passes_what_hurts_its_own_concept(bed: Bed) -> None:
    """With a bar below every gap each concept passes; above 1 none can. The model is left as it was."""
    subject = bed.fresh()
    found = construct(subject, concepts(bed, 2), top=8, candidates=2, noise=2.0, gap=-2.0, max_new_tokens=6)
    assert {v.concept for v in found} == set(concepts(bed, 2))
    assert all(v.gap is not None and -1 <= v.gap <= 1 for v in found)
    assert construct(subject, concepts(bed, 2), top=8, candidates=1, gap=1.0, max_new_tokens=6) == []
    assert subject.weights_hash() == bed.target.weights_hash()


def test_written_items_have_the_published_fields(bed: Bed, tmp_path: Path) -> None:
    known = concepts(bed)
    name = next(iter(known))
    write_items(tmp_path / "own.json", [ConceptVector(name, 1, 7, 0.5, 0.3)], known)
    (row,) = json.loads((tmp_path / "own.json").read_text())
    assert (row["Concept"], row["Layer"], row["Dim"]) == (name, 1, 7)
    assert row["QA"] == [r.question for r in known[name].questions]
    assert row["construction"] == CONSTRUCTION
    assert row["unrelated_QA"]
    assert not set(row["unrelated_QA"]) & set(row["QA"])


def test_what_is_refused(bed: Bed) -> None:
    known = concepts(bed, 2)
    with pytest.raises(InputError, match="at least two"):
        construct(bed.target, dict(list(known.items())[:1]))
    with pytest.raises(InputError, match="'empty': its article is empty"):
        ranked_vectors(bed.target, {**known, "empty": Concept(" ")})
    with pytest.raises(InputError, match="'mute': it has no questions"):
        construct(bed.target, {**known, "mute": Concept("text")})
    assert known
    assert Record("q", "a")
