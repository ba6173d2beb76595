from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

import expunge.language.metrics.reference_membership as module
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics._reference_attacks import ATTACKS, likelihood, rescaled, rmia
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.reference_membership import (
    ReferenceMembership,
    balanced_accuracy,
    reference_metric,
    references_on,
)
from expunge.language.references import SIDES, SIGNALS, ReferenceEvidence, audited_scores
from expunge.membership import References, auroc, tpr_at_fpr
from reference_bed import COUNT, ReferenceBed, make_reference_bed


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBed:
    return make_reference_bed(tmp_path_factory)


def masks(models, n, rng):
    """Complementary pairs of random halves."""
    first = np.stack([rng.permutation(n) < n // 2 for _ in range(models // 2)])
    return np.stack([half for one in first for half in (one, ~one)])


# -- signals and scores -------------------------------------------------------------------------------


def test_signals_of_a_text():
    """p = 0.8: phi = log(0.8 / 0.2) = log 4; an answer as certain as rounding allows stays finite and on top."""
    m = np.log([0.8, 0.5, 1.0, 1 - 1e-12, 1e-300])
    assert likelihood(m)[:2] == pytest.approx([0.8, 0.5])
    assert rescaled(m)[0] == pytest.approx(log(4))
    assert np.isfinite(rescaled(np.array([-np.inf, *m]))).all()
    assert (np.diff(rescaled(m)[[4, 1, 0, 2]]) > 0).all()
    assert rescaled(m)[2] == rescaled(m)[3] == pytest.approx(7 * log(10), abs=1e-6)


def test_rmia_is_the_share_of_the_unseen_that_a_record_beats():
    """r(x) = P(x) / mean of the IN and the OUT mean of P(x), by loops; z are the records not seen, x among them."""
    rng = np.random.default_rng(0)
    inside, values, m = masks(6, 20, rng), rng.uniform(-3, -0.1, (6, 20)), rng.uniform(-3, -0.1, 20)
    unseen = np.arange(20) >= 12
    r = []
    for i in range(20):
        means = [
            np.mean([exp(v) for v, seen in zip(values[:, i], inside[:, i], strict=True) if seen == s]) for s in (0, 1)
        ]
        r.append(exp(m[i]) / np.mean(means))
    for gamma in (1.0, 2.0, 0.7):
        expected = [np.mean([(a / b > gamma) + (a / b == gamma) / 2 for b in np.array(r)[unseen]]) for a in r]
        assert rmia(m, References(values, inside, paired=True), unseen, gamma) == pytest.approx(expected)
    scores = rmia(m, References(values, inside, paired=True), unseen)
    assert auroc(scores[~unseen], scores[unseen]) == auroc(np.array(r)[~unseen], np.array(r)[unseen])
    shifted = rmia(m - 0.4, References(values - 0.4, inside, paired=True), unseen)
    assert (shifted == scores).all()  # one factor on all likelihoods changes nothing


@pytest.mark.parametrize("name", ATTACKS)
def test_no_difference_between_models_that_saw_and_models_that_did_not_is_no_evidence(name):
    """Scores are bits of noise that do not know who is a member: AUROC 0.5 within 4 standard errors."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(20):
        inside, values, m = masks(8, 80, rng), rng.normal(-1, 0.2, (8, 80)), rng.normal(-1, 0.2, 80)
        scores = ATTACKS[name](m, References(values, inside, paired=True), np.arange(80) >= 40)
        found.append(auroc(scores[:40], scores[40:]))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.065 / np.sqrt(20))


def test_balanced_accuracy_by_hand():
    """3 of 4 members and 1 of 4 non-members called members: (3/4 + 3/4) / 2."""
    called = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0], bool)
    each = np.arange(4)
    found = balanced_accuracy(*called, each, each)
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    together = balanced_accuracy(*called, 0 * each, each)
    assert np.isnan([together.low, together.high]).all()
    halves = balanced_accuracy(np.array([1, 1, 0, 0], bool), np.zeros(4, bool), each // 2, each // 2)
    assert (halves.low, halves.high) == (0.5, 1.0)  # clusters are drawn whole: none, one or both of them


# -- the metric ---------------------------------------------------------------------------------------


def values(found):
    return {f.metric.removeprefix("membership."): f for f in found}


@pytest.fixture(scope="module")
def found(learnt):
    metric = ReferenceMembership(random_split=True)
    return {s.name: values(metric.refer(s, learnt.references)) for s in (learnt.target, learnt.gold)}


def test_one_finding_for_each_question(found):
    measured = {f"{d}.{m}" for d in ATTACKS for m in ("auroc", "balanced_accuracy")}
    measured |= {f"{d}.balanced_accuracy" for d in SIGNALS} | {"usage", "epsilon"}
    for subject, findings in found.items():
        assert set(findings) == measured
        for name, f in findings.items():
            assert (f.split, f.subject, f.direction) == (
                "forget",
                subject,
                "lower" if name == "epsilon" else "match-gold",
            )
            assert f.n == {"usage": 96, "epsilon": 8}.get(name, 192)
            assert name == "epsilon" or f.low <= f.value <= f.high


def test_reference_models_see_more_than_the_loss(learnt, found):
    """Answers differ in difficulty, which the loss of one model mistakes for membership."""
    (plain,) = Membership(detectors=("loss",)).measure(learnt.target, None)
    m = audited_scores(learnt.target, "loss", SIDES, 0.4)
    references, unseen = references_on(learnt.references, "loss"), np.arange(192) >= 96
    low = tpr_at_fpr(m[:96], m[96:], 0.02)
    for name in ("lira", "rmia"):
        scores = ATTACKS[name](m, references, unseen)
        assert found["target"][f"{name}.auroc"].value > plain.value
        assert tpr_at_fpr(scores[:96], scores[96:], 0.02) > low
    assert found["target"]["rmia.auroc"].value > 0.95
    assert found["target"]["rmia.balanced_accuracy"].value > 0.85


def test_gold_is_at_chance(found):
    for name in ("lira", "rmia"):
        assert found["gold"][f"{name}.auroc"].low < 0.5 < found["gold"][f"{name}.auroc"].high
        assert found["gold"][f"{name}.balanced_accuracy"].value == pytest.approx(0.5, abs=0.1)


def test_the_target_uses_the_forget_set_and_gold_does_not(found):
    assert found["target"]["usage"].value > 0.85
    assert found["gold"]["usage"].low == 0
    assert found["gold"]["usage"].value < 0.2


def test_epsilon_of_perfect_guesses(learnt, found):
    """All 8 people guessed right: eps = -log(0.05^(-1/8) - 1). Of gold nothing can be refuted."""
    m = audited_scores(learnt.target, "loss", SIDES, 0.4)
    scores = ATTACKS["lira"](m, references_on(learnt.references, "loss"), np.arange(192) >= 96)
    people = scores.reshape(8, 24).mean(1)  # the world's people have 24 records each, in order
    assert people[:4].min() > people[4:].max()
    assert found["target"]["epsilon"].value == pytest.approx(-log(0.05 ** (-1 / 8) - 1))
    assert found["gold"]["epsilon"].value == 0
    silent = ReferenceMembership().refer(learnt.target, learnt.references)
    assert "epsilon" not in values(silent)  # nobody said the split is a random draw


def test_thresholds_come_from_the_reference_models(learnt):
    """The threshold of the loss: the best over all reference models' records, by trying them all."""
    scores, inside = learnt.references.signals["loss"].ravel(), learnt.references.inside.ravel()
    best = max(((scores[inside] >= t).mean() - (scores[~inside] >= t).mean(), t) for t in scores)[1]
    m = audited_scores(learnt.target, "loss", SIDES, 0.4)
    expected = ((m[:96] >= best).mean() + (m[96:] < best).mean()) / 2
    metric = ReferenceMembership(detectors=())
    assert values(metric.refer(learnt.target, learnt.references))["loss.balanced_accuracy"].value == expected


class Records:
    """What the metric asks of a store: who the records are about."""

    def __init__(self, name, clusters):
        self.name, self.of = name, clusters

    def records(self, split):
        return [Record(f"{split}?", str(i)) for i in range(len(self.of[split]))]

    def clusters(self, split):
        return self.of[split]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_model_that_was_trained_on_a_part_uses_that_part(learnt, monkeypatch, share):
    """A reference model in the place of the audited one, the other pairs against it.

    Two people it has not seen are the holdout set; the forget set is made of two of the people it saw and two it did
    not, or of four of one kind.
    """
    whole, model = learnt.references, 0
    seen, unseen = (np.flatnonzero(whole.inside[model, ::24] == is_in) for is_in in (True, False))
    forget = [*seen[: round(4 * share)], *unseen[: 2 - round(2 * share)]]
    held = [p for p in unseen if p not in forget]
    order = np.concatenate([np.arange(24 * p, 24 * p + 24) for p in (*forget, *held)])
    rest = [i for i in range(COUNT) if i // 2 != model // 2]
    left = {n: v[np.ix_(rest, order)] for n, v in whole.signals.items()}
    audited = {n: v[model, order] for n, v in whole.signals.items()}
    monkeypatch.setattr(module, "audited_scores", lambda store, detector, sides, k: audited[detector])
    clusters = {"forget": np.repeat(np.arange(len(forget)), 24), "holdout": np.repeat(np.arange(len(held)), 24)}
    evidence = ReferenceEvidence(whole.inside[np.ix_(rest, order)], left)
    usage = values(ReferenceMembership(detectors=("rmia",)).refer(Records("half", clusters), evidence))["usage"]
    truth = round(4 * share) / len(forget)
    assert usage.value == pytest.approx(truth, abs=0.3)  # four people are few
    assert (usage.value > 0.5) == (truth > 0.5)


# -- what is missing ----------------------------------------------------------------------------------


@pytest.fixture
def made(split, store):
    """A store of 12 forget and 8 holdout answers in clusters of 2, and M reference models that know their halves."""

    def make(models, gap=0.6, seed=0):
        rng = np.random.default_rng(seed)
        side = lambda n, mean: rng.uniform(mean - 0.1, mean + 0.1, (n, 3)).tolist()  # noqa: E731
        names = {"forget": 12, "holdout": 8}
        rows = {"forget": side(12, 0.3 + gap), "holdout": side(8, 0.3)}
        parts = {
            s: split(rows[s], answers=[f"{s} {i}" for i in range(n)], clusters=[i // 2 for i in range(n)])
            for s, n in names.items()
        }
        inside = np.repeat(masks(models, 10, rng), 2, axis=1)
        loss = np.log(np.where(inside, 0.3 + gap, 0.3)) + rng.normal(0, 0.05, inside.shape)
        return store(**parts), ReferenceEvidence(inside, dict.fromkeys(SIGNALS, loss))

    return make


def test_two_reference_models_carry_no_threshold(made):
    model, references = made(2)
    metric = ReferenceMembership()
    assert {f.metric.split(".")[-1] for f in metric.refer(model, references)} == {"auroc"}
    assert metric.notes(references) == [
        "Membership: 2 reference models leave none to set thresholds on: calibrated accuracy and the share of the "
        "forget set in use need at least 4 (audit.references)."
    ]
    assert metric.notes(made(4)[1]) == []


def test_an_attack_without_power_estimates_no_share(made):
    model, references = made(6, gap=0.0)
    metric = ReferenceMembership()
    (note,) = metric.notes(references)
    assert "no power" in note
    assert "usage" not in values(metric.refer(model, references))
    assert "usage" in values(metric.refer(*made(6)))
    assert ReferenceMembership(detectors=("lira",)).notes(references) == []


def test_canaries_are_as_many_on_either_side(made):
    """6 forget and 4 holdout clusters: 8 canaries, 4 of them in."""
    model, references = made(6)
    for guesses, eps in ((1.0, -log(0.05 ** (-1 / 8) - 1)), (0.75, -log(0.05 ** (-1 / 6) - 1))):
        metric = ReferenceMembership(random_split=True, guesses=guesses)
        epsilon = values(metric.refer(model, references))["epsilon"]
        assert (epsilon.n, epsilon.value) == (8, pytest.approx(eps))


def test_an_impossible_answer_is_a_very_unlikely_one(split, store, made):
    _, references = made(6)
    rows = {"forget": [[0.9, 0.9]] * 11 + [[0.0, 0.9]], "holdout": [[0.3, 0.9]] * 8}
    model = store(**{
        s: split(r, answers=[f"{s} {i}" for i in range(len(r))], clusters=[i // 2 for i in range(len(r))])
        for s, r in rows.items()
    })  # fmt: skip
    found = values(ReferenceMembership(detectors=("lira", "rmia", "calibration")).refer(model, references))
    assert all(np.isfinite(f.value) for f in found.values())
    assert 0.9 < found["calibration.auroc"].value < 1


def test_refusals(bed, learnt):
    with pytest.raises(InputError, match=r"unknown detector 'lyra'; lira, lira_offline"):
        ReferenceMembership(detectors=("lyra",))
    with pytest.raises(InputError, match=r"out of range: gamma=0, guesses=2"):
        ReferenceMembership(gamma=0, guesses=2)
    same = EvidenceStore("npo", bed.target, {"forget": [Record("Who?", "Ann")], "holdout": [Record("who?", "ann")]})
    with pytest.raises(InputError, match="row 1 of 'forget' and row 1 of 'holdout'"):
        ReferenceMembership().refer(same, learnt.references)


def test_by_itself_it_measures_nothing_and_a_benchmark_may_set_it(learnt):
    own = ReferenceMembership(random_split=True)
    assert own.measure(learnt.target, learnt.gold) == []
    assert reference_metric([Membership(), own]) is own
    assert reference_metric([Membership()]) == ReferenceMembership()
