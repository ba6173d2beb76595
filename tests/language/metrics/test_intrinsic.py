"""The intrinsic test on whole models: untouched, damaged, and only rearranged."""

from __future__ import annotations

import copy

import pytest
import torch

from expunge.errors import InputError
from expunge.language.evidence import EvidenceStore
from expunge.language.forward import decoder_layers
from expunge.language.methods.needle import Needle
from expunge.language.metrics.intrinsic import Intrinsic, Place, located, trace
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import TRAINING, Bed

PLACES = (Place("one", 0, 3), Place("two", 1, 5, "Where was Ann born?"))


def findings(bed: Bed, subject: Subject, places: tuple[Place, ...] = PLACES) -> dict[str, float]:
    stores = [EvidenceStore(n, s, {"forget": bed.records["forget"]}) for n, s in (("m", subject), ("t", bed.target))]
    return {f.metric: f.value for f in Intrinsic(places, top=20).compare(*stores)}


def test_an_untouched_model_keeps_everything(bed: Bed) -> None:
    found = findings(bed, bed.fresh())
    assert found["vector_cosine"] == pytest.approx(1)
    assert (found["vector_l2"], found["vector_jaccard"], found["neurons_moved"]) == (0, 1, 0)


def test_needle_is_seen_in_the_vector_it_damages(bed: Bed) -> None:
    needled = unlearn(Needle(layer=0, dim=3, noise=5.0), UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING))
    hit, _ = trace(bed.target, needled, PLACES[0], top=20)
    missed, _ = trace(bed.target, needled, PLACES[1], top=20)
    assert abs(hit.cosine) < 0.5
    assert hit.jaccard < 0.5
    assert (missed.cosine, missed.l2) == (pytest.approx(1), 0)


def test_rearranged_neurons_are_no_unlearning(bed: Bed) -> None:
    """Neurons 3 and 9 of block 0 swapped: logits equal, the vector all there, and the move is reported."""
    subject = bed.fresh()
    mlp = copy.copy(decoder_layers(subject.model)[2][0].mlp)
    with torch.no_grad():
        for rows in (mlp.gate_proj.weight, mlp.up_proj.weight):  # type: ignore[union-attr]
            rows[[3, 9]] = rows[[9, 3]].clone()  # type: ignore[index]
        mlp.down_proj.weight[:, [3, 9]] = mlp.down_proj.weight[:, [9, 3]].clone()  # type: ignore[union-attr, index]
        ids = torch.tensor([[1, 5, 9]])
        torch.testing.assert_close(subject.model(ids).logits, bed.target.model(ids).logits)
    found = findings(bed, subject)
    assert found["neurons_moved"] == 0.5
    assert found["vector_cosine"] == pytest.approx(1)
    assert found["vector_l2"] == pytest.approx(0, abs=1e-5)


def test_a_place_without_a_vector_is_located_in_the_target(bed: Bed) -> None:
    articles = {
        name: " ".join(f"{r.question} {r.answer}" for r in bed.forget if r.cluster == name)
        for name in dict.fromkeys(r.cluster for r in bed.forget)
    }
    places = tuple(Place(name, None, None, text) for name, text in articles.items())
    found = located(bed.target, (*places, PLACES[0]), 20)
    assert all(p.layer is not None and p.dim is not None for p in found)
    assert found[-1] == PLACES[0]
    assert "vector_related" in findings(bed, bed.fresh(), places)


def test_what_does_not_exist_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="layer=7"):
        findings(bed, bed.fresh(), (Place("x", 7, 0),))
    with pytest.raises(InputError, match="no value vector 99999"):
        findings(bed, bed.fresh(), (Place("x", 0, 99_999),))
    with pytest.raises(InputError, match="'x': its vector is not located"):
        trace(bed.target, bed.target, Place("x", None, None))
