"""The evidence store: what it leaves out where, what it keeps on disk, and whose numbers it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.subject import Subject
from recommend.fixed import pairs, store
from recommend.tiny import forget_of, trained, world

TABLE = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])


def tiny_splits() -> dict:  # type: ignore[type-arg]
    forget = forget_of("edges")
    return {"forget": forget, "retain": world().train.without(forget), "valid": world().valid, "test": world().test}


def test_what_is_left_out_depends_on_what_is_looked_for() -> None:
    """User 0 kept item 0, watched item 1, tests item 2, forgot item 3."""
    found = store(
        "x", TABLE, retain=pairs(2, 5, (0, 0)), valid=pairs(2, 5, (0, 1)), test=pairs(2, 5, (0, 2)),
        forget=pairs(2, 5, (0, 3)),
    )  # fmt: skip
    assert {s: found.places(s).tolist() for s in ("retain", "valid", "test", "forget")} == {
        "retain": [1], "valid": [1], "test": [1], "forget": [3],
    }  # fmt: skip
    assert found.found("forget", 2).tolist() == [0.0]
    assert found.found("forget", 3).tolist() == [1.0]


def test_a_forgotten_item_that_is_no_longer_offered_is_still_looked_for_in_the_weights() -> None:
    offered = torch.tensor([False, True, True, True, True])
    found = store("x", TABLE, offered, forget=pairs(2, 5, (0, 0)), test=pairs(2, 5, (0, 1)))
    assert found.places("forget").tolist() == [1]
    assert found.places("forget", served=True).tolist() == [5]
    assert found.ranking("forget", 1).mean("recall", 1) == 1.0
    assert found.ranking("test", 1).mean("recall", 1) == 1.0  # item 0 does not stand before it


def test_scores_users_and_owners_are_those_of_the_split() -> None:
    forget = pairs(2, 5, (1, 4), (0, 2))
    found = store("x", TABLE, forget=forget)
    assert found.scores("forget").tolist() == [5.0, 3.0]
    assert found.users("forget").tolist() == [1, 0]
    assert found.clusters("forget").tolist() == [0, 1]
    with pytest.raises(InputError, match="No split 'other'; there are forget, retain"):
        found.scores("other")


def test_evidence_is_kept_by_fingerprint_and_read_without_the_model(tmp_path: Path) -> None:
    subject, splits = trained(), tiny_splits()
    subject.catalogue = torch.arange(40) != 7
    first = EvidenceStore("a", subject, splits, tmp_path)
    scores, hits = first.scores("forget"), first.found("forget", 5)
    assert np.allclose(scores, subject.pair_scores(splits["forget"].pairs).numpy(), atol=1e-6)

    def absent() -> Subject:
        raise AssertionError("the model was loaded")

    again = EvidenceStore("b", absent, splits, tmp_path, fingerprint=subject.fingerprint())
    assert np.array_equal(again.scores("forget"), scores)
    assert np.array_equal(again.found("forget", 5), hits)
    assert again.catalogue is not None
    assert again.catalogue.equal(subject.catalogue)
    other = EvidenceStore("c", trained(seed=1), splits, tmp_path)
    assert not np.allclose(other.scores("forget"), scores)
    assert len(list(tmp_path.iterdir())) == 2
