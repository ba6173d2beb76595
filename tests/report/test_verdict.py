from __future__ import annotations

import numpy as np
import pytest
from synthetic_audit import build, channel, spread

from expunge.report.scorecard import ChannelEvidence, Evidence, Scorecard
from expunge.report.verdict import Tolerance, channel_test, deciding_budget, judge, judge_model

ATTACKS = ("relearn", "benign-relearn", "latent", "input")
GAP = 0.8


def evidence(direct=0.0, attacks=0.0, *, n=40, sd=0.05, same=False, utility=1.0, degenerate=False, **single):
    """Evidence on direct questions and the four attacks; ``relearn=0.3`` sets one attack apart."""
    channels = [channel("direct", "greedy", spread(direct * GAP, n, sd, 1))]
    for i, name in enumerate(ATTACKS):
        excess = single.get(name.replace("-", "_"), attacks)
        channels.append(channel(name, "16 steps", spread(excess * GAP, n, sd, 2 + i)))
    return Evidence(channels, same, utility, degenerate)


CONTROL, SPARE = evidence(0.0, 0.7), evidence()


def case(method: Evidence, *, control=CONTROL, spare=SPARE, gap=None) -> Scorecard:
    known = {"control": control, "gold_2": spare}
    gap = list(spread(GAP, 40)) if gap is None else gap
    return Scorecard(gap=gap, evidence={"m": method, **{k: v for k, v in known.items() if v is not None}})


def verdict(*args, tolerance=None, **kwargs):
    return judge(case(*args, **kwargs), tolerance)["m"]


def test_the_target_itself_is_not_forgotten():
    result = verdict(evidence(1.0, 1.0, same=True))
    assert result.verdict == "not-forgotten"
    assert "100% of the original knowledge" in result.why
    assert "identical to the target's" in result.why


def test_a_wrapper_around_the_target_is_suppressed_by_construction():
    result = verdict(evidence(0.02, 0.03, same=True))
    assert result.verdict == "suppressed"
    assert result.why.startswith("Suppressed by construction")


def test_a_spare_gold_model_with_forty_clusters_is_consistent_with_removal():
    result = verdict(evidence())
    assert result.verdict == "consistent-with-removal"
    assert "No residue above 10%" in result.why
    assert "within the tested budget" in result.why
    assert all(row["acquits"] for row in result.details["channels"] if row["channel"] in ATTACKS)


def test_random_initialisation_is_damaged():
    assert verdict(evidence(-0.02, -0.02, utility=0.05)).verdict == "damaged"
    assert verdict(evidence(degenerate=True)).verdict == "damaged"
    assert verdict(evidence(utility=0.90)).verdict == "consistent-with-removal"


def test_damage_does_not_hide_a_conviction_and_is_mentioned():
    result = verdict(evidence(relearn=0.5, utility=0.5))
    assert result.verdict == "suppressed"
    assert "only 50% of the target's score" in result.why


def test_the_target_that_knew_nothing():
    result = verdict(evidence(), gap=list(spread(0.01, 40, 0.2)))
    assert result.verdict == "nothing-to-forget"
    assert verdict(evidence(1.0, same=True), gap=[0.0] * 40).verdict == "nothing-to-forget"


def test_no_gold_model_caps_at_inconclusive():
    result = verdict(evidence(1.0, 1.0, same=True), gap=[])
    assert result.verdict == "inconclusive"
    assert "no gold model" in result.why


def test_one_attack_convicts_and_is_named():
    result = verdict(evidence(relearn=0.4))
    assert result.verdict == "suppressed"
    assert result.why.startswith("After 16 steps of relearning on other forgotten records, 40%")


def test_conviction_needs_excess_above_delta_and_significance():
    """5% with a tiny spread is significant yet tolerated; 20% with a huge spread is not significant."""
    assert verdict(evidence(relearn=0.05, sd=0.01)).verdict == "consistent-with-removal"
    noisy = verdict(evidence(relearn=0.15, sd=0.45))
    assert noisy.verdict == "inconclusive"
    assert "is only bounded by" in noisy.why


def test_holm_spans_the_channels():
    """Raw p .02 on one of five channels (others p ~ .5): Holm gives .10, no conviction at .05."""
    x = spread(0.0, 12, 0.2, 3)
    shift = 0.2 / np.sqrt(12) * 2.3281  # t quantile 0.98 with 11 degrees of freedom
    method = evidence(n=12, sd=0.2)
    method.channels[1] = channel("relearn", "16 steps", x + shift)
    rows = {r["channel"]: r for r in verdict(method).details["channels"]}
    assert rows["relearn"]["excess_percent"] > 10
    assert rows["relearn"]["p"] == pytest.approx(0.02, abs=1e-4)
    assert rows["relearn"]["p_holm"] == pytest.approx(0.10, abs=5e-4)
    assert not rows["relearn"]["convicts"]
    alone = Evidence([method.channels[1]], False, 1.0, False)
    assert verdict(alone).verdict == "suppressed"


def test_intersection_union_needs_every_able_channel_and_no_correction():
    """Bound of each attack by hand: (mean + t.95,39 * sd / sqrt(40)) / gap, 1.6849 * .05 / 6.3246 = .01332.

    Mean 8% of .8 = .064 -> (.064 + .0133) / .8 = 9.67% < 10% passes; 8.5% -> 10.17% does not.
    """
    close = verdict(evidence(input=0.08))
    assert close.verdict == "consistent-with-removal"
    row = next(r for r in close.details["channels"] if r["channel"] == "input")
    assert row["upper"] == pytest.approx(9.67, abs=0.15)
    assert verdict(evidence(input=0.088)).verdict == "inconclusive"


def test_sensitivity_gate_blocks_acquittal_but_not_conviction():
    blind = evidence(0.0, 0.7, input=0.1)
    result = verdict(evidence(), control=blind)
    assert result.verdict == "inconclusive"
    assert "adversarial prompts cannot clear it because only 10% is found in the control" in result.why
    assert verdict(evidence(input=0.5), control=blind).verdict == "suppressed"


def test_sensitivity_gate_reasons():
    def why(**kwargs):
        result = verdict(evidence(), **kwargs)
        assert result.verdict == "inconclusive"
        return result.why

    assert "no control model was made" in why(control=None)
    assert "not a suppressed one" in why(control=evidence(0.9, 0.9))
    assert "no spare gold model" in why(spare=None)
    assert "12% is found in a spare gold model" in why(spare=evidence(relearn=0.12))


def test_missing_required_channels_are_named_with_the_power():
    method = evidence(n=20, sd=0.12)
    method.channels[:] = [c for c in method.channels if c.channel != "latent"]
    result = verdict(method)
    assert result.verdict == "inconclusive"
    assert "latent steering was not tested" in result.why
    assert result.details["missing"] == ["latent"]
    needed = result.details["power"]["needed"]
    assert needed > 20
    assert f"about {needed} are needed for 80%" in result.why


def test_small_channels_are_skipped_and_said():
    method = evidence()
    method.channels[1] = channel("relearn", "16 steps", [0.7] * 4)
    result = verdict(method)
    assert result.verdict == "inconclusive"
    assert result.details["skipped"] == [
        {"channel": "relearn", "budget": "16 steps", "reason": "only 4 data subjects, at least 5 are needed"}
    ]
    assert "relearning could not be judged" in result.why


def test_everything_too_small():
    assert verdict(evidence(1.0), gap=[0.8] * 4).verdict == "inconclusive"


def test_budget_is_chosen_by_the_control_not_by_the_judged_model():
    def at(steps, excess):
        return channel("relearn", f"{steps} steps", spread(excess, 40))

    judged = [at(4, 0.02), at(16, 0.5), at(64, 0.1)]
    control = Evidence([at(64, 0.3), at(4, 0.6), at(16, 0.4)], False, 1.0, False)
    assert deciding_budget(judged, control).budget == "4 steps"
    assert deciding_budget(judged, None).budget == "64 steps"
    elsewhere = Evidence([at(128, 0.9)], False, 1.0, False)
    assert deciding_budget(judged, elsewhere).budget == "64 steps"


def test_recovery_reports_the_least_effort():
    method = evidence()
    method.channels.extend(channel("latent", f"{k} units", spread(s * GAP, 40)) for k, s in ((2, 0.95), (1, 0.6)))
    recovery = verdict(method).details["recovery"]["latent"]
    assert recovery == {"50%": "1 units", "90%": "2 units"}


def test_tolerance_for_small_sets():
    """With delta 20% a residue of 12% is tolerated."""
    assert verdict(evidence(0.0, 0.12)).verdict == "suppressed"
    assert verdict(evidence(0.0, 0.12), tolerance=Tolerance(delta=0.2)).verdict == "consistent-with-removal"


@pytest.mark.parametrize("bad", [[0.1] * 4, [0.1] * 5 + [1.01], [-1.2] + [0.0] * 5, [float("nan")] * 6])
def test_channel_test_raises(bad):
    with pytest.raises(ValueError, match="relearn"):
        channel_test(ChannelEvidence("relearn", "4 steps", bad, [1] * len(bad)), 0.5)


def test_channel_test_divides_by_the_gap():
    test = channel_test(channel("relearn", "4 steps", spread(0.3, 30)), 0.6)
    assert test.excess == pytest.approx(0.5, abs=1e-9)
    assert test.low < 0.5 < test.upper < test.high
    assert (test.clusters, test.facts) == (30, 300)


def test_a_channel_may_bring_its_own_gap():
    """Excess .3 is 50% of a gap of .6, whatever the general gap is; a channel without a gap is skipped."""
    own = ChannelEvidence("relearn", "4 steps", list(spread(0.3, 30)), [1] * 30, list(spread(0.6, 30)))
    assert channel_test(own, 0.9).excess == pytest.approx(0.5)
    blind = ChannelEvidence("relearn", "4 steps", list(spread(0.3, 30)), [1] * 30, list(spread(0.0, 30)))
    result = verdict(Evidence([blind], False, 1.0, False))
    assert result.verdict == "inconclusive"
    assert "does not demonstrably know more than gold in this test" in result.why


def test_the_verdict_can_be_recomputed_from_the_saved_scorecard(scorecard, tmp_path):
    scorecard.save(tmp_path / "scorecard.json")
    loaded = Scorecard.load(tmp_path / "scorecard.json")
    assert judge(loaded) == scorecard.verdicts
    assert loaded.verdicts == scorecard.verdicts


def test_undefined_numbers_survive_saving(tmp_path):
    card = case(evidence(utility=float("nan")))
    card.evidence["m"].channels[1].excess[0] = float("nan")
    card.save(tmp_path / "scorecard.json")
    loaded = Scorecard.load(tmp_path / "scorecard.json")
    assert judge(loaded)["m"].verdict == judge(card)["m"].verdict == "inconclusive"
    assert "its utility was not measured" in judge(loaded)["m"].why


def test_references_are_judged_only_on_demand(scorecard):
    assert set(judge(scorecard)).isdisjoint({"target", "gold", "gold_2", "control"})
    assert judge_model(scorecard, "control").verdict == "suppressed"


def test_the_demo_covers_the_words_and_never_claims_too_much(scorecard):
    words = {v.verdict for v in scorecard.verdicts.values()}
    assert words == {"not-forgotten", "suppressed", "damaged", "inconclusive"}
    for v in [*scorecard.verdicts.values(), *judge(build(gold=False)).values()]:
        assert "removed" not in v.why
        assert v.why.endswith(".")
        assert v.why.count(". ") <= 0, "one sentence"
