"""Every metric on scores worked out by hand, its direction, and its value where a model is gold itself."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.metrics.forgotten_rank import ForgottenRank
from expunge.recommend.metrics.membership import Membership
from expunge.recommend.metrics.overlap import Overlap
from expunge.recommend.metrics.parameter_distance import ParameterDistance
from expunge.recommend.metrics.ranking import Ranking
from expunge.recommend.metrics.score_distance import ScoreDistance
from expunge.recommend.metrics.score_ratios import ScoreRatios
from expunge.report.scorecard import Finding
from recommend.fixed import given, pairs, store
from recommend.tiny import network, trained, world

TABLE = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [1, 1, 1, 1]])


def by_name(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    return {(f.metric, f.split): f for f in findings}


def test_ranking_by_hand_and_gold_is_the_ideal_on_what_goes() -> None:
    """k = 2. Forget: user 0 without item 0 has 1 2 3: item 1 is hit, item 3 not; user 1 has 3 2 ...: no hit of 0.
    Test: user 1's item 2 follows 3, which is no longer left out for nobody kept it."""
    found = store(
        "m", TABLE, retain=pairs(3, 4, (0, 0)), forget=pairs(3, 4, (0, 1), (0, 3), (1, 0)), test=pairs(3, 4, (1, 2)),
        valid=pairs(3, 4, (2, 0)),
    )  # fmt: skip
    got = by_name(Ranking(k=2).measure(found, None))
    assert len(got) == 20
    forget = got["recall_at_2", "forget"]
    assert (forget.value, forget.n, forget.direction) == (0.25, 2, "match-gold")
    assert forget.low <= 0.25 <= forget.high
    assert got["precision_at_2", "forget"].value == 0.25
    assert got["ndcg_at_2", "test"].value == pytest.approx(1 / math.log2(3))
    assert got["map_at_2", "test"].value == 0.5
    assert got["recall_at_2", "retain"].value == 1.0
    assert got["hit_at_2", "test"].direction == "higher"


def test_ranking_refuses_an_unknown_measure_and_an_empty_split() -> None:
    with pytest.raises(InputError, match="unknown measure 'recal'"):
        Ranking(measures=("recal",))
    with pytest.raises(InputError, match="'test' has no interactions"):
        Ranking(splits=("test",), k=1).measure(store("m", TABLE), None)


def test_membership_against_random_pairs_and_against_unseen_ones() -> None:
    """Forgotten scores 4 and 3. Against 2 and 3: three and a half of four; against 4: half of two."""
    found = store(
        "m", TABLE, forget=pairs(3, 4, (0, 0), (1, 2)), non_interactions=pairs(3, 4, (0, 2), (1, 2)),
        holdout=pairs(3, 4, (1, 3)),
    )  # fmt: skip
    got = by_name(Membership().measure(found, None))
    assert got["membership.non_interactions.auroc", "forget"].value == 3.5 / 4
    assert got["membership.holdout.auroc", "forget"].value == 0.25
    assert {f.direction for f in got.values()} == {"match-gold"}
    without = store("m", TABLE, forget=pairs(3, 4, (0, 0)), non_interactions=pairs(3, 4, (0, 2)))
    assert len(Membership().measure(without, None)) == 1


def test_score_ratios_are_1_where_nothing_changed_and_by_hand_elsewhere() -> None:
    splits = {"forget": pairs(3, 4, (0, 0), (1, 0)), "non_interactions": pairs(3, 4, (0, 3), (1, 3))}
    before, after = store("target", TABLE, **splits), store("m", TABLE - 2, **splits)
    same = by_name(ScoreRatios().compare(before, before))
    assert same["mi_bf", "forget"].value == 1.0

    def p(*scores: float) -> float:
        return sum(1 / (1 + math.exp(-s)) for s in scores)

    assert by_name(ScoreRatios().compare(after, before))["mi_bf", "forget"].value == pytest.approx(p(4, 1) / p(2, -1))
    assert by_name(ScoreRatios().measure(before, None))["mi_ng", "forget"].value == pytest.approx(1.0)  # 1, 4; 4, 1
    raw = ScoreRatios(link="raw")
    assert by_name(raw.compare(after, before))["mi_bf", "forget"].value == pytest.approx(5.0)
    with pytest.raises(InputError, match="link='logit'"):
        ScoreRatios(link="logit")  # type: ignore[arg-type]
    assert ScoreRatios().measure(store("m", TABLE, forget=splits["forget"]), None) == []


def test_distances_to_gold_are_none_for_gold_itself_and_1_for_scores_that_do_not_meet() -> None:
    splits = {"forget": pairs(3, 4, (0, 0), (1, 0), (2, 0)), "retain": pairs(3, 4, (0, 1), (1, 1))}
    gold, far = store("gold", TABLE, **splits), store("far", TABLE + 10, **splits)
    for metric, ideal, other in (
        (ScoreDistance(), 0.0, 1.0),  # 4 1 1 against 14 11 11
        (Overlap(k=2), 1.0, 1.0),  # the order is the same
        (ParameterDistance(), 0.0, 20.0 / math.sqrt(30 + 30 + 4 + 4) * math.sqrt(3)),  # twelve entries moved by 10
    ):
        assert metric.needs_gold
        (same,), (moved,) = metric.measure(gold, gold), metric.measure(far, gold)
        assert same.value == ideal
        assert moved.value == pytest.approx(other)
        assert same.direction == ("higher" if isinstance(metric, Overlap) else "lower")


def test_overlap_counts_shared_recommendations_of_those_who_kept_something() -> None:
    """User 0 (kept 0): 1 2 against 2 3; user 1 (kept 3): 2 1 against 2 1; user 2 kept nothing."""
    kept = pairs(3, 4, (0, 0), (1, 3))
    other = TABLE.clone()
    other[0] = torch.tensor([4.0, 1, 3, 2])
    other[2] = torch.tensor([0.0, 1, 2, 3])
    (finding,) = Overlap(k=2).measure(store("m", TABLE, retain=kept), store("gold", other, retain=kept))
    assert (finding.value, finding.n) == (0.75, 2)
    offered = torch.tensor([True, True, False, True])  # user 0: 1 3 against 2 3; user 1: 1 0 against 2 1
    (finding,) = Overlap(k=2).measure(store("m", TABLE, offered, retain=kept), store("gold", other, retain=kept))
    assert finding.value == 0.5


def test_parameters_of_another_form_have_no_distance() -> None:
    splits = {"forget": world().train.take([0])}
    gold = EvidenceStore("gold", trained(), splits)
    other = trained()
    other = other.with_model(network("vbpr"))
    assert ParameterDistance().measure(EvidenceStore("m", other, splits), gold) == []


def test_mean_rank_sees_what_recall_cannot() -> None:
    """Forgotten item 3 of user 0 (kept 0) stands third of three, of user 2 (all equal, by id) fourth."""
    splits = {"forget": pairs(3, 4, (0, 3), (2, 3)), "retain": pairs(3, 4, (0, 0))}
    (finding,) = ForgottenRank().measure(store("m", TABLE, **splits), None)
    assert (finding.value, finding.direction, finding.n) == (3.5, "match-gold", 2)
    lower = TABLE.clone()
    lower[2, 3] = 9
    assert ForgottenRank().measure(store("m", lower, **splits), None)[0].value == 2.0


def test_a_model_without_numbers_is_refused_in_words() -> None:
    broken = EvidenceStore(
        "m", given(TABLE * torch.nan), {"forget": pairs(3, 4, (0, 1)), "retain": pairs(3, 4, (0, 0))}
    )
    with pytest.raises(InputError, match="not a number; the model is broken"):
        ForgottenRank().measure(broken, None)
