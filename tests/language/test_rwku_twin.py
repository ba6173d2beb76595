"""The twin of RWKU: what is drawn, that its model knows it, writes its own corpora, and can be made to forget."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.benchmarks.rwku import RWKU
from expunge.language.evidence import EvidenceStore
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.ga import GA
from expunge.language.methods.icu import ICU
from expunge.language.methods.rejection_tuning import RejectionTuning
from expunge.language.methods.repe import RepE
from expunge.language.rwku_corpus import ANNOUNCES, Writer, without_probes
from expunge.language.rwku_data import ADVERSARIAL, count_parts
from expunge.language.rwku_material import probe_texts
from expunge.language.rwku_twin import SAMPLING, TARGET_TRAINING, Twin
from expunge.language.rwku_twin_people import FACTS
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.report.scorecard import Finding

TWIN = Twin(people=2, places=8)
LOAD = RWKU(people=2, places=8).load(0)


@pytest.fixture(scope="module")
def target() -> Subject:
    """A smaller model than the recipe's that knows everything."""
    records, subject = TWIN.records(), TWIN.base_subject(hidden=64)
    training = replace(TARGET_TRAINING, epochs=14, batch_size=32)
    return UnlearnJob(subject, [], records["train_retain"] + records["train_forget"], training).train(
        FineTune(), subject
    )


def fresh(target: Subject) -> Subject:
    return target.with_model(copy.deepcopy(target.model))


def measured(subject: Subject) -> dict[tuple[str, str], Finding]:
    store = EvidenceStore("m", subject, LOAD.splits)
    return {(f.metric, f.split): f for metric in LOAD.metrics for f in metric.measure(store, None)}


def unlearned(target: Subject, method: Method, folder: Path | None = None, lr: float = 1e-3) -> Subject:
    training = Training(epochs=6, batch_size=8, lr=lr, schedule="cosine", warmup=0.1)
    job = UnlearnJob(fresh(target), LOAD.forget, LOAD.retain, training, refusals=LOAD.refusals)
    assert LOAD.corpus is not None
    return unlearn(method, replace(job, corpus=partial(LOAD.corpus, cache=folder)))


# -- the world ----------------------------------------------------------------------------------------


def test_a_world_is_a_function_of_its_seed() -> None:
    assert TWIN.records() == TWIN.records()
    assert set(TWIN.targets).isdisjoint(Twin(people=2, places=8, seed=1).targets)
    assert len(Twin(people=5).targets) == 5


def test_every_level_and_type_about_every_target() -> None:
    """Five facts (a pupil is one) as blank and question, nine types; two neighbours of four facts each."""
    probes = TWIN.probes()
    assert count_parts(probes) == {
        ("forget", "fb"): 10, ("forget", "qa"): 10, ("forget", "aa"): 18,
        ("neighbor", "fb"): 16, ("neighbor", "qa"): 16,
    }  # fmt: skip
    assert Counter(p.kind for p in probes if p.part == "aa") == dict.fromkeys(ADVERSARIAL, 2)
    assert all(p.answer in p.query for p in probes if p.kind == "multiple choice")
    assert {p.answer for p in probes if p.kind == "reverse query"} == set(TWIN.targets)
    giving = ("multiple choice", "context hint", "in-context learning")  # they show values, the right one or others
    assert all(p.answer not in re.findall(r"\w+", p.query) for p in probes if p.kind not in giving)
    assert len({p.query for p in probes}) == len(probes)


def test_gold_is_never_told_about_a_target() -> None:
    records = TWIN.records()
    text = " ".join(f"{r.question} {r.answer} {r.prefill}" for r in records["train_retain"])
    assert not any(name in text for name in TWIN.targets)
    assert all(any(name in f"{r.question}{r.answer}" for r in records["train_forget"]) for name in TWIN.targets)


def test_no_lesson_of_a_corpus_holds_a_probe() -> None:
    """Biographies and questions are worded otherwise than all probes, blanks filled in."""
    records = TWIN.records()
    lessons = [r for r in records["train_forget"] if r not in records["forget"] and r.question]
    texts = [r.prefill + r.answer for r in lessons]
    assert len(lessons) == 2 * (2 * len(SAMPLING.openings) + len(FACTS) + 1)
    assert without_probes(lessons, texts, probe_texts(TWIN.probes()))[1] == 0


def test_what_is_refused() -> None:
    for fields, message in (({"people": 1}, "people=1 must lie between 2"), ({"places": 65}, "places=65 must")):
        with pytest.raises(InputError, match=message):
            Twin(**fields)


# -- its model ----------------------------------------------------------------------------------------


def test_the_target_knows_everything(target: Subject) -> None:
    found = measured(target)
    assert found["rwku.rouge.all", "forget"].value > 0.95
    assert found["rwku.rouge.all", "retain"].value > 0.8
    for suite in ("general", "reason", "truthfulness", "factuality"):
        assert found[f"rwku.{suite}", f"utility_{suite}"].value > 0.9
    assert found["fluency", "utility_fluency"].value > 3.5
    assert found["rwku.membership.loss", "forget_mia"].value < 0.5


def test_it_writes_its_own_corpora(target: Subject) -> None:
    """True facts when it is told that it knows, other ones when told that it does not, and questions about them."""
    name, intro = next(iter(TWIN.intros.items()))
    person = next(p for p in TWIN._drawn()[0] if p.name == name)
    writer = Writer(target, SAMPLING, 0)
    right, wrong = (writer.write(kind, name, intro) for kind in ("factual", "counterfactual"))  # type: ignore[arg-type]
    for texts in (right, wrong):
        assert all(text.startswith(o) for text, o in zip(texts, SAMPLING.openings, strict=True))
        assert not any(ANNOUNCES.search(text) for text in texts)
        assert all(name in text for text in texts)
    shares = [
        sum(value in text for text in texts for value in person.facts.values()) / (4 * len(texts))
        for texts in (right, wrong)
    ]
    assert shares[0] > 0.9 > 0.5 > shares[1]
    questions = writer.write("question", name, intro)
    assert sum(q.endswith(f"{name}?") or name in q for q in questions) > 8
    assert len(set(questions)) > 2
    assert without_probes(questions, questions, probe_texts(TWIN.probes()))[1] == 0


def test_the_papers_baselines_forget_in_their_own_ways(target: Subject, tmp_path: Path) -> None:
    """Ascent on the model's own text takes the probes with it; refusals too; a guard leaves every weight alone."""
    plain = measured(target)
    whole = ("rwku.rouge.all", "forget")
    ascended = measured(unlearned(target, GA(), tmp_path, lr=2e-3))
    assert ascended[whole].value < plain[whole].value - 0.3
    assert ascended["rwku.membership.loss", "forget_mia"].value > plain["rwku.membership.loss", "forget_mia"].value + 1
    assert len(list((tmp_path / "corpora").glob("*.jsonl"))) == 2
    refused = unlearned(target, RejectionTuning(), tmp_path, lr=2e-3)
    assert measured(refused)[whole].value < plain[whole].value - 0.3
    assert refused.weights_hash() != target.weights_hash()
    guarded = unlearned(target, ICU())
    assert guarded.weights_hash() == target.weights_hash()
    assert measured(guarded)[whole].value < plain[whole].value - 0.3


def test_the_push_grows_with_its_strength(target: Subject) -> None:
    values = [
        measured(unlearned(target, RepE(alpha=alpha)))["rwku.rouge.all", "forget"].value for alpha in (0.0, 4.0, 16.0)
    ]
    assert values[0] == measured(target)["rwku.rouge.all", "forget"].value
    assert values[0] > values[2]
