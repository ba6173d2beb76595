"""Kept models: made once, keyed by everything they depend on, and loaded again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.prepare import Models, ModelSpec, model_ref
from recommend.tiny import STEPS, TRAINING, forget_of, network, trained, world


def models(cache: Path, **changes: object) -> Models:
    spec = ModelSpec("testbed", world().train, lambda seed: network("lightgcn", seed))
    return Models(replace(spec, **changes), cache, seed=0)  # type: ignore[arg-type]


def test_a_trained_model_is_made_once_and_is_the_one_training_gives(tmp_path: Path) -> None:
    found = models(tmp_path)
    first = found.trained(world().train, TRAINING, 0, "target")
    assert first.load().weights_hash() == trained().weights_hash()
    assert first.folder is not None
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    again = models(tmp_path).trained(world().train, TRAINING, 0, "target")
    assert again.folder == first.folder
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert not found.part(first.folder.name).exists()
    assert model_ref(first.folder).load().fingerprint() == first.load().fingerprint()


def test_everything_it_depends_on_has_a_key_of_its_own(tmp_path: Path) -> None:
    found, train = models(tmp_path), world().train
    catalogue = torch.ones(40, dtype=torch.bool)
    catalogue[:5] = False
    retain = train.without(forget_of())
    refs = [
        found.trained(train, STEPS, 0, "a"),
        found.trained(train, STEPS, 1, "a"),
        found.trained(retain, STEPS, 0, "a"),
        found.trained(train, replace(STEPS, lr=1e-3), 0, "a"),
        found.trained(train, STEPS, 0, "a", catalogue),
    ]
    assert len({ref.folder for ref in refs}) == 5
    assert len({ref.load().weights_hash() for ref in refs}) == 5
    gold = refs[2].load()
    assert torch.equal(gold.served.pairs, retain.pairs)
    assert torch.equal(refs[4].load().catalogue, catalogue)


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    spec = ModelSpec("testbed", world().train, lambda seed: network("lightgcn", seed))

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt  # before the checkpoint of this step is written

    with suppress(KeyboardInterrupt):
        Models(spec, tmp_path, seed=0, observers=lambda _: Observers(progress=kill)).trained(
            world().train, STEPS, 0, "target"
        )
    notes: list[str] = []
    resumed = Models(spec, tmp_path, seed=0, note=notes.append).trained(world().train, STEPS, 0, "target")
    assert notes == ["target: stopped earlier, resumed from the checkpoint at step 2."]
    straight = models(tmp_path / "other").trained(world().train, STEPS, 0, "target")
    assert resumed.load().weights_hash() == straight.load().weights_hash()


def test_a_model_of_the_users_own(tmp_path: Path) -> None:
    trained().save(tmp_path / "own", "# own\n")
    found = models(tmp_path / "cache", source=str(tmp_path / "own"))
    assert found.delivered().load().weights_hash() == trained().weights_hash()
    assert models(tmp_path).other(str(tmp_path / "own")).load().fingerprint() == trained().fingerprint()
    another = models(tmp_path / "cache", source=str(tmp_path / "own"), train=Interactions(61, 40, world().train.pairs))
    with pytest.raises(InputError, match="60 users"):
        another.base()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="untrained; say how the target is trained"):
        models(tmp_path).delivered()
    with pytest.raises(InputError, match="brings no network of its own"):
        models(tmp_path, network=None).base()
    with pytest.raises(InputError, match="no model kept by expunge"):
        model_ref(tmp_path)
