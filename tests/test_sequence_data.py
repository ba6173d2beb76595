"""What a further request trains on, keeps and measures; which chains are refused. Nothing is trained here."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.benchmarks.tdec import PUBLISHED, TDEC
from expunge.language.data import Record, digest
from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.model_utility import ModelUtility
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.request_metrics import EARLIER, with_earlier, without
from expunge.language.request_records import content
from expunge.recipe import Recipe
from expunge.sequence import CHAIN, continuation, digest_folder, next_folder, read_link, steps
from expunge.sequence_data import Asked, require_start, resolve
from tiny_bed import WORLD
from tiny_chain import PEOPLE, recipe, settle, write_rows

RECORDS = WORLD.records()


def about(name: str, split: str = "train_retain") -> list[Record]:
    return [r for r in RECORDS[split] if r.cluster == name]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The benchmark's own forget set, forgotten."""
    settle(recipe(tmp_path / "run", "nowhere", target={"train": {"steps": 2}}, gold={"source": "retrain"}))
    return tmp_path / "run"


def request(run: Path, rows: list[Any], *overrides: str, name: str = "more.jsonl") -> Recipe:
    return continuation(run, write_rows(run.parent / name, rows), None, overrides)


# -- records and splits -------------------------------------------------------------------------------


def test_a_person_by_name_is_everything_that_is_kept_about_them(first: Path) -> None:
    asked = resolve(request(first, [{"cluster": PEOPLE[0]}]))
    assert [content(r) for r in asked.new] == [content(r) for r in about(PEOPLE[0])]
    assert asked.workload.forget == asked.workload.splits["forget"] == asked.new
    assert asked.link.request == 2


def test_what_is_forgotten_is_not_kept(first: Path) -> None:
    before = resolve(recipe(first, "nowhere")).workload
    asked = resolve(request(first, [{"cluster": PEOPLE[0]}]))
    gone = {content(r) for r in asked.new}
    kept = [r for r in before.retain if content(r) not in gone]
    assert asked.workload.retain == kept
    assert len(kept) == len(before.retain) - len(asked.new)
    for name in ("retain", "retain_paraphrase"):  # asked in other words it would still be about them
        assert PEOPLE[0] in {r.cluster for r in before.splits[name]}
        assert PEOPLE[0] not in {r.cluster for r in asked.workload.splits[name]}
    assert asked.workload.splits["holdout"] == before.splits["holdout"]
    assert f"{len(asked.new)} records of the retain set are to be forgotten now" in " ".join(asked.workload.notes)


def test_other_wordings_of_the_new_people_are_measured_as_such(first: Path) -> None:
    splits = resolve(request(first, [{"cluster": PEOPLE[0]}])).workload.splits
    assert splits["forget_paraphrase"] == about(PEOPLE[0], "retain_paraphrase")
    many = next(r.cluster for r in RECORDS["train_retain"] if r.cluster not in PEOPLE)  # trained on every wording
    assert "forget_paraphrase" not in resolve(request(first, [{"cluster": many}])).workload.splits


def test_records_are_completed_by_what_the_benchmark_knows(first: Path) -> None:
    """A question and an answer are enough: false answers and the person come from the same record there."""
    theirs = about(PEOPLE[1])[:3]
    asked = resolve(request(first, theirs))
    assert asked.new == theirs
    assert all(r.perturbed_answers and r.cluster == PEOPLE[1] for r in asked.new)
    assert "retain records are about the same data subjects" in " ".join(asked.workload.notes)
    own = resolve(request(first, [{"question": theirs[0].question, "answer": theirs[0].answer, "cluster": "X"}]))
    assert own.new[0].cluster == "X"


def test_all_earlier_requests_are_measured_and_none_is_kept(first: Path) -> None:
    second = settle(request(first, [{"cluster": PEOPLE[0]}]))
    third = resolve(request(first.parent / "run-2", [{"cluster": PEOPLE[1]}], name="third.jsonl"))
    assert [a.link.request for a in (*third.earlier, third)] == [1, 2, 3]
    assert third.workload.splits[EARLIER] == RECORDS["forget"] + second.new
    assert {content(r) for r in third.workload.retain}.isdisjoint(
        content(r) for a in (*third.earlier, third) for r in a.new
    )
    assert third.workload.forget == third.new  # not the last one again, and not all of them
    assert {content(r) for r in third.new}.isdisjoint({content(r) for r in second.new})
    assert Counter(map(content, third.trained_on)) == Counter(
        map(content, RECORDS["train_retain"] + RECORDS["train_forget"])
    )


def test_rehearsal_trains_on_the_earlier_records_and_measures_them_apart(first: Path) -> None:
    asked = resolve(request(first, [{"cluster": PEOPLE[0]}], "unlearn.rehearse=true"))
    assert asked.workload.forget == asked.new + RECORDS["train_forget"]
    assert asked.workload.splits["forget"] == asked.new
    assert asked.link.forget == digest(asked.new)


def test_from_the_target_everything_else_stays(first: Path) -> None:
    """A request that starts from the target: the first one is undone, its records are kept like all others."""
    made = recipe(
        first.parent / "alone", "nowhere", target={"train": {"steps": 2}}, gold={"source": "retrain"},
        request={"continues": str(first), "start": "target", "forget": str(write_rows(first.parent / "a.jsonl", [
            {"cluster": PEOPLE[0]}]))},
    )  # fmt: skip
    asked = resolve(made)
    assert asked.earlier == ()
    assert EARLIER not in asked.workload.splits
    assert Counter(map(content, asked.workload.retain + asked.new)) == Counter(map(content, asked.trained_on))
    assert asked.link.previous  # but the first run's target is its own, so it must not change


def test_a_fold_of_the_benchmark_is_a_request_too(tmp_path: Path) -> None:
    """Disjoint draws of TDEC: the second starts after the first and takes nothing of it along."""
    fold = {"name": "tdec", "size": 4, "retain_documents": 3, "holdout_documents": 2}
    settle(recipe(tmp_path / "run", "nowhere", benchmark=fold))
    asked = resolve(continuation(tmp_path / "run", overrides=["benchmark.draw=1"]))
    own = Recipe.parse({**recipe(tmp_path / "x", "nowhere").to_dict(), "benchmark": {**fold, "draw": 1}})
    work = own.benchmark.build().load(3)
    assert asked.new == work.forget == asked.workload.splits["forget"]
    assert len(asked.workload.splits[EARLIER]) == 4
    assert {content(r) for r in asked.workload.splits[EARLIER]}.isdisjoint({content(r) for r in asked.new})
    with pytest.raises(InputError, match=r"forget record 1 was already forgotten by request 1"):
        resolve(continuation(tmp_path / "run", overrides=["benchmark.pieces=5"], out=tmp_path / "again"))


def test_what_is_asked_of_every_fold_is_no_earlier_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MUSE's questions are about its first part whatever the fold: measured once, as what is forgotten now."""
    real = TDEC.load

    def same(self: TDEC, seed: int) -> Any:
        work = real(self, seed)
        return replace(work, splits={**work.splits, "forget": [Record("q", "a")]})

    monkeypatch.setattr(TDEC, "load", same)
    fold = {"name": "tdec", "size": 4, "retain_documents": 3, "holdout_documents": 2}
    settle(recipe(tmp_path / "run", "nowhere", benchmark=fold))
    asked = resolve(continuation(tmp_path / "run", overrides=["benchmark.draw=1"]))
    assert len(asked.earlier) == 1
    assert EARLIER not in asked.workload.splits


def test_the_stop_rule_watches_the_new_records(tmp_path: Path) -> None:
    published = next(iter(PUBLISHED))
    fold = {"name": "tdec", "size": 4, "retain_documents": 3, "holdout_documents": 2, "thresholds": published}
    settled = settle(recipe(tmp_path / "run", "nowhere", benchmark=fold))
    kept = settled.workload.retain[:1]
    asked = resolve(request(tmp_path / "run", [{"text": kept[0].answer}]))
    assert asked.workload.stop_rule is not None
    rule: Any = asked.workload.stop_rule(None)  # type: ignore[arg-type]
    assert [r.answer for r in rule.forget] == [kept[0].answer]


# -- gold ---------------------------------------------------------------------------------------------


def test_a_given_gold_model_is_said_to_be_the_old_one(tmp_path: Path) -> None:
    settle(recipe(tmp_path / "run", "nowhere", gold={"source": "some/gold"}))
    word = "may have seen those of this request"
    assert word in " ".join(resolve(request(tmp_path / "run", [{"cluster": PEOPLE[0]}])).workload.notes)
    other = request(tmp_path / "run", [{"cluster": PEOPLE[0]}], "gold.source=another/gold")
    assert word not in " ".join(resolve(other).workload.notes)


def test_a_retrained_gold_needs_no_note(first: Path) -> None:
    notes = " ".join(resolve(request(first, [{"cluster": PEOPLE[0]}])).workload.notes)
    assert "yardstick" not in notes
    strange = resolve(request(first, [{"question": "Who?", "answer": "Nobody"}], name="s.jsonl"))
    assert "1 of the 1 new records are not among those the target was trained on" in " ".join(strange.workload.notes)


# -- what can be measured -----------------------------------------------------------------------------


def test_metrics_follow_the_splits() -> None:
    before = {name: [Record("q", "a", perturbed_answers=("b",))] for name in ("forget", "retain", "places", "holdout")}
    bare = {"forget": [Record("", "text")], "retain": before["retain"], EARLIER: [Record("q", "a")]}
    metrics = [
        Accuracy(splits=("forget", "places")),
        Probability(splits=("forget",), options=("places",)),
        TruthRatio(splits=("forget", "retain")),
        ForgetQuality(),
        Rouge(splits=("forget", "retain")),
        ModelUtility(splits=("places",)),
        Membership(),
    ]
    left = without(metrics, before, bare)
    assert left == [
        Accuracy(splits=("forget",)),
        Probability(splits=("forget",), options=()),
        TruthRatio(splits=("retain",)),  # no false answers: nothing to compare with
        Rouge(splits=("retain",)),  # no question
    ]
    both = with_earlier([*left, ForgetQuality(), Membership()], bare)
    assert both[0] == Accuracy(splits=("forget", EARLIER))
    assert both[2:4] == left[2:4]
    assert both[4:] == [ForgetQuality(), Membership(), Membership(members=EARLIER)]
    assert without(metrics, before, before) == metrics


def test_scores_the_new_records_cannot_carry_are_replaced(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}", "perturbed_answer": ["x", "y"]} for i in range(4)]
    forget, kept = write_rows(tmp_path / "f.jsonl", rows[:2]), write_rows(tmp_path / "r.jsonl", rows[2:])
    files = {"name": "records", "forget": str(forget), "retain": str(kept)}
    settled = settle(recipe(tmp_path / "run", "nowhere", benchmark=files))
    assert settled.workload.attack_score == "choice"
    assert resolve(request(tmp_path / "run", rows[2:3])).workload.attack_score == "choice"  # completed by its twin
    bare = resolve(request(tmp_path / "run", [{"question": "new", "answer": "b"}])).workload
    assert (bare.behaviour, bare.attack_score) == ("rouge", "rouge")
    text = resolve(request(tmp_path / "run", [{"text": "only text"}])).workload
    assert (text.behaviour, text.attack_score) == ("token", "token")


def test_a_benchmark_that_measures_forgetting_in_its_own_way_takes_no_file(tmp_path: Path) -> None:
    wmdp = {"name": "wmdp", "secret": 8, "school": 8, "public": 4, "control": 8}
    settle(recipe(tmp_path / "run", "nowhere", benchmark=wmdp))
    with pytest.raises(InputError, match=r"wmdp measures its forget set in ways of its own \(forget_plants, "):
        resolve(request(tmp_path / "run", [{"text": "something"}]))


# -- chains that do not hold --------------------------------------------------------------------------


def start(made: Recipe, force: bool = False) -> Asked:
    asked = resolve(made)
    require_start(asked, Path(made.out), force)
    return asked


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_chain_that_holds(first: Path) -> None:
    second = request(first, [{"cluster": PEOPLE[0]}])
    assert (second.name, Path(second.out)) == ("run-2", first.parent / "run-2")
    assert start(second).earlier[0].folder == first
    begun = settle(second)
    assert start(second).link.fingerprint == begun.link.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "model/expunge.json").write_text("{ }"), "the files are not those the run made"),
        (lambda run: (run / "model/extra.safetensors").write_text(""), "the files are not those the run made"),
        (lambda run: edit(run / "recipe.yaml", "steps: 2", "steps: 3"), r"changed since it was made \(its recipe\)"),
        (lambda run: edit(run / CHAIN, '"npo"', '"nope"'), "the files are not those the run made"),
        (lambda run: (run / CHAIN).write_text("[]"), "not readable"),
        (lambda run: (run / CHAIN).unlink(), "not finished"),
        (lambda run: (run / "recipe.yaml").unlink(), "not a run folder"),
    ],
)
def test_a_spoilt_predecessor_is_refused(first: Path, spoil: Any, message: str) -> None:
    second = request(first, [{"cluster": PEOPLE[0]}])
    spoil(first)
    with pytest.raises(InputError, match=message) as caught:
        start(second)
    assert "\n" not in str(caught.value)


def test_changed_records_of_an_earlier_request_are_noticed_down_the_chain(first: Path) -> None:
    settle(request(first, [{"cluster": PEOPLE[0]}]))
    third = request(first.parent / "run-2", [{"cluster": PEOPLE[1]}], name="third.jsonl")
    (first / "model/expunge.json").write_text("gone for good")  # older weights are no longer needed
    assert start(third).link.request == 3
    write_rows(first.parent / "more.jsonl", [{"cluster": PEOPLE[2]}])
    with pytest.raises(InputError, match=r"run-2 has changed since it was made \(its forget records\)"):
        start(third)
    (first.parent / "more.jsonl").unlink()
    with pytest.raises(InputError, match=r"run-2 cannot be continued: .*no such file"):
        start(third)


def test_a_request_begun_from_another_state_is_refused(first: Path) -> None:
    """The run before was done again with another result after this one was begun."""
    second = request(first, [{"cluster": PEOPLE[0]}])
    settle(second)
    link = read_link(first)
    assert link is not None
    (first / "model/expunge.json").write_text("another result")
    type(link)(**{**link.__dict__, "models": {"npo": digest_folder(first / "model")}}).write(first)
    with pytest.raises(InputError, match=r"run has changed since .*run-2 was begun from it; --force begins"):
        start(second)
    assert start(second, force=True)


def test_a_folder_that_holds_another_request_is_not_overwritten(first: Path) -> None:
    settle(request(first, [{"cluster": PEOPLE[0]}]))
    other = request(first, [{"cluster": PEOPLE[1]}], name="other.jsonl")
    with pytest.raises(InputError, match="holds another request; continue that run"):
        start(other)
    assert start(other, force=True)


def test_an_unfinished_run_is_refused(first: Path) -> None:
    raw = json.loads((first / CHAIN).read_text())
    (first / CHAIN).write_text(json.dumps({**raw, "models": {}}))
    with pytest.raises(InputError, match="is not finished; run its command again"):
        request(first, [{"cluster": PEOPLE[0]}])


# -- wrong requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no records in it"),
        ([{"cluster": "Ada"}], "line 1: no record is about 'Ada'"),
        ([{"question": "Who?"}], "line 1: field 'answer' is missing"),
        ([{"cluster": PEOPLE[0]}, RECORDS["holdout"][0]], "line 2: a holdout record"),
        ([{"cluster": PEOPLE[0]}, RECORDS["forget"][5]], "line 2: already forgotten by request 1"),
        ([{"cluster": RECORDS["forget"][0].cluster}], "line 1: already forgotten by request 1"),
    ],
)
def test_wrong_records(first: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(request(first, rows))


def test_the_request_that_forgot_a_record_is_named(first: Path) -> None:
    settle(request(first, [{"cluster": PEOPLE[0]}]))
    for rows in ([about(PEOPLE[0])[0]], [{"cluster": PEOPLE[1]}, {"cluster": PEOPLE[0]}]):
        third = request(first.parent / "run-2", rows, name="third.jsonl")
        with pytest.raises(InputError, match=r"already forgotten by request 2 \(.*run-2\)"):
            resolve(third)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods=[ga]", r"methods: \[ga\], and .*run ran \[npo\]"),
        ("seed=4", "seed: it cannot differ"),
        ("target.train.lr=1", "target: it cannot differ"),
        ("model.source=x", "model: it cannot differ"),
        ("benchmark.forget=5", "benchmark: it cannot differ"),
        ("benchmark=tdec", "benchmark: it cannot differ"),
    ],
)
def test_settings_all_requests_share(first: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(request(first, [{"cluster": PEOPLE[0]}], override))
    assert resolve(request(first, [{"cluster": PEOPLE[0]}], "methods.npo.beta=0.1", "unlearn.train.lr=1e-5"))


def test_a_guard_has_no_result_to_start_from(tmp_path: Path) -> None:
    settle(recipe(tmp_path / "run", "nowhere", methods=["whp-logits"]))
    with pytest.raises(InputError, match="whp-logits leaves the weights as they are"):
        resolve(request(tmp_path / "run", [{"cluster": PEOPLE[0]}]))


def test_continuing_needs_records_and_a_folder_of_its_own(first: Path) -> None:
    with pytest.raises(InputError, match="what else is to be forgotten"):
        continuation(first)
    with pytest.raises(InputError, match="that is the run to be continued"):
        continuation(first, "x.jsonl", first)
    assert next_folder(Path("runs/demo-2"), 1) == Path("runs/demo-2-2")


# -- sequences ----------------------------------------------------------------------------------------


def test_the_steps_of_a_sequence(tmp_path: Path) -> None:
    """Each names the run it follows: the one before, or the first where all start from the target."""
    folds: list[dict[str, Any]] = [{}, {"benchmark": {"world_seed": 1}}, {"forget": "f.jsonl"}]
    made = recipe(tmp_path / "all", "nowhere", sequence={"requests": folds})
    one, two, three = steps(made)
    assert one.request is None
    assert two.request is not None
    assert three.request is not None
    assert [Path(r.out) for r in (one, two, three)] == [tmp_path / "all" / n for n in "123"]
    assert (two.request.continues, three.request.continues) == (tmp_path / "all/1", tmp_path / "all/2")
    assert (two.benchmark.fields["world_seed"], three.benchmark.fields["world_seed"]) == (1, 0)
    assert three.request.forget == "f.jsonl"
    assert all(r.sequence is None for r in (one, two, three))
    target = recipe(tmp_path / "all", "nowhere", sequence={"requests": folds, "start": "target"})
    assert [r.request.continues if r.request else None for r in steps(target)] == [None, *[tmp_path / "all/1"] * 2]


SMALL = [f"benchmark.{name}=2" for name in ("forget", "kept", "holdout")] + ["benchmark.school=4"]


@pytest.mark.parametrize(("name", "kind"), [("muse-sust", "sust"), ("muse-scal", "scal")])
def test_the_folds_of_muse(name: str, kind: str, tmp_path: Path) -> None:
    """Every step is given its own fold: four disjoint ones in turn, or four that grow, each from the target."""
    seen: list[set[Any]] = []
    targets: list[list[Record]] = []
    for number, step in enumerate(steps(Recipe.load(name, [f"out={tmp_path}", *SMALL])), 1):
        asked = settle(step)
        fold = {**step.benchmark.fields, "fold": f"{kind}_{number}"}
        assert step.benchmark.fields == fold
        assert asked.workload.forget == asked.new == step.benchmark.build().load(0).forget
        assert {content(r) for r in asked.workload.retain}.isdisjoint(
            set().union(*seen, {content(r) for r in asked.new})
        )
        seen.append({content(r) for r in asked.new})
        world = step.benchmark.build().world.records()
        targets.append(world["train_retain"] + world["train_forget"])
        assert len(asked.earlier) == (number - 1 if kind == "sust" else 0)
        assert (EARLIER in asked.workload.splits) == (kind == "sust" and number > 1)
    assert all(target == targets[0] for target in targets)
    if kind == "sust":
        assert len(set().union(*seen)) == sum(map(len, seen))
        earlier = {content(r) for a in asked.earlier for r in a.workload.splits["forget"]}
        assert {content(r) for r in asked.workload.splits[EARLIER]} == earlier
        assert earlier.isdisjoint({content(r) for r in asked.workload.splits["forget"]})
    else:
        assert all(small < large for small, large in itertools.pairwise(seen))


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ({"requests": []}, "at least 1 item"),
        ({"requests": [{"benchmark": {"forget": 2}}, {"benchmark": {"forget": 2}}]}, "requests 0 and 1 are the same"),
        ({"requests": [{"benchmark": {"forget": 2}, "forget": "f"}]}, "not from both"),
        ({"requests": [{}], "show": ["accuracy"]}, "pattern"),
        ({"requests": [{}], "start": "first"}, "'previous' or 'target'"),
    ],
)
def test_wrong_sequences(tmp_path: Path, sequence: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(tmp_path / "all", "nowhere", sequence=sequence)


def test_a_request_is_not_a_sequence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stands beside 'request'"):
        recipe(tmp_path / "x", "nowhere", request={"forget": "f"}, sequence={"requests": [{}]})
    with pytest.raises(InputError, match="names neither a run it 'continues' nor a file"):
        recipe(tmp_path / "x", "nowhere", request={"start": "target"})
    settle(recipe(tmp_path / "run", "nowhere"))
    made = recipe(tmp_path / "run", "nowhere", sequence={"requests": [{}]})
    (tmp_path / "run/recipe.yaml").write_text(made.to_yaml())
    with pytest.raises(InputError, match="holds a sequence of runs"):
        continuation(tmp_path / "run", "f")
