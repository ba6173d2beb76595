"""From single audits to excess over gold."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.report.assemble import ChannelReading, ModelAudit, assemble
from expunge.report.scorecard import Finding

CLUSTERS = [0, 0, 1, 1]


def audit(name: str, plain: list[float], relearned: list[float] | None = None, **changes: object) -> ModelAudit:
    readings = [
        ChannelReading("direct", "trained wordings", 0.0, CLUSTERS, plain),
        ChannelReading("unattacked", "trained wordings", 0.0, CLUSTERS, plain),
    ]
    if relearned is not None:
        weak = [0.5 * (a + b) for a, b in zip(plain, relearned, strict=True)]
        readings += [
            ChannelReading("relearn", "4 steps", 4.0, CLUSTERS, weak, dev_score=0.1),
            ChannelReading("relearn", "16 steps", 16.0, CLUSTERS, relearned, dev_score=0.7),
            ChannelReading("relearn", "64 steps", 64.0, CLUSTERS, weak, dev_score=0.4),
        ]
    values = {"weights": name, "utility": 1.0, "degenerate": False, **changes}
    return ModelAudit(name=name, readings=readings, **values)  # type: ignore[arg-type]


def test_excess_and_gap_by_hand() -> None:
    """Target knows everything; gold guesses (0.2, 0.0) in the two clusters; the method answers (0.5, 0).

    Gap per cluster: 1 - 0.2 = 0.8 and 1 - 0 = 1. Direct excess: 0.5 - 0.2 = 0.3 and 0 - 0 = 0.
    After 16 relearning steps the method scores (1.0, 0.5) and gold (0.4, 0.0): excess 0.6 and 0.5.
    """
    audits = {
        "target": audit("target", [1, 1, 1, 1], [1, 1, 1, 1]),
        "gold": audit("gold", [0.4, 0.0, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0]),
        "control": audit("control", [0, 0, 0, 0], [1, 1, 1, 0]),
        "npo": audit("npo", [1.0, 0.0, 0.0, 0.0], [1, 1, 1, 0], utility=0.9),
    }
    card = assemble(audits, {"npo": "removal"}, draws=50)
    assert card.gap == pytest.approx([0.8, 1.0])
    channels = {c.channel: c for c in card.evidence["npo"].channels}
    assert channels["direct"].excess == pytest.approx([0.3, 0.0])
    assert channels["direct"].sizes == [2, 2]
    assert channels["relearn"].budget == "16 steps"
    assert channels["relearn"].excess == pytest.approx([0.6, 0.5])
    assert channels["relearn"].gap == pytest.approx([0.8, 1.0])
    assert card.evidence["npo"].utility_ratio == pytest.approx(0.9)
    assert card.evidence["npo"].intention == "removal"


def test_budget_is_chosen_by_the_control_not_by_the_judged_model() -> None:
    """The control's dev score peaks at 16 steps; without a control the largest budget decides."""
    models = {n: audit(n, [0, 0, 0, 0], [1, 1, 1, 1]) for n in ("target", "gold", "npo")}
    without = assemble(models, {}, draws=10).evidence["npo"].channels
    assert {c.budget for c in without if c.channel == "relearn"} == {"64 steps"}
    with_control = assemble(models | {"control": audit("control", [0] * 4, [1] * 4)}, {}, draws=10)
    assert {c.budget for c in with_control.evidence["npo"].channels if c.channel == "relearn"} == {"16 steps"}


def test_gold_is_held_against_the_spare_seed() -> None:
    audits = {
        "target": audit("target", [1, 1, 1, 1]),
        "gold": audit("gold", [0.2, 0.2, 0.0, 0.0]),
        "gold_2": audit("gold_2", [0.0, 0.0, 0.0, 0.0]),
    }
    card = assemble(audits, {}, draws=10)
    assert card.evidence["gold"].channels[0].excess == pytest.approx([0.2, 0.0])
    assert card.evidence["gold_2"].channels[0].excess == pytest.approx([-0.2, 0.0])
    assert card.gap == pytest.approx([0.9, 1.0])


def test_equal_weights_are_told() -> None:
    audits = {n: audit(n, [1, 1, 1, 1], weights="same") for n in ("target", "gold", "npo")}
    assert assemble(audits, {}, draws=10).evidence["npo"].weights_equal_target


def test_missing_target_or_gold_leaves_no_excess() -> None:
    alone = assemble({"unlearned": audit("unlearned", [0, 0, 0, 0])}, {}, draws=10)
    assert alone.evidence["unlearned"].channels == []
    assert alone.gap == []


def test_attack_findings_carry_intervals_over_clusters() -> None:
    card = assemble({"target": audit("target", [1, 1, 0, 0], [1, 1, 0, 0])}, {}, draws=200)
    (finding,) = [f for f in card.findings if f.metric == "relearning.held_out_accuracy"]
    assert finding.value == pytest.approx(0.5)
    assert (finding.low, finding.high) == (0.0, 1.0)  # two clusters, one all right and one all wrong
    assert finding.n == 4


def test_an_audit_survives_the_disk(tmp_path: Path) -> None:
    before = audit("npo", [1, 0, 0, 0], [1, 1, 0, 0])
    before.findings = [Finding("accuracy", "forget", "npo", 0.25, 0.0, 0.5, 4, "match-gold")]
    before.save(tmp_path / "npo.json")
    assert ModelAudit.load(tmp_path / "npo.json") == before
