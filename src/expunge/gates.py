"""Gates: expressions such as ``membership.auroc>0.6`` under which an audit fails (exit code 1).

``METRIC[@SPLIT][:SUBJECT] OP NUMBER`` with OP one of ``> >= < <=``. The gate fails when the comparison holds
for any finding it speaks of:

- METRIC is a finding's dotted name, or a short form with its first and last components in which some between
  are left out: ``membership.auroc`` speaks of ``membership.loss.auroc``, ``membership.zlib.auroc``... A name
  that is measured exactly as written is never read as a short form.
- without ``@SPLIT`` every split is compared;
- without ``:SUBJECT`` every unlearned model is compared, never the target, gold or control models.

A value that could not be computed (NaN) fails its gate: what was not measured cannot clear a model.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from expunge.catalog import normalise
from expunge.errors import InputError, nearest
from expunge.report.scorecard import Finding

REFERENCE_MODELS = frozenset({"target", "gold", "gold_2", "control"})
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_FORM = re.compile(
    r"\s*(?P<metric>[\w.-]+)(?:@(?P<split>[\w-]+))?(?::(?P<subject>[\w.-]+))?\s*(?P<op>[<>]=?)\s*(?P<number>\S+)\s*"
)


@dataclass(frozen=True)
class Gate:
    """One parsed expression.

    Attributes:
        text: The expression as typed.
        metric: Dotted name or short form.
        split: Split to compare; None for all.
        subject: Model to compare; None for every unlearned model.
        op: ``>``, ``>=``, ``<`` or ``<=``.
        number: The threshold.
    """

    text: str
    metric: str
    split: str | None
    subject: str | None
    op: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read an expression.

        Raises:
            InputError: It has another form.

        >>> gate = Gate.parse("membership.auroc@forget:npo > 0.6")
        >>> gate.metric, gate.split, gate.subject, gate.op, gate.number
        ('membership.auroc', 'forget', 'npo', '>', 0.6)
        """
        match = _FORM.fullmatch(text)
        try:
            number = float(match["number"]) if match else math.nan
        except ValueError:
            number = math.nan
        if match is None or math.isnan(number):
            form = "METRIC[@SPLIT][:SUBJECT] OP NUMBER with OP one of > >= < <="
            raise InputError(f"--fail-on {text!r}: must be {form}, for example 'membership.auroc>0.6'.")
        return cls(text, match["metric"], match["split"], match["subject"], match["op"], number)

    def failures(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that fail this gate.

        Raises:
            InputError: It speaks of a metric, split or model that was not measured.
        """
        found = list(findings)
        metrics = {f.metric for f in found}
        named = {m for m in metrics if _same(m, self.metric)}
        named = named or {m for m in metrics if _short(self.metric, m)}
        if not named:
            raise self._refused(f"no metric {self.metric!r} was measured.{nearest(self.metric, metrics)}")
        found = self._narrow([f for f in found if f.metric in named])
        compare = _OPERATORS[self.op]
        return [f for f in found if math.isnan(f.value) or compare(f.value, self.number)]

    def _narrow(self, found: list[Finding]) -> list[Finding]:
        """Keep the split and the models the gate speaks of."""
        if self.split is not None:
            splits = {f.split for f in found}
            found = [f for f in found if _same(f.split, self.split)]
            if not found:
                where = f"{self.metric} was not measured on {self.split!r}."
                raise self._refused(where + nearest(self.split, splits))
        subjects = {f.subject for f in found}
        if self.subject is not None:
            chosen = {s for s in subjects if _same(s, self.subject)}
            if not chosen:
                whom = f"{self.metric} was not measured of {self.subject!r}."
                raise self._refused(whom + nearest(self.subject, subjects))
        else:
            chosen = subjects - REFERENCE_MODELS
            if not chosen:
                measured = ", ".join(sorted(subjects))
                raise self._refused(
                    f"{self.metric} was measured of no unlearned model, only of {measured}; name one, as in "
                    f"{self.metric}:target."
                )
        return [f for f in found if f.subject in chosen]

    def _refused(self, why: str) -> InputError:
        return InputError(f"--fail-on {self.text!r}: {why}")


def check(gates: Iterable[Gate], findings: Iterable[Finding]) -> list[str]:
    """One sentence for each finding that fails a gate; empty when all pass."""
    found = list(findings)
    return [
        f"gate {gate.text!r} failed: {f.metric} on {f.split} is {f.value:.4g} for {f.subject}"
        for gate in gates
        for f in gate.failures(found)
    ]


def _same(a: str, b: str) -> bool:
    return normalise(a) == normalise(b)


def _short(short: str, metric: str) -> bool:
    """Whether `short` has the first and last components of `metric` and leaves some between them out."""
    parts, whole = normalise(short).split("."), normalise(metric).split(".")
    if len(parts) < 2 or parts[0] != whole[0] or parts[-1] != whole[-1]:
        return False
    rest = iter(whole)
    return all(part in rest for part in parts)
