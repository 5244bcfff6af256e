import io
import math
import re
import subprocess
import sys

import pytest
from compared import written
from lpanas.search import terminal
from lpanas.search.characters import Cells, Point, cells, front_lines, marks, points, text
from lpanas.search.readable import highest
from lpanas.search.results import Results
from making import arm_records, ended, job, point, record, tiny_space
from rich.console import Console

SPACE = tiny_space()
DENSE = SPACE.dense_costs["flops_per_token"]
SEEDS = [ended(job(SPACE.arm("dense"), f"noise-{n}", seed=n + 1), loss) for n, loss in enumerate((3.02, 3.04))]
RESOLVABLE = 4.30265 * math.sqrt(2) * 0.02  # t(0.975, 2) from a printed table, of the losses 3.00, 3.02 and 3.04
STUDY = [
    record(0, 3.00, DENSE, arm="dense"),
    record(1, 3.30, DENSE // 2, arm="attention"),
    record(2, 3.20, DENSE * 3 // 4, arm="ffn"),
    record(3, 3.05, DENSE * 3 // 4),
    record(4, 3.06, DENSE * 3 // 4),
    record(5, 3.40, DENSE),
    record(6, None, DENSE, status="diverged", reason="the training loss was nan"),
    record(7, 2.0, DENSE // 4, feasible=False),
]
FOUND = Results(SPACE, STUDY, SEEDS)
HUGE = record(8, 1e6, DENSE)


def test_each_candidate_is_marked_by_the_most_important_thing_that_it_is():
    # by hand: the front is 3.00 at 1, 3.05 at 3/4 and 3.30 at 1/2; scaled to it, 3.05 has the smallest sum (1/6 + 1/2)
    assert marks(FOUND) == {
        "trial-0": "D",
        "trial-1": "A",
        "trial-2": "F",
        "trial-3": "W",
        "trial-4": "o",  # 3.06 less what is resolvable is below 3.05
        "trial-5": "·",
        "trial-7": "·",  # above the limits
    }


def test_a_point_is_a_complete_candidate_with_its_first_cost_as_a_share_of_dense():
    drawn = points(Results(SPACE, STUDY[:4], SEEDS))
    assert [(one.share, one.loss_nats) for one in drawn] == [
        (1.0, 3.0),
        pytest.approx((0.5, 3.3), abs=1e-3),
        pytest.approx((0.75, 3.2), abs=1e-3),
        pytest.approx((0.75, 3.05), abs=1e-3),
    ]


def test_points_fall_into_the_nearest_cell():
    drawn = cells([Point(0.5, 3.0, "D"), Point(1.0, 2.0, "W"), Point(0.76, 2.51, "*"), Point(0.74, 2.26, "o")], 11, 5, 3.0)
    # columns stand for 0.5, 0.55, ..., 1.0 and lines, from above, for 3.0, 2.75, 2.5, 2.25, 2.0
    assert drawn == Cells(11, 5, (0.5, 1.0), (2.0, 3.0), {(0, 0): "D", (4, 10): "W", (2, 5): "*", (3, 5): "o"}, range(0), ())


def test_of_several_in_a_cell_the_most_important_shows():
    order = ["W", "D", "A", "F", "B", "*", "o", "·"]
    for first, mark in enumerate(order):
        for fallen in (order[first:], order[first:][::-1]):
            assert cells([Point(1.0, 2.0, each) for each in fallen], 9, 5, 2.0).marks == {(2, 4): mark}


def test_the_band_is_the_lines_of_the_losses_in_it():
    ends = [Point(0.5, 3.0, "D"), Point(1.0, 2.0, "W")]  # lines for 3.0, 2.75, 2.5, 2.25, 2.0
    assert cells(ends, 9, 5, 3.0, (2.26, 2.74)).band == range(1, 4)
    assert cells(ends, 9, 5, 3.0, (2.5, 9.0)).band == range(0, 3)
    assert cells(ends, 9, 5, 3.0, (0.0, 9.0)).band == range(0, 5)
    assert (
        cells(ends, 9, 5, 3.0, (3.1, 9.0)).band
        == cells(ends, 9, 5, 3.0, (0.0, 1.9)).band
        == cells(ends, 9, 5, 3.0).band
        == range(0)
    )


def test_a_huge_loss_squashes_nothing_and_is_counted():
    with_it = Results(SPACE, [*STUDY, HUGE], SEEDS)
    drawn = cells(points(with_it), 50, 12, highest(with_it))
    without = cells(points(FOUND), 50, 12, 9.0)
    assert (drawn.losses_nats, drawn.marks) == (without.losses_nats, without.marks)
    assert drawn.above == ("·",)
    assert text(drawn, "params")[-1] == f"1 candidate lies above {drawn.losses_nats[1]:.4f} nats"
    arms = [Point(0.5, 2.0, "D"), Point(0.6, 2.1, "A"), Point(0.7, 2.2, "·"), Point(0.8, 1e6, "B"), Point(0.9, math.inf, "·")]
    assert text(cells(arms, 50, 12, 2.3), "params")[-1] == "2 candidates lie above 2.2000 nats (B among them)"


def test_a_huge_loss_on_the_front_squashes_nothing_either():
    cheap = record(8, 1e6, DENSE // 9)
    found = Results(SPACE, [*STUDY, cheap], SEEDS)
    assert cheap in found.front
    assert highest(found) == highest(FOUND) == 3.4


def test_a_front_that_reaches_far_above_the_others_is_drawn():
    many = [record(number, 2.0 + number / 1000, DENSE * 8 // 10 + number) for number in range(100)]
    front = [record(100 + number, 2.1 + number / 10, DENSE * 7 // 10 - DENSE * number // 20) for number in range(12)]
    found = Results(SPACE, [*many, *front], SEEDS)
    assert highest(found) == max(its.loss_nats for its in front)


def test_the_text_has_what_is_in_the_cells_where_it_is():
    drawn = Cells(30, 4, (0.5, 1.0), (2.0, 3.5), {(0, 0): "D", (3, 29): "W", (2, 4): "·"}, range(1, 3), ())
    assert text(drawn, "params") == [
        "loss_nats",
        "  3.5000 ┤D",
        "         █",
        "  2.5000 █    ·",
        "  2.0000 ┤" + 29 * " " + "W",
        "         └" + 30 * "─",
        "          0.500   params x dense   1.000",
        "W winner, D dense, · others, █ not told from dense by one run",
    ]


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_it_fits_into_the_terminal_in_sixteen_lines(width):
    lines = front_lines(FOUND, width, "utf-8")
    assert max(map(len, lines[:-1])) <= min(width, 100)
    assert len(lines) <= 16


def test_a_study_is_shown_without_what_draws_pages(tmp_path):
    folder = written(tmp_path / "study", FOUND)
    show = "from lpanas.search.showing import show; show(sys.argv[1], None, None, [])"
    code = f"import sys; {show}; print({{*sys.modules}} & {{'plotly', 'pandas'}})"
    shown = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0] == "loss_nats"
    assert shown.splitlines()[-1] == "set()"


def test_a_terminal_without_unicode_gets_ascii_alone():
    lines, plain = front_lines(FOUND, 80, "utf-8"), front_lines(FOUND, 80, "iso-8859-1")
    assert all(line.isascii() for line in plain)
    assert [len(line) for line in plain] == [len(line) for line in lines]
    assert sum(line.count(".") for line in plain[1:13]) > sum(line.count(".") for line in lines[1:13])


@pytest.mark.parametrize("study", [Results(SPACE, [], []), Results(SPACE, STUDY[6:7], SEEDS)])
def test_where_there_is_nothing_to_draw_nothing_is_drawn(study):
    assert front_lines(study, 100, "utf-8") == []


@pytest.mark.parametrize(
    "settings", [["objectives=[loss_nats]"], ["objectives=[loss_nats, params, memory_bytes]"]], ids=["one", "three"]
)
def test_studies_of_one_and_three_objectives_are_drawn(settings):
    space = tiny_space(*settings)
    for records in (arm_records(space, 3.0, 3.1, 3.2, 3.3), arm_records(space, 3.0), [record(0, 3.0, 5)] * 3):
        lines = front_lines(Results(space, records, []), 100, "utf-8")
        assert f"{'flops_per_token' if len(settings[0]) < 25 else 'params'} x dense" in "".join(lines)


def printed(monkeypatch, found, width=120, *, is_terminal=False):
    shown = io.StringIO()
    console = Console(file=shown, width=width, highlight=False, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(terminal, "console", console)
    terminal.print_results(found, {"study": "[bold]here"})
    return shown.getvalue()


def test_the_screen_has_every_arm_and_the_front_once_with_the_marks_of_the_drawing(monkeypatch):
    screen = printed(monkeypatch, FOUND)
    rows = re.findall(r"^(\S*) +(trial-\d)", screen, re.MULTILINE)
    assert rows == [("D*", "trial-0"), ("W", "trial-3"), ("F", "trial-2"), ("A*", "trial-1")]
    assert "The winner, the knee of the front, is trial-3" in screen
    assert f"{RESOLVABLE:.3f} nats" in screen
    assert screen.endswith("study: [bold]here\n")


def test_a_screen_is_enough_for_a_long_front_and_the_winner_is_on_it(monkeypatch):
    losses = [3.0 + 0.2 * (number / 23) ** 3 for number in range(24)]
    records = [record(number, loss, DENSE - 1000 * number) for number, loss in enumerate(losses)]
    found = Results(SPACE, records, SEEDS)
    screen = re.sub(r"\x1b\[\d*m", "", printed(monkeypatch, found, is_terminal=True))
    rows = re.findall(r"^(\S*) +(trial-\d+)", screen, re.MULTILINE)
    assert len(screen.splitlines()) <= 40
    assert {mark for mark, _ in rows} == {"*", "W"}
    assert {"trial-0", "trial-23", found.winner.run} <= {run for _, run in rows}
    assert f"{24 - len(rows)} more of the 24 on the front: lpanas show DIR | cat" in screen
    piped = printed(monkeypatch, found)
    assert re.findall(r"^[*W] +(trial-\d+)", piped, re.MULTILINE) == [f"trial-{number}" for number in range(24)]
    assert "more of the" not in piped


def test_text_from_records_is_never_markup(monkeypatch):
    odd = STUDY[6].change(reason="[red]no[/]")
    assert "[red]no[/]" in printed(monkeypatch, Results(SPACE, [*STUDY, odd.change(run="trial-9")][-2:], SEEDS))


def test_the_arms_are_there_with_their_status_while_none_has_a_loss(monkeypatch):
    screen = printed(monkeypatch, Results(SPACE, arm_records(SPACE, None, None), []))
    assert re.findall(r"(trial-\d) +(\w+) +failed", screen) == [("trial-0", "dense"), ("trial-1", "attention")]
    assert "loss_nats\n" not in screen


def test_two_thousand_candidates_are_drawn(monkeypatch):
    known = job(SPACE.candidate(point("1/4")))
    many = [ended(known.change(run=f"trial-{n}"), 3.0 + (n * 37 % 1000) / 1000) for n in range(2000)]
    assert printed(monkeypatch, Results(SPACE, many, SEEDS), is_terminal=True).count("\n") < 40
