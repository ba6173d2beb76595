"""Networks made again from what a folder says of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from expunge.errors import InputError, nearest
from expunge.recommend.models.base import Recommender

KINDS = {  # name in the origin -> where the class is
    "bpr-mf": "expunge.recommend.models.lightgcn.BPRMF",
    "lightgcn": "expunge.recommend.models.lightgcn.LightGCN",
    "certified": "expunge.recommend.models.certified.CertifiedMF",
    "vbpr": "expunge.recommend.models.vbpr.VBPR",
    "mmgcn": "expunge.recommend.models.mmgcn.MMGCN",
    "shards": "expunge.recommend.ensemble.ShardEnsemble",
}


def rebuilt(origin: dict[str, Any]) -> Recommender:
    """An untrained network of the kind an origin names, its feature tables zero.

    Raises:
        InputError: An unknown kind.
    """
    values = dict(origin)
    kind = values.pop("network", None)
    if kind not in KINDS:
        raise InputError(f"Unknown recommender {kind!r}.{nearest(str(kind), list(KINDS))}")
    module, _, name = KINDS[kind].rpartition(".")
    made: Recommender = getattr(import_module(module), name).from_origin(values)
    return made
