from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tofu() -> Path:
    """TOFU's real files: EXPUNGE_TOFU_DIR, or shared/data/tofu beside the repository."""
    default = Path(__file__).parents[4] / "shared" / "data" / "tofu"
    folder = Path(os.environ.get("EXPUNGE_TOFU_DIR", default))
    if not (folder / "full.jsonl").is_file():
        pytest.skip("TOFU's files are not here (EXPUNGE_TOFU_DIR)")
    return folder
