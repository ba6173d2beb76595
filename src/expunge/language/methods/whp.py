"""Who's Harry Potter: fine-tune on what a model that never read the text might say (Eldan & Russinovich 2023)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from expunge.engine.loop import Stream, TrainLog
from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.errors import InputError
from expunge.language.anchor_proposals import propose_anchors
from expunge.language.anchors import Anchors, read_anchors
from expunge.language.encode import encode
from expunge.language.forward import LanguageExamples
from expunge.language.generic_labels import Generic, GenericLabels, Scale, generic_labels
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._retain import Retain, retain_term
from expunge.language.methods.task_vector import Reinforce
from expunge.language.relabelled import RelabelledPass
from expunge.language.subject import Subject
from expunge.language.text_blocks import Block, encoded, make_blocks
from expunge.language.unlearn import UnlearnJob


@dataclass(frozen=True)
class GenericTuning(Trained):
    """Cross-entropy to generic labels (the arg-max, or a distribution), and a retain term if one is wanted."""

    soft: bool = False
    retain: Retain = "none"
    retain_weight: float = 1.0

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)

    def forget_loss(self, step: Step) -> Tensor:
        view: RelabelledPass = step.forget
        if not self.soft:
            return view.nll
        tokens, probabilities = view.soft_labels
        return view.per_token(-(probabilities * view.logprobs.gather(-1, tokens)).sum(-1))


@dataclass(frozen=True)
class WHP(Edit):
    """Who's Harry Potter: fine-tune on generic labels from a reinforced model and a text without its anchors.

    A copy r is trained further on the forget set. The baseline b reads every block with its idiosyncratic
    expressions replaced, r reads it as it is, and at positions that stand at the same place of both texts
    v_gen = v_b - alpha ReLU(v_r - v_b). Then b is trained on the original tokens with arg-max v_gen as labels. With
    anchors=none it is the bootstrap half alone, with alpha=0 the anchor half. The training settings are those of
    the last step. Audits of the method find knowledge left behind it (other languages, hints in the prompt, probes
    of hidden states): it changes what the model says.

    Attributes:
        anchors: JSON file {expression: substitute or [substitutes]}; ``propose`` takes the expressions from the
            forget records and substitutes from the retain records (`anchor_proposals`); ``none`` replaces nothing.
            Source: paper (a language model wrote theirs); ours (propose).
        alpha: How far tokens that reinforcement favours are pushed down; has no natural scale, so the log holds the
            divergence from b it causes. Source: paper.
        scale: How v_r - v_b is brought to a common scale: ``median``, ``log-softmax`` (hardly moves what b is sure
            of, see `generic_labels.reinforcement`), or ``raw`` as printed. Source: ours; paper (raw).
        penalty: Taken off the logit of a substitute's first token once it stands in the block. Source: reference
            code (causal_unlearn).
        substitutes: Translations averaged over, each with other substitutes. Source: paper (1); causal_unlearn: 20.
        soft: Train on the distribution instead of its arg-max. Source: ours; paper (arg-max).
        temperature: Of the distribution softmax(v_gen / T). Source: ours.
        soft_top: Tokens of it that are kept, for memory's sake; 0 keeps all. Source: ours.
        block: Longest block of plain text, in tokens. Source: paper, section 3.
        retain: Retain term beside it: ``nll``, ``kl`` (forward KL from b) or ``none``. Source: paper (none); ours (the
            others).
        retain_weight: Weight of the retain term. Source: ours.
        reinforce_epochs: Passes of r over the forget set. Source: paper, section 3.
        reinforce_rate: Learning rate of r, as a multiple of the one of the last step. Source: paper (3e-6 to 1e-6).
    """

    paper: ClassVar[str] = (
        "Eldan, Russinovich, Who's Harry Potter? Approximate Unlearning in LLMs, 2023 (arXiv 2310.02238)"
    )
    intention: ClassVar[Intention] = "removal"

    anchors: str = "propose"
    alpha: float = 5.0
    scale: Scale = "median"
    penalty: float = 5.0
    substitutes: int = 1
    soft: bool = False
    temperature: float = 1.0
    soft_top: int = 128
    block: int = 512
    retain: Retain = "none"
    retain_weight: float = 1.0
    reinforce_epochs: float = 3.0
    reinforce_rate: float = 3.0

    def __post_init__(self) -> None:
        not_negative(self, "alpha", "penalty", "soft_top", "retain_weight")
        above_zero(self, "substitutes", "temperature", "block", "reinforce_epochs", "reinforce_rate")
        if self.scale not in ("log-softmax", "median", "raw"):
            raise InputError(f"whp: scale={self.scale!r}; log-softmax, median or raw.")

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject, fine-tuned on generic labels.

        Raises:
            InputError: No retain records for a retain term; anchors that cannot be read or proposed, or that have
                fewer substitutes than `substitutes`; a block longer than the context, or one that does not align
                with its translation.
        """
        if self.retain != "none" and not job.retain:
            raise InputError("whp needs retain records for its retain term and there are none.")
        anchors = self.dictionary(job)
        blocks = make_blocks(job.subject, job.forget, self.block)
        reinforced = self._reinforced(job, blocks)
        labels = self.labels(job.subject, reinforced, blocks, anchors)
        del reinforced
        report = {"labelled": labels.labelled, "changed": labels.changed, "divergence": labels.divergence}
        job.logs.append(TrainLog(probes=[{"step": 0, "anchors": len(anchors), **report}]))
        steps = job.training.total_steps(len(labels.examples))
        streams = {"forget": _stream(labels.examples, job, steps)}
        if self.retain != "none":
            streams["retain"] = _retain_stream(job, steps)
        loss = GenericTuning(self.soft, self.retain, self.retain_weight)
        return job.train(loss, job.subject, part="generic", streams=streams)

    def dictionary(self, job: UnlearnJob) -> Anchors:
        """The anchors this job works with.

        Raises:
            InputError: See `apply`.
        """
        if self.anchors == "none":
            found = Anchors({})
        elif self.anchors == "propose":
            found = propose_anchors(job.forget, job.retain, count=self.substitutes, seed=job.seed)
        else:
            found = read_anchors(self.anchors)
        if found.most < self.substitutes > 1:  # the translations would be the same
            raise InputError(
                f"whp: substitutes={self.substitutes} and no anchor has more than {found.most}; name more or lower it."
            )
        return found

    def labels(self, baseline: Subject, reinforced: Subject, blocks: list[Block], anchors: Anchors) -> GenericLabels:
        """Generic labels of the blocks (`generic_labels.generic_labels`)."""
        how = Generic(
            self.alpha, self.scale, self.penalty, self.substitutes, self.soft, self.temperature, self.soft_top
        )
        return generic_labels(baseline, reinforced, blocks, anchors, how)

    def _reinforced(self, job: UnlearnJob, blocks: list[Block]) -> Subject:
        """A copy of the subject that knows the forget set better."""
        settings = job.training
        settings = replace(settings, steps=None, epochs=self.reinforce_epochs, lr=settings.lr * self.reinforce_rate)
        settings = replace(settings, muon_lr=settings.muon_lr * self.reinforce_rate, loss_cap=None)
        copied = job.subject.with_model(copy.deepcopy(job.subject.model))
        streams = {"forget": _stream(LanguageExamples(encoded(blocks)), job, settings.total_steps(len(blocks)))}
        return job.train(Reinforce(), copied, settings, part="reinforce", quiet=True, streams=streams)


def _stream(examples: LanguageExamples, job: UnlearnJob, steps: int) -> Stream:
    return Stream(examples, epochs(len(examples), steps, job.training.batch_size, job.seed, "forget"))


def _retain_stream(job: UnlearnJob, steps: int) -> Stream:
    """As many retain records for each step as blocks, drawn uniformly."""
    subject = job.subject
    made = encode(job.retain, subject.tokenizer, subject.template, max_length=subject.max_length, where="retain")
    return Stream(LanguageExamples(made), uniform(len(job.retain), steps, job.training.batch_size, job.seed, "retain"))
