"""The search of one method: a small budget of trials, each an unlearning and a cheap probe, no audit.

Tree-structured Parzen estimation (Bergstra et al., NIPS 2011) as Optuna does it. Every trial is proposed by a
sampler of its own seed, from the trials finished before, so that a killed search, started again, proposes what it
would have proposed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.bench.cells import Job, Outcome, reference_of, sentence, study_key, tuned_seeds
from expunge.bench.settings import MethodPlan, Tuning
from expunge.engine.training import derive_seed
from expunge.errors import ExpungeError, InputError, RunError

RANDOM_TRIALS = 3  # before the estimator has anything to estimate from; the first of them is the starting point


def require_optuna() -> Any:
    """Optuna.

    Raises:
        InputError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            "The bench searches settings with Optuna, which is not installed; pip install 'expunge[bench]', or give "
            "--trials 0 to judge the starting settings."
        ) from None
    return optuna


def objective(probed: Mapping[str, float], reference: Mapping[str, Mapping[str, float]], tuning: Tuning) -> float:
    """Distance of the forget score to gold's, plus the price of utility lost below the floor.

    d = |f - f_gold| + penalty * max(0, (floor + margin) - r / r_target), with the floor kept at 1 at most.
    """
    distance = abs(probed["forget"] - reference["gold"]["forget"])
    kept = probed["retain"] / max(reference["target"]["retain"], 1e-9)
    return distance + tuning.penalty * max(0.0, min(1.0, tuning.floor + tuning.margin) - kept)


def search(job: Job) -> Outcome:
    """Try settings until the budget is spent or the deadline has passed; the best ones win."""
    bench, plan = job.bench, job.bench.plan(job.method)
    budget = min(bench.tuning.trials, 1) if not plan.space else bench.tuning.trials
    if not plan.space or budget == 0:
        return Outcome("done", {"method": job.method, "settings": plan.first(), "trials": [], "objective": None})
    folder = bench.out / "searches" / job.method
    study = open_study(folder, study_key(bench, job.method))
    try:
        with Trials(job, folder / "run") as trials:
            while len(_told(study)) < budget:
                if job.deadline is not None and time.time() >= job.deadline:
                    return Outcome("partial", {"trials": len(_told(study))}, "the time limit was reached")
                _one(study, plan, job, trials)
    finally:
        close_study(study)
        shutil.rmtree(folder / "run", ignore_errors=True)
    return _best(study, plan, job)


def _one(study: Any, plan: MethodPlan, job: Job, trials: Trials) -> None:
    """One trial: proposed, carried out, told."""
    optuna = require_optuna()
    told = _told(study)
    seed = derive_seed(job.seed, "search", job.method, len(told)) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, multivariate=False)
    if not told:
        study.enqueue_trial({d.name: d.parameter(v) for d, v in zip(plan.space, plan.first().values(), strict=True)})
    trial = study.ask()
    values = {d.name: d.suggest(trial) for d in plan.space}
    trial.set_user_attr("settings", values)
    try:
        value, probed = trials.value(values)
    except ExpungeError as error:
        trial.set_user_attr("error", sentence(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    trial.set_user_attr("probes", probed)
    study.tell(trial, value)


def _told(study: Any) -> list[Any]:
    """The trials that ended; those a kill interrupted do not count and are proposed again."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and not t.user_attrs.get("stale")]


def _best(study: Any, plan: MethodPlan, job: Job) -> Outcome:
    told = _told(study)[: job.bench.tuning.trials]
    rows = [
        {"settings": t.user_attrs["settings"], "objective": t.value, **_kept(t.user_attrs)} for t in told
    ]  # fmt: skip
    valid = [row for row in rows if row["objective"] is not None]
    if not valid:
        raise RunError(f"All {len(rows)} trials failed; the last one: {rows[-1]['error']}")
    best = min(valid, key=lambda row: row["objective"])
    return Outcome("done", {"method": job.method, **best, "trials": rows, "generic": plan.generic})


def _kept(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in ("probes", "error") if key in attributes}


def open_study(folder: Path, key: str) -> Any:
    """The study of a search, on disk; trials that a kill left running are closed."""
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / 'study.db').resolve()}")
    study = optuna.create_study(storage=storage, study_name=key, direction="minimize", load_if_exists=True)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            storage.set_trial_user_attr(trial._trial_id, "stale", True)
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    return study


def close_study(study: Any) -> None:
    """Let go of the study's file."""
    study._storage.remove_session()
    backend = getattr(study._storage, "_backend", study._storage)
    backend.engine.dispose()


class Trials:
    """Carries out trials of one method; the models of each tuned seed are prepared once."""

    def __init__(self, job: Job, folder: Path) -> None:
        """Bind a search to a scratch folder."""
        self.job, self.folder = job, folder

    def __enter__(self) -> Trials:
        from contextlib import ExitStack

        self.stack = ExitStack()
        self.opened = [self._open(seed) for seed in tuned_seeds(self.job.bench)]
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _open(self, seed: int) -> tuple[Any, Any, Any, dict[str, Any]]:
        from expunge.bench.separation import separate
        from expunge.runner import opened
        from expunge.stages import prepare

        bench, tuning = self.job.bench, self.job.bench.tuning
        recipe = bench.recipe(seed, self.folder / f"seed-{seed}")
        recipe = recipe.model_copy(update={"audit": recipe.audit.model_copy(update={"control": False}), "gold": None})
        context = self.stack.enter_context(opened(recipe, None, False))
        division = separate(context.wing, context.workload, tuning.share, tuning.rows, bench.seeds[0])
        return context, prepare(context)["target"], division, reference_of(bench, seed)["probes"]

    def value(self, values: Mapping[str, Any]) -> tuple[float, list[dict[str, float]]]:
        """The objective of some settings, mean over the tuned seeds, and what was probed."""
        from expunge.bench.separation import probe
        from expunge.stages import unlearn_stage

        bench, found, total = self.job.bench, [], 0.0
        entry = bench.plan(self.job.method).entry(values)
        for seed, (context, target, division, reference) in zip(tuned_seeds(bench), self.opened, strict=True):
            recipe = bench.recipe(seed, context.folder, [entry])
            ref = unlearn_stage(replace(context, recipe=recipe), target, recipe.methods[0])
            probed = probe(context.wing, ref.load(), division, context.workload)
            found.append(probed)
            total += objective(probed, reference, bench.tuning)
        return total / len(found), found
