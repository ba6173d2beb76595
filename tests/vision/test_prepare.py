"""Preparing classifiers: a key of all they depend on, kept once, resumed, and refused in words."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import NOTE
from expunge.vision.augmentation import Augmentation
from expunge.vision.prepare import Models, ModelSpec, model_ref
from expunge.vision.subject import small_cnn
from tiny_faces import SHAPE, splits, untrained
from tiny_vision import apart, changed, state

TRAINING = Training(steps=4, batch_size=8, lr=1e-2, schedule="constant", warmup=0.0, clip=None)


def models(cache: Path, **changes: object) -> Models:
    spec = ModelSpec("testbed", 4, untrained)
    return Models(replace(spec, **changes), cache, seed=3)  # type: ignore[arg-type]


def test_a_model_is_filed_under_everything_it_depends_on(tmp_path: Path) -> None:
    retain, first = splits()["retain"], models(tmp_path)

    def folder(made: Models = first, images=retain, training: Training = TRAINING, seed: int = 0) -> Path:  # type: ignore[no-untyped-def]
        found = made.trained(images, training, seed, "target model").folder
        assert found is not None
        return found

    plain = folder()
    others = [
        folder(images=retain.take(range(40))),
        folder(training=replace(TRAINING, lr=2e-2)),
        folder(seed=1),
        folder(models(tmp_path, augment=Augmentation())),
        folder(models(tmp_path, network=lambda seed: small_cnn(replace(SHAPE, features=16), seed))),
    ]
    assert len({plain, *others}) == 6
    stamp = (plain / "model.safetensors").stat().st_mtime_ns
    assert folder(models(tmp_path)) == plain
    assert (plain / "model.safetensors").stat().st_mtime_ns == stamp  # not trained again
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({plain.name, *(p.name for p in others)})
    assert (plain / "README.md").read_text(encoding="utf-8").startswith("# target model")


def test_what_is_kept_is_the_base_after_its_training(tmp_path: Path) -> None:
    """The seed makes the network and the order; weights and running statistics are what training left."""
    made = models(tmp_path).trained(splits()["retain"], TRAINING, 5, "gold").load()
    base = untrained(5)
    assert not made.model.training
    assert changed(state(made.model), state(base.model)) == set(state(base.model))
    again = models(tmp_path / "elsewhere").trained(splits()["retain"], TRAINING, 5, "gold").load()
    assert not changed(state(made.model), state(again.model))


def test_an_interrupted_training_is_resumed_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 3:
            raise KilledError

    notes: list[str] = []
    spec = ModelSpec("testbed", 4, untrained)
    with suppress(KilledError):
        Models(spec, tmp_path, seed=0, observers=lambda _: Observers(progress=kill)).trained(
            splits()["retain"], TRAINING, 0, "target model"
        )
        raise AssertionError("it was not killed")
    resumed = Models(spec, tmp_path, seed=0, note=notes.append).trained(splits()["retain"], TRAINING, 0, "target model")
    undisturbed = models(tmp_path / "undisturbed").trained(splits()["retain"], TRAINING, 0, "target model")
    assert apart(state(resumed.load().model), state(undisturbed.load().model)) == 0
    (note,) = notes
    assert note.startswith("target model: stopped earlier, resumed from the checkpoint at step ")
    assert not list(tmp_path.glob("*.training"))


def test_a_model_of_the_users_is_taken_as_it_is(tmp_path: Path) -> None:
    subject = untrained(7)
    subject.save(tmp_path / "mine", "# card\n")
    spec = ModelSpec(str(tmp_path / "mine"), 4)
    mine = Models(spec, tmp_path, seed=0)
    assert mine.delivered().load().fingerprint() == subject.fingerprint() == mine.base().fingerprint()
    assert models(tmp_path).other(str(tmp_path / "mine")).load().fingerprint() == subject.fingerprint()
    assert mine.adapted(subject, 0) is subject  # classifiers are trained whole
    pixels = splits()["test"].pixels(torch.arange(2))
    assert torch.equal(mine.adapted_base().model(pixels), subject.model(pixels))


def test_what_cannot_be_prepared_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this benchmark brings no network of its own; name a model"):
        models(tmp_path, network=None).base()
    with pytest.raises(InputError, match=r"untrained; say how the target is trained \(target\.train\)"):
        models(tmp_path).delivered()
    with pytest.raises(InputError, match="untrained; say how"):
        models(tmp_path).other("testbed")
    with pytest.raises(InputError, match="no model folder there"):
        models(tmp_path, source=str(tmp_path / "nothing")).base()
    with pytest.raises(InputError, match="no model kept by expunge"):
        model_ref(tmp_path)
    half = tmp_path / "half"
    untrained().save(half, "# card\n")  # written, but not yet complete
    with pytest.raises(InputError, match="half: no model kept by expunge"):
        model_ref(half)
    (half / NOTE).write_text("{}", encoding="utf-8")
    assert model_ref(half).load().classes == 4
