"""What a search looks at and what is judged have no subject in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.bench.separation import probe, retention, separate
from expunge.errors import InputError
from expunge.language.benchmarks import testbed
from expunge.language.data import cluster_ids
from expunge.language.wing import WING
from expunge.language.workload import Workload
from tiny_bed import WORLD, Bed

SHARES = [0.25, 0.5, 0.99]


def workload() -> Workload:
    return testbed.Testbed(WORLD.forget, WORLD.retain, WORLD.holdout, WORLD.places).load(0)


@pytest.mark.parametrize("share", SHARES)
def test_no_forget_subject_is_both_tuned_on_and_judged(share: float) -> None:
    data = workload()
    found = separate(WING, data, share, 1000, 0)
    tuned = {r.cluster for r in found.forget}
    for split in ("forget", "forget_paraphrase"):
        rows = data.splits[split]
        judged = {r.cluster for r, n in zip(rows, cluster_ids(rows), strict=True) if n in found.judged[split]}
        assert judged
        assert not judged & tuned
        assert judged | tuned == {r.cluster for r in rows}


@pytest.mark.parametrize("share", SHARES)
def test_no_retain_subject_is_both_tuned_on_and_judged(share: float) -> None:
    data = workload()
    found = separate(WING, data, share, 1000, 0)
    tuned, judged = ({r.cluster for r in rows} for rows in (found.retain, found.kept))
    assert tuned
    assert judged
    assert not tuned & judged
    assert tuned | judged == {r.cluster for r in data.splits["retain"]}
    assert not found.overlap


def test_the_search_never_sees_a_paraphrase() -> None:
    data = workload()
    found = separate(WING, data, 0.5, 1000, 0)
    reworded = {r.question for r in data.splits["forget_paraphrase"]}
    assert not reworded & {r.question for r in found.forget}


def test_the_paraphrase_split_is_divided_by_subject_not_by_place() -> None:
    data = workload()
    turned = replace(data, splits={**data.splits, "forget_paraphrase": data.splits["forget_paraphrase"][::-1]})
    found = separate(WING, turned, 0.5, 1000, 0)
    rows = turned.splits["forget_paraphrase"]
    judged = {r.cluster for r, n in zip(rows, cluster_ids(rows), strict=True) if n in found.judged["forget_paraphrase"]}
    assert not judged & {r.cluster for r in found.forget}


def test_the_division_is_a_function_of_the_seed() -> None:
    data = workload()
    assert separate(WING, data, 0.5, 9, 1) == separate(WING, data, 0.5, 9, 1)
    divisions = {separate(WING, data, 0.5, 9, seed).judged["forget"] for seed in range(8)}
    assert len(divisions) > 1


def test_rows_are_thinned_evenly() -> None:
    found = separate(WING, workload(), 0.5, 10, 0)
    assert 5 <= len(found.forget) <= 10
    assert {r.cluster for r in found.forget} == {r.cluster for r in separate(WING, workload(), 0.5, 1000, 0).forget}


def test_one_retain_subject_is_used_twice_and_told() -> None:
    data = workload()
    one = [r for r in data.splits["retain"] if r.cluster == data.splits["retain"][0].cluster]
    found = separate(WING, replace(data, splits={**data.splits, "retain": one}), 0.5, 1000, 0)
    assert found.overlap
    assert found.kept == found.retain == one


def test_refused_without_two_forget_subjects_or_without_retain_records() -> None:
    data = workload()
    one = [r for r in data.splits["forget"] if r.cluster == data.splits["forget"][0].cluster]
    with pytest.raises(InputError, match="at least two subjects"):
        separate(WING, replace(data, splits={**data.splits, "forget": one}), 0.5, 8, 0)
    with pytest.raises(InputError, match="needs retain records"):
        separate(WING, replace(data, retain=[], splits={"forget": data.splits["forget"]}), 0.5, 8, 0)


def test_probes_tell_target_from_gold(bed: Bed) -> None:
    data = workload()
    found = separate(WING, data, 0.5, 64, 0)
    target, gold = (probe(WING, subject, found, data) for subject in (bed.target, bed.gold))
    assert target["forget"] > 0.9
    assert gold["forget"] < 0.4
    assert min(target["retain"], gold["retain"], retention(WING, bed.gold, found, data)) > 0.9
