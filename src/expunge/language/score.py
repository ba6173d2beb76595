"""One batched pass that scores answers token by token: length-sorted, prompts shared, head at labels only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from expunge.language.data import Record
from expunge.language.encode import Encoded, collate, encode
from expunge.language.forward import ForwardPass
from expunge.language.scores import AnswerScores
from expunge.language.subject import Subject


def length_batches(lengths: Tensor, tokens: int) -> list[Tensor]:
    """Row indices sorted by length, cut so that rows x longest stays within `tokens`.

    >>> [b.tolist() for b in length_batches(torch.tensor([3, 1, 2, 9]), 6)]
    [[1, 2], [0], [3]]
    """
    order = lengths.argsort(stable=True)
    batches: list[Tensor] = []
    start = 0
    sorted_lengths = lengths[order].tolist()
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * sorted_lengths[end] > tokens:
            batches.append(order[start:end])
            start = end
    return batches


@torch.inference_mode()
def score_answers(
    subject: Subject,
    records: list[Record],
    answers: list[list[str]],
    *,
    batch_tokens: int = 4096,
    where: str = "",
) -> AnswerScores:
    """Score any number of answers per record.

    Args:
        subject: The model.
        records: Their questions are the prompts.
        answers: For each record the answers to score.
        batch_tokens: Padded tokens per forward pass.
        where: Name of the set in errors.

    Returns:
        Scores of all answers, record after record.
    """
    owners = [r for r, a in zip(records, answers, strict=True) for _ in a]
    texts = [t for a in answers for t in a]
    encoded = encode(
        owners, subject.tokenizer, subject.template, answers=texts, max_length=subject.max_length, where=where
    )
    was_training = subject.model.training
    subject.model.eval()
    scores = score_encoded(subject, encoded, batch_tokens)
    subject.model.train(was_training)
    return scores


def score_encoded(subject: Subject, encoded: Encoded, batch_tokens: int) -> AnswerScores:
    """Score encoded sequences (see `score_answers`)."""
    counts = encoded.counts
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    total = int(offsets[-1])
    out = {name: np.empty(total) for name in ("logprob", "mean", "variance")}
    hit = np.empty(total, dtype=bool)
    for rows in length_batches(encoded.lengths, batch_tokens):
        view = ForwardPass(subject.model, collate(encoded, rows), (1, 1))
        ends = counts[rows].cumsum(0)
        within = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - counts[rows], counts[rows])
        place = (torch.repeat_interleave(offsets[rows], counts[rows]) + within).numpy()
        logp, hits, mean, variance = token_statistics(view.logits, view.labels)
        out["logprob"][place], out["mean"][place] = logp.cpu().numpy(), mean.cpu().numpy()
        out["variance"][place], hit[place] = variance.cpu().numpy(), hits.cpu().numpy()
    ends_with_eos = (
        bool((encoded.ids[encoded.offsets[1:] - 1] == subject.tokenizer.eos_token_id).all()) if total else True
    )
    return AnswerScores(offsets.numpy(), out["logprob"], hit, out["mean"], out["variance"], has_eos=ends_with_eos)


def token_statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability of the label, arg-max hit, and mean and variance of log p under p.

    Args:
        logits: [T, V] float32.
        labels: [T] token ids.

    Returns:
        Four [T] tensors; mean = sum_v p log p, variance = sum_v p (log p)^2 - mean^2, at least 0.
    """
    logprobs = logits.log_softmax(-1)
    logp = logprobs.gather(-1, labels[:, None])[:, 0]
    hits = logits.argmax(-1) == labels
    p = logprobs.exp()
    # p log p is 0 where p underflows to 0, also for log p = -inf
    weighted = torch.where(p > 0, p * logprobs, 0.0)
    mean = weighted.sum(-1)
    second = torch.where(p > 0, weighted * logprobs, 0.0).sum(-1)
    return logp, hits, mean, (second - mean**2).clamp(min=0)
