"""Recipes: resolved, checked at once, changed by overrides, and the same again after a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge import _yaml
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.recipe import Recipe, packaged

SMALL = """
name: small
model: {source: testbed}
benchmark: testbed
target: {train: {lr: 1e-4, steps: 3}}
gold: {}
unlearn: {train: {lr: 2.0e-4, batch_size: 8}}
methods: [npo]
audit: {attacks: [paraphrase]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def errors(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        Recipe.load(path, overrides)
    head, *lines = str(caught.value).splitlines()
    return [line.strip() for line in lines] or [head.removeprefix(f"{path}: ")]


def test_resolves_names_defaults_and_training(small: Path) -> None:
    recipe = Recipe.load(small)
    assert recipe.out == Path("runs/small")
    assert recipe.benchmark.fields["world_seed"] == 0  # the class's default, spelt out
    (npo,) = recipe.methods
    assert npo.fields["beta"] == 0.1
    assert recipe.target is not None
    assert recipe.target.train == Training(lr=1e-4, steps=3)
    assert recipe.training(npo) == Training(lr=2e-4, batch_size=8)
    changed = Recipe.load(small, ["methods.npo.train.lr=1"])
    assert changed.training(changed.methods[0]) == Training(lr=1.0, batch_size=8)
    assert npo.build().beta == 0.1


def test_all_attacks_of_the_wing_by_default(small: Path) -> None:
    for override in ("audit={}", "audit.attacks=null"):
        assert {a.name for a in Recipe.load(small, [override]).audit.attacks} >= {"relearn", "quantise"}
    assert Recipe.load(small, ["audit.attacks=[]"]).audit.attacks == []


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_are_valid_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert Recipe.load(again) == recipe
    assert Recipe.load(again).to_yaml() == recipe.to_yaml()


def test_every_error_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("""
        name: bad
        model: {sorce: testbed, template: chet}
        benchmark: {name: tofu, forget_split: forget15}
        target: {train: {lr: fast, optimizer: admw, weihgt_decay: 0}}
        methods: [nppo, {name: npo, beeta: 0.2, beta: high, train: {stps: 3}}]
        audit: {attacks: [relern], delta: 2}
        sed: 1
    """)
    assert set(errors(path)) == {
        "model.source: is required",
        "model.sorce: unknown key. Did you mean 'source'?",
        "model.template: 'chet' must be 'auto', 'chat', 'plain' or "
        "{user_start: ..., user_end: ..., assistant_start: ...}",
        "benchmark.forget_split: 'forget15' must be 'forget01', 'forget05' or 'forget10'. Did you mean 'forget10'?",
        "target.train.lr: 'fast' must be a valid number",
        "target.train.optimizer: 'admw' must be 'adamw', 'muon' or 'sgd'. Did you mean 'adamw'?",
        "target.train.weihgt_decay: unknown key. Did you mean 'weight_decay'?",
        "methods.0: Unknown method 'nppo'. Did you mean 'npo'?",
        "methods.1.beeta: unknown key. Did you mean 'beta'?",
        "methods.1.beta: 'high' must be a valid number",
        "methods.1.train.stps: unknown key. Did you mean 'steps'?",
        "audit.attacks.0: Unknown attack 'relern'. Did you mean 'relearn'?",
        "audit.delta: 2 must be less than 1",
        "sed: unknown key. Did you mean 'seed'?",
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["target=null"], "gold.source: 'retrain' needs 'target.train'"),
        (["gold.source=some/model", "gold.seeds=2"], "gold.seeds: 2 must be 1 with a gold model"),
        (["methods=[npo, NPO]"], "methods.1: 'npo' stands in the list twice"),
        (["target.train.lr=-1"], "target.train: Training settings out of range: lr=-1.0."),
        (["methods.0.train.lr=-1"], "methods.0.train: Training settings out of range: lr=-1.0."),
        (["methods=3"], "methods: 3 must be a valid list"),
        (["methods=[3]"], "methods.0: 3 must be the name of a known method"),
        (["model.lora.targets=3"], "model.lora.targets: 3 must be a valid string or must be a valid list"),
        (["name=a/b"], "name: 'a/b' must match pattern"),
    ],
)
def test_inconsistent_settings(small: Path, overrides: list[str], expected: str) -> None:
    (line,) = errors(small, *overrides)
    assert line.startswith(expected)


def test_overrides(small: Path) -> None:
    recipe = Recipe.load(
        small,
        [
            "methods=npo",
            "methods.0.beta=2e-1",
            "methods.npo.retain=none",
            "benchmark.world_seed=7",
            "model.lora.rank=4",
        ],
    )
    assert recipe.methods[0].fields["beta"] == 0.2
    assert recipe.methods[0].fields["retain"] == "none"
    assert recipe.benchmark.fields["world_seed"] == 7
    assert recipe.model.lora is not None
    assert recipe.model.lora.rank == 4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed", "an override has the form KEY=VALUE"),
        ("=3", "an override has the form KEY=VALUE"),
        ("a..b=3", "an override has the form KEY=VALUE"),
        ("methods.3.beta=1", "methods has no entry '3'; it has 0 to 0, or one of npo."),
        ("methods=[npo", "'methods=[npo', line 1: "),
    ],
)
def test_malformed_override(small: Path, override: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load(small, [override])
    assert sentence in str(caught.value)


def test_yaml_is_read_as_version_1_2() -> None:
    text = "{a: 1e-4, b: 1.5E3, c: .5, d: no, e: 010, f: 1:30, g: 2020-01-01, h: 0x1f, i: true, j: ~, k: -.inf}"
    assert _yaml.parse(text, "x") == {
        "a": 1e-4, "b": 1500.0, "c": 0.5, "d": "no", "e": 10, "f": "1:30", "g": "2020-01-01", "h": 31,
        "i": True, "j": None, "k": float("-inf"),
    }  # fmt: skip


def test_yaml_round_trip_keeps_words_words() -> None:
    value = {"a": "1e-4", "b": "no", "c": "", "d": "null", "e": 1e-7, "f": [1, [2.0]], "g": "1:30", "h": "ü"}
    assert _yaml.parse(_yaml.dump(value), "x") == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\nseed: 1\nname: b", "line 3: the key 'name' appears twice."),
        ("name: a\nmodel: {source: x", "line 2: "),
        ("name: a\n\tseed: 1", "line 2: "),
        ("- name", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("a: !!python/name:os.system ", "line 1: could not determine a constructor"),
    ],
)
def test_yaml_errors_name_file_and_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


def test_unknown_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'dmo' is neither .*Did you mean 'demo'\?"):
        Recipe.load("dmo")
    with pytest.raises(InputError, match="no such recipe file"):
        Recipe.load(tmp_path / "demo.yaml")


def test_fingerprint_follows_content_and_nothing_else(small: Path) -> None:
    recipe = Recipe.load(small)
    elsewhere = Recipe.load(small, ["out=other", "threads=3"])
    parts = ("seed", "model", "target", "methods.0")
    assert recipe.fingerprint(*parts) == elsewhere.fingerprint(*parts)
    explicit = Recipe.load(small, ["methods.0.beta=0.1"])  # the default, spelt out
    assert recipe.fingerprint(*parts) == explicit.fingerprint(*parts)
    for change in ("seed=1", "methods.0.beta=0.3", "target.train.steps=4"):
        assert recipe.fingerprint(*parts) != Recipe.load(small, [change]).fingerprint(*parts)
    with pytest.raises(InputError, match=r"no key 'methods\.5'"):
        recipe.fingerprint("methods.5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "methods=[npo]",
            "methods.0: 'npo' is of the language wing, and mini-mufac of the vision wing. Known: amnesiac",
        ),
        ("methods=[row-reset]", "'row-reset' is of the recommend wing"),
    ],
)
def test_a_method_of_another_wing_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe.load("demo-vision", [override])


def test_a_name_that_two_wings_share_is_the_benchmarks() -> None:
    for name, wing in (("demo", "language"), ("demo-vision", "vision"), ("demo-recommend", "recommend")):
        recipe = Recipe.load(name, ["methods=[ga]", "audit.attacks=[relearn]"])
        assert (recipe.methods[0].wing, recipe.audit.attacks[0].wing) == (wing, wing)
