"""TDEC: texts a language model knows by heart, unlearned until they read like text it never saw."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from expunge.errors import InputError
from expunge.language.data import READERS, Record, read_records, require_disjoint, to_record
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_likelihood import ExtractionLikelihood
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.memorization_accuracy import MemorizationAccuracy
from expunge.language.metrics.probability import Probability
from expunge.language.stop_rule import StopRule, Thresholds, thresholds_of
from expunge.language.subject import Subject
from expunge.language.testbed import SYLLABLES
from expunge.language.workload import Metric, Workload

Text = tuple[Record, str]  # and the corpus it is from
SETS = 5  # disjoint sets of each size
PUBLISHED = {
    "gpt-neo-125m": Thresholds(0.0499, 0.2994, "configs/example.json of joeljang/knowledge-unlearning"),
}


@dataclass(frozen=True)
class TDEC:
    """Memorised texts of the Training Data Extraction Challenge, or documents made up on the spot.

    The protocol of Jang et al.: the whole forget set in every step (batch_size = size), until the mean EL_n and
    MA of the set are both below those of unseen text (`stop_rule`), and how many epochs that took. The challenge's
    15,000 texts come from the Pile, have mixed rights and are not part of this package. Without a path, documents
    are drawn from a seed instead: stock phrases that all of them share, with random words between; a model that
    learns them by heart can be trained in a minute. Set max_length to 200 for the published length.

    Attributes:
        path: JSONL, JSON, CSV or Parquet file with the fields doc_id, corpus and text; empty for documents made
            up on the spot. Source: yours.
        size: Texts to forget: 1, 4, 8, 32 or 128 of them; 0 takes the file whole (for the published sets, which
            are files of their own). Source: paper.
        draw: Which of the five disjoint sets of that size, 0 to 4. Source: paper.
        retain: Text that must stay; empty for none. Source: yours.
        holdout: Text no model was trained on; the thresholds are measured on it. Source: yours.
        utility: Questions with an answer and false answers, any of the multiple-choice sets the paper measures;
            empty for none. Source: yours.
        thresholds: ``holdout``, or the model whose published thresholds are taken: ``gpt-neo-125m``. Source: paper
            (10,000 unseen texts).
        n: Length of the n-grams of EL. Source: paper; 3 does for made-up documents.
        retain_documents: Made-up documents that must stay. Source: ours.
        holdout_documents: Made-up documents no model sees. Source: ours.
        pieces: Phrases in a made-up document, each before a random word. Source: ours.
    """

    paper: ClassVar[str] = (
        "Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models, ACL 2023 (arXiv "
        "2210.01504); as in Cha, Cho, Hwang, Lee, ICLR 2025 (arXiv 2408.06621)"
    )

    path: str = ""
    size: int = 32
    draw: int = 0
    retain: str = ""
    holdout: str = ""
    utility: str = ""
    thresholds: Literal["holdout", "gpt-neo-125m"] = "holdout"
    n: int = 10
    retain_documents: int = 64
    holdout_documents: int = 32
    pieces: int = 5

    def __post_init__(self) -> None:
        if self.size not in (0, 1, 4, 8, 32, 128):
            raise InputError(f"tdec: size={self.size}; one of 1, 4, 8, 32, 128, or 0 for the whole file.")
        if not 0 <= self.draw < SETS:
            raise InputError(f"tdec: draw={self.draw}; there are {SETS} sets of each size, 0 to {SETS - 1}.")
        if self.thresholds != "holdout" and self.thresholds not in PUBLISHED:
            raise InputError(f"tdec: thresholds={self.thresholds!r}; holdout or {', '.join(PUBLISHED)}.")
        if self.n < 1 or self.pieces < 1 or min(self.retain_documents, self.holdout_documents) < 0:
            raise InputError("tdec: n and pieces must be at least 1, and numbers of documents not negative.")
        if not self.path and not self.size:
            raise InputError("tdec: size=0 takes a file whole, and path names none.")

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A missing or malformed file, fewer texts than the sets need, or no unseen text.
        """
        forget, retain, holdout, notes = self._read(seed) if self.path else self._made(seed)
        require_disjoint(forget, retain, "retain")
        require_disjoint(forget, holdout, "holdout")
        splits = {"forget": forget}
        splits |= {name: rows for name, rows in (("retain", retain), ("holdout", holdout)) if rows}
        if self.utility:
            splits["utility"] = read_records(self.utility)
        work = Workload(
            forget=forget,
            retain=retain,
            splits=splits,
            metrics=_metrics(splits, self.n),
            behaviour="token",
            attack_score="token",
            notes=[*notes, f"The protocol takes all {len(forget)} texts in every step: batch_size {len(forget)}."],
        )
        measurable = "holdout" in splits or self.thresholds != "holdout"
        return replace(work, stop_rule=self.stop_rule(work)) if measurable else work

    def stop_rule(self, workload: Workload) -> Callable[[Subject], StopRule]:
        """What makes the stop rule for the model that is to be unlearned, from its readings of unseen text.

        Raises:
            InputError: Thresholds are to be measured and there is no unseen text.
        """
        unseen = workload.splits.get("holdout", [])
        if self.thresholds == "holdout" and not unseen:
            raise InputError("tdec: thresholds=holdout are measured on unseen text, and holdout names no file.")

        def rule(subject: Subject) -> StopRule:
            limits = PUBLISHED.get(self.thresholds) or thresholds_of(subject, unseen, self.n)
            return StopRule(subject, workload.forget, limits, self.n)

        return rule

    # -- texts ---------------------------------------------------------------------------------------

    def _read(self, seed: int) -> tuple[list[Record], list[Record], list[Record], list[str]]:
        rows = read_sequences(self.path)
        chosen = choose(rows, self.size, self.draw, self.path) if self.size else rows
        corpora = Counter(corpus for _, corpus in chosen if corpus)
        notes = [", ".join(f"{count} texts from {name}" for name, count in corpora.most_common()) + "."]
        retain = read_records(self.retain) if self.retain else []
        holdout = read_records(self.holdout) if self.holdout else []
        if not holdout:
            notes.append("No unseen text (holdout): membership inference could not be run.")
        return [r for r, _ in chosen], retain, holdout, notes if corpora else notes[1:]

    def _made(self, seed: int) -> tuple[list[Record], list[Record], list[Record], list[str]]:
        kept, unseen = self.retain_documents, self.holdout_documents
        made = documents(SETS * self.size + kept + unseen, self.pieces)
        own = made[self.draw * self.size : (self.draw + 1) * self.size]
        rest = made[SETS * self.size :]
        return own, rest[:kept], rest[kept:], ["Documents made up on the spot, not the challenge's texts."]


def read_sequences(path: str) -> list[Text]:
    """Texts with the corpus each is from; a text's doc_id is its cluster.

    Raises:
        InputError: A missing or malformed file, or a row without text.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in READERS:
        raise InputError(f"{path}: a file with doc_id, corpus and text is needed ({', '.join(READERS)}).")
    if not file.is_file():
        raise InputError(f"{path}: no such file.")
    found = []
    for where, row in READERS[file.suffix.lower()](file):
        if not isinstance(row, dict) or "text" not in row:
            raise InputError(f"{where}: field 'text' is missing (doc_id, corpus and text are expected).")
        record = to_record({"text": row["text"]}, where)
        found.append((replace(record, cluster=str(row.get("doc_id") or "")), str(row.get("corpus") or "")))
    if not found:
        raise InputError(f"{path}: no texts in it.")
    return found


def choose(rows: list[Text], size: int, draw: int, path: str = "the file") -> list[Text]:
    """One of five disjoint random sets; which rows it holds depends on its size and number alone.

    Raises:
        InputError: Fewer rows than the five sets need.
    """
    if len(rows) < SETS * size:
        raise InputError(
            f"{path}: {len(rows)} texts, and five disjoint sets of {size} need {SETS * size}; lower size, or take the "
            f"file whole with size 0."
        )
    order = random.Random(f"tdec sets of {size}").sample(range(len(rows)), SETS * size)
    return [rows[i] for i in sorted(order[draw * size : (draw + 1) * size])]


def documents(count: int, pieces: int, seed: int = 0, phrases: int = 12) -> list[Record]:
    """Made-up documents: stock phrases of four words that all share, each followed by a random word.

    What follows inside a phrase can be learned from any document, the rest only by heart; so unseen documents read
    above 0, as natural text does, and below what was memorised.
    """
    rng = random.Random(f"tdec documents {seed}")

    def word() -> str:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 3))))

    stock = [" ".join(word() for _ in range(4)) for _ in range(phrases)]
    texts = [" ".join(f"{rng.choice(stock)} {word()}" for _ in range(pieces)) for _ in range(count)]
    return [Record("", text, f"document {i + 1}") for i, text in enumerate(texts)]


def _metrics(splits: dict[str, list[Record]], n: int) -> list[Metric]:
    """The protocol's two, and what else these texts can carry."""
    read = tuple(s for s in ("forget", "holdout") if s in splits)
    known = tuple(s for s in ("forget", "retain") if s in splits)
    metrics: list[Metric] = [
        ExtractionLikelihood(n=n, splits=read),
        MemorizationAccuracy(splits=tuple(s for s in splits if s != "utility")),
        Probability(splits=known, options=("utility",) if "utility" in splits else ()),
        ExtractionStrength(splits=("forget",)),
        ExactMemorization(splits=("forget",)),
    ]
    if "holdout" in splits:
        metrics.append(Membership())
    return metrics
