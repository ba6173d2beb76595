"""Form bias: written-down probabilities of one fact in several forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.metrics.form_bias import (
    FormBias,
    form_bias,
    form_spread,
    relative_change,
    scorecard_form_bias,
)
from expunge.report.scorecard import Finding, Scorecard

FORMS = ("fb", "qa", "mcp", "sub")
KNOWN = 0.8


def model(split: Any, store: Any, name: str, **levels: float) -> Any:
    """A model that gives every answer of a form the same probability, two tokens and an end of sequence each."""

    def part(p: float) -> Any:
        return split([[p, p, 0.001]] * 6, clusters=[0, 0, 1, 1, 2, 2])

    data = {f"forget_{form}": part(levels.get(form, KNOWN)) for form in FORMS}
    data |= {f"retain_{form}": part(KNOWN) for form in FORMS}
    return store(name, **data)


def values(found: list[Finding]) -> dict[tuple[str, str], float]:
    return {(f.metric, f.split): f.value for f in found}


def test_a_forms_score_is_the_mean_length_normalised_probability(split: Any, store: Any) -> None:
    """p = (0.5 * 0.125)^(1/2) = 0.25 and 0.75: the mean is 0.5, whatever the end of sequence says."""
    rows = split([[0.5, 0.125, 1e-6], [0.75, 0.9]])
    data = {f"forget_{form}": rows for form in FORMS}
    found = FormBias(groups=("forget",)).measure(store("npo", **data), None)
    assert [(f.metric, f.split, f.direction) for f in found] == [
        ("form_probability", f"forget_{form}", "match-gold") for form in FORMS
    ]
    assert all(f.value == pytest.approx(0.5) for f in found)


def test_hiding_in_the_trained_form_alone_has_bias_zero(split: Any, store: Any) -> None:
    target, hides = model(split, store, "target"), model(split, store, "npo", qa=0.2)
    found = values(FormBias().compare(hides, target))
    assert found["form_bias", "forget"] == 0
    assert found["form_spread", "forget"] == pytest.approx(0.75)
    assert found["form_change", "forget_qa"] == pytest.approx(-0.75)
    assert found["form_change", "forget_mcp"] == found["form_change", "retain_qa"] == 0


def test_hiding_in_all_forms_has_bias_one(split: Any, store: Any) -> None:
    target = model(split, store, "target")
    hides = model(split, store, "npo", **dict.fromkeys(FORMS, 0.2))
    found = FormBias().compare(hides, target)
    by_name = values(found)
    assert by_name["form_bias", "forget"] == pytest.approx(1)
    assert by_name["form_spread", "forget"] == pytest.approx(0)
    assert {f.subject for f in found} == {"npo"}


def test_bias_is_the_mean_of_the_ratios() -> None:
    """drops 0.6 in the trained form, 0.3, 0.15 and 0 elsewhere: (0.5 + 0.25 + 0) / 3."""
    drops = {"qa": 0.6, "fb": 0.3, "mcp": 0.15, "sub": 0.0}
    found = form_bias(drops, "qa")
    assert found.bias == pytest.approx(0.25)
    assert found.spread == pytest.approx(0.6)
    assert form_spread(drops) == found.spread


def test_what_is_undefined_is_not_a_number() -> None:
    assert math.isnan(form_bias({"qa": 0.0, "fb": 0.3}, "qa").bias)
    assert math.isnan(form_bias({"qa": 0.5}, "qa").bias)
    assert math.isnan(relative_change(0.3, 0.0))
    assert math.isnan(form_spread({"qa": 0.5, "fb": float("nan")}))


def test_intervals_resample_people_over_all_forms_at_once(split: Any, store: Any) -> None:
    """Person 0 is hidden in all forms, persons 1 and 2 in none: each form's drop is the share of person 0, so the
    bias is 1 in every resample that drew him, and its interval is a point."""

    def part(first: float) -> Any:
        return split([[p, 0.5] for p in (first, first, KNOWN, KNOWN, KNOWN, KNOWN)], clusters=[0, 0, 1, 1, 2, 2])

    stores = [
        store(name, **{f"forget_{form}": part(p) for form in FORMS}) for name, p in (("npo", 0.1), ("target", 0.8))
    ]
    found = {f.metric: f for f in FormBias(groups=("forget",)).compare(*stores) if f.split == "forget"}
    assert found["form_bias"].low == pytest.approx(1)
    assert found["form_bias"].high == pytest.approx(1)
    changes = [f for f in FormBias(groups=("forget",)).compare(*stores) if f.metric == "form_change"]
    assert all(f.low < f.value < f.high for f in changes)
    assert all(f.n == 6 for f in changes)


def test_two_values_of_a_scorecard_give_the_same_bias(split: Any, store: Any) -> None:
    target, hides = model(split, store, "target"), model(split, store, "npo", qa=0.2, fb=0.4)
    metric = FormBias()
    card = Scorecard(findings=metric.measure(target, None) + metric.measure(hides, None))
    bias, spread = scorecard_form_bias(card, "npo", "qa", FORMS)
    found = values(metric.compare(hides, target))
    assert bias == pytest.approx(found["form_bias", "forget"]) == pytest.approx((0.5 / 0.75) / 3)
    assert spread == pytest.approx(found["form_spread", "forget"])
    with pytest.raises(InputError, match="forget_fb was not measured for rmu"):
        scorecard_form_bias(card, "rmu", "qa", FORMS)


def test_without_a_trained_form_there_is_a_spread_and_no_bias(split: Any, store: Any) -> None:
    target, hides = model(split, store, "target"), model(split, store, "npo", qa=0.2)
    found = values(FormBias(trained="").compare(hides, target))
    assert ("form_bias", "forget") not in found
    assert found["form_spread", "forget"] == pytest.approx(0.75)


def test_wrong_settings_and_evidence_are_refused(split: Any, store: Any) -> None:
    with pytest.raises(InputError, match="trained='essay' is not among the forms fb, qa"):
        FormBias(trained="essay")
    with pytest.raises(InputError, match="trained='essay' is not among the forms qa"):
        form_bias({"qa": 1.0}, "essay")
    with pytest.raises(InputError, match="must not be empty"):
        FormBias(forms=())
    target = model(split, store, "target")
    with pytest.raises(InputError, match="No split 'forget_aa'"):
        FormBias(forms=("qa", "aa")).measure(target, None)
    other = model(split, store, "npo")
    other.data["forget_mcp"] = split([[0.5, 0.5]])
    with pytest.raises(InputError, match="split 'forget_mcp' of npo and of the target differ"):
        FormBias().compare(other, target)
    other.data["forget_fb"] = split([[np.nan, 0.5], [0.5, 0.5]])
    with pytest.raises(RunError, match=r"'forget_fb', row 1.*NaN"):
        FormBias().measure(other, None)
    other.data["forget_fb"] = split([[0.5, 0.5], [0.5]])
    with pytest.raises(InputError, match="'forget_fb', row 2"):
        FormBias().measure(other, None)
