"""The errors users see: one clear sentence, an exit code, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExpungeError(Exception):
    """Something the user can act on. Printed without a traceback unless ``--debug`` is given."""

    exit_code = 2


class InputError(ExpungeError):
    """Wrong usage or input: a file, record, recipe key or name (exit code 2)."""


class RunError(ExpungeError):
    """The run itself failed: a non-finite loss, no memory, a full disk (exit code 3)."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, else the list of what is known.

    >>> nearest("nppo", ["npo", "rmu"])
    " Did you mean 'npo'?"
    >>> nearest("zzz", ["npo", "rmu"])
    ' Known: npo, rmu.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known)}."
