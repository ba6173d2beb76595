"""A subject as the model that lm-evaluation-harness asks: three kinds of request, answered by our own passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.api.model import LM

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.continuations import Tokens, continuation_scores, prefix_token, score_tokens, tokenise
from expunge.language.generate import _greedy as greedy
from expunge.language.subject import Subject

DEFAULT_NEW_TOKENS = 256  # the harness's own, when a task names none
GENERATED_TOGETHER = 32


class HarnessModel(LM):  # type: ignore[misc]
    """Answers the harness's requests from a subject in memory."""

    def __init__(self, subject: Subject, *, batch_tokens: int = 4096) -> None:
        """Bind a subject; nothing of it is changed."""
        super().__init__()
        self.subject, self.batch_tokens = subject, batch_tokens

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding gives it."""
        scores, exact = continuation_scores(self.subject, [r.args for r in requests], batch_tokens=self.batch_tokens)
        return list(zip(scores.tolist(), exact.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-likelihood of whole texts, in windows of the longest sequence that do not overlap.

        Each token of a text is predicted once, the first of a window from the token before it, the first of all
        from the prefix token, which is not itself predicted. (The harness's own model predicts it too, when the
        tokenizer writes it.)
        """
        texts = [r.args[0] for r in requests]
        ids = tokenise(self.subject.tokenizer, texts, special=False)
        prefix, width = prefix_token(self.subject.tokenizer), self.subject.max_length - 1
        owners: list[int] = []
        pairs: list[tuple[Tokens, Tokens]] = []
        for i, text in enumerate(ids):
            for start in range(0, len(text), width):
                owners.append(i)
                pairs.append(([text[start - 1] if start else prefix], text[start : start + width]))
        sums = [0.0] * len(texts)
        if pairs:
            scores = score_tokens(self.subject, pairs, share=False, batch_tokens=self.batch_tokens)
            for owner, nll in zip(owners, scores.nll_sum.tolist(), strict=True):
                sums[owner] -= nll
        return sums

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy continuations, cut at the first stop string; contexts that are too long lose their beginning.

        Raises:
            InputError: A request for sampling, or for no text at all.
        """
        answers = [""] * len(requests)
        prompts = tokenise(self.subject.tokenizer, [r.args[0] for r in requests])
        prefix = prefix_token(self.subject.tokenizer)
        settings = [_generation(r.args[1]) for r in requests]
        order = sorted(range(len(requests)), key=lambda i: (settings[i][0], len(prompts[i])))
        for start in range(0, len(order), GENERATED_TOGETHER):
            rows = order[start : start + GENERATED_TOGETHER]
            limit = min(max(settings[i][0] for i in rows), self.subject.max_length // 2)
            room = self.subject.max_length - limit
            fed = [(prompts[i] or [prefix])[-room:] for i in rows]
            with evaluating(self.subject.model), torch.inference_mode():
                tokens = greedy(self.subject, fed, limit)
            for i, ids in zip(rows, tokens, strict=True):
                text = self.subject.tokenizer.decode(ids[: settings[i][0]], skip_special_tokens=True)
                answers[i] = _until(text, settings[i][1])
        return answers

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness files prompts made with this chat template."""
        return str(self.subject.tokenizer_hash)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Turns as one prompt, by the tokenizer's chat template.

        Raises:
            InputError: The tokenizer has none.
        """
        tokenizer = self.subject.tokenizer
        if tokenizer.chat_template is None:
            raise InputError("chat_template: the tokenizer has no chat template.")
        return str(
            tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


def _generation(settings: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Longest answer in tokens, and the strings that end it.

    Raises:
        InputError: Sampling is asked for, or an answer of no token.
    """
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise InputError("The task samples its answers (do_sample); only greedy decoding is supported.")
    limit = next((settings[k] for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if k in settings), None)
    limit = DEFAULT_NEW_TOKENS if limit is None else int(limit)
    if limit < 1:
        raise InputError(f"The task's generation_kwargs: max_gen_toks={limit} must be at least 1.")
    until = settings.get("until") or ()
    return limit, (until,) if isinstance(until, str) else tuple(until)


def _until(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first of some strings.

    >>> _until("Paris. Next", (".", "Next"))
    'Paris'
    """
    return text[: min([at for stop in stops if stop and (at := text.find(stop)) >= 0], default=len(text))]
