import random

import pytest
from lpanas.search.record import Measured
from lpanas.search.results import Results
from lpanas.search.timeline import LOOKS, busy, clock, timeline_figure, timeline_rows
from making import ended, job, point, tiny_space

SPACE = tiny_space()
HOUR = 3600.0
START = 1.7e9


def ran(number, begin, end, worker="", device="cpu", status="complete", kind="trial"):
    """A run between these hours."""
    measured = Measured(
        device=device,
        worker=worker,
        started=START + begin * HOUR,
        seconds=(end - begin) * HOUR,
        train_seconds=1.0,
        peak_memory_bytes=1,
    )
    its = job(SPACE.candidate(point("1/4")), f"{kind}-{number}")
    return ended(its, 3.0 if status == "complete" else None, status).change(measured=measured)


def rows_of(*records, seeds=()):
    return timeline_rows(Results(SPACE, list(records), list(seeds)))


WORKERS = [
    ran(0, 0, 1, "0, cpu"),
    ran(1, 0, 2, "1, cpu"),
    ran(2, 1, 1.5, "0, cpu", status="pruned"),
    ran(3, 10, 11, "0, cpu"),
    ran(4, 11, 12, "0, cpu", status="diverged"),
]


def test_a_row_is_a_run_with_its_worker_and_its_hours_since_the_first_start():
    rows = rows_of(*WORKERS, seeds=[ran(0, 2, 2.01, "1, cpu", kind="noise")])
    assert list(rows["run"]) == ["trial-0", "trial-1", "trial-2", "noise-0", "trial-3", "trial-4"]
    assert list(rows["lane"]) == ["0, cpu", "1, cpu", "0, cpu", "1, cpu", "0, cpu", "0, cpu"]
    assert list(rows["begin_hours"]) == pytest.approx([0, 0, 1, 2, 10, 11], abs=1e-6)
    assert list(rows["end_hours"]) == pytest.approx([1, 2, 1.5, 2.01, 11, 12], abs=1e-6)
    assert list(rows["call"]) == [0, 0, 0, 0, 1, 1]


def test_a_short_wait_is_no_pause_and_neither_is_one_that_another_worker_trains_through():
    minute = 1 / 60
    assert list(rows_of(ran(0, 0, 1), ran(1, 1 + 0.9 * minute, 2), ran(2, 2 + 1.1 * minute, 3))["call"]) == [0, 0, 1]
    assert list(rows_of(ran(0, 0, 5), ran(1, 0, 1), ran(2, 4, 6))["call"]) == [0, 0, 0]


def test_the_lanes_were_busy_for_their_runs_share_of_each_calls_time():
    # the first call: 3.5 of 2 lanes x 2 hours, the second: 2 of 1 lane x 2 hours
    assert busy(rows_of(*WORKERS)) == pytest.approx(5.5 / 6)
    assert busy(rows_of(ran(0, 0, 1))) == pytest.approx(1)
    assert busy(rows_of(ran(0, 0, 0))) == 1


def test_where_no_worker_is_known_runs_are_packed_by_device():
    rows = rows_of(ran(0, 0, 2), ran(1, 1, 3), ran(2, 2, 4), ran(3, 0, 9, device="H100"), ran(4, 0, 1, "0, GPU 1", "H100"))
    lanes = dict(zip(rows["run"], rows["lane"], strict=True))
    assert lanes == {
        "trial-0": "cpu, lane 1",
        "trial-1": "cpu, lane 2",
        "trial-2": "cpu, lane 1",
        "trial-3": "H100, lane 1",
        "trial-4": "0, GPU 1",
    }


def test_random_runs_are_packed_without_overlaps_into_as_many_lanes_as_ran_at_once():
    for seed in range(30):
        chance = random.Random(seed)
        times = [(begin, begin + chance.randint(1, 6)) for begin in (chance.randint(0, 20) for _ in range(25))]
        rows = rows_of(*(ran(n, *its) for n, its in enumerate(times)))
        assert rows["lane"].nunique() == max(sum(begin <= hour < end for begin, end in times) for hour in range(30))
        for _, its in rows.groupby("lane"):
            assert (its["begin_hours"].iloc[1:].to_numpy() >= its["end_hours"].iloc[:-1].to_numpy() - 1e-6).all()


def bars_of(figure):
    """Each run's lane, begin and end as drawn."""
    return {
        run: (figure.drawing.layout.yaxis.ticktext[place], begin, begin + width)
        for trace in figure.drawing.data
        for run, place, begin, width in zip(trace.customdata, trace.y, trace.base, trace.x, strict=True)
    }


def test_bars_are_runs_and_pauses_are_cut_out():
    figure = timeline_figure(Results(SPACE, WORKERS, []))
    drawn = {
        "trial-0": ("0, cpu", 0, 1), "trial-1": ("1, cpu", 0, 2), "trial-2": ("0, cpu", 1, 1.5),
        "trial-3": ("0, cpu", 2, 3), "trial-4": ("0, cpu", 3, 4),
    }  # fmt: skip
    for run, (lane, begin, end) in bars_of(figure).items():
        assert (lane, begin, end) == (drawn[run][0], pytest.approx(drawn[run][1], abs=1e-6), pytest.approx(drawn[run][2]))
    assert [line.x0 for line in figure.drawing.layout.shapes] == [pytest.approx(2)]
    assert "1 pause between calls, 8 hours in all" in figure.words
    assert "busy for 92%" in figure.words
    assert "not known" not in figure.words


def test_statuses_differ_in_pattern():
    figure = timeline_figure(Results(SPACE, WORKERS, []))
    patterns = {trace.name: trace.marker.pattern.shape for trace in figure.drawing.data}
    assert set(patterns) == {"trained to the end", "stopped at a rung", "diverged"}
    assert len(set(patterns.values())) == 3
    assert len({pattern for _, _, pattern in LOOKS.values()}) == len(LOOKS)


def test_what_is_not_known_is_said():
    lost = ended(job(SPACE.arm("dense"), "trial-9"))
    words = timeline_figure(Results(SPACE, [*WORKERS, ran(5, 12, 13), lost], [])).words
    assert "Which worker trained a run is not known (1 of 6 runs)" in words
    assert "Not shown: 1 whose time is not known" in words


@pytest.mark.parametrize("records", [[], [ended(job(SPACE.arm("dense"), "trial-0"))]])
def test_without_a_time_the_words_say_so(records):
    figure = timeline_figure(Results(SPACE, records, []))
    assert len(figure.drawing.data) == len(figure.rows) == 0
    assert figure.words == "Of no run is it known when it was trained."


def test_names_of_devices_are_text_and_lanes_are_in_the_order_of_their_numbers():
    records = [ran(n, 0, 1, f"actor {n}, <b>") for n in (10, 9, 2)]
    ticks = timeline_figure(Results(SPACE, records, [])).drawing.layout.yaxis.ticktext
    assert ticks == ("actor 2, &lt;b&gt;", "actor 9, &lt;b&gt;", "actor 10, &lt;b&gt;")


def test_short_times_are_shown_in_minutes():
    assert clock(0.5) == ("minutes", 60)
    assert clock(5.0) == ("hours", 1)
    assert bars_of(timeline_figure(Results(SPACE, [ran(0, 0, 0.5)], [])))["trial-0"][1:] == (0, pytest.approx(30))
