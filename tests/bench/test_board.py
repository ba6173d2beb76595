"""The leaderboard: means, signs, order, and what becomes of failures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from expunge.bench.board import Board, Mean, Row, markdown, ranked, reference_rows, row_of, to_dict
from expunge.bench.judge import distance_of, excess_of, values_of
from expunge.bench.plot import headline, page, scatter
from expunge.report.assemble import ChannelReading, ModelAudit
from expunge.report.scorecard import Finding, Scorecard

GOLD = {"forget": 0.1, "paraphrase": 0.1, "membership": 0.5, "relearned": 0.2, "retain": 1.0}


def cell(forget: float, utility: float = 1.0, verdict: str = "suppressed", **values: float) -> dict[str, Any]:
    own = {**GOLD, "forget": forget, "retain": utility, **values}
    excess = excess_of(own, GOLD)
    return {
        "values": own, "excess": excess, "distance": distance_of(excess), "utility": utility, "verdict": verdict,
        "seconds": 2.0, "settings": {"lr": 1e-3},
    }  # fmt: skip


def board(*rows: Row) -> Board:
    target = {**GOLD, "forget": 1.0, "paraphrase": 0.9, "membership": 0.99, "relearned": 1.0}
    references = reference_rows([{"values": {"target": target, "gold": GOLD}}] * 2)
    return Board("tiny", (0, 1), 0.9, {"trials": 2, "seeds": 1, "share": 0.5}, references, ranked(rows))


# -- judging ------------------------------------------------------------------------------------------


def test_only_judged_clusters_count(tmp_path: Path) -> None:
    """Clusters 0 and 1 score 1 and 0; 2 scores 0.5 in two rows. Judged: 1 and 2, so (0 + 0.5 + 0.5) / 3."""
    readings = [
        ChannelReading("direct", "", 0.0, [0, 1, 2, 2], [1.0, 0.0, 0.5, 0.5]),
        ChannelReading("paraphrase", "", 0.0, [0, 1], [1.0, 0.25]),
    ]
    ModelAudit("npo", "w", utility=0.3, degenerate=False, readings=readings).save(tmp_path / "audit" / "npo.json")
    findings = [
        Finding("membership.loss.auroc", "forget", "npo", 0.7, 0.0, 1.0, 4, "match-gold"),
        Finding("relearning.held_out_accuracy", "forget", "npo", float("nan"), 0.0, 1.0, 4, "match-gold"),
        Finding("membership.loss.auroc", "forget", "gold", 0.5, 0.0, 1.0, 4, "match-gold"),
    ]
    judged = {"forget": [1, 2], "forget_paraphrase": [1]}
    found = values_of(tmp_path, "npo", judged, Scorecard(findings=findings), 0.8)
    assert found == {"forget": 0.333333, "paraphrase": 0.25, "membership": 0.7, "retain": 0.8}


def test_over_forgetting_is_negative_and_as_far_away() -> None:
    assert excess_of({"forget": 0.0, "retain": 0.5}, GOLD) == {"forget": -0.1}
    assert distance_of({"forget": -0.1}) == distance_of({"forget": 0.1}) == 0.1
    low = row_of("npo", [cell(0.0), cell(0.0)], 2, 0.9, None)
    assert board(low).cells(low)[2] == "−0.100 ± 0.000"
    high = row_of("npo", [cell(0.3)], 1, 0.9, None)
    assert board(high).cells(high)[2] == "+0.200"


# -- rows ---------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation_over_seeds() -> None:
    row = row_of("npo", [cell(0.1), cell(0.2), cell(0.3)], 3, 0.9, None)
    assert row.excess["forget"] == Mean(0.1, 0.1, 3)
    assert row.distance == Mean(0.025, 0.025, 3)  # a quarter of it: the other three values are gold's
    assert row.verdicts == {"suppressed": 3}
    assert Mean.of([]) is None
    assert Mean.of([0.5]) == Mean(0.5, None, 1)


def test_order_floor_first_then_distance_then_the_rest() -> None:
    rows = [
        row_of("broken", [], 2, 0.9, ("failed", "The loss is not finite.")),
        row_of("damaging", [cell(0.1, 0.5)] * 2, 2, 0.9, None),
        row_of("far", [cell(0.9)] * 2, 2, 0.9, None),
        row_of("near", [cell(0.2)] * 2, 2, 0.9, None),
        row_of("moe-only", [], 0, 0.9, ("not-run", "needs experts")),
        row_of("half", [cell(0.1)], 2, 0.9, None),
    ]
    assert [(row.name, row.status) for row in ranked(rows)] == [
        ("near", "ranked"),
        ("far", "ranked"),
        ("damaging", "below-floor"),
        ("half", "unfinished"),
        ("broken", "failed"),
        ("moe-only", "not-run"),
    ]


def test_exactly_the_floor_is_enough() -> None:
    assert row_of("npo", [cell(0.1, 0.9)], 1, 0.9, None).status == "ranked"
    assert row_of("npo", [cell(0.1, 0.899)], 1, 0.9, None).status == "below-floor"


def test_a_failed_seed_keeps_the_numbers_of_the_others_but_no_rank() -> None:
    row = row_of("npo", [cell(0.1)], 2, 0.9, ("failed", "seed 1: no memory."))
    assert row.status == "failed"
    assert row.distance is not None
    assert row.note == "seed 1: no memory. (1 of 2 seeds done)"


def test_gold_is_at_no_distance_from_itself() -> None:
    rows = {row.name: row for row in board().references}
    assert rows["gold"].distance == Mean(0.0, 0.0, 2)
    assert rows["target"].excess["forget"].mean == 0.9


# -- files --------------------------------------------------------------------------------------------

ROWS = (
    row_of("npo", [cell(0.2), cell(0.3)], 2, 0.9, None),
    row_of("grad-diff", [cell(0.0, 0.5)] * 2, 2, 0.9, None),
    row_of("rmu", [], 2, 0.9, ("failed", "a | b <script>")),
    row_of("router", [], 0, 0.9, ("not-run", "needs a mixture-of-experts model")),
)


def test_plain_data_names_every_method_and_its_state() -> None:
    found = json.loads(json.dumps(to_dict(board(*ROWS)), allow_nan=False))
    assert [(m["name"], m["rank"], m["status"]) for m in found["methods"]] == [
        ("npo", 1, "ranked"),
        ("grad-diff", None, "below-floor"),
        ("rmu", None, "failed"),
        ("router", None, "not-run"),
    ]
    assert found["methods"][0]["excess"]["forget"] == {"mean": 0.15, "std": 0.070711, "n": 2}
    assert found["methods"][3]["note"] == "needs a mixture-of-experts model"
    assert [r["name"] for r in found["references"]] == ["target", "gold"]


def test_every_line_of_the_markdown_table_has_the_same_columns() -> None:
    text = markdown(board(*ROWS))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| 1 | NPO |" in text
    assert "| below floor | grad-diff |" in text
    assert "a \\| b" in text
    assert "Gold's own values: forget 0.10" in text


def test_the_page_draws_marks_for_gold_target_and_each_method_and_escapes_what_it_is_told() -> None:
    html = page(board(*ROWS))
    (picture,) = scatter(board(*ROWS))
    for role, count in (("target", 1), ("gold", 1), ("unlearned", 2)):
        assert len(re.findall(rf'class="mark {role}"', picture)) == count
    assert ">NPO<" in picture
    assert 'class="zone"' in picture
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")


def test_the_headline_is_the_first_ranked_method() -> None:
    assert headline(board(*ROWS)) == "NPO comes closest to gold: 0.037 ± 0.018 away on average."
    assert headline(board(*ROWS[1:])) == "No method has been ranked."
    assert page(board())


def test_the_headline_passes_over_a_method_that_is_gold_itself() -> None:
    itself = row_of("retrain", [{**cell(0.0), "distance": 0.0}] * 2, 2, 0.9, None)
    assert headline(board(itself, ROWS[0])).startswith("NPO comes closest")


@pytest.mark.parametrize("rows", [(), ROWS[2:]])
def test_a_board_without_numbers_is_still_a_board(rows: tuple[Row, ...]) -> None:
    empty = Board("tiny", (0,), 0.9, {}, (), rows)
    assert scatter(empty) == []
    assert page(empty)
    assert markdown(empty).startswith("# Bench tiny")
