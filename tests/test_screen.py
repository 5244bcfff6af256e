import io

import pytest
from lpanas.search import live, screen
from lpanas.search.results import Results
from lpanas.search.watch import View
from making import arm_records, tiny_space
from rich.console import Console
from test_live import state_of


def drawn(monkeypatch, view, width, height):
    """The lines of a view on a terminal of a size."""
    text = io.StringIO()
    monkeypatch.setattr(screen, "console", Console(width=width, height=height, force_terminal=True, no_color=True, file=text))
    screen.console.print(screen.view_of(view))
    return [line.rstrip() for line in text.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]


@pytest.fixture(scope="module")
def busy():
    """Twelve workers, four candidates on the front, and something to be said."""
    state = state_of(3.0, 3.1234, 3.2345, 3.3456, running=[f"trial-{n}" for n in range(4, 16)])
    for run in state.running:
        state.curves[run] = {320: 4.5678}
    return View(live.moment(state, "searching"), Results(state.space, state.records, []), "no word from the search")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [10, 12, 24, 50])
def test_a_view_fits_its_terminal_and_no_number_is_cut(monkeypatch, busy, width, height):
    lines = drawn(monkeypatch, busy, width, height)
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    assert "no word from the search" in " ".join(words)
    assert {"4.5678", "50%", "trial-4", "3.0000", *(["trial-0"] if height > 10 else [])} <= set(words)
    assert {word for word in words if word.startswith(("4.5", "3.1", "3.2"))} <= {"4.5678", "3.1234", "3.2345"}


def test_what_there_is_no_room_for_is_counted(monkeypatch, busy):
    lines = drawn(monkeypatch, busy, 120, 12)
    shown = sum(line.split()[1:3] == ["cpu", f"trial-{line.split()[2][6:]}"] for line in lines if " cpu " in line)
    assert f"and {12 - shown} more workers" in lines
    assert any(line.startswith("and ") and line.endswith("more on the front") for line in lines)


def test_a_wide_terminal_shows_everything_of_a_worker(monkeypatch, busy):
    (line,) = (line for line in drawn(monkeypatch, busy, 200, 50) if " trial-7 " in line)
    placement = busy.moment.workers[0].placement
    assert line.split() == ["3", "cpu", "trial-7", "320", "50%", "4.5678", *placement.split()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "3 of 7 runs"),
        (("search.tokens=1e4",), "3 of at most 7 runs"),
        (("search.minutes=5",), "3 of at most 7 runs"),
    ],
)
def test_a_budget_that_may_end_a_search_sooner_is_said(monkeypatch, settings, words):
    state = state_of(3.0, 3.1, 3.2, settings=settings)
    view = View(live.moment(state, "searching"), Results(state.space, state.records, []))
    assert words in drawn(monkeypatch, view, 120, 40)[0]


def test_a_study_that_nobody_drives_is_shown_without_workers(monkeypatch):
    space = tiny_space()
    lines = drawn(monkeypatch, View(None, Results(space, arm_records(space, 3.0, 3.1), []), "nobody"), 120, 40)
    assert lines[0].startswith("tiny: 2 of 7 runs, ")
    assert lines[1] == "nobody"
    assert not [line for line in lines if line.startswith("worker")]
