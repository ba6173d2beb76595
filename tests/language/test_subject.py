"""Loading, refusing, fingerprinting and saving models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.errors import InputError
from expunge.language.prepare import model_ref, write_note
from expunge.language.subject import add_lora, count_parameters, gguf_file, load_subject, make_template, merge_lora
from tiny_bed import Bed


@pytest.fixture(scope="module")
def saved(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bed.target.save(folder, "# card\n")
    write_note(bed.target, folder)
    return folder


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
