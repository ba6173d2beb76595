"""Losses on features: pseudo-labels, contrast, centroids, Mahalanobis distances, similarities; by hand and on a bed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.methods.contrastive_unlearning import (
    Contrast,
    ContrastiveUnlearning,
    contrast_with_retained,
    contrast_within,
)
from expunge.vision.methods.duck import DUCK, Kinematics, class_means, nearest_wrong
from expunge.vision.methods.pseudo_label import PseudoLabel, best_kept
from expunge.vision.methods.scar import SCAR, Attraction, bent, correlation, mahalanobis
from expunge.vision.methods.spkd import SPKD, AscendAndMatch, similarity_loss
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained
from tiny_vision import (
    SGD,
    STEPS,
    Free,
    apart,
    changed,
    draw,
    forget_loss,
    job_of,
    several,
    state,
    step_of,
    without_norms,
)

LABELS = torch.tensor([0, 1, 1, 2])
EVERY = [PseudoLabel(), ContrastiveUnlearning(), DUCK(), SCAR(), SPKD()]


def by_class(gone: int) -> tuple[Images, Images]:
    found = splits()["retain"]
    here = found.labels == gone
    return found.take(here.nonzero()[:, 0]), found.take((~here).nonzero()[:, 0])


# -- pseudo-labels ------------------------------------------------------------------------------------


def test_the_best_class_that_stays() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 5.0, 4.0, 3.0]])
    assert best_kept(logits, torch.tensor([0, 1]), [0]).tolist() == [1, 2]
    assert best_kept(logits, torch.tensor([0, 1]), [0, 1, 2]).tolist() == [3, 3]
    assert best_kept(logits, torch.tensor([1, 2]), []).tolist() == [0, 1]  # single images: any class but their own
    with pytest.raises(InputError, match="pseudo-label: no class is left"):
        best_kept(logits, torch.tensor([3, 3]), [0, 1, 2])


def test_pseudo_labels_empty_a_class() -> None:
    forget, retain = by_class(1)
    job = job_of(replace(STEPS, steps=15), forget=forget, retain=retain)
    subject = unlearn(PseudoLabel(), job)
    assert float((subject.outputs(forget)[0].argmax(1) == 1).float().mean()) < 0.2
    for wrong in ([4], [-1]):
        with pytest.raises(InputError, match=f"class {wrong[0]} is outside the classes 0 to 3"):
            unlearn(PseudoLabel(classes=wrong), job)


# -- contrast -----------------------------------------------------------------------------------------


def test_contrast_with_retained_images_by_hand() -> None:
    """One forgotten image at e1 of class 0; retained: own class at e1, others at e2 and -e1."""
    e = torch.eye(2).double()
    z, other = e[:1], torch.stack([e[0], e[1], -e[0]])
    found = contrast_with_retained(z, torch.tensor([0]), other, torch.tensor([0, 1, 2]), 0.5)
    # -(1/2) [ log(e^{0} / e^{2}) + log(e^{-2} / e^{2}) ] = (2 + 4) / 2
    torch.testing.assert_close(found, torch.tensor([3.0]).double())
    gone = contrast_with_retained(z, torch.tensor([3]), other, torch.tensor([0, 1, 2]), 0.5)
    torch.testing.assert_close(gone, torch.tensor([0.0]).double())  # -(2 + 0 - 2) / 3: no image of its class is left
    alone = contrast_with_retained(z, torch.tensor([0]), other[:1], torch.tensor([0]), 0.5)
    assert alone.tolist() == [0.0]


def test_contrast_moves_a_feature_towards_others_and_away_from_its_own() -> None:
    z = F.normalize(draw(1, 3, seed=4), dim=1).requires_grad_(True)
    own, other = F.normalize(draw(1, 3, seed=5), dim=1), F.normalize(draw(1, 3, seed=6), dim=1)
    contrast_with_retained(z, torch.tensor([0]), torch.cat([own, other]), torch.tensor([0, 1]), 1.0).sum().backward()
    torch.testing.assert_close(z.grad, own - other)


def test_contrast_within_the_forgotten_images_by_hand() -> None:
    z = F.normalize(draw(4, 3, seed=1), dim=1)
    s = z @ z.T
    log_share = s - s.logsumexp(1, keepdim=True)
    expected = torch.stack(
        [-torch.stack([log_share[i, j] for j in range(4) if LABELS[j] != LABELS[i]]).mean() for i in range(4)]
    )
    torch.testing.assert_close(contrast_within(z, LABELS, 1.0), expected)
    assert contrast_within(z, torch.zeros(4, dtype=torch.long), 1.0).tolist() == [0.0] * 4


def test_contrast_of_a_step() -> None:
    """CE of the retain batch, and the contrast of unit features whatever their length."""
    features, kept, logits = draw(4, 3, seed=1), draw(4, 3, seed=2), draw(4, 5, seed=3)
    forget, paired = Free(draw(4, 5), LABELS, 7 * features), Free(logits, LABELS, 0.1 * kept)
    step = step_of(forget=forget, paired=paired)
    found = Contrast("paper", 1.0, 0.3).forget_loss(step)
    unit = (F.normalize(features, dim=1), F.normalize(kept, dim=1))
    costs = contrast_with_retained(unit[0], LABELS, unit[1], LABELS, 1.0)
    torch.testing.assert_close(found, F.cross_entropy(logits, LABELS) + 0.3 * costs.mean())
    torch.testing.assert_close(step.notes["kept"], F.cross_entropy(logits, LABELS))


def test_contrast_weakens_a_class_in_feature_space() -> None:
    """Forgotten images come to lie nearer to the centres of other classes than to their own."""
    subject = unlearn(ContrastiveUnlearning(temperature=0.5), job_of(replace(STEPS, steps=25, lr=6e-3)))
    own = []
    for model in (trained(), subject):
        found = splits()
        centres, classes = class_means(model.outputs(found["retain"])[1], found["retain"].labels)
        z = model.outputs(found["forget"])[1]
        nearest = (F.normalize(z, dim=1) @ F.normalize(centres, dim=1).T).argmax(1)
        own.append(float((classes[nearest] == found["forget"].labels).float().mean()))
    assert own[1] < own[0] - 0.3


# -- centroids ----------------------------------------------------------------------------------------


def test_centres_and_the_nearest_wrong_one() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    centres, classes = class_means(features, torch.tensor([0, 0, 1, 3]))
    assert centres.tolist() == [[2.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]
    assert classes.tolist() == [0, 1, 3]
    gone = torch.tensor([[5.0, 1.0], [5.0, 1.0], [-3.0, 2.9]])
    assert nearest_wrong(gone, torch.tensor([0, 2, 3]), centres, classes).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="duck: the retained images are all of the class of a forgotten one"):
        nearest_wrong(gone[:1], torch.tensor([0]), centres[:1], classes[:1])


def test_ducks_losses_by_hand() -> None:
    loss, z, centres = Kinematics(1.5, 0.7, 2.0), draw(4, 3, seed=1), draw(4, 3, seed=2)
    cosine = (z * centres).sum(1) / (z.norm(dim=1) * centres.norm(dim=1))
    found = loss.forget_loss(step_of(forget=Free(draw(4, 5), centres, z)))
    torch.testing.assert_close(found, 1.5 * (1 - cosine).mean())
    logits = draw(4, 5, seed=3)
    found = loss.retain_loss(step_of(retain=Free(logits, LABELS)))
    torch.testing.assert_close(found, 0.7 * F.cross_entropy(logits / 2, LABELS))


def test_duck_brings_features_to_the_centres_the_original_had() -> None:
    target, found = trained(), splits()
    centres, classes = class_means(target.outputs(found["retain"])[1], found["retain"].labels)
    z = target.outputs(found["forget"])[1]
    goals = centres[nearest_wrong(z, found["forget"].labels, centres, classes)]
    subject = unlearn(DUCK(), job_of(replace(STEPS, steps=30, lr=4e-3)))
    near = [F.cosine_similarity(s.outputs(found["forget"])[1], goals).mean() for s in (target, subject)]
    assert float(near[1]) > float(near[0]) + 0.1


# -- Mahalanobis --------------------------------------------------------------------------------------


def test_bent_features_are_unit_roots_and_have_a_slope_everywhere() -> None:
    z = torch.tensor([[4.0, 9.0, -36.0], [0.0, 0.0, 1.0]], requires_grad=True)
    found = bent(z)
    torch.testing.assert_close(found[0], torch.tensor([2.0, 3.0, -6.0]) / 7)
    assert found[1].tolist() == [0.0, 0.0, 1.0]
    found.sum().backward()
    assert bool(torch.isfinite(z.grad).all())  # type: ignore[arg-type]


def test_the_shrunk_correlation_by_hand() -> None:
    """S = [[4, 2], [2, 1]] / with gamma 3 and 3: diagonal + 3 * 2.5, the rest + 3 * 2, scaled to one."""
    features = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 2.0]]).double()
    assert torch.cov(features.T).tolist() == [[4.0, 2.0], [2.0, 1.0]]
    off = 8.0 / (11.5 * 8.5) ** 0.5
    torch.testing.assert_close(correlation(features, 3.0, 3.0), torch.tensor([[1.0, off], [off, 1.0]]).double())
    plain = torch.corrcoef(draw(3, 20, seed=1))
    torch.testing.assert_close(correlation(draw(3, 20, seed=1).T, 0.0, 0.0), plain)


def test_the_distance_by_hand() -> None:
    """With the identity it is Euclidean; with any other P it is sqrt(g^T P g)."""
    z, means, P = draw(4, 3, seed=1), draw(2, 3, seed=2), draw(3, 3, seed=3)
    P = P @ P.T
    found = mahalanobis(z, means, torch.stack([torch.eye(3).double(), P]))
    torch.testing.assert_close(found[:, 0], (z - means[0]).norm(dim=1))
    torch.testing.assert_close(found[:, 1], torch.stack([((g @ P) @ g).sqrt() for g in z - means[1]]))


def test_scars_losses_by_hand() -> None:
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    loss = Attraction(2.0, 3.0, "kl", means, torch.eye(2).double().repeat(2, 1, 1), torch.tensor([0, 2]), (2,))
    z = torch.tensor([[9.0, 16.0], [9.0, 16.0]]).double()  # bent to (3, 4) / 5
    step = step_of(forget=Free(draw(2, 4), torch.tensor([0, 2]), z))
    far, near = (0.4**2 + 0.8**2) ** 0.5, (0.6**2 + 0.2**2) ** 0.5
    torch.testing.assert_close(loss.forget_loss(step), torch.tensor(2.0 * (near + far) / 2).double())
    teacher, student = draw(3, 4, seed=5), draw(3, 4, seed=6)
    masked = teacher.clone()
    masked[:, 2] = teacher.min(1).values
    found = loss.retain_loss(step_of(retain=Free(student, reference={"logits": teacher})))
    kl = F.kl_div(student.log_softmax(1), masked.softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, 3.0 * kl)


def test_scar_on_classes_and_on_people() -> None:
    forget, retain = by_class(2)
    strong = replace(STEPS, steps=25, lr=6e-3)
    for job in (job_of(strong, forget=forget, retain=retain), job_of(strong)):
        right = [(s.outputs(job.forget)[0].argmax(1) == job.forget.labels).float().mean().item()
                 for s in (trained(), unlearn(SCAR(divergence="js"), job))]  # fmt: skip
        assert right[1] < right[0] - 0.15


def test_scar_refuses_what_it_cannot_use() -> None:
    forget, retain = by_class(2)
    one = torch.cat([(retain.labels == c).nonzero()[:1, 0] for c in (0, 1)])
    with pytest.raises(InputError, match="scar: class 0 has one retained image; a covariance needs two"):
        unlearn(SCAR(), job_of(forget=forget, retain=retain.take(one)))
    own = splits()["retain"]
    same = own.take((own.labels == int(splits()["forget"].labels[0])).nonzero()[:, 0])
    with pytest.raises(InputError, match="scar: the retained images are all of the class of a forgotten one"):
        unlearn(SCAR(), job_of(forget=splits()["forget"].take([0]), retain=same))


# -- similarities -------------------------------------------------------------------------------------


def test_similarities_do_not_see_rotations_scales_and_widths() -> None:
    z = draw(6, 4, seed=1)
    turn = torch.linalg.qr(draw(4, 4, seed=2))[0]
    assert similarity_loss(z, 3 * z @ turn).item() == pytest.approx(0, abs=1e-15)
    other = draw(6, 9, seed=3)
    G, H = (m / m.norm(dim=1, keepdim=True) for m in (z @ z.T, other @ other.T))
    torch.testing.assert_close(similarity_loss(z, other), ((G - H) ** 2).sum() / 36)


def test_spkd_climbs_on_one_set_and_matches_on_the_other() -> None:
    logits, z, teacher = draw(4, 5, seed=1), draw(4, 3, seed=2), draw(4, 3, seed=3)
    loss = AscendAndMatch(0.5, 2.0)
    torch.testing.assert_close(
        loss.forget_loss(step_of(forget=Free(logits, LABELS))), -0.5 * F.cross_entropy(logits, LABELS)
    )
    view = Free(logits, LABELS, z, reference={"features": teacher})
    torch.testing.assert_close(loss.retain_loss(step_of(retain=view)), 2 * similarity_loss(teacher, z))
    job = job_of(replace(STEPS, steps=None, epochs=2, batch_size=12))
    unlearn(SPKD(max_epochs=1), job)
    steps = ["f" if "forget" in s else "r" for s in job.logs[0].steps]
    f, r = -(-len(job.forget) // 12), -(-len(job.retain) // 12)
    assert "".join(steps) == "f" * f + "r" * r * 2


# -- all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY, ids=lambda m: type(m).__name__)
def test_the_target_is_not_what_the_student_became(method: Any) -> None:
    """A second run in the same process is the first one again: nothing of the first is left anywhere."""
    first, again = (unlearn(method, job_of(SGD)) for _ in range(2))
    assert not changed(state(first.model), state(again.model))
    assert forget_loss(first) > forget_loss(trained())


@pytest.mark.parametrize("method", [DUCK(), SCAR(), PseudoLabel()], ids=lambda m: type(m).__name__)
def test_divided_steps_are_whole_ones(method: Any) -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(SGD, micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(method, job).model))
    assert apart(ends[0], state(without_norms().model)) > 0
    assert apart(*ends) < 1e-5


@pytest.mark.parametrize("method", [ContrastiveUnlearning(), SPKD()], ids=lambda m: type(m).__name__)
def test_batches_that_are_compared_are_not_divided(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="compares the images of a batch with each other, so micro_batch=3"):
        unlearn(method, job_of(replace(STEPS, micro_batch=3)))
    unlearn(method, job_of(replace(STEPS, micro_batch=8)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="run it in a single process"):
        unlearn(method, job_of())


@pytest.mark.parametrize("method", EVERY[:4], ids=lambda m: type(m).__name__)
def test_yes_or_no_labels_are_refused(method: Any) -> None:
    found = {name: several(images) for name, images in splits().items()}
    with pytest.raises(InputError, match="needs one class an image"):
        unlearn(method, UnlearnJob(without_norms(), found["forget"], found["retain"], STEPS))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ContrastiveUnlearning(temperature=0), "contrastive-unlearning: temperature=0 must be above 0"),
        (lambda: ContrastiveUnlearning(variant="x"), "contrastive-unlearning: variant='x' must be one of paper"),
        (lambda: DUCK(forget_weight=-1), "duck: forget_weight=-1 must be a number not below 0"),
        (lambda: SCAR(divergence="x"), "scar: divergence='x' must be one of kl, js"),
        (lambda: SPKD(max_epochs=-1), "spkd: max_epochs=-1 must be a number not below 0"),
    ],
)
def test_bad_values_are_refused(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
