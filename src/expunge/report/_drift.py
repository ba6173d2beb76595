"""Several erasure requests in turn: what each left behind, as a table and a picture for every method.

``Scorecard.curves["drift"]`` holds for each method one list per column, one entry per request::

    {method: {"by": "request", "request": [1, 2], "records": [48, 24], "metric": "accuracy", "forget": [...],
              "earlier": [None, ...], "retain": [...], "auroc": [...], "verdict": [...], "gold": {"forget": [...], ...},
              "target": {"retain": [...], ...}, "more": {"METRIC@SPLIT": [...]}}}

``forget`` is the score on the records of that very request, ``earlier`` on those of all requests before it,
``retain`` on what has to stay, ``auroc`` the membership attack on the new records. None: not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.report._cards import verdicts_of
from expunge.report._svg import Axis, Series, panel
from expunge.report._view import methods_of
from expunge.report._words import VERDICTS, display_name, metric_label, number, split_label
from expunge.report.scorecard import Scorecard

By = Literal["request", "records"]
PREFERRED = ("accuracy", "rouge_l", "memorization_accuracy", "exact_memorization", "probability")
AUROC = "membership.loss.auroc"
SPLIT_OF = {"forget": "forget", "earlier": "forget_earlier", "retain": "retain"}
WORDS = {"forget": "new records", "earlier": "earlier records", "retain": "kept", "auroc": "detection"}
HEADS = {
    "forget": "This request's records",
    "earlier": "All earlier records",
    "retain": "Retained records",
    "auroc": "Detection (AUROC)",
}
SIZE = (420.0, 250.0)
LEFT, RIGHT, TOP, BOTTOM = 38.0, 300.0, 26.0, 206.0
_SHARE = Axis(0.0, 1.0, BOTTOM, TOP, ticks=(0.0, 0.25, 0.5, 0.75, 1.0), percent=True)


class Measured(NamedTuple):
    """One run of a sequence: which request it carried out, of how many records, and its scorecard if it has one."""

    request: int
    records: int
    card: Scorecard | None


def drift(runs: Sequence[Measured], by: By = "request", show: Sequence[str] = ()) -> dict[str, Any]:
    """The data of the picture and the table (see the module's docstring).

    Args:
        runs: The requests in turn; the last one has a scorecard.
        by: What the picture shows the scores over: the number of the request, or how many records it asked to forget.
        show: Further columns, ``METRIC@SPLIT``.
    """
    last = next((r.card for r in reversed(runs) if r.card is not None), None)
    return {} if last is None else {name: _columns(runs, name, by, show) for name in methods_of(last)}


def _columns(runs: Sequence[Measured], method: str, by: By, show: Sequence[str]) -> dict[str, Any]:
    cards = [run.card for run in runs]
    metric = _metric(cards, method)

    def values(model: str, metric: str, split: str) -> list[float | None]:
        return [None if c is None else _known(c.value(metric, split, model)) for c in cards]

    def scores(model: str) -> dict[str, list[float | None]]:
        found = {key: values(model, metric, split) for key, split in SPLIT_OF.items()}
        return {**found, "auroc": values(model, AUROC, "forget")}

    verdicts = [None if c is None or method not in (v := verdicts_of(c)) else v[method].verdict for c in cards]
    return {
        "by": by,
        "request": [run.request for run in runs],
        "records": [run.records for run in runs],
        "metric": metric,
        **scores(method),
        "verdict": verdicts,
        "gold": scores("gold"),
        "target": scores("target"),
        "more": {key: values(method, *_metric_and_split(key)) for key in show},
    }


def _metric(cards: Sequence[Scorecard | None], method: str) -> str:
    """The score the drift is told in: one that is measured on forget and on retain records, best known first."""
    for card in reversed([c for c in cards if c is not None]):
        on = {s: {f.metric for f in card.findings if (f.split, f.subject) == (s, method)} for s in ("forget", "retain")}
        both = [f.metric for f in card.findings if f.metric in on["forget"] & on["retain"]]
        for name in (*PREFERRED, *both, *sorted(on["forget"])):
            if name in both or (not both and name in on["forget"]):
                return name
    return PREFERRED[0]


def _metric_and_split(key: str) -> tuple[str, str]:
    metric, _, split = key.partition("@")
    return metric, split


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else value


# -- picture ------------------------------------------------------------------------------------------


def picture(method: str, columns: dict[str, Any]) -> str:
    """Scores over the requests; empty with fewer than two points."""
    by = columns["by"]
    at = [float(v) for v in columns[by]]
    found = {key: _points(at, columns[key]) for key in ("retain", "forget", "earlier")}
    gold = _points(at, columns["gold"]["forget"])
    first = next((v for v in columns["target"]["retain"] if v is not None), None)
    if first is not None and found["retain"][0]:
        found["retain"] = ([0.0, *found["retain"][0]], [first, *found["retain"][1]])
    if max(len(xs) for xs, _ in found.values()) < 2:
        return ""
    roles = {"retain": "retain", "forget": "unlearned", "earlier": "earlier"}
    series = [Series("gold", "gold, new", *gold)] if gold[0] else []
    series += [Series(roles[key], WORDS[key], *points, markers=True) for key, points in found.items() if points[0]]
    ticks = (0.0, *sorted(set(at)))
    return panel(
        series,
        Axis(0.0, max(at), LEFT, RIGHT, ticks=ticks),
        _SHARE,
        title=f"{display_name(method)}: scores over {_over(by)}",
        description="; ".join(
            f"{s.label} " + ", ".join(f"{100 * y:.0f}% at {x:g}" for x, y in zip(s.x, s.y, strict=True)) for s in series
        )
        + ".",
        x_label="request" if by == "request" else "records to forget",
        y_label=metric_label(columns["metric"]).name.lower(),
        size=SIZE,
        uid=f"drift-{method}",
    )


def _points(at: list[float], values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    pairs = sorted((x, y) for x, y in zip(at, values, strict=True) if y is not None)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _over(by: By) -> str:
    return "the requests" if by == "request" else "the number of records"


# -- table --------------------------------------------------------------------------------------------


def heads(curves: dict[str, Any]) -> list[str]:
    """Headings of the columns that were measured at all."""
    return ["Request", "Records", *(words for _, words, _ in _measured(curves)), "Verdict"]


def rows(columns: dict[str, Any], curves: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """One method's rows: each cell a value and, beneath it, gold's."""
    out = []
    for i, request in enumerate(columns["request"]):
        cells = [(str(request), ""), (str(columns["records"][i]), "")]
        for key, _, kind in _measured(curves):
            value = columns["more"][key][i] if key in columns["more"] else columns[key][i]
            gold = columns["gold"][key][i] if key in columns["gold"] else None
            below = "" if gold is None or value is None else f"gold {number(gold, kind)}"
            cells.append(("" if value is None else number(value, kind), below))
        out.append([*cells, (_verdict(columns["verdict"][i]), "")])
    return out


def _measured(curves: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(key, heading, kind) of the columns with at least one value, over all methods."""
    first = next(iter(curves.values()))
    kind = metric_label(first["metric"]).kind
    wanted = [(key, words, "number" if key == "auroc" else kind) for key, words in HEADS.items()]
    for key in first["more"]:
        metric, split = _metric_and_split(key)
        label = metric_label(metric)
        wanted.append((key, ", ".join(w for w in (label.name, split_label(split)) if w), label.kind))
    return [
        (key, words, kind)
        for key, words, kind in wanted
        if any(v is not None for c in curves.values() for v in (c["more"].get(key) or c.get(key) or []))
    ]


def _verdict(word: str | None) -> str:
    if word is None:
        return "not audited"
    return f"{VERDICTS.get(word, ('?', ''))[0]} {word.replace('-', ' ')}"


def print_drift(curves: dict[str, Any], console: Console) -> None:
    """Print the table in the terminal."""
    if not curves:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("", *heads(curves)):
        table.add_column(head)
    for method, columns in curves.items():
        for i, cells in enumerate(rows(columns, curves)):
            name = Text(display_name(method) if i == 0 else "", style="bold")
            table.add_row(name, *(Text(f"{value} ({gold})" if gold else value) for value, gold in cells))
    console.print(table)


# -- page ---------------------------------------------------------------------------------------------


def section(curves: dict[str, Any]) -> str:
    """The report's section; empty without data."""
    if not curves:
        return ""
    first = next(iter(curves.values()))
    panels = [(display_name(m), picture(m, c)) for m, c in curves.items()]
    figures = "".join(f"<figure><figcaption>{escape(n)}</figcaption>{svg}</figure>" for n, svg in panels if svg)
    single = " single" if len(panels) == 1 else ""
    told = metric_label(first["metric"]).name
    known = any(v is not None for v in first["gold"]["forget"])
    gold = "; the dashed line is gold on the new records, which it never saw" if known else ""
    lead = (
        "Each request starts from the result of the one before. Forgetting should stay: the earlier records must not "
        "come back, and what is kept must not wear away. At 0 stands the target."
        if first["by"] == "request"
        else "Each request starts from the target and asks for another number of records, all else being equal. At 0 "
        "stands the target."
    )
    return (
        f"<section><h2>{_title(first['by'])}</h2>"
        f'<p class="lead">{lead} The score is “{escape(told)}”{gold}.</p>'
        f'<div class="panels{single}">{figures}</div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_title(first["by"])}">{_table(curves)}</div>'
        "</section>"
    )


def _title(by: By) -> str:
    return "Drift over the requests" if by == "request" else "Over the size of the forget set"


def _table(curves: dict[str, Any]) -> str:
    names = heads(curves)
    top = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    body = ""
    for method, columns in curves.items():
        if len(curves) > 1:
            body += f'<tr class="method"><th colspan="{len(names)}">{escape(display_name(method))}</th></tr>'
        for (request, _), *cells in rows(columns, curves):
            data = "".join(_cell(value, gold) for value, gold in cells)
            body += f'<tr><th scope="row">{escape(request)}</th>{data}</tr>'
    return f'<table class="drift"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: str, gold: str) -> str:
    below = f"<small>{escape(gold)}</small>" if gold else ""
    return f"<td>{f'<b>{escape(value)}</b>' if value else '·'}{below}</td>"


def page(name: str, curves: dict[str, Any], links: Sequence[tuple[str, str]]) -> str:
    """A page of its own for a whole sequence.

    Args:
        name: Of the sequence.
        curves: See `drift`.
        links: Title and address of the reports of the single runs.
    """
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    first = next(iter(curves.values()), None)
    title = "No request has been carried out yet" if first is None else _title(first["by"])
    items = "".join(f'<li><a href="{escape(at)}">{escape(words)}</a></li>' for words, at in links)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(name)}: {title}</title>'
        f"<style>{style}</style></head>"
        f'<body><header><p class="brand"><b>expunge</b> sequence {escape(name)}</p></header><main>'
        f'<section class="hero"><h1>{escape(name)}</h1></section>{section(curves)}'
        f'<section class="run"><h2>The single runs</h2><ul class="notes">{items}</ul></section></main></body></html>\n'
    )
