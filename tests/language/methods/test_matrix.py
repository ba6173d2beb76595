"""The matrix: every method of the catalog under the same contracts. A new file inherits them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from expunge import catalog
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop, Observers, Stream
from expunge.engine.method import Edit, Guard, Method, Step, Trained
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.encode import collate
from expunge.language.forward import ForwardPass, LanguageExamples
from expunge.language.score import score_answers
from expunge.language.subject import Subject, add_lora, load_subject, merge_lora
from expunge.language.unlearn import UnlearnJob, make_streams, unlearn
from tiny_bed import Bed

NAMES = [entry.name for entry in catalog.entries("method", "language")]
TRAINING = Training(steps=5, batch_size=12, lr=1e-3, schedule="constant", warmup=0.0)


def make(name: str) -> Method:
    """The method with its defaults."""
    method: Method = catalog.find("method", name, "language").load()()
    return method


TRAINED = [name for name in NAMES if isinstance(make(name), Trained)]


@pytest.fixture
def bed(request: pytest.FixtureRequest, bed: Bed) -> Bed:
    """The dense test bed, or that of the mixture of experts where the method of the test needs one."""
    needs_mixture = "method" in request.fixturenames and request.getfixturevalue("method").architecture == "moe"
    found: Bed = request.getfixturevalue("moe_bed") if needs_mixture else bed
    return found


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> Method:
    return make(request.param)


@pytest.fixture(params=TRAINED)
def trained(request: pytest.FixtureRequest) -> Trained:
    found = make(request.param)
    assert isinstance(found, Trained)
    return found


def job_of(bed: Bed, training: Training = TRAINING, **changes: Any) -> UnlearnJob:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training, base=bed.base, base_training=training)
    return replace(job, **changes)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def forget_logprob(subject: Subject, bed: Bed) -> float:
    """Mean log-likelihood of the true answers of the forget set."""
    records = bed.records["forget"]
    return float(-score_answers(subject, records, [[r.answer] for r in records]).nll_sum.mean())


# -- what a run does ----------------------------------------------------------------------------------


def test_the_catalog_lists_every_method_file() -> None:
    folder = Path(catalog.__file__).parent / "language" / "methods"
    files = {p.stem.replace("_", "-") for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert set(NAMES) == files
    assert catalog.catalog().problems == ()


def test_every_setting_says_where_its_default_comes_from(method: Method) -> None:
    entry = next(e for e in catalog.entries("method", "language") if e.qualname == type(method).__name__)
    assert "(arXiv " in entry.paper
    silent = [f.name for f in entry.fields if "Source: " not in f.doc]
    assert silent == []


def test_moves_only_what_it_declares(method: Method, bed: Bed) -> None:
    job = job_of(bed)
    if isinstance(method, Guard):
        guarded = unlearn(method, job)
        assert changed(state(bed.target.model), state(guarded.model.target)) == set()
        assert guarded.weights_hash() == bed.target.weights_hash()
        return
    declared = method.trainable(job.subject.model) if isinstance(method, Trained) else None
    flags = {name: p.requires_grad for name, p in job.subject.model.named_parameters()}
    moved = changed(state(bed.target.model), state(unlearn(method, job).model))
    assert moved
    if declared is not None:
        assert moved <= set(declared)
    parameters = set(dict(bed.target.model.named_parameters())) | {"lm_head.weight"}  # tied: no name of its own
    assert moved <= parameters
    assert flags == {name: p.requires_grad for name, p in job.subject.model.named_parameters()}
    assert all(p.grad is None for p in job.subject.model.parameters())


STRONGER: dict[str, dict[str, Any]] = {"Needle": {"noise": 1.0}}  # 0.1 on one vector in 128 is felt on no bed
WITHOUT_DRAWS = {"ICU", "RepE"}  # a sentence, and means over fixed prompts: nothing in them is drawn


def test_lowers_the_forget_signal(method: Method, bed: Bed) -> None:
    """A method with a forget side, and an edit, make the true answers less likely.

    One without (fine-tuning) promises only that it never saw the forget set.
    """
    if isinstance(method, Trained) and not method.has_forget:
        assert method.streams == ("retain",)
        return
    method = replace(method, **STRONGER.get(type(method).__name__, {}))  # type: ignore[type-var]
    unlearned = unlearn(method, job_of(bed, replace(TRAINING, steps=15, lr=5e-3)))
    assert forget_logprob(unlearned, bed) < forget_logprob(bed.target, bed) - 1e-3


def test_deterministic_under_a_seed(method: Method, bed: Bed) -> None:
    first, again, other = (unlearn(method, job_of(bed, seed=seed)) for seed in (3, 3, 4))
    assert changed(state(first.model), state(again.model)) == set()
    if type(method).__name__ not in WITHOUT_DRAWS:
        assert changed(state(first.model), state(other.model))


def test_saved_and_loaded_it_answers_the_same(method: Method, bed: Bed, tmp_path: Path) -> None:
    unlearned = unlearn(method, job_of(bed))
    unlearned.save(tmp_path / "model", "card")
    loaded = load_subject(str(tmp_path / "model"), template="plain")
    assert loaded.template.prefix == unlearned.template.prefix
    loaded = replace(loaded, template=unlearned.template, max_length=unlearned.max_length)
    assert changed(state(unlearned.model), state(loaded.model)) == set()
    assert forget_logprob(loaded, bed) == forget_logprob(unlearned, bed)
    written = {p.suffix for p in (tmp_path / "model").rglob("*") if p.stem.startswith("model")}
    assert written == {".safetensors"}


def test_an_empty_forget_set_is_refused(method: Method, bed: Bed) -> None:
    with pytest.raises(InputError, match="forget set is empty"):
        unlearn(method, job_of(bed, forget=[]))


def test_without_retain_records(method: Method, bed: Bed) -> None:
    """A loss with a retain side refuses in words; one without runs; an edit does either."""
    job = job_of(bed, retain=[])
    needed = isinstance(method, Trained) and "retain" in method.streams
    if needed or isinstance(method, Edit):
        refused = pytest.raises(InputError, match="needs retain records") if needed else suppress(InputError)
        with refused:
            unlearn(method, job)
    else:
        unlearn(method, job)


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(
    method: Method, bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == at:
            raise KilledError

    trains = True
    try:
        unlearn(method, job_of(bed, folder=tmp_path, observers=Observers(progress=kill)))
        trains = False  # an edit or a guard that never takes a step cannot be interrupted in one
        assert isinstance(method, Edit | Guard)
    except KilledError:
        pass
    job = job_of(bed, folder=tmp_path)
    resumed, whole = unlearn(method, job), unlearn(method, job_of(bed))
    assert not trains or (at - 1 or None) in [
        log.resumed_at for log in job.logs
    ]  # killed in step 1, there is nothing to resume
    assert changed(state(resumed.model), state(whole.model)) == set()


def test_sharpness_aware_with_radius_zero_is_the_plain_step(method: Method, bed: Bed) -> None:
    flat = unlearn(method, job_of(bed, replace(TRAINING, smoothing="sam", rho=0.0)))
    assert changed(state(flat.model), state(unlearn(method, job_of(bed)).model)) == set()


def test_with_adapters_only_adapters_move(method: Method, bed: Bed) -> None:
    if isinstance(method, Guard) or (isinstance(method, Edit) and method.rebases):
        pytest.skip("it trains no adapter of the model it is given, or its own test bounds the merged update")

    def adapted(subject: Subject) -> Subject:
        return add_lora(subject, 2, 4.0, "all-linear", 0.0, seed=0)

    starts = [adapted(bed.fresh()), adapted(bed.base())]
    job = job_of(bed, replace(TRAINING, lr=1e-2), subject=adapted(bed.fresh()), base=lambda: adapted(bed.base()))
    if isinstance(method, Edit) and not method.adapters:
        with pytest.raises(InputError, match="adapters"):
            unlearn(method, job)
        return
    unlearned = unlearn(method, job)
    moved = [changed(state(start.model), state(unlearned.model)) for start in starts]
    assert any(names and all(".lora_" in name for name in names) for names in moved)
    merged = merge_lora(unlearned)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())


# -- what a loss is -----------------------------------------------------------------------------------


class Padded(LanguageExamples):
    """Examples whose batches carry three more columns of padding than they need."""

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> ForwardPass:
        batch = [nn.functional.pad(t, (0, 3)) for t in collate(self.encoded, rows, pad=5)]
        batch[0][:, -3:] = 5
        return ForwardPass(model, type(collate(self.encoded, rows))(*batch), totals, reference)


@contextmanager
def gradients() -> Iterator[list[dict[int, Tensor]]]:
    """Collects the gradients of each optimiser step, by position of the parameter."""
    seen: list[dict[int, Tensor]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append({i: p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None})

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def streams_of(method: Trained, subject: Subject, bed: Bed, training: Training = TRAINING) -> dict[str, Stream]:
    alternates = [r.perturbed_answers for r in bed.forget]
    return make_streams(method, subject, bed.forget, bed.retain, training, 0, alternates=alternates)


def first_gradient(
    method: Trained, bed: Bed, wrap: Callable[[Stream], Stream] = lambda s: s, **settings: Any
) -> tuple[dict[str, float], dict[int, Tensor]]:
    """Terms and gradient of the first step, away from the reference (which is the gold model here)."""
    training = replace(TRAINING, steps=1, clip=None, **settings)
    subject = bed.fresh()
    streams = streams_of(method, subject, bed, training)
    streams = {name: wrap(stream) for name, stream in streams.items()}
    reference = bed.gold.with_model(bed.gold.model).model
    with gradients() as seen:
        log = Loop(subject.model, method, streams, training, seed=0, reference=reference).run()
    reference.requires_grad_(True)
    return log.steps[0], seen[0]


def same(a: tuple[dict[str, float], dict[int, Tensor]], b: tuple[dict[str, float], dict[int, Tensor]]) -> None:
    assert a[0] == pytest.approx(b[0], rel=1e-5, abs=1e-7)
    assert a[1].keys() == b[1].keys()
    scale = max(float(g.abs().max()) for g in a[1].values())
    assert scale > 0
    for i in a[1]:
        assert float((a[1][i] - b[1][i]).abs().max()) <= 1e-5 * scale


def test_accumulation_equals_one_large_batch(trained: Trained, bed: Bed) -> None:
    whole = first_gradient(trained, bed)
    for micro in (5, 4):  # 12 rows as 5 + 5 + 2 and as 4 + 4 + 4
        same(whole, first_gradient(trained, bed, micro_batch=micro))


def test_padding_changes_nothing(trained: Trained, bed: Bed) -> None:
    def pad(stream: Stream) -> Stream:
        assert isinstance(stream.examples, LanguageExamples)
        return Stream(Padded(stream.examples.encoded), stream.order)

    same(first_gradient(trained, bed), first_gradient(trained, bed, wrap=pad))


@dataclass(frozen=True)
class RetainSide(Trained):
    """Only the retain side of another method."""

    method: Trained

    def retain_loss(self, step: Step) -> Tensor | None:
        return self.method.retain_loss(step)

    def trainable(self, model: nn.Module) -> list[str] | None:
        return self.method.trainable(model)


FORGET_WEIGHTS = {"forget_weight", "random_weight"}
WEIGHTED = [n for n in TRAINED if FORGET_WEIGHTS & {f.name for f in fields(make(n))}]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WEIGHTED)
def test_forget_weight_zero_is_training_on_the_retain_side_alone(name: str, bed: Bed) -> None:
    method: Any = make(name)
    weights = {f.name: 0.0 for f in fields(method) if f.name in FORGET_WEIGHTS}
    method = replace(method, **weights)
    ends = []
    for loss in (method, RetainSide(method)):
        subject = bed.fresh()
        streams = streams_of(method, subject, bed)
        Loop(subject.model, loss, streams, TRAINING, seed=0).run()
        ends.append(state(subject.model))
    assert changed(*ends) == set()
    assert changed(ends[0], state(bed.target.model))


def test_every_reference_source_gives_the_same_run(trained: Trained, bed: Bed) -> None:
    """The cache against a frozen copy: the same weights after several steps, up to rounding."""
    ends = []
    for copied in (False, True):
        subject = bed.fresh()
        streams = streams_of(trained, subject, bed)
        reference = bed.fresh().model if copied else None
        log = Loop(subject.model, trained, streams, replace(TRAINING, lr=1e-5), seed=0, reference=reference).run()
        assert log.reference in (None, "frozen-copy" if copied else "cache")
        ends.append(log.steps)
    for a, b in zip(*ends, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


# -- smoothing of any loss ----------------------------------------------------------------------------

SMOOTHINGS: dict[str, dict[str, Any]] = {
    "sam": {"rho": 0.5},
    "rs": {"sigma": 0.02},
    "gp": {"penalty": 0.5},
    "cr": {"penalty": 0.5, "mu": 0.05},
}


@pytest.mark.parametrize("kind", SMOOTHINGS)
@pytest.mark.parametrize("name", ["npo", "grad-diff", "rmu"])
def test_smoothing_of_accumulated_batches_is_that_of_the_large_batch(kind: str, name: str, bed: Bed) -> None:
    method = make(name)
    assert isinstance(method, Trained)
    settings = {"smoothing": kind, **SMOOTHINGS[kind]}
    whole = first_gradient(method, bed, **settings)
    same(whole, first_gradient(method, bed, micro_batch=5, **settings))
    plain = first_gradient(method, bed)
    moves = any(not torch.equal(whole[1][i], plain[1][i]) for i in plain[1])
    assert moves == ((name, kind) != ("rmu", "cr"))  # RMU is quadratic in the one matrix it trains here


@pytest.mark.parametrize("kind", SMOOTHINGS)
def test_the_retain_gradient_is_taken_where_the_weights_stand(kind: str, bed: Bed) -> None:
    """With a forget weight of zero nothing but the retain gradient is left, and it is the plain one."""
    method: Any = replace(make("grad-diff"), forget_weight=0.0)  # type: ignore[type-var]
    smooth = first_gradient(method, bed, smoothing=kind, **SMOOTHINGS[kind])
    for i, gradient in first_gradient(method, bed)[1].items():
        assert torch.equal(gradient, smooth[1][i])


def test_averaged_weights_are_the_mean_of_what_was_passed_and_survive_a_kill(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots after steps 3 and 5 of 5; killed after step 4 and resumed, the same to the bit."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    averaged = replace(TRAINING, smoothing="wa", average_from=3, average_every=2)
    seen: list[dict[str, Tensor]] = []
    job = job_of(bed)
    job.observers = Observers(progress=lambda *_: seen.append(state(job.subject.model)))
    unlearn(make("grad-diff"), job)
    mean = unlearn(make("grad-diff"), job_of(bed, averaged))
    for name, value in state(mean.model).items():
        torch.testing.assert_close(value, (seen[2][name] + seen[4][name]) / 2)

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(make("grad-diff"), job_of(bed, averaged, folder=tmp_path, observers=Observers(progress=kill)))
    resumed = unlearn(make("grad-diff"), job_of(bed, averaged, folder=tmp_path))
    assert changed(state(resumed.model), state(mean.model)) == set()
