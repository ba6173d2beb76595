"""RepE: vectors between two kinds of speaker, added to blocks at every position."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded, collate
from expunge.language.forward import ForwardPass, decoder_layers
from expunge.language.generate import _prompts, generate
from expunge.language.methods.repe import (
    EXPERT,
    NOVICE,
    RepE,
    Steered,
    control_vectors,
    last_states,
    middle_half,
)
from expunge.language.rwku_corpus import OPENINGS
from expunge.language.score import score_answers
from expunge.language.subject import Subject, load_subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed
from tiny_models import tiny


def guarded(bed: Bed, method: RepE) -> Subject:
    return unlearn(method, UnlearnJob(bed.fresh(), bed.forget, [], Training()))


def scores(subject: Subject, bed: Bed) -> list[float]:
    records = bed.records["forget"][:8]
    found: list[float] = score_answers(subject, records, [[r.answer] for r in records]).logprob.tolist()
    return found


def block_outputs(model: torch.nn.Module, ids: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in decoder_layers(model)[2]
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen


def test_strength_zero_is_the_target_to_the_bit(bed: Bed) -> None:
    subject = guarded(bed, RepE(alpha=0.0))
    assert scores(subject, bed) == scores(bed.target, bed)
    records = bed.records["forget"][:8]
    assert generate(subject, records, max_new_tokens=6) == generate(bed.target, records, max_new_tokens=6)
    assert scores(guarded(bed, RepE(alpha=2.0)), bed) != scores(bed.target, bed)


def test_a_block_puts_out_alpha_times_its_vector_more_at_every_position(bed: Bed) -> None:
    """On one block: its output is the target's plus alpha v; the block before is as it was."""
    vector = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    model = Steered(bed.target.model, RepE(alpha=0.5, layers=(1,)), vector)
    ids = torch.tensor([bed.target.tokenizer(bed.forget[0].question)["input_ids"]])
    plain, pushed = block_outputs(bed.target.model, ids), block_outputs(model, ids)
    torch.testing.assert_close(pushed[0], plain[0])
    torch.testing.assert_close(pushed[1], plain[1] + 0.5 * vector[0])
    encoded = Encoded(ids[0], torch.tensor([0, ids.shape[1]]), torch.tensor([1]))
    view = ForwardPass(model, collate(encoded, torch.arange(1)), (1, 1))
    torch.testing.assert_close(view.hidden(1), pushed[1][0])  # losses that read states read the pushed ones


def test_the_vector_is_novice_minus_expert_at_the_last_token(bed: Bed) -> None:
    """By hand: one prompt at a time, without padding, mean over openings."""
    guard = RepE(layers=(0, 1), names=("Ada Ben",))
    found = control_vectors(bed.target, guard)
    sides = []
    for wording in (NOVICE, EXPERT):
        states = []
        for opening in OPENINGS:
            record = Record(wording.format(name="Ada Ben"), "", prefill=opening)
            ids = torch.tensor(_prompts(bed.target, [record]))
            states.append(torch.stack([out[0, -1] for out in block_outputs(bed.target.model, ids)]))
        sides.append(torch.stack(states).mean(0))
    torch.testing.assert_close(found, sides[0] - sides[1], atol=1e-4, rtol=1e-3)
    assert found.shape == (2, 64)
    assert float(found.abs().max()) > 0.01


def test_the_cache_changes_nothing(bed: Bed) -> None:
    """Token by token with the cache against the whole text at once."""
    subject = guarded(bed, RepE(alpha=3.0))
    ids = torch.tensor([bed.target.tokenizer(bed.forget[0].question)["input_ids"]])
    with torch.no_grad():
        whole = subject.model(input_ids=ids, use_cache=False).logits[0]
        cache, rows = None, []
        for i in range(ids.shape[1]):
            out = subject.model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, -1])
    torch.testing.assert_close(torch.stack(rows), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2"])
def test_other_families(family: str) -> None:
    model = tiny(family)
    steered = Steered(model, RepE(alpha=1.0, layers=(0,)), torch.ones(1, 16))
    ids = torch.tensor([[5, 7, 9, 11]])
    plain, pushed = block_outputs(model, ids), block_outputs(steered, ids)
    torch.testing.assert_close(pushed[0], plain[0] + 1.0)
    assert float((pushed[1] - plain[1]).abs().max()) > 0.01


def test_saved_and_loaded_it_pushes_the_same_way(bed: Bed, tmp_path: Path) -> None:
    subject = guarded(bed, RepE(alpha=2.0, layers=(1,)))
    subject.save(tmp_path / "model", "card")
    kept = load_file(tmp_path / "model" / "guard.safetensors")
    torch.testing.assert_close(kept["vectors"], subject.model.vectors)
    loaded = load_subject(str(tmp_path / "model"), template="plain", max_length=subject.max_length)
    loaded.template = subject.template
    assert loaded.model.guard == subject.model.guard
    assert loaded.fingerprint() == subject.fingerprint()
    assert loaded.weights_hash() == bed.target.weights_hash()
    assert scores(loaded, bed) == scores(subject, bed)


def test_a_copy_is_trained_under_the_guard_and_the_vectors_stay(bed: Bed) -> None:
    """What an attack does: it copies the subject and moves the target's weights."""
    subject = guarded(bed, RepE(alpha=2.0))
    attacked = subject.with_model(copy.deepcopy(subject.model))
    with torch.no_grad():
        next(attacked.model.parameters()).mul_(1.1)
    assert torch.equal(attacked.model.vectors, subject.model.vectors)
    assert scores(attacked, bed) != scores(subject, bed)
    assert "vectors" not in dict(attacked.model.named_parameters())
    block = decoder_layers(attacked.model)[2][attacked.model.guard.layers[0]]
    assert attacked.model.pushed[0] is block


def test_the_middle_half_of_the_blocks() -> None:
    assert [middle_half(tiny(layers=depth)) for depth in (1, 2, 4, 8)] == [(0,), (0,), (1, 2), (2, 3, 4, 5)]


def test_what_is_refused(bed: Bed) -> None:
    for layers, message in (((), "at least one block"), ((1, 1), "none twice")):
        with pytest.raises(InputError, match=message):
            RepE(layers=layers)
    with pytest.raises(InputError, match="layer=7: the model has layers 0 to 1"):
        guarded(bed, RepE(layers=(7,)))
    with pytest.raises(InputError, match="repe: no forget record says whom"):
        unlearn(RepE(), UnlearnJob(bed.fresh(), [Record("q", "a")], [], Training()))
    assert last_states(bed.target, [Record("q", "")], (0,)).shape == (1, 1, 64)
