"""The model card of an unlearned model: what was done, never what was forgotten."""

from __future__ import annotations

import textwrap
from typing import Any

from expunge.engine.method import Guard, Method

GUARDED = """
**Guarded, not erased.** The weights in `target/` are those of the model as delivered and still hold the data; the
files beside it change what is said. Load the folder with expunge: whoever loads `target/` alone
goes round the guard.
"""


def model_card(name: str, method: Method, recipe: Any, forget_digest: str, library: str) -> str:
    """README.md of an unlearned model.

    Args:
        name: The method's name.
        method: The method with its hyper-parameters.
        recipe: The run's recipe.
        forget_digest: Content hash of the forget set (its id; never its content).
        library: Whose format the model's files have.
    """
    library, guarded = ("expunge", GUARDED) if isinstance(method, Guard) else (library, "")
    return (
        textwrap.dedent(f"""\
        ---
        library_name: {library}
        tags: [machine-unlearning, expunge]
        ---
        # {recipe.name}: unlearned with {name}

        Made by expunge from `{recipe.model.source}`. Forget set: `{forget_digest}` (content hash).

        - Method: `{method!r}`
        - Claimed intention: {method.intention}
        - Citation: {method.paper}

        Whether the model has forgotten is a matter of evidence: see `scorecard.json` and `report.html` of
        the run. A claim holds within the tested budget only.
        """)
        + guarded
    )
