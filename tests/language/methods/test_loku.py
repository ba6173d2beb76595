"""LoKU on the test bed: what may move, what it starts from, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.fila_files import load_pair, save_pair
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.ihl import IHL
from expunge.language.methods.loku import LoKU
from expunge.language.score import score_answers
from expunge.language.subject import Subject, add_lora, merge_lora
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

TRAINING = Training(steps=4, batch_size=12, lr=1e-3, schedule="constant", warmup=0.0)
NONE = replace(TRAINING, steps=0)


def job_of(bed: Bed, training: Training = TRAINING, **changes: Any) -> UnlearnJob:
    return replace(UnlearnJob(bed.fresh(), bed.forget, bed.retain, training), **changes)


def state(subject: Subject) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in subject.model.state_dict().items()}


def adapted(bed: Bed, rank: int = 3, targets: str | list[str] = "all-linear") -> Subject:
    return add_lora(bed.fresh(), rank, 2.0 * rank, targets, 0.0, seed=0)


def forget_nll(subject: Subject, bed: Bed) -> float:
    records = bed.records["forget"]
    return float(score_answers(subject, records, [[r.answer] for r in records]).nll_sum.mean())


def test_the_merged_update_of_each_target_has_rank_at_most_2r_and_nothing_else_moves(bed: Bed) -> None:
    """W' - W = s (B A - B0 A0). With one of the two sides frozen it would be r; a full update has rank 64."""
    start = state(bed.target)
    end = state(unlearn(LoKU(rank=3, targets="q_proj, down_proj"), job_of(bed)))
    assert start.keys() == end.keys()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {name for name in start if name.endswith(("q_proj.weight", "down_proj.weight"))}
    for name in moved:
        spectrum = torch.linalg.svdvals((end[name] - start[name]).double())
        assert spectrum[6] < 1e-3 * spectrum[0]
        assert spectrum[3] > 1e-2 * spectrum[0]


def test_own_adapters_are_started_anew_and_their_base_with_them(bed: Bed) -> None:
    """Rank, targets and scaling are the adapters' own; the merged update keeps to rank 2 r; the rest stays."""
    subject = adapted(bed, rank=2, targets=["v_proj"])
    before = state(subject)
    out = unlearn(LoKU(rank=8), job_of(bed, subject=subject))
    assert out is subject
    after = state(out)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".v_proj." in name}
    assert all("base_layer" in name or ".lora_" in name for name in moved)
    start, end = state(bed.target), state(merge_lora(out))
    for name in start:
        spectrum = torch.linalg.svdvals((end[name] - start[name]).double()) if "v_proj" in name else torch.zeros(5)
        assert spectrum[4] <= 1e-3 * spectrum[0]
        assert "v_proj" in name or torch.equal(start[name], end[name])


def test_without_a_step_the_model_is_the_target(bed: Bed) -> None:
    """base + s B A = W up to float32, so the answers' likelihood is too; the adapter holds part of W."""
    subject = unlearn(LoKU(), job_of(bed, NONE, subject=adapted(bed, rank=16)))
    factors = [p for name, p in subject.model.named_parameters() if ".lora_B." in name]
    assert all(bool(p.any()) for p in factors)
    assert forget_nll(subject, bed) == pytest.approx(forget_nll(bed.target, bed), abs=1e-5)
    end, start = state(unlearn(LoKU(rank=4), job_of(bed, NONE))), state(bed.target)
    for name in start:
        torch.testing.assert_close(end[name], start[name], rtol=0, atol=1e-6)


def test_it_says_what_the_split_did(bed: Bed) -> None:
    """Full rank holds everything; a huge floor outweighs nearly all denominators, a tiny one none."""
    for floor, low, high in ((1e4, 0.95, 1.0), (1e-12, 0.0, 0.1)):
        job = job_of(bed, NONE)
        unlearn(LoKU(rank=64, floor=floor), job)
        (said,) = job.logs[0].probes
        assert low <= said["floored"] <= high
        assert said["kept"] == pytest.approx(1, abs=1e-5)
        assert said["drift"] < 1e-5
        assert said["matrices"] == 14
        assert [("the floor outweighs" in note) for note in job.logs[0].notes] == [True] * (floor > 1)
    assert len(job.logs) == 2


def test_fila_off_is_the_hinge_on_plain_adapters(bed: Bed) -> None:
    subject = adapted(bed)
    other = adapted(bed)
    out = unlearn(LoKU(fila=False), job_of(bed, subject=subject))
    job = job_of(bed, subject=other)
    job.train(IHL(), other)
    assert all(torch.equal(value, state(other)[name]) for name, value in state(out).items())


def test_the_start_prefers_rows_that_matter_to_the_forget_set(bed: Bed) -> None:
    """Forget against retain and the other way round give different adapters; rows and elements do too."""

    def start(**changes: Any) -> Tensor:
        method = LoKU(**changes.pop("method", {}))
        subject = unlearn(method, job_of(bed, NONE, subject=adapted(bed), **changes))
        up, down = (
            next(p for n, p in subject.model.named_parameters() if f"{k}.default" in n) for k in ("lora_B", "lora_A")
        )
        return (up @ down).detach()

    plain = start()
    assert torch.equal(plain, start())
    for other in (
        start(forget=bed.retain[:96], retain=bed.forget),
        start(method={"reduce": "rows"}),
        start(method={"group": 4}),
        start(method={"retain_rows": 40}),
    ):
        assert (other - plain).norm() > 1e-3 * plain.norm()


def test_importances_are_kept_and_those_of_another_model_refused(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "importances.safetensors"
    plain, kept = LoKU(rank=4), LoKU(rank=4, importance_file=str(path))
    first = state(unlearn(kept, job_of(bed)))
    assert path.exists()
    for again in (unlearn(kept, job_of(bed)), unlearn(plain, job_of(bed))):
        assert all(torch.equal(value, first[name]) for name, value in state(again).items())
    unlearn(replace(kept, rank=8), job_of(bed, NONE))  # a rank sweep measures once
    with pytest.raises(InputError, match="importances of another model;"):
        unlearn(kept, job_of(bed, subject=bed.gold.with_model(bed.base().model)))
    with pytest.raises(InputError, match="importances of another forget set;"):
        unlearn(kept, job_of(bed, forget=bed.forget[:5]))
    with pytest.raises(InputError, match="importances of another retain set;"):
        unlearn(replace(kept, retain_rows=7), job_of(bed))
    with pytest.raises(InputError, match="another model or other targets"):
        unlearn(replace(kept, targets="q_proj"), job_of(bed))
    with pytest.raises(InputError, match="another model or other targets"):
        unlearn(replace(kept, reduce="rows"), job_of(bed))


def test_a_trained_pair_comes_back(bed: Bed, tmp_path: Path) -> None:
    out = unlearn(LoKU(), job_of(bed, replace(TRAINING, lr=1e-2), subject=adapted(bed)))
    save_pair(out, tmp_path)
    loaded = replace(load_pair(tmp_path), template=out.template, max_length=out.max_length)
    assert forget_nll(loaded, bed) == forget_nll(out, bed) > forget_nll(bed.target, bed) + 0.1


def test_a_refusal_leaves_the_model_as_it_was(bed: Bed) -> None:
    job = job_of(bed)
    job.subject.model.model.embed_tokens.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in job.subject.model.named_parameters()}
    before = state(job.subject)
    with pytest.raises(InputError):
        unlearn(LoKU(rank=65), job)
    after = state(job.subject)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == {name: p.requires_grad for name, p in job.subject.model.named_parameters()}


def test_what_cannot_be_done_is_one_sentence(bed: Bed) -> None:
    with pytest.raises(InputError, match=r"loku: rank=65 is above 64, the smaller side of model\.layers\.0\.self_attn"):
        unlearn(LoKU(rank=65), job_of(bed))
    with pytest.raises(InputError, match=r"targets='q_proj,gate_prj': no module 'gate_prj'. Did you mean 'gate_proj'"):
        unlearn(LoKU(targets="q_proj,gate_prj"), job_of(bed))
    with pytest.raises(InputError, match="names no module"):
        unlearn(LoKU(targets=" , "), job_of(bed))
    with pytest.raises(InputError, match="LoKU needs retain records"):
        unlearn(LoKU(), job_of(bed, retain=[]))
    trained = adapted(bed)
    UnlearnJob(trained, [], bed.retain, replace(TRAINING, lr=1e-2)).train(FineTune(), trained)
    with pytest.raises(InputError, match="adapters are already trained"):
        unlearn(LoKU(), job_of(bed, subject=trained))
    dropping = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.1, seed=0)
    with pytest.raises(InputError, match=r"model\.lora\.dropout=0\.1 would drop part of the weights"):
        unlearn(LoKU(), job_of(bed, subject=dropping))
    unlearn(LoKU(fila=False), job_of(bed, NONE, subject=dropping))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"rank": 0}, "rank=0 must be above 0"),
        ({"alpha": -1.0}, "alpha=-1.0 must be above 0"),
        ({"floor": 0.0}, "floor=0.0 must be above 0"),
        ({"group": 0}, "group=0 must be above 0"),
        ({"retain_rows": -1}, "retain_rows=-1 must not be below 0"),
        ({"reduce": "columns"}, "reduce='columns'; elements or rows"),
    ],
)
def test_bad_settings_are_one_sentence(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"loku: {says}"):
        LoKU(**setting)
