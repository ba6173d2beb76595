"""Rejection tuning: plain fine-tuning on refusals to questions about what is to be forgotten (RWKU's RT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.loop import Stream
from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.engine.sampling import epochs
from expunge.errors import InputError
from expunge.language.encode import encode
from expunge.language.forward import LanguageExamples
from expunge.language.methods.idk import idk
from expunge.language.rwku_corpus import in_turn
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob


@dataclass(frozen=True)
class RefusalLoss(Trained):
    """The loss of `idk` without its retain side: token mean over the refusals."""

    @property
    def streams(self) -> tuple[str, ...]:
        return ("substitute",)

    def forget_loss(self, step: Step) -> Tensor:
        return idk(step.substitute.token_logprobs, step.tokens["substitute"])


@dataclass(frozen=True)
class RejectionTuning(Edit):
    """Rejection tuning (RT): fine-tune on forget questions answered by refusals, and on nothing else.

    What it does differently from `idk`: there is no retain side, and question i has refusal i mod n of the list for
    good instead of a fresh one each time. Labels are the refusal and the end of the turn. In RWKU the questions are
    the target's own (benchmark `rwku`, corpus ``refusal``); anywhere else they are the forget questions. RWKU trains 3
    epochs at 4e-7 on all weights of an 8B model (LoRA 3e-5, batch of several targets 1e-7, 1 epoch).
    """

    paper: ClassVar[str] = (
        "Jin, Cao, Wang, He, Yuan, Li, Chen, Liu, Zhao, RWKU: Benchmarking Real-World Knowledge Unlearning for Large "
        "Language Models, NeurIPS 2024 (arXiv 2406.10890)"
    )
    intention: ClassVar[Intention] = "suppression"

    def apply(self, job: UnlearnJob) -> Subject:
        """Train the job's model on refusals.

        Raises:
            InputError: A forget record without a question (names it), or no refusal to teach.
        """
        for i, record in enumerate(job.forget, 1):
            if not record.question:
                raise InputError(f"rejection-tuning: forget record {i} is plain text; there is nothing to refuse.")
        subject, training = job.subject, job.training
        encoded = encode(
            job.forget, subject.tokenizer, subject.template, answers=in_turn(len(job.forget), job.refusals),
            max_length=subject.max_length, where="forget",
        )  # fmt: skip
        order = epochs(len(job.forget), training.total_steps(len(job.forget)), training.batch_size, job.seed, "forget")
        return job.train(RefusalLoss(), subject, streams={"substitute": Stream(LanguageExamples(encoded), order)})
