"""The anchor dictionary: idiosyncratic expressions of a text and generic ones of the same kind to stand for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.errors import InputError


class Replaced(NamedTuple):
    """One replaced expression: where it stood, where its substitute stands, and which anchor it is."""

    start: int  # characters of the original text
    end: int
    new_start: int  # characters of the translated text
    new_end: int
    key: str


class Translation(NamedTuple):
    """A text without its anchors."""

    text: str
    replaced: tuple[Replaced, ...]  # in order of appearance


class Anchors:
    """An anchor dictionary D: expression to generic counterparts (Eldan & Russinovich 2023, section 2.2).

    Whole words are replaced, the longest expression first. A key is found as it is written, in capitals
    ("ZORK" for "Zork") and, where it begins in lower case, with a capital ("Floo" for "floo"); the substitute
    is written the same way. A capitalised key is never found in lower case: the name Will is not the verb.
    """

    def __init__(self, entries: Mapping[str, str | Sequence[str]]) -> None:
        """Check a dictionary.

        Args:
            entries: Expression to one substitute, or to several that take turns. May be empty.

        Raises:
            InputError: An empty expression or substitute, an expression twice, or a substitute that is, or
                holds, an expression itself.
        """
        self.entries: dict[str, tuple[str, ...]] = {}
        for raw, given in entries.items():
            values = (given,) if isinstance(given, str) else tuple(given)
            key = _clean(raw)
            if not key or not values or not all(isinstance(v, str) and _clean(v) for v in values):
                raise InputError(
                    f"anchors: {raw!r} needs an expression and at least one substitute, none of them empty."
                )
            if key in self.entries:
                raise InputError(f"anchors: the expression {key!r} stands twice; keep one of the two.")
            self.entries[key] = tuple(dict.fromkeys(_clean(v) for v in values))
        self._forms = _forms(self.entries)
        self._pattern = _pattern(self._forms) if self._forms else None
        self._refuse_keys_as_values()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def most(self) -> int:
        """Substitutes of the anchor that has the most; 0 for an empty dictionary."""
        return max(map(len, self.entries.values()), default=0)

    def _refuse_keys_as_values(self) -> None:
        for key, values in self.entries.items():
            for value in values:
                found = self._pattern.search(value) if self._pattern else None
                if found:
                    raise InputError(
                        f"anchors: {value!r}, the substitute of {key!r}, holds the anchor {found[0]!r}; "
                        f"substitutes must not be anchors themselves."
                    )

    def translate(self, text: str, draw: int = 0) -> Translation:
        """Replace every anchor of one block of text, each by the same substitute throughout.

        Args:
            text: The block.
            draw: Which of several substitutes: number `draw` of the list (round and round), or the next one
                that no other anchor of this block has taken.
        """
        if self._pattern is None:
            return Translation(text, ())
        chosen: dict[str, str] = {}
        pieces, replaced, done, length = [], [], 0, 0
        for match in self._pattern.finditer(text):
            form = _clean(match[0])
            key = self._forms[form]
            if key not in chosen:
                chosen[key] = self._choose(key, draw, set(chosen.values()))
            new = _in_case(chosen[key], form, key)
            length += match.start() - done
            pieces += [text[done : match.start()], new]
            replaced.append(Replaced(match.start(), match.end(), length, length + len(new), key))
            done, length = match.end(), length + len(new)
        return Translation("".join(pieces) + text[done:], tuple(replaced))

    def _choose(self, key: str, draw: int, taken: set[str]) -> str:
        values = self.entries[key]
        turns = [values[(draw + i) % len(values)] for i in range(len(values))]
        return next((v for v in turns if v not in taken), turns[0])


def read_anchors(path: str | Path) -> Anchors:
    """Read a dictionary from a JSON file: one object, expression to substitute or list of substitutes.

    Raises:
        InputError: No such file, not such an object, or a dictionary that `Anchors` refuses.
    """
    file = Path(path).expanduser()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise InputError(f"{path}: an expression stands twice; keep one of the two.")
        return dict(pairs)

    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a JSON file with anchors is needed.") from None
    except ValueError:  # not UTF-8, or not JSON
        raise InputError(f"{path}: not JSON; one object {{expression: substitute, ...}} is needed.") from None
    listed = isinstance(found, dict) and all(isinstance(v, str | list) for v in found.values())
    if not listed:
        raise InputError(f"{path}: one object {{expression: substitute, or [substitutes], ...}} is needed.")
    try:
        return Anchors(found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_anchors(anchors: Anchors, path: str | Path) -> None:
    """Write a dictionary so that `read_anchors` reads it, and a person can correct it."""
    text = json.dumps({k: list(v) for k, v in anchors.entries.items()}, ensure_ascii=False, indent=2)
    Path(path).expanduser().write_text(text + "\n", encoding="utf-8")


def _clean(text: str) -> str:
    return " ".join(text.split())


def _forms(entries: Mapping[str, Any]) -> dict[str, str]:
    """Written form to key; the form a user wrote comes before one made of another key."""
    forms = {key: key for key in entries}
    for key in entries:
        for made in (key[0].upper() + key[1:], key.upper()):
            if len(key) > 1:
                forms.setdefault(made, key)
    return forms


def _pattern(forms: Mapping[str, str]) -> re.Pattern[str]:
    """All forms as whole words, the longest first; grouped by first character, or long lists are slow."""
    groups: dict[str, list[str]] = {}
    for form in sorted(forms, key=len, reverse=True):
        groups.setdefault(form[0], []).append(form)
    tails = []
    for first, members in groups.items():
        rest = "|".join(
            r"\s+".join(map(re.escape, form[1:].split(" "))) + (r"(?!\w)" if re.match(r"\w", form[-1]) else "")
            for form in members
        )
        start = r"(?<!\w)" if re.match(r"\w", first) else ""
        tails.append(f"{start}{re.escape(first)}(?:{rest})")
    return re.compile("|".join(tails))


def _in_case(substitute: str, form: str, key: str) -> str:
    """The substitute written as the anchor was found."""
    if form == key:
        return substitute
    return substitute.upper() if form == key.upper() else substitute[0].upper() + substitute[1:]
