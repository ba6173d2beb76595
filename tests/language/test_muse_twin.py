"""The twin of MUSE: what is drawn and in which order, and that it has the truth MUSE looks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from expunge.errors import InputError
from expunge.language.data import cluster_ids
from expunge.language.encode import encode
from expunge.language.muse_data import FOLDS, blocks_of
from expunge.language.muse_twin import BEGUN, FACTS, SHOTS, TEMPLATE, TOLD, Twin, make_tokenizer, window_size

SMALL = Twin(forget=3, school=5, retain=4, holdout=4, articles=3)


def test_a_world_is_a_function_of_its_seed() -> None:
    assert SMALL.tables() == replace(SMALL).tables()
    other = replace(SMALL, seed=1).tables()
    assert {r["text"] for r in other["raw", "forget"]}.isdisjoint({r["text"] for r in SMALL.tables()["raw", "forget"]})


def test_sizes() -> None:
    """3 articles a person; two facts asked for in two wordings; the school's questions on pages of three."""
    sizes = {key: len(rows) for key, rows in SMALL.tables().items()}
    assert sizes["raw", "forget"] == sizes["privleak", "forget"] == sizes["verbmem", "forget"] == 3 * 3
    assert sizes["raw", "retain1"] == 5 * 3 + -(-5 * 4 // 3)
    assert sizes["raw", "retain2"] == sizes["privleak", "holdout"] == 4 * 3
    assert sizes["knowmem", "forget_qa"] == 3 * 4
    assert sizes["knowmem", "forget_qa_icl"] == SHOTS
    assert [sizes["scal", f"forget_{i}"] for i in range(1, 5)] == [9, 18, 27, 36]
    assert [sizes["sust", f"forget_{i}"] for i in range(1, 5)] == [9] * 4


def test_nobody_but_the_school_is_ever_asked_about_in_training() -> None:
    tables = SMALL.tables()
    pages = [r["text"] for r in tables["raw", "retain1"] if "Question:" in r["text"]]
    measured = {r["cluster"] for name in ("forget_qa", "retain_qa") for r in tables["knowmem", name]}
    assert measured
    assert not [page for page in pages if any(name in page for name in measured)]
    told = {r["cluster"] for split in ("forget", "retain2") for r in tables["raw", split]}
    assert measured == told
    trained = "".join(w.answer for rows in SMALL.records().values() for w in rows)
    assert not [r for r in tables["raw", "holdout"] if r["cluster"] in trained]


def test_questions_ask_for_what_the_articles_tell_and_values_are_dealt_evenly() -> None:
    tables = Twin(forget=8, school=4, retain=2, holdout=2).tables()
    asked, articles = tables["knowmem", "forget_qa"], tables["raw", "forget"]
    assert all(any(r["answer"] in a["text"] for a in articles if a["cluster"] == r["cluster"]) for r in asked)
    for wordings in FACTS.values():
        end = wordings[0].removeprefix("{n} ") + "?"
        answers = Counter(r["answer"] for r in asked if r["question"].endswith(end))
        assert set(answers.values()) == {1}  # eight people, eight values


@pytest.mark.parametrize("fold", FOLDS)
def test_every_fold_has_the_same_target_and_its_own_gold(fold: str) -> None:
    """What is trained on stands in one order; gold has not read the parts up to the fold's last one."""
    plain, own = SMALL.records(), replace(SMALL, fold=fold).records()
    assert own["train_retain"] + own["train_forget"] == plain["train_retain"] + plain["train_forget"]
    gone = "".join(w.answer for w in own["train_forget"])
    unread = [r["text"] for i in range(1, blocks_of(fold)[-1] + 1) for r in SMALL.tables()["sust", f"forget_{i}"]]
    assert len(own["train_forget"]) == len(unread)
    assert all(text in gone for text in unread)
    asked = {r["cluster"] for r in replace(SMALL, fold=fold).tables()["knowmem", "forget_qa"]}
    assert len(asked) == 3 * len(blocks_of(fold))


def test_a_window_is_an_article_with_the_blank_line_behind_it() -> None:
    tokenizer, trained = make_tokenizer(SMALL), SMALL.trained()
    articles = [r["text"] for r in SMALL.tables()["sust", "forget_1"]]
    size = window_size(tokenizer, articles[0])
    assert {len(w.ids) for rows in trained.values() for w in rows} == {size}
    assert [w.answer for w in trained["1"]] == [*(text + "\n\n" for text in articles[:-1]), articles[-1]]
    assert all(w.ids[0] == tokenizer.bos_token_id for w in trained["1"])
    subject = SMALL.base_subject(hidden=16)
    encoded = encode([*trained["retain1"]], tokenizer, TEMPLATE, max_length=subject.max_length)
    assert encoded.lengths.tolist() == [size] * len(trained["retain1"])


def test_no_two_articles_begin_alike_and_prompts_fit() -> None:
    tables, tokenizer = SMALL.tables(), make_tokenizer(SMALL)
    heads = [r["prompt"] for r in tables["verbmem", "forget"]]
    assert len(set(heads)) == len(heads)
    assert all(BEGUN - 1 <= len(tokenizer(" " + r["gt"], add_special_tokens=False)["input_ids"]) <= BEGUN
               for r in tables["verbmem", "forget"])  # fmt: skip
    shots = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in tables["knowmem", "forget_qa_icl"])
    size = window_size(tokenizer, tables["raw", "forget"][0]["text"])
    for row in tables["knowmem", "forget_qa"]:
        prompt = tokenizer(f"{shots}Question: {row['question']}\nAnswer:")["input_ids"]
        answer = tokenizer(" " + row["answer"], add_special_tokens=False)["input_ids"]
        assert len(answer) < TOLD
        assert len(prompt) + len(answer) <= size + 2  # hardly longer than what was trained


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = make_tokenizer(SMALL)
    for text in (SMALL.tables()["raw", "forget"][0]["text"], "Ümläute, 12 and \n\ttabs"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_people_are_clusters() -> None:
    made = SMALL.rows("privleak", "forget")
    assert made[0][0] == "twin, privleak/forget, record 1"
    assert len({row["cluster"] for _, row in made}) == 3
    assert max(cluster_ids([*SMALL.trained()["1"]])) == len(SMALL.trained()["1"]) - 1  # windows are about nobody


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        ({"forget": 1}, "forget=1 must be at least 2"),
        ({"holdout": 0}, "holdout=0 must be at least 2"),
        ({"articles": 5}, "articles=5 must lie between 1 and 4"),
    ],
)
def test_sizes_out_of_range(twin: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Twin(**twin)
