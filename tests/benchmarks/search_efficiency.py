"""Searches replayed on a table of recorded runs: dominated hypervolume against tokens trained.

    python tests/benchmarks/search_efficiency.py TABLE [--seeds 30] [--budget 1.0] [--only ours,TPE] [--jobs 2]
        [--page PAGE.html] [--json FILE] [--with FILE ...]

TABLE holds space.yaml and records.jsonl.gz: a full run of every candidate of the space. Only full runs count for the
hypervolume, every token trained counts for the budget. Syne Tune and NePS take part where they are installed:

    pip install syne-tune==0.16.0 neural-pipeline-search==0.17.0 torch==2.13.0

`--with` brings in what an earlier call on the same table wrote with `--json`, in another environment perhaps.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from lpanas.lpa.config import UserError
from ours import OURS
from peers import PEERS, SLOW
from plotly.colors import qualitative
from replay import Replay, Table, read_table

SEARCHERS = OURS | PEERS

LEVELS = (0.90, 0.95, 0.99)
"""Shares of the table's hypervolume that are to be reached."""
SHOWN = (0.05, 0.10, 0.25, 0.50, 1.00)
"""Budgets of the printed table, as shares of the whole table's tokens."""
GRID = tuple(share / 100 for share in range(1, 101))
"""Budgets of the figure and of the rule, likewise."""
FAIR = 0.10
"""The rule compares from this budget on."""
LEVEL = 0.95
"""What ours is to reach with at most a third of the tokens of TPE."""


@dataclass(frozen=True)
class Course:
    """How one search went: the hypervolume as a step function of what was spent."""

    steps: tuple[tuple[float, float], ...]
    """(spent, share of the table's hypervolume) wherever it grew; spent as a share of the whole table's tokens."""
    budget: float
    """How far it was replayed, likewise."""
    front: float | None = None
    """What was spent when all of the table's front was found within its noise; infinite when it never was,
    None when nobody looked."""

    def at(self, spent: float) -> float:
        """The share of the hypervolume when so much was spent; NaN beyond the budget."""
        if spent > self.budget + 1e-9:
            return math.nan
        return max((share for when, share in self.steps if when <= spent + 1e-9), default=0.0)

    def reaches(self, level: float) -> float:
        """What was spent when the hypervolume came to a level; infinite when it never did."""
        return min((when for when, share in self.steps if share >= level - 1e-9), default=math.inf)


def course(went: Replay) -> Course:
    """The course of a search that is over."""
    table = went.table
    steps, known, best, front = list[tuple[float, float]](), list[tuple[float, ...]](), 0.0, math.inf
    for run in went.finished:
        if run.values in known:
            continue
        known.append(run.values)
        share = table.share(np.array(known))
        if share > best:
            best = share
            steps.append((run.spent / table.tokens, share))
        if math.isinf(front) and table.met(np.array(known)) == len(table.front):
            front = run.spent / table.tokens
    return Course(tuple(steps), went.budget / table.tokens, front)


def middle(values: Sequence[float], part: float = 0.5) -> float:
    """The median, or another quantile: the mean of the two values that it lies between, infinite when one of them is."""
    if any(map(math.isnan, values)):
        return math.nan
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    return (ordered[math.floor(place)] + ordered[math.ceil(place)]) / 2


def replay(folder: Path, name: str, seed: int, budget: float) -> Course:
    """One search by a searcher's name. budget: share of the whole table's tokens."""
    table = _table(folder)
    went = Replay(table, math.ceil(budget * table.tokens))
    SEARCHERS[name](went, seed)
    return course(went)


_table = cache(read_table)


def replay_all(folder: Path, names: Sequence[str], seeds: int, budget: float, jobs: int) -> Iterator[tuple[str, list[Course]]]:
    """Each search with every seed, in so many processes; a searcher that is not installed is named and left out."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name in names:
            try:
                courses = pool.map(
                    replay,
                    *zip(*((folder, name, seed, min(budget, SLOW.get(name, 1.0))) for seed in range(seeds)), strict=True),
                )
                yield name, list(courses)
            except ModuleNotFoundError as error:
                print(f"{name}: not installed ({error.name})", file=sys.stderr)


def printed(found: Mapping[str, Sequence[Course]], table: Table) -> str:
    """The tables: hypervolume at some budgets, and what it takes to reach some levels."""
    budgets = [share for share in SHOWN if share <= max(c.budget for courses in found.values() for c in courses) + 1e-9]
    lines = [f"Share of the table's hypervolume after so much of its tokens: median (quartiles) of {_seeds(found)} seeds"]
    lines.append(f"{'':18}" + "".join(f"{budget:>24.0%}" for budget in budgets))
    for name, courses in found.items():
        lines.append(f"{name:18}" + "".join(f"{_spread([c.at(budget) for c in courses]):>24}" for budget in budgets))
    lines += ["", "Tokens to reach a share of the hypervolume, in full runs: median (quartiles); not: not within the budget"]
    lines.append(f"{'':18}" + "".join(f"{level:>24.0%}" for level in LEVELS))
    for name, courses in found.items():
        runs = [[c.reaches(level) * len(table.records) for c in courses] for level in LEVELS]
        lines.append(f"{name:18}" + "".join(f"{_spread(values, 1):>24}" for values in runs))
    lines += ["", f"Full runs until each of the front's {len(table.front)} has a match within {table.resolvable_nats:.3f} nats"]
    for name, courses in found.items():
        whole = [course.front * len(table.records) for course in courses if course.front is not None]
        if not whole:
            continue
        lines.append(f"{name:18}{_spread(whole, 1):>24}{sum(map(math.isfinite, whole)):>6} of {len(whole)} seeds")
    return "\n".join(lines)


def _seeds(found: Mapping[str, Sequence[Course]]) -> str:
    return " to ".join(str(count) for count in sorted({len(courses) for courses in found.values()}))


def _spread(values: Sequence[float], digits: int = 3) -> str:
    median, low, high = (_number(middle(values, part), digits) for part in (0.5, 0.25, 0.75))
    return median if low == median == high else f"{median} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return "not" if math.isinf(value) else "" if math.isnan(value) else f"{value:.{digits}f}"


def verdict(found: Mapping[str, Sequence[Course]]) -> list[str]:
    """The rule, as far as the searchers are there: ours reaches 95 % with at most a third of the tokens of TPE, and from 10 %
    of the table on its median is behind nobody's."""
    if "ours" not in found:
        return []
    lines = []
    if "TPE" in found:
        ours = middle([c.reaches(LEVEL) for c in found["ours"]])
        theirs = min(middle([c.reaches(LEVEL) for c in found["TPE"]]), *(c.budget for c in found["TPE"]))
        lines.append(f"{_said(ours <= theirs / 3)}: {LEVEL:.0%} of the hypervolume with {ours / theirs:.2f} of TPE's tokens")
    for name in found:
        gaps = _gaps(found[name], found["ours"])
        if name != "ours" and gaps:
            worst = max(gaps, key=lambda budget: gaps[budget])
            where = f"{gaps[worst]:+.4f} of the hypervolume at {worst:.0%}"
            lines.append(
                f"{_said(gaps[worst] <= 1e-9)}: not behind {name} from {FAIR:.0%} to {max(gaps):.0%} (at worst {where})"
            )
    return lines


def _gaps(theirs: Sequence[Course], ours: Sequence[Course]) -> dict[float, float]:
    """By how much their median is above ours at each budget of the rule that both were replayed to."""
    medians = {budget: [middle([c.at(budget) for c in courses]) for courses in (theirs, ours)] for budget in GRID}
    return {b: high - low for b, (high, low) in medians.items() if b >= FAIR and not math.isnan(high - low)}


def _said(kept: bool) -> str:
    return "kept    " if kept else "NOT kept"


def figure(found: Mapping[str, Sequence[Course]]) -> go.Figure:
    """Hypervolume against tokens trained: the median over the seeds, and the quartiles shaded."""
    drawn = go.Figure()
    for name, colour in zip(found, qualitative.Safe * 2, strict=False):
        budgets = [0.0, *(budget for budget in GRID if budget <= min(c.budget for c in found[name]) + 1e-9)]
        low, median, high = ([middle([c.at(b) for c in found[name]], part) for b in budgets] for part in (0.25, 0.5, 0.75))
        bare = {"line": {"shape": "hv", "width": 0}, "legendgroup": name, "showlegend": False, "hoverinfo": "skip"}
        drawn.add_scatter(x=budgets, y=high, **bare)
        drawn.add_scatter(x=budgets, y=low, fill="tonexty", fillcolor=f"rgba{colour[3:-1]},0.12)", **bare)
        line = {"shape": "hv", "color": colour, "width": 4 if name == "ours" else 2}
        drawn.add_scatter(x=budgets, y=median, name=name, line=line, legendgroup=name)
    for level in LEVELS:
        drawn.add_hline(level, line={"color": "#888888", "width": 1, "dash": "dot"}, annotation_text=f"{level:.0%}")
    drawn.update_layout(
        title=f"What a search has found against what it has trained (median and quartiles of {_seeds(found)} seeds)",
        template="plotly_white", height=560, hovermode="x",
        xaxis={"title": "tokens trained, share of the whole table", "tickformat": ".0%"},
        yaxis={"title": "dominated hypervolume of full runs, share of the table's", "range": [0.5, 1.005]},
    )  # fmt: skip
    return drawn


def write_page(drawn: go.Figure, page: Path) -> None:
    """The figure, as a page that loads plotly.js from its CDN, or as plotly's JSON when the path ends so."""
    if page.suffix == ".json":
        page.write_text(drawn.to_json() or "", encoding="utf-8")
    else:
        drawn.write_html(page, include_plotlyjs="cdn")


def write_courses(found: Mapping[str, Sequence[Course]], path: Path) -> None:
    """Every course, by the searcher's name."""
    path.write_text(json.dumps({name: [asdict(c) for c in courses] for name, courses in found.items()}), encoding="utf-8")


def read_courses(path: Path) -> dict[str, list[Course]]:
    """What write_courses has written."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [Course(tuple((when, share) for when, share in c["steps"]), c["budget"], c.get("front")) for c in courses]
        for name, courses in raw.items()
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("table", type=Path)
    words.add_argument("--seeds", type=int, default=30)
    words.add_argument("--budget", type=float, default=1.0, help="share of the whole table's tokens")
    words.add_argument("--only", help=f"names, separated by commas: {', '.join(SEARCHERS)}")
    words.add_argument("--jobs", type=int, default=2, help="processes")
    words.add_argument("--page", type=Path)
    words.add_argument("--json", type=Path)
    words.add_argument("--with", type=Path, action="append", default=[], dest="others")
    given = words.parse_args()
    names = [name.strip() for name in given.only.split(",")] if given.only is not None else list(SEARCHERS)
    unknown = [name for name in names if name and name not in SEARCHERS]
    if unknown:
        words.error(f"--only {unknown[0]}: known: {', '.join(SEARCHERS)}")
    try:
        table = _table(given.table)
    except UserError as error:
        words.error(str(error))
    found = {name: courses for path in given.others for name, courses in read_courses(path).items()}
    for name, courses in replay_all(given.table, [name for name in names if name], given.seeds, given.budget, given.jobs):
        print(f"{name}: {len(courses)} searches", file=sys.stderr)
        found[name] = courses
        if given.json:
            write_courses(found, given.json)
    print("\n".join([printed(found, table), "", *verdict(found)]))
    if given.page:
        write_page(figure(found), given.page)


if __name__ == "__main__":
    main()
