"""Whether forgetting depends on the form of the question: answer probability per form, bias and spread (ORT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, direction, mean_finding, row_nll
from expunge.language.metrics.probability import answer_probability
from expunge.report.scorecard import Finding, Scorecard
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

UNKNOWN = float("nan")


class FormBiasValue(NamedTuple):
    """How far forgetting in the trained form carries over, and how far the forms lie apart."""

    bias: float
    spread: float


def relative_change(score: float, original: float) -> float:
    """(p - p_0) / p_0: -1 is fully forgotten, 0 unchanged; NaN where the original model gives 0.

    >>> relative_change(0.25, 1.0)
    -0.75
    """
    return (score - original) / original if original else UNKNOWN


def form_bias(drops: Mapping[str, float], trained: str) -> FormBiasValue:
    """Bias = mean over the forms b other than the trained a of drop(b) / drop(a); spread = max - min of the drops.

    drop is minus the relative change of the answer probability. A bias of 1 is forgetting that does not depend on
    the form; 0 hides the answers in the trained form alone; NaN where the trained form itself was not forgotten at
    all (drop 0), or there is no other form.

    Args:
        drops: Form to drop.
        trained: The form a that the method saw.

    Raises:
        InputError: The trained form is not among them.
    """
    if trained not in drops:
        raise InputError(f"form-bias: trained={trained!r} is not among the forms {', '.join(drops)}.")
    others = [drop for form, drop in drops.items() if form != trained]
    own = drops[trained]
    bias = float(np.mean(others)) / own if others and own else UNKNOWN
    return FormBiasValue(bias, form_spread(drops))


def form_spread(drops: Mapping[str, float]) -> float:
    """Largest minus smallest drop; NaN if one is."""
    values = np.array(list(drops.values()))
    return float(values.max() - values.min())


def scorecard_form_bias(
    card: Scorecard, subject: str, trained: str, forms: tuple[str, ...], *, group: str = "forget"
) -> FormBiasValue:
    """`form_bias` of one model beside the target, from a finished scorecard.

    Args:
        card: Holds ``form_probability`` of both models.
        subject: The model's name.
        trained: The form the method saw.
        forms: All forms.
        group: ``forget`` or ``retain``.

    Raises:
        InputError: A form was not measured on one of the two.
    """
    drops = {}
    for form in forms:
        pair = [card.value("form_probability", f"{group}_{form}", name) for name in (subject, "target")]
        if pair[0] is None or pair[1] is None:
            missing = subject if pair[0] is None else "target"
            raise InputError(f"form-bias: form_probability on {group}_{form} was not measured for {missing}.")
        drops[form] = -relative_change(pair[0], pair[1])
    return form_bias(drops, trained)


@dataclass(frozen=True)
class FormBias:
    """Answer probability in each form of the question, and how much forgetting differs between forms.

    A form's score is the mean of p = exp(mean log-probability of the answer's tokens), the end of sequence left
    out: one letter for a multiple choice, the lines of letters for a spelling. Splits are named GROUP_FORM. A guess
    is worth more in some forms (a quarter for a letter), so a model that knows nothing has a bias below 1 too: hold
    bias and spread against gold's.

    Attributes:
        forms: Forms measured. Source: paper.
        trained: The form the methods are trained on; empty where they see other text, and then there is no bias.
            Source: ours.
        groups: Sets measured in each form. Source: paper.
    """

    paper: ClassVar[str] = "Ye, Zhang, Wu, LLM Unlearning Should Be Form-Independent, 2025 (arXiv 2506.07795)"
    needs_gold: ClassVar[bool] = False

    forms: tuple[str, ...] = ("fb", "qa", "mcp", "sub")
    trained: str = "qa"
    groups: tuple[str, ...] = ("forget", "retain")

    def __post_init__(self) -> None:
        if not self.forms or not self.groups:
            raise InputError("form-bias: forms and groups must not be empty.")
        if self.trained and self.trained not in self.forms:
            raise InputError(f"form-bias: trained={self.trained!r} is not among the forms {', '.join(self.forms)}.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``form_probability`` for each group and form.

        Raises:
            InputError: A split is missing or empty, or a row has no labelled token.
            RunError: A NaN loss.
        """
        return [
            mean_finding("form_probability", split, model, _probabilities(model, split))
            for split in (f"{group}_{form}" for group in self.groups for form in self.forms)
        ]

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """Findings beside the target: ``form_change`` for each split, ``form_bias`` and ``form_spread`` for forget.

        Intervals resample clusters, the same ones in both models and all forms.

        Raises:
            InputError: See `measure`; or the two were measured on other records.
            RunError: A NaN loss.
        """
        found = []
        for group in self.groups:
            rows, clusters = self._pairs(group, model, target)
            for number, form in enumerate(self.forms):
                own = rows[:, 2] == number
                interval = cluster_bootstrap(rows[own], clusters[own], _change)
                split = f"{group}_{form}"
                found.append(Finding("form_change", split, model.name, *interval, int(own.sum()), direction(split)))
            if group == "forget":
                found += self._over_forms(model.name, rows, clusters)
        return found

    def _pairs(self, group: str, model: EvidenceStore, target: EvidenceStore) -> tuple[Floats, Floats]:
        """[n, 3] probability under the model, under the target, and number of the form; [n] cluster names."""
        rows, clusters = [], []
        for number, form in enumerate(self.forms):
            split = f"{group}_{form}"
            records = model.records(split)
            if records != target.records(split):
                raise InputError(f"form-bias: split {split!r} of {model.name} and of the target differ.")
            pair = [_probabilities(store, split) for store in (model, target)]
            rows.append(np.column_stack([*pair, np.full(len(records), float(number))]))
            clusters += [r.cluster or f"\0{split} {i}" for i, r in enumerate(records)]
        names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        return np.concatenate(rows), np.array([names[c] for c in clusters], dtype=np.float64)

    def _over_forms(self, name: str, rows: Floats, clusters: Floats) -> list[Finding]:
        """Bias and spread over the forms of the forget set."""

        def drops(part: Floats) -> dict[str, float]:
            by_form = {form: part[part[:, 2] == number] for number, form in enumerate(self.forms)}
            return {form: -_change(own) if len(own) else UNKNOWN for form, own in by_form.items()}

        def bias(part: Floats) -> float:
            return form_bias(drops(part), self.trained).bias

        def spread(part: Floats) -> float:
            return form_spread(drops(part))

        found = []
        if self.trained:  # gold's own bias is the ideal: forms differ in what a guess is worth
            drawn = cluster_bootstrap(rows, clusters, bias)
            found.append(Finding("form_bias", "forget", name, *drawn, len(rows), "match-gold"))
        drawn = cluster_bootstrap(rows, clusters, spread)
        return [*found, Finding("form_spread", "forget", name, *drawn, len(rows), "match-gold")]


def _probabilities(store: EvidenceStore, split: str) -> Floats:
    return answer_probability(row_nll(store.answers(split).without_eos(), split))


def _change(rows: Floats) -> float:
    return relative_change(float(rows[:, 0].mean()), float(rows[:, 1].mean()))
