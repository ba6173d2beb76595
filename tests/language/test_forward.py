"""The lazy view against the library's own full forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from expunge.errors import InputError
from expunge.language.encode import Batch, Encoded, collate
from expunge.language.forward import ForwardPass, LanguageExamples, check_layer, cut_after, decoder_layers
from tiny_bed import Bed

SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    gemma = Gemma2Config(**SMALL, **HEADS, head_dim=8, final_logit_softcapping=3.0, query_pre_attn_scalar=8)
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL, **HEADS)),
        "gemma2": Gemma2ForCausalLM(gemma),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2)),
    }


MODELS = models()


def sequences() -> Encoded:
    g = torch.Generator().manual_seed(1)
    lengths = torch.tensor([5, 9, 7])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Encoded(torch.randint(3, 50, (21,), generator=g), offsets, torch.tensor([2, 4, 1]))


def by_hand(model: nn.Module, encoded: Encoded) -> list[Tensor]:
    """Each sequence alone, unpadded, with the library's full logits."""
    out = []
    for i in range(3):
        a, b = encoded.offsets[i : i + 2].tolist()
        ids = encoded.ids[a:b]
        logp = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        start = int(encoded.label_start[i])
        out.append(logp[start - 1 : -1].gather(-1, ids[start:, None])[:, 0])
    return out


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_token_logprobs_equal_unpadded_sequences(name: str) -> None:
    model = MODELS[name].double().eval()
    encoded = sequences()
    view = ForwardPass(model, collate(encoded, torch.arange(3)), (3, 1))
    expected = by_hand(model, encoded)
    # the view takes logits in float32
    assert torch.allclose(view.token_logprobs.double(), torch.cat(expected), atol=1e-5)
    assert torch.allclose(view.nll_sum.double(), torch.stack([-e.sum() for e in expected]), atol=1e-5)
    assert view.lengths.tolist() == [3, 5, 6]


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_hidden_equals_the_librarys_and_stops_early(name: str) -> None:
    model = MODELS[name].eval()
    encoded = sequences()
    batch = collate(encoded, torch.arange(3))
    full = model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True)
    _, _, blocks = decoder_layers(model)
    calls = [0, 0, 0]
    handles = [
        b.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1)) for i, b in enumerate(blocks)
    ]
    view = ForwardPass(model, batch, (3, 1))
    states = view.hidden(1)
    view.hidden(0)  # came for free
    for handle in handles:
        handle.remove()
    assert calls == [1, 1, 0]
    assert torch.allclose(states, full.hidden_states[2][batch.mask], atol=1e-6)
    assert len(decoder_layers(model)[2]) == 3


def test_the_head_sees_labelled_positions_only() -> None:
    model = MODELS["llama"]
    seen: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].shape[0]))
    view = ForwardPass(model, collate(sequences(), torch.arange(3)), (3, 1))
    view.nll, view.logprobs, view.nll_mean, view.token_logprobs, view.final_states  # noqa: B018
    handle.remove()
    assert seen == [3 + 5 + 6]  # once, 14 of 21 positions


def test_padding_and_its_content_change_nothing() -> None:
    model = MODELS["llama"].eval()
    encoded = sequences()
    batch = collate(encoded, torch.arange(3))
    wide = Batch(
        torch.nn.functional.pad(batch.input_ids, (0, 4), value=49),
        torch.nn.functional.pad(batch.mask, (0, 4)),
        torch.nn.functional.pad(batch.labelled, (0, 4)),
    )
    a, b = ForwardPass(model, batch, (3, 14)), ForwardPass(model, wide, (3, 14))
    assert torch.allclose(a.token_logprobs, b.token_logprobs, atol=1e-6)
    assert torch.allclose(a.hidden(1), b.hidden(1), atol=1e-6)
    assert torch.allclose(a.nll, b.nll)


def test_an_exception_inside_leaves_the_model_whole() -> None:
    model = MODELS["llama"]
    with pytest.raises(RuntimeError, match="inside"), cut_after(model, 0):
        raise RuntimeError("inside")
    assert len(decoder_layers(model)[2]) == 3


def test_layers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="layer=3: the model has layers 0 to 2"):
        check_layer(MODELS["llama"], 3)


@torch.no_grad()
def test_reference_logits_are_rebuilt_from_states() -> None:
    """Llama's are kept as states and projected again; Gemma-2 caps its logits, so they are kept as they are."""
    encoded = sequences()
    for name, kept in (("llama", "final_states"), ("gemma2", "logits")):
        model, examples = MODELS[name].float().eval(), LanguageExamples(encoded)
        stored, decode = examples.stored_as("logits", model)
        assert stored == kept
        view = examples.view(model, torch.arange(3), (1, 1), None)
        rebuilt = view.signal(stored) if decode is None else decode(view.signal(stored))
        assert torch.allclose(rebuilt, view.logits, atol=1e-5)


def test_a_loss_without_reference_says_so(bed: Bed) -> None:
    view = ForwardPass(bed.target.model, collate(sequences(), torch.arange(3)), (3, 1))
    with pytest.raises(InputError, match="needs a reference model and there is none"):
        view.reference.nll_sum  # noqa: B018
