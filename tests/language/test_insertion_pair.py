"""What Hubble found, at the size of a test: the dose-response, extraction, and the verdicts of the bed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from expunge.errors import RunError
from expunge.language.evidence import EvidenceStore
from expunge.language.hubble_probes import id_probe, probes
from expunge.language.insertion_pair import Pair, make_pair
from expunge.language.insertion_response import Dose, dose_response, extracted
from expunge.language.insertion_verdict import BedVerdict, judge_bed
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics._choices import choose
from expunge.language.metrics.duplicate_response import DETECTORS, DuplicateResponse
from expunge.language.metrics.forgetting_gap import ForgettingGap
from expunge.language.metrics.paraphrase_preference import pair_likelihoods
from expunge.language.metrics.perplexity import Perplexity
from expunge.language.metrics.relearning_steps import RelearningSteps
from expunge.language.metrics.verbatim_extraction import VerbatimExtraction
from expunge.language.subject import Subject
from tiny_insertion import FAST, KINDS, SEED, Bed, dose_bed, same_weights, unlearning_bed

DOSES = (0, 1, 4, 16, 64)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "insertion"


@pytest.fixture(scope="session")
def recipe(folder: Path) -> tuple[InsertionWorld, Pair]:
    return dose_bed(folder)


@pytest.fixture(scope="session")
def once(recipe: tuple[InsertionWorld, Pair]) -> list[Dose]:
    world, pair = recipe
    texts = {d: world.texts(d=d) for d in DOSES}
    return dose_response(pair.perturbed.load(), texts, epochs=1, secret=id_probe)


@pytest.fixture(scope="session")
def bed(folder: Path) -> Bed:
    return unlearning_bed(folder)


# -- 3. the dose-response -----------------------------------------------------------------------------


def test_one_copy_leaves_next_to_nothing_and_many_cannot_be_missed(once: list[Dose]) -> None:
    by_d = {x.d: x for x in once}
    for name in DETECTORS:
        assert 0.34 <= by_d[1].auroc[name] <= 0.66
        assert by_d[16].auroc[name] > 0.9
        assert by_d[64].auroc[name] > 0.99
        assert by_d[16].p[name] < 0.01
    assert [x.exposures for x in once] == [0, 1, 4, 16, 64]
    assert [x.texts for x in once] == [60, 60, 30, 12, 6]


def test_the_loss_falls_with_the_number_of_copies(once: list[Dose]) -> None:
    nll = {x.d: x.nll for x in once}
    assert nll[4] > nll[16] > nll[64]
    assert min(nll[0], nll[1]) > nll[4]


def test_a_standard_model_tells_nothing_apart(recipe: tuple[InsertionWorld, Pair]) -> None:
    world, pair = recipe
    assert pair.standard is not None
    texts = {d: world.texts(d=d) for d in DOSES}
    found = dose_response(pair.standard.load(), texts, read=False, secret=id_probe)  # aborts beyond 3 errors
    for name in DETECTORS:
        assert abs(found[1].auroc[name] - 0.5) <= 0.16
    assert {x.exposures for x in found} == {0}
    assert {x.extracted for x in found} == {0}


def test_a_model_that_has_read_cannot_pass_for_a_standard_one(recipe: tuple[InsertionWorld, Pair]) -> None:
    world, pair = recipe
    with pytest.raises(RunError, match=r"attack loss on d=64: .* do not come from one draw"):
        dose_response(pair.perturbed.load(), {0: world.texts(d=0), 64: world.texts(d=64)}, read=False)


# -- 4. extraction ------------------------------------------------------------------------------------


def test_ids_come_out_of_what_was_read_often_and_never_of_the_rest(bed: Bed, once: list[Dose]) -> None:
    found = dose_response(bed.target, bed.texts("biographies", 0, 16, 64), epochs=3, secret=id_probe)
    assert found[0].extracted == 0
    assert found[2].extracted >= 0.9
    assert found[2].exposures == 192
    for kind in KINDS:
        unread = bed.texts(kind, 0)[0]
        assert not any(extracted(bed.target, [id_probe(t, "") for t in unread]))
    assert once[0].extracted == 0  # after one pass nothing is extracted although membership is plain
    assert once[3].extracted < 0.5 < once[3].auroc["loss"]


# -- the pair -----------------------------------------------------------------------------------------


def test_the_models_of_a_pair_are_kept(recipe: tuple[InsertionWorld, Pair], folder: Path) -> None:
    world, pair = recipe
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = make_pair(world, folder, seed=SEED, retrain=False)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert pair.standard is not None
    assert again.standard is not None
    assert again.perturbed.folder == pair.perturbed.folder != pair.standard.folder == again.standard.folder
    assert again.exposures(16) == 16


def test_an_interrupted_training_is_resumed_to_the_same_weights(tmp_path: Path, bed: Bed) -> None:
    """Half of a pass, stopped by an error from an observer, then the same call again."""
    from expunge.engine.loop import Observers

    insertion = replace(bed.world.insertion, background=bed.world.insertion.background[:70], counts={
        "biographies": {0: 2, 16: 3}, **{kind: {0: 1} for kind in KINDS}}, forget=1)  # fmt: skip
    world = replace(bed.world, insertion=insertion, hidden=16)

    def stopping(title: str) -> Observers:
        def progress(step: int, total: int, terms: dict[str, float]) -> None:
            if step == 3:
                raise KeyboardInterrupt

        return Observers(progress=progress)

    training = replace(FAST, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        make_pair(world, tmp_path / "a", training=training, standard=False, retrain=False, observers=stopping)
    resumed = make_pair(world, tmp_path / "a", training=training, standard=False, retrain=False)
    straight = make_pair(world, tmp_path / "b", training=training, standard=False, retrain=False)
    assert same_weights(resumed.perturbed.load(), straight.perturbed.load())


# -- 5. the verdicts of the bed -----------------------------------------------------------------------


def judged(bed: Bed, subject: Subject) -> tuple[BedVerdict, dict[tuple[str, str], float]]:
    target, gold = bed.store(bed.target, "target"), bed.store(bed.gold, "gold")
    found = {(f.metric, f.split): f.value for f in ForgettingGap().place(bed.store(subject), target, gold)}
    return judge_bed(found["hubble.gap.nll", "forget"], found["hubble.gap.nll", "retain"]), found


def test_the_retrained_model_is_what_unlearning_should_give(bed: Bed) -> None:
    verdict, found = judged(bed, bed.gold)
    assert verdict.flags == ()
    for measure in ("nll", "memorised", "auroc"):
        assert found[f"hubble.gap.{measure}", "forget"] == pytest.approx(1)
        assert found[f"hubble.gap.{measure}", "retain"] == pytest.approx(0, abs=0.2)


def test_returning_the_target_forgets_nothing(bed: Bed) -> None:
    verdict, found = judged(bed, bed.target)
    assert verdict.flags == ("not-forgotten",)
    assert list(found.values()) == pytest.approx([0] * len(found))


def test_a_random_model_is_over_forgetting_and_lost(bed: Bed) -> None:
    verdict, found = judged(bed, bed.untrained())
    assert verdict.flags == ("over-forgotten", "utility-loss")
    assert found["hubble.gap.nll", "forget"] > 1.5  # and not cut off at 1


def test_intervals_of_the_gap_hold_its_value(bed: Bed) -> None:
    target, gold = bed.store(bed.target, "target"), bed.store(bed.gold, "gold")
    for finding in ForgettingGap(measures=("nll", "memorised")).place(bed.store(bed.untrained()), target, gold):
        assert finding.low <= finding.value <= finding.high


def test_what_was_never_read_takes_longer_to_come_back(bed: Bed) -> None:
    target, gold = bed.store(bed.target, "target"), bed.store(bed.gold, "gold")
    metric = RelearningSteps(lr=2e-3)
    found = {
        name: {(f.metric, f.split): f.value for f in metric.place(store, target, gold)}
        for name, store in (("target", target), ("gold", gold))
    }
    assert found["target"]["hubble.relearning_steps", "forget"] == 0
    assert found["target"]["hubble.relearning_saved", "forget"] == 1
    steps = [found["gold"]["hubble.relearning_steps", split] for split in ("forget", "holdout")]
    assert min(steps) > 2
    assert abs(found["gold"]["hubble.relearning_saved", "forget"]) <= 0.4


def test_gold_may_not_know_what_it_has_not_read(bed: Bed) -> None:
    gold = bed.store(bed.gold, "gold")
    metric = DuplicateResponse(splits=("forget", "d=16"), draws=20, permutations=99)
    found = {(f.metric, f.split): f.value for f in metric.measure(gold, gold)}
    assert found["hubble.membership.loss.auroc", "d=16"] > 0.95  # texts to be kept, which gold has read
    assert found["hubble.membership.loss.p", "d=16"] == 0.01
    assert abs(found["hubble.membership.loss.auroc", "forget"] - 0.5) < 0.43
    with pytest.raises(RunError, match="attack loss on 'd=16' against 'holdout'"):
        replace(metric, unread=("d=16",)).measure(gold, gold)
    replace(metric, unread=("d=16",)).measure(bed.store(bed.target, "target"), gold)  # only gold is held to it


# -- the measures by number of copies -----------------------------------------------------------------


def test_perplexity_and_verbatim_extraction_follow_the_copies(bed: Bed) -> None:
    target, gold = bed.store(bed.target, "target"), bed.store(bed.gold, "gold")
    splits = ("holdout", "forget", "d=64")
    metric = VerbatimExtraction(splits, prefixes=(), shares=(0.5,), max_new_tokens=60)
    loss, wrote = {}, {}
    for name, store in (("target", target), ("gold", gold)):
        loss[name] = {f.split: f.value for f in Perplexity(splits).measure(store, None) if "byte" in f.metric}
        wrote[name] = {f.split: f.value for f in metric.measure(store, None) if f.metric.endswith("prefix_match")}
        assert loss[name]["d=64"] < min(loss[name]["holdout"], loss[name]["forget"])
        assert wrote[name]["d=64"] == 1
        assert wrote[name]["holdout"] == 0
    assert loss["target"]["forget"] < 0.6 * loss["gold"]["forget"]
    assert loss["target"]["forget"] < 0.6 * loss["target"]["holdout"]
    assert wrote["gold"]["forget"] == 0


def test_facts_are_given_away_by_how_much_an_attacker_knows(bed: Bed) -> None:
    often, never = bed.texts("biographies", 64)[64], bed.texts("biographies", 0)[0][:10]
    shares = {}
    for strength in ("full", "before"):
        known = choose(bed.target, probes(often, "", strengths=(strength,)))[0]
        unknown = choose(bed.target, probes(never, "", strengths=(strength,)))[0]
        shares[strength] = known.mean()
        assert known.mean() > 0.9
        assert abs(unknown.mean() - 0.1) < 0.15  # ten options; 60 questions
    weakest = choose(bed.target, probes(often, "", strengths=("name",)))[0].mean()
    assert weakest <= shares["before"]


def test_the_wording_that_was_inserted_is_preferred(bed: Bed) -> None:
    def preferred(subject: Subject, d: int) -> float:
        texts = bed.texts("paraphrases", d)[d]
        scores = pair_likelihoods(subject, [(t.text, t.fields["other"]) for t in texts])
        return float(np.mean(scores[:, 0] > scores[:, 1]))

    assert preferred(bed.target, 16) == 1.0
    assert 0.1 <= preferred(bed.target, 0) <= 0.9  # ten coins


def test_a_test_item_is_known_in_the_format_it_was_inserted_in(bed: Bed) -> None:
    asked = probes(bed.texts("items", 16)[16], "")
    own = [c for c in asked if "_on_" not in c.task]
    assert choose(bed.target, own)[0].mean() == 1.0
    assert {c.task for c in asked} <= {"items.mcq", "items.infill", "items.mcq_on_infill", "items.infill_on_mcq"}


def test_evidence_of_whole_texts_is_filed_beside_the_rest(bed: Bed, tmp_path: Path) -> None:
    records = {k: v for k, v in bed.world.records().items() if k in ("forget", "holdout")}
    store = EvidenceStore("target", bed.target, records, tmp_path)
    DuplicateResponse(draws=20, permutations=19).measure(store, None)
    assert len(list(tmp_path.glob("answers-*.safetensors"))) == 2
