import gzip
import json
import math
import sys
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.search.rungs import goes_on
from making import ended, job, tiny_space

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))  # where the benchmark finds its mates when it is run
from peers import PEERS, last_goes_on, rung_counts
from replay import Finished, Replay, Table, read_table
from search_efficiency import Course, course, middle, read_courses, verdict, write_courses

SPACE = tiny_space("vary.bands=2", "search.trials=36")
COUNTS = tuple(range(40, 680, 40))
ALWAYS = ("random", "NSGA-II", "TPE", "TPE multivariate", "halving PRUNED")


def made(number, params):
    """A run whose loss is random and falls towards its end."""
    loss = 2 + Random(number).random()
    record = ended(job(SPACE.candidate(params), f"trial-{number}"), loss)
    return record.change(curve=tuple((tokens, loss + 1 - tokens / COUNTS[-1]) for tokens in COUNTS))


POINTS = [dict(zip(SPACE.choices, point, strict=True)) for point in product(*SPACE.choices.values())]
RECORDS = [made(number, params) for number, params in enumerate(POINTS)]


def write(folder, records):
    (folder / "space.yaml").write_text(dump_yaml(SPACE))
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    (folder / "records.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    noise = ended(job(SPACE.arm("dense"), "noise-0", seed=1), 1.0)
    return read_table(write(tmp_path_factory.mktemp("table"), [*RECORDS, noise]))


def dominated(points, reference, low, cells=400):
    """The share of a fine grid over the box from `low` to the reference that some point dominates."""
    axes = [(np.arange(cells) + 0.5) / cells * (high - start) + start for start, high in zip(low, reference, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    return np.mean(np.any([np.all(point <= grid, axis=-1) for point in points], axis=0))


def test_a_run_is_looked_up_at_every_count(table):
    assert (table.counts, table.run_tokens, table.tokens) == (COUNTS, 640, 36 * 640)
    for record in RECORDS:
        found = table.record(dict(reversed(record.params.items())))
        assert found.run == record.run
        for tokens, loss in record.curve:
            assert table.values(found, tokens) == (loss, record.costs["flops_per_token"])


def test_an_incomplete_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="complete run of each of the 36 points, found 35"):
        read_table(write(tmp_path, RECORDS[1:]))
    with pytest.raises(UserError, match="found 35"):
        read_table(write(tmp_path, [*RECORDS[1:], RECORDS[0].change(status="diverged", loss_nats=None)]))
    with pytest.raises(UserError, match="same token counts"):
        read_table(write(tmp_path, [*RECORDS[1:], RECORDS[0].change(curve=RECORDS[0].curve[1:])]))


def test_hypervolume_shares_are_those_of_brute_force(table):
    low = table.points.min(axis=0)
    whole = dominated(table.points, table.reference, low)
    for seed in range(5):
        some = table.points[Random(seed).sample(range(36), 4)]
        assert table.share(some) == pytest.approx(dominated(some, table.reference, low) / whole, abs=0.01)
    assert table.share(table.points) == 1


def test_every_point_of_the_table_is_inside_the_reference(table):
    assert np.all(table.points < table.reference)
    assert all(table.share(point[None]) > 0 for point in table.points)


def test_a_run_costs_what_it_trains_and_a_repeat_costs_it_again(table):
    replay = Replay(table, 10**6)
    run = replay.start(POINTS[3])
    assert run.train(40)[0] > run.train(160)[0]
    assert (replay.spent, replay.finished) == (160, [])
    values = run.train()
    assert replay.finished == [Finished(640, values)]
    replay.start(POINTS[3]).train()
    assert [one.spent for one in replay.finished] == [640, 1280]


def test_a_course_is_the_hypervolume_of_what_was_finished_by_then(table):
    replay = Replay(table, 10 * 640)
    order = Random(1).sample(POINTS, 10)
    for place, params in enumerate(order):
        run = replay.start(params)
        run.train(160)
        if place % 3:
            run.train()
    went = course(replay)
    for tokens in range(0, replay.budget, 100):
        finished = [one.values for one in replay.finished if one.spent <= tokens]
        expected = table.share(np.array(finished)) if finished else 0
        assert went.at(tokens / table.tokens) == pytest.approx(expected)
    assert math.isnan(went.at(0.5))
    first = next(when for when, share in went.steps if share >= 0.3)
    assert went.reaches(0.3) == first
    assert went.reaches(1.1) == math.inf


def test_a_level_that_most_never_reach_has_no_finite_median():
    assert middle([3.0, math.inf, 1.0]) == 3
    assert middle([1.0, math.inf, math.inf]) == math.inf
    assert middle([1.0, 2.0, 4.0, math.inf]) == 3
    assert middle([5.0, 1.0, 2.0, 4.0, 3.0], 0.25) == 2
    assert math.isnan(middle([1.0, math.nan]))


@pytest.mark.parametrize("name", ALWAYS)
def test_a_searcher_is_a_function_of_its_seed_and_keeps_to_its_budget(table, name):
    replays = [Replay(table, 9 * 640 + 100) for _ in range(3)]
    for replay, seed in zip(replays, (5, 5, 6), strict=True):
        PEERS[name](replay, seed)
        assert replay.budget <= replay.spent < replay.budget + 640
        assert replay.finished
    assert replays[0].finished == replays[1].finished != replays[2].finished


def test_the_unpruned_finish_all_that_they_start(table):
    for name in ALWAYS[:-1]:
        replay = Replay(table, 5 * 640)
        PEERS[name](replay, 0)
        assert len(replay.finished) == 5
        assert replay.spent == 5 * 640


def test_halving_stops_most_runs_early(table):
    replay = Replay(table, 18 * 640)
    PEERS["halving PRUNED"](replay, 0)
    assert len(replay.finished) < 12


def test_rungs_stand_at_recorded_counts():
    assert rung_counts(COUNTS, 4) == (40, 160)
    assert rung_counts(COUNTS, 3) == (80, 200)
    assert rung_counts(COUNTS, 2) == (40, 80, 160, 320)


def test_the_fast_decision_is_that_of_the_rungs():
    for seed in range(300):
        random = np.random.default_rng(seed)
        points = random.integers(0, 6, (random.integers(1, 30), 2)).astype(float)
        assert last_goes_on(points, 3) == goes_on(points, np.ones(len(points), dtype=bool), len(points) - 1, 3)


def test_the_rule_is_kept_by_the_fast_and_broken_by_the_slow():
    fast, slow = ([Course(((start, 0.8), (start * 3, 0.96)), 1.0)] for start in (0.02, 0.2))
    assert [line.split(":")[0].strip() for line in verdict({"ours": fast, "TPE": slow})] == ["kept", "kept"]
    assert [line.split(":")[0].strip() for line in verdict({"ours": slow, "TPE": fast})] == ["NOT kept", "NOT kept"]
    assert verdict({"TPE": slow}) == []


def test_courses_read_back_as_written(tmp_path):
    found = {"TPE": [Course(((0.1, 0.5), (0.2, 0.7)), 1.0, 0.2), Course((), 1.0, math.inf)], "random": [Course((), 0.5)]}
    write_courses(found, tmp_path / "courses.json")
    assert read_courses(tmp_path / "courses.json") == found
    assert json.loads((tmp_path / "courses.json").read_text())["random"] == [{"steps": [], "budget": 0.5, "front": None}]


def test_the_front_is_found_within_its_noise_by_runs_that_cost_no_more_and_are_behind_by_chance_at_most(table):
    noisy = Table(
        table.space, table.records, [ended(job(SPACE.arm("dense"), f"noise-{n}", seed=n), 1.0 + n / 50) for n in range(3)]
    )
    assert table.resolvable_nats == 0.0  # a single seed says nothing
    chance = noisy.resolvable_nats
    assert chance > 0
    for one in (table, noisy):
        assert one.met(one.front) == len(one.front) == one.met(one.points)
    loss = np.array([name == "loss_nats" for name in table.space.objectives])
    assert noisy.met(noisy.front + 0.99 * chance * loss) == len(noisy.front)
    assert noisy.met(noisy.front + 1.01 * chance * loss) < len(noisy.front)
    assert noisy.met(noisy.front + ~loss) < len(noisy.front)
    assert noisy.met(noisy.front[:1]) >= 1
