"""Log-likelihoods of continuations of raw texts, as lm-evaluation-harness defines them, by our batched scorer.

No template: a context is fed as it stands, with what the tokenizer itself puts in front of a text. Requests are
sorted by length, and those with one context share its computation where the model allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.encode import Encoded
from expunge.language.score import _score_packed as score_packed
from expunge.language.score import score_encoded
from expunge.language.scores import AnswerScores, Floats
from expunge.language.sharing import pack, takes_trees
from expunge.language.subject import Subject

Tokens = list[int]


def prefix_token(tokenizer: Any) -> int:
    """What a text is conditioned on that has nothing before it: the begin token, else the end token."""
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def split_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
    """Token ids of each context and of its continuation.

    Both are tokenised together and cut where the context's own tokens end; spaces at the end of a context
    belong to the continuation. An empty context becomes the prefix token.

    Raises:
        InputError: A continuation of no token: it is empty, or merges into the last token of its context.
    """
    texts: list[tuple[str, str]] = []
    for context, continuation in pairs:
        bare = context.rstrip()
        texts.append((bare, context[len(bare) :] + continuation) if bare else ("", continuation))
    known = list(dict.fromkeys(bare for bare, _ in texts))
    ids = dict(zip(known, tokenise(tokenizer, known), strict=True))
    whole = tokenise(tokenizer, [bare + rest for bare, rest in texts])
    alone = iter(tokenise(tokenizer, [rest for bare, rest in texts if not bare], special=False))
    prefix, found = prefix_token(tokenizer), []
    for i, ((bare, rest), joint) in enumerate(zip(texts, whole, strict=True), 1):
        if bare:
            head, tail = ids[bare], joint[len(ids[bare]) :]
        else:
            tail = next(alone)
            head, tail = (tail[:1], tail[1:]) if tail[:1] == [prefix] else ([prefix], tail)
        if not tail:
            raise InputError(
                f"Continuation {i}: {rest!r} adds no token of its own to its context, so it has no likelihood."
            )
        found.append((head, tail))
    return found


def tokenise(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[Tokens]:
    """Token ids of texts, with what the tokenizer puts in front unless the text begins with it already."""
    begin = tokenizer.bos_token
    plain = [not special or (begin is not None and text.startswith(begin)) for text in texts]
    ids: list[Tokens] = [[] for _ in texts]
    for without in (False, True):
        rows = [i for i, p in enumerate(plain) if p == without]
        if rows:
            found = tokenizer([texts[i] for i in rows], add_special_tokens=not without)["input_ids"]
            for i, row in zip(rows, found, strict=True):
                ids[i] = row
    return ids


def encode_pairs(pairs: Sequence[tuple[Tokens, Tokens]], max_length: int) -> Encoded:
    """Sequences whose labels are the continuations; what is longer than `max_length` loses tokens on the left."""
    rows = [((head + tail)[-max_length:], len(tail)) for head, tail in pairs]
    lengths = torch.tensor([len(row) for row, _ in rows], dtype=torch.long)
    starts = torch.tensor([max(1, len(row) - count) for row, count in rows], dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Encoded(torch.tensor([t for row, _ in rows for t in row], dtype=torch.long), offsets, starts)


@torch.inference_mode()
def score_tokens(
    subject: Subject, pairs: Sequence[tuple[Tokens, Tokens]], *, share: bool = True, batch_tokens: int = 4096
) -> AnswerScores:
    """Scores of continuations given as token ids; with `share`, equal contexts in a row are computed once."""
    encoded = encode_pairs(pairs, subject.max_length)
    owners = [0] * len(pairs)
    for i in range(1, len(pairs)):
        owners[i] = owners[i - 1] + (pairs[i][0] != pairs[i - 1][0])
    with evaluating(subject.model):
        if share and len(set(owners)) < len(pairs) and takes_trees(subject.model):
            return score_packed(subject, encoded, pack(encoded, owners), batch_tokens)
        return score_encoded(subject, encoded, batch_tokens)


def continuation_scores(
    subject: Subject, pairs: Sequence[tuple[str, str]], *, batch_tokens: int = 4096
) -> tuple[Floats, NDArray[np.bool_]]:
    """Log-likelihood of each continuation given its context.

    Args:
        subject: The model; its template is not used, its `max_length` cuts contexts on the left.
        pairs: Context and continuation.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        [n] sums of token log-probabilities in nats, and [n] whether greedy decoding gives the continuation.

    Raises:
        InputError: A continuation of no token.
    """
    if not pairs:
        return np.zeros(0), np.zeros(0, dtype=bool)
    first: dict[str, int] = {}
    for i, (context, _) in enumerate(pairs):
        first.setdefault(context, i)
    order = sorted(range(len(pairs)), key=lambda i: first[pairs[i][0]])  # equal contexts stand together
    tokens = split_pairs(subject.tokenizer, [pairs[i] for i in order])
    scores = score_tokens(subject, tokens, batch_tokens=batch_tokens)
    back = np.argsort(order)
    return -scores.nll_sum[back], scores.exact[back]
