from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.membership import Membership, loss_roc, membership_scores, require_strangers
from expunge.membership import auroc
from expunge.membership.detectors import min_k

PLAIN = Membership.detectors


def sides(split, store, forget, holdout, name="npo"):
    """A store whose forget and holdout records have three tokens and the end of sequence, of these probabilities."""
    parts = {
        side: split(
            [[p, p * 0.9, p * 0.8, 0.99] for p in probabilities],
            clusters=[i // 4 for i in range(len(probabilities))],
            answers=[f"{side[0]} {i:04}" for i in range(len(probabilities))],
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
    assert {f.metric for f in found} == {f"membership.{d}.{m}" for d in PLAIN for m in ("auroc", "tpr_at_1_fpr")}
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
    assert found == {f"membership.{d}.auroc": pytest.approx(0.5) for d in PLAIN if d != "reference"}


def uniform_pair(uniform):
    """The rows long enough to have a token besides the end of sequence."""
    data = {s: uniform.data[s] for s in ("forget", "holdout")}
    rows = np.flatnonzero(uniform.answers("forget").lengths > 1)
    picked = {
        s: type(d)(d.right.select(rows), [d.wrong[i] for i in rows], None, [s[0] + d.answers[i] for i in rows],
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
    unseen = split([[0.9, 0.4, 1.0]] * 3, answers=list("xyz"))
    model = store(forget=split([[0.5, 0.5, 1.0]] * 3), holdout=unseen)
    for k, expected in ((0.4, 1.0), (1.0, 0.0)):
        (found,) = Membership(detectors=("min_k",), k=k).measure(model, None)
        assert found.value == expected


def test_reference_is_left_out_without_gold_and_blind_on_gold_itself(leaking, gold):
    assert not any("reference" in f.metric for f in Membership().measure(leaking, None))
    found = values(Membership(detectors=("reference",)).measure(gold, gold))
    assert found == {"membership.reference.auroc": 0.5, "membership.reference.tpr_at_1_fpr": 0.0}
    with pytest.raises(InputError, match="'reference' needs a gold model"):
        membership_scores("reference", leaking, "forget")


@pytest.mark.parametrize(
    ("count", "measured", "told"),
    [
        (99, [], "resolve no false positive rate below 1/99 = 1.01%, so the true positive rate at 1% and 0.1% is left"),
        (100, ["tpr_at_1_fpr"], "below 1/100 = 1.00%, so the true positive rate at 0.1% is left out"),
        (1000, ["tpr_at_1_fpr", "tpr_at_0_1_fpr"], None),
    ],
)
def test_a_rate_the_non_members_do_not_resolve_is_left_out_and_said(split, store, count, measured, told):
    model = sides(split, store, np.linspace(0.8, 0.9, 20), np.linspace(0.1, 0.2, count))
    metric = Membership(detectors=("loss",), draws=20)
    found = [f.metric for f in metric.measure(model, None)]
    assert found == [f"membership.loss.{name}" for name in ("auroc", *measured)]
    notes = metric.notes({s: model.records(s) for s in model.splits})
    assert [told in note for note in notes] == ([True] if told else [])


def test_a_rate_of_one_in_a_thousand_by_hand(split, store):
    """Of 1000 non-members one may be called a member: the second highest of them (0.3) sets the threshold.

    Members: 0.2, 0.3 (ties with it, out), 0.4 and 0.8, of which the last alone beats the highest non-member too.
    """
    others = np.append(np.linspace(0.01, 0.1, 998), [0.3, 0.7])
    model = sides(split, store, [0.2, 0.3, 0.4, 0.8], others)
    found = values(Membership(detectors=("loss",), draws=20).measure(model, None))
    assert found["membership.loss.tpr_at_0_1_fpr"] == 0.5
    assert found["membership.loss.tpr_at_1_fpr"] == 1.0


def test_several_shares_of_tokens(split, store):
    """Every share gives what Min-K% alone gives at it; a share of 1 is the loss without the end of sequence."""
    rng = np.random.default_rng(1)
    rows = [rng.uniform(0.05, 1, 12).tolist() for _ in range(60)]
    model = store(forget=split(rows[:30]), holdout=split(rows[30:], answers=[f"x{i}" for i in range(30)]))
    found = values(Membership(detectors=(), ks=(0.05, 0.125, 1.0)).measure(model, None))
    assert list(found) == [f"membership.min_k_{name}.auroc" for name in ("5", "12_5", "100")]
    for k, value in zip((0.05, 0.125, 1.0), found.values(), strict=True):
        sides = [model.answers(s).without_eos() for s in ("forget", "holdout")]
        assert value == pytest.approx(auroc(*(min_k(s.logprob, s.offsets, k) for s in sides)))
    means = [[np.log(r[:-1]).mean() for r in part] for part in (rows[:30], rows[30:])]
    assert found["membership.min_k_100.auroc"] == pytest.approx(auroc(*means))


@pytest.fixture
def texts(bed):
    """The bed's target over plain texts: what it was trained on with its prompt, and the same of unseen people."""
    records = {
        split: [Record("", f"{r.question} {r.answer}", r.cluster) for r in bed.records[split][:24]]
        for split in ("forget", "holdout")
    }
    return EvidenceStore("target", bed.target, records)


def test_lowercase_compares_a_text_with_itself_in_lower_case(texts):
    """NLL(text) / NLL(text in lower case), the latter from a store of the lower-cased texts."""
    small = {s: [Record("", r.answer.lower(), r.cluster) for r in texts.records(s)] for s in texts.splits}
    other = EvidenceStore("small", texts.subject, small)
    for split in texts.splits:
        expected = -texts.answers(split).nll / other.answers(split).nll
        assert membership_scores("lowercase", texts, split) == pytest.approx(expected, rel=1e-12)
    (found,) = Membership(detectors=("lowercase",), draws=20).measure(texts, None)
    assert found.metric == "membership.lowercase.auroc"


def test_lowercase_of_a_text_without_capitals_says_nothing(bed):
    store = EvidenceStore("target", bed.target, {"forget": [Record("", "no capitals here"), Record("", "nor here")]})
    assert membership_scores("lowercase", store, "forget") == pytest.approx([-1, -1])
    with pytest.raises(InputError, match="plain text; split 'retain', row 1 has a question"):
        membership_scores("lowercase", EvidenceStore("target", bed.target, {"retain": bed.retain[:1]}), "retain")


@pytest.mark.parametrize("twin", [("Who?", "Ann Lee"), ("Who? ", "Ann  Lee"), ("WHO?", "ann\nlee")])
def test_a_record_on_both_sides_is_refused_by_name(twin):
    forget = [Record("Where?", "Rome"), Record("Who?", "Ann Lee"), Record("Who?", "Ann Lee")]
    splits = {"forget": forget, "holdout": [Record("Who?", "Bob"), Record("Where?", "Oslo"), Record(*twin)]}
    with pytest.raises(InputError, match=r"row 2 of 'forget' and row 3 of 'holdout' are the same"):
        Membership().check(splits)
    with pytest.raises(InputError, match=r"row 2 of 'forget' and row 3 of 'holdout'"):
        Membership().measure(EvidenceStore("npo", lambda: None, splits), None)
    Membership().check({"forget": forget})  # no holdout: nothing to compare
    require_strangers(forget, [Record("Who?", "Ann Lee", history=(("user", "Hi"),))], ("forget", "holdout"))


def test_roc_of_the_loss_as_plain_data(leaking):
    assert loss_roc(leaking) == {"fpr": [0, 0, 1], "tpr": [0, 1, 1], "detector": "loss"}


def test_refusals(split, store, leaking):
    with pytest.raises(InputError, match=r"'min_kk'.*Did you mean 'min_k'"):
        Membership(detectors=("loss", "min_kk"))
    with pytest.raises(InputError, match="Unknown membership detector"):
        membership_scores("lira", leaking, "forget")
    with pytest.raises(InputError, match="k=0"):
        Membership(k=0)
    with pytest.raises(InputError, match=r"ks=1.5 must lie"):
        Membership(ks=(0.2, 1.5))
    with pytest.raises(InputError, match="No split 'unseen'"):
        Membership(non_members="unseen").measure(leaking, None)
    with pytest.raises(RunError, match=r"'forget', row 1.*NaN"):
        membership_scores("loss", store(forget=split([[float("nan")]])), "forget")
    with pytest.raises(InputError, match=r"'forget', row 2"):
        membership_scores("min_k", store(forget=split([[0.5, 0.5], [0.5]])), "forget")
