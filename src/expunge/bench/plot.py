"""``leaderboard.html``: utility against forgetting, gold and target marked, and the table; one file, no network."""

from __future__ import annotations

from html import escape
from pathlib import Path

from expunge.bench.board import Board, Mean, Row, explanations
from expunge.report import plots
from expunge.report._words import display_name
from expunge.report.scorecard import Finding, Scorecard
from expunge.report.verdict import Tolerance

_STYLE = (Path(plots.__file__).parent / "style.css").read_text(encoding="utf-8")
_MORE = """
.board td, .board th { white-space: nowrap; padding: 6px 10px; }
.board td.remark { white-space: normal; min-width: 16em; }
.board td:nth-last-child(2) { white-space: normal; min-width: 9em; }
.board tr.reference th, .board tr.reference td { color: var(--soft); } .board .rank { color: var(--faint); }
"""
_RANK = {"below-floor": "below floor", "failed": "failed", "unfinished": "unfinished", "not-run": "not run"}


def scatter(board: Board) -> list[str]:
    """Retained against forgotten answers: means over seeds with one standard deviation, and a close-up near gold."""
    card = Scorecard()
    for row in (*board.references, *board.rows):
        forget, retain = row.values.get("forget"), row.values.get("retain")
        if forget is not None and retain is not None:
            card.findings += [_finding(row, "forget", forget), _finding(row, "retain", retain)]
    return plots.utility_forgetting(card, Tolerance(utility=board.floor)) if card.findings else []


def _finding(row: Row, split: str, value: Mean) -> Finding:
    spread = value.std or 0.0
    low, high = max(0.0, value.mean - spread), min(1.0, value.mean + spread)
    return Finding("accuracy", split, row.name, value.mean, low, high, value.n, "higher")


def page(board: Board) -> str:
    """The whole page."""
    pictures = "".join(f"<figure>{picture}</figure>" for picture in scatter(board))
    told = "".join(f"<li>{escape(text)}</li>" for text in explanations(board))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Bench {escape(board.name)}</title><style>{_STYLE}{_MORE}</style></head><body>"
        f'<header><p class="brand"><b>expunge</b> bench {escape(board.name)}</p></header><main><section>'
        f"<h1>{escape(headline(board))}</h1></section>"
        '<section><h2>Utility against forgetting</h2><p class="lead">Each mark is the mean over seeds, its whiskers '
        "one standard deviation. A good method stands where gold stands: as little left of what was forgotten, as "
        f'much kept of the rest.</p><div class="scatter">{pictures}</div></section>'
        f'<section><h2>Leaderboard</h2><div class="scroll" tabindex="0">{_table(board)}</div>'
        f'<div class="limits"><ul>{told}</ul></div></section></main></body></html>\n'
    )


def headline(board: Board) -> str:
    """The result in a sentence. A method that is gold itself (retraining from the same seed) is passed over."""
    first = next((row for row in board.rows if row.status == "ranked" and row.distance and row.distance.mean), None)
    if first is None or first.distance is None:
        return "No method has been ranked."
    return f"{display_name(first.name)} comes closest to gold: {first.distance.words()} away on average."


def _table(board: Board) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in ("", *board.headings(), "note"))
    body = "".join(_line(board.cells(row, 2), row, "", "reference") for row in board.references)
    for i, row in enumerate(board.rows):
        body += _line(board.cells(row, 2), row, _RANK.get(row.status, str(i + 1)), "method")
    return f'<table class="board"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _line(found: list[str], row: Row, rank: str, kind: str) -> str:
    name, *cells = (escape(cell) for cell in found)
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    note = f'<td class="remark">{escape(row.note)}</td>'
    return f'<tr class="{kind}"><td class="rank">{rank}</td><th scope="row">{name}</th>{data}{note}</tr>'
