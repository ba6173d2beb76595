"""RWKU's membership means and the AUROC beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.methods.icu import ICU
from expunge.language.metrics.rwku_membership import RwkuMembership, detector_name
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.membership import compressed_bytes
from expunge.report.scorecard import Finding
from tiny_bed import Bed

ALL = RwkuMembership(ks=(0.1, 0.2, 0.5, 1.0), draws=20)


def values(found: list[Finding]) -> dict[tuple[str, str], float]:
    return {(f.metric.removeprefix("rwku.membership."), f.split): f.value for f in found}


def test_a_uniform_model_has_the_loss_ln_v(store: Any, split: Any, scores: Any) -> None:
    """ln 50 for any text and every share of tokens; telling the sets apart by it is guessing."""
    p = 1 / 50
    flat = scores([[p] * (2 + i % 3) for i in range(8)], mean=math.log(p), variance=0.0)
    part = split(flat)
    found = values(ALL.measure(store(forget_mia=part, retain_mia=part), None))
    for name in ("loss", *(detector_name("min_k", k) for k in ALL.ks)):
        assert found[name, "forget_mia"] == found[name, "retain_mia"] == pytest.approx(math.log(50))
        assert found[f"{name}.auroc", "forget_mia"] == 0.5


def test_all_tokens_of_min_k_are_the_loss(store: Any, split: Any) -> None:
    """k = 1 averages every token; the end of the text, of probability .01 here, is none of them."""
    rows = [[0.5, 0.25, 0.01], [0.1, 0.9, 0.3, 0.01]]
    found = values(ALL.measure(store(forget_mia=split(rows), retain_mia=split(rows[:1])), None))
    expected = np.mean([-np.log(row[:-1]).mean() for row in rows])
    assert found["min_k_100", "forget_mia"] == pytest.approx(found["loss", "forget_mia"]) == pytest.approx(expected)
    assert found["min_k_10", "forget_mia"] == pytest.approx(np.mean([-math.log(0.25), -math.log(0.1)]))


def test_means_are_signed_as_printed_and_the_auroc_is_that_of_members(store: Any, split: Any) -> None:
    """A forgotten text is less likely: its loss is higher, and it looks less like a member."""
    forgotten, kept = [[0.01, 0.02, 0.5]] * 3, [[0.9, 0.8, 0.5]] * 3
    measured = ALL.measure(store(forget_mia=split(forgotten), retain_mia=split(kept)), None)
    found = values(measured)
    for name in ("loss", "zlib", "min_k_20", "min_k_plus_plus_20"):
        assert found[name, "forget_mia"] > found[name, "retain_mia"]
        assert found[f"{name}.auroc", "forget_mia"] == 0.0
    texts = [f"answer {i}" for i in range(3)]
    loss = found["loss", "forget_mia"]
    assert found["zlib", "forget_mia"] == pytest.approx(np.mean(loss / compressed_bytes(texts)))
    assert {f.direction for f in measured} == {"match-gold"}


def test_min_k_plus_plus_is_the_mean_of_standardised_tokens(store: Any, split: Any, scores: Any) -> None:
    """z = (ln p - mu) / sigma with mu = -2, sigma^2 = 4: minus the mean over the lowest half of two tokens."""
    part = split(scores([[0.5, 0.1]], has_eos=False, mean=-2.0, variance=4.0))
    found = values(replace(ALL, ks=(0.5,)).measure(store(forget_mia=part, retain_mia=part), None))
    assert found["min_k_plus_plus_50", "forget_mia"] == pytest.approx(-(math.log(0.1) + 2) / 2)


def test_a_guards_sentence_conditions_and_is_not_scored(bed: Bed) -> None:
    """As many tokens are scored with it as without; what it says changes how likely they are."""
    texts = [Record("", f"{r.question} {r.answer}", r.cluster) for r in bed.records["forget"][:6]]
    splits = {"forget_mia": texts[:3], "retain_mia": texts[3:]}
    guard = unlearn(ICU(), UnlearnJob(bed.fresh(), bed.forget, [], Training()))
    plain, guarded = (EvidenceStore("m", subject, splits) for subject in (bed.target, guard))
    assert (plain.answers("forget_mia").lengths == guarded.answers("forget_mia").lengths).all()
    own = bed.target.tokenizer(texts[0].answer, add_special_tokens=False)["input_ids"]
    assert plain.answers("forget_mia").lengths[0] == len(own) + 1  # and the end
    a, b = (values(RwkuMembership(draws=5).measure(s, None))["loss", "forget_mia"] for s in (plain, guarded))
    assert a != b


def test_the_sentence_changes_nothing_for_a_model_that_does_not_look_back(bed: Bed) -> None:
    """With attention and blocks switched off only the token itself counts: the common tokens score the same."""
    subject = bed.fresh()
    with torch.no_grad():
        for name, p in subject.model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                p.zero_()
    text = [Record("", f"{bed.forget[0].question} {bed.forget[0].answer}", "a")]
    guard = unlearn(ICU(), UnlearnJob(subject, bed.forget, [], Training()))
    ours, theirs = (EvidenceStore("m", s, {"x": text}).answers("x") for s in (guard, subject))
    assert ours.logprob[1:] == pytest.approx(theirs.logprob[1:], abs=1e-5)  # the first one follows other words


def test_what_is_refused(store: Any, split: Any) -> None:
    with pytest.raises(InputError, match=r"ks: 1.5 must lie in \(0, 1\]"):
        RwkuMembership(ks=(0.5, 1.5))
    with pytest.raises(InputError, match="No split 'retain_mia'"):
        ALL.measure(store(forget_mia=split([[0.5, 0.5]])), None)
