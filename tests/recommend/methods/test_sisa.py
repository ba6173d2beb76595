"""SISA: means of scores, and the user's own shard."""

from __future__ import annotations

import pytest
import torch

from expunge import catalog
from expunge.errors import InputError
from expunge.recommend.ensemble import ShardEnsemble
from expunge.recommend.methods.sisa import SISA
from expunge.recommend.unlearn import unlearn
from recommend.tiny import job_of, world


def test_own_scores_are_those_of_the_users_shard_and_the_mean_is_of_all() -> None:
    mean = unlearn(SISA(shards=3, epochs=2), job_of())
    own = unlearn(SISA(shards=3, epochs=2, aggregate="own"), job_of())
    model = own.model
    assert isinstance(model, ShardEnsemble)
    with torch.no_grad():
        z_user, z_item = model.shard_vectors(own.graph)
    each = z_user @ z_item.transpose(1, 2)
    everyone = torch.arange(60)
    owners = model.partition.of(torch.stack([everyone, 0 * everyone], 1))
    torch.testing.assert_close(own.scores(everyone), each[owners, everyone], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean.scores(everyone), each.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["user", "item", "interaction"])
def test_shards_are_of_one_size(by: str) -> None:
    partition = SISA(shards=7, by=by).partition(job_of().subject, 0)  # type: ignore[arg-type]
    assert int(partition.sizes.max()) - int(partition.sizes.min()) <= 1
    count = {"user": 60, "item": 40, "interaction": len(world().train)}[by]
    assert int(partition.sizes.sum()) == count


def test_settings() -> None:
    wrong = ({"shards": 0}, {"epochs": 0.0}, {"by": "edge"}, {"aggregate": "vote"})
    for fields in wrong:
        with pytest.raises(InputError, match=f"sisa: {next(iter(fields))}="):
            SISA(**fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="own with by=user"):
        SISA(aggregate="own", by="item")


@pytest.mark.parametrize("name", ["sisa", "receraser", "grapheraser", "ultrare"])
def test_every_setting_says_where_its_default_comes_from(name: str) -> None:
    entry = catalog.find("method", name, "recommend")
    assert {"shards", "epochs", "stored", "by"} <= {f.name for f in entry.fields}
    assert [f.name for f in entry.fields if "Source: " not in f.doc] == []
    assert entry.intention == "removal"
