"""KnowMem of MUSE: questions about a text, asked after a few questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics._common import Floats, mean_finding
from expunge.language.metrics.rouge import rouge_l_f1
from expunge.language.metrics.verbatim_memorization import PAPER, continued
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore
    from expunge.language.subject import Subject

Space = Literal["prompt", "answer"]
ENDS = ("\n\n", "\nQuestion", "Question:")  # where an answer ends, looked for in this order


def with_shots(record: Record, shots: Sequence[tuple[str, str]]) -> Record:
    """A question after questions with their answers, as turns of its history.

    The answers end with a line break: a template of three plain tags then writes MUSE's prompt, a blank line between
    two questions.
    """
    turns = [turn for q, a in shots for turn in (("user", q), ("assistant", a + "\n"))]
    return replace(record, history=tuple(turns))


def shots_of(record: Record) -> list[tuple[str, str]]:
    """The questions and answers before a record's own question.

    Raises:
        InputError: Its history is no such list.
    """
    roles = [role for role, _ in record.history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise InputError(f"KnowMem shows questions with their answers before the one it asks, found turns of {roles}.")
    texts = [text.rstrip("\n") for _, text in record.history]
    return list(zip(texts[::2], texts[1::2], strict=True))


def knowledge_prompt(record: Record, space: Space = "prompt") -> str:
    """MUSE's few-shot prompt: blocks of a question and its answer, then the question that is asked.

    >>> knowledge_prompt(with_shots(Record("Who?", "she"), [("When?", "now")]))
    'Question: When?\\nAnswer: now\\n\\nQuestion: Who?\\nAnswer: '

    Args:
        record: The question, with the shots as its history.
        space: Whether the space behind the last ``Answer:`` is part of the prompt, or is left to the answer.
    """
    blocks = [f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots_of(record)]
    return "".join(blocks) + f"Question: {record.question}\nAnswer:" + (" " if space == "prompt" else "")


def answer_of(text: str) -> str:
    """What stands before the next blank line or question.

    >>> answer_of(" Paris\\nQuestion: Who"), answer_of("Paris\\n\\nAnd"), answer_of("Question: Who?")
    (' Paris', 'Paris', '')
    """
    for end in ENDS:
        text = text.split(end)[0]
    return text


def knowledge_memorization(
    subject: Subject, records: Sequence[Record], max_new_tokens: int = 32, space: Space = "prompt", batch: int = 32
) -> Floats:
    """[n] ROUGE-L F1 of the model's answer and the right one, words as they are written (KnowMem, per question).

    Shi et al. 2024, section 2, C2: KnowMem(f, D) is its mean over D; on the retain set it is the utility C4.

    Args:
        subject: The model; its template is not used.
        records: Questions with their answers, the shots as their history.
        max_new_tokens: Most tokens of an answer.
        space: See `knowledge_prompt`.
        batch: Questions answered together.
    """
    prompts = [knowledge_prompt(record, space) for record in records]
    said = [answer_of(text) for text in continued(subject, prompts, max_new_tokens, batch)]
    return rouge_l_f1([record.answer for record in records], said, stem=False)


@dataclass(frozen=True)
class KnowledgeMemorization:
    """ROUGE-L F1 of the greedy answer to a question asked after a few others with their answers (KnowMem).

    Attributes:
        splits: Splits it is measured on: the forget set, and the retain set, where it is the utility (C4).
            Source: paper.
        max_new_tokens: Most tokens of an answer. Source: paper.
        space: Whether the space behind the last ``Answer:`` is part of the ``prompt``, or is left to the ``answer``
            as a model with a byte-level tokenizer has read it. Source: reference code (prompt).
        batch: Questions answered together. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain")
    max_new_tokens: int = 32
    space: Space = "prompt"
    batch: int = 32

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch < 1:
            raise InputError(
                f"knowledge-memorization: max_new_tokens={self.max_new_tokens} and batch={self.batch} must be at least "
                f"1."
            )
        if self.space not in ("prompt", "answer"):
            raise InputError(f"knowledge-memorization: space={self.space!r}; prompt or answer.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``muse.knowmem`` for each split, in [0, 1].

        Raises:
            InputError: A split is missing or empty.
        """
        found = []
        for split in self.splits:
            records = model.records(split)
            values = knowledge_memorization(model.subject, records, self.max_new_tokens, self.space, self.batch)
            found.append(mean_finding("muse.knowmem", split, model, values))
        return found
