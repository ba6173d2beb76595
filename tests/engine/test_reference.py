"""The frozen reference: one answer from whichever source, and only for what was asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from expunge.engine import reference as ref
from expunge.engine.loop import Loop
from expunge.engine.method import Step
from expunge.engine.training import Training
from expunge.errors import InputError, RunError
from expunge.language.forward import LanguageExamples
from tiny_models import VOCABULARY, Ascent, distance, same, sequences, streams, tiny, weights

SIGNALS = ["token_logprobs", "logits", "hidden.0", "hidden.1", "final_states"]
TRAINING = Training(steps=4, batch_size=8, lr=1e-2, schedule="constant", warmup=0.0)
ROWS = torch.tensor([5, 2, 7])


def examples() -> dict[str, LanguageExamples]:
    return {"forget": LanguageExamples(sequences(9, 1))}


def direct(model: nn.Module, signal: str, rows: Tensor = ROWS) -> Tensor:
    with torch.no_grad():
        return examples()["forget"].view(model, rows, (1, 1), None).signal(signal)


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)


def adapted() -> Any:
    torch.manual_seed(1)
    return get_peft_model(tiny(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_the_cache_is_the_model_before_training(family: str, signal: str) -> None:
    """Also with a trained head (logits are stored as states) and with a soft cap behind the head."""
    model = tiny(family)
    expected = direct(model, signal)
    visited = torch.tensor([2, 5, 7, 8])
    cache = ref.build(model, examples(), {"forget": visited}, {("forget", signal)}, batch=2)
    assert cache is not None
    assert cache.name == "cache"
    move(model)
    assert not torch.allclose(direct(model, signal), expected, atol=1e-2)
    torch.testing.assert_close(cache.signal("forget", ROWS, signal), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("signal", SIGNALS)
def test_adapters_off_and_a_frozen_copy_agree(signal: str) -> None:
    model = adapted()
    expected = direct(model, signal)
    off = ref.build(model, examples(), {"forget": ROWS}, {("forget", signal)}, limit=0)
    copy = ref.build(tiny(), examples(), {"forget": ROWS}, {("forget", signal)}, limit=0)
    assert off is not None
    assert copy is not None
    assert (off.name, copy.name) == ("adapters-off", "frozen-copy")
    move(model)
    assert not torch.allclose(direct(model, signal), expected, atol=1e-2)
    torch.testing.assert_close(off.signal("forget", ROWS, signal), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copy.signal("forget", ROWS, signal), expected, atol=1e-5, rtol=1e-5)


def test_switching_adapters_off_leaves_no_trace() -> None:
    """Frozen adapter parameters stay frozen, the mode and the adapters come back."""
    model = adapted().train()
    first = next(n for n, p in model.named_parameters() if p.requires_grad)
    model.get_parameter(first).requires_grad_(False)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    off = ref.build(model, examples(), {"forget": ROWS}, {("forget", "token_logprobs")}, limit=0)
    assert off is not None
    off.signal("forget", ROWS, "token_logprobs")
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert model.training
    move(model)
    assert not torch.equal(direct(model, "token_logprobs"), off.signal("forget", ROWS, "token_logprobs"))


def test_adapters_that_were_trained_before_are_part_of_the_reference() -> None:
    """Switched off they would be the wrong model: the reference is the target WITH what it has learned."""
    model = adapted()
    move(model)
    expected = direct(model, "token_logprobs")
    source = ref.build(model, examples(), {"forget": ROWS}, {("forget", "token_logprobs")}, limit=0)
    assert source is not None
    assert source.name == "frozen-copy"
    move(model)
    torch.testing.assert_close(source.signal("forget", ROWS, "token_logprobs"), expected)


def test_the_limit_counts_what_the_cache_would_hold() -> None:
    """token_logprobs: 4 bytes a label. One byte less than needed, and another source is taken."""
    data = examples()["forget"]
    need = 4 * int(data.counts[ROWS].sum())
    for limit, name in ((need, "cache"), (need - 1, "frozen-copy")):
        found = ref.build(tiny(), examples(), {"forget": ROWS}, {("forget", "token_logprobs")}, limit=limit)
        assert found is not None
        assert found.name == name


def test_logits_are_stored_as_states_unless_something_follows_the_head() -> None:
    data = examples()["forget"]
    assert data.stored_as("logits", tiny())[0] == "final_states"
    assert data.stored_as("logits", tiny("gemma2"))[0] == "logits"
    assert data.width("final_states", tiny()) == 16
    assert data.width("logits", tiny()) == VOCABULARY


def test_the_recorder_notes_what_was_asked() -> None:
    recorder = ref.Recorder(tiny(), examples())
    found = recorder.signal("forget", ROWS, "token_logprobs")
    assert recorder.asked == {("forget", "token_logprobs")}
    torch.testing.assert_close(found, direct(tiny(), "token_logprobs"))
    assert ref.build(tiny(), examples(), {"forget": ROWS}, set()) is None


def test_a_reference_of_its_own_must_share_nothing() -> None:
    model, other = tiny(), tiny()
    ref.frozen_copy(model, other, examples())
    assert not any(p.requires_grad for p in other.parameters())
    with pytest.raises(InputError, match="shares weights"):
        ref.frozen_copy(model, model, examples())
    other.model.norm.weight = model.model.norm.weight
    with pytest.raises(InputError, match="shares weights"):
        ref.frozen_copy(model, other, examples())


def test_a_given_reference_is_used_and_not_moved() -> None:
    """Under another model the forget term at the start is not 0 any more."""
    other = tiny(seed=5)
    before = weights(other)
    log = Loop(tiny(), Ascent(), streams(4), TRAINING, seed=0, reference=other).run()
    plain = Loop(tiny(), Ascent(), streams(4), TRAINING, seed=0).run()
    assert log.reference == "frozen-copy"
    assert same(before, weights(other))
    assert plain.steps[0]["forget"] == pytest.approx(0, abs=1e-5)
    assert abs(log.steps[0]["forget"]) > 1e-3


class Late(Ascent):
    """Asks the reference for hidden states from the third step on only."""

    def forget_loss(self, step: Step) -> Tensor:
        loss = super().forget_loss(step)
        return loss if step.index < 2 else loss + step.forget.reference.hidden(0).mean()


def test_a_request_after_the_first_batch_is_a_clear_error() -> None:
    with pytest.raises(RunError, match=r"hidden\.0 of the forget records only after its first batch"):
        Loop(tiny(), Late(), streams(4), TRAINING, seed=0).run()


def test_every_source_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache, adapters off and copy in whole runs; with dropout, which the reference must not have."""
    found = {}
    for name, limit, fresh in (("cache", None, True), ("adapters-off", 0, True), ("frozen-copy", 0, False)):
        with monkeypatch.context() as patch:
            real = ref.build
            patch.setattr(ref, "build", lambda *a, limit=limit, real=real, **k: real(*a, **k, limit=limit))
            patch.setattr(ref, "fresh_adapters", lambda model, fresh=fresh: fresh)
            torch.manual_seed(1)
            config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.2)
            model = get_peft_model(tiny(attention_dropout=0.2), config)
            log = Loop(model, Ascent(), streams(4), TRAINING, seed=0).run()
            assert log.reference == name
            found[name] = weights(model)
    assert distance(found["cache"], found["adapters-off"]) < 1e-4
    assert distance(found["cache"], found["frozen-copy"]) < 1e-4
