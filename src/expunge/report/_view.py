"""What the report shows, as plain values: the template only lays it out."""

from __future__ import annotations

from typing import Any, NamedTuple

from expunge.report._cards import verdicts_of
from expunge.report._metric_words import AGAINST_GOLD
from expunge.report._sentences import CHANNELS, p_value
from expunge.report._words import (
    ARROWS,
    FAMILIES,
    VERDICTS,
    Family,
    display_name,
    family,
    metric_label,
    number,
    split_label,
)
from expunge.report.scorecard import Finding, Gap, Published, Scorecard
from expunge.report.verdict import REFERENCES

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


class Cell(NamedTuple):
    """One value of the table; ``near``: its interval overlaps gold's; ``way``: the share of the way to gold."""

    value: str
    interval: str
    near: bool
    way: str = ""


class Row(NamedTuple):
    """One finding of every model."""

    name: str
    split: str
    meaning: str
    arrow: str
    wanted: str
    cells: list[Cell]


class Table(NamedTuple):
    """One family of findings."""

    key: str
    title: str
    blurb: str
    rows: list[Row]


def methods_of(scorecard: Scorecard) -> list[str]:
    """The judged or measured models that are not references, in order of appearance."""
    names = [*scorecard.verdicts, *scorecard.evidence, *(f.subject for f in scorecard.findings)]
    return [name for name in dict.fromkeys(names) if name not in REFERENCES]


def columns_of(scorecard: Scorecard) -> list[str]:
    """The table's columns: target and gold where measured, then the methods."""
    measured = {f.subject for f in scorecard.findings}
    return [name for name in ("target", "gold", *methods_of(scorecard)) if name in measured]


def tables(scorecard: Scorecard) -> list[Table]:
    """All findings of target, gold and methods, by family."""
    columns, words = columns_of(scorecard), scorecard.run.get("words")
    records = (words or {}).get("records", "records")  # what the wing calls them
    by_key: dict[tuple[str, str], dict[str, Finding]] = {}
    for f in scorecard.findings:
        by_key.setdefault((f.metric, f.split), {})[f.subject] = f
    ways = {(g.metric, g.split, g.subject): _way(g) for g in scorecard.gaps}
    rows: dict[Family, list[Row]] = {key: [] for key in FAMILIES}
    shown = {(f"harness.{r['metric']}", r["task"]) for r in scorecard.curves.get("suite", {}).get("rows", [])}
    for (metric, split), found in by_key.items():
        if not set(found) & set(columns) or (metric, split) in shown:  # the suite has a table of its own
            continue
        label, arrow = metric_label(metric), ARROWS[next(iter(found.values())).direction]
        cells = [
            _cell(found.get(name), found.get("gold"), label.kind)._replace(way=ways.get((metric, split, name), ""))
            for name in columns
        ]
        if metric in AGAINST_GOLD and "gold" in columns and (spare := found.get("gold_2")) is not None:
            place = columns.index("gold")
            cells[place] = cells[place]._replace(interval=f"a second gold: {number(spare.value, label.kind)}")
        # The attacks and the detectors only ever look at forgotten records: saying so in each row is noise.
        attacked = family(metric, split) in ("membership", "attacks") and split == "forget"
        where = "" if attacked else split_label(split, words)
        section = rows[family(metric, split)]
        # Rows often share a meaning (five detectors, one measurement on five splits): explain it once.
        meaning = label.meaning.replace("records", records)
        meaning = meaning if meaning not in {r.meaning for r in section} else ""
        section.append(Row(label.name, where, meaning, *arrow, cells))
    return [
        Table(key, title, meaning.replace("records", records), rows[key])
        for key, (title, meaning) in FAMILIES.items()
        if rows[key]
    ]


def _cell(f: Finding | None, gold: Finding | None, kind: Any) -> Cell:
    if f is None:
        return Cell("", "", False)
    known = f.low == f.low and f.high == f.high and f.high > f.low
    interval = f"{number(f.low, kind).rstrip('%')}–{number(f.high, kind)}" if known else ""
    near = (
        f.direction == "match-gold"
        and gold is not None
        and f.subject != "gold"
        and f.low <= gold.high
        and gold.low <= f.high
    )
    return Cell(number(f.value, kind), interval, near)


def _way(gap: Gap) -> str:
    """A normalised gap as it is printed: how far from the target towards gold, or past it."""
    return f"→ {100 * gap.value:.0f}%".replace("-", "−")


class Ability(NamedTuple):
    """One task of the test suite: every model's value, and for methods the change from the target."""

    name: str
    n: int
    cells: list[tuple[str, str, str, str]]  # value, change with its interval, kept or lost, McNemar's p


def abilities(scorecard: Scorecard) -> list[Ability]:
    """The test suite's tasks, in their order, with one cell for each column of the tables."""
    rows = scorecard.curves.get("suite", {}).get("rows", [])
    by_task: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault((row["task"], row["metric"]), {})[row["model"]] = row
    columns = columns_of(scorecard)
    return [
        Ability(
            f"{task.replace('_', ' ')} ({metric})",
            next(iter(models.values()))["n"],
            [_ability(models.get(name)) for name in columns],
        )
        for (task, metric), models in by_task.items()
    ]


def _ability(row: dict[str, Any] | None) -> tuple[str, str, str, str]:
    if row is None:
        return "", "", "", ""
    change = row.get("change")
    if not change:
        return number(row["value"], "number"), "", "", ""
    words = f"{change['value']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})".replace("-", "−")
    return (
        number(row["value"], "number"),
        words,
        change["verdict"],
        "" if change["p"] is None else p_value(change["p"]),
    )


class Printed(NamedTuple):
    """Published values of one finding beside what was measured here."""

    name: str
    split: str
    published: list[tuple[str, str, str, str]]  # model, method, value, source
    measured: list[tuple[str, str]]  # model, value


def published(scorecard: Scorecard) -> list[Printed]:
    """The benchmark's published numbers, with this run's beside them."""
    columns = columns_of(scorecard)
    rows: dict[tuple[str, str], list[Published]] = {}
    for p in scorecard.published:
        rows.setdefault((p.metric, p.split), []).append(p)
    shown = []
    for (metric, split), entries in rows.items():
        label = metric_label(metric)
        values = [(name, scorecard.value(metric, split, name)) for name in columns]
        shown.append(
            Printed(
                label.name,
                split_label(split, scorecard.run.get("words")),
                [(p.model, p.method, number(p.value, label.kind), p.source) for p in entries],
                [(display_name(name), number(v, label.kind)) for name, v in values if v is not None],
            )
        )
    return shown


def headline(scorecard: Scorecard) -> str:
    """The verdict, or all of them, as one sentence."""
    verdicts = verdicts_of(scorecard)
    if not verdicts:
        return "No method has been judged yet."
    if len(verdicts) == 1:
        name, verdict = next(iter(verdicts.items()))
        return f"{display_name(name)}: {verdict.verdict.replace('-', ' ')}."
    words = [v.verdict for v in verdicts.values()]
    cleared = words.count("consistent-with-removal")
    count = _NUMBERS[len(words)] if len(words) < len(_NUMBERS) else str(len(words))
    who = "None is" if cleared == 0 else "One is" if cleared == 1 else f"{cleared} are"
    return f"{count} methods were audited. {who} consistent with removal."


def tally(scorecard: Scorecard) -> list[dict[str, Any]]:
    """How many methods got each verdict, worst first."""
    words = [v.verdict for v in verdicts_of(scorecard).values()]
    return [
        {
            "word": word,
            "spoken": word.replace("-", " "),
            "glyph": glyph,
            "gloss": gloss,
            "count": words.count(word),
        }
        for word, (glyph, gloss) in VERDICTS.items()
        if word in words
    ]


def glossary(scorecard: Scorecard) -> dict[str, list[tuple[str, str]]]:
    """Words a reader may look up: the verdicts, the attacks that were run, the sets of records."""
    channels = {c.channel for e in scorecard.evidence.values() for c in e.channels}
    words = scorecard.run.get("words", {})
    meanings = {**CHANNEL_MEANINGS, **words}
    return {
        "verdicts": [(word.replace("-", " "), gloss) for word, (_, gloss) in VERDICTS.items()],
        "channels": [
            (words.get(f"channel {key}", name), meanings[key]) for key, name in CHANNELS.items() if key in channels
        ],
    }


CHANNEL_MEANINGS = {
    "direct": "The forgotten facts are simply asked for.",
    "paraphrase": "They are asked for in other words.",
    "relearn": (
        "The model is briefly trained on some forgotten records, then asked about others. A model that "
        "never knew them learns nothing about them; one that hides them starts to talk."
    ),
    "benign-relearn": "The same, but trained on something that has nothing to do with the forgotten data.",
    "quantise-8": "The weights are rounded to 8 bits, which can undo small edits.",
    "quantise-4": "The weights are rounded to 4 bits, which can undo small edits.",
    "latent": "One direction is added to the model's hidden states to make it talk.",
    "inside": "The facts are read from the hidden states instead of the answers.",
    "input": "Prompts are searched for that make the model talk.",
}
