"""ICU: a sentence before everything, and the weights as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import NOTE
from expunge.language.data import Record
from expunge.language.generate import generate
from expunge.language.guarded import GuardedModel
from expunge.language.methods.icu import ICU
from expunge.language.prepare import feeding, model_ref
from expunge.language.score import score_answers
from expunge.language.subject import Subject, load_subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed


def guarded(bed: Bed, method: ICU) -> Subject:
    return unlearn(method, UnlearnJob(bed.fresh(), bed.forget, [], Training()))


def test_the_sentence_names_everybody_and_stands_before_the_question(bed: Bed) -> None:
    subject = guarded(bed, ICU())
    names = list(dict.fromkeys(r.cluster for r in bed.forget))
    prompt = subject.template.prompt(bed.forget[0], subject.tokenizer)
    assert prompt.startswith(f"Question: You have unlearned {', '.join(names)}. Answer like somebody who never knew")
    assert prompt.endswith(bed.target.template.prompt(bed.forget[0], None).removeprefix("Question: "))


def test_it_is_the_question_with_the_sentence_typed_into_it(bed: Bed) -> None:
    """Scoring and decoding, token by token, as if the user had written the sentence."""
    subject = guarded(bed, ICU(names=("Ada",), instruction="Forget {names}.\n"))
    records = bed.records["forget"][:6]
    typed = [replace(r, question=f"Forget Ada.\n{r.question}") for r in records]
    ours = score_answers(subject, records, [[r.answer] for r in records])
    theirs = score_answers(bed.target, typed, [[r.answer] for r in records])
    assert ours.logprob.tolist() == theirs.logprob.tolist()
    assert generate(subject, records, max_new_tokens=6) == generate(bed.target, typed, max_new_tokens=6)
    plain = score_answers(bed.target, records, [[r.answer] for r in records])
    assert ours.logprob.tolist() != plain.logprob.tolist()


def test_the_weights_are_the_targets_and_the_model_is_another_one(bed: Bed) -> None:
    subject = guarded(bed, ICU())
    assert isinstance(subject.model, GuardedModel)
    assert subject.weights_hash() == bed.target.weights_hash()
    assert subject.fingerprint() != bed.target.fingerprint()
    assert subject.parameters == bed.target.parameters


def test_saved_and_loaded_it_says_the_same_with_and_without_the_note(bed: Bed, tmp_path: Path) -> None:
    """The folder alone brings the sentence; the note of how the model is fed brings the rest."""
    subject = guarded(bed, ICU(names=("Ada", "Bo")))
    subject.save(tmp_path / "model", "card")
    (tmp_path / "model" / NOTE).write_text(json.dumps(feeding(subject)))
    assert not (tmp_path / "model" / "config.json").exists()
    assert json.loads((tmp_path / "model" / "guard.json").read_text())["settings"]["names"] == ["Ada", "Bo"]
    alone = load_subject(str(tmp_path / "model"), template="plain")
    assert alone.template.prefix == subject.template.prefix
    noted = model_ref(tmp_path / "model").load()
    assert (noted.template, noted.max_length) == (subject.template, subject.max_length)
    assert noted.fingerprint() == subject.fingerprint()
    records = bed.records["forget"][:4]
    assert generate(noted, records, max_new_tokens=6) == generate(subject, records, max_new_tokens=6)


def test_the_sentence_takes_no_room_from_the_text(bed: Bed) -> None:
    subject = guarded(bed, ICU(names=("Ada",)))
    words = len(subject.tokenizer(subject.template.prefix, add_special_tokens=False)["input_ids"])
    assert subject.max_length == bed.target.max_length + words
    crowded = guarded(bed, ICU(names=tuple(f"Somebody {i}" for i in range(80))))
    assert crowded.max_length == bed.target.model.config.max_position_embeddings


def test_what_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match=r"icu: instruction='Be quiet.' must hold \{names\}"):
        ICU(instruction="Be quiet.")
    nobody = UnlearnJob(bed.fresh(), [Record("q", "a")], [], Training())
    with pytest.raises(InputError, match="icu: no forget record says whom it is about"):
        unlearn(ICU(), nobody)
    with pytest.raises(InputError, match="a name is empty"):
        unlearn(ICU(names=("Ada", " ")), nobody)
