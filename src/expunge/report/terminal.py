"""The report's short form for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.report import _view as view
from expunge.report._cards import verdicts_of
from expunge.report._words import VERDICTS, display_name, metric_label, number
from expunge.report.missing import missing_evidence
from expunge.report.scorecard import Scorecard

_STYLES = {
    "not-forgotten": "bold red",
    "suppressed": "bold yellow",
    "damaged": "bold magenta",
    "inconclusive": "bold blue",
    "nothing-to-forget": "bold",
    "consistent-with-removal": "bold green",
}
# Column heads are two short words so that seven columns fit in 80 characters.
COLUMNS = (
    ("forget", "accuracy", "forget"),
    ("forget\nreworded", "accuracy", "forget_paraphrase"),
    ("after\nrelearning", "relearning.held_out_accuracy", "forget"),
    ("retain", "accuracy", "retain"),
    ("forget\nquality", "forget_quality", "forget"),
    ("membership\nAUROC", "membership.loss.auroc", "forget"),
)


def print_summary(scorecard: Scorecard, console: Console) -> None:
    """Print the key numbers of target, gold and each method, then the verdicts with their reasons.

    Columns nobody measured are left out. Verdicts are told by word and sign, not by colour alone.
    """
    console.print(_numbers(scorecard))
    for name, verdict in verdicts_of(scorecard).items():
        glyph, _ = VERDICTS.get(verdict.verdict, ("?", ""))
        line = Text.assemble(
            (f"\n{display_name(name)}: ", "bold"),
            (f"{glyph} {verdict.verdict}", _STYLES.get(verdict.verdict, "bold")),
        )
        console.print(line)
        console.print(Text(verdict.why))
    gone = missing_evidence(scorecard)
    if gone:
        console.print(Text("\nEvidence this audit went without:", style="dim"))
    for item in gone:
        console.print(Text(f"  {item.what}: {item.cost}.", style="dim"))


def _numbers(scorecard: Scorecard) -> Table:
    names = view.columns_of(scorecard)
    columns = scorecard.run.get("columns", COLUMNS)
    measured = [c for c in columns if any(scorecard.value(c[1], c[2], n) is not None for n in names)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=18)
    for head, _, _ in measured:
        table.add_column(head, justify="right", no_wrap=True)
    for name in names:
        cells = []
        for _, metric, split in measured:
            value = scorecard.value(metric, split, name)
            cells.append("" if value is None else number(value, metric_label(metric).kind))
        style = "yellow" if name == "gold" else "dim" if name == "target" else "bold"
        table.add_row(Text(display_name(name), style=style), *cells)
    return table
