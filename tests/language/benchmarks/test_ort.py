"""ORT: the published layout read from a folder, and the twin on the test bed's world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language import testbed
from expunge.language.benchmarks.ort import ORT, STATEMENTS, person_folders, read_probes, twin_forms
from expunge.language.evidence import EvidenceStore
from expunge.language.forms import FORMS
from expunge.language.methods._rocr_concepts import concepts
from expunge.language.methods.fine_tune import FineTune
from expunge.language.metrics.form_bias import FormBias
from expunge.language.testbed import ATTRIBUTES, World
from expunge.language.unlearn import UnlearnJob
from expunge.language.workload import Workload

PEOPLE = ["Ann_Lee", "Bo_Kim", "Cy_Dow"]


def probe(name: str, query: str, answer: str, level: str, kind: str) -> dict[str, Any]:
    return {"query": query, "answer": answer, "level": level, "type": kind, "subject": name}


def write_person(root: Path, number: int, folder_name: str) -> Path:
    """One person in the published layout, two probes of each level and one choice on both sides."""
    name, folder = folder_name.replace("_", " "), root / f"{number}_{folder_name}"
    folder.mkdir(parents=True)
    for side in ("forget", "neighbor"):
        of = name if side == "forget" else f"friend of {name}"
        files = {
            "level1": [probe(name, f"{of} lives in ___, fact {i}.", f"Town {i}", "1", "cloze") for i in range(2)],
            "level2": [probe(name, f"Where is {of}, fact {i}?", f"Hall {i}", "2", "simple question") for i in range(2)],
            "mcp": [
                probe(name, f"{of} lives in ___.\nA. Rome\nB. Oslo\nC. Bonn\nD. Lima", "B", "4", "multiple choice")
            ],
        }
        if side == "forget":
            files["level3"] = [probe(name, f"Pretend to be {of}.", "Town 0", "3", "role play")]
        for stem, rows in files.items():
            (folder / f"{side}_{stem}.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "positive.json").write_text(json.dumps([{"text": f"{name} lives in Town 0."}]), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(PEOPLE, 1):
        write_person(tmp_path, number, name)
    (tmp_path / "notes").mkdir()
    return tmp_path


def bias_of(work: Workload) -> FormBias:
    return next(m for m in work.metrics if isinstance(m, FormBias))


# -- the published files ------------------------------------------------------------------------------


def test_each_form_becomes_a_split_and_one_of_them_is_trained(folder: Path) -> None:
    work = ORT(path=str(folder)).load(0)
    assert {s for s in work.splits if s.startswith("forget_")} == {f"forget_{f}" for f in (*FORMS, "aa")}
    assert {s for s in work.splits if s.startswith("retain_")} == {f"retain_{f}" for f in FORMS}
    assert work.forget == work.splits["forget"] == work.splits["forget_qa"]
    assert {r.cluster for r in work.forget} == {"Ann Lee"}
    assert {r.cluster for r in work.retain} == {"Bo Kim", "Cy Dow"}
    assert bias_of(work) == FormBias(FORMS, "qa")
    assert bias_of(ORT(path=str(folder), forms=("qa", "sub")).load(0)).forms == ("qa", "sub")
    assert work.behaviour == work.attack_score == "rouge"
    assert work.notes == []
    assert concepts(work.forget, ()) == [("Ann Lee",)]  # the questions hold the name: ROCR needs no settings


def test_probes_are_asked_with_the_instruction_of_their_form(folder: Path) -> None:
    work = ORT(path=str(folder)).load(0)
    blank, choice = work.splits["forget_fb"][0], work.splits["forget_mcp"][0]
    assert blank.question.endswith("\nQuestion: Ann Lee lives in ___, fact 0.")
    assert (choice.answer, choice.perturbed_answers) == ("B", ("A", "C", "D"))
    assert choice.question.endswith("A. Rome\nB. Oslo\nC. Bonn\nD. Lima")
    spelled = work.splits["forget_sub"]
    assert len(spelled) == 4  # both blanks and both questions
    assert spelled[0].answer == "T\no\nw\nn\n0\n"
    assert "character" in spelled[0].question


@pytest.mark.parametrize("trained", FORMS)
def test_any_form_can_be_the_trained_one(folder: Path, trained: Any) -> None:
    work = ORT(path=str(folder), trained=trained, people=2).load(0)
    assert work.forget == work.splits[f"forget_{trained}"]
    assert {r.cluster for r in work.forget} == {"Ann Lee", "Bo Kim"}
    assert bias_of(work).trained == trained


def test_the_published_texts_can_be_trained_on_instead(folder: Path) -> None:
    work = ORT(path=str(folder), trained="positive", person=2).load(0)
    assert [(r.question, r.answer, r.cluster) for r in work.forget] == [("", "Bo Kim lives in Town 0.", "Bo Kim")]
    assert work.splits["forget"] == work.splits["forget_qa"]
    assert bias_of(work).trained == ""


def test_missing_forms_are_left_out_and_said(folder: Path) -> None:
    (folder / "1_Ann_Lee" / "neighbor_mcp.json").unlink()
    work = ORT(path=str(folder), retain_people=0).load(0)
    assert bias_of(work).forms == ("fb", "qa", "sub")
    assert work.notes[0] == "Forms without files on both sides, not measured: mcp."
    assert "No retain records" in work.notes[1]
    (folder / "1_Ann_Lee" / "forget_mcp.json").unlink()
    with pytest.raises(InputError, match="trained='mcp' and the people's folders hold no such form"):
        ORT(path=str(folder), trained="mcp").load(0)


def test_folders_that_are_not_ort_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder there"):
        ORT(path=str(tmp_path / "nowhere")).load(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no person's folder"):
        ORT(path=str(tmp_path / "empty")).load(0)
    with pytest.raises(InputError, match="no person 4; there are 1 to 3"):
        ORT(path=str(folder), person=2, people=3).load(0)
    (folder / "2_Somebody_Else").mkdir()
    with pytest.raises(InputError, match="person 2 has two folders"):
        person_folders(str(folder))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "answer": "", "subject": "s"}, "record 1: field 'answer' is missing"),
        ({"query": "q", "answer": "B", "subject": 3}, "record 1: field 'subject' is missing or no text"),
        ({"query": "q", "answer": "B", "subject": "s"}, "record 1: a choice needs the options A. to D."),
        ({"query": "A. a\nB. b\nC. c\nD. d", "answer": "E", "subject": "s"}, "a letter as answer"),
        (["q"], "expected an object with fields, found list"),
    ],
)
def test_malformed_probes_are_named(tmp_path: Path, row: Any, message: str) -> None:
    file = tmp_path / "forget_mcp.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_probes(file, "mcp")
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="no probes in it"):
        read_probes(file, "mcp")


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="trained='tf'; one of fb, qa, mcp, sub or positive"):
        ORT(trained="tf")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the published files"):
        ORT(trained="positive")
    with pytest.raises(InputError, match=r"forms=\['fb', 'sub'\]; some of .* the trained one \(qa\) among them"):
        ORT(forms=("fb", "sub"))
    with pytest.raises(InputError, match=r"forms=\['qa', 'tf'\]"):
        ORT(forms=("qa", "tf"))
    with pytest.raises(InputError, match="person and people must be at least 1"):
        ORT(people=0)


# -- the twin -----------------------------------------------------------------------------------------


def test_each_fact_of_the_world_stands_once_in_each_form() -> None:
    assert STATEMENTS.keys() == ATTRIBUTES.keys()
    forms = twin_forms(World(2, 2, 2, 2).records()["train_forget"])
    assert [len(forms[form]) for form in FORMS] == [2 * len(ATTRIBUTES)] * 4
    for blank, asked in zip(forms["fb"], forms["qa"], strict=True):
        assert blank.cluster in blank.question
        assert "___" in blank.question
        assert blank.answer == asked.answer


@pytest.mark.parametrize("trained", FORMS)
def test_the_forgotten_are_trained_in_one_form_and_the_kept_in_all(trained: Any) -> None:
    work = ORT(trained=trained, forget=2, retain=4, holdout=2, places=2).load(0)
    hidden = {r.cluster for r in work.forget}
    assert len(hidden) == 2
    others = [work.splits[f"forget_{form}"] for form in FORMS if form != trained]
    assert not {r.question for rows in others for r in rows} & {r.question for r in work.forget}
    known = {r.question for r in work.retain}
    for form in FORMS:
        assert {r.question for r in work.splits[f"retain_{form}"]} <= known
    assert not hidden & {r.cluster for r in work.retain}
    assert work.splits["forget"] == work.splits[f"forget_{trained}"]
    choices = {r.question for r in work.retain if "\nA. " in r.question}
    asked = {question.partition("\n")[0] for question in choices}
    assert len(choices) > 3 * len(
        asked
    )  # one fact, other options each time: choosing is practised, not learnt by heart


def test_a_trained_model_answers_in_a_form_it_was_not_trained_in() -> None:
    """Facts read as questions come out as blanks too, which the bias needs; the two harder skills are left out."""
    benchmark = ORT(forget=3, retain=12, holdout=2, places=2)
    work = benchmark.load(0)
    easy = [r for r in work.retain if "\nA. " not in r.question and not r.answer.endswith("\n")]
    subject = testbed.base_subject(benchmark.world, hidden=64)
    training = replace(testbed.TARGET_TRAINING, epochs=14)
    UnlearnJob(subject, [], easy + work.forget, training).train(FineTune(), subject)
    store = EvidenceStore("target", subject, work.splits)
    found = {f.split: f.value for f in FormBias(("qa", "fb"), groups=("forget",)).measure(store, None)}
    assert found["forget_qa"] > 0.5
    assert found["forget_fb"] > 0.3
    chance = float(store.answers("holdout").exact.mean())
    assert store.answers("forget_fb").exact.mean() > chance + 0.3
