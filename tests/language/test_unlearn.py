"""One method on one subject: what is drawn, paired and refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from expunge.engine.loop import Loop, Observers
from expunge.engine.method import Method, Step, Trained
from expunge.engine.training import Training
from expunge.errors import InputError, RunError
from expunge.language.data import Record, require_disjoint
from expunge.language.encode import Encoded, encode
from expunge.language.forward import LanguageExamples
from expunge.language.methods.dpo import DPO
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.ga import GA
from expunge.language.methods.grad_diff import GradDiff
from expunge.language.methods.idk import IDK
from expunge.language.methods.llmu import LLMU
from expunge.language.methods.random_labels import RandomLabels
from expunge.language.methods.task_vector import TaskVector
from expunge.language.refusals import REFUSALS
from expunge.language.unlearn import UnlearnJob, make_streams, unlearn
from tiny_bed import Bed

TRAINING = Training(steps=6, batch_size=16, lr=1e-3)


def streams_of(bed: Bed, method: Trained, training: Training = TRAINING, seed: int = 0) -> dict[str, object]:
    return make_streams(method, bed.target, bed.forget, bed.retain, training, seed)  # type: ignore[return-value]


def texts(stream: object, bed: Bed) -> list[list[str]]:
    """The decoded rows of each step of a stream."""
    examples, order = stream.examples, stream.order  # type: ignore[attr-defined]
    assert isinstance(examples, LanguageExamples)
    encoded: Encoded = examples.encoded
    ids = [encoded.ids[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    return [
        [bed.target.tokenizer.decode(ids[row], skip_special_tokens=True) for row in step] for step in order.tolist()
    ]


def flat(steps: list[list[str]]) -> list[str]:
    return [row for step in steps for row in step]


def test_each_stream_is_a_function_of_the_seed(bed: Bed) -> None:
    """All streams of a method repeat under a seed and change with it."""
    first, again, other = (streams_of(bed, LLMU(), seed=seed) for seed in (0, 0, 1))
    for name in ("forget", "substitute", "retain"):
        assert texts(first[name], bed) == texts(again[name], bed)
        assert texts(first[name], bed) != texts(other[name], bed)


def test_an_epoch_is_one_pass_over_the_forget_set(bed: Bed) -> None:
    """96 rows at 16 per step: six steps see each row once."""
    order = streams_of(bed, GA())["forget"].order  # type: ignore[attr-defined]
    assert order.shape == (6, 16)
    assert order.flatten().sort().values.tolist() == list(range(96))


def test_without_a_forget_side_an_epoch_passes_over_the_retain_set(bed: Bed) -> None:
    streams = streams_of(bed, FineTune(), Training(epochs=1.0, batch_size=40))
    assert set(streams) == {"retain"}
    assert streams["retain"].order.flatten().sort().values.tolist() == list(range(280))  # type: ignore[attr-defined]


def test_forget_rows_do_not_depend_on_what_else_a_method_draws(bed: Bed) -> None:
    orders = [streams_of(bed, m)["forget"].order for m in (GA(), GradDiff(), DPO())]  # type: ignore[attr-defined]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_retain_rows_are_drawn_afresh_not_tied_to_a_forget_row(bed: Bed) -> None:
    """Pairing each forget row with one retain row for ever shows at most 96 of them; these are drawn uniformly."""
    streams = streams_of(bed, GradDiff(), replace(TRAINING, steps=60))
    forget, retain = streams["forget"].order.flatten(), streams["retain"].order.flatten()  # type: ignore[attr-defined]
    assert len(retain.unique()) > 200
    partners = retain[forget == forget[0]]
    assert len(partners.unique()) > 5


def test_substitutes_stand_under_the_question_of_their_forget_row(bed: Bed) -> None:
    """Step by step, row by row: the same question; a refusal, or the answer of another record."""
    for method, pool in ((DPO(), set(REFUSALS)), (LLMU(), {r.answer for r in bed.retain})):
        streams = streams_of(bed, method)
        true, other = texts(streams["forget"], bed), texts(streams["substitute"], bed)
        for a, b in zip(flat(true), flat(other), strict=True):
            question, answer = b.split("\nAnswer: ")
            assert a.startswith(question + "\nAnswer: ")
            assert a != b
            assert answer in pool


def test_a_new_refusal_is_drawn_at_each_visit(bed: Bed) -> None:
    streams = streams_of(bed, IDK(), Training(epochs=10, batch_size=16))
    rows = flat(texts(streams["substitute"], bed))
    answers: dict[str, set[str]] = {}
    for row in rows:
        question, answer = row.split("\nAnswer: ")
        answers.setdefault(question, set()).add(answer)
    assert sum(len(found) for found in answers.values()) > 8 * len(answers)


def test_refusals_come_from_the_job(bed: Bed) -> None:
    streams = make_streams(IDK(), bed.target, bed.forget, bed.retain, TRAINING, 0, refusals=["No.", "Never."])
    assert {row.split("\nAnswer: ")[1] for step in texts(streams["substitute"], bed) for row in step} == {
        "No.",
        "Never.",
    }


def test_one_answer_for_all_leaves_nothing_to_substitute(bed: Bed) -> None:
    same = [Record(f"q{i}", "yes") for i in range(3)]
    with pytest.raises(InputError, match="no other answer to substitute"):
        make_streams(RandomLabels(retain="none"), bed.target, same, [], Training(steps=1, batch_size=2), 0)


def test_answers_of_other_forget_records_are_a_pool(bed: Bed) -> None:
    """Without a retain set the answers are shuffled among the forget records, never a record's own."""
    streams = make_streams(RandomLabels(retain="none"), bed.target, bed.forget, [], Training(steps=4, batch_size=16), 0)
    rows = flat(texts(streams["substitute"], bed))
    own = {r.question: r.answer for r in bed.forget}
    for row in rows:
        question, answer = row.removeprefix("Question: ").split("\nAnswer: ")
        assert answer != own[question]


def test_needless_sets_are_not_encoded(bed: Bed) -> None:
    """A method without a retain side runs with retain records that could not even be encoded."""
    hopeless = [Record("x " * 400, "y")]
    unlearn(GA(), UnlearnJob(bed.fresh(), bed.forget, hopeless, Training(steps=1, batch_size=4)))
    with pytest.raises(InputError, match="retain, record 1: no answer token is left"):
        unlearn(GradDiff(), UnlearnJob(bed.fresh(), bed.forget, hopeless, Training(steps=1, batch_size=4)))


def test_refusals_of_the_cards(bed: Bed) -> None:
    """Empty sets, rows in both sets, rows without a label, and things that are no method."""
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, Training(steps=1, batch_size=4))
    with pytest.raises(InputError, match="forget set is empty"):
        unlearn(GA(), replace(job, forget=[]))
    with pytest.raises(InputError, match="GradDiff needs retain records and there are none"):
        unlearn(GradDiff(), replace(job, retain=[]))
    with pytest.raises(InputError, match="share 96 records"):
        require_disjoint(bed.forget, bed.retain + bed.forget, "retain")
    rows = [bed.forget[0], Record("x " * 400, "y")]
    with pytest.raises(InputError, match="forget, record 2: no answer token is left"):
        encode(rows, bed.target.tokenizer, bed.target.template, max_length=128, where="forget")
    with pytest.raises(InputError, match="Method is neither a trained method nor an edit"):
        unlearn(Method(), job)


@dataclass(frozen=True)
class Descent(Trained):
    """Fine-tuning on the forget set whose loss is not a number from step `breaks` on."""

    breaks: int = 99

    def forget_loss(self, step: Step) -> Tensor:
        loss: Tensor = step.forget.nll
        return loss if step.index < self.breaks else loss * torch.nan


def test_a_loss_that_is_not_finite_stops_the_run_and_moves_nothing_more(bed: Bed) -> None:
    """The weights are those after two steps of the same, sound loss at a constant rate."""
    steady = replace(TRAINING, schedule="constant", warmup=0.0)
    job = UnlearnJob(bed.fresh(), bed.forget, [], steady)
    with pytest.raises(RunError, match="step 2: the forget term is not finite"):
        unlearn(Descent(breaks=2), job)
    two = unlearn(Descent(), UnlearnJob(bed.fresh(), bed.forget, [], replace(steady, steps=2)))
    assert two.weights_hash() == job.subject.weights_hash()


def test_an_edit_trains_its_intermediate_model_without_probes(bed: Bed) -> None:
    """Selection by probes is for the model that is returned, not for the reinforced one."""

    def probe(model: torch.nn.Module) -> dict[str, float]:
        raise AssertionError("probed an intermediate model")

    observers = Observers(probe=probe, score=lambda values: (0.0,))
    job = UnlearnJob(bed.fresh(), bed.forget, [], replace(TRAINING, evaluate_every=1), observers=observers)
    unlearn(TaskVector(), job)
    assert job.logs[0].probes == []


def test_the_job_keeps_the_log_of_each_training(bed: Bed) -> None:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING)
    assert unlearn(GradDiff(), job) is job.subject
    (log,) = job.logs
    assert [entry["step"] for entry in log.steps] == list(range(6))
    assert all(set(entry) == {"step", "forget", "retain"} for entry in log.steps)


def test_the_loop_refuses_a_stream_that_is_not_there(bed: Bed) -> None:
    streams = make_streams(GA(), bed.target, bed.forget, [], TRAINING, 0)
    with pytest.raises(InputError, match="needs retain records"):
        Loop(bed.fresh().model, GradDiff(), streams, TRAINING, seed=0)
