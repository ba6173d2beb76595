"""Raw text as windows of tokens: joined, cut every so many tokens whatever stands there, fed as it was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.errors import InputError
from expunge.language.data import Record

Style = Literal["muse", "open-unlearning"]
STYLES: tuple[Style, ...] = ("muse", "open-unlearning")
BETWEEN = "\n\n"  # what stands between two texts


@dataclass(frozen=True)
class Window(Record):
    """Plain text that was cut between tokens: it is fed as these tokens, with nothing before or behind them.

    Tokenised anew, a piece of text that begins or ends within a word would give other tokens. All tokens but the
    first are labels.

    Attributes:
        ids: Token ids, a begin-of-sequence token included where there is one.
    """

    ids: tuple[int, ...] = ()

    def fed(self, tokenizer: Any, max_length: int, where: str) -> list[int]:
        """The token ids, once it is clear that this tokenizer made them and that they fit.

        Args:
            tokenizer: The model's.
            max_length: Longest sequence in tokens.
            where: Name of the record in errors.

        Raises:
            InputError: Another tokenizer's tokens, or more of them than fit.
        """
        if len(self.ids) > max_length:
            raise InputError(
                f"{where}: a window of {len(self.ids)} tokens does not fit into max_length={max_length}; raise "
                f"model.max_length or cut shorter windows."
            )
        if readable(tokenizer, self.ids) != self.answer:
            raise InputError(
                f"{where}: the windows were cut with another tokenizer than the model's; cut them with that of the "
                f"model."
            )
        return list(self.ids)


def readable(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens without special tokens; empty where the tokenizer has no such tokens."""
    if max(ids) >= len(tokenizer):
        return ""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def windows(tokenizer: Any, texts: Sequence[str], size: int, style: Style = "muse") -> list[Window]:
    """Texts joined by a blank line, tokenised without special tokens, and cut.

    ``muse`` (Shi et al., baselines of the first release): a begin-of-sequence token and size - 1 tokens of text in
    each window. The last one is filled up with the first window from its beginning, begin-of-sequence token
    included; a text of less than half a window stays short. ``open-unlearning``: size tokens of text, decoded and
    tokenised again with special tokens, so that a window may hold one token more; the last one stays short.

    Args:
        tokenizer: The model's.
        texts: What is joined.
        size: Tokens of a window.
        style: How it is cut.

    Returns:
        The windows, none of them of a single token.

    Raises:
        InputError: A size below 2, or no text of two tokens.
    """
    if size < 2:
        raise InputError(f"window={size}: a window needs at least 2 tokens.")
    tokens = list(tokenizer(BETWEEN.join(texts), add_special_tokens=False, verbose=False)["input_ids"])
    cut = _muse if style == "muse" else _open_unlearning
    found = [Window("", readable(tokenizer, ids), ids=tuple(ids)) for ids in cut(tokenizer, tokens, size) if ids[1:]]
    if not found:
        raise InputError("There is no text of at least two tokens to cut into windows.")
    return found


def _muse(tokenizer: Any, tokens: list[int], size: int) -> list[list[int]]:
    begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    step = size - len(begin)
    cut = [begin + tokens[i : i + step] for i in range(0, len(tokens), step)]
    if cut and len(cut[-1]) < size:
        cut[-1] = (cut[-1] + cut[0])[:size]
    return cut


def _open_unlearning(tokenizer: Any, tokens: list[int], size: int) -> list[list[int]]:
    room = size + len(tokenizer("")["input_ids"])
    pieces = [tokenizer.decode(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    return [list(ids)[:room] for ids in tokenizer(pieces)["input_ids"]] if pieces else []
