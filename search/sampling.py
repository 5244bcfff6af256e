"""Optuna's proposals, from one study a rung."""

import warnings
from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from .proxy import Known
from .space import Space

POPULATION = 16
"""Of NSGA-II; Optuna's 50 would be most of a search's budget (assumption)."""


def asked(space: Space, known: Sequence[Known], level: int | None, seed: int) -> Iterator[dict[str, str]]:
    """Points that the space's sampler proposes when it knows what runs have shown at a rung, one after the other without end.

    The study is made anew in memory: an Optuna study with two objectives learns nothing from a run that was stopped, one of
    the rung's own does; and what is refused never reaches the storage.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(space.objectives), sampler=_sampler(space, seed))
    reached = [run for run in known if level in run.losses]
    study.add_trials([_trial(space, run, level, number // POPULATION) for number, run in enumerate(reached)])
    study.add_trials([_running(space, run) for run in known if not run.losses])
    while True:
        trial = study.ask(space.distributions)
        yield {name: trial.params[name] for name in space.choices}
        study.tell(trial, state=TrialState.FAIL)


def _trial(space: Space, run: Known, level: int | None, generation: int) -> FrozenTrial:
    assert level is not None
    return create_trial(
        params=run.job.params,
        distributions=space.distributions,
        values=run.values(space.objectives, level),
        system_attrs={"NSGAIISampler:generation": generation},  # else it takes the runs for no population of its own
    )


def _running(space: Space, run: Known) -> FrozenTrial:
    """Repels TPE from what is being trained."""
    return create_trial(params=run.job.params, distributions=space.distributions, state=TrialState.RUNNING)


def _sampler(space: Space, seed: int) -> optuna.samplers.BaseSampler:
    if space.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if space.search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
