"""Pages of searches: how long one takes to be made and to be opened, and how large it is.

    python tests/benchmarks/pages.py [RECORDS...]

Makes up a search of 20 and one of 2,000 candidates (three objectives, five statuses; tests/studies.py), writes its records, and
makes the page by `lpanas report` in a process of its own, its start included, which is compared with one that only starts
(`lpanas --help`). Opens it five times in a Chromium without a screen: until the page can be used (its load event), and until
every figure is drawn; compared with a page that holds nothing but plotly.js. Needs playwright and the system's Chromium.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import launched
from lpanas.lpa.config import dump_yaml
from lpanas.search.results import write_tables
from plotly.offline import get_plotlyjs
from studies import study

OPENED = 5
"""Times that a page is opened."""
THREE = "objectives=[loss_nats, flops_per_token, params]"


def seconds(*words: str) -> float:
    """Of a command."""
    began = time.perf_counter()
    subprocess.run(["lpanas", *words], check=True, capture_output=True)
    return time.perf_counter() - began


def opened(browser, page: Path, drawn: bool) -> tuple[float, float]:
    """Medians: until the load event, and until every figure is drawn."""
    times = []
    for _ in range(OPENED):
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        began = time.perf_counter()
        tab.goto(page.as_uri())
        loaded = time.perf_counter() - began
        if drawn:
            tab.wait_for_function("document.documentElement.dataset.drawn === 'all'")
        times.append((loaded, time.perf_counter() - began))
        tab.close()
    return median(one for one, _ in times), median(one for _, one in times)


def made(count: int, folder: Path) -> Path:
    """The folder of a search of so many candidates, without its page."""
    found = study(count, THREE)
    folder.mkdir()
    (folder / "space.yaml").write_text(dump_yaml(found.space), encoding="utf-8")
    write_tables(found, folder)
    return folder


def main() -> None:
    """Print a line a page."""
    counts = [int(word) for word in sys.argv[1:]] or [20, 2000]
    with tempfile.TemporaryDirectory() as place, launched() as browser:
        empty = Path(place) / "empty.html"
        empty.write_text(f"<!doctype html><title>x</title><script>{get_plotlyjs()}</script>", encoding="utf-8")
        start, bare = seconds("--help"), opened(browser, empty, drawn=False)[0]
        print(f"lpanas --help {start:.1f} s; a page of plotly.js alone opens in {bare:.2f} s")
        for count in counts:
            folder = made(count, Path(place) / str(count))
            took, page = seconds("report", str(folder)), folder / "report.html"
            loaded, drawn = opened(browser, page, drawn=True)
            print(
                f"{count:,} records: made in {took:.1f} s ({took / start:.1f} x), {page.stat().st_size / 1e6:.2f} MB; opens in "
                f"{loaded:.2f} s ({loaded / bare:.1f} x), every figure drawn after {drawn:.2f} s"
            )


if __name__ == "__main__":
    main()
