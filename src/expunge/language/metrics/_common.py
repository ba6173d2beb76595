"""What the metrics share: refusing what cannot be averaged, the direction of a split, and findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError, RunError
from expunge.language.scores import AnswerScores
from expunge.report.scorecard import Direction, Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
IMPOSSIBLE = 1e4  # nats per token; stands for the infinite NLL of an answer whose probability is exactly 0


def direction(split: str) -> Direction:
    """Gold's value is the ideal on what must go and on what was never trained on; elsewhere more is better.

    >>> direction("forget_paraphrase"), direction("holdout"), direction("retain")
    ('match-gold', 'match-gold', 'higher')
    """
    return "match-gold" if split.startswith(("forget", "holdout")) else "higher"


def row_nll(scores: AnswerScores, split: str, what: str = "answer") -> Floats:
    """[n] mean token NLL in nats, fit to be averaged.

    Raises:
        InputError: A row without labelled tokens (its prompt fills the whole context).
        RunError: A NaN loss.
    """
    require_tokens(scores, split, what)
    nll = scores.nll
    if np.isnan(nll).any():
        row = int(np.isnan(nll).argmax()) + 1
        raise RunError(f"Split {split!r}, row {row}: the loss of the {what} is NaN; the model is broken.")
    return nll


def require_tokens(scores: AnswerScores, split: str, what: str = "answer") -> None:
    """Refuse a row without labelled tokens.

    Raises:
        InputError: Names the split and the first such row, counted from 1.
    """
    empty = np.flatnonzero(scores.lengths == 0)
    if len(empty):
        raise InputError(
            f"Split {split!r}, row {empty[0] + 1}: no token of the {what} is scored "
            f"({len(empty)} such rows). Shorten the question or raise the maximum length."
        )


def capped(nll: Floats, what: str = "NLL") -> Floats:
    """The NLLs with infinity written as a large number, so that differences of two of them are defined.

    Raises:
        RunError: A NaN among them.
    """
    if np.isnan(nll).any():
        raise RunError(f"{what}: value {int(np.isnan(nll).ravel().argmax()) + 1} is NaN; the model is broken.")
    return np.minimum(nll, IMPOSSIBLE)


def false_answers(nll: Floats, owner: Ints, rows: int) -> Floats:
    """Arrange the NLLs of false answers by row.

    Args:
        nll: [W] of all false answers.
        owner: [W] the row each belongs to, non-decreasing.
        rows: n.

    Returns:
        [n, w].

    Raises:
        InputError: Rows with different numbers of false answers, or none: their chance levels differ, so
            their values cannot be averaged.
    """
    counts = np.bincount(owner, minlength=rows)
    odd = np.flatnonzero(counts != counts[:1])
    if len(odd):
        raise InputError(
            f"Row {odd[0] + 1} has {counts[odd[0]]} false answers and row 1 has {counts[0]}; "
            f"all rows need equally many."
        )
    if rows == 0 or counts[0] == 0:
        raise InputError("No false answers (field perturbed_answer), and this metric compares with them.")
    return nll.reshape(rows, int(counts[0]))


def contrast(store: EvidenceStore, split: str, scores: AnswerScores) -> tuple[Floats, Floats]:
    """NLL of a split's right answers, as scored in `scores`, and of its false answers.

    Returns:
        [n] and [n, w] mean token NLLs.

    Raises:
        InputError: The split is empty, has no false answers, or not equally many in each row.
        RunError: A NaN loss.
    """
    counts = [len(r.perturbed_answers) for r in store.records(split)]
    owner = np.repeat(np.arange(len(counts)), counts)
    try:  # before the model is asked to score them
        false_answers(np.zeros(len(owner)), owner, len(counts))
    except InputError as error:
        raise InputError(f"Split {split!r}: {error}") from None
    wrong, owner = store.perturbed(split)
    nll = row_nll(wrong, split, "false answer")
    return row_nll(scores, split), false_answers(nll, owner, len(counts))


def mean_finding(metric: str, split: str, store: EvidenceStore, values: NDArray[np.float64]) -> Finding:
    """The mean of a value per record, with its interval over resampled clusters.

    Raises:
        InputError: The split is empty.
    """
    if len(values) == 0:
        raise InputError(f"Split {split!r} has no records, so there is no {metric}.")
    found = cluster_bootstrap(values, store.clusters(split))
    return Finding(metric, split, store.name, *found, n=len(values), direction=direction(split))
