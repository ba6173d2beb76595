"""FLAT: its divergences against their definitions, the pulls on both answers, and what it does without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from toys import FreeView, both, free_view, gradient, random_logits, step_of

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.methods.flat import FLAT, PARTS, flat, mean_probability
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, make_streams, unlearn
from tiny_bed import Bed

LENGTHS, STARTS = [4, 6], [2, 1]
LN2 = math.log(2)

# f of each divergence D_f(P||Q) = E_Q[f(P/Q)], with f(1) = 0.
F: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "kl": lambda u: u * u.log(),
    "js": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "pearson": lambda u: (u - 1) ** 2,
    "tv": lambda u: (u - 1).abs() / 2,
    "jeffrey": lambda u: (u - 1) * u.log(),
    "reverse-kl": lambda u: -u.log(),
    "squared-hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "neyman": lambda u: (1 - u) ** 2 / u,
}


def number(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


def value(template: float, forget: float, divergence: str) -> float:
    return flat(number(template), number(forget), divergence).item()


@pytest.mark.parametrize(
    ("template", "forget", "expected"),
    [
        (0.0, 0.0, {"kl": math.exp(-1), "js": 0.0, "pearson": 0.0, "tv": 0.0}),
        (1.0, 0.0, {"kl": math.exp(-1) - 1, "js": math.log(1 + math.exp(-1)) - LN2, "pearson": -1.0, "tv": -0.38080}),
        (0.0, 1.0, {"kl": 1.0, "js": math.log(1 + math.e) - LN2, "pearson": 1.25, "tv": 0.38080}),
        (0.5, 0.5, {"kl": math.exp(-0.5) - 0.5, "js": 0.06186, "pearson": 0.0625, "tv": 0.0}),
    ],
)
def test_values_by_hand(template: float, forget: float, expected: dict[str, float]) -> None:
    for divergence, number_ in expected.items():
        assert value(template, forget, divergence) == pytest.approx(number_, abs=1e-5), divergence


@pytest.mark.parametrize("divergence", sorted(PARTS))
def test_the_second_part_is_the_conjugate_of_the_first(divergence: str) -> None:
    """f*(t) = sup_u (u t - f(u)), by search over a grid of u, at t = g*(v) for v in [0, 1].

    Jeffrey's is published as a series to the third order, whose first missing term is of the size of v^4/64.
    """
    u = torch.logspace(-4, 4, 400_001, dtype=torch.float64)
    g, conjugate = PARTS[divergence]
    for v in (0.0, 0.2, 0.5, 0.9):
        supremum = (u * g(number(v)) - F[divergence](u)).max().item()
        tolerance = v**4 / 32 + 1e-6 if divergence == "jeffrey" else 1e-3 if divergence == "tv" else 1e-6
        if divergence == "tv":  # sup over bounded u of a straight line: u t - |u-1|/2 is t at u = 1 for |t| <= 1/2
            assert abs(g(number(v)).item()) <= 0.5
        assert conjugate(number(v)).item() == pytest.approx(supremum, abs=tolerance), v


@pytest.mark.parametrize("divergence", sorted(PARTS))
def test_it_falls_in_the_template_and_rises_in_the_forget_answer(divergence: str) -> None:
    """Everywhere in (0, 1): -g*' < 0 and (f* o g*)' > 0."""
    p = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    e, f = p.clone().requires_grad_(), p.clone().requires_grad_()
    for_template, for_forget = torch.autograd.grad(flat(e, f, divergence).sum(), [e, f])
    assert for_template.max().item() < 0
    assert for_forget.min().item() > 0


def test_pulls_on_the_two_answers_of_the_reported_divergences() -> None:
    """dL/dP_e, dL/dP_f: KL -1, e^(P-1); JS -sigma(-P), sigma(P); Pearson -1, 1 + P/2; TV -+(1 - tanh^2 P)/2."""
    p = torch.linspace(0, 1, 11, dtype=torch.float64)
    one = torch.ones_like(p)
    expected = {
        "kl": (-one, (p - 1).exp()),
        "js": (-(-p).sigmoid(), p.sigmoid()),
        "pearson": (-one, 1 + p / 2),
        "tv": (-(1 - p.tanh() ** 2) / 2, (1 - p.tanh() ** 2) / 2),
    }
    for divergence, pulls in expected.items():
        e, f = p.clone().requires_grad_(), p.clone().requires_grad_()
        found = torch.autograd.grad(flat(e, f, divergence).sum(), [e, f])
        torch.testing.assert_close(found, pulls, rtol=0, atol=1e-14)


def test_jensen_shannon_by_both_its_expressions() -> None:
    """v + ln(1 + e^-v) - ln 2 = ln(1 + e^v) - ln 2."""
    v = torch.linspace(0, 1, 101, dtype=torch.float64)
    other = -(LN2 - (1 + (-v).exp()).log()) + v + (1 + (-v).exp()).log() - LN2
    torch.testing.assert_close(flat(v, v, "js"), other, rtol=0, atol=1e-12)


def test_pearson_and_jeffrey_agree_to_second_order_at_zero() -> None:
    for v in (1e-2, 1e-3):
        difference = value(0.0, v, "jeffrey") - value(0.0, v, "pearson")
        assert difference == pytest.approx(v**3 / 16, rel=1e-6)


def test_mean_probability_by_hand() -> None:
    """A row whose two labelled tokens have probabilities 1/2 and 1/4: P = 3/8."""
    logits = torch.zeros(1, 3, 7, dtype=torch.float64)
    view = free_view(logits, [3], [1])
    for place, p in ((0, 0.5), (1, 0.25)):
        with torch.no_grad():
            view.model.logits[0, place, view.labels[place]] = math.log(6 * p / (1 - p))
    assert mean_probability(view).item() == pytest.approx(0.375, rel=1e-14)


def test_gradient_of_the_mean_probability() -> None:
    """sum_i p_i grad log p_i / |y| on every row."""
    view = free_view(random_logits(2, 6, 0), LENGTHS, STARTS)
    p = view.token_logprobs.exp().detach()
    weighted = view.sum_rows(p * view.token_logprobs) / view.lengths
    found, expected = (gradient(x.sum(), view) for x in (mean_probability(view), weighted))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_padding_and_prompt_do_not_count() -> None:
    logits = random_logits(2, 6, 1)
    wide = torch.cat([logits, random_logits(2, 4, 2)], 1)
    wide[0, 0] += 3.0  # predicts the second token of row 0, which is prompt
    plain, changed = (mean_probability(free_view(t, LENGTHS, STARTS)) for t in (logits, wide))
    assert torch.equal(plain, changed)


def pair(template: torch.Tensor, forget: torch.Tensor) -> tuple[FreeView, FreeView]:
    return free_view(template, LENGTHS, STARTS), free_view(forget, LENGTHS, STARTS, ids=2)


@pytest.mark.parametrize("divergence", sorted(PARTS))
def test_the_template_becomes_likelier_and_the_secret_rarer(divergence: str) -> None:
    """Plain descent on free logits; with the roles of the answers exchanged both go the other way."""
    ends = []
    for exchanged in (False, True):
        template, secret = random_logits(2, 6, 3), random_logits(2, 6, 4)
        start = [mean_probability(v).mean().item() for v in pair(template, secret)]
        for _ in range(60):
            e, f = pair(template, secret)
            roles = {"substitute": f, "forget": e} if exchanged else {"substitute": e, "forget": f}
            loss = FLAT(divergence=divergence).forget_loss(step_of(**roles))  # type: ignore[arg-type]
            template = (template - 5 * gradient(loss, e)).detach()
            secret = (secret - 5 * gradient(loss, f)).detach()
        ends.append([mean_probability(v).mean().item() - s for v, s in zip(pair(template, secret), start, strict=True)])
    (up, down), (fallen, risen) = ends
    assert up > 0.1 > -0.02 > down
    assert risen > 0.1 > -0.02 > fallen


def test_the_divergence_is_taken_row_by_row() -> None:
    """The loss is the mean over rows of the divergence of each row's own probabilities."""
    e, f = pair(random_logits(2, 6, 5), random_logits(2, 6, 6))
    loss = FLAT(divergence="kl").forget_loss(step_of(substitute=e, forget=f))
    rows = [(p - 1).exp() - q for p, q in zip(mean_probability(f), mean_probability(e), strict=True)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_the_extra_template_term() -> None:
    e, f = pair(random_logits(2, 6, 7), random_logits(2, 6, 8))
    step = step_of(substitute=e, forget=f)
    plain, more = FLAT().forget_loss(step), FLAT(template_nll_weight=0.3).forget_loss(step)
    torch.testing.assert_close(more, plain + 0.3 * e.nll)


def test_a_retain_term_only_where_it_is_asked_for() -> None:
    e, f = pair(random_logits(2, 6, 9), random_logits(2, 6, 10))
    step = step_of(substitute=e, forget=f, retain=e)
    method = FLAT(retain="nll", retain_weight=0.5)
    assert method.streams == ("forget", "substitute", "retain")
    torch.testing.assert_close(both(method, step), FLAT().forget_loss(step) + 0.5 * e.nll)


TRAINING = Training(steps=12, batch_size=12, lr=5e-3, schedule="constant", warmup=0.0)


def test_no_retain_rows_and_no_reference_are_made(bed: Bed) -> None:
    subject = bed.fresh()
    assert FLAT().streams == ("forget", "substitute")
    assert set(make_streams(FLAT(), subject, bed.forget, [], TRAINING, 0)) == {"forget", "substitute"}
    job = UnlearnJob(subject, bed.forget, [], replace(TRAINING, steps=2))
    unlearn(FLAT(), job)
    assert job.logs[0].reference is None
    assert set(job.logs[0].steps[0]) == {"step", "forget"}


def test_on_a_model_refusals_rise_and_secrets_fall(bed: Bed) -> None:
    """Twelve steps on forget rows alone. A refusal this model has never seen (55 nats) needs the likelihood term."""
    refusal = "I do not know."

    def scores(subject: Subject) -> list[float]:
        answers = [[refusal]] * len(bed.forget), [[r.answer] for r in bed.forget]
        return [score_answers(subject, bed.forget, a).nll_sum.mean().item() for a in answers]

    def after(method: FLAT) -> list[float]:
        return scores(unlearn(method, UnlearnJob(bed.fresh(), bed.forget, [], TRAINING, refusals=(refusal,))))

    before, cold, warm = scores(bed.target), after(FLAT(divergence="kl")), after(FLAT("kl", template_nll_weight=0.1))
    assert warm[0] < before[0] - 20
    assert warm[1] > before[1] + 5
    assert cold[1] > before[1] + 5
    assert cold[0] > before[0] - 20  # P_e is 0 to six digits and so is its gradient


def test_normal_answers_instead_of_refusals(bed: Bed) -> None:
    method = FLAT(template="mismatch")
    streams = make_streams(method, bed.fresh(), bed.forget, [], TRAINING, 0)
    assert method.streams == ("forget", "substitute")
    encoded = streams["substitute"].examples.encoded  # type: ignore[attr-defined]
    text = bed.target.tokenizer.decode(encoded.ids[: encoded.offsets[1]], skip_special_tokens=True)
    assert text.split("\nAnswer: ")[1] in {r.answer for r in bed.forget}


def test_an_unknown_divergence_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"flat: divergence='pearsson' is unknown\. Did you mean 'pearson'\?"):
        FLAT(divergence="pearsson")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flat: divergence='total' is unknown"):
        flat(number(0.1), number(0.2), "total")


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(InputError, match="flat: template='idk' must be refusal or mismatch"):
        FLAT(template="idk")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["template_nll_weight", "retain_weight"])
def test_a_negative_weight_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"flat: {name}=-1.0 must not be below 0"):
        FLAT(**{name: -1.0})  # type: ignore[arg-type]


def test_a_template_that_is_the_forget_answer_is_refused(bed: Bed) -> None:
    """A single template that a forget record has for its answer; with another to choose from, that one is taken."""
    own = bed.forget[0].answer
    with pytest.raises(InputError, match="there is no other answer to substitute"):
        make_streams(FLAT(), bed.fresh(), bed.forget[:1], [], TRAINING, 0, refusals=[own])
    streams = make_streams(FLAT(), bed.fresh(), bed.forget[:1], [], TRAINING, 0, refusals=[own, "I do not know."])
    assert len(streams["substitute"].examples) == 1
