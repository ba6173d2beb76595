"""FILA's files: a pair that comes back whole, and what is refused beside the wrong weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.language.fila import initialise, lora_layers, oriented
from expunge.language.fila_files import (
    base_hash,
    load_importances,
    load_pair,
    save_importances,
    save_pair,
)
from expunge.language.subject import Subject, add_lora, hash_weights, merge_lora
from tiny_bed import Bed


@pytest.fixture
def pair(bed: Bed) -> Subject:
    """A subject whose adapters hold part of the weights, and have moved since."""
    subject = add_lora(bed.fresh(), 4, 8.0, "all-linear", 0.0, seed=0)
    layers = lora_layers(subject.model)
    initialise(layers, {name: torch.linspace(0.1, 2, oriented(m).shape[0]) for name, m in layers.items()})
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B["default"].weight.mul_(0.9)
    return subject


def logits(subject: Subject) -> Tensor:
    with torch.no_grad():
        return subject.model(torch.arange(3, 30)[None]).logits  # type: ignore[no-any-return]


def test_a_pair_comes_back_with_the_same_logits(pair: Subject, tmp_path: Path) -> None:
    save_pair(pair, tmp_path)
    loaded = load_pair(tmp_path)
    assert torch.equal(logits(loaded), logits(pair))
    assert [p.requires_grad for n, p in loaded.model.named_parameters() if ".lora_" in n].count(False) == 0
    torch.testing.assert_close(logits(merge_lora(loaded)), logits(merge_lora(pair)), rtol=0, atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))


def test_the_adapter_is_refused_on_the_delivered_model(pair: Subject, bed: Bed, tmp_path: Path) -> None:
    save_pair(pair, tmp_path / "pair")
    bed.target.save(tmp_path / "delivered", "card")
    with pytest.raises(InputError, match=r"are not the base the adapter in .* was split from") as error:
        load_pair(tmp_path / "pair", base=str(tmp_path / "delivered"))
    assert len(str(error.value).split(". ")) == 1
    assert base_hash(bed.target.model)[:8] in str(error.value)
    moved = tmp_path / "elsewhere"
    (tmp_path / "pair" / "base").rename(moved)
    assert torch.equal(logits(load_pair(tmp_path / "pair", base=str(moved))), logits(pair))


def test_the_hash_is_that_of_the_plain_model(bed: Bed) -> None:
    plain = bed.fresh()
    before = hash_weights(plain.model)
    assert base_hash(plain.model) == before
    subject = add_lora(plain, 4, 8.0, "all-linear", 0.0, seed=0)
    assert base_hash(subject.model) == before
    initialise(layers := lora_layers(subject.model), {n: torch.ones(oriented(m).shape[0]) for n, m in layers.items()})
    assert base_hash(subject.model) != before


def test_no_pair_to_write_or_read(bed: Bed, pair: Subject, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapter"):
        save_pair(bed.fresh(), tmp_path / "none")
    with pytest.raises(InputError, match=r"pair.json is missing or broken"):
        load_pair(tmp_path)
    save_pair(pair, tmp_path)
    (tmp_path / "adapter" / "pair.json").write_text("[]")
    with pytest.raises(InputError, match=r"pair.json is missing or broken"):
        load_pair(tmp_path)


# -- importances --------------------------------------------------------------------------------------

FOUND = {side: {"a": torch.rand(3, 2), "b": torch.rand(4, 4)} for side in ("forget", "retain")}
SHAPES = {"a": (3, 2), "b": (4, 4)}
BELONGS = {"model": "1234", "forget set": "ab", "group": "1"}


def test_importances_come_back(tmp_path: Path) -> None:
    save_importances(tmp_path / "x" / "i.safetensors", FOUND, BELONGS)
    found = load_importances(tmp_path / "x" / "i.safetensors", SHAPES, BELONGS)
    assert all(torch.equal(found[side][name], FOUND[side][name]) for side in FOUND for name in FOUND[side])
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["i.safetensors"]


@pytest.mark.parametrize(
    ("shapes", "belongs", "says"),
    [
        ({**SHAPES, "a": (2, 2)}, BELONGS, r"another model or other targets \(a is \(3, 2\) in it and \(2, 2\) here"),
        ({"a": (3, 2)}, BELONGS, r"b is \(4, 4\) in it and no target here"),
        ({**SHAPES, "c": (1, 1)}, BELONGS, r"c is missing in it and \(1, 1\) here"),
        (SHAPES, {**BELONGS, "model": "9999"}, "importances of another model;"),
        (SHAPES, {**BELONGS, "forget set": "cd"}, "importances of another forget set;"),
        (SHAPES, {**BELONGS, "group": "4"}, "importances of another group;"),
    ],
)
def test_importances_of_anything_else_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], belongs: dict[str, str], says: str
) -> None:
    save_importances(tmp_path / "i.safetensors", FOUND, BELONGS)
    with pytest.raises(InputError, match=says):
        load_importances(tmp_path / "i.safetensors", shapes, belongs)


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "i.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a readable file of importances"):
        load_importances(tmp_path / "i.safetensors", SHAPES, BELONGS)
