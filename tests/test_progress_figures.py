import math
import statistics

import numpy as np
import pytest
from lpanas.search.pareto import hypervolume
from lpanas.search.progress_figures import progress_figure, progress_rows
from lpanas.search.record import Measured
from lpanas.search.results import Results
from making import ended, job, record, tiny_space

SPACE = tiny_space()
DENSE = SPACE.dense_costs["flops_per_token"]
START = 1.7e9


def ran(number, loss, share, end=None, arm=None, **changes):
    """A candidate that costs a share of dense, its hour of end given; each starts an hour before."""
    its = record(number, loss, round(share * DENSE), arm=arm)
    return its.change(measured=None if end is None else at(end), **changes)


def at(end):
    return Measured(device="cpu", started=START + 3600 * (end - 1), seconds=3600.0, train_seconds=1.0, peak_memory_bytes=1)


ARMS = [
    ran(0, 3.0, 1.0, 1, arm="dense"),
    ran(1, 3.2, 0.5, 3, arm="attention"),
    ran(2, 3.4, 0.8, 2, arm="ffn"),
]
"""The corner: 3.4 and a tenth of 0.4 is 3.44 nats, 1 and a tenth of 0.5 is 1.05 of dense."""


def rows_of(*records, seeds=(), space=SPACE):
    return progress_rows(Results(space, list(records), list(seeds)))


def test_a_row_is_a_run_by_its_end_with_the_dominated_area_so_far():
    rows = rows_of(*ARMS, ran(3, 3.1, 0.9, 4), ran(4, 3.3, 0.95, 5))
    dense, ffn, attention = 0.44 * 0.05, 0.04 * (0.25 - 0.05), 0.24 * 0.55 + 0.2 * 0.05
    last = attention + 0.1 * 0.1
    assert list(rows["run"]) == ["trial-0", "trial-2", "trial-1", "trial-3", "trial-4"]
    assert list(rows["hypervolume"]) == pytest.approx([dense / last, (dense + ffn) / last, attention / last, 1, 1], rel=1e-3)
    assert list(rows["tokens"]) == [640, 1280, 1920, 2560, 3200]
    assert list(rows["hours"]) == pytest.approx([1, 2, 3, 4, 5], abs=1e-6)
    assert list(rows["better"]) == [True, True, True, True, False]


def drawn_study(space, count=40):
    """Candidates by chance, the first three of them arms, that end in another order than they are numbered."""
    random = np.random.default_rng(len(space.objectives))
    ends, records = random.permutation(count), []
    for n in range(count):
        costs = {name: int(cost * random.uniform(0.4, 1)) for name, cost in space.dense_costs.items()}
        arm = ("dense", "attention", "ffn")[n] if n < 3 else None
        its = ran(n, random.uniform(3, 4), 1.0, int(ends[n]), arm, feasible=bool(random.random() < 0.8))
        records.append(its.change(costs=costs))
    return records


@pytest.mark.parametrize("costs", ["flops_per_token", "flops_per_token, params", "params, memory_bytes, flops_per_token"])
def test_the_course_of_random_studies_is_that_of_brute_force(costs):
    space = tiny_space(f"objectives=[loss_nats, {costs}]")
    records, costs = drawn_study(space), costs.split(", ")
    by_end = sorted(records, key=lambda its: its.measured.started)
    points = np.array([[its.loss_nats, *(its.costs[name] / space.dense_costs[name] for name in costs)] for its in by_end])
    within, arms = np.array([its.feasible for its in by_end]), [its.loss_nats for its in records[:3]]
    highest, lowest = points[within].max(axis=0), points[within].min(axis=0)
    corner = highest + 0.1 * (highest - lowest)
    beaten = [any((other <= one).all() and (other < one).any() for other in points[within]) for one in points[within]]
    front = points[within][~np.array(beaten)][:, 0].tolist()
    low, _, high = statistics.quantiles(front, method="inclusive")
    worst = max([*arms, *(loss for loss in front if loss <= high + 3 * (high - low))])
    corner[0] = worst + 0.1 * (worst - min(front + arms))
    volumes = [hypervolume(points[: n + 1][within[: n + 1]], corner) for n in range(40)]
    rows = rows_of(*records, space=space)
    assert list(rows["run"]) == [its.run for its in by_end]
    assert list(rows["hypervolume"]) == pytest.approx([volume / volumes[-1] for volume in volumes])


def test_noise_seeds_and_runs_without_a_loss_count_their_tokens_alone_and_what_was_taken_up_counts_once():
    stopped = ran(3, None, 0.5, 4, status="pruned", tokens=320)
    again = ran(4, 3.1, 0.5, 5, tokens=640, tokens_before=320, continues="trial-3")
    seed = ended(job(SPACE.arm("dense"), "noise-0", seed=1), 1.0).change(measured=at(6))
    rows = rows_of(*ARMS, stopped, again, seeds=[seed])
    assert list(rows["tokens"]) == [640, 1280, 1920, 2240, 2560, 3200]
    assert list(rows["better"]) == [True, True, True, False, True, False]


def test_a_candidate_above_a_limit_does_not_count():
    rows = rows_of(*ARMS, ran(3, 2.0, 0.1, 4, feasible=False))
    assert list(rows["hypervolume"].iloc[-2:]) == [1, 1]


def test_a_run_whose_time_is_not_known_comes_after_the_one_before_it_by_number():
    rows = rows_of(*ARMS[:2], ran(2, None, 1.0, status="failed", tokens=0), ran(3, 3.1, 0.5, 2))
    assert list(rows["run"]) == ["trial-0", "trial-3", "trial-1", "trial-2"]
    assert list(rows["hours"].isna()) == [False, False, False, True]
    figure = progress_figure(Results(SPACE, [ran(0, 3.0, 1.0), ran(1, 3.1, 0.5)], []))
    assert list(figure.rows["run"]) == ["trial-0", "trial-1"]
    assert "Of 2 runs the time is not known." in figure.words
    assert "hours" not in str(figure.drawing.layout).lower()


def words_of(*records, space=SPACE):
    return progress_figure(Results(space, list(records), [])).words


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (ARMS, "up to 3.44 nats, 1.05 x dense in flops_per_token: the worst loss of the front and the reference arms"),
        ([*ARMS, ran(3, 3.5, 0.2, 4)], "up to 3.55 nats, 1.08 x dense"),
        ([*ARMS, ran(3, 3.5, 0.9, 4)], "up to 3.44 nats, 1.05 x dense"),
        ([*ARMS, ran(3, 1e6, 0.2, 4)], "up to 3.44 nats, 1.08 x dense"),
        ([*ARMS[:2], ran(2, 1e6, 0.5, 3, arm="ffn")], "up to 3.22 nats, 1.05 x dense"),
        ([ran(0, 1e6, 1.0, 1, arm="dense"), ran(1, 3.5, 1.0, 2)], "up to 3.6 nats, 1.1 x dense"),
        ([ran(1, 3.5, 1.0, 2)] * 2, "up to 3.6 nats, 1.1 x dense"),
        ([ran(1, 8.0, 1.0, 2), ran(2, 9.0, 0.5, 3)], "up to 9.1 nats, 1.05 x dense"),
        ([*(its.change(feasible=False) for its in ARMS), ran(3, 3.6, 1, 4)], "up to 3.66 nats, 1.1 x dense"),
    ],
)
def test_the_corner_is_beyond_the_worst_loss_of_the_front_and_the_arms_where_these_are_of_use(records, words):
    assert words in words_of(*records)


def test_what_is_on_the_front_counts_unless_it_is_far_out():
    front = [ran(n, 3.2 + n / 10, 0.8 - n / 10, 4) for n in range(4, 8)]
    for last in front:
        others = [its for its in front if its is not last]
        figure = progress_figure(Results(SPACE, [*ARMS, *others, last.change(measured=at(9))], []))
        assert list(figure.rows["run"][figure.rows["better"]])[-1] == last.run
        assert "beyond" not in figure.words
    for loss in (5.5, 1e6):  # above the quartiles of the front by 3 times what is between them; above guessing, ln 264
        figure = progress_figure(Results(SPACE, [*ARMS, *front, ran(8, loss, 0.05, 9)], []))
        assert not figure.rows["better"].iloc[-1]
        assert "1 of the 7 on the front lie beyond, far out, and count nothing." in figure.words


def test_with_the_loss_alone_it_is_the_best_one_so_far():
    space = tiny_space("objectives=[loss_nats]")
    blown = ran(3, 3.0, 1.0, 0.5).model_copy(update={"loss_nats": math.inf})
    lower = ran(4, 2.9, 0.9, 5)
    rows = rows_of(*ARMS, blown, lower, space=space)
    assert list(rows["best_loss_nats"])[1:] == [3.0, 3.0, 3.0, 2.9]
    assert math.isnan(rows["best_loss_nats"][0])
    assert list(rows["better"]) == [False, True, False, False, True]
    assert "the loss is the only objective" in words_of(*ARMS, blown, lower, space=space)


def test_a_best_loss_that_was_huge_at_first_does_not_squash_the_later_ones():
    records = [ran(0, 1e6, 1.0, 1), *(ran(n, 4 - n / 10, 1.0, n + 1) for n in range(1, 9))]
    figure = progress_figure(Results(tiny_space("objectives=[loss_nats]"), records, []))
    assert figure.drawing.layout.yaxis.range[1] < 4.5
    assert "1 of the first marks lie above the figure, at up to 1e+06 nats." in figure.words
    assert "above the figure" not in progress_figure(Results(tiny_space("objectives=[loss_nats]"), records[1:], [])).words


def test_each_step_is_drawn_with_its_run_in_both_panels():
    figure = progress_figure(Results(SPACE, [*ARMS, ran(3, 3.1, 0.9, 4), ran(4, 3.3, 0.95, 5)], []))
    marks = [trace for trace in figure.drawing.data if trace.mode == "markers"]
    rows = figure.rows[figure.rows["better"]].set_index("run")
    for axis, column in (("x", "tokens"), ("x2", "hours")):
        drawn = {
            run: (x, y)
            for trace in marks
            if trace.xaxis == axis
            for run, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
        }
        assert drawn.keys() == set(rows.index)
        for run, (x, y) in drawn.items():
            assert (x, y) == pytest.approx((rows[column][run], rows["hypervolume"][run]), abs=1e-6)
    ends = [trace.x[-1] for trace in figure.drawing.data if trace.mode == "lines"]
    assert ends == pytest.approx([3200, 5])


@pytest.mark.parametrize(
    "records",
    [[], [ran(0, None, 1.0, 1, status="failed")], [ran(0, None, 1.0, status="pruned")], [ran(0, 3.0, 1.0, 1, feasible=False)]],
)
@pytest.mark.parametrize("objectives", ["loss_nats", "loss_nats, flops_per_token", "loss_nats, flops_per_token, params"])
def test_without_a_candidate_that_counts_the_words_say_so(records, objectives):
    figure = progress_figure(Results(tiny_space(f"objectives=[{objectives}]"), records, []))
    assert len(figure.drawing.data) == 0
    assert len(figure.rows) == len(records)
    assert figure.words == "No candidate within the limits has been trained to its end with a finite loss."


@pytest.mark.parametrize("objectives", ["loss_nats", "loss_nats, flops_per_token", "loss_nats, flops_per_token, params"])
@pytest.mark.parametrize("count", [1, 3])
def test_one_record_and_identical_ones_are_a_single_step(count, objectives):
    rows = rows_of(*(ran(n, 3.0, 1.0, n + 1) for n in range(count)), space=tiny_space(f"objectives=[{objectives}]"))
    assert list(rows["better"]) == [True, False, False][:count]
