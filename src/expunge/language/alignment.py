"""Which token of a translated text is which token of the original: substitutes change the number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from expunge.errors import InputError

Range = tuple[int, int]  # first token, one after the last


def token_ranges(offsets: Sequence[Range], spans: Sequence[Range]) -> list[Range]:
    """The tokens that hold characters of each span.

    Args:
        offsets: Characters [start, end) of each token; an empty one belongs to no span.
        spans: Characters [start, end), in order and disjoint.

    Returns:
        [first, one after last) for each span, up to the first one whose end lies behind the last token. A token
        that holds parts of two spans is the earlier one's.
    """
    found: list[Range] = []
    token = 0
    covered = max((end for _, end in offsets), default=0)
    for start, end in spans:
        if end > covered:
            break
        while token < len(offsets) and (offsets[token][1] <= start or offsets[token][0] == offsets[token][1]):
            token += 1
        first = token
        while token < len(offsets) and offsets[token][0] < end and offsets[token][1] > offsets[token][0]:
            token += 1
        found.append((first, token))
    return found


def align(
    original: Sequence[int],
    translated: Sequence[int],
    spans: Sequence[tuple[Range, Range]] = (),
    *,
    limits: Range | None = None,
    shortest: int = 2,
) -> list[tuple[int, int]]:
    """Pairs (i, j): the model stands at the same place of the story after token i and after token j.

    Between two replaced expressions both texts are the same, so the longest matching blocks of token ids are
    sought within each such stretch. A block that follows a replaced expression is extended by one to the left, to
    the last token of the expression and of its substitute: what comes right after a name carries the knowledge.
    Blocks that are then still shorter than `shortest` are left out, as are all other tokens of expressions.

    Args:
        original: Token ids.
        translated: Token ids.
        spans: For each replaced expression, its tokens in the original and its substitute's in the translation.
        limits: Number of tokens of each text to look at; None for all.
        shortest: Shortest block that is kept.

    Returns:
        Pairs in which both numbers rise strictly.

    Raises:
        InputError: There is no pair.
    """
    ends = limits or (len(original), len(translated))
    stretches, at = [], (0, 0)
    for ours, theirs in spans:
        stretches.append((at, (ours[0], theirs[0])))
        at = (ours[1], theirs[1])
    stretches.append((at, ends))
    pairs: list[tuple[int, int]] = []
    for number, (start, stop) in enumerate(stretches):
        a, b = list(original[start[0] : stop[0]]), list(translated[start[1] : stop[1]])
        # autojunk would throw away the frequent tokens of texts of 200 tokens and more
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
            i, j, size = start[0] + block.a, start[1] + block.b, block.size
            if size and number and (i, j) == start and _can_extend(pairs, i, j):
                i, j, size = i - 1, j - 1, size + 1
            if size >= shortest:
                pairs += [(i + k, j + k) for k in range(size)]
    if not pairs:
        raise InputError(
            f"alignment: the original text ({len(original)} tokens) and the translated one ({len(translated)}) have no "
            f"block of {shortest} tokens in common; check the anchors."
        )
    return pairs


def _can_extend(pairs: list[tuple[int, int]], i: int, j: int) -> bool:
    """Whether the tokens before (i, j) are still free; an expression may share its token with what is before it."""
    return i > 0 and j > 0 and (not pairs or (pairs[-1][0] < i - 1 and pairs[-1][1] < j - 1))
