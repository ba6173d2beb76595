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
    # Gemma-2's norms and rotary angles are float32 inside the library, and depend on nothing of ours
    exact = 1e-6 if name in ("gemma2", "llama", "qwen2") else 1e-12
    assert view.token_logprobs.dtype == torch.float64
    assert torch.allclose(view.token_logprobs, torch.cat(expected), atol=exact)
    assert torch.allclose(view.logprobs.gather(-1, view.labels[:, None])[:, 0], torch.cat(expected), atol=exact)
    assert torch.allclose(view.nll_sum, torch.stack([-e.sum() for e in expected]), atol=10 * exact)
    assert torch.allclose(view.nll_mean, torch.stack([-e.mean() for e in expected]), atol=exact)
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


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_equal_those_of_the_librarys_loss() -> None:
    """Token-weighted mean over labels, with the library's own loss on masked labels (-100 is its mask)."""
    model = MODELS["llama"].float().train()
    batch = collate(sequences(), torch.arange(3))
    mine = gradients(model, ForwardPass(model, batch, (3, 14)).nll)
    marked = torch.where(batch.labelled, batch.input_ids, -100)
    loss = model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=marked).loss
    theirs = gradients(model, loss)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-4)


def test_a_hidden_state_trains_its_block_and_what_lies_below() -> None:
    model = MODELS["llama"].float()
    view = ForwardPass(model, collate(sequences(), torch.arange(3)), (3, 14))
    touched = gradients(model, view.hidden(1).square().mean())
    blocks = {name.split(".")[2] for name in touched if ".layers." in name}
    assert blocks == {"0", "1"}
    assert not any("norm.weight" in n and "layers" not in n for n in touched)


def test_hidden_states_ask_for_the_deepest_first_or_run_again() -> None:
    model = MODELS["gpt2"].float().eval()
    view = ForwardPass(model, collate(sequences(), torch.arange(3)), (3, 14))
    low = view.hidden(0)
    view.hidden(2)
    assert view.hidden(0) is low
    fresh = ForwardPass(model, collate(sequences(), torch.arange(3)), (3, 14))
    fresh.hidden(2)
    torch.testing.assert_close(fresh.hidden(0), low)


def test_an_exception_in_a_forward_pass_leaves_no_hook_behind() -> None:
    model = MODELS["llama"].float().eval()
    batch = collate(sequences(), torch.arange(3))
    expected = ForwardPass(model, batch, (3, 14)).token_logprobs
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    for read in ("hidden", "logits"):
        handle = model.model.layers[0].register_forward_pre_hook(fail)
        view = ForwardPass(model, batch, (3, 14))
        with pytest.raises(RuntimeError, match="out of memory"):
            view.hidden(1) if read == "hidden" else view.logits
        handle.remove()
        assert len(model.model.layers) == 3
        assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
        torch.testing.assert_close(view.token_logprobs, expected)  # the same view recovers
        assert view.hidden(1).shape[0] == int(batch.mask.sum())
    full = model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
    assert full.shape == (*batch.input_ids.shape, 50)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_are_part_of_the_view(targets: str | list[str]) -> None:
    """A PEFT model, also with an adapter on the head: the view equals the library's full pass."""
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(**SMALL, **HEADS)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    model.eval()
    view = ForwardPass(model, collate(sequences(), torch.arange(3)), (3, 14))
    torch.testing.assert_close(view.token_logprobs, torch.cat(by_hand(model, sequences())), atol=1e-5, rtol=1e-5)
    assert view.hidden(1).shape == (21, 16)
    gradients(model, view.nll + view.hidden(1).mean())
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_B" in n)


@torch.no_grad()
def test_reductions_by_hand() -> None:
    """Rows have 3, 5 and 6 labels; sums of ones are those; means divide by the totals of the step, not the batch."""
    view = ForwardPass(MODELS["llama"].float().eval(), collate(sequences(), torch.arange(3)), (10, 100))
    ones = torch.ones(14)
    assert view.sum_rows(ones).tolist() == [3, 5, 6]
    assert float(view.per_row(view.sum_rows(ones))) == pytest.approx(1.4)
    assert float(view.per_token(ones)) == pytest.approx(0.14)
    assert view.rows.tolist() == [0] * 3 + [1] * 5 + [2] * 6
    assert view.token_rows.tolist() == [0] * 5 + [1] * 9 + [2] * 7
    assert view.positions.tolist() == [*range(5), *range(9), *range(7)]
    assert float(view.nll) == pytest.approx(float(view.nll_sum.sum()) / 100)
