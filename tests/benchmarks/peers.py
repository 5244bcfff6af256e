"""What others offer for such a search, each used as its documentation shows and without help from us."""

import itertools
import random
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
import optuna
from lpanas.search.budget import ARMS
from lpanas.search.pareto import non_dominated
from lpanas.search.rungs import spread
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from replay import Replay, Run, Searcher, Table

ETA = 4
"""One of so many goes on past a rung, for everything that has rungs."""


def optuna_peer(sampler: Callable[[int], BaseSampler], *, arms: bool = False) -> Searcher:
    """Optuna with a sampler by its seed: one run after the other, each to its end, repeats included. arms: those of the space
    come first, as in ours."""

    def run(replay: Replay, seed: int) -> None:
        study = _study(replay.table, sampler(seed))
        for name in ARMS if arms else ():
            study.enqueue_trial(replay.table.space.arm(name).params)
        while not replay.over:
            trial = study.ask(replay.table.space.distributions)
            study.tell(trial, replay.start(trial.params).train())

    return run


def multivariate(seed: int) -> BaseSampler:
    """Optuna's TPE with its parameters modelled together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(multivariate=True, seed=seed)


def halving(replay: Replay, seed: int) -> None:
    """Optuna's TPE and successive halving; the sampler learns of a stopped run that it was PRUNED, and no more."""
    table = replay.table
    study = _study(table, TPESampler(seed=seed))
    rungs: dict[int, list[tuple[float, ...]]] = {tokens: [] for tokens in rung_counts(table.counts, ETA)}
    while not replay.over:
        trial = study.ask(table.space.distributions)
        run = replay.start(trial.params)
        for tokens, entries in rungs.items():
            entries.append(run.train(tokens))
            if not last_goes_on(np.array(entries), ETA):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, run.train())


def last_goes_on(points: np.ndarray, eta: int) -> bool:
    """What `lpanas.search.rungs.goes_on` says of the last row, when all are feasible: faster where there are thousands of rows
    and most of them are repeats. points: (n, m)."""
    _, first, counts = np.unique(points, axis=0, return_index=True, return_counts=True)
    distinct, counts = points[np.sort(first)], counts[first.argsort()]
    newcomer = int(np.flatnonzero(np.all(distinct == points[-1], axis=1))[0])
    rest, place = np.arange(len(distinct)), 0
    while place < len(points) / eta and len(points) >= eta:
        on_front = non_dominated(distinct[rest])
        front = rest[on_front]
        if newcomer in front:  # repeats stand at the end of their front, as they come
            repeated = counts[newcomer] > 1
            place += counts[front].sum() - 1 if repeated else list(front[spread(distinct[front])]).index(newcomer)
            break
        place += counts[front].sum()
        rest = rest[~on_front]
    return len(points) < eta or place < len(points) / eta


def rung_counts(counts: Sequence[int], eta: int) -> tuple[int, ...]:
    """The recorded counts nearest to 1/eta, 1/eta^2, ... of a full run, as far as there are any, smallest first."""
    found, wanted = set[int](), counts[-1] / eta
    while wanted >= counts[0] * 0.99:
        found.add(min(counts, key=lambda count: abs(count - wanted)))
        wanted /= eta
    return tuple(sorted(found))


def syne_tune_moasha(replay: Replay, seed: int) -> None:
    """Syne Tune's MOASHA with its random proposals, its reduction factor and its priority; it stops, and never resumes."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice
    from syne_tune.optimizer.scheduler import SchedulerDecision
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    table = replay.table
    np.random.seed(seed)  # it draws from the global stream
    names = list(table.space.objectives)
    space = {name: choice(list(choices)) for name, choices in table.space.choices.items()}
    scheduler = MOASHA(space, names, time_attr="evaluation", max_t=len(table.counts), random_seed=seed)
    for number in itertools.count():
        if replay.over:
            return
        trial = Trial(number, scheduler.suggest().config, datetime.now())
        scheduler.on_trial_add(trial)
        run = replay.start(trial.config)
        for evaluation, tokens in enumerate(table.counts, 1):
            values = scaled(table, run.train(tokens))
            result = {"evaluation": evaluation, **dict(zip(names, values, strict=True))}
            if scheduler.on_trial_result(trial, result) == SchedulerDecision.STOP:
                break
        scheduler.on_trial_remove(trial)


def neps_peer(algorithm: str, **options: object) -> Searcher:
    """One of NePS's multi-objective algorithms, asked and told; a promoted run goes on from where it stood."""

    def run(replay: Replay, seed: int) -> None:
        import neps
        import torch
        from neps.optimizers import algorithms

        table = replay.table
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)  # it draws from the global streams
        space: dict[str, object] = {"evaluation": neps.HPOInteger(1, len(table.counts), is_fidelity=True)}
        for name, choices in table.space.choices.items():
            space[name] = neps.HPOCategorical(list(choices)) if len(choices) > 1 else neps.HPOConstant(choices[0])
        optimizer = neps.AskAndTell(getattr(algorithms, algorithm)(neps.SearchSpace(space), **options))
        runs: dict[str | None, Run] = {}
        while not replay.over:
            trial = optimizer.ask()
            run = runs.pop(trial.metadata.previous_trial_id, None) or replay.start(trial.config)
            runs[trial.id] = run
            values = run.train(table.counts[trial.config["evaluation"] - 1])
            optimizer.tell(trial, {"objective_to_minimize": scaled(table, values)})

    return run


def scaled(table: Table, values: tuple[float, ...]) -> list[float]:
    """Objectives in units of their range over the table's full runs, for those who add them up or measure distances without
    a scale of their own: knowing the range is a gift to them."""
    low = table.points.min(axis=0)
    return list((np.array(values) - low) / np.ptp(table.points, axis=0))


def _study(table: Table, sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize"] * len(table.space.objectives), sampler=sampler)


PEERS: dict[str, Searcher] = {
    "random": optuna_peer(lambda seed: RandomSampler(seed=seed)),
    "NSGA-II": optuna_peer(lambda seed: NSGAIISampler(seed=seed)),
    "TPE": optuna_peer(lambda seed: TPESampler(seed=seed)),
    "TPE multivariate": optuna_peer(multivariate),
    "TPE, arms first": optuna_peer(lambda seed: TPESampler(seed=seed), arms=True),
    "TPE multivariate, arms first": optuna_peer(multivariate, arms=True),
    "halving PRUNED": halving,
    "Syne Tune MOASHA": syne_tune_moasha,
    "NePS MOASHA": neps_peer("moasha"),
    "NePS MO-Hyperband": neps_peer("mo_hyperband"),
    "NePS PriMO": neps_peer("primo", prior_centers={}),
}
SLOW = {"halving PRUNED": 0.5, "Syne Tune MOASHA": 0.25, "NePS PriMO": 0.15}
"""Shares of the table up to which these are replayed at most: beyond, a single search computes for many minutes."""
