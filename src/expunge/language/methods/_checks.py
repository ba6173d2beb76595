"""The range checks that methods share."""

from __future__ import annotations

from expunge.errors import InputError


def public_name(method: object) -> str:
    """The name a method goes by in recipes: its file's name."""
    return type(method).__module__.rpartition(".")[2].replace("_", "-")


def above_zero(method: object, *names: str) -> None:
    """Refuse hyper-parameters that are not above 0.

    Raises:
        InputError: Names the method, the hyper-parameter and its value.
    """
    for name in names:
        value = getattr(method, name)
        if not value > 0:
            raise InputError(f"{public_name(method)}: {name}={value} must be above 0.")


def not_negative(method: object, *names: str) -> None:
    """Refuse hyper-parameters below 0.

    Raises:
        InputError: Names the method, the hyper-parameter and its value.
    """
    for name in names:
        value = getattr(method, name)
        if not value >= 0:
            raise InputError(f"{public_name(method)}: {name}={value} must not be below 0.")
