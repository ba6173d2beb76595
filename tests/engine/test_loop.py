"""The loop: what moves, when it stops, what it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.loop import Loop, Observers, TrainLog
from expunge.engine.method import Step, Trained
from expunge.engine.training import Training
from expunge.errors import InputError, RunError
from tiny_models import Ascent, distance, same, streams, tiny, weights

PLAIN = Training(steps=4, batch_size=8, lr=1e-2, schedule="constant", warmup=0.0, clip=None, weight_decay=0.0)


def train(
    model: nn.Module, method: Trained | None = None, training: Training = PLAIN, **options: Any
) -> tuple[dict[str, Tensor], TrainLog]:
    """Weights after a run of the toy method, and its log."""
    data = streams(4 if training.steps is None else training.steps, training.batch_size)
    log = Loop(model, method or Ascent(), data, training, seed=0, **options).run()
    return weights(model), log


@dataclass(frozen=True)
class Descent(Trained):
    """Mean token loss of the forget rows; nothing else."""

    paper: ClassVar[str] = "ours"

    def forget_loss(self, step: Step) -> Tensor | None:
        return step.forget.nll


@dataclass(frozen=True)
class Breaks(Descent):
    """The loss or, with a finite loss, the gradient is not finite at one step."""

    at: int = 2
    quietly: bool = False

    def forget_loss(self, step: Step) -> Tensor | None:
        loss = step.forget.nll
        if step.index != self.at:
            return loss
        # d/dx sqrt(x) at 0 is infinite, its value 0
        return loss + (loss - loss.detach()).abs().sqrt() if self.quietly else loss * math.nan


# -- one step is what it should be ------------------------------------------------------------------


def test_one_step_of_adamw_by_hand() -> None:
    """The first AdamW step moves each weight by lr * g / (|g| + eps) after the decay w -= lr * wd * w."""
    training = replace(PLAIN, steps=1, weight_decay=0.5, schedule="constant")
    model, data = tiny(), streams(1)
    start = weights(model)
    rows = data["forget"].order[0]
    total = int(data["forget"].examples.counts[rows].sum())
    data["forget"].examples.view(model, rows, (8, total), None).nll.backward()
    gradient = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    moved, _ = train(model, Descent(), training)
    for name, g in gradient.items():
        expected = start[name] * (1 - 1e-2 * 0.5) - 1e-2 * g / (g.abs() + 1e-8)
        large = g.abs() > 1e-5  # elsewhere the sum of 8 rows decides the sign by rounding
        torch.testing.assert_close(moved[name][large], expected[large], atol=2e-5, rtol=0)


def test_the_rate_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (seen.append(self.param_groups[0]["lr"]), real(self, *a))[1]
    )
    training = replace(PLAIN, schedule="linear", warmup=0.5)
    train(tiny(), training=training)
    assert seen == pytest.approx([1e-2 * training.rate(k, 4) for k in range(4)])


@pytest.mark.parametrize("micro", [1, 3, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("sam", [False, True])
def test_accumulation_equals_one_large_batch(micro: int, optimizer: str, sam: bool) -> None:
    training = replace(PLAIN, optimizer=optimizer, smoothing="sam" if sam else "none", lr=1e-3, rho=0.1)  # type: ignore[arg-type]
    # float64: AdamW divides by the size of the gradient, which blows rounding up to the size of a step
    whole, log = train(tiny().double(), training=training)
    parts, other = train(tiny().double(), training=replace(training, micro_batch=micro))
    assert distance(whole, weights(tiny().double())) > 1e-3
    assert distance(whole, parts) < 1e-9
    for a, b in zip(log.steps, other.steps, strict=True):
        assert a == pytest.approx(b, abs=1e-9)


def test_start_constants_do_not_depend_on_the_micro_batch() -> None:
    found: list[float] = []

    @dataclass(frozen=True)
    class Watching(Ascent):
        def forget_loss(self, step: Step) -> Tensor:
            found.append(float(step.state["start"]))
            return super().forget_loss(step)

    for micro in (None, 3):
        train(tiny(), Watching(), replace(PLAIN, micro_batch=micro, steps=1))
    # the first call of each run is the rehearsal on two rows
    assert found[1] == found[3] == found[-1]


def test_the_retain_side_sees_the_start_constants() -> None:
    @dataclass(frozen=True)
    class Shared(Ascent):
        def retain_loss(self, step: Step) -> Tensor:
            return step.retain.nll / step.state["start"]

    train(tiny(), Shared())


def test_the_driving_micro_batches_hold_every_row_once() -> None:
    """Rows of similar length share a micro-batch; nothing is dropped, and the totals are the step's."""
    data = streams(2)
    loop = Loop(tiny(), Ascent(), data, replace(PLAIN, steps=2, micro_batch=3), seed=0)
    chunks = loop.batches.micro(1, ("forget",))
    sizes = [chunk.forget.mask.sum(1) for chunk in chunks]
    assert [len(s) for s in sizes] == [3, 3, 2]
    expected = data["forget"].examples.sizes[data["forget"].order[1]]
    assert torch.cat(sizes).tolist() == sorted(expected.tolist())
    total = int(data["forget"].examples.counts[data["forget"].order[1]].sum())
    assert all((c.forget.total_rows, c.forget.total_tokens) == (8, total) for c in chunks)
    assert sum(int(c.forget.lengths.sum()) for c in chunks) == total == chunks[0].tokens["forget"]


def test_clipping_bounds_the_joint_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any) -> Any:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(tiny())
    assert min(norms) > 0.1
    free = list(norms)
    norms.clear()
    train(tiny(), training=replace(PLAIN, clip=0.05))
    assert max(norms) == pytest.approx(0.05, rel=1e-3)
    norms.clear()
    train(tiny(), training=replace(PLAIN, clip=1e6))
    assert norms == pytest.approx(free)


# -- what must stay as it was ------------------------------------------------------------------------


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_flags_gradients_and_mode_are_given_back(training_mode: bool, fails: bool) -> None:
    model = tiny().train(training_mode)
    model.model.embed_tokens.weight.requires_grad_(False)
    frozen = model.model.embed_tokens.weight.detach().clone()
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    if fails:
        with pytest.raises(RunError):
            train(model, Breaks())
    else:
        train(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert model.training is training_mode
    assert torch.equal(model.model.embed_tokens.weight, frozen)


def test_dropout_is_on_in_training_and_off_in_probes() -> None:
    modes: list[bool] = []

    def probe(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        return {"retain": 1.0}

    @dataclass(frozen=True)
    class Watching(Descent):
        def forget_loss(self, step: Step) -> Tensor | None:
            if torch.is_grad_enabled():
                assert step.forget.model.training
            return super().forget_loss(step)

    train(tiny(), Watching(), replace(PLAIN, evaluate_every=1), observers=Observers(probe=probe))
    assert modes == [False] * 5


def test_every_step_side_and_micro_batch_draws_its_own_dropout() -> None:
    drawn: list[float] = []

    @dataclass(frozen=True)
    class Drawing(Ascent):
        def forget_loss(self, step: Step) -> Tensor:
            drawn.append(float(torch.rand(())))
            return super().forget_loss(step)

        def retain_loss(self, step: Step) -> Tensor:
            drawn.append(float(torch.rand(())))
            return super().retain_loss(step)

    train(tiny(), Drawing(), replace(PLAIN, micro_batch=3))
    assert len(drawn) == 2 + 4 * 2 * 3  # the rehearsal; steps x sides x micro-batches
    assert len(set(drawn)) == len(drawn)
    once = drawn[2:]
    drawn.clear()
    train(tiny(), Drawing(), replace(PLAIN, micro_batch=3))
    assert drawn[2:] == once


def test_no_steps_change_nothing() -> None:
    model = tiny()
    start = weights(model)
    after, log = train(model, training=replace(PLAIN, steps=0))
    assert same(start, after)
    assert log.steps == []


def test_a_method_with_no_reference_builds_none() -> None:
    _, log = train(tiny(), Descent())
    assert log.reference is None
    _, log = train(tiny())
    assert log.reference == "cache"


# -- precision and memory ----------------------------------------------------------------------------


def test_bfloat16_computes_in_half_and_keeps_whole_weights() -> None:
    kinds: set[torch.dtype] = set()
    model = tiny()
    handle = model.model.layers[0].mlp.up_proj.register_forward_hook(lambda m, a, out: kinds.add(out.dtype))
    half, log = train(model, training=replace(PLAIN, precision="bf16", lr=1e-3))
    handle.remove()
    full, exact = train(tiny(), training=replace(PLAIN, lr=1e-3))
    assert kinds == {torch.bfloat16}
    assert {w.dtype for w in half.values()} == {torch.float32}
    assert 0 < distance(half, full) < 0.05
    assert log.steps[-1]["retain"] == pytest.approx(exact.steps[-1]["retain"], rel=0.05)


def test_at_the_start_a_bfloat16_model_is_its_own_reference() -> None:
    """The reference is computed in the same precision, so S - S_ref is 0 and so is the forget term."""
    _, log = train(tiny(), training=replace(PLAIN, precision="bf16"))
    assert log.steps[0]["forget"] == pytest.approx(0.0, abs=2e-3)
    assert abs(log.steps[3]["forget"]) > 2e-2


@dataclass(frozen=True)
class Deep(Trained):
    """Reads a hidden state of the first block and the likelihood."""

    paper: ClassVar[str] = "ours"

    def forget_loss(self, step: Step) -> Tensor | None:
        return step.forget.hidden(0).square().mean()

    def retain_loss(self, step: Step) -> Tensor | None:
        return step.retain.nll + step.retain.hidden(1).square().mean()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("method", [Ascent(), Deep()], ids=["likelihood", "hidden"])
def test_recomputed_activations_give_the_same_weights(family: str, method: Trained) -> None:
    """With dropout: the recomputation must draw the same masks. Blocks run twice, once for the backward pass."""
    changes = {"attn_pdrop": 0.2} if family == "gpt2" else {"attention_dropout": 0.2}
    if family == "gemma2":
        changes["attn_implementation"] = "eager"  # type: ignore[assignment]
    calls = [0, 0]

    def run(on: bool) -> dict[str, Tensor]:
        model = tiny(family, **changes)
        block = (model.transformer.h if family == "gpt2" else model.model.layers)[0]
        norm = block.ln_1 if family == "gpt2" else block.input_layernorm
        norm.register_forward_hook(lambda *_: calls.__setitem__(on, calls[on] + 1))
        after, _ = train(model, method, replace(PLAIN, gradient_checkpointing=on, lr=1e-3))
        assert not model.is_gradient_checkpointing
        return after

    plain, checked = run(False), run(True)
    assert distance(plain, checked) < 1e-6
    assert calls[1] > calls[0]


def test_recomputation_is_refused_where_the_model_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match="gradient_checkpointing"):
        train(model, training=replace(PLAIN, gradient_checkpointing=True))


# -- stops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sam", [False, True])
@pytest.mark.parametrize("quietly", [False, True])
def test_a_loss_that_is_not_finite_is_named_and_moves_nothing(sam: bool, quietly: bool) -> None:
    training = replace(PLAIN, smoothing="sam" if sam else "none")
    model = tiny()
    with pytest.raises(RunError) as error:
        train(model, Breaks(at=2, quietly=quietly), training)
    what = "the gradient" if quietly else "the forget term"
    assert f"step 2: {what} is not finite" in str(error.value)
    before, _ = train(tiny(), Descent(), replace(training, steps=2))
    # the order of the first two steps does not depend on the number of steps
    assert same(weights(model), before)


def test_the_loss_cap_ends_the_run() -> None:
    @dataclass(frozen=True)
    class Rising(Descent):
        def forget_loss(self, step: Step) -> Tensor | None:
            return step.forget.nll * 0 + float(step.index)

    _, log = train(tiny(), Rising(), replace(PLAIN, steps=6, loss_cap=2.5))
    assert len(log.steps) == 4
    assert log.stopped is not None
    assert "forget term 3 passed the cap 2.5 at step 3" in log.stopped


def probes(values: list[float], name: str = "retain") -> Observers:
    """Observers that report the next of some values at each probe, and take the largest 'score'."""
    left = iter(values)
    return Observers(probe=lambda model: {name: next(left)}, floor=name)


def test_the_utility_floor_ends_the_run_at_once() -> None:
    """0.9 of the start, 1.0: 0.91 passes, 0.89 stops before a third step is taken."""
    training = replace(PLAIN, evaluate_every=1, utility_floor=0.9, stop_below_floor=True)
    _, log = train(tiny(), training=training, observers=probes([1.0, 0.91, 0.89, 1.0, 1.0]))
    assert log.stopped == "retain fell under the utility floor at step 2"
    assert len(log.steps) == 2
    assert [p["step"] for p in log.probes] == [0, 1, 2]


def test_without_the_rule_the_floor_stops_nothing() -> None:
    _, log = train(tiny(), training=replace(PLAIN, evaluate_every=1), observers=probes([1.0, 0.1, 0.1, 0.1, 0.1]))
    assert log.stopped is None
    assert len(log.steps) == 4


# -- selection ---------------------------------------------------------------------------------------


def select(scores: list[float], utility: list[float], floor: float = 0.5) -> tuple[dict[str, Tensor], TrainLog]:
    """A run whose probe at step k says scores[k], utility[k]."""
    number = iter(range(len(scores)))

    def probe(model: nn.Module) -> dict[str, float]:
        k = next(number)
        return {"score": scores[k], "retain": utility[k]}

    observers = Observers(probe=probe, score=lambda v: (v["score"],))
    return train(tiny(), training=replace(PLAIN, evaluate_every=1, utility_floor=floor), observers=observers)


def after_steps(count: int) -> dict[str, Tensor]:
    """Weights of the same run after its first steps."""
    model, seen = tiny(), {}

    def progress(step: int, total: int, terms: dict[str, float]) -> None:
        seen[step] = weights(model)

    train(model, observers=Observers(progress=progress))
    return seen[count]


def test_the_best_weights_come_back() -> None:
    best, log = select([9, 1, 5, 2, 3], [1] * 5)  # the start itself is not a candidate
    assert log.selected_step == 2
    assert same(best, after_steps(2))


def test_equal_scores_keep_the_earlier() -> None:
    _, log = select([0, 5, 5, 5, 5], [1] * 5)
    assert log.selected_step == 1


def test_below_the_floor_loses_against_any_above_it() -> None:
    best, log = select([0, 9, 9, 1, 9], [1, 0.4, 0.4, 0.6, 0.4])
    assert log.selected_step == 3
    assert same(best, after_steps(3))


def test_below_the_floor_everywhere_the_best_of_them_is_kept() -> None:
    _, log = select([0, 1, 4, 2, 3], [1, 0.1, 0.1, 0.1, 0.1])
    assert log.selected_step == 2


def test_the_last_step_is_probed_even_off_the_beat() -> None:
    model, observers = tiny(), probes([1.0] * 9)
    log = Loop(
        model, Ascent(), streams(5), replace(PLAIN, steps=5, evaluate_every=3), seed=0, observers=observers
    ).run()
    assert [p["step"] for p in log.probes] == [0, 3, 5]


# -- refusals ----------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused() -> None:
    @dataclass(frozen=True)
    class Nothing(Trained):
        pass

    with pytest.raises(InputError, match="no loss"):
        Loop(tiny(), Nothing(), streams(), PLAIN, seed=0)
    with pytest.raises(InputError, match="needs retain records"):
        Loop(tiny(), Ascent(), {"forget": streams()["forget"]}, PLAIN, seed=0)


def test_streams_a_method_does_not_draw_from_are_never_touched() -> None:
    data = streams(4)
    data["retain"].examples = None  # type: ignore[assignment]
    Loop(tiny(), Descent(), data, PLAIN, seed=0).run()


# -- one side at a time --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides(Ascent):
    """Records which side it was asked for; ascent on one, descent on the other."""

    asked: list[str] = field(default_factory=list)

    def forget_loss(self, step: Step) -> Tensor | None:
        self.asked.append(f"forget {step.index}")
        return -step.forget.nll

    def retain_loss(self, step: Step) -> Tensor | None:
        self.asked.append(f"retain {step.index}")
        return step.retain.nll


def test_turns_say_which_side_a_step_has() -> None:
    method = Sides()
    _, log = train(tiny(), method, turns=["forget", "retain", "both", "retain"])
    assert method.asked[2:] == ["forget 0", "retain 1", "forget 2", "retain 2", "retain 3"]  # two looks before
    assert [sorted(entry.keys() - {"step"}) for entry in log.steps] == [
        ["forget"], ["retain"], ["forget", "retain"], ["retain"],
    ]  # fmt: skip


def test_a_step_of_one_side_is_the_step_of_that_loss_alone() -> None:
    model, alone = tiny(), tiny()
    moved, _ = train(model, Sides(), turns=["forget"] * 4)
    expected, _ = train(alone, Climb())
    assert same(moved, expected)


@dataclass(frozen=True)
class Climb(Ascent):
    """The forget side of `Sides`, alone."""

    def forget_loss(self, step: Step) -> Tensor | None:
        return -step.forget.nll

    @property
    def has_retain(self) -> bool:
        return False


def test_as_many_turns_as_steps() -> None:
    with pytest.raises(ValueError, match="3 turns for 4 steps"):
        train(tiny(), Sides(), turns=["both"] * 3)
