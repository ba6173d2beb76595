"""The accidents of the WMDP code, shown to be accidents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.language.compat_wmdp import cyber_lines_wmdp, seventh_parameter_wmdp
from expunge.language.forward import decoder_layers
from expunge.language.methods.rmu import RMU
from expunge.language.wmdp_data import read_corpus
from tiny_models import tiny


@pytest.mark.parametrize(("family", "name"), [("llama", "mlp.down_proj.weight"), ("qwen2", "self_attn.o_proj.weight")])
def test_the_seventh_parameter_depends_on_the_architecture(family: str, name: str) -> None:
    model = tiny(family)
    assert seventh_parameter_wmdp(decoder_layers(model)[2][0]) == name
    assert RMU().trainable(model) == ["model.layers.0.mlp.down_proj.weight"]


def test_lines_of_json_are_not_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "cyber.jsonl"
    path.write_text(json.dumps({"text": 'say "hi"\nagain'}) + "\n", encoding="utf-8")
    assert cyber_lines_wmdp(path) == ['{"text": "say \\"hi\\"\\nagain"}']
    assert [r.answer for r in read_corpus(str(path))] == ['say "hi"\nagain']
    assert [r.answer for r in read_corpus(str(path), "raw")] == cyber_lines_wmdp(path)
