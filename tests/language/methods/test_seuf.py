"""SEUF: the anchor in closed form, what moves and what does not, its limits, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop, Observers
from expunge.engine.method import Step, Trained
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.experts import attribute, calibration, router_overlap
from expunge.language.forward import ForwardPass, LanguageExamples
from expunge.language.methods.ga import GA
from expunge.language.methods.grad_diff import GradDiff
from expunge.language.methods.npo import NPO
from expunge.language.methods.seuf import SEUF, Anchored, anchor_target, router_anchor
from expunge.language.moe import moe_layers
from expunge.language.score import score_answers
from expunge.language.subject import Subject, add_lora
from expunge.language.unlearn import UnlearnJob, make_streams, unlearn
from tiny_bed import Bed
from tiny_models import distance, sequences, streams, weights
from tiny_moe import EXPERTS, FAMILIES, MoeBed, listed, tiny_moe

TRAINING = Training(steps=4, batch_size=8, lr=1e-2, schedule="constant", warmup=0.0)


def job_of(bed: Bed, training: Training = TRAINING, **changes: Any) -> UnlearnJob:
    return replace(UnlearnJob(bed.fresh(), bed.forget, bed.retain, training), **changes)


def run(bed: Bed, training: Training = TRAINING, **settings: Any) -> tuple[Subject, UnlearnJob]:
    job = job_of(bed, training)
    return unlearn(SEUF(**settings), job), job


def tensors(subject: Subject) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in subject.model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def exact(subject: Subject, bed: Bed, split: str) -> float:
    """Share of answers whose every token is the model's first choice."""
    rows = bed.records[split]
    scores = score_answers(subject, rows, [[r.answer] for r in rows])
    ends = zip(scores.offsets[:-1], scores.offsets[1:], strict=True)
    return sum(bool(scores.hit[a:b].all()) for a, b in ends) / len(rows)


# -- the anchor ---------------------------------------------------------------------------------------


def test_anchor_in_closed_form() -> None:
    """One-hot on e: 0. Uniform: (1 - 1/E)^2 for e and 1/E^2 for E - 1 others, 1 - 1/E in all.

    One-hot elsewhere: 1 + 1. Two selected with a = 1 each: at s = 1/2, 1/2 it is 1/4 + 1/4, the least there
    is; normalised, 0.
    """
    wanted = anchor_target([2], EXPERTS)
    rows = torch.stack([torch.eye(EXPERTS)[2], torch.full((EXPERTS,), 1 / EXPERTS), torch.eye(EXPERTS)[0]])
    uniform = (1 - 1 / EXPERTS) ** 2 + (EXPERTS - 1) / EXPERTS**2
    assert router_anchor(rows, wanted).tolist() == pytest.approx([0, uniform, 2])
    assert uniform == pytest.approx(1 - 1 / EXPERTS)
    halves = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert router_anchor(halves, anchor_target([1, 2], 4)).item() == pytest.approx(0.5)
    assert router_anchor(halves, anchor_target([1, 2], 4, normalised=True)).item() == 0
    s = torch.rand(50, 4).softmax(-1)
    assert (router_anchor(s, anchor_target([1, 2], 4)) >= 0.5 - 1e-6).all()


def test_gradient_of_the_anchor_on_the_gate_is_the_finite_difference() -> None:
    """dL/dW = (dL/ds) ds/dz u: checked in float64, entry by entry."""
    torch.manual_seed(0)
    states = torch.randn(5, 3, dtype=torch.float64)
    gate = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    wanted = anchor_target([1], 4).double()
    assert torch.autograd.gradcheck(lambda w: router_anchor((states @ w.T).softmax(-1), wanted).mean(), (gate,))


@dataclass(frozen=True)
class Nothing(Trained):
    """A base method whose losses are 0: what is left is the anchor."""

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return 0.0 * view.nll


def only_anchor(model: Any, expert: int, layer: int = 1, alpha: float = 1.0, names: tuple[str, ...] = ()) -> Anchored:
    found = moe_layers(model)[layer]
    target = anchor_target([expert], found.num_experts)
    return Anchored(Nothing(), names or found.gate_names, ((found, target),), alpha)


def test_gradient_through_the_whole_model_in_float64() -> None:
    """The anchor of a step by central differences of three entries of the gate, padding between the rows."""
    model = tiny_moe().double()
    model.set_experts_implementation("eager")  # the grouped kernel has no float64
    method, stream = only_anchor(model, 3), streams(steps=1)["forget"]
    gate = dict(model.named_parameters())[method.names[0]]

    def loss() -> Tensor:
        view = stream.examples.view(model, stream.order[0], (8, 1), None)
        found = method.forget_loss(Step(0, 0, {"forget": view}, {"forget": 1}, {}))
        assert found is not None
        return found

    loss().backward()
    assert gate.grad is not None
    for place in ((3, 0), (0, 5), (7, 15)):
        kept, h, values = gate[place].item(), 1e-5, []
        for value in (kept + h, kept - h, kept):
            with torch.no_grad():
                gate[place] = value
                values.append(loss().item())
        assert gate.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-10)


def test_the_anchor_is_a_mean_over_the_real_tokens_of_a_row_then_over_rows() -> None:
    """By hand from the router's logits of each row alone, whatever padding the batch brings."""
    model, encoded = tiny_moe(), sequences(6)
    rows = torch.arange(6)
    view = LanguageExamples(encoded).view(model, rows, (6, 1), None)
    step = Step(0, 0, {"forget": view}, {"forget": 1}, {})
    only_anchor(model, 3).forget_loss(step)
    by_hand = []
    for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True):
        out = model(encoded.ids[None, a:b], output_router_logits=True)
        s = out.router_logits[1].softmax(-1)
        by_hand.append((s.square().sum(-1) - 2 * s[:, 3] + 1).mean().item())  # ||s - e_3||^2
    assert step.notes["anchor"].item() == pytest.approx(sum(by_hand) / 6, rel=1e-5)


def test_alone_on_the_gate_it_draws_every_token_to_its_expert() -> None:
    """P(target) goes to 1, every token picks it, and a router that had strayed comes back to the original.

    The original's second router sends all tokens to expert 3 (top 1); the model trained starts from noise.
    """
    original = tiny_moe(num_experts_per_tok=1)
    forget = streams(steps=150)
    found = Loop(
        original, only_anchor(original, 3, alpha=100.0), forget, replace(TRAINING, lr=0.05, steps=150), seed=0
    ).run()
    assert found.steps[0]["anchor"] > 0.5 > 0.05 > found.steps[-1]["anchor"]
    encoded = sequences(11, 1)
    assert float(attribute(original, encoded, kind="hits").affinity(1)[3]) > 0.95
    assert float(attribute(original, encoded).affinity(1)[3]) > 0.9

    def share(model: Any) -> float:
        sums, counts = router_overlap(model, original, encoded)
        return float(sums.sum() / counts.sum())

    strayed = tiny_moe(num_experts_per_tok=1)
    before = share(strayed)
    Loop(strayed, only_anchor(strayed, 3, alpha=100.0), forget, replace(TRAINING, lr=0.05, steps=150), seed=0).run()
    assert before < 0.7
    assert share(strayed) > 0.97  # the first routers were never touched


# -- what moves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_one_expert_and_its_gate_move_and_nothing_else_by_a_bit(moe_bed: MoeBed, decay: float) -> None:
    """Weight decay would move every expert of the fused tensor."""
    before, chosen = tensors(moe_bed.target), "1.2"
    unlearned, job = run(moe_bed, replace(TRAINING, weight_decay=decay))
    after = tensors(unlearned)
    stem = "model.layers.1.mlp."
    fused = {f"{stem}experts.gate_up_proj", f"{stem}experts.down_proj"}
    assert moved(before, after) == {*fused, f"{stem}gate.weight"}
    for name in fused:
        changed = (before[name] != after[name]).flatten(1)
        assert changed.any(1).nonzero().flatten().tolist() == [2]
        assert changed[2].float().mean() > 0.9
    assert any(f"trained: {chosen} (LAYER.EXPERT)" in note for note in job.logs[0].notes)
    width = 64  # of the states and inside an expert
    trained = 2 * width * width + width * width + EXPERTS * width
    assert job.logs[0].probes[0]["tunable_share"] == trained / moe_bed.target.parameters


def test_clipping_sees_the_gradient_of_the_slice_alone(moe_bed: MoeBed) -> None:
    """The optimiser holds the expert's slices and the gate; their joint norm is the clip, not their share of it."""
    seen: list[list[Tensor]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(look)
    try:
        run(moe_bed, replace(TRAINING, steps=1, clip=1e-3))
    finally:
        handle.remove()
    assert [tuple(g.shape) for g in seen[0]] == [(128, 64), (64, 64), (EXPERTS, 64)]
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in seen[0]]))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_resumes_bit_for_bit(
    moe_bed: MoeBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Slices go into the checkpoint and come back; the choice is made on the delivered model both times."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    training = replace(TRAINING, weight_decay=0.1)

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(SEUF(), job_of(moe_bed, training, folder=tmp_path, observers=Observers(progress=kill)))
    job = job_of(moe_bed, training, folder=tmp_path)
    resumed = unlearn(SEUF(), job)
    assert job.logs[-1].resumed_at == (at - 1 or None)
    assert moved(tensors(resumed), tensors(run(moe_bed, training)[0])) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_its_slice(family: str) -> None:
    model = tiny_moe(family)
    before = weights(model)
    layer = moe_layers(model)[max(moe_layers(model))]
    names = (*(f"{name}[{index}]" for name, index in layer.expert_params(5)), *layer.gate_names)
    method = Anchored(GA(), names, ((layer, anchor_target([5], EXPERTS)),), 1.0)
    Loop(model, method, streams(), TRAINING, seed=0).run()
    after = weights(model)
    assert moved(before, after) == {name.partition("[")[0] for name in names}
    for name, _ in layer.expert_params(5):
        assert (before[name] != after[name]).flatten(1).any(1).nonzero().flatten().tolist() == [5]


def test_slices_of_half_precision_weights_move_through_their_masters() -> None:
    """bfloat16: the other experts keep every bit, the selected one moves, decay on."""
    model = tiny_moe(moe_intermediate_size=16).bfloat16()  # the grouped kernel wants rows of 16 bytes
    before = weights(model)
    layer = moe_layers(model)[1]
    names = (*(f"{name}[{index}]" for name, index in layer.expert_params(5)), *layer.gate_names)
    method = Anchored(GA(), names, ((layer, anchor_target([5], EXPERTS)),), 1.0)
    Loop(model, method, streams(), replace(TRAINING, weight_decay=0.1), seed=0).run()
    after = weights(model)
    assert moved(before, after) == {name.partition("[")[0] for name in names}
    for name, _ in layer.expert_params(5):
        assert (before[name] != after[name]).flatten(1).any(1).nonzero().flatten().tolist() == [5]


def test_both_layouts_end_with_the_same_weights() -> None:
    """Fused slices against modules of one's own: GradDiff with the anchor, three steps, decay on."""
    ends = []
    for model in (tiny_moe("qwen3-moe"), listed(tiny_moe("qwen3-moe"))):
        layer = moe_layers(model)[1]
        names = tuple(n if i is None else f"{n}[{i}]" for n, i in layer.expert_params(4)) + layer.gate_names
        method = Anchored(GradDiff(), names, ((layer, anchor_target([4], EXPERTS)),), 1.0)
        # epsilon-sized gradients would let Adam's first steps follow rounding
        Loop(model, method, streams(steps=3), replace(TRAINING, lr=1e-3, weight_decay=0.1), seed=0).run()
        ends.append(weights(model))
    fused, parts = ends
    stem = "model.layers.1.mlp."
    gate_up = torch.cat([parts[f"{stem}experts.4.{n}_proj.weight"] for n in ("gate", "up")])
    down, gate = parts[f"{stem}experts.4.down_proj.weight"], parts[f"{stem}gate.weight"]
    torch.testing.assert_close(fused[f"{stem}experts.gate_up_proj"][4], gate_up, rtol=0, atol=2e-5)
    torch.testing.assert_close(fused[f"{stem}experts.down_proj"][4], down, rtol=0, atol=2e-5)
    torch.testing.assert_close(fused[f"{stem}gate.weight"], gate, rtol=0, atol=2e-5)
    assert distance({"g": gate}, {"g": weights(tiny_moe("qwen3-moe"))[f"{stem}gate.weight"]}) > 1e-3


# -- limits -------------------------------------------------------------------------------------------


class Everything(Anchored):
    """The anchored losses with every parameter free."""

    def trainable(self, model: nn.Module) -> None:  # type: ignore[override]
        return None


def test_without_anchor_and_with_every_parameter_it_is_the_base_method(moe_bed: MoeBed) -> None:
    """alpha = 0: same losses, same gradients, hence the same weights after the same steps."""
    ends: list[tuple[Any, dict[str, Tensor]]] = []
    for base in (GradDiff(), NPO()):
        for method in (base, Everything(base, (), (), 0.0)):
            subject = moe_bed.fresh()
            made = make_streams(method, subject, moe_bed.forget, moe_bed.retain, TRAINING, 0)
            log = Loop(subject.model, method, made, replace(TRAINING, lr=1e-3), seed=0).run()
            ends.append((log.steps, tensors(subject)))
    for plain, wrapped in (ends[:2], ends[2:]):
        assert wrapped[0] == [pytest.approx(step, abs=1e-6) for step in plain[0]]
        assert moved(plain[1], wrapped[1]) == set()


def test_npo_starts_at_two_over_beta_log_two_and_leaves_it(moe_bed: MoeBed) -> None:
    """Against a frozen reference: (2/beta) ln 2 at the start, another value once the log ratio is not 0."""
    _, job = run(moe_bed, base="npo", settings={"beta": 0.2, "retain": "none"}, alpha=0.0)
    forget = [step["forget"] for step in job.logs[-1].steps]
    assert forget[0] == pytest.approx(2 * math.log(2) / 0.2, rel=1e-6)
    assert forget[1] < forget[0] - 1e-3
    assert forget[-1] < forget[0] - 0.1
    assert "retain" not in job.logs[-1].steps[0]


def test_the_anchor_stands_beside_the_base_loss(moe_bed: MoeBed) -> None:
    """forget(alpha) - forget(0) = alpha * anchor at the first step, and retain is the base method's."""
    plain, anchored = (run(moe_bed, alpha=alpha)[1].logs[-1].steps[0] for alpha in (0.0, 3.0))
    assert "anchor" not in plain
    assert 0 < anchored["anchor"] < 2
    assert anchored["forget"] - plain["forget"] == pytest.approx(3 * anchored["anchor"], rel=1e-4)
    assert anchored["retain"] == plain["retain"]


@pytest.mark.parametrize("base", ["ga", "npo", "rmu", "adaptive-rmu", "dpo", "idk"])
def test_accumulation_and_recomputation_change_nothing(moe_bed: MoeBed, base: str) -> None:
    """Whatever the base reads: logits, a reference, a cut forward pass, refusals, both."""
    settings = {"alpha": 10.0} if "rmu" in base else None
    first = [
        run(moe_bed, replace(TRAINING, steps=1, **how), base=base, settings=settings)[1].logs[-1].steps[0]
        for how in ({}, {"micro_batch": 3}, {"gradient_checkpointing": True})
    ]
    assert first[0]["anchor"] > 0
    for other in first[1:]:
        assert other == pytest.approx(first[0], rel=1e-5, abs=1e-6)


def test_recomputation_gives_the_same_gradient(moe_bed: MoeBed) -> None:
    ends = [tensors(run(moe_bed, replace(TRAINING, gradient_checkpointing=on, lr=1e-3))[0]) for on in (False, True)]
    assert distance(*ends) < 1e-5
    assert distance(ends[0], tensors(moe_bed.target)) > 1e-3


def test_an_activation_loss_reads_the_deepest_selected_layer(moe_bed: MoeBed) -> None:
    """RMU in layer 0 moves nothing above it; by itself, its default is the layer at a quarter of the depth."""
    unlearned, _ = run(moe_bed, base="rmu", settings={"alpha": 1.0}, experts=("0.1", "1.3"))
    names = moved(tensors(moe_bed.target), tensors(unlearned))
    assert {name.split(".")[2] for name in names} == {"0", "1"}
    above = {"base": "rmu", "settings": {"layer": 0}}
    with pytest.raises(InputError, match="layer=0 of the base method lies below layer 1"):
        run(moe_bed, **above)
    unlearned, _ = run(moe_bed, **above, experts=("0.1",))
    assert {name.split(".")[2] for name in moved(tensors(moe_bed.target), tensors(unlearned))} == {"0"}


# -- the choice ---------------------------------------------------------------------------------------


def slices_moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """``LAYER.EXPERT`` of every expert that moved."""
    return sorted(
        f"{name.split('.')[2]}.{e}"
        for name in moved(before, after)
        if name.endswith("experts.down_proj")
        for e in (before[name] != after[name]).flatten(1).any(1).nonzero().flatten().tolist()
    )


def test_scopes(moe_bed: MoeBed) -> None:
    before = tensors(moe_bed.target)
    same, job = run(moe_bed, count=2, scope="same_layer")
    assert slices_moved(before, tensors(same)) == ["1.0", "1.2"]
    assert "1.2 leads by" in job.logs[0].notes[0]
    cross, _ = run(moe_bed, count=4, scope="cross_layer")
    found = slices_moved(before, tensors(cross))
    assert len(found) == 4
    assert {name[0] for name in found} == {"0", "1"}
    gates = [n for n in moved(before, tensors(cross)) if n.endswith("gate.weight")]
    assert len(gates) == 2


def test_the_choice_is_made_on_the_delivered_model_only(moe_bed: MoeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(model: nn.Module, *rest: Any) -> Any:
        calls.append(moved(tensors(moe_bed.target), {n: v.clone() for n, v in model.state_dict().items()}))
        return attribute(model, *rest)

    monkeypatch.setattr("expunge.language.methods.seuf.attribute", counted)
    run(moe_bed)
    assert calls == [set()]


def test_the_normalised_anchor_asks_for_half_of_each_of_two(moe_bed: MoeBed) -> None:
    """(s1 - 1)^2 + (s2 - 1)^2 - (s1 - 1/2)^2 - (s2 - 1/2)^2 = 3/2 - (s1 + s2): between 1/2 and 3/2."""
    how: dict[str, Any] = {"count": 2, "scope": "same_layer"}
    ones, halves = (run(moe_bed, normalised_anchor=on, **how)[1].logs[-1].steps[0]["anchor"] for on in (False, True))
    encoded = calibration(moe_bed.target, moe_bed.forget[:24], 10**6, 0)
    assert 0.5 < ones - halves < 1.5
    assert float(attribute(moe_bed.target.model, encoded).affinity(1)[[0, 2]].sum()) == pytest.approx(
        1.5 - (ones - halves), abs=0.2
    )  # the masked score is a little less than the whole softmax


def test_what_the_attribution_reads(moe_bed: MoeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokens` bounds the sample, `attribution` names the kind, special tokens are known to it."""
    calls: list[Any] = []

    def seen(*given: Any) -> Any:
        calls.append(given[1:])
        return attribute(*given)

    monkeypatch.setattr("expunge.language.methods.seuf.attribute", seen)
    run(moe_bed, tokens=1, attribution="hits")
    run(moe_bed)
    (few, special, kind), (whole, _, default) = calls
    assert (len(few.lengths), len(whole.lengths)) == (1, len(moe_bed.forget))
    assert (kind, default) == ("hits", "scores")
    assert set(special) == {0, 1, 2}


def test_named_experts_are_taken_as_they_are(moe_bed: MoeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.language.methods.seuf.attribute", None)  # not asked
    unlearned, job = run(moe_bed, experts=("0.7", "0.7", "1.1"))
    assert slices_moved(tensors(moe_bed.target), tensors(unlearned)) == ["0.7", "1.1"]
    assert job.logs[0].notes[0].startswith("trained: 0.7, 1.1 (LAYER.EXPERT)")


def test_shared_experts_need_leave(moe_bed: MoeBed) -> None:
    with pytest.raises(InputError, match="names shared experts, which every token goes through; set allow_shared"):
        SEUF(experts=("shared",))
    unlearned, _ = run(moe_bed, experts=("shared",), allow_shared=True)
    names = moved(tensors(moe_bed.target), tensors(unlearned))
    assert slices_moved(tensors(moe_bed.target), tensors(unlearned)) == ["1.2"]  # attribution picks the routed one
    assert {n.rpartition("mlp.")[2].split(".")[0] for n in names} == {
        "experts", "gate", "shared_expert", "shared_expert_gate",
    }  # fmt: skip
    without = Subject(tiny_moe("mixtral", vocab_size=len(moe_bed.target.tokenizer)), *feeding(moe_bed))
    with pytest.raises(InputError, match=r"layer [01] has no shared experts"):
        unlearn(SEUF(experts=("shared",), allow_shared=True), job_of(moe_bed, subject=without))


def feeding(bed: Bed) -> tuple[Any, ...]:
    return bed.target.tokenizer, bed.target.template, "tiny", 128


# -- what it does -------------------------------------------------------------------------------------


def test_forgets_in_one_expert_and_keeps_the_rest(moe_bed: MoeBed) -> None:
    """Two thirds of the answers gone from 4% of the weights, and the retain answers stay.

    Training all weights forgets as much by sending the text to other experts: its overlap falls lower.
    """
    training = Training(steps=140, batch_size=12, lr=5e-3)
    settings: dict[str, Any] = {"base": "grad-diff", "settings": {"forget_weight": 0.05}}
    unlearned, job = run(moe_bed, training, **settings)
    assert exact(moe_bed.target, moe_bed, "forget") > 0.95
    assert exact(unlearned, moe_bed, "forget") < 0.33
    assert exact(unlearned, moe_bed, "retain") > 0.9
    assert job.logs[0].probes[0]["first"] > 0.9
    everything = unlearn(GradDiff(forget_weight=0.05), job_of(moe_bed, replace(training, steps=80, lr=1e-3)))
    assert exact(everything, moe_bed, "forget") < 0.33
    encoded, shares = calibration(moe_bed.target, moe_bed.forget, 10**6, 0), []
    for subject in (everything, unlearned):
        sums, counts = router_overlap(subject.model, moe_bed.target.model, encoded)
        shares.append(float(sums.sum() / counts.sum()))
    assert shares[0] < 0.8 < shares[1]


# -- what it refuses ----------------------------------------------------------------------------------


def test_a_dense_model_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match=r"^LlamaForCausalLM is dense: no decoder block has routed experts"):
        unlearn(SEUF(), job_of(bed))


def test_adapters_are_refused(moe_bed: MoeBed) -> None:
    adapted = add_lora(moe_bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0)
    with pytest.raises(InputError, match=r"adapters leave as they are: take model\.lora out of the recipe"):
        unlearn(SEUF(), job_of(moe_bed, subject=adapted))


def test_a_dense_layer_is_refused_by_name(moe_bed: MoeBed) -> None:
    deepseek = Subject(tiny_moe("deepseek-v2", vocab_size=len(moe_bed.target.tokenizer)), *feeding(moe_bed))
    with pytest.raises(InputError, match=r"'0\.3': layer 0 has no routed experts; layers that do: 1, 2\."):
        unlearn(SEUF(experts=("0.3",)), job_of(moe_bed, subject=deepseek))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 9, "scope": "same_layer"}, "count=9: layer 1 has 8 experts"),
        ({"count": 17, "scope": "cross_layer"}, "count=17: the model has 16 experts"),
        ({"experts": ("1.8",)}, r"expert 1\.8: layer 1 has the experts 0 to 7"),
        ({"experts": ("2.0",)}, r"'2\.0': layer 2 has no routed experts; layers that do: 0, 1"),
        ({"experts": ("one",)}, "'one' is neither LAYER.EXPERT"),
        ({"experts": ("1.-2",)}, "neither LAYER.EXPERT"),
    ],
)
def test_experts_there_are_not_are_refused(moe_bed: MoeBed, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(moe_bed, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 2}, "count=2 needs scope same_layer or cross_layer"),
        ({"count": 0}, "count=0 must be above 0"),
        ({"alpha": -1.0}, r"alpha=-1\.0 must not be below 0"),
        ({"tokens": 0}, "tokens=0 must be above 0"),
        ({"scope": "all"}, "scope='all' must be one of single, same_layer, cross_layer"),
        ({"attribution": "mass"}, "attribution='mass' must be one of scores, hits"),
        ({"base": "gaa"}, "Unknown method 'gaa'"),
        ({"base": "task-vector"}, "base='task-vector' is not trained with a loss"),
        ({"base": "seuf"}, "base='seuf' is not trained with a loss"),
        ({"base": "fine-tune"}, "base='fine-tune' has no loss on the forget set"),
        ({"base": "npo", "settings": {"bta": 1}}, "settings of npo: bta: unknown key. Did you mean 'beta'"),
        ({"base": "npo", "settings": {"beta": "x"}}, "settings of npo: beta: 'x'"),
        ({"base": "npo", "settings": {"beta": -1.0}}, r"npo: beta=-1\.0 must be above 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SEUF(**settings)


def test_an_empty_forget_set_is_refused(moe_bed: MoeBed) -> None:
    with pytest.raises(InputError, match="forget set is empty"):
        unlearn(SEUF(), job_of(moe_bed, forget=[]))


def test_a_base_method_without_its_retain_records_is_refused(moe_bed: MoeBed) -> None:
    with pytest.raises(InputError, match="base='grad-diff' needs retain records and there are none"):
        unlearn(SEUF(), job_of(moe_bed, retain=[]))
    assert unlearn(SEUF(base="ga"), job_of(moe_bed, retain=[]))
