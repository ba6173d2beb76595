"""RMU and Adaptive RMU: control vectors, steering, what is trained, and masking."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from toys import step_of

from expunge.engine.loop import Loop
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.compat import rmu_unmasked_wmdp
from expunge.language.data import Record
from expunge.language.encode import Batch
from expunge.language.forward import ForwardPass
from expunge.language.methods._steering import Steering, control_vectors, default_layer, row_means
from expunge.language.methods.adaptive_rmu import AdaptiveRMU, adaptive_target
from expunge.language.methods.rmu import RMU, rmu
from expunge.language.subject import Subject, add_lora
from expunge.language.unlearn import UnlearnJob, make_streams, unlearn
from tiny_bed import Bed


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- control vectors ----------------------------------------------------------------------------------


def test_control_vectors_are_fixed_positive_unit_vectors() -> None:
    vectors = control_vectors(3, 4096, seed=5)
    assert vectors.shape == (3, 4096)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-6)
    assert torch.equal(vectors, control_vectors(3, 4096, seed=5))
    assert not torch.equal(vectors, control_vectors(3, 4096, seed=6))
    assert float(vectors.min()) >= 0


def test_uniform_control_vectors_are_nearly_the_same() -> None:
    """v uniform on [0, 1): E[v w] / E[v^2] = (1/4) / (1/3) = 3/4 for independent v and w."""
    vectors = control_vectors(4, 4096, seed=0)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    for i, j in pairs:
        assert float(vectors[i] @ vectors[j]) == pytest.approx(0.75, abs=0.02)


def test_gaussian_control_vectors_are_nearly_orthogonal() -> None:
    """Cosines have mean 0 and standard deviation 1 / sqrt(4096) = 0.016; half of the entries are negative."""
    vectors = control_vectors(4, 4096, seed=0, kind="gaussian")
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(4), rtol=0, atol=1e-6)
    for i in range(4):
        assert 0.4 < float((vectors[i] < 0).float().mean()) < 0.6
        for j in range(i):
            assert abs(float(vectors[i] @ vectors[j])) < 0.07


# -- the losses ---------------------------------------------------------------------------------------


def test_forget_gradient_at_the_states() -> None:
    """L_f = mean (h - c u)^2 over S positions and d, so dL/dh = 2 (h - c u) / (S d)."""
    states, target = normal(6, 5).requires_grad_(), 6.5 * control_vectors(1, 5, 0)[0].double()
    (grad,) = torch.autograd.grad(rmu(states, target).mean(), states)
    torch.testing.assert_close(grad, (2 * (states - target) / 30).detach(), rtol=0, atol=1e-15)


def test_without_a_retain_term_activations_reach_the_control_vector() -> None:
    """A linear block with as many inputs as positions can put every activation onto c u."""
    inputs, target = normal(8, 12, seed=1), 6.5 * control_vectors(1, 16, 0)[0].double()
    weight = (0.1 * normal(12, 16, seed=2)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        rmu(inputs @ weight, target).mean().backward()
        optimizer.step()
    mean = (inputs @ weight).detach().mean(0)
    assert float(cosine_similarity(mean, target, dim=0)) > 0.99
    assert float(mean.norm()) == pytest.approx(6.5, rel=0.05)


def test_row_means_by_hand() -> None:
    values, rows = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1])
    assert row_means(values, rows, 2).tolist() == [2.0, 10.0]


def test_adaptive_target_follows_the_reference_norm() -> None:
    """Norms 5 and 13 along a unit vector, twice as long: 10 u and 26 u; scaling h scales the target."""
    reference = torch.tensor([[3.0, 4.0], [-5.0, 12.0]], dtype=torch.float64)
    control = torch.tensor([0.6, 0.8], dtype=torch.float64)
    target = adaptive_target(reference, control, 2.0)
    torch.testing.assert_close(target, torch.tensor([[6.0, 8.0], [15.6, 20.8]], dtype=torch.float64))
    torch.testing.assert_close(adaptive_target(7 * reference, control, 2.0), 7 * target)


# -- on a model ---------------------------------------------------------------------------------------


class FrozenStates:
    """Reference signals of the same model and rows."""

    def __init__(self, view: ForwardPass) -> None:
        self.view = view

    def signal(self, name: str) -> Tensor:
        return self.view.signal(name).detach()


def view_of(subject: Subject, lengths: list[int], pad: int = 0, order: list[int] | None = None) -> ForwardPass:
    """Rows of fixed random tokens of the given lengths, with `pad` columns more than needed."""
    width = max(lengths) + pad
    text, padding = (
        torch.randint(3, 200, (len(lengths), size), generator=torch.Generator().manual_seed(size))
        for size in (max(lengths), pad)
    )
    ids = torch.cat([text, padding], 1)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    rows = torch.tensor(order or range(len(lengths)))
    batch = Batch(ids[rows], mask[rows], mask[rows] & (torch.arange(width) > 0))
    totals = (len(lengths), int(batch.labelled.sum()))
    return ForwardPass(subject.model, batch, totals, FrozenStates(ForwardPass(subject.model, batch, totals)))


@pytest.mark.parametrize("method", [RMU(), AdaptiveRMU(), AdaptiveRMU(norm="first-batch")])
def test_retain_loss_is_exactly_zero_before_the_first_update(method: Steering, bed: Bed) -> None:
    subject = bed.fresh()
    names = set(method.trainable(subject.model))
    loss = method.retain_loss(step_of(retain=view_of(subject, [4, 6])))
    assert loss.item() == 0
    loss.backward()
    for name, p in subject.model.named_parameters():
        assert p.grad is None or not p.grad.any(), name
    assert names


@pytest.mark.parametrize("method", [RMU(), AdaptiveRMU(), AdaptiveRMU(norm="first-batch"), RMU(skip_first=True)])
def test_padding_and_row_order_change_nothing(method: Steering, bed: Bed) -> None:
    losses = []
    for pad, order in ((0, [0, 1]), (5, [0, 1]), (0, [1, 0])):
        step = step_of(forget=view_of(bed.target, [4, 6], pad, order))
        step.state = method.begin(step)
        losses.append(method.forget_loss(step).item())
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-6)


def test_skipping_the_first_token_leaves_it_out(bed: Bed) -> None:
    """By hand from the block's outputs: means over positions 1 and later of each row, then over rows."""
    method = RMU(skip_first=True)
    view = view_of(bed.target, [4, 6])
    step = step_of(forget=view)
    step.state = method.begin(step)
    per_position = rmu(view.hidden(0), step.state["targets"][0])
    expected = (per_position[1:4].mean() + per_position[5:10].mean()) / 2
    torch.testing.assert_close(method.forget_loss(step), expected)


def test_control_has_the_norm_that_is_asked_for(bed: Bed) -> None:
    step = step_of(forget=view_of(bed.target, [4, 6]), seed=3)
    (target,) = RMU(steering=6.5).begin(step)["targets"]
    assert target.norm().item() == pytest.approx(6.5, abs=1e-5)
    assert torch.equal(target, 6.5 * control_vectors(1, 64, 3)[0])


def test_forget_gradient_at_the_hook(bed: Bed) -> None:
    """dL_f/dh = 2 (h - c u) / (B T d) at the block's output, for B rows of T positions each, in float64."""
    subject = bed.fresh().with_model(bed.fresh().model.double())
    view = view_of(subject, [5, 5])
    step = step_of(forget=view)
    step.state = RMU().begin(step)
    assert step.state["targets"].dtype == torch.float64
    states = view.hidden(0)
    (grad,) = torch.autograd.grad(RMU().forget_loss(step), states)
    expected = 2 * (states - step.state["targets"][0]) / (2 * 5 * 64)
    torch.testing.assert_close(grad, expected.detach(), rtol=0, atol=1e-15)


def test_the_published_form_depends_on_padding_and_this_one_does_not(bed: Bed) -> None:
    target = RMU().begin(step_of(forget=view_of(bed.target, [4, 6])))["targets"]
    published, ours = [], []
    for pad in (0, 5):
        view = view_of(bed.target, [4, 6], pad)
        step = step_of({"targets": target}, forget=view)
        ours.append(RMU().forget_loss(step).item())
        published.append(rmu_unmasked_wmdp(view._blocks[0], target[0]).item())
    assert ours[0] == pytest.approx(ours[1], rel=1e-6)
    assert abs(published[0] - published[1]) > 1e-3 * published[0]


def test_the_norm_of_the_steered_activations_is_noted(bed: Bed) -> None:
    """Mean over positions of each row, then over rows; each micro-batch notes its share of the step."""
    view = view_of(bed.target, [4, 6])
    step = step_of(forget=view)
    step.state = RMU().begin(step)
    RMU().forget_loss(step)
    norms = view.hidden(0).norm(dim=-1)
    assert step.notes["norm"].item() == pytest.approx(((norms[:4].mean() + norms[4:].mean()) / 2).item(), rel=1e-6)


# -- several topics -----------------------------------------------------------------------------------

TOPICS = ("bio", "cyber")


@pytest.mark.parametrize("vectors", ["uniform", "gaussian"])
def test_each_topic_has_its_own_vector_and_length(vectors: Any, bed: Bed) -> None:
    method = RMU(topics=TOPICS, steering=(6.5, 20.0), vectors=vectors)
    targets = method.begin(step_of(forget=view_of(bed.target, [4, 6]), seed=3))["targets"]
    lengths = torch.tensor([[6.5], [20.0]])
    torch.testing.assert_close(targets, lengths * control_vectors(2, 64, 3, vectors))
    torch.testing.assert_close(targets.norm(dim=-1), lengths[:, 0])


@pytest.mark.parametrize("index", [0, 1, 2, 5])
def test_a_step_works_on_its_topic_alone(index: int, bed: Bed) -> None:
    """Step i has the vector, the c and the alpha of topic i mod K."""
    method, k = RMU(topics=TOPICS, steering=(2.0, 9.0), alpha=(10.0, 300.0)), index % 2
    step = step_of(forget=view_of(bed.target, [4, 6]), retain=view_of(bed.target, [5, 3]))
    step.index, step.state = index, method.begin(step)
    alone = replace(step, state={"targets": step.state["targets"][k : k + 1]})
    torch.testing.assert_close(method.forget_loss(step), RMU().forget_loss(alone))
    step.retain._reference = FrozenStates(view_of(bed.gold, [5, 3]))
    losses = [m.retain_loss(step) for m in (method, RMU(alpha=(10.0, 300.0)[k]))]
    assert losses[0].item() > 0
    torch.testing.assert_close(*losses)


def topical(bed: Bed) -> list[Record]:
    """The forget people in two halves, one topic each."""
    half = len(bed.forget) // 2
    return [replace(r, topic=TOPICS[i >= half]) for i, r in enumerate(bed.forget)]


@pytest.mark.parametrize("make", [RMU, AdaptiveRMU, lambda **f: AdaptiveRMU(norm="first-batch", **f)])
def test_training_takes_the_topics_in_turn(make: Any, bed: Bed) -> None:
    """Steps draw only rows of their topic, and both topics are steered away."""
    method = make(topics=TOPICS, layer=1, alpha=0.0)
    training = Training(steps=8, batch_size=8, lr=1e-2)
    subject, records = bed.fresh(), topical(bed)
    streams = make_streams(method, subject, records, bed.retain, training, 0)
    for i, rows in enumerate(streams["forget"].order.tolist()):
        assert {records[r].topic for r in rows} == {TOPICS[i % 2]}
    log = Loop(subject.model, method, streams, training, seed=0).run()
    for k in (0, 1):
        losses = [s["forget"] for s in log.steps[k::2]]
        assert losses[-1] < losses[0]
        assert all(s["norm"] > 0 for s in log.steps)


def test_first_batch_mode_stores_a_constant_for_each_topic_and_never_updates_it(bed: Bed) -> None:
    """Topic 0's is the mean norm before training, topic 1's that of its first batch, at any micro-batch."""
    seen: list[list[Tensor]] = []

    class Watched(AdaptiveRMU):
        def forget_loss(self, step: Any) -> Tensor:
            if torch.is_grad_enabled():
                seen[-1].append(step.state["norms"].clone())
            return super().forget_loss(step)

    logs = []
    for micro in (None, 3):
        seen.append([])
        training = Training(steps=6, batch_size=8, lr=1e-2, micro_batch=micro)
        subject, method = bed.fresh(), Watched(norm="first-batch", topics=TOPICS)
        streams = make_streams(method, subject, topical(bed), bed.retain, training, 0)
        logs.append(Loop(subject.model, method, streams, training, seed=0).run().steps)
    first, second = logs[0][0]["norm"], logs[0][1]["norm"]
    assert first != second
    norms = seen[0]
    assert norms[0].tolist() == pytest.approx([first, first], rel=1e-5)
    for later in norms[2:]:
        assert later.tolist() == pytest.approx([first, second], rel=1e-5)
        assert torch.equal(later, norms[2])
    assert seen[1][-1].tolist() == pytest.approx(norms[-1].tolist(), rel=1e-5)


def test_first_batch_mode_without_topics_stores_one_constant(bed: Bed) -> None:
    """Target = scale * mean norm of the first batch * u, whatever the step."""
    method = AdaptiveRMU(norm="first-batch", scale=2.0)
    step = step_of(forget=view_of(bed.target, [4, 4]))
    step.state = method.begin(step)
    norm = step.forget.hidden(0).norm(dim=-1).mean()
    target = 2 * norm * control_vectors(1, 64, 0)[0]
    expected = rmu(step.forget.hidden(0), target).mean()
    for index in (0, 7):
        step.index = index
        torch.testing.assert_close(method.forget_loss(step), expected)
        assert torch.equal(method.update(step.state, {"norm": 99.0}, index)["norms"], step.state["norms"])


@pytest.mark.parametrize("hold", ["nll", "kl"])
def test_other_retain_terms_are_those_of_the_whole_model(hold: Any, bed: Bed) -> None:
    """KL is 0 at the reference; NLL is the view's."""
    view = view_of(bed.target, [5, 3])
    loss = RMU(retain=hold, alpha=2.0).retain_loss(step_of(retain=view)).item()
    assert loss == pytest.approx(2 * view.nll.item() if hold == "nll" else 0.0, abs=1e-5)


# -- what is trained ----------------------------------------------------------------------------------


def test_quarter_of_the_depth_is_the_published_layer() -> None:
    assert [default_layer(depth) for depth in (1, 2, 4, 12, 32, 60)] == [0, 0, 0, 2, 7, 14]


def test_one_weight_per_block_by_name(bed: Bed) -> None:
    model = bed.target.model
    weight = "model.layers.{}.mlp.down_proj.weight".format
    assert RMU().trainable(model) == [weight(0)]
    assert RMU(layer=1).trainable(model) == [weight(0), weight(1)]
    assert RMU(layer=1, layer_ids=(1,)).trainable(model) == [weight(1)]
    two = RMU(parameters=("mlp.up_proj.weight", "self_attn.o_proj.weight"))
    assert two.trainable(model) == ["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.weight"]


def test_only_the_selected_weights_change_and_blocks_above_stay(bed: Bed) -> None:
    training = Training(steps=4, batch_size=8, lr=1e-2)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training)
    after = unlearn(RMU(layer=1, layer_ids=(0,)), job).model.state_dict()
    before = bed.target.model.state_dict()
    assert [n for n in before if not torch.equal(before[n], after[n])] == ["model.layers.0.mlp.down_proj.weight"]


def test_adapters_stand_in_for_the_weight_they_move(bed: Bed) -> None:
    model = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0).model
    names = RMU().trainable(model)
    assert len(names) == 2
    assert all("layers.0.mlp.down_proj.lora_" in name for name in names)
    elsewhere = add_lora(bed.fresh(), 2, 4.0, ["q_proj"], 0.0, seed=0).model
    with pytest.raises(InputError, match="must match one adapted weight of each block; in block 0 it matches 0"):
        RMU().trainable(elsewhere)


def test_alpha_zero_needs_no_retain_set(bed: Bed) -> None:
    assert RMU(alpha=0).streams == ("forget",)
    unlearn(RMU(alpha=0), UnlearnJob(bed.fresh(), bed.forget, [], Training(steps=1, batch_size=4)))
    with pytest.raises(InputError, match="RMU needs retain records"):
        unlearn(RMU(), UnlearnJob(bed.fresh(), bed.forget, [], Training(steps=1, batch_size=4)))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (RMU(layer=7), "layer=7: the model has layers 0 to 1"),
        (RMU(layer=-1), "layer=-1: the model has layers 0 to 1"),
        (AdaptiveRMU(layer=2), "layer=2: the model has layers 0 to 1"),
        (RMU(layer_ids=(4,)), "layer=4: the model has layers 0 to 1"),
        (RMU(layer=0, layer_ids=(1,)), "block 1 is above layer=0"),
        (RMU(parameters=("mlp.nothing.weight",)), "matches 0"),
        (RMU(parameters=("layernorm.weight",)), "matches 0"),
        (RMU(parameters=("weight",)), "must match one weight of each block; in block 0 it matches 9"),
    ],
)
def test_wrong_layers_and_parameters(method: Steering, message: str, bed: Bed) -> None:
    with pytest.raises(InputError, match=message):
        method.trainable(bed.target.model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMU(steering=0), "rmu: steering=0 must be above 0"),
        (lambda: RMU(alpha=-1), "rmu: alpha=-1 must not be below 0"),
        (lambda: AdaptiveRMU(scale=-math.inf), "adaptive-rmu: scale=-inf must be above 0"),
        (lambda: RMU(parameters=()), "rmu: parameters is empty"),
        (lambda: RMU(forget_weight=-1), "rmu: forget_weight=-1 must not be below 0"),
        (lambda: RMU(retain="all"), "rmu: retain='all' must be one of states, nll, kl"),  # type: ignore[arg-type]
        (lambda: RMU(vectors="sparse"), "rmu: vectors='sparse' must be one of uniform, gaussian"),  # type: ignore[arg-type]
        (lambda: AdaptiveRMU(norm="row"), "norm='row' must be 'token' or 'first-batch'"),  # type: ignore[arg-type]
        (lambda: RMU(topics=TOPICS, alpha=(1.0,)), "alpha=.1.0. has 1 values and topics=.* names 2"),
        (lambda: RMU(topics=TOPICS, steering=(1.0, 2.0, 3.0)), "steering=.* has 3 values and topics=.* names 2"),
        (lambda: AdaptiveRMU(scale=(1.0, 2.0)), "adaptive-rmu: scale=.* has 2 values and topics=.. names 0"),
        (lambda: RMU(topics=TOPICS, alpha=(1.0, -1.0)), "rmu: alpha=.* must not be below 0"),
        (lambda: RMU(topics=TOPICS, steering=(1.0, 0.0)), "rmu: steering=.* must be above 0"),
        (lambda: RMU(topics=("bio", "bio")), "a topic stands in the list twice"),
    ],
)
def test_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
