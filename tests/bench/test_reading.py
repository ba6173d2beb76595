"""Bench recipes: what they may hold, what is refused, which methods are chosen. Nothing is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge import catalog
from expunge.bench.cells import Job
from expunge.bench.reading import load_bench, packaged, parse_bench
from expunge.errors import InputError
from tiny_bench import RAW, raw


def methods(**entry: Any) -> dict[str, Any]:
    return raw(methods=[{"name": "npo", **entry}])


def test_the_packaged_demo_covers_the_catalog() -> None:
    assert "demo" in packaged()
    bench = load_bench("demo", methods="all", seeds=3)
    named = {plan.name for plan in bench.methods} | set(bench.skipped)
    assert named == {entry.name for entry in catalog.entries("method", "language")}
    assert bench.seeds == (0, 1, 2)
    assert bench.recipe(2, Path("x")).seed == 2


def test_a_method_without_an_entry_gets_the_generic_space() -> None:
    bench = parse_bench(raw(), "tiny", methods="simnpo,npo")
    simnpo, npo = bench.methods
    assert simnpo.generic
    assert [d.name for d in simnpo.space] == ["lr", "forget_weight", "retain_weight"]
    assert not npo.generic
    assert npo.fixed == {"beta": 0.5}


def test_an_entry_of_a_run_recipe_is_made_of_fixed_and_searched_settings() -> None:
    bench = parse_bench(methods(beta=0.5, train={"steps": 3}, search={"lr": [1e-3], "retain": ["kl"]}), "tiny")
    entry = bench.plan("npo").entry(bench.plan("npo").first())
    assert entry == {"name": "npo", "beta": 0.5, "retain": "kl", "train": {"steps": 3, "lr": 1e-3}}
    recipe = bench.recipe(0, Path("x"), [entry])
    assert recipe.training(recipe.methods[0]).lr == 1e-3


def test_the_start_is_tried_first() -> None:
    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "beta": {"low": 1, "high": 3}}
    bench = parse_bench(methods(search=space, start={"lr": 5e-4}), "tiny")
    assert bench.plan("npo").first() == {"lr": 5e-4, "beta": 2.0}


def test_overrides_reach_every_part(tmp_path: Path) -> None:
    changes = ["tuning.floor=0.8", "benchmark.forget=5", "methods.npo.search.beta.low=0.1", "seed=4"]
    bench = load_bench("demo", changes, methods="npo", seeds=2, trials=3, out=tmp_path)
    assert (bench.tuning.floor, bench.tuning.trials, bench.seeds) == (0.8, 3, (4, 5))
    assert bench.recipe(4, tmp_path).benchmark.fields["forget"] == 5
    assert next(d.low for d in bench.plan("npo").space if d.name == "beta") == 0.1


def test_a_skipped_method_is_set_aside_with_its_reason() -> None:
    bench = parse_bench(raw(methods=["npo", {"name": "rmu", "skip": "too slow here"}]), "tiny")
    assert [plan.name for plan in bench.methods] == ["npo"]
    assert bench.skipped == {"rmu": "too slow here"}


def test_a_method_that_needs_a_setting_is_set_aside_in_all_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    npo = catalog.find("method", "npo", "language")
    demanding = replace(npo, fields=(npo.fields[0]._replace(name="words", annotation="str", default=None),))
    find = catalog.find
    monkeypatch.setattr(catalog, "find", lambda k, n, w=None: demanding if n == "npo" else find(k, n, w))
    bench = parse_bench(raw(methods=[]), "tiny", methods="all")
    assert "needs an entry in the bench recipe" in bench.skipped["npo"]
    assert "words: is required" in bench.skipped["npo"]
    with pytest.raises(InputError, match="words: is required"):
        parse_bench(raw(methods=[]), "tiny", methods="npo")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (raw(methods=["nppo"]), "tiny: methods: Unknown method 'nppo'. Did you mean 'npo'?"),
        (raw(methods=["npo", {"name": "NPO"}]), "methods: 'npo' stands in the list twice"),
        (raw(methods=[{"nme": "npo"}]), "must be the name of a method"),
        (raw(methods={"npo": {}}), "must be a list of methods"),
        (raw(methods=[]), "no method is left to run"),
        (raw(tuning={"trals": 3}), "tuning.trals: unknown key. Did you mean 'trials'?"),
        (raw(tuning={"floor": 2}), "tuning.floor: 2 must be less than or equal to 1"),
        ({k: v for k, v in RAW.items() if k != "gold"}, "gold: is required"),
        (raw(modl=3), "modl: unknown key. Did you mean 'model'?"),
        (methods(bta=3), "bta: unknown key. Did you mean 'beta'?"),
        (methods(train=3), "methods.npo.train: 3 must be a mapping"),
        (methods(search={"lr": {"low": -1, "high": 1}}), "lr=-1.0"),
        (methods(search={"retain": ["nll", "nil"]}), "retain"),
        (methods(search={"lr": [1e-3]}, start={"beta": 3}), "start: 'beta' is not searched"),
        (methods(search={"lr": [1e-3]}, start={"lr": 3}), "start.lr: 3 lies outside what is searched"),
        (methods(search={"lr": [1e-3]}, start=3), "start: 3 must be a mapping"),
        (methods(train={"evaluate_every": 2}), "evaluate_every must be 0 in a bench"),
    ],
)
def test_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bench(content, "tiny")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("dmo", "'dmo' is neither a file nor a packaged bench recipe. Did you mean 'demo'?"),
        ("no/such.yaml", "no/such.yaml: no such bench recipe file."),
    ],
)
def test_no_such_recipe(source: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load_bench(source)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("words", ["nppo", ",", "npo,nppo"])
def test_wrong_methods_on_the_command_line(words: str) -> None:
    with pytest.raises(InputError, match="--methods"):
        parse_bench(raw(), "tiny", methods=words)


def test_a_file_that_is_no_mapping_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("- npo\n")
    with pytest.raises(InputError, match="a bench recipe is a mapping"):
        load_bench(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_bench(str(path))


# -- keys ---------------------------------------------------------------------------------------------


def key(kind: Any, content: dict[str, Any], seed: int = 0, settings: Any = None) -> str:
    bench = parse_bench(content, "tiny")
    return Job(kind, bench, seed, "" if kind == "reference" else "npo", settings or bench.plan("npo").first()).key


def test_a_cell_is_keyed_by_what_it_depends_on() -> None:
    settings = {"lr": 1e-3, "retain_weight": 2.0}
    same = key("cell", raw(), settings=settings)
    assert key("cell", raw(name="other", cache="/elsewhere"), settings=settings) == same
    assert key("cell", raw(tuning={"trials": 9}), settings=settings) == same
    assert key("cell", raw(), settings={**settings, "lr": 2e-3}) != same
    assert key("cell", raw(), seed=1, settings=settings) != same
    assert key("cell", raw(tuning={"share": 0.3}), settings=settings) != same
    assert key("cell", raw(audit={"draws": 21}), settings=settings) != same


def test_a_search_does_not_depend_on_the_audit() -> None:
    assert key("search", raw(audit={"draws": 21})) == key("search", raw())
    assert key("search", raw(tuning={"trials": 3})) != key("search", raw())
    assert key("search", methods(beta=0.4, search={"lr": [1e-3]})) != key(
        "search", methods(beta=0.5, search={"lr": [1e-3]})
    )
