"""Whatever the reference is read from, it gives the same numbers: cache, adapters off, frozen copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.engine import reference as ref
from expunge.engine.loop import Loop
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.encode import encode
from expunge.language.forward import LanguageExamples
from expunge.language.methods.kl_min import KLMin
from expunge.language.methods.npo import NPO
from expunge.language.subject import Subject, add_lora
from expunge.language.unlearn import make_streams
from tiny_bed import Bed

ROWS = torch.tensor([5, 0, 17, 3])  # neither sorted nor complete
SIGNALS = ["token_logprobs", "logits", "hidden.0", "hidden.1"]


def examples(bed: Bed) -> dict[str, LanguageExamples]:
    subject = bed.target
    encoded = encode(bed.forget[:20], subject.tokenizer, subject.template, max_length=128)
    return {"forget": LanguageExamples(encoded)}


def fresh(bed: Bed, signal: str) -> Tensor:
    """The signal under the untouched target, computed on the spot."""
    with torch.no_grad():
        return examples(bed)["forget"].view(bed.target.model, ROWS, (1, 1), None).signal(signal)


def move(subject: Subject, only: str = "") -> None:
    """Train away from the start: the reference must not follow."""
    with torch.no_grad():
        for name, p in subject.model.named_parameters():
            if only in name:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))


@pytest.mark.parametrize("signal", SIGNALS)
def test_cache_equals_fresh(bed: Bed, signal: str) -> None:
    subject, data = bed.fresh(), examples(bed)
    source = ref.build(subject.model, data, {"forget": ROWS.sort().values}, {("forget", signal)}, batch=2)
    assert source is not None
    assert source.name == "cache"
    move(subject)
    torch.testing.assert_close(source.signal("forget", ROWS, signal), fresh(bed, signal), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("signal", SIGNALS)
def test_frozen_copy_equals_fresh(bed: Bed, signal: str) -> None:
    subject, data = bed.fresh(), examples(bed)
    source = ref.build(subject.model, data, {"forget": ROWS.sort().values}, {("forget", signal)}, limit=0)
    assert source is not None
    assert source.name == "frozen-copy"
    move(subject)
    torch.testing.assert_close(source.signal("forget", ROWS, signal), fresh(bed, signal), rtol=0, atol=0)


@pytest.mark.parametrize("signal", SIGNALS)
def test_adapters_off_equals_fresh(bed: Bed, signal: str) -> None:
    subject, data = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0), examples(bed)
    source = ref.build(subject.model, data, {"forget": ROWS.sort().values}, {("forget", signal)}, limit=0)
    assert source is not None
    assert source.name == "adapters-off"
    move(subject, only="lora_")
    torch.testing.assert_close(source.signal("forget", ROWS, signal), fresh(bed, signal), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        trained = data["forget"].view(subject.model, ROWS, (1, 1), None).signal(signal)
    assert (trained - fresh(bed, signal)).abs().max() > 0.1


def test_a_reference_that_is_the_trained_model_is_refused(bed: Bed) -> None:
    subject = bed.fresh()
    training = Training(steps=1, batch_size=4)
    streams = make_streams(NPO(), subject, bed.forget, bed.retain, training, 0)
    with pytest.raises(InputError, match="shares weights with the model being trained"):
        Loop(subject.model, NPO(), streams, training, seed=0, reference=subject.model).run()


def test_a_loss_that_asks_nothing_gets_no_reference(bed: Bed) -> None:
    subject = bed.fresh()
    training = Training(steps=1, batch_size=4)
    for method, source in ((NPO(forget_weight=1.0), "cache"), (KLMin(), "cache")):
        streams = make_streams(method, subject, bed.forget, bed.retain, training, 0)
        assert Loop(subject.model, method, streams, training, seed=0).run().reference == source
    assert ref.build(subject.model, examples(bed), {"forget": ROWS}, set()) is None
