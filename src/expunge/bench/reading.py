"""Reading bench recipes: found by path or name, changed by overrides, checked to the ends of every search space."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expunge import _yaml, catalog
from expunge._checked import explain
from expunge._overrides import override
from expunge.bench.settings import Bench, MethodPlan, Tuning, run_recipe
from expunge.bench.space import generic_space, parse_space
from expunge.catalog import Entry, normalise
from expunge.errors import InputError, nearest
from expunge.recipe import Recipe

PACKAGED = Path(__file__).parent / "recipes"
SPECIAL = ("search", "start", "skip")


def packaged() -> list[str]:
    """Names of the bench recipes that come with expunge."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def find_bench(source: str) -> Path:
    """The file of a bench recipe given by path, or by the name of a packaged one.

    Raises:
        InputError: Neither.
    """
    path, named = Path(source).expanduser(), PACKAGED / f"{normalise(source)}.yaml"
    if path.is_file():
        return path
    if path.name == source and named.is_file():
        return named
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"{source}: no such bench recipe file.")
    raise InputError(f"{source!r} is neither a file nor a packaged bench recipe.{nearest(source, packaged())}")


def load_bench(
    source: str,
    overrides: Iterable[str] = (),
    *,
    methods: str | None = None,
    seeds: int = 1,
    trials: int | None = None,
    out: Path | None = None,
) -> Bench:
    """Read and check a bench recipe.

    Args:
        source: A file, or the name of a packaged one.
        overrides: Changes to it, ``KEY=VALUE``.
        methods: ``all``, or names with commas between; None for those the recipe lists.
        seeds: Number of seeds, counted on from the recipe's.
        trials: Settings tried for each method.
        out: The bench folder.

    Raises:
        InputError: What is wrong with any of them.
    """
    return parse_bench(_read_bench(source, overrides, trials), source, methods=methods, seeds=seeds, out=out)


def _read_bench(source: str, overrides: Iterable[str], trials: int | None) -> dict[str, Any]:
    try:
        raw = _yaml.parse(find_bench(source).read_text(encoding="utf-8"), source)
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file in UTF-8.") from None
    if not isinstance(raw, dict):
        raise InputError(f"{source}: a bench recipe is a mapping of keys such as 'model' and 'methods'.")
    for text in overrides:
        override(raw, text)
    if trials is not None:
        override(raw, f"tuning.trials={trials}")
    return raw


def load_variants(
    source: str,
    overrides: Iterable[str] = (),
    *,
    methods: str | None = None,
    seeds: int = 1,
    trials: int | None = None,
    out: Path | None = None,
) -> list[Bench]:
    """The benches of a recipe: one, or one for each of its `variants`, in a folder of its own.

    A recipe's ``variants`` is a mapping of names to lists of ``key=value``, such as four kinds of request on the same
    data. Arguments and errors as of `load_bench`.
    """
    raw = _read_bench(source, overrides, trials)
    variants = raw.pop("variants", None)
    if variants is None:
        return [parse_bench(raw, source, methods=methods, seeds=seeds, out=out)]
    wrong = not isinstance(variants, dict) or not variants
    if wrong or not all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in variants.values()):
        raise InputError(f"{source}: variants: a mapping of names to lists of KEY=VALUE.")
    folder = Path(out or raw.get("out") or f"runs/bench-{raw.get('name', 'bench')}")
    benches = []
    for name, changes in variants.items():
        if str(name).strip(".") == "":  # it names a folder
            raise InputError(f"{source}: variants: a variant cannot be called {name!r}.")
        own = copy.deepcopy(raw)
        if "name" in raw:  # a recipe without one is refused for that
            own["name"] = f"{raw['name']}-{name}"
        for text in changes:
            override(own, text)
        where = f"{source}, variant {name}"
        benches.append(parse_bench(own, where, methods=methods, seeds=seeds, out=folder / str(name)))
    return benches


def parse_bench(
    raw: dict[str, Any], where: str, *, methods: str | None = None, seeds: int = 1, out: Path | None = None
) -> Bench:
    """Check plain data; see `load_bench`."""
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least one seed is needed.")
    shared = dict(raw)
    tuning, listed = _tuning(shared.pop("tuning", None), where), shared.pop("methods", None) or []
    folder = Path(out or shared.pop("out", None) or f"runs/bench-{shared.get('name', 'bench')}")
    shared.pop("out", None)
    base = Recipe.parse({**shared, "out": str(folder), "methods": []}, where)
    shared.pop("seed", None)
    wing = base.benchmark.wing
    if base.gold is None:
        raise InputError(f"{where}: gold: is required; a bench measures the distance to the gold model.")
    entries = _listed(listed, wing, where)
    names = _chosen(methods, entries, wing)
    plans, skipped = _plans(names, entries, base, where, lenient=methods == "all")
    bench = Bench(
        name=base.name,
        out=folder,
        run=shared,
        tuning=tuning,
        methods=tuple(plans),
        skipped=skipped,
        seeds=tuple(base.seed + i for i in range(seeds)),
        wing=wing,
    )
    return _checked(bench, where, lenient=methods == "all")


def _tuning(raw: Any, where: str) -> Tuning:
    try:
        return Tuning.model_validate(raw or {})
    except ValidationError as error:
        lines = explain(error, raw)
    raise InputError(f"{where}: tuning.{'; tuning.'.join(line.rstrip('.') for line in lines)}.")


def _listed(listed: Any, wing: str, where: str) -> dict[str, dict[str, Any]]:
    """The recipe's method entries by public name."""
    if not isinstance(listed, list):
        raise InputError(f"{where}: methods: must be a list of methods, each {{name: ..., and its settings}}.")
    entries: dict[str, dict[str, Any]] = {}
    for item in listed:
        raw = {"name": item} if isinstance(item, str) else item
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
            raise InputError(f"{where}: methods: {item!r} must be the name of a method, or {{name: ..., settings}}.")
        name = _find(raw["name"], wing, f"{where}: methods").name
        if name in entries:
            raise InputError(f"{where}: methods: {name!r} stands in the list twice.")
        entries[name] = {**raw, "name": name}
    return entries


def _find(name: str, wing: str, where: str) -> Entry:
    try:
        return catalog.find("method", name, wing)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _chosen(methods: str | None, entries: Mapping[str, Any], wing: str) -> list[str]:
    """Names of the methods asked for, each once."""
    if methods == "all":
        return [entry.name for entry in catalog.entries("method", wing)]
    if methods is None:
        return list(entries)
    names = [_find(word.strip(), wing, "--methods").name for word in methods.split(",") if word.strip()]
    if not names:
        raise InputError(f"--methods {methods!r}: must be 'all', or names with commas between.")
    return list(dict.fromkeys(names))


def _plans(
    names: list[str], entries: Mapping[str, dict[str, Any]], base: Recipe, where: str, *, lenient: bool
) -> tuple[list[MethodPlan], dict[str, str]]:
    plans, skipped = [], {}
    for name in names:
        raw = entries.get(name, {})
        if "skip" in raw:
            skipped[name] = str(raw["skip"])
            continue
        plans.append(_plan(name, raw, base, f"{where}: methods.{name}"))
    if not plans and not lenient:
        raise InputError(f"{where}: no method is left to run; name some with --methods.")
    return plans, skipped


def _plan(name: str, raw: Mapping[str, Any], base: Recipe, where: str) -> MethodPlan:
    entry = catalog.find("method", name, base.benchmark.wing)
    fixed = {key: value for key, value in raw.items() if key not in (*SPECIAL, "name")}
    if not isinstance(fixed.get("train", {}), Mapping):
        raise InputError(f"{where}.train: {fixed['train']!r} must be a mapping of training settings.")
    if "search" not in raw:
        return MethodPlan(name, fixed, generic_space(entry, fixed, base.unlearn.train.lr), generic=not raw)
    space = parse_space(raw["search"], entry, fixed, f"{where}.search")
    start = raw.get("start") or {}
    known = {d.name: d for d in space}
    if not isinstance(start, Mapping):
        raise InputError(f"{where}.start: {start!r} must be a mapping of searched settings to values.")
    for key, value in start.items():
        if key not in known:
            raise InputError(f"{where}.start: {key!r} is not searched.{nearest(str(key), known)}")
        if not known[key].holds(value):
            raise InputError(f"{where}.start.{key}: {value!r} lies outside what is searched.")
    return MethodPlan(name, fixed, space, dict(start))


def _checked(bench: Bench, where: str, *, lenient: bool) -> Bench:
    """The bench, if a run recipe with the ends of every search space is a valid one.

    With `lenient`, a method that cannot be used without settings nobody gave is set aside with the reason.
    """
    kept, skipped = [], dict(bench.skipped)
    for plan in bench.methods:
        try:
            _check_plan(bench, plan, where)
            kept.append(plan)
        except InputError as error:
            if not (lenient and plan.generic):
                raise
            skipped[plan.name] = f"needs an entry in the bench recipe ({str(error).removeprefix(f'{where}: ')})"
    return replace(bench, methods=tuple(kept), skipped=skipped)


def _check_plan(bench: Bench, plan: MethodPlan, where: str) -> None:
    probes = {d.name: d.probes() for d in plan.space}
    rounds = max([1, *(len(values) for values in probes.values())])
    for i in range(rounds):
        values = {name: options[min(i, len(options) - 1)] for name, options in probes.items()}
        entry = plan.entry(values)
        recipe = Recipe.parse(run_recipe(bench.run, bench.seeds[0], bench.out, [entry]), where)
        if recipe.training(recipe.methods[0]).evaluate_every:
            raise InputError(
                f"{where}: methods.{plan.name}: evaluate_every must be 0 in a bench: it selects weights by the forget "
                "score that is judged."
            )
