"""Membership on images: who was trained on is found, who was not is not, and what gold gives is the ideal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.evidence import EvidenceStore
from expunge.vision.forward import head_of
from expunge.vision.metrics.membership import SCORES, Membership
from expunge.vision.subject import Subject
from tiny_faces import splits, trained, untrained
from tiny_vision import several


def values(subject: Subject, members: Images | None = None, others: Images | None = None, **settings: object):  # type: ignore[no-untyped-def]
    named = {"forget": members or splits()["forget"], "holdout": others or splits()["unseen"]}
    metric = Membership(draws=20, **settings)  # type: ignore[arg-type]
    return {f.metric: f for f in metric.measure(EvidenceStore("m", subject, named), None)}


def test_every_detector_finds_what_was_memorised_and_nothing_in_a_fresh_network() -> None:
    knows, fresh = values(trained()), values(untrained())
    assert set(knows) == {f"membership.{name}.auroc" for name in SCORES}  # 36 unseen images: no TPR at 1%
    for name, finding in knows.items():
        assert finding.value > 0.6, name
        assert finding.low <= finding.value <= finding.high
        assert (finding.split, finding.n, finding.direction) == ("forget", 72, "match-gold")
    assert all(abs(f.value - 0.5) < 0.2 for f in fresh.values())
    assert knows["membership.loss.auroc"].value > fresh["membership.loss.auroc"].value + 0.2


def test_the_auroc_is_the_share_of_pairs_whose_member_has_the_smaller_loss() -> None:
    store = EvidenceStore("m", trained(), splits())
    x, y = store.losses("forget"), store.losses("unseen")
    pairs = (x[:, None] < y[None]).mean() + 0.5 * (x[:, None] == y[None]).mean()
    assert values(trained())["membership.loss.auroc"].value == pytest.approx(pairs)


def test_exchanged_sides_mirror_the_value() -> None:
    """Forgotten images that are harder than unseen ones are detected as well: below a half, not hidden by |.|."""
    found = splits()
    there, back = values(trained()), values(trained(), found["unseen"], found["forget"])
    for name in there:
        assert back[name].value == pytest.approx(1 - there[name].value)


def test_the_rate_at_few_false_alarms_needs_a_hundred_unseen_images() -> None:
    unseen = splits()["unseen"]
    many = unseen.take(torch.arange(108) % 36)
    assert "membership.loss.tpr_at_1_fpr" in values(trained(), others=many)
    assert not any("tpr" in name for name in values(trained(), others=many.take(range(99))))


def test_independent_labels_are_attacked_by_their_loss_alone() -> None:
    found = splits()
    several_labels = values(trained(), several(found["forget"]), several(found["unseen"]))
    assert set(several_labels) == {"membership.loss.auroc"}
    store = EvidenceStore("m", trained(), {"f": several(found["forget"]), "u": several(found["unseen"])})
    pairs = (store.losses("f")[:, None] < store.losses("u")[None]).mean()
    assert several_labels["membership.loss.auroc"].value == pytest.approx(pairs)


def test_a_seed_repeats_the_interval() -> None:
    first, again, other = (values(trained(), seed=s)["membership.loss.auroc"] for s in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high) != (other.low, other.high)
    assert first.value == other.value


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    with pytest.raises(InputError, match=r"membership: unknown detector 'los'\. Did you mean 'loss'"):
        Membership(detectors=("los",))
    with pytest.raises(InputError, match="No split 'holdout'"):
        Membership().measure(EvidenceStore("m", trained(), splits()), None)
    broken = trained()
    with torch.no_grad():
        head_of(broken.model).bias[0] = np.nan
    with pytest.raises(InputError, match="finite"):
        values(broken)
