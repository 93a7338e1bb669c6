"""What a search draws, and by what rule a trial is pruned: samplers and pruners of Optuna. Torch is never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertwright.experiments.sweep_plan import Dimension, Plan

if TYPE_CHECKING:
    import optuna

# Drawn at random before TPE begins to learn from what was good.
_STARTUP_TRIALS = 10
# That have finished before any is pruned by the median.
_UNPRUNED_TRIALS = 4


def sampler_of(optuna: Any, plan: Plan, seed: int) -> Any:
    if plan.search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = _STARTUP_TRIALS if plan.num_trials is None else max(3, min(_STARTUP_TRIALS, plan.num_trials // 3))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def pruner_of(optuna: Any, plan: Plan) -> Any:
    if plan.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS)
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()


def suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if dimension.choices:
        # Optuna takes single values only: a list goes by its place.
        plain = all(choice is None or isinstance(choice, bool | int | float | str) for choice in dimension.choices)
        if plain:
            return trial.suggest_categorical(name, dimension.choices)
        return dimension.choices[trial.suggest_categorical(name, range(len(dimension.choices)))]
    if dimension.whole:
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
