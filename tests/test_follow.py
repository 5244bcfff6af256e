import re

import pytest
from lpanas.search import follow as following
from lpanas.search.follow import follow
from lpanas.search.watch import View
from page_tables import tables
from plotly.offline import get_plotlyjs
from studies import first, study
from test_watch import moment

FOUND = study(12, lost=0.0)
EARLY = first(FOUND, 5)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "EVERY", 0.0)
    monkeypatch.setattr(following, "SHARE", 1e9)


def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def rows(text):
    return sum(row["run"].startswith("trial-") for row in tables(text)["records"])


def test_the_page_is_written_when_a_run_has_ended_until_the_driver_has(tmp_path):
    begun, done = View(moment(done=5), EARLY), View(moment(done=12), FOUND)
    over = View(moment(done=12, phase="ended"), FOUND)
    said, seen = [], []

    def views():
        for view in (begun, begun, done, done, over, begun):
            yield view
            seen.append((len(said), rows(page(tmp_path)), 'id="again"' in page(tmp_path)))

    last = follow(views(), tmp_path, None, said.append)
    assert last is over
    assert seen == [(1, 5, True), (1, 5, True), (2, 12, True), (2, 12, True)]
    assert [line.split()[1:5] for line in said] == [["tiny:", "5", "of", "10001"], ["tiny:", "15", "of", "10001"]]
    assert all(line.endswith(str(tmp_path / "report.html")) for line in said)


def test_the_page_of_a_search_that_runs_says_how_far_it_is_and_what_ails_its_driver(tmp_path):
    def views():
        yield View(moment(done=5, seconds=60.0), EARLY, "no word from the driver's process 7 on here for 20 s")
        text = page(tmp_path)
        assert re.search(r"tiny: 5 of 10001 runs, \d+ on the front, best loss \d\.\d{4} nats\. no word from the driver", text)
        assert "process 7 on here for 20 s. As of " in text
        yield View(moment(done=5, seconds=60.0), EARLY)
        assert re.search(r"best loss \d\.\d{4} nats; started 1 min 0 s ago, time left not known yet\. As of ", page(tmp_path))
        yield View(None, EARLY)

    follow(views(), tmp_path, None, lambda path: None)
