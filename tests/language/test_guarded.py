"""A target and a companion side by side: one model to those who feed it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.encode import collate
from expunge.language.forward import ForwardPass
from expunge.language.guarded import CompanionLogits, Guarded, LogitGuard, read_guard
from expunge.language.methods.whp_logits import WHPLogits
from expunge.language.score import score_answers
from expunge.language.subject import load_subject
from expunge.language.testbed import TEMPLATE
from tiny_bed import Bed
from tiny_models import sequences, tiny


@dataclass(frozen=True)
class Middle(LogitGuard):
    share: float = 0.5

    def combine(self, target: Tensor, companion: CompanionLogits, *, decoding: bool) -> Tensor:
        return middle(target, companion.everywhere())


def middle(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2


def pair(family: str = "llama") -> Guarded:
    return Guarded(tiny(family), tiny(family, seed=1), Middle()).eval()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_its_logits_are_those_of_both_combined(family: str) -> None:
    ids = torch.tensor([[5, 7, 9, 11]])
    model = pair(family)
    with torch.no_grad():
        expected = middle(*(m(input_ids=ids).logits for m in (model.target, model.companion)))
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
        torch.testing.assert_close(model(input_ids=ids, logits_to_keep=1).logits, expected[:, -1:])


def test_a_view_reads_it_like_one_model() -> None:
    """Padded rows, the head at labels only, against the combination of two views."""
    encoded = sequences(6)
    model = pair()
    batch = collate(encoded, torch.arange(6))
    ours, *theirs = (ForwardPass(m, batch, (1, 1)) for m in (model, model.target, model.companion))
    torch.testing.assert_close(ours.logits, middle(theirs[0].logits, theirs[1].logits))
    assert ours.final_states.shape == (len(ours.labels), 32)
    assert ours.hidden(1).shape == theirs[0].hidden(1).shape


def test_weights_are_counted_once_and_the_companion_is_frozen() -> None:
    model = pair()
    alone = sum(p.numel() for p in tiny().parameters())
    assert sum(p.numel() for p in model.parameters()) == 2 * alone
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == alone


def test_single_tokens_of_the_companion_are_the_whole_projection_there() -> None:
    for bias in (False, True):
        head = nn.Linear(6, 11, bias=bias, dtype=torch.float64)
        companion = CompanionLogits(head, torch.randn(4, 6, dtype=torch.float64))
        tokens = torch.randint(11, (4, 3))
        torch.testing.assert_close(companion.at(tokens), companion.everywhere().gather(-1, tokens))


def test_saved_and_loaded_it_is_the_same_guarded_model(bed: Bed, tmp_path: Path) -> None:
    """Scores to the bit, the fingerprint, and the target's own weights hash; a plain loader finds no model."""
    guard = WHPLogits(alpha=3.0, scale="raw")
    subject = bed.target.with_model(Guarded(bed.fresh().model, bed.base().model, guard).eval())
    subject.save(tmp_path / "model", "card")
    loaded = replace(load_subject(str(tmp_path / "model"), template="plain"), template=TEMPLATE)
    loaded = replace(loaded, max_length=subject.max_length)
    assert loaded.model.guard == guard
    assert loaded.fingerprint() == subject.fingerprint()
    assert loaded.weights_hash() == bed.target.weights_hash()
    records = bed.records["forget"][:8]
    ours, theirs = (score_answers(s, records, [[r.answer] for r in records]) for s in (subject, loaded))
    assert (ours.logprob == theirs.logprob).all()
    assert not (tmp_path / "model" / "config.json").exists()
    other = bed.target.with_model(Guarded(bed.fresh().model, bed.base().model, replace(guard, alpha=4.0)).eval())
    assert other.fingerprint() != subject.fingerprint()


def test_a_damaged_note_is_refused(tmp_path: Path) -> None:
    for text, reason in (
        ("{", "not a guard kept by expunge"),
        ('{"guard": "npo", "settings": {}}', "'npo' is no guard"),
    ):
        (tmp_path / "guard.json").write_text(text)
        with pytest.raises(InputError, match=reason):
            read_guard(tmp_path)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="vocabularies of 37 and 40 tokens; they must share one"):
        Guarded(tiny(), tiny(vocab_size=40), Middle())
    with pytest.raises(InputError, match=r"changes logits after the head \(final_logit_softcapping\)"):
        pair("gemma2")
