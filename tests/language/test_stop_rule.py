"""The stop rule: both readings under those of unseen text, at the same evaluation."""

from __future__ import annotations

import pytest

from expunge.engine.loop import TrainLog
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.stop_rule import EL, MA, StopRule, Thresholds, epochs_used, thresholds_of
from stub_model import Stub
from tiny_bed import Bed

LIMITS = Thresholds(0.05, 0.30)
TEXT = "Where was the old house of Marat built and who keeps it now"


def rule(bed: Bed, limits: Thresholds = LIMITS) -> StopRule:
    return StopRule(bed.target, [Record("", TEXT)], limits, 3)


@pytest.mark.parametrize(
    ("el", "ma", "ends"),
    [
        (0.04, 0.29, True),
        (0.04, 0.30, False),  # at the threshold is not below it
        (0.05, 0.29, False),
        (0.04, 0.90, False),
        (0.90, 0.29, False),
        (0.0, 0.0, True),
    ],
)
def test_both_must_be_below_at_the_same_evaluation(bed: Bed, el: float, ma: float, ends: bool) -> None:
    said = rule(bed).stop({EL: el, MA: ma, "retain": 1.0})
    assert (said is not None) == ends


def test_one_after_the_other_does_not_count(bed: Bed) -> None:
    """EL falls first and rises again before MA falls: no evaluation has both."""
    path = [(0.9, 0.9), (0.01, 0.8), (0.2, 0.2), (0.01, 0.2)]
    said = [rule(bed).stop({EL: el, MA: ma}) for el, ma in path]
    assert said[:3] == [None, None, None]
    assert said[3] == "forgotten: EL 0.0100 < 0.0500 and MA 0.2000 < 0.3000, as unseen text reads"


def test_a_model_that_knows_the_text_goes_on_and_one_that_knows_nothing_ends(bed: Bed) -> None:
    known = bed.target.tokenizer(TEXT)["input_ids"]
    absent = next(t for t in range(3, 2000) if t not in known)
    size = len(bed.target.tokenizer)
    knows, blank = Stub(lambda seen: [*known, 2, 2][len(seen)], size), Stub(lambda _: absent, size)
    watching = rule(bed)
    assert watching.probe(knows) == {EL: 1, MA: 1}
    assert watching.stop(watching.probe(knows)) is None
    assert watching.probe(blank) == {EL: 0, MA: 0}
    assert watching.stop(watching.probe(blank)) is not None


def test_thresholds_are_the_mean_readings_of_unseen_text(bed: Bed) -> None:
    """One unseen text is known by heart and one not at all: both means are a half."""
    texts = [TEXT, "Name the town and the year of the house"]
    known = bed.target.tokenizer(texts[0])["input_ids"]
    absent = next(t for t in range(3, 2000) if t not in known and t not in bed.target.tokenizer(texts[1])["input_ids"])

    def says(seen: list[int]) -> int:
        return int([*known, 2, 2][len(seen)]) if seen[:2] == known[:2] else absent

    subject = bed.target.with_model(Stub(says, len(bed.target.tokenizer)))
    limits = thresholds_of(subject, [Record("", t) for t in texts], 3)
    assert (limits.el, limits.ma, limits.source) == (0.5, 0.5, "2 unseen texts")


def test_thresholds_that_nothing_can_fall_below_are_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="need unseen text and there is none"):
        thresholds_of(bed.target, [], 3)
    absent = Stub(lambda _: 0, len(bed.target.tokenizer))
    with pytest.raises(InputError, match="the 1 unseen texts read EL=0 and MA=0, and nothing falls below 0"):
        thresholds_of(bed.target.with_model(absent), [Record("", TEXT)], 3)
    with pytest.raises(InputError, match="holdout, record 1: a text of"):
        thresholds_of(bed.target, [Record("", TEXT)], 100)
    for el, ma in ((0.0, 0.3), (0.05, 1.2)):
        with pytest.raises(InputError, match="must lie above 0 and not above 1"):
            Thresholds(el, ma)


def test_epochs_are_passes_over_the_forget_set() -> None:
    """32 rows in steps of 32: one step each; of 20: two steps each, the last of them short."""
    log = TrainLog(steps=[{"step": i} for i in range(6)])
    assert epochs_used(log, 32, 32) == 6
    assert epochs_used(log, 32, 20) == 3
    assert epochs_used(TrainLog(), 32, 32) == 0
