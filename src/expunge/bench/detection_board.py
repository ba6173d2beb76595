"""The tables of a detection bench: means over targets, ranks over cases, best cases, costs; Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from expunge.bench.board import Mean
from expunge.bench.files import write_text
from expunge.report import plots

DASH = "–"
_STYLE = (Path(plots.__file__).parent / "style.css").read_text(encoding="utf-8")
_MORE = """
.board td, .board th { white-space: nowrap; padding: 5px 10px; }
.board td.remark { white-space: normal; min-width: 18em; }
.board td.auc { background: color-mix(in srgb, var(--accent) calc(var(--a) * 1%), transparent); }
.board .rank { color: var(--faint); } .board tr.out th, .board tr.out td { color: var(--soft); }
"""


@dataclass(frozen=True)
class Entry:
    """One detector in one case, over its targets.

    Attributes:
        status: ``measured``, ``not-applicable`` or ``failed``.
        comparable: Whether all audited records were scored.
        means: Mean and standard deviation over targets of each number.
        notes: Remarks that hold for every target.
    """

    status: str
    comparable: bool
    means: Mapping[str, Mean]
    notes: tuple[str, ...]

    def words(self, key: str, digits: int = 3) -> str:
        """A number as written in tables; one that is the same for all targets stands alone."""
        mean = self.means.get(key)
        if mean is None:
            return DASH
        return mean.words(digits) if key == "auroc" or mean.std else f"{mean.mean:.{digits}f}"


@dataclass(frozen=True)
class Line:
    """One detector over all cases.

    Attributes:
        name: The detector.
        paradigm: What it stands on.
        entries: By case.
        rank: Mean over cases of its place by AUROC among the comparable ones; None if it has none.
        mean: Mean AUROC over the cases it was measured in.
        best: The case with the best AUROC, and that.
    """

    name: str
    paradigm: str
    entries: Mapping[str, Entry]
    rank: float | None
    mean: float | None
    best: tuple[str, Mean] | None


NUMBERS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "auroc": lambda row: row["auroc"]["value"],
    "tpr1": lambda row: row["tpr_at_fpr"].get("0.01", {}).get("value"),
    "tpr01": lambda row: row["tpr_at_fpr"].get("0.001", {}).get("value"),
    "published": lambda row: row["published"]["best"]["accuracy"],
    "calibrated": lambda row: row["calibrated"]["accuracy"] if row["calibrated"] else None,
    "seconds": lambda row: row["cost"]["seconds"],
    "peak": lambda row: row["cost"]["peak_mib"],
    "queries": lambda row: row["cost"]["queries"] / (row["members"] + row["nonmembers"]),
    "others": lambda row: row["cost"]["other_queries"] / (row["members"] + row["nonmembers"]),
    "gradients": lambda row: row["cost"]["gradients"] / (row["members"] + row["nonmembers"]),
    "trainings": lambda row: row["cost"]["trainings"],
    "training": lambda row: row["cost"]["training_seconds"],
}


def entry_of(rows: Sequence[Mapping[str, Any]]) -> Entry:
    """One detector's rows of one case, one for each target."""
    measured = [row for row in rows if row["status"] == "measured"]
    status = (
        "failed" if any(row["status"] == "failed" for row in rows) else "measured" if measured else rows[0]["status"]
    )
    means = {}
    for key, number in NUMBERS.items():
        values = [value for row in measured if (value := number(row)) is not None]
        if mean := Mean.of(values):
            means[key] = mean
    told = [row for row in rows if row["status"] == status]
    notes = tuple(
        note
        for note in dict.fromkeys(note for row in told for note in row["notes"])
        if not _of_all(note) and (status == "failed" or all(note in row["notes"] for row in told))
    )
    return Entry(status, all(row["comparable"] for row in measured), means, notes)


def _of_all(note: str) -> bool:
    """Remarks about the number of non-members hold for every detector; they are told once."""
    return "FPR" in note and "non-members" in note


def lines(results: Mapping[str, Any]) -> list[Line]:
    """All detectors, best mean rank first; those without a rank last.

    In each case the comparable detectors are put in the order of their mean AUROC, equal ones sharing the mean of
    their places; a detector's rank is its mean place over the cases it was measured in.
    """
    entries = {
        name: {case["name"]: entry_of([r for r in case["rows"] if r["name"] == name]) for case in results["cases"]}
        for name in results["detectors"]
    }
    places: dict[str, list[float]] = {name: [] for name in entries}
    for case in results["cases"]:
        values = {
            name: e.means["auroc"].mean
            for name, by in entries.items()
            if (e := by[case["name"]]).status == "measured" and e.comparable
        }
        for name, value in values.items():
            better = sum(other > value for other in values.values())
            equal = sum(other == value for other in values.values())
            places[name].append(better + (equal + 1) / 2)
    found = []
    for name, by in entries.items():
        means = {case: e.means["auroc"] for case, e in by.items() if "auroc" in e.means}
        best = max(means.items(), key=lambda item: item[1].mean) if means else None
        rank = sum(places[name]) / len(places[name]) if places[name] else None
        mean = sum(m.mean for m in means.values()) / len(means) if means else None
        paradigm = results["cases"][0]["rows"][results["detectors"].index(name)]["paradigm"]
        found.append(Line(name, paradigm, by, rank, mean, best))
    return sorted(found, key=lambda line: (line.rank is None, line.rank or 0.0, -(line.mean or 0.0)))


# -- tables -------------------------------------------------------------------------------------------

COLUMNS = (
    ("AUROC", "auroc", 3), ("TPR @ 1% FPR", "tpr1", 3), ("TPR @ 0.1% FPR", "tpr01", 3),
    ("accuracy, calibrated", "calibrated", 3), ("accuracy, oracle", "published", 3), ("queries / record", "queries", 1),
    ("reference queries / record", "others", 1), ("gradients / record", "gradients", 0), ("trainings", "trainings", 0),
    ("reference training s", "training", 1), ("detector s", "seconds", 2), ("peak MiB", "peak", 1),
)  # fmt: skip


def overview(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the first table."""
    cases = [case["name"] for case in results["cases"]]
    heading = ["rank", "detector", "paradigm", "mean AUROC", "best case", *cases]
    rows = []
    for line in lines(results):
        best = f"{line.best[1].mean:.3f} ({line.best[0]})" if line.best else DASH
        rank = DASH if line.rank is None else f"{line.rank:.1f}"
        mean = DASH if line.mean is None else f"{line.mean:.3f}"
        rows.append([rank, line.name, line.paradigm, mean, best, *(_cell(line.entries[case]) for case in cases)])
    return heading, rows


def _cell(entry: Entry) -> str:
    if entry.status != "measured":
        return entry.status.replace("-", " ")
    return entry.words("auroc") + ("" if entry.comparable else " *")


def detail(results: Mapping[str, Any], case: str) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of one case; columns without a number are left out."""
    ordered = lines(results)
    kept = [column for column in COLUMNS if any(column[1] in line.entries[case].means for line in ordered)]
    rows = []
    for line in ordered:
        entry = line.entries[case]
        cells = [entry.words(key, digits) for _, key, digits in kept]
        told = list(entry.notes) if entry.status == "measured" else [entry.status.replace("-", " "), *entry.notes]
        rows.append([line.name, *cells, "; ".join(told)])
    return ["detector", *(heading for heading, _, _ in kept), "note"], rows


def explanations(results: Mapping[str, Any]) -> list[str]:
    """What a reader has to know, in sentences."""
    n = results["targets"]
    starred = any(not e.comparable for line in lines(results) for e in line.entries.values())
    return [
        f"Numbers are means ± standard deviations over {n} target model{'s' * (n > 1)}. AUROC 1 is a full leak, 0.5 is "
        "guessing; results.json has the intervals and remarks of single targets.",
        "Rank: mean place by AUROC over the cases, among the detectors that scored all audited records.",
        "Accuracy is balanced. Its calibrated threshold was found on a reference model in the place of the target; the "
        "oracle one on the very labels it is judged by, as papers report.",
        f"Costs were measured here: {results['references']} reference models ({results['ref_dis']}); trainings and "
        "training seconds count every model a detector rests on, as if it had been run alone.",
        *["* scored on some of the records only: not comparable with the other rows, and not ranked."] * starred,
        *(f"{name} was not run. {reason}" for name, reason in results["missing"].items()),
    ]


def about(case: Mapping[str, Any]) -> str:
    """A case in a sentence."""
    accuracy, extra = case["accuracy"], f" ({case['note']})" if case["note"] else ""
    told = [
        f"{case['records']} {case['kind']} records{extra}, {case['classes']} classes, model {case['model']}; accuracy "
        f"{accuracy['members']:.1%} on members, {accuracy['nonmembers']:.1%} on non-members"
    ]
    told += [f"{case['noise']:.0%} of the labels were drawn anew"] * bool(case["noise"])
    told += [f"{case['repeated']} records repeat an earlier one"] * bool(case["repeated"])
    rows = [row for row in case["rows"] if row["status"] == "measured" and row["comparable"]]
    limits = dict.fromkeys(note for row in rows for note in row["notes"] if _of_all(note))
    return " ".join(["; ".join(told) + ".", *limits])


def headline(results: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    first = next((line for line in lines(results) if line.rank is not None), None)
    if first is None:
        return "No detector was measured."
    return f"{first.name} finds training data best: mean AUROC {first.mean:.3f} over its cases."


def markdown(results: Mapping[str, Any]) -> str:
    """``results.md``."""
    text = [f"# Bench {results['name']}", "", headline(results), "", *_table(*overview(results)), ""]
    for case in results["cases"]:
        text += [f"## {case['name']}", "", about(case), "", *_table(*detail(results, case["name"])), ""]
    return "\n".join([*text, *(f"- {sentence}" for sentence in explanations(results))]) + "\n"


def _table(heading: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def page(results: Mapping[str, Any]) -> str:
    """``results.html``: one file, nothing loaded."""
    told = "".join(f"<li>{escape(text)}</li>" for text in explanations(results))
    cases = "".join(
        f'<section><h2>{escape(case["name"])}</h2><p class="lead">{escape(about(case))}</p>'
        f"{_html(*detail(results, case['name']), first=0)}</section>"
        for case in results["cases"]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Bench {escape(results['name'])}</title><style>{_STYLE}{_MORE}</style></head><body>"
        f'<header><p class="brand"><b>expunge</b> bench {escape(results["name"])}</p></header><main>'
        f"<section><h1>{escape(headline(results))}</h1>"
        '<p class="lead">Can it be told from a model which records it was trained on? Every detector on every case; '
        f"darker cells leak more.</p>{_html(*overview(results), first=1)}"
        f'<div class="limits"><ul>{told}</ul></div></section>{cases}</main></body></html>\n'
    )


def _html(heading: list[str], rows: list[list[str]], *, first: int) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in heading)
    shaded = [i for i, head in enumerate(heading) if head == "AUROC"] or list(range(5, len(heading)))
    body = ""
    for row in rows:
        cells = ""
        for i, cell in enumerate(row):
            if i == first:
                cells += f'<th scope="row">{escape(cell)}</th>'
                continue
            kind = ' class="remark"' if heading[i] == "note" else ' class="rank"' if heading[i] == "rank" else ""
            if i in shaded and cell[:1].isdigit():
                kind = f' class="auc" style="--a:{_shade(float(cell.split()[0]))}"'
            cells += f"<td{kind}>{escape(cell)}</td>"
        body += f"<tr>{cells}</tr>"
    return (
        f'<div class="scroll" tabindex="0"><table class="board"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _shade(auroc: float) -> int:
    """Percent of colour: none at 0.5, most at 1.

    >>> _shade(0.4), _shade(0.75), _shade(1.0)
    (0, 30, 60)
    """
    return round(120 * max(0.0, min(1.0, auroc) - 0.5))


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """``results.md`` and ``results.html`` beside ``results.json``."""
    write_text(folder / "results.md", markdown(results))
    write_text(folder / "results.html", page(results))
