"""What tests/benchmarks/gpu.py found, in plain lines: what to use on this device, and what was aimed at, met or not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peer_speed import against_peers

Row = dict[str, Any]

LEAST_OVER_PEER, LEAST_SHARE, MOST_OF_DENSE, MOST_OF_A_RUN, LEAST_PACKED = 1.0, 0.45, 0.876, 0.1, 4.0
MUST_SHOW = (("llama-1b", "attention=1/6"), ("llama-3b", "attention=1/6"), ("llama-130m", "attention=1/6"),
             ("llama-350m", "attention=5/16"))  # fmt: skip
"""Shape and placement, at context 1024: d/6 (rank 128 at 130m) and rank 320 at 350m."""
AS_FAR_AS_IT_ALLOWS, ABOVE_ROOFLINE = ("llama-130m", "llama-350m"), 0.05
"""Shapes that aim at MOST_OF_DENSE only as far as the roofline allows it, and how far above that one is taken for it."""
PACKED = "llama-9m", "llama-20m"
ALONE_KEYS = "workers", "mps", "cuda_graph"


def answers(found: Mapping[str, Any]) -> list[str]:
    """found: a Report's."""
    rows = {name: its["rows"] for name, its in found.items() if isinstance(its, dict) and "rows" in its}
    lines = [*use(rows), *aims(rows)]
    return lines + [f"above the roofline: {row['sentence']}" for row in rows.get("lowrank", []) if row.get("sentence")]


def use(rows: Mapping[str, list[Row]]) -> list[str]:
    """What to use here."""
    return [
        *use_kernels(rows.get("peers", [])),
        *use_of_low_rank(rows.get("lowrank", [])),
        *use_workers(rows.get("packing", [])),
        *use_together(rows.get("together", [])),
    ]


def aims(rows: Mapping[str, list[Row]]) -> list[str]:
    """What was aimed at."""
    return [
        *aim_peers(rows.get("peers", [])), *aim_lowrank(rows.get("lowrank", [])),
        *aim_startup(rows.get("startup", [])), *aim_packing(rows.get("packing", [])),
    ]  # fmt: skip


def aim(what: str, value: float | None, bound: float, least: bool, more: str = "") -> str:
    """A line. value: None where it was not measured; least: whether the bound is the least or the most; more: beside it."""
    sign, ending = "at least" if least else "at most", f" ({more})" if more else ""
    if value is None:
        return f"not measured: {what}, {sign} {bound:g}{ending}"
    met = value >= bound if least else value <= bound
    return f"{'met' if met else 'NOT met'}: {what} {value:.3f}, {sign} {bound:g}{ending}"


def ran(rows: Sequence[Row], *keys: str) -> list[Row]:
    """Those that did not fail and have these keys."""
    return [row for row in rows if "failed" not in row and all(key in row for key in keys)]


def ours_of(rows: Sequence[Row]) -> list[Row]:
    """Rows of our own loop, the fastest first."""
    mine = [row for row in ran(rows, "over_plain") if row["name"].startswith("ours")]
    return sorted(mine, key=lambda row: -row["over_plain"])


def use_kernels(rows: Sequence[Row]) -> list[str]:
    """Dense, at the shape of the stage peers."""
    mine = ours_of(rows)
    if not mine:
        return ["not measured: which kernels and cuda_graph"]
    others = ", ".join(f"{row['name'].removeprefix('ours, ')} {row['over_plain']:.2f}" for row in mine[1:])
    best = f"{mine[0]['name'].removeprefix('ours, ')}: {mine[0]['tokens_per_second']:,.0f} tokens a second"
    return [f"use, {rows[0]['shape']} dense: kernels {best}, {mine[0]['over_plain']:.2f} times plain ({others or 'no other'})"]


def use_of_low_rank(rows: Sequence[Row]) -> list[str]:
    """Which kernels make each low-rank step shortest, by its seconds, where all have as many layers."""
    found: dict[str, list[Row]] = {}
    for row in ran(rows, "measured_ratio"):
        found.setdefault(f"{row['shape']}, context {row['context']}, {row['ranks']}", []).append(row)
    lines = []
    for cell, its in found.items():
        its = sorted(its, key=_low_seconds)
        if len(its) > 1 and its[0]["layers"] == its[-1]["layers"]:
            said = ", ".join(f"{row['kernels']} {1e3 * _low_seconds(row):.1f} ms" for row in its)
            lines.append(f"use, {cell}: kernels {its[0]['kernels']} ({said})")
    return lines


def _low_seconds(row: Row) -> float:
    return row["measured_ratio"] * row["dense_seconds"]


def use_workers(rows: Sequence[Row]) -> list[str]:
    """The fastest of each shape's ways to share the device."""
    lines = []
    for shape, its in by_shape(rows).items():
        best = max(its, key=lambda row: row["runs_an_hour"])
        said = f"workers_per_device {best['workers']}, mps {best['mps']}, cuda_graph {best['cuda_graph']}"
        times = "" if (over := over_best_alone(best, its)) is None else f", {over:.2f} times the faster of one at a time"
        lines.append(f"use, {shape}: {said}: {best['runs_an_hour']:.0f} runs an hour{times}")
    return lines or ["not measured: workers_per_device and mps"]


def use_together(rows: Sequence[Row]) -> list[str]:
    """The fastest of each shape's ways to train several runs in one process, and whether that is faster than one at a time."""
    found: dict[str, list[Row]] = {}
    for row in ran(rows, "over_one_at_a_time"):
        found.setdefault(row["shape"], []).append(row)
    lines = []
    for shape, its in found.items():
        best, *others = sorted(its, key=lambda row: -row["over_one_at_a_time"])
        said = ", ".join(f"{row['runs']} {row['way']} {row['over_one_at_a_time']:.2f}" for row in others) or "no other"
        verb = "use" if best["over_one_at_a_time"] > 1 else "do not use"
        lines.append(
            f"{verb}, {shape}, several runs in one process: {best['runs']} {best['way']}, "
            f"{best['over_one_at_a_time']:.2f} times the steps of one at a time, {best['over_one_alike']:.2f} of one alike "
            f"({said}); the first run's loss differs by {best['nats_from_one_alike']:.4f} nats"
        )
    return lines or ["not measured: several runs in one process"]


def by_shape(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of packing that came to their end."""
    found: dict[str, list[Row]] = {}
    for row in ran(rows, "runs_an_hour", *ALONE_KEYS):
        found.setdefault(row["shape"], []).append(row)
    return found


def over_best_alone(row: Row, its: Sequence[Row]) -> float | None:
    """Runs an hour over those of the fastest one at a time. its: of the same shape."""
    alone = [one["runs_an_hour"] for one in its if one["workers"] == 1]
    return row["runs_an_hour"] / max(alone) if alone else None


def aim_peers(rows: Sequence[Row]) -> list[str]:
    """Over the best peer, and of the measured rate of products."""
    shape = rows[0]["shape"] if rows else "llama-130m"
    what = f"{shape} dense, ours over the best peer"
    if not rows:
        lines = [aim(what, None, LEAST_OVER_PEER, True)]
    else:
        its = against_peers(rows)["all"]
        more = f"among those measured {its['among_measured'] or math.nan:.3f}; {its['why']}" if its["why"] else ""
        lines = [aim(what, its["value"], LEAST_OVER_PEER, True, more)]
    speeds = [(row["share_of_matmul_rate"], row) for row in ran(ours_of(rows), "share_of_matmul_rate")]
    share, full = max(((share, row["share_with_full_scores"]) for share, row in speeds), default=(None, math.nan))
    more = "" if share is None else f"{full:.3f} with the scores that causal attention leaves out"
    return [*lines, aim(f"{shape} dense, share of the measured matmul rate", share, LEAST_SHARE, True, more)]


def aim_lowrank(rows: Sequence[Row]) -> list[str]:
    """With the kernels that make the dense step shortest, so that no slow dense one flatters."""
    lines = []
    for shape, placement in MUST_SHOW:
        wanted = {"shape": shape, "placement": placement, "context": 1024}
        its = [row for row in ran(rows, "measured_ratio") if wanted.items() <= row.items()]
        best = min(its, key=lambda row: row["dense_seconds"] / row["layers"], default=None)
        value, most, more = None, MOST_OF_DENSE, ""
        if best is not None:
            value, more = best["measured_ratio"], f"{best['kernels']}, {best['layers']} layers; "
            more += f"by the roofline {best['roofline_ratio']:.3f}"
            most = max(most, best["roofline_ratio"] + ABOVE_ROOFLINE) if shape in AS_FAR_AS_IT_ALLOWS else most
        lines.append(aim(f"{shape} with {placement} over dense, step time", value, most, False, more))
    return lines


def aim_startup(rows: Sequence[Row]) -> list[str]:
    """What the worst new candidate takes before it trains at speed, of 60 seconds; the worker's first beside it."""
    warm = [row for row in ran(rows, "candidates") if row["cache"] == "warm"]
    what = "start of a new candidate, of a 60-second run"
    if not warm:
        return [aim(what, None, MOST_OF_A_RUN, False)]
    lines = []
    for row in warm:
        shares = {kind: its["share_of_a_run"] for kind, its in row["candidates"].items()}
        first = shares.pop("first")
        ways = f"{row['kernels']}, cuda_graph {row['cuda_graph']}, warm cache; a worker's first {first:.3f}"
        lines.append(aim(what, max(shares.values()), MOST_OF_A_RUN, False, ways))
    return lines


def aim_packing(rows: Sequence[Row]) -> list[str]:
    """A line a shape."""
    found = by_shape(rows)
    names = [shape for name in PACKED for shape in [its for its in found if its.startswith(name)] or [name]]
    return [aim_packed(shape, found.get(shape, [])) for shape in names]


def aim_packed(shape: str, its: Sequence[Row]) -> str:
    """Over the faster of one at a time; whether the same runs had the same losses is said beside it."""
    several = [row for row in its if row["workers"] > 1]
    best = max(several, key=lambda row: row["runs_an_hour"], default={})
    over = over_best_alone(best, its) if best else None
    nats, noise = best.get("nats_from_one_alike"), best.get("seed_noise_nats")
    more = "" if nats is None else f"losses differ by up to {nats:.4f} nats"
    more += f", seeds by {noise:.4f}" if more and noise is not None else ""
    return aim(f"{shape}, runs an hour over one at a time", over, LEAST_PACKED, True, more)
