from __future__ import annotations

import pytest
from synthetic_audit import build

from expunge.report.scorecard import Scorecard


@pytest.fixture(scope="session")
def scorecard() -> Scorecard:
    """Nine methods, judged. Shared by all tests: do not change it."""
    return build()
