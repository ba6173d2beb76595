"""expunge: make a trained model forget, and prove it.

The public names are loaded on first use, so that importing expunge costs nothing:

- `unlearn`, `audit`: a model and some files in, an unlearned model or a scorecard out;
- `Recipe`, `run`: a whole run, ``expunge.run("demo")``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.api import audit, audit_recipe, run, unlearn
    from expunge.recipe import Recipe

    __version__: str

__all__ = ["Recipe", "__version__", "audit", "audit_recipe", "run", "unlearn"]

_HOMES = dict.fromkeys(("audit", "audit_recipe", "run", "unlearn"), "expunge.api") | {"Recipe": "expunge.recipe"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("expunge")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
