"""The leaderboard: cells put together method by method, as plain data and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.bench.judge import DISTANCES, distance_of, excess_of
from expunge.report._words import display_name, metric_label, split_label

SCHEMA = 1
Status = Literal["ranked", "below-floor", "failed", "unfinished", "not-run"]
ORDER: tuple[Status, ...] = ("ranked", "below-floor", "unfinished", "failed", "not-run")


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and the sample standard deviation (None from a single seed)."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """The mean of some values; None without any.

        >>> Mean.of([1.0, 2.0, 3.0])
        Mean(mean=2.0, std=1.0, n=3)
        """
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(round(statistics.fmean(values), 6), None if spread is None else round(spread, 6), len(values))

    def words(self, digits: int = 3, *, signed: bool = False) -> str:
        """As written in tables.

        >>> Mean(-0.0512, 0.01, 3).words(2, signed=True), Mean(0.5, None, 1).words(2)
        ('−0.05 ± 0.01', '0.50')
        """
        shown = f"{self.mean:{'+' if signed else ''}.{digits}f}".replace("-", "−")
        return shown if self.std is None else f"{shown} ± {self.std:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the board.

    Attributes:
        name: A method, or a reference.
        status: Whether and where it is ranked.
        distance: Mean distance to gold.
        excess: Signed distance of each judged value.
        values: The judged values themselves.
        utility: Share of the target's utility that is left.
        seconds: Unlearning and audit of one cell.
        settings: The settings that were found.
        verdicts: Verdict to number of seeds.
        note: Why it is not ranked, or what a reader should know.
    """

    name: str
    status: Status
    distance: Mean | None = None
    excess: Mapping[str, Mean] = field(default_factory=dict)
    values: Mapping[str, Mean] = field(default_factory=dict)
    utility: Mean | None = None
    seconds: Mean | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Board:
    """The whole leaderboard: references first, then the methods in their order."""

    name: str
    seeds: tuple[int, ...]
    floor: float
    tuning: Mapping[str, Any]
    references: tuple[Row, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> list[str]:
        """The judged values there are."""
        return [key for key in DISTANCES if any(key in row.excess for row in (*self.references, *self.rows))]

    def headings(self, *, wide: bool = True) -> list[str]:
        """Of the columns of `cells`."""
        shown = [_in_words(key) for key in self.tuning.get("show", []) if wide]
        return ["method", "distance", *(DISTANCES[key][0] for key in self.judged), *shown, "utility", "verdicts"]

    def cells(self, row: Row, digits: int = 3, *, wide: bool = True) -> list[str]:
        """A row's cells; excess is signed, utility in percent of the target's; `wide` shows the further findings."""
        excess = [row.excess[key].words(digits, signed=True) if key in row.excess else "–" for key in self.judged]
        keys = self.tuning.get("show", []) if wide else []
        shown = [row.values[key].words(digits) if key in row.values else "–" for key in keys]
        distance = row.distance.words(digits) if row.distance else "–"
        percent = row.utility and Mean(100 * row.utility.mean, row.utility.std and 100 * row.utility.std, row.utility.n)
        verdicts = ", ".join(f"{word} {count}" for word, count in row.verdicts.items())
        kept = f"{percent.words(0)} %" if percent else "–"
        return [display_name(row.name), distance, *excess, *shown, kept, verdicts]

    @property
    def failed(self) -> list[Row]:
        """Methods of which something failed."""
        return [row for row in self.rows if row.status == "failed"]

    @property
    def unfinished(self) -> list[Row]:
        """Methods the time limit cut short."""
        return [row for row in self.rows if row.status == "unfinished"]


def row_of(
    name: str, cells: Sequence[Mapping[str, Any]], seeds: int, floor: float, problem: tuple[Status, str] | None
) -> Row:
    """One method's row.

    Args:
        name: The method.
        cells: Its finished cells.
        seeds: Number of cells there should be.
        floor: Share of the target's utility that has to be kept.
        problem: What kept other cells from being finished: status and sentence.
    """
    if problem is None and len(cells) < seeds:
        problem = ("unfinished", f"{len(cells)} of {seeds} seeds done")
    utility = Mean.of([cell["utility"] for cell in cells])
    kept: Status = "ranked" if utility is not None and utility.mean >= floor else "below-floor"
    note = "" if problem is None else problem[1]
    if problem and cells:
        note = f"{note} ({len(cells)} of {seeds} seeds done)" if problem[0] == "failed" else note
    verdicts = [cell["verdict"] for cell in cells if cell.get("verdict")]
    return Row(
        name=name,
        status=problem[0] if problem else kept,
        distance=Mean.of([cell["distance"] for cell in cells]),
        excess=_means([cell["excess"] for cell in cells]),
        values=_means([cell["values"] for cell in cells]),
        utility=utility,
        seconds=Mean.of([cell["seconds"] for cell in cells]),
        settings=cells[0]["settings"] if cells else {},
        verdicts={word: verdicts.count(word) for word in dict.fromkeys(verdicts)},
        note=note,
    )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    names = dict.fromkeys(name for value in values for name in value)
    means = {name: Mean.of([value[name] for value in values if name in value]) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def reference_rows(references: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Rows of target, gold, spare gold and control over the seeds."""
    rows = []
    for name in dict.fromkeys(name for r in references for name in r["values"]):
        found = [r["values"] for r in references if name in r["values"] and "gold" in r["values"]]
        excess = [excess_of(values[name], values["gold"]) for values in found]
        kept = [v[name]["retain"] / v["target"]["retain"] for v in found if v["target"]["retain"]]
        rows.append(
            Row(
                name,
                "not-run",
                distance=Mean.of([distance_of(e) for e in excess]),
                excess=_means(excess),
                values=_means([values[name] for values in found]),
                utility=Mean.of([round(share, 6) for share in kept]),
            )
        )
    return tuple(rows)


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows in the board's order: those that keep the utility floor by distance to gold, then the others."""

    def order(row: Row) -> tuple[int, float, str]:
        return ORDER.index(row.status), row.distance.mean if row.distance else 9.0, row.name

    return tuple(sorted(rows, key=order))


# -- writing ------------------------------------------------------------------------------------------


def to_dict(board: Board) -> dict[str, Any]:
    """Plain data for ``leaderboard.json``."""
    return {
        "schema": SCHEMA,
        "name": board.name,
        "seeds": list(board.seeds),
        "floor": board.floor,
        "tuning": dict(board.tuning),
        "judged": {key: DISTANCES[key][1] for key in board.judged},
        "references": [_row(row, reference=True) for row in board.references],
        "methods": [
            {"rank": i + 1 if row.status == "ranked" else None, **_row(row)} for i, row in enumerate(board.rows)
        ],
        "notes": list(board.notes),
    }


def _row(row: Row, *, reference: bool = False) -> dict[str, Any]:
    def plain(mean: Mean | None) -> dict[str, Any] | None:
        return None if mean is None else {"mean": mean.mean, "std": mean.std, "n": mean.n}

    return {
        "name": row.name,
        "status": "reference" if reference else row.status,
        "distance": plain(row.distance),
        "excess": {key: plain(value) for key, value in row.excess.items()},
        "values": {key: plain(value) for key, value in row.values.items()},
        "utility": plain(row.utility),
        "seconds": plain(row.seconds),
        "settings": dict(row.settings),
        "verdicts": dict(row.verdicts),
        "note": row.note,
    }


def _in_words(key: str) -> str:
    """Heading of a further column."""
    metric, split = key.split("@")
    return ", ".join(words for words in (metric_label(metric).name, split_label(split)) if words)


def explanations(board: Board) -> list[str]:
    """What a reader of the table has to know, in sentences."""
    share, count = board.tuning.get("share", 0.5), board.tuning.get("seeds", 1)
    searched = "the first seed" if count == 1 else f"the first {count} seeds"
    return [
        f"Mean ± standard deviation over {len(board.seeds)} seed{'s' * (len(board.seeds) > 1)}. Methods that keep "
        f"{board.floor:.0%} of the target's utility are ranked by their mean distance to gold; the others follow.",
        "Signed columns are the model's value minus gold's of the same seed: above 0 knowledge is left, below 0 the "
        "model was over-forgotten, which shows as well. Distance is the mean size of these columns.",
        *(f"{DISTANCES[key][0]}: {DISTANCES[key][1]}." for key in board.judged),
        *(f"{_in_words(key)}: {metric_label(key.split('@')[0]).meaning}" for key in board.tuning.get("show", [])),
        *_gold(board),
        f"Settings were searched with {board.tuning.get('trials')} trials a method on {searched}, by the answers about "
        f"{share:.0%} of the forgotten and of the retained subjects. All columns but membership and relearning are "
        "measured on the other subjects; paraphrases, membership and relearning no search looked at.",
        *["'spare gold' is a second model that never saw the data: its distance is what chance alone gives."]
        * any(row.name == "gold_2" for row in board.references),
        *board.notes,
    ]


def _gold(board: Board) -> list[str]:
    """Gold's own values in a sentence."""
    gold = next((row for row in board.references if row.name == "gold"), None)
    if gold is None:
        return []
    words = [f"{DISTANCES[key][0]} {mean.words(2)}" for key, mean in gold.values.items() if key in DISTANCES]
    return [f"Gold's own values: {', '.join(words)}."]


def markdown(board: Board) -> str:
    """``leaderboard.md``."""
    heads = ["", *board.headings()]
    lines = [f"# Bench {board.name}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(["", *board.cells(row)]) + " |" for row in board.references]
    for i, row in enumerate(board.rows):
        mark = {"ranked": str(i + 1), "below-floor": "below floor"}.get(row.status, row.status.replace("-", " "))
        cells = board.cells(row)
        if row.note:
            cells[-1] = f"{cells[-1]}; {_escape(row.note)}" if cells[-1] else _escape(row.note)
        lines.append("| " + " | ".join([mark, *cells]) + " |")
    lines += ["", *(f"- {text}" for text in explanations(board)), "", "## Settings", ""]
    lines += [f"- {display_name(row.name)}: {_settings(row.settings)}" for row in board.rows if row.distance]
    return "\n".join(lines) + "\n"


def _settings(settings: Mapping[str, Any]) -> str:
    words = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()]
    return ", ".join(words) or "nothing to search"


def _escape(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
