"""``expunge audit``: judge a model that somebody made forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli._common import (
    Debug,
    DryRun,
    FailOn,
    Force,
    Quiet,
    Threads,
    conclude,
    failures_told,
    messages,
    parse_gates,
    print_plan,
    use_threads,
)


def audit(
    model: Annotated[str, typer.Option(help="The model under audit.")],
    forget: Annotated[str | None, typer.Option(help="Records it should have forgotten.", show_default=False)] = None,
    retain: Annotated[str | None, typer.Option(help="Records it should have kept.", show_default=False)] = None,
    holdout: Annotated[str | None, typer.Option(help="Records no model was trained on.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help="The model before unlearning.", show_default=False)] = None,
    gold: Annotated[
        str | None, typer.Option(help="The model retrained without the forget records.", show_default=False)
    ] = None,
    spare_gold: Annotated[
        str | None, typer.Option(help="A second gold model, of another seed.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe that brings data and attacks, for classifiers and recommenders too; instead of records.",
            show_default=False,
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Train the target to refuse and check that every test finds that out.")
    ] = False,
    fail_on: FailOn = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="attacks=[relearn,quantise], a setting of the models (model.max_length=256), or of the control's "
            "training (train.lr=1e-5); with --recipe any of its keys. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/audit"),
    seed: Annotated[
        int | None, typer.Option(help="Fixes every random draw. [default: 0, or the recipe's]", show_default=False)
    ] = None,
    threads: Threads = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure what a model still knows of some records, and judge it."""
    with failures_told(debug):
        from expunge import api
        from expunge._overrides import override
        from expunge.errors import InputError, nearest

        gates = parse_gates(fail_on)
        others = {"target model": target, "gold model": gold, "spare gold model": spare_gold}
        named = [(what, source) for what, source in others.items() if source]
        if recipe is not None:
            if forget or retain or holdout:
                raise InputError("--recipe brings the data: leave --forget, --retain and --holdout out.")
            asked = api.recipe_to_audit(
                recipe, model, changes or (), target=target, control=control, out=out, seed=seed
            )
            if dry_run:
                print_plan(asked, *named)
                return
            use_threads(threads)
            scorecard = api.audit_recipe(
                recipe, model, changes or (), target=target, gold=gold, spare_gold=spare_gold, control=control,
                out=out, seed=seed, console=messages(quiet), force=force,
            )  # fmt: skip
            conclude(scorecard, out, gates, quiet)
            return
        if forget is None:
            raise InputError("--forget: the records it should have forgotten are missing; or name a --recipe.")
        given: dict[str, Any] = {}
        for text in changes or ():
            override(given, text)
        attacks, settings, train = given.pop("attacks", None), given.pop("model", {}), given.pop("train", {})
        attacks = [attacks] if isinstance(attacks, str) else attacks
        if given:
            key = next(iter(given))
            raise InputError(f"--set {key}: unknown key.{nearest(key, ['attacks', 'model', 'train'])}")
        checked = api.recipe_for(  # checks every name and setting before torch is loaded
            model,
            forget,
            retain,
            holdout,
            out=out,
            seed=seed or 0,
            methods=[],
            settings=settings,
            attacks=attacks,
            train=train,
            control=control,
        )
        if dry_run:
            print_plan(checked, *named)
            return
        use_threads(threads)
        scorecard = api.audit(
            model,
            forget,
            retain,
            holdout,
            target=target,
            gold=gold,
            spare_gold=spare_gold,
            control=control,
            out=out,
            seed=seed or 0,
            attacks=attacks,
            train=train,
            settings=settings,
            console=messages(quiet),
            force=force,
        )
        conclude(scorecard, out, gates, quiet)
