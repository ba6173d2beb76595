"""Gates: which findings an expression speaks of, and when it fails."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.gates import Gate, check
from expunge.report.scorecard import Finding


def finding(metric: str, subject: str, value: float, split: str = "forget") -> Finding:
    return Finding(metric, split, subject, value, value, value, 10, "lower")


FINDINGS = [
    finding("membership.loss.auroc", "npo", 0.55),
    finding("membership.min_k.auroc", "npo", 0.65),
    finding("membership.loss.tpr_at_1_fpr", "npo", 0.99),
    finding("membership.loss.auroc", "target", 0.95),
    finding("membership.loss.auroc", "gold", 0.94),
    finding("accuracy", "npo", 0.2),
    finding("accuracy", "npo", 0.9, "retain"),
    finding("accuracy", "grad-diff", 0.4),
    finding("forget_quality", "npo", float("nan")),
]


@pytest.mark.parametrize(
    ("text", "failing"),
    [
        (
            "membership.auroc>0.6",
            [0.65],
        ),  # the short form takes every detector, the references are left alone
        ("membership.auroc>=0.65", [0.65]),
        ("membership.auroc>0.65", []),
        ("membership.loss.auroc>0.5", [0.55]),
        ("membership.auroc:target > 0.6", [0.95]),
        ("membership.min-k.auroc > .6", [0.65]),
        ("accuracy<=0.9", [0.2, 0.9, 0.4]),
        ("accuracy@retain<0.95", [0.9]),
        ("accuracy@forget:grad_diff>1e-1", [0.4]),
        ("accuracy@forget:NPO>0.3", []),
    ],
)
def test_failures(text: str, failing: list[float]) -> None:
    assert [f.value for f in Gate.parse(text).failures(FINDINGS)] == failing


@pytest.mark.parametrize("text", ["forget_quality>0.5", "forget_quality<0.5"])
def test_a_value_that_could_not_be_computed_fails_either_way(text: str) -> None:
    assert len(Gate.parse(text).failures(FINDINGS)) == 1


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy=0.5", ">0.5", "accuracy>high", "accuracy>nan", "a b>1", "a>1 2"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(InputError, match=r"must be METRIC\[@SPLIT\]"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("acuracy>1", "no metric 'acuracy' was measured. Did you mean 'accuracy'?"),
        ("loss.auroc>1", "no metric 'loss.auroc' was measured."),  # a short form keeps the first component
        ("accuracy@forgt>1", "accuracy was not measured on 'forgt'. Did you mean 'forget'?"),
        ("accuracy:npoo>1", "accuracy was not measured of 'npoo'. Did you mean 'npo'?"),
    ],
)
def test_what_was_not_measured_is_an_error(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Gate.parse(text).failures(FINDINGS)
    assert sentence in str(caught.value)


def test_no_unlearned_model() -> None:
    with pytest.raises(InputError, match="of no unlearned model, only of target; name one, as in accuracy:target"):
        Gate.parse("accuracy>1").failures([finding("accuracy", "target", 1.0)])


def test_check_tells_each_failure() -> None:
    gates = [Gate.parse("membership.auroc>0.6"), Gate.parse("accuracy@retain<0.5")]
    assert check(gates, FINDINGS) == [
        "gate 'membership.auroc>0.6' failed: membership.min_k.auroc on forget is 0.65 for npo"
    ]
