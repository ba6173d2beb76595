"""The evidence store: per-record signals of one model, each from one batched pass, kept on disk.

Metrics and membership attacks ask here; twenty likelihood attacks cost one forward pass. Rows are
sorted by length, answers to one question share its prompt where the model allows it, and a result is
filed under the fingerprint of the model and the content of the records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from expunge.errors import InputError
from expunge.language.data import Record, Splits, cluster_ids, digest
from expunge.language.generate import generate
from expunge.language.score import score_answers
from expunge.language.scores import AnswerScores
from expunge.language.subject import Subject


class EvidenceStore:
    """Per-record signals of one model on every split."""

    def __init__(
        self,
        name: str,
        subject: Subject | Callable[[], Subject],
        splits: Splits,
        folder: Path | None = None,
        *,
        fingerprint: str | None = None,
        batch_tokens: int = 4096,
        max_new_tokens: int = 64,
    ) -> None:
        """Bind a model to the splits.

        Args:
            name: The model's name in the scorecard.
            subject: The model, or what loads it the first time something is missing on disk. It must not
                change while the store is in use.
            splits: Named lists of records.
            folder: Where results are kept; None keeps them in memory only.
            fingerprint: The model's fingerprint if it is known, so that it need not be loaded for it.
            batch_tokens: Padded tokens per forward pass.
            max_new_tokens: Longest generated answer.
        """
        self.name, self._subject, self._splits, self.folder = name, subject, splits, folder
        self.batch_tokens, self.max_new_tokens = batch_tokens, max_new_tokens
        self._fingerprint = fingerprint
        self._memory: dict[str, Any] = {}
        self._digests: dict[str, str] = {}  # hashing a split costs more than the detectors that ask for it again

    @property
    def subject(self) -> Subject:
        """The model, loaded now if it was not."""
        if not isinstance(self._subject, Subject):
            self._subject = self._subject()
        return self._subject

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self._splits)

    def records(self, split: str) -> list[Record]:
        """The records of a split.

        Raises:
            InputError: There is no such split.
        """
        if split not in self._splits:
            raise InputError(f"No split {split!r}; there are {', '.join(self._splits)}.")
        return self._splits[split]

    def clusters(self, split: str) -> NDArray[np.int64]:
        """[n] cluster number of each record."""
        return np.array(cluster_ids(self.records(split)), dtype=np.int64)

    def answers(self, split: str) -> AnswerScores:
        """Scores of the records' answers."""
        records = self.records(split)
        return self._scores(split, "answers", [[r.answer] for r in records])

    def paraphrases(self, split: str) -> AnswerScores:
        """Scores of the paraphrased answers, or of the answer where there is none."""
        records = self.records(split)
        if all(r.paraphrased_answer is None for r in records):
            return self.answers(split)
        return self._scores(split, "paraphrases", [[r.paraphrased_answer or r.answer] for r in records])

    def perturbed(self, split: str) -> tuple[AnswerScores, NDArray[np.int64]]:
        """Scores of all perturbed answers, row after row, and the record each belongs to."""
        records = self.records(split)
        owner = np.repeat(np.arange(len(records)), [len(r.perturbed_answers) for r in records])
        return self._scores(split, "perturbed", [list(r.perturbed_answers) for r in records]), owner

    def generations(self, split: str) -> list[str]:
        """Greedy answers."""
        records = self.records(split)
        key = self._key(split, "generations", str(self.max_new_tokens))
        if key not in self._memory:
            path = self.folder / f"{key}.json" if self.folder else None
            if path and path.exists():
                self._memory[key] = json.loads(path.read_text(encoding="utf-8"))
            else:
                self._memory[key] = generate(self.subject, records, max_new_tokens=self.max_new_tokens)
                if path:
                    _write(path, lambda p: p.write_text(json.dumps(self._memory[key]), encoding="utf-8"))
        return self._memory[key]  # type: ignore[no-any-return]

    def _key(self, split: str, what: str, extra: str = "") -> str:
        if self._fingerprint is None:
            self._fingerprint = self.subject.fingerprint()
        if split not in self._digests:
            self._digests[split] = digest(self.records(split))
        text = "|".join((self._fingerprint, self._digests[split], what, extra))
        return f"{what}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"

    def _scores(self, split: str, what: str, answers: list[list[str]]) -> AnswerScores:
        key = self._key(split, what)
        if key not in self._memory:
            path = self.folder / f"{key}.safetensors" if self.folder else None
            if path and path.exists():
                self._memory[key] = AnswerScores(**load_file(path))
            else:
                records = self.records(split)
                scores = score_answers(self.subject, records, answers, batch_tokens=self.batch_tokens, where=split)
                self._memory[key] = scores
                if path:
                    _write(path, lambda p: save_file(_pack(scores), p))
        return self._memory[key]  # type: ignore[no-any-return]


FIELDS = ("offsets", "logprob", "hit", "mean", "variance", "has_eos")


def _pack(scores: AnswerScores) -> dict[str, Any]:
    return {name: np.ascontiguousarray(getattr(scores, name)) for name in FIELDS}


def _write(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write(temporary)
    os.replace(temporary, path)
