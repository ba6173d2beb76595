"""Questions about parts of inserted texts, by how often the text was inserted and how much an attacker knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._choices import Choice, choose, write
from expunge.language.metrics._whole_texts import mean_matched
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@dataclass(frozen=True)
class InsertionProbes:
    """Choice among options, and generation, of facts of biographies, personas and users of chats, and test answers.

    Biographies are attacked with the text before and after a fact, the text before it, the person's name and
    nationality, and the name alone; chats and test items in the place where the answer stood. Test items that were
    inserted in one format are asked in both.

    Attributes:
        asked: The questions (`hubble_probes`). Source: ours.
        max_new_tokens: Longest generated answer. Source: paper.
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811); words compared as in Rajpurkar et al., SQuAD, EMNLP 2016 (arXiv 1606.05250)"
    )
    needs_gold: ClassVar[bool] = False

    asked: tuple[Choice, ...] = ()
    max_new_tokens: int = 30

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"insertion-probes: max_new_tokens={self.max_new_tokens} must be at least 1.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``hubble.TASK.accuracy`` and ``.accuracy_per_byte`` of each split, and of generated answers ``.exact_match``,
        ``.f1``, ``.recall`` and ``.prefix_match``.

        Raises:
            InputError: There are no questions.
        """
        if not self.asked:
            raise InputError("insertion-probes: there are no questions (asked).")
        found: list[Finding] = []
        for task, split in dict.fromkeys((c.task, c.split) for c in self.asked):
            asked = [c for c in self.asked if (c.task, c.split) == (task, split)]
            plain, norm = choose(model.subject, asked, batch_tokens=model.batch_tokens)
            values = {"accuracy": plain, "accuracy_per_byte": norm}
            if asked[0].generate:
                values |= write(model.subject, asked, max_new_tokens=self.max_new_tokens)
            numbers: dict[str, int] = {}
            clusters = np.array([numbers.setdefault(c.cluster, len(numbers)) for c in asked], dtype=np.int64)
            found += [mean_matched(f"hubble.{task}.{k}", split, model, v, clusters) for k, v in values.items()]
        return found
