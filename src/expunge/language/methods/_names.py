"""Whom a request is about: what methods that work from a name alone need."""

from __future__ import annotations

from expunge.errors import InputError
from expunge.language.methods._checks import public_name
from expunge.language.unlearn import UnlearnJob


def forgotten_names(method: object, given: tuple[str, ...], job: UnlearnJob) -> tuple[str, ...]:
    """The names given, or those of the clusters of the forget records, by first appearance.

    Raises:
        InputError: Neither, or an empty name.
    """
    names = given or tuple(dict.fromkeys(r.cluster for r in job.forget if r.cluster))
    if not names:
        raise InputError(
            f"{public_name(method)}: no forget record says whom it is about (field 'cluster'); give 'names'."
        )
    if not all(name.strip() for name in names):
        raise InputError(f"{public_name(method)}: names={list(names)}: a name is empty.")
    return names
