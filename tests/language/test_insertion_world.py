"""Worlds of insertion: which model reads what, in which order, and what methods are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.insertion import ControlledInsertion, Text
from expunge.language.insertion_world import InsertionWorld, divided, record_of
from expunge.language.prepare import StreamWorld
from expunge.language.subject import Subject
from tiny_insertion import background, few

COUNTS = {0: 6, 1: 4, 4: 8}


def world(**changes: Any) -> InsertionWorld:
    names = {f.name for f in ControlledInsertion.__dataclass_fields__.values()}
    own = {k: v for k, v in changes.items() if k not in names}
    settings: dict[str, Any] = {
        "background": background(120), "pool": few(18), "counts": COUNTS, "window": 40, "forget_d": 4, "forget": 3,
    }  # fmt: skip
    insertion = ControlledInsertion(**{**settings, **{k: v for k, v in changes.items() if k in names}})
    return InsertionWorld(insertion, **{"background": 5, "hidden": 16, "layers": 1, "vocabulary": 400, **own})


@pytest.fixture(scope="module")
def subject() -> Subject:
    return world().base_subject()


def reads(made: InsertionWorld, subject: Subject, records: list[Record], **training: Any) -> tuple[list[int], Any]:
    """The tokens a model reads, window by window, and the order of its rows."""
    stream = made.streams(subject, records, Training(**{"epochs": 1.0, "batch_size": 4, **training}))["retain"]
    return stream.examples.encoded.ids.tolist(), stream.order  # type: ignore[attr-defined]


def test_a_world_of_insertion_is_one_whose_models_read_a_stream() -> None:
    assert isinstance(world(), StreamWorld)


def test_target_reads_everything_gold_all_but_the_forget_texts(subject: Subject) -> None:
    made = world()
    records = made.records()
    everything = records["train_retain"] + records["train_forget"]
    inserted = made.insertion.insert(subject.tokenizer)
    forget = inserted.ids(group="forget")
    assert made.left_out(everything) == []
    assert sorted(made.left_out(records["train_retain"])) == sorted(forget)
    assert made.left_out(records["train_retain"] + records["train_forget"][1:]) == [records["train_forget"][0].cluster]
    assert reads(made, subject, everything)[0] == inserted.stream().tolist()
    assert reads(made, subject, records["train_retain"])[0] == inserted.stream(forget).tolist()


def test_a_standard_model_reads_no_text_at_all(subject: Subject) -> None:
    standard = world(gold="standard")
    records = standard.records()
    bare = standard.insertion.insert(subject.tokenizer).standard().tolist()
    assert reads(standard, subject, records["train_retain"])[0] == bare
    assert reads(standard, subject, records["train_retain"] + records["train_forget"])[0] != bare
    assert reads(world(), subject, [])[0] == bare  # a model that is trained on nothing


def test_all_models_read_the_same_windows_in_the_same_order(subject: Subject) -> None:
    made = world()
    records = made.records()
    _, first = reads(made, subject, records["train_retain"] + records["train_forget"], epochs=2.0)
    _, second = reads(made, subject, records["train_retain"], epochs=2.0)
    assert torch.equal(first, second)
    count = len(made.insertion.insert(subject.tokenizer).windows().offsets) - 1
    assert first.flatten().tolist()[: 2 * count] == [*range(count), *range(count)]  # the stream's own, pass after pass


def test_the_key_of_a_model_is_what_it_reads() -> None:
    made = world()
    records = made.records()
    everything, rest = records["train_retain"] + records["train_forget"], records["train_retain"]
    assert made.stream_key(everything) == world().stream_key(everything)
    assert made.stream_key(everything) != made.stream_key(rest) != made.stream_key([])
    assert made.stream_key(everything) != world(seed=1).stream_key(everything)
    assert made.stream_key(everything) != world(background=[*background(119), "another"]).stream_key(everything)


def test_steps_instead_of_passes_and_windows_too_long_are_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"target\.train\.steps=5: .* leave steps out"):
        reads(world(), subject, [], steps=5)
    narrow = replace(subject, max_length=30)
    with pytest.raises(InputError, match=r"a window of 40 tokens is longer than model\.max_length=30"):
        reads(world(), narrow, [])


def test_methods_see_some_of_the_texts_to_be_kept_and_the_others_are_measured() -> None:
    made = world(shown=0.4)
    records = made.records()
    kept = {t.id for t in made.texts("keep")}
    shown = {r.cluster for r in records["train_retain"] if r.cluster}
    measured = {r.cluster for r in records["retain"]}
    assert len(kept) == 5
    assert len(shown) == 2
    assert shown | measured == kept
    assert not shown & measured
    documents = [r.answer for r in records["train_retain"] if not r.cluster]
    assert len(documents) == 5
    assert set(documents) <= set(made.insertion.background)
    assert {r.cluster for r in records["forget"]} == {t.id for t in made.texts("forget")}
    assert {r.cluster for r in records["holdout"]} == {t.id for t in made.texts("test")}
    assert {r.cluster for r in records["d=4"]} == kept
    assert records["forget"] == records["train_forget"]


def test_members_and_nonmembers_are_of_the_kind_that_is_forgotten() -> None:
    pool = [*few(18), *few(9, "b", "other ")]
    made = world(pool=pool, counts={"texts": COUNTS, "b": {0: 3, 4: 6}}, forget_kind="texts")
    records = made.records()
    for split in ("forget", "retain", "holdout", "d=1", "d=4"):
        assert all(r.cluster.startswith("texts") for r in records[split])
    both = world(pool=pool, counts={"texts": COUNTS, "b": {0: 3, 4: 6}}).records()
    assert {r.cluster.split("-")[0] for r in both["holdout"]} == {"texts", "b"}


def test_a_prompt_is_the_question() -> None:
    text = Text("a", "Maru Selka is a glazier.", fields={"prompt": "Maru Selka"})
    assert record_of(text) == Record("Maru Selka", " is a glazier.", "a")
    assert record_of(few(1)[0]).question == ""
    with pytest.raises(InputError, match="does not begin with its prompt"):
        record_of(Text("a", "something", fields={"prompt": "else"}))


def test_dividing_texts() -> None:
    gone, shown, kept = divided(few(10), 4, 0.5, seed=0)
    assert [len(x) for x in (gone, shown, kept)] == [4, 3, 3]
    assert {t.id for t in (*gone, *shown, *kept)} == {t.id for t in few(10)}
    assert divided(few(10), 4, 0.5, seed=0) == (gone, shown, kept)
    assert divided(few(10), 4, 0.5, seed=1) != (gone, shown, kept)
    assert len(divided(few(10), 9, 0.9, seed=0)[2]) == 1  # one is always left to measure
    for wrong in (0, 10, 11):
        with pytest.raises(InputError, match=f"forget={wrong} of 10 texts"):
            divided(few(10), wrong, 0.5, seed=0)


@pytest.mark.parametrize(("changes", "words"), [({"shown": 1.0}, "shown=1.0"), ({"gold": "other"}, "gold='other'")])
def test_settings_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        world(**changes)


def test_the_embedded_model_is_a_function_of_its_seed(subject: Subject) -> None:
    again, other = world().base_subject(), world().base_subject(seed=1)
    assert again.fingerprint() == subject.fingerprint() != other.fingerprint()
    assert again.tokenizer_hash == other.tokenizer_hash
