"""ULD: a small assistant learns to remember the forget set, and is subtracted (Ji et al. 2024)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from expunge.engine.loop import Stream
from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError
from expunge.language.forward import ForwardPass, LanguageExamples, decoder_layers
from expunge.language.guarded import CompanionLogits, Guarded, LogitGuard
from expunge.language.methods._checks import not_negative
from expunge.language.methods._uld_records import to_flatten, to_remember
from expunge.language.subject import Subject, add_lora, load_subject, merge_lora
from expunge.language.unlearn import UnlearnJob, make_streams

Dropped = Literal["unchanged", "impossible", "published"]
Normalise = Literal["kept-mean", "log-softmax", "none"]
Positions = Literal["answers", "all"]


def uniform_kl(logprobs: Tensor) -> Tensor:
    """KL(U || p) from the uniform distribution at each position (Ji et al. 2024, section 3.2).

    Args:
        logprobs: [T, V] log-probabilities p of the assistant.

    Returns:
        [T] -log V - (1/V) sum_v log p_v, in nats, at least 0; its gradient with respect to logits is p - U.
    """
    return -math.log(logprobs.shape[-1]) - logprobs.mean(-1)


def plausible(logits: Tensor, ratio: float) -> Tensor:
    """The tokens that the target finds plausible; only they are adjusted (Ji et al. 2024, section 3.3).

    Args:
        logits: [T, V] logits of the target.
        ratio: q in [0, 1]; 0 keeps all tokens.

    Returns:
        [T, V] bool: log p >= min(k-th largest, largest + ln q) with k = max(1, floor(q V)).
    """
    if ratio == 0:
        return torch.ones_like(logits, dtype=torch.bool)
    k = max(1, math.floor(ratio * logits.shape[-1]))
    top = logits.topk(k, -1).values  # a constant on all logits moves both sides of the comparison
    return logits >= torch.minimum(top[:, -1:], top[:, :1] + math.log(ratio))


@dataclass(frozen=True)
class AssistantLoss(Trained):
    """Reversed objectives: remember the forget rows, know nothing on the others (Ji et al. 2024, equation 4).

    L = nll_tok(assistant; F') + lambda * mean over positions of KL(U || p) on R'. Neither term is unbounded.
    """

    retain_weight: float = 5.0

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return view.nll

    def retain_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.retain
        return self.retain_weight * view.per_token(uniform_kl(view.logprobs))


@dataclass(frozen=True)
class ULD(LogitGuard):
    """Unlearning from logit difference: subtract a small assistant that remembers only the forget set.

    l_f = l + weight * l_a. The assistant is the target's first blocks with its embedding, final norm and head,
    and LoRA adapters on the blocks; only they are trained, by the run's training settings. The target's weights
    are untouched and still hold the data: whoever has them goes round the guard.

    Scoring and decoding follow one rule. The reference code scores dropped tokens by the target alone and never
    decodes them (`dropped` = ``published``), so that its numbers and its text come from two distributions.

    Attributes:
        layers: K, blocks of the assistant; None for a quarter of the target's. Source: paper (8 of 32).
        rank: Rank of its adapters. Source: reference code.
        lora_alpha: Their scale, alpha. Source: reference code.
        dropout: Their dropout. Source: reference code.
        retain_weight: lambda, weight of the uniform term. Source: reference code.
        weight: w, what the assistant's logits are multiplied with; below 0. Source: reference code (TOFU).
        filter_ratio: q; tokens the target finds less plausible are not adjusted. Source: reference code (TOFU).
        dropped: What becomes of them: ``unchanged`` (the target's own logit; never chosen greedily),
            ``impossible``, or ``published``. Source: ours.
        normalise: Constant taken off the assistant's logits, which would otherwise move mass between adjusted and
            other tokens: their mean over the adjusted ones (``kept-mean``), ``log-softmax``, or ``none`` as
            published. Source: ours.
        augmented: Paraphrases and wrong answers of each forget record used for training. Source: reference code.
        retain_rows: Most retain rows used, never more than forget rows; drawn at random. Source: reference code
            (which takes the last rows of the file).
        positions: Where the assistant must be flat: ``answers`` or ``all`` tokens. Source: ours (reference code:
            all, padding included).
        assistant: Another model with the target's vocabulary to start the assistant from; None cuts the target.
            Source: ours.
        allow_positive: Allow a weight above 0, which adds what the assistant remembers. Source: ours.
    """

    paper: ClassVar[str] = (
        "Ji, Liu, Zhang, Liu, Kompella, Liu, Chang, Reversing the Forget-Retain Objectives: An Efficient LLM "
        "Unlearning Framework from Logit Difference, NeurIPS 2024 (arXiv 2406.08607)"
    )
    intention: ClassVar[Intention] = "suppression"

    layers: int | None = None
    rank: int = 16
    lora_alpha: float = 32.0
    dropout: float = 0.05
    retain_weight: float = 5.0
    weight: float = -0.8
    filter_ratio: float = 0.01
    dropped: Dropped = "unchanged"
    normalise: Normalise = "kept-mean"
    augmented: int = 2
    retain_rows: int = 400
    positions: Positions = "answers"
    assistant: str | None = None
    allow_positive: bool = False

    def __post_init__(self) -> None:
        not_negative(self, "retain_weight", "augmented", "retain_rows")
        if not 0 <= self.filter_ratio <= 1:
            raise InputError(f"uld: filter_ratio={self.filter_ratio} must lie between 0 and 1.")
        if self.weight > 0 and not self.allow_positive:
            raise InputError(
                f"uld: weight={self.weight} is above 0 and would add what the assistant remembers; set allow_positive "
                f"if that is meant."
            )
        for name, kinds in (("dropped", Dropped), ("normalise", Normalise), ("positions", Positions)):
            if getattr(self, name) not in (allowed := get_args(kinds)):
                raise InputError(f"uld: {name}={getattr(self, name)!r} must be one of {', '.join(allowed)}.")

    # -- at inference --------------------------------------------------------------------------------

    def combine(self, target: Tensor, companion: CompanionLogits, *, decoding: bool) -> Tensor:
        """l_f = l + w * l_a on the plausible tokens (Ji et al. 2024, equations 1 and 7)."""
        keep = plausible(target, self.filter_ratio)
        never = self.dropped == "impossible" or (self.dropped == "published" and decoding)
        served = target.masked_fill(~keep, -torch.inf) if never else target
        most = int(keep.sum(-1).max())
        if self.normalise == "log-softmax" or not companion.few(len(target) * most):
            return served + self._adjustment(companion.everywhere(), keep)
        # the kept tokens are the likeliest ones: only their logits of the assistant are computed
        tokens = target.topk(most, -1).indices
        return served.scatter_add(-1, tokens, self._adjustment(companion.at(tokens), keep.gather(-1, tokens)))

    def _adjustment(self, l_a: Tensor, kept: Tensor) -> Tensor:
        """w * l_a on the kept tokens, less the constant; 0 elsewhere."""
        if self.normalise == "log-softmax":
            l_a = l_a.log_softmax(-1)
        elif self.normalise == "kept-mean":
            l_a = l_a - l_a.masked_fill(~kept, 0.0).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
        return (self.weight * l_a).masked_fill(~kept, 0.0)

    # -- training the assistant ----------------------------------------------------------------------

    def wrap(self, job: UnlearnJob) -> Subject:
        """Return the job's model with a trained assistant beside it.

        Raises:
            InputError: The assistant would be deeper than the target; vocabularies that differ.
        """
        target = merge_lora(job.subject)
        assistant = add_lora(self._start(target), self.rank, self.lora_alpha, "all-linear", self.dropout, seed=job.seed)
        forget = to_remember(job.forget, self.augmented)
        retain = to_flatten(job.forget, job.retain, self.augmented, self.retain_rows, job.seed)
        loss = AssistantLoss(self.retain_weight)
        streams = make_streams(loss, assistant, forget, retain, job.training, job.seed)
        if self.positions == "all":
            streams["retain"] = _everywhere(streams["retain"])
        job.train(loss, assistant, part="assistant", quiet=True, streams=streams)
        return target.with_model(Guarded(target.model, merge_lora(assistant).model, self).eval())

    def _start(self, target: Subject) -> Subject:
        """The assistant before training: the first K blocks of the target, or of the given model."""
        if self.assistant is not None:
            given = load_subject(self.assistant, template="plain")
            check_vocabulary(target, given)
        else:
            given = target
        depth, deepest = len(decoder_layers(given.model)[2]), len(decoder_layers(target.model)[2])
        layers = max(1, depth // 4) if self.layers is None else self.layers
        if not 1 <= layers <= min(depth, deepest):
            raise InputError(
                f"uld: layers={layers}: the assistant may have 1 to {min(depth, deepest)} blocks, no more than its "
                f"target."
            )
        return target.with_model(first_blocks(given.model, layers))


def check_vocabulary(target: Subject, assistant: Subject) -> None:
    """Refuse an assistant whose tokens are not the target's.

    Raises:
        InputError: The vocabularies differ.
    """
    ours, theirs = target.tokenizer.get_vocab(), assistant.tokenizer.get_vocab()
    if ours != theirs:
        raise InputError(
            f"uld: assistant={assistant.source!r} has another vocabulary than its target ({len(theirs)} and "
            f"{len(ours)} tokens); both must share one tokenizer."
        )


def first_blocks(model: torch.nn.Module, layers: int) -> torch.nn.Module:
    """A copy of a causal LM with its first blocks only, with embedding, final norm and head."""
    owner, name, blocks = decoder_layers(model)
    setattr(owner, name, blocks[:layers])
    try:
        cut = copy.deepcopy(model)
    finally:
        setattr(owner, name, blocks)
    config = cut.config.get_text_config()  # type: ignore[operator, union-attr]
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers
    return cut.requires_grad_(True)


def _everywhere(stream: Stream) -> Stream:
    """The same rows with every token but the first labelled."""
    assert isinstance(stream.examples, LanguageExamples)
    encoded = stream.examples.encoded
    return replace(
        stream, examples=LanguageExamples(encoded._replace(label_start=torch.ones_like(encoded.label_start)))
    )
