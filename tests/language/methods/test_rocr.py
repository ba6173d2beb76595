"""ROCR: the closed form against the paper's system, and the edit on models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Batch, Template, encode
from expunge.language.forward import ForwardPass
from expunge.language.methods._rocr_concepts import Column, Mention, columns, concepts, mention, neutral_names
from expunge.language.methods._rocr_read import read, second_moments
from expunge.language.methods._rocr_reject import Search, reject_target
from expunge.language.methods.rocr import ROCR, default_layers
from expunge.language.mlp import down_projection
from expunge.language.redirect import Projector, null_space, redirection
from expunge.language.score import score_answers
from expunge.language.subject import Subject, add_lora
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed
from tiny_models import tiny

D, WIDTH = 5, 8
TRAINING = Training(steps=1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projector(kept: int = 3) -> Projector:
    """Protects a random subspace of some dimensions."""
    return Projector(torch.linalg.qr(draw(WIDTH, kept, seed=9))[0])


def everything() -> Projector:
    """P = I."""
    return Projector(torch.zeros(WIDTH, 0, dtype=torch.float64))


def papers_solution(K: Tensor, R: Tensor, P: Tensor, lambda2: float, M: Tensor) -> Tensor:
    """X^T of ( P (K K^T + M) + lambda2 I ) X = P K R^T, solved as it stands."""
    system = P @ (K @ K.T + M) + lambda2 * torch.eye(WIDTH, dtype=torch.float64)
    return torch.linalg.solve(system, P @ K @ R.T).T


# -- the closed form ----------------------------------------------------------------------------------


def test_one_concept_is_rank_one_along_the_projected_key() -> None:
    """X^T = R (P k)^T / (lambda2 + k^T P k)."""
    k, r, P = draw(WIDTH, 1), draw(D, 1, seed=1), projector()
    edit = redirection(k, r, P, 0.7)
    Pk = P.matrix @ k
    torch.testing.assert_close(edit, r @ Pk.T / (0.7 + k.T @ Pk), rtol=0, atol=1e-12)
    none = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(edit, papers_solution(k, r, P.matrix, 0.7, none), rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(edit) == 1
    assert torch.allclose(edit @ (torch.eye(WIDTH, dtype=torch.float64) - P.matrix), torch.zeros(D, WIDTH).double())
    share = float(k.T @ Pk) / (0.7 + float(k.T @ Pk))
    torch.testing.assert_close(edit @ k, share * r)


@pytest.mark.parametrize("earlier", [0, 2])
def test_several_concepts_solve_the_papers_system(earlier: int) -> None:
    """The system of the size of the keys gives the solution of the one of the size of the layer."""
    K, R, P, K_e = draw(WIDTH, 3), draw(D, 3, seed=1), projector(), draw(WIDTH, earlier, seed=2)
    edit = redirection(K, R, P, 0.3, K_e if earlier else None)
    torch.testing.assert_close(edit, papers_solution(K, R, P.matrix, 0.3, K_e @ K_e.T), rtol=0, atol=1e-12)


def test_the_edit_minimises_what_it_says() -> None:
    """The gradient of ||X^T P K - R||^2 + ||X^T P K_e||^2 + lambda2 ||X||^2 is 0 at it."""
    K, R, P, K_e = draw(WIDTH, 2), draw(D, 2, seed=1), projector(), draw(WIDTH, 2, seed=2)
    Xt = redirection(K, R, P, 0.3, K_e).requires_grad_()
    loss = (Xt @ P(K) - R).square().sum() + (Xt @ P(K_e)).square().sum() + 0.3 * Xt.square().sum()
    (gradient,) = torch.autograd.grad(loss, [Xt])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_limits_of_the_penalty() -> None:
    """lambda2 -> 0 with P = I: the output at k is old + R; lambda2 -> inf: nothing changes."""
    k, r, W = draw(WIDTH, 1), draw(D, 1, seed=1), draw(D, WIDTH, seed=2)
    edited = W + redirection(k, r, everything(), 0.0)
    torch.testing.assert_close(edited @ k, W @ k + r)
    assert float(redirection(k, r, everything(), 1e12).abs().max()) < 1e-10


def test_protected_inputs_keep_their_output() -> None:
    """P x = 0: W_new x = W x to rounding."""
    P = projector()
    x = P.protected @ draw(3, 1, seed=5)
    edit = redirection(draw(WIDTH, 2), draw(D, 2, seed=1), P, 0.1, draw(WIDTH, 1, seed=2))
    torch.testing.assert_close(edit @ x, torch.zeros(D, 1, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_heavy_earlier_key_is_left_alone() -> None:
    """M = c k1 k1^T: the change of the output at k1 falls as 1 / c; another key still moves."""
    k1, k2, r = draw(WIDTH, 1), draw(WIDTH, 1, seed=3), draw(D, 1, seed=1)
    sizes = [
        float((redirection(k2, r, everything(), 0.1, c**0.5 * k1) @ k1).norm()) for c in (1.0, 1e3, 1e6)
    ]  # fmt: skip
    assert sizes[1] < 1e-2 * float(r.norm())
    assert sizes[2] == pytest.approx(sizes[1] / 1e3, rel=0.1)
    moved = redirection(k2, r, everything(), 0.1, 1e3 * k1) @ k2
    assert float(torch.cosine_similarity(moved, r, dim=0)) > 0.999


def test_the_null_space_of_a_second_moment() -> None:
    """Keys in three of eight directions protect these and leave five."""
    Q = torch.linalg.qr(draw(WIDTH, 3, seed=4))[0]
    C0 = Q @ torch.diag(torch.tensor([4.0, 1.0, 0.05], dtype=torch.float64)) @ Q.T
    P = null_space(C0, 0.02)
    assert P.free == 5 / 8
    torch.testing.assert_close(P.matrix, torch.eye(WIDTH, dtype=torch.float64) - Q @ Q.T)
    assert null_space(C0, 0.06).free == 6 / 8
    assert null_space(100 * C0, 0.1).free == null_space(100 * C0, 4.9).free == 5 / 8
    for scale in (1e-3, 1e3):  # relative: whatever the scale of the activations; the mean eigenvalue is 0.63
        assert null_space(scale * C0, 0.1, relative=True).free == 6 / 8


def test_an_empty_null_space_is_refused() -> None:
    with pytest.raises(InputError, match=r"threshold=0.02 leaves no direction to edit in layer 4 .*; raise"):
        null_space(torch.eye(4).double(), 0.02, where="layer 4")


# -- names and where they are -------------------------------------------------------------------------


def test_clusters_name_the_concepts_where_questions_hold_them() -> None:
    records = [Record("Who is Ann Lee?", "a", "Ann Lee"), Record("Her job?", "b", "Ann Lee"), Record("Bo?", "c", "Bo")]
    assert concepts(records, ()) == [("Ann Lee",), ("Bo",)]
    assert concepts(records, ("Ann Lee | Ann|Ann Lee",)) == [("Ann Lee", "Ann")]


def test_names_that_are_not_there_are_refused() -> None:
    records = [Record("Who is Ann?", "a", "Ann"), Record("Who wrote it?", "b", "author 7")]
    with pytest.raises(InputError, match=r"no question of cluster 2 holds the cluster's name.*set subjects") as error:
        concepts(records, ())
    assert "author 7" not in str(error.value)  # forget content stays out of messages
    with pytest.raises(InputError, match=r"subjects='Ann \| Kim': 'Kim' stands in no forget record"):
        concepts(records, ("Ann | Kim",))
    with pytest.raises(InputError, match="stands in no forget record"):
        concepts(records, (" | ",))
    with pytest.raises(InputError, match="forget record 1 has no cluster"):
        concepts([Record("Who is Ann?", "a")], ())


def test_the_last_token_of_a_name_is_found_by_its_characters(bed: Bed) -> None:
    """Also where it stands twice (the later one holds all that came before) and glued to what follows."""
    name = bed.forget[0].cluster
    for text in (f"Who is {name}?", f"{name}, who is {name}'s friend", f"{name}"):
        found = mention(bed.target, text, name, special=True)
        ids = torch.tensor(found.ids)
        decode = bed.target.tokenizer.decode
        assert decode(ids[list(found.name)]).strip() == name
        assert found.position == found.name[-1]
        assert decode(ids[: found.position + 1], skip_special_tokens=True).endswith(name)
        assert found.before(1).position == found.name[-2]
        assert found.before(99).position == found.name[0]
    with pytest.raises(InputError, match="subject 'Nobody' is not in the prompt"):
        mention(bed.target, "Who is it?", "Nobody", special=True)


CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'].strip() }}</s>{% endfor %}<assistant>"
SHOUTING = CHAT.replace(".strip()", ".upper()")


def chatting(bed: Bed, chat: str) -> Subject:
    """The bed's target behind a chat template."""
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = chat
    return Subject(bed.target.model, tokenizer, Template(kind="chat"), "chat", 128)


def test_a_chat_template_renders_the_contexts(bed: Bed) -> None:
    subject, name = chatting(bed, CHAT), bed.forget[0].cluster
    (column,) = columns(subject, name, bed.forget, ["Arlen Eskvale"])
    assert column.contexts[0].text == f"<user>{name}</s><assistant>"
    assert len(column.contexts) == len(column.neutral) == 6
    assert subject.tokenizer.decode(column.contexts[3].ids[: column.contexts[3].position + 1]).endswith(name)
    assert column.bare.text == f"{name}."
    with pytest.raises(InputError, match="is not in the prompt that the template made of it"):
        columns(chatting(bed, SHOUTING), name, bed.forget, ["Arlen Eskvale"])


def test_contexts_can_be_the_questions_one_column_each(bed: Bed) -> None:
    name = bed.forget[0].cluster
    asked = {r.question for r in bed.forget if r.cluster == name}
    each = columns(bed.target, name, bed.forget, ["X Y", "Z W"], asked=True, average=False, all_tokens=True)
    tokens = len({c.back for c in each})
    assert tokens > 1
    assert len(each) == tokens * len(asked)
    assert all(len(c.contexts) == 1 and len(c.neutral) == 2 for c in each)
    assert {c.contexts[0].text for c in each} == {
        bed.target.template.prompt(Record(q, ""), bed.target.tokenizer) for q in asked
    }
    first = columns(bed.target, name, bed.forget, ["X Y"], every=False)[0]
    assert len(first.neutral) == 1


def test_neutral_names_are_drawn_by_the_seed() -> None:
    assert neutral_names(4, 1) == neutral_names(4, 1) != neutral_names(4, 2)
    assert len(set(neutral_names(100, 0))) == 100


# -- reading ------------------------------------------------------------------------------------------


def some_mentions() -> list[Mention]:
    return [Mention("", [1, 5, 6, 7, 8], (2, 3)), Mention("", [1, 9, 4], (1,)), Mention("", [1, 3, 3, 6], (3,))]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_keys_and_outputs_are_those_of_each_text_alone(family: str) -> None:
    """W k + b is what the block's MLP adds, read at the right row and position whatever the padding."""
    model = family_model(family)
    modules = {layer: down_projection(model, layer) for layer in (0, 1)}
    seen = read(model, modules, some_mentions())
    for i, m in enumerate(some_mentions()):
        ids = torch.tensor([m.ids])
        view = ForwardPass(model, Batch(ids, ids > 0, ids > 0), (1, 1))
        with torch.no_grad():
            torch.testing.assert_close(seen.outputs[i], view.hidden(1)[m.position])
        (alone,) = read(model, modules, [m]).keys[0]
        torch.testing.assert_close(seen.keys[0][i], alone)
    assert seen.keys[1].shape == (3, modules[1].width)


def test_second_moments_are_means_over_real_tokens(bed: Bed) -> None:
    modules = {0: down_projection(bed.target.model, 0)}
    both = second_moments(bed.target, modules, bed.retain[:2])[0]
    single = [second_moments(bed.target, modules, [r])[0] for r in bed.retain[:2]]
    n = encode(bed.retain[:2], bed.target.tokenizer, bed.target.template).lengths.float()
    torch.testing.assert_close(both, (n[0] * single[0] + n[1] * single[1]) / n.sum())


# -- the edit on models -------------------------------------------------------------------------------


def family_model(family: str) -> Any:
    if family != "phi":
        return tiny(family)
    from transformers import AutoModelForCausalLM, PhiConfig

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        PhiConfig(
            vocab_size=37,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_on_every_family_the_block_puts_out_what_was_asked_for(family: str) -> None:
    """The last block's output at the mention is old + R to rounding, for the ridge going to 0."""
    model = family_model(family).double()
    down = down_projection(model, 1)
    (m,) = some_mentions()[:1]
    before = read(model, {1: down}, [m])
    R = draw(16, 1)
    P = Projector(torch.zeros(down.width, 0, dtype=torch.float64))
    down.add_(redirection(before.keys[1].T, R, P, 1e-12))
    torch.testing.assert_close(read(model, {1: down}, [m]).outputs[0], before.outputs[0] + R[:, 0])


def edited(
    bed: Bed, method: ROCR, forget: Sequence[Record] | None = None, **changes: Any
) -> tuple[Subject, UnlearnJob]:
    records = list(bed.forget if forget is None else forget)
    job = UnlearnJob(bed.fresh(), records, bed.retain, TRAINING, **changes)
    return unlearn(method, job), job


def state_of(bed: Bed, subject: Subject, name: str, layer: int = 0) -> Tensor:
    """Mean output of a block at a name's last token, over the openers."""
    (column,) = columns(subject, name, bed.forget, ["Arlen Eskvale"])
    modules = {layer: down_projection(subject.model, layer)}
    return read(subject.model, modules, column.contexts).outputs.mean(0)


def neutral_state(bed: Bed, name: str, seed: int = 0) -> Tensor:
    """z* of the default mode, on the target."""
    (column,) = columns(bed.target, name, bed.forget, neutral_names(4, seed))
    return read(bed.target.model, {0: down_projection(bed.target.model, 0)}, column.neutral).outputs.mean(0)


def people(bed: Bed) -> list[str]:
    return list(dict.fromkeys(r.cluster for r in bed.forget))


def distances(bed: Bed, subject: Subject, names: Sequence[str]) -> list[float]:
    """How far from z* each person's state is, over how far it was."""
    return [
        float((state_of(bed, subject, n) - neutral_state(bed, n)).norm())
        / float((state_of(bed, bed.target, n) - neutral_state(bed, n)).norm())
        for n in names
    ]


def test_the_states_of_the_names_move_to_the_harmless_ones(bed: Bed) -> None:
    """One layer: h_new - z* = (1 - a) (h - z*), a = k^T P k / (lambda2 + k^T P k), so closer for every name."""
    name = people(bed)[0]
    own = [r for r in bed.forget if r.cluster == name]
    subject, job = edited(bed, ROCR(layers=(0,), lambda2=0.01), own)
    (distance,) = distances(bed, subject, [name])
    assert distance < 0.05
    (terms,) = job.logs[-1].steps
    assert terms["cosine_after"] > terms["cosine_before"]
    assert terms["cosine_after"] > 0.99
    assert 0 < terms["free.0"] < 1
    log = job.logs[-1]
    assert log.resumed_at is None


def test_text_in_the_kept_space_keeps_its_logits(bed: Bed) -> None:
    """Keys of retain text lie where the projector protects them: tighter protection, smaller change.

    With the threshold that leaves eight free directions of 128, log-likelihoods of retain answers stay within 0.01.
    """
    name = people(bed)[0]
    own = [r for r in bed.forget if r.cluster == name]
    modules = {0: down_projection(bed.target.model, 0)}
    values = torch.linalg.eigvalsh(second_moments(bed.target, modules, bed.retain)[0])
    changes = []
    for count in (8, 64, 127):
        limit = float(values[count - 1] + values[count]) / 2
        subject, job = edited(bed, ROCR(layers=(0,), lambda2=0.01, threshold=limit), own)
        assert job.logs[-1].steps[0]["free.0"] == pytest.approx(count / 128)
        records = bed.records["retain"]
        scores = [score_answers(s, records, [[r.answer] for r in records]).logprob for s in (subject, bed.target)]
        changes.append(float(abs(scores[0] - scores[1]).mean()))
    assert changes[0] < 0.01
    assert changes[0] < changes[1] < changes[2]


def test_later_people_do_not_undo_earlier_ones(bed: Bed) -> None:
    """Sequential edits hold everybody's redirection (without K_e a third of the distance or more comes back)."""
    names = people(bed)
    subject, job = edited(bed, ROCR(layers=(0,), lambda2=0.01))
    assert len(job.logs[-1].steps) == len(names)
    assert max(distances(bed, subject, names)) < 0.25
    joint, job = edited(bed, ROCR(layers=(0,), lambda2=0.01, joint=True))
    assert len(job.logs[-1].steps) == 1
    assert max(distances(bed, joint, names)) < 0.25


def test_aliases_are_redirected_together(bed: Bed) -> None:
    """A second name of the same concept gets a column of its own: both states move."""
    one, two, rest = *people(bed)[:2], people(bed)[2]
    subject, _ = edited(bed, ROCR(subjects=(f"{one} | {two}",), layers=(0,), lambda2=0.01))
    assert max(distances(bed, subject, [one, two])) < 0.1
    assert distances(bed, subject, [rest])[0] > 0.5


def test_several_layers_share_the_residual(bed: Bed) -> None:
    """Both layers move, and the last block ends where it should."""
    subject, job = edited(bed, ROCR(layers=(0, 1), lambda2=0.01))
    for layer in (0, 1):
        weights = [down_projection(s.model, layer).weight for s in (subject, bed.target)]
        assert not torch.equal(*weights)
    assert min(s["cosine_after"] for s in job.logs[-1].steps) > 0.95


def test_one_key_for_each_question_hides_more_than_their_mean(bed: Bed) -> None:
    records = bed.records["forget"]
    found = []
    for average in (True, False):
        subject, _ = edited(bed, ROCR(contexts="questions", average=average, layers=(0,), lambda2=0.1))
        found.append(float(score_answers(subject, records, [[r.answer] for r in records]).nll_sum.mean()))
    assert found[1] > found[0] + 0.5


def test_bare_and_consistent_reading_differ_by_the_template(bed: Bed) -> None:
    """With the bare name the present state is the bare one: its distance to z*, not the contexts', is closed."""
    name = people(bed)[0]
    own = [r for r in bed.forget if r.cluster == name]
    subject, job = edited(bed, ROCR(layers=(0,), lambda2=0.01, consistent=False), own)
    assert job.logs[-1].steps[0]["cosine_after"] > job.logs[-1].steps[0]["cosine_before"]
    assert not torch.equal(*(
        down_projection(s.model, 0).weight for s in (subject, edited(bed, ROCR(layers=(0,), lambda2=0.01), own)[0])
    ))  # fmt: skip


def test_reject_makes_the_target_string_likely_and_stays_in_its_ball(bed: Bed) -> None:
    (column,) = columns(bed.target, people(bed)[0], bed.forget, ["Arlen Eskvale"])
    modules = {0: down_projection(bed.target.model, 0)}
    start = read(bed.target.model, modules, column.contexts[:1]).outputs[0]
    word = f" {bed.forget[0].answer}"
    weights = {n: p.clone() for n, p in bed.target.model.named_parameters()}
    search = Search(word, 25, 0.1, 0.75, 0.0625, 0.5)
    z = reject_target(bed.target, column, 0, start, search)
    assert 0 < float((z - start).norm()) <= 0.75 * float(start.norm()) * (1 + 1e-5)
    assert all(torch.equal(p, weights[n]) and p.grad is None for n, p in bed.target.model.named_parameters())
    still = reject_target(bed.target, column, 0, start, Search(word, 25, 0.1, 0.75, 0.0625, 0.5, stop=1e9))
    assert torch.equal(still, start)
    assert refusal_nll(bed, column, z, word) < refusal_nll(bed, column, start, word)


def refusal_nll(bed: Bed, column: Column, z: Tensor, word: str) -> float:
    """NLL of a word behind the first context when the block puts out z there."""
    text = column.contexts[0].text.rstrip(" ")
    m = mention(bed.target, text + word, column.name, special=True)
    head = len(bed.target.tokenizer(text)["input_ids"])
    hook = bed.target.model.model.layers[0].register_forward_hook(place(m.position, z))
    try:
        ids = torch.tensor([m.ids])
        labelled = torch.arange(ids.shape[1])[None] >= head
        with torch.no_grad():
            view = ForwardPass(bed.target.model, Batch(ids, ids >= 0, labelled), (1, 1))
            return float(-view.token_logprobs.mean())
    finally:
        hook.remove()


def place(position: int, z: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        moved = (output[0] if isinstance(output, tuple) else output).clone()
        moved[:, position] = z
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


def test_the_optimised_modes_run_as_edits(bed: Bed) -> None:
    """Noise goes to a random place of the length that reject found: another place for another seed."""
    name = people(bed)[0]
    own = [r for r in bed.forget if r.cluster == name]
    ends = []
    for mode, seed in (("reject", 0), ("noise", 0), ("noise", 1)):
        method = ROCR(mode=mode, layers=(0,), lambda2=0.01, steps=3)  # type: ignore[arg-type]
        subject, job = edited(bed, method, own, seed=seed)
        assert job.logs[-1].steps[0]["cosine_after"] > 0.95
        ends.append(down_projection(subject.model, 0).weight.detach())
    assert len({tuple(w.flatten()[:50].tolist()) for w in ends}) == 3


@pytest.mark.parametrize("mode", ["unrelated", "reject"])
def test_a_chat_model_in_half_precision_is_edited_too(bed: Bed, mode: Any) -> None:
    subject = chatting(bed, CHAT)
    subject.model = copy.deepcopy(subject.model).to(torch.bfloat16)
    before = down_projection(subject.model, 0).weight.detach().clone()
    job = UnlearnJob(subject, bed.forget, bed.retain, TRAINING)
    unlearn(ROCR(mode=mode, layers=(0,), lambda2=0.01, steps=3), job)
    assert down_projection(subject.model, 0).weight.dtype == torch.bfloat16
    assert not torch.equal(before, down_projection(subject.model, 0).weight)
    assert all(s["cosine_after"] > max(0.95, s["cosine_before"]) for s in job.logs[-1].steps)


def test_progress_counts_people(bed: Bed) -> None:
    seen: list[tuple[int, int]] = []
    edited(bed, ROCR(), observers=Observers(progress=lambda step, total, _: seen.append((step, total))))
    assert seen == [(i, 4) for i in range(1, 5)]


# -- refusals -----------------------------------------------------------------------------------------


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"layers=\[4, 6\] do not follow one another.*allow_gaps"):
        ROCR(layers=(4, 6))
    assert ROCR(layers=(4, 6), allow_gaps=True).layers == (4, 6)
    for layers in ((), (5, 4), (4, 4)):
        with pytest.raises(InputError, match="once each, from the first to the last"):
            ROCR(layers=layers)
    with pytest.raises(InputError, match="mode='forget'; one of unrelated, reject, noise"):
        ROCR(mode="forget")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="contexts='none'; one of openers, questions"):
        ROCR(contexts="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lambda2=0 must be above 0"):
        ROCR(lambda2=0)
    with pytest.raises(InputError, match="target=' ' is no text"):
        ROCR(mode="reject", target=" ")


def test_models_and_records_that_cannot_be_edited_are_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="layer=2: the model has layers 0 to 1"):
        edited(bed, ROCR(layers=(2,)))
    with pytest.raises(InputError, match="leaves no direction to edit in layer 0"):
        edited(bed, ROCR(threshold=1e-9))
    with pytest.raises(InputError, match="needs retain records, whose keys it protects"):
        unlearn(ROCR(), UnlearnJob(bed.fresh(), bed.forget, [], TRAINING))
    with pytest.raises(InputError, match="stands in no forget record"):
        edited(bed, ROCR(subjects=("Nobody Known",)))
    adapted = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0)
    with pytest.raises(InputError, match="the model carries adapters"):
        unlearn(ROCR(), UnlearnJob(adapted, bed.forget, bed.retain, TRAINING))


def test_a_mixture_of_experts_is_refused() -> None:
    from transformers import AutoModelForCausalLM, MixtralConfig

    model = AutoModelForCausalLM.from_config(
        MixtralConfig(
            vocab_size=37,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )
    with pytest.raises(InputError, match="mixture of experts"):
        ROCR().edited(model)


def test_default_layers_are_the_published_ones_of_32() -> None:
    assert default_layers(32) == (4, 5, 6)
    assert default_layers(2) == (0,)
