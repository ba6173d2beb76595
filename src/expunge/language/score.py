"""One batched pass that scores answers token by token: length-sorted, prompts shared, head at labels only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.language.data import Record
from expunge.language.encode import Encoded, collate, encode
from expunge.language.forward import ForwardPass
from expunge.language.scores import AnswerScores
from expunge.language.sharing import Packed, TreePass, pack, places, takes_trees
from expunge.language.subject import Subject

HEAD_ROWS = 256  # positions whose statistics over the vocabulary are computed together; more only costs memory


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
    with evaluating(subject.model):
        if len(texts) > len(records) and takes_trees(subject.model):
            packed = pack(encoded, [i for i, a in enumerate(answers) for _ in a])
            return _score_packed(subject, encoded, packed, batch_tokens)
        return score_encoded(subject, encoded, batch_tokens)


def score_encoded(subject: Subject, encoded: Encoded, batch_tokens: int) -> AnswerScores:
    """Score encoded sequences, each in a row of its own (see `score_answers`)."""
    scores = _Columns(encoded)
    counts, first = encoded.counts, scores.offsets[:-1]
    for rows in length_batches(encoded.lengths, batch_tokens):
        view = ForwardPass(subject.model, collate(encoded, rows), (1, 1))
        ends = counts[rows].cumsum(0)
        within = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - counts[rows], counts[rows])
        scores.put(torch.repeat_interleave(first[rows], counts[rows]) + within, view)
    return scores.finish(encoded, subject.tokenizer.eos_token_id)


def _score_packed(subject: Subject, encoded: Encoded, packed: Packed, batch_tokens: int) -> AnswerScores:
    scores = _Columns(encoded)
    for rows in length_batches(packed.lengths, batch_tokens):
        scores.put(places(packed, rows), TreePass(subject.model, packed, rows))
    return scores.finish(encoded, subject.tokenizer.eos_token_id)


class _Columns:
    """The per-token columns of `AnswerScores`, filled batch by batch."""

    def __init__(self, encoded: Encoded) -> None:
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.long), encoded.counts.cumsum(0)])
        total = int(self.offsets[-1])
        self.logprob, self.mean, self.variance = (np.empty(total) for _ in range(3))
        self.hit = np.empty(total, dtype=bool)

    def put(self, place: Tensor, view: ForwardPass) -> None:
        """File the statistics of a pass's labels under their places [T]."""
        for at, logits, labels in zip(
            *(torch.split(t, HEAD_ROWS) for t in (place, view.logits, view.labels)), strict=True
        ):
            logp, hit, mean, variance = (t.cpu().numpy() for t in token_statistics(logits, labels))
            where = at.numpy()
            self.logprob[where], self.hit[where], self.mean[where], self.variance[where] = logp, hit, mean, variance

    def finish(self, encoded: Encoded, eos: int) -> AnswerScores:
        """The scores, once every place is filled."""
        last = encoded.ids[encoded.offsets[1:] - 1] if len(encoded.ids) else encoded.ids
        return AnswerScores(
            self.offsets.numpy(), self.logprob, self.hit, self.mean, self.variance, has_eos=(last == eos).numpy()
        )


def token_statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability of the label, arg-max hit, and mean and variance of log p under p.

    Args:
        logits: [T, V].
        labels: [T] token ids.

    Returns:
        Four [T] tensors; mean = sum_v p log p, variance = sum_v p (log p - mean)^2.
    """
    logprobs = logits.log_softmax(-1)
    logp = logprobs.gather(-1, labels[:, None])[:, 0]
    hits = logits.argmax(-1) == labels
    p = logprobs.exp()
    finite = logprobs.masked_fill(p == 0, 0.0)  # p log p is 0 where p underflows, also for log p = -inf
    mean = (p * finite).sum(-1)
    # centred: the difference of two large moments would leave rounding where the variance is small
    return logp, hits, mean, (p * (finite - mean[:, None]).square()).sum(-1)
