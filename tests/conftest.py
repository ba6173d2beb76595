"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest
import torch

from tiny_bed import Bed, make_bed
from tiny_moe import MoeBed, make_moe_bed

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    """The small trained test bed. Workers of one session read what the first of them trained."""
    folder = tmp_path_factory.getbasetemp()
    return make_bed(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def moe_bed(tmp_path_factory: pytest.TempPathFactory) -> MoeBed:
    """The small trained test bed on a mixture of experts."""
    folder = tmp_path_factory.getbasetemp()
    return make_moe_bed(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
