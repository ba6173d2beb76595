from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.metrics.membership import DETECTORS, Membership, loss_roc, membership_scores
from expunge.membership import auroc


def sides(split, store, forget, holdout, name="npo"):
    """A store whose forget and holdout records have three tokens and the end of sequence, of these probabilities."""
    parts = {
        side: split(
            [[p, p * 0.9, p * 0.8, 0.99] for p in probabilities], clusters=[i // 4 for i in range(len(probabilities))]
        )
        for side, probabilities in (("forget", forget), ("holdout", holdout))
    }
    return store(name, **parts)


@pytest.fixture
def leaking(split, store):
    """Every forget record likelier than every holdout record."""
    return sides(split, store, np.linspace(0.8, 0.99, 40), np.linspace(0.05, 0.4, 100))


@pytest.fixture
def gold(split, store):
    """Both sets alike."""
    return sides(split, store, np.linspace(0.05, 0.4, 40), np.linspace(0.05, 0.4, 100), "gold")


def values(found):
    return {f.metric: f.value for f in found}


def test_a_full_leak_is_1_under_every_detector(leaking, gold):
    found = Membership().measure(leaking, gold)
    assert {f.metric for f in found} == {f"membership.{d}.{m}" for d in DETECTORS for m in ("auroc", "tpr_at_1_fpr")}
    assert set(values(found).values()) == {1.0}
    assert {(f.split, f.subject, f.n, f.direction) for f in found} == {("forget", "npo", 140, "match-gold")}
    assert {(f.low, f.high) for f in found} == {(1.0, 1.0)}


def test_over_forgetting_is_below_one_half(split, store, gold):
    model = sides(split, store, np.linspace(0.001, 0.01, 40), np.linspace(0.05, 0.4, 100))
    found = values(Membership(detectors=("loss", "min_k")).measure(model, gold))
    assert found["membership.loss.auroc"] == 0
    assert found["membership.min_k.auroc"] == 0


def test_an_untrained_model_guesses(uniform):
    """Forget and holdout rows alike: every member ties with or is balanced by a non-member."""
    found = values(
        Membership(detectors=("loss", "zlib", "min_k", "min_k_plus_plus")).measure(uniform_pair(uniform), None)
    )
    assert found == {f"membership.{d}.auroc": pytest.approx(0.5) for d in DETECTORS if d != "reference"}


def uniform_pair(uniform):
    """The rows long enough to have a token besides the end of sequence."""
    data = {s: uniform.data[s] for s in ("forget", "holdout")}
    rows = np.flatnonzero(uniform.answers("forget").lengths > 1)
    picked = {
        s: type(d)(d.right.select(rows), [d.wrong[i] for i in rows], None, [d.answers[i] for i in rows],
                   [d.generations[i] for i in rows], [d.clusters[i] for i in rows])
        for s, d in data.items()
    }  # fmt: skip
    return type(uniform)("npo", picked)


def test_same_auroc_as_in_the_public_orientation(split, store):
    """There s = NLL and AUROC = P(s of a holdout row > s of a forget row)."""
    rng = np.random.default_rng(0)
    model = sides(split, store, rng.uniform(0.2, 0.9, 30), rng.uniform(0.1, 0.8, 50))
    theirs = auroc(model.answers("holdout").nll, model.answers("forget").nll)
    (found,) = Membership(detectors=("loss",)).measure(model, None)
    assert found.value == pytest.approx(theirs, abs=1e-12)
    assert found.low < found.value < found.high


def test_the_end_of_sequence_counts_for_loss_but_not_for_min_k(split, store):
    def model(eos):
        return store(forget=split([[0.5, 0.4, 0.3, eos]]))

    for detector, counts in (("loss", True), ("zlib", True), ("min_k", False), ("min_k_plus_plus", False)):
        likely, unlikely = (membership_scores(detector, model(eos), "forget") for eos in (0.99, 0.01))
        assert (likely != unlikely).all() == counts


def test_formulas_on_one_answer(split, store):
    """Tokens 1/2, 1/4, 1/8 and a certain end of sequence. loss: -6/4 ln 2; min-k (1 of 3 tokens): -3 ln 2."""
    model = store(forget=split([[0.5, 0.25, 0.125, 1.0]], answers=["aaa"]))
    ln2 = np.log(2)
    assert membership_scores("loss", model, "forget") == pytest.approx(-1.5 * ln2)
    assert membership_scores("min_k", model, "forget") == pytest.approx(-3 * ln2)
    assert membership_scores("min_k_plus_plus", model, "forget") == pytest.approx(-3 * ln2 + 2)  # mean -2, variance 1
    assert membership_scores("zlib", model, "forget") == pytest.approx(
        -1.5 * ln2 / 11
    )  # zlib.compress(b"aaa"): 11 bytes
    other = store(forget=split([[0.25, 0.25, 0.25, 0.25]]))
    assert membership_scores("reference", model, "forget", reference_store=other) == pytest.approx(0.5 * ln2)


def test_the_share_of_tokens_is_a_setting_of_the_metric(split, store):
    """Members 0.5, 0.5 and non-members 0.9, 0.4: the lowest token tells member, the mean of both the opposite."""
    model = store(forget=split([[0.5, 0.5, 1.0]] * 3), holdout=split([[0.9, 0.4, 1.0]] * 3))
    for k, expected in ((0.4, 1.0), (1.0, 0.0)):
        (found,) = Membership(detectors=("min_k",), k=k).measure(model, None)
        assert found.value == expected


def test_reference_is_left_out_without_gold_and_blind_on_gold_itself(leaking, gold):
    assert not any("reference" in f.metric for f in Membership().measure(leaking, None))
    found = values(Membership(detectors=("reference",)).measure(gold, gold))
    assert found == {"membership.reference.auroc": 0.5, "membership.reference.tpr_at_1_fpr": 0.0}
    with pytest.raises(InputError, match="'reference' needs a gold model"):
        membership_scores("reference", leaking, "forget")


def test_one_percent_needs_a_hundred_non_members(split, store):
    few = sides(split, store, np.linspace(0.8, 0.9, 20), np.linspace(0.1, 0.2, 99))
    assert [f.metric for f in Membership(detectors=("loss",)).measure(few, None)] == ["membership.loss.auroc"]


def test_roc_of_the_loss_as_plain_data(leaking):
    assert loss_roc(leaking) == {"fpr": [0, 0, 1], "tpr": [0, 1, 1], "detector": "loss"}


def test_refusals(split, store, leaking):
    with pytest.raises(InputError, match=r"'min_kk'.*Did you mean 'min_k'"):
        Membership(detectors=("loss", "min_kk"))
    with pytest.raises(InputError, match="Unknown membership detector"):
        membership_scores("lira", leaking, "forget")
    with pytest.raises(InputError, match="k=0"):
        Membership(k=0)
    with pytest.raises(InputError, match="No split 'unseen'"):
        Membership(non_members="unseen").measure(leaking, None)
    with pytest.raises(RunError, match=r"'forget', row 1.*NaN"):
        membership_scores("loss", store(forget=split([[float("nan")]])), "forget")
    with pytest.raises(InputError, match=r"'forget', row 2"):
        membership_scores("min_k", store(forget=split([[0.5, 0.5], [0.5]])), "forget")
