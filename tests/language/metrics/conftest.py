"""Hand-made evidence: token probabilities written down, no model behind them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.scores import AnswerScores

Rows = list[list[float]]


def _scores(
    rows: Rows,
    hits: list[list[bool]] | None = None,
    *,
    has_eos: bool = True,
    mean: float = -2.0,
    variance: float = 1.0,
) -> AnswerScores:
    """Scores of answers from the probability of each token; all arg-max hits unless given."""
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    with np.errstate(divide="ignore"):  # a probability of 0 is a log-probability of -inf
        logprob = np.log(np.array([p for r in rows for p in r], dtype=np.float64))
    hit = np.ones(len(logprob), bool) if hits is None else np.array([h for r in hits for h in r], bool)
    flat = np.ones(len(logprob))
    return AnswerScores(offsets, logprob, hit, mean * flat, variance * flat, has_eos)


@dataclass(frozen=True)
class FakeSplit:
    """What a store says about one split."""

    right: AnswerScores
    wrong: list[Rows]
    paraphrase: AnswerScores | None
    answers: list[str]
    generations: list[str]
    clusters: list[int]


@dataclass(frozen=True)
class FakeStore:
    """An evidence store of written-down evidence."""

    name: str
    data: dict[str, FakeSplit]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.data)

    def _split(self, split: str) -> FakeSplit:
        if split not in self.data:
            raise InputError(f"No split {split!r}; there are {', '.join(self.data)}.")
        return self.data[split]

    def records(self, split: str) -> list[Record]:
        found = self._split(split)
        return [
            Record(f"Question {i}?", answer, str(c), perturbed_answers=tuple(f"wrong {j}" for j in range(len(w))))
            for i, (answer, c, w) in enumerate(zip(found.answers, found.clusters, found.wrong, strict=True))
        ]

    def clusters(self, split: str) -> np.ndarray:
        return np.array(self._split(split).clusters, dtype=np.int64)

    def answers(self, split: str) -> AnswerScores:
        return self._split(split).right

    def paraphrases(self, split: str) -> AnswerScores:
        found = self._split(split)
        return found.right if found.paraphrase is None else found.paraphrase

    def perturbed(self, split: str) -> tuple[AnswerScores, np.ndarray]:
        wrong = self._split(split).wrong
        return _scores([r for rows in wrong for r in rows]), np.repeat(np.arange(len(wrong)), [len(w) for w in wrong])

    def generations(self, split: str) -> list[str]:
        return self._split(split).generations


def _split(
    right: Rows | AnswerScores,
    wrong: list[Rows] | None = None,
    *,
    paraphrase: Rows | None = None,
    answers: list[str] | None = None,
    generations: list[str] | None = None,
    clusters: list[int] | None = None,
) -> FakeSplit:
    scores = right if isinstance(right, AnswerScores) else _scores(right)
    n = len(scores)
    answers = answers or [f"answer {i}" for i in range(n)]
    return FakeSplit(
        scores,
        wrong or [[] for _ in range(n)],
        None if paraphrase is None else _scores(paraphrase),
        answers,
        generations or answers,
        clusters or list(range(n)),
    )


@pytest.fixture(scope="session")
def scores() -> Callable[..., AnswerScores]:
    return _scores


@pytest.fixture(scope="session")
def split() -> Callable[..., FakeSplit]:
    return _split


@pytest.fixture(scope="session")
def store() -> Callable[..., FakeStore]:
    """``store(forget=split(...), ...)``; the model is called ``npo`` unless `name` says otherwise."""
    return lambda name="npo", **data: FakeStore(name, data)


@pytest.fixture(scope="session")
def uniform(split: Any, store: Any) -> FakeStore:
    """The model with constant logits over 50 tokens; answers of 1 to 4 tokens, three false ones each."""
    p = 1 / 50
    rights = [[p] * (1 + i % 4) for i in range(8)]
    wrongs = [[[p] * (1 + (i + j) % 4) for j in range(3)] for i in range(8)]
    flat = _scores(rights, mean=np.log(p), variance=0.0)
    part = split(flat, wrongs)
    return store(forget=part, retain=part, holdout=part, world_facts=part)


@pytest.fixture(scope="session")
def tofu() -> Path:
    """TOFU's published evaluation logs: EXPUNGE_TOFU_DIR, or shared/data/tofu beside the repository."""
    default = Path(__file__).parents[3].parent / "shared" / "data" / "tofu"
    folder = Path(os.environ.get("EXPUNGE_TOFU_DIR", default)) / "eval_logs"
    if not (folder / "golden.json").exists():
        pytest.skip("TOFU's evaluation logs are not here (EXPUNGE_TOFU_DIR)")
    return folder


@pytest.fixture(scope="session")
def golden(tofu: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tofu / "golden.json").read_text(encoding="utf-8"))
    return found
