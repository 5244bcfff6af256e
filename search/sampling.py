"""Optuna's proposals, from one study a rung."""

import warnings
from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from .record import Known
from .space import Space

POPULATION = 16
"""Of NSGA-II; Optuna's 50 would be most of a search's budget (assumption)."""


class RungStudies:
    """The studies of a search, in memory: an Optuna study with two objectives learns nothing from a run that was stopped, one
    of the rung's own does; and what is refused never reaches the storage."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.studies = dict[int | None, RungStudy]()

    def asked(self, known: Sequence[Known], level: int | None, seed: int) -> Iterator[dict[str, str]]:
        """Points that the space's sampler proposes when it knows what runs have shown at a rung, one after the other without
        end."""
        if level not in self.studies:
            self.studies[level] = RungStudy(self.space)
        rung = self.studies[level]
        rung.learn(known, level)
        if self.space.search.sampler == "nsga2":  # its parents come in another order from its cache than when they are chosen
            rung.ask(0)
        rung.study.sampler = _sampler(self.space, seed)
        while True:
            yield rung.ask()


class RungStudy:
    """A rung's study, which is told each run once: making it anew takes half a second at 500 runs."""

    def __init__(self, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.study = optuna.create_study(directions=["minimize"] * len(space.objectives))
        self.reached, self.running = set[str](), dict[str, int]()
        """Runs that have come here; those on their way, with their trials."""

    def ask(self, seed: int | None = None) -> dict[str, str]:
        """One more point, which the study is told nothing of; by a fresh sampler when there is a seed."""
        if seed is not None:
            self.study.sampler = _sampler(self.space, seed)
        trial = self.study.ask(self.space.distributions)
        self.study.tell(trial, state=TrialState.FAIL)  # at once: one that is left running would repel TPE for ever
        return {name: trial.params[name] for name in self.space.choices}

    def learn(self, known: Sequence[Known], level: int | None) -> None:
        """Whatever is new about the runs."""
        starting = [run for run in known if level not in run.losses and not run.ended]
        for run in self.running.keys() - {run.job.run for run in starting}:
            self.study.tell(self.running.pop(run), state=TrialState.FAIL)
        for run in known:
            if level in run.losses and run.job.run not in self.reached:
                self.study.add_trial(_trial(self.space, run, level, len(self.reached) // POPULATION))
                self.reached.add(run.job.run)
        for run in starting:
            if run.job.run not in self.running:
                self.study.add_trial(_running(self.space, run))
                self.running[run.job.run] = len(self.study.get_trials(deepcopy=False)) - 1


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
