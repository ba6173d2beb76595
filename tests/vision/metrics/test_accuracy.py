"""Accuracy: shares by hand, intervals over people, and the direction of each set."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.report.statistics import cluster_bootstrap
from expunge.vision.evidence import EvidenceStore
from expunge.vision.metrics._common import direction
from expunge.vision.metrics.accuracy import Accuracy
from tiny_faces import splits, trained
from tiny_vision import several


def store(**named: object) -> EvidenceStore:
    return EvidenceStore("target", trained(), named or splits())  # type: ignore[arg-type]


def test_the_share_of_images_that_get_their_label() -> None:
    found = {f.split: f for f in Accuracy(splits=("forget", "test")).measure(store(), None)}
    subject = trained()
    for split, finding in found.items():
        images = splits()[split]
        assert finding.value == pytest.approx(
            float((subject.outputs(images)[0].argmax(1) == images.labels).double().mean())
        )
        assert (finding.metric, finding.subject, finding.n) == ("accuracy", "target", len(images))
    assert found["forget"].value > 0.9 > found["test"].value


def test_its_interval_is_over_people_not_over_pictures() -> None:
    """Six pictures of one person are not six people: the interval is the one of resampled people."""
    (finding,) = Accuracy(splits=("test",)).measure(store(), None)
    hits, people = store().hits("test"), store().clusters("test")
    assert (finding.low, finding.high) == (cluster_bootstrap(hits, people).low, cluster_bootstrap(hits, people).high)
    alone = cluster_bootstrap(hits, range(len(hits)))
    assert (finding.low, finding.high) != (alone.low, alone.high)


@pytest.mark.parametrize(
    ("split", "ideal"),
    [("forget", "match-gold"), ("forget_paraphrase", "match-gold"), ("holdout", "match-gold"),
     ("retain", "higher"), ("test", "higher")],
)  # fmt: skip
def test_gold_is_the_ideal_on_what_must_go_and_on_what_nobody_saw(split: str, ideal: str) -> None:
    assert direction(split) == ideal
    (finding,) = Accuracy(splits=(split,)).measure(store(**{split: splits()["test"]}), None)
    assert finding.direction == ideal


def test_several_labels_count_by_their_share() -> None:
    (finding,) = Accuracy(splits=("forget",)).measure(store(forget=several(splits()["forget"])), None)
    assert 0.2 < finding.value < 0.8


def test_a_missing_or_empty_set_is_named() -> None:
    with pytest.raises(InputError, match="No split 'holdout'"):
        Accuracy(splits=("holdout",)).measure(store(), None)
    with pytest.raises(InputError, match="Split 'test' has no images, so there is no accuracy"):
        Accuracy(splits=("test",)).measure(store(test=splits()["test"].take([])), None)
