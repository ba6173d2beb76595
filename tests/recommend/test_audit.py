"""The audit: utility, degenerate models, and the scores behind the verdict."""

from __future__ import annotations

import numpy as np
import torch

from expunge.recommend.attacks.quantise import Quantise
from expunge.recommend.audit import audit_model
from expunge.recommend.benchmarks.recommend import Recommend
from expunge.recommend.data import Interactions
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.metrics.score_distance import ScoreDistance
from expunge.recommend.metrics.score_ratios import ScoreRatios
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import unlearn
from expunge.recommend.workload import Workload
from recommend.fixed import given, pairs
from recommend.tiny import forget_of, job_of, trained, world


def workload(request: str = "items", **changes: object) -> Workload:
    forget = forget_of(request)
    items = torch.isin(world().test.pairs[:, 1], forget.pairs[:, 1].unique())
    splits = {
        "forget": forget, "retain": world().train.without(forget), "valid": world().valid,
        "test": world().test.take(~items), "holdout": world().test.take(items),
        "non_interactions": world().test.take(items),
    }  # fmt: skip
    named = {k: splits[k] for k in ("forget", "retain", "valid", "test")}
    return Workload(**{**named, "splits": splits, "metrics": (ScoreDistance(), ScoreRatios()), "k": 10, **changes})  # type: ignore[arg-type]


def store(name: str, subject: Subject, work: Workload) -> EvidenceStore:
    return EvidenceStore(name, subject, work.splits)


def test_what_is_served_and_what_the_weights_say_are_two_channels() -> None:
    """Dropping the edges takes the forgotten items out of the catalogue; their rows are untouched."""
    work = workload()
    target, dropped = (
        store("target", trained(), work),
        store("drop-edges", unlearn(DropEdges(), job_of(request="items")), work),
    )
    audit = audit_model(dropped, target, work, {"quantise": Quantise(bits=(8,))}, seed=0, target=target)
    direct, unattacked = audit.reading("direct"), audit.reading("unattacked")
    assert direct is not None
    assert unattacked is not None
    assert np.mean(direct.scores) == 0.0
    assert np.mean(unattacked.scores) > 0.2
    assert unattacked.scores == dropped.found("forget", 10).tolist()
    assert set(unattacked.clusters) == set(range(4))  # the four items
    rounded = audit.reading("quantise-8")
    assert rounded is not None
    assert np.mean(np.array(rounded.scores) == unattacked.scores) > 0.95
    assert audit.utility == dropped.ranking("test", 10).mean("recall", 10) > 0.4
    assert {f.metric for f in audit.findings} == {"ks.gold", "mi_bf", "mi_ng"}
    assert audit.roc["fpr"][-1] == audit.roc["tpr"][-1] == 1.0


def test_without_gold_what_needs_it_is_left_out_and_the_target_is_not_compared_with_itself() -> None:
    work = workload()
    target = store("target", trained(), work)
    audit = audit_model(target, None, work, {}, seed=0, target=target)
    assert {f.metric for f in audit.findings} == {"mi_ng"}


def test_one_list_for_everybody_is_degenerate() -> None:
    splits: dict[str, Interactions] = {
        "forget": pairs(30, 6, (0, 1)), "retain": pairs(30, 6, *((u, 0) for u in range(30))),
        "valid": pairs(30, 6, (1, 2)), "test": pairs(30, 6, (2, 3)), "holdout": pairs(30, 6),
        "non_interactions": pairs(30, 6),
    }  # fmt: skip
    work = Workload(*(splits[k] for k in ("forget", "retain", "valid", "test")), splits, (), k=3)
    popular = torch.arange(6.0).expand(30, 6).clone()
    everybody = audit_model(store("m", given(popular), work), None, work, {}, seed=0)
    assert everybody.degenerate
    assert not everybody.roc  # no unseen interactions of the forgotten
    own = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))
    assert not audit_model(store("m", given(own), work), None, work, {}, seed=0).degenerate


def test_the_benchmarks_workload_can_be_audited() -> None:
    bench = Recommend(request="users")
    work = bench.load(0)
    subject = bench.network(0).with_served(work.retain)
    one, two = (store(n, s, work) for n, s in (("m", subject), ("gold", bench.network(1).with_served(work.retain))))
    audit = audit_model(one, two, work, {}, seed=0, target=two)
    found = {(f.metric, f.split) for f in audit.findings}
    assert {("recall_at_20", "forget"), ("ndcg_at_20", "test"), ("ks.gold", "forget"), ("mi_bf", "forget")} <= found
    assert {("overlap.gold", "retain"), ("mean_rank", "forget"), ("membership.holdout.auroc", "forget")} <= found
    assert len(found) == len(audit.findings)
    assert all(np.isfinite(f.value) for f in audit.findings)
