"""The same results in a terminal: one screen at the end of a search, what `show` prints."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..lpa.cost import cost, training_cost
from ..lpa.train import Progress, is_bfloat16, precision
from ..lpa.train_config import TrainConfig
from . import characters, compare_words, manner, outcome_words, step_file, summary, wording
from .budget import ARMS
from .candidate import STEP_SECONDS
from .compare import Comparison
from .compare_rows import study_rows, winner_rows
from .confirmation import ComparisonResult, Confirmation
from .outcomes import Outcome
from .outlook import outlook
from .record import Record
from .results import Results
from .space import Space

WIDTH = 120
"""Columns where there is no terminal to ask."""
FRONT = 8
"""Candidates of the front, at most, in a table that has to fit on a screen; into a file or a pipe goes all of it."""
WIDEST = 10_000
"""Columns of a table, at most."""
DIFFERENT = 12
"""Lines of what differs between studies, likewise."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def note(line: str) -> None:
    """Something to mind, beside the results."""
    print(f"lpanas: {line}", file=sys.stderr, flush=True)


def print_results(found: Results, paths: dict[str, object], exhausted: bool = False) -> None:
    """One screen: the front in characters, the arms and the front in numbers, the winner, the smallest difference, where
    things are. exhausted: whether the driver has found no other candidate to train."""
    for line in characters.front_lines(found, console.width, console.encoding):
        console.print(line, markup=False)
    rows = _rows(found)
    if rows:
        _print_table(_records(found, rows))
    early = summary.early(found) if exhausted else ""
    said = [summary.ended(found), early, summary.winner(found), summary.belief(found), summary.step_times(found.space)]
    for line in filter(None, [*_left_out(found, rows), *said]):
        console.print(line, markup=False)
    for name, path in paths.items():
        console.print(f"{name}: {path}", markup=False)


def _rows(found: Results) -> list[Record]:
    """The arms, the placements that were asked for and the front, of which on a terminal FRONT and the winner, lowest loss
    first, those without one last."""
    front = found.front
    steps = min(len(front), FRONT) if console.is_terminal else len(front)
    places = {place * (len(front) - 1) // max(1, steps - 1) for place in range(steps)}
    chosen = [front[place] for place in places] + ([found.winner] if found.winner else [])
    asked = [record for record in found.records if record.listed is not None]
    rows = {record.run: record for record in (*found.arms.values(), *asked, *chosen)}
    return sorted(rows.values(), key=lambda record: math.inf if record.loss_nats is None else record.loss_nats)


def _records(found: Results, rows: Sequence[Record]) -> Table:
    """A row a record, with its mark in the drawing and a * on the front."""
    widths = {record.target.d_ff for record in rows}
    shares = [f"{name}\nx dense" for name in found.priced]
    table = _table("", "run", "arm", "loss_nats", "against dense", *shares, *(["d_ff"] if len(widths) > 1 else []), "placement")
    table.title = "The reference arms and the front (*), lowest loss first"
    marks, front = characters.marks(found), {record.run for record in found.front}
    for record in rows:
        mark = marks.get(record.run, "")
        mark += "*" if record.run in front and mark not in ("*", "W") else ""
        delta = found.delta(record)
        loss = record.status if record.loss_nats is None else f"{record.loss_nats:.4f}"
        against = "" if delta is None or record.arm == "dense" else f"{delta:+.4f} {found.against_dense(record)}"
        arm = record.arm or ("asked for" if record.listed is not None else "")
        figures = [f"{found.relative(record, name):.3f}" for name in found.priced]
        figures += [str(record.target.d_ff)] if len(widths) > 1 else []
        mark = characters.written(mark, console.encoding)
        table.add_row(mark, record.run, arm, loss, against, *figures, record.placement)
    return table


def _left_out(found: Results, rows: Sequence[Record]) -> list[str]:
    """What the table does not say, or not of all: the rest of the front, limits, what ended badly."""
    lines = []
    if more := len({record.run for record in found.front} - {record.run for record in rows}):
        lines.append(f"{more} more of the {len(found.front)} on the front: lpanas show DIR | cat")
    if outside := [f"{one.run} ({found.space.excess(one.costs)})" for one in rows if found.space.broken(one.costs)]:
        lines.append(f"Above the space's limits, and so not on the front: {', '.join(outside)}")
    if failed := [record for record in found.records if record.status in ("diverged", "failed")]:
        lines.append(f"The first that did not end well: {failed[0].run}, {failed[0].reason}")
    return lines


def print_comparison(compared: Comparison, page: Path) -> None:
    """One screen: which winner is lowest, what does not compare, every study with its winner, where the page is."""
    different = compare_words.differences(compared)
    more = [f"and {len(different) - DIFFERENT} more, which the page has"] if len(different) > DIFFERENT else []
    said = [f"{compare_words.headline(compared)}.", *compare_words.cautions(compared)]
    for line in [*said, *(f"  {line}" for line in [*different[:DIFFERENT], *more])]:
        console.print(line, markup=False)
    _print_table(_studies(compared))
    for line in [compare_words.volumes(compared), f"page: {page}"]:
        console.print(line, markup=False)


def _studies(compared: Comparison) -> Table:
    studies, shares = study_rows(compared), [f"{cost}\nx dense" for cost in compared.costs]
    volumes = [_known(study["hypervolume"], ".4g") for study in studies]
    volume = ["hypervolume"] if any(volumes) else []
    table = _table("study", "complete", "front", *volume, "winner", "loss_nats", "against dense", *shares, "placement")
    table.title = "The studies and their winners"
    for study, enclosed, winner in zip(studies, volumes, winner_rows(compared), strict=True):
        loss, delta = (_known(winner[name], form) for name, form in (("loss_nats", ".4f"), ("delta_nats", "+.4f")))
        against = f"{delta} {winner['against_dense'] or ''}".strip()
        figures = [_known(winner[f"{cost}_share"], ".3f") for cost in compared.costs]
        cells = [f"{study['complete']} of {study['planned']}", str(study["front"]), *([enclosed] if volume else [])]
        cells += [str(winner["run"] or "none"), loss, against, *figures, str(winner["placement"] or "")]
        table.add_row(Text(str(study["study"])), *map(Text, cells))
    return table


def _known(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, float) else ""


def print_confirmation(found: Confirmation, paths: dict[str, object]) -> None:
    """One screen: the claim and its verdict, every comparison, what the controls and the ladder say, where things are."""
    console.print(f"The claim: {wording.claim(found)}", markup=False)
    console.print(f"{wording.headline(found)}.", markup=False, style="bold")
    console.print(wording.terms(found), markup=False)
    for text in wording.others(found):
        console.print(text, markup=False)
    console.print(wording.COLUMNS)
    for title, its in wording.grouped(found):
        begun = any(one.n for one in its)
        if begun:
            _print_table(_comparisons(title, its))
        else:
            console.print(Text(f"{title} (no pairs of seeds yet)", style="bold"))
    for title, texts in wording.remarks(found):
        console.print(title, style="bold", markup=False)
        for text in texts:
            console.print(f"  {text}", markup=False)
    for name, path in paths.items():
        console.print(f"{name}: {path}", markup=False)


def _comparisons(title: str, comparisons: Sequence[ComparisonResult]) -> Table:
    table = Table(title=title, box=None, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", min_width=30)
    for name in ("n", "loss_nats", "perplexity %", "95 %", "p confirm", "p refute", "verdict"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for one in comparisons:
        mean = "" if one.mean_nats is None else f"{one.mean_nats:+.4f}"
        percent = "" if one.ppl_percent is None else f"{one.ppl_percent:+.2f}"
        interval = "" if one.t_ppl_percent is None else f"{one.t_ppl_percent[0]:+.2f} to {one.t_ppl_percent[1]:+.2f}"
        p = [wording.p(value) for value in (one.confirm_p_holm, one.refute_p_holm)]
        table.add_row(Text(one.text), str(one.n), mean, percent, interval, *p, one.verdict)
    return table


def print_space(space: Space) -> None:
    """What a space would run: the proxy, the arms at the target with their costs, the size of the search."""
    proxy = space.proxy
    console.print(f"space {space.name}: {space.size:,} points, {space.search.trials} candidates to train", markup=False)
    console.print(
        f"proxy: d_model {proxy.model.d_model}, {proxy.model.n_layers} layers, context {proxy.model.context}, "
        f"{proxy.steps:,} steps of {proxy.batch_tokens:,} tokens ({proxy.tokens:,} in all)"
    )
    planned = space.search.planned
    figures = cost(proxy.model, proxy.microbatch or proxy.batch_size, 4)
    total = planned * proxy.tokens * figures.flops_per_token
    console.print(f"  {planned} runs, at most {total:.3g} training FLOPs in all; a dense run {figures.params:,} params")
    runs = manner.of_space(space)
    table = _table(*runs)
    table.add_row(*map(Text, runs.values()))
    _print_table(table)
    for line in manner.idle(space):
        console.print(line, markup=False)
    seconds = [STEP_SECONDS] if space.step_times else []
    table = _table("arm", "params", "flops_per_token", "memory_bytes", *seconds)
    arms = {name: space.arm(name) for name in ARMS}
    for name, candidate in arms.items():
        table.add_row(name, *_figures(candidate.costs), *(f"{candidate.costs[STEP_SECONDS]:.4g} s" for _ in seconds))
    _print_table(table)
    for name, candidate in arms.items():
        ranks = f"; ranks of the proxy {candidate.proxy.ranks_text}" if candidate.proxy.ranks_text else ""
        its = f"{name}: placement of the target {candidate.target.placement.text}{ranks}"
        console.print(its, markup=False, soft_wrap=True)
    if space.asks_step_seconds:
        limited = "; whether anything keeps to its limit is known then, before the first run"
        its = f"{step_file.unmeasured(space)}{limited if STEP_SECONDS in space.limits else ''}"
        console.print(summary.step_times(space) or its, markup=False)
    for name, limit in space.limits.items():
        console.print(f"limit: {name} at most {limit}", markup=False)
    above = {name: excess for name, candidate in arms.items() if (excess := space.excess(candidate.costs))}
    if above:
        console.print(f"above the limits: {', '.join(f'{name} ({excess})' for name, excess in above.items())}", markup=False)
    console.print(f"confirm: {outlook(space)}", markup=False)


def print_config(config: TrainConfig) -> None:
    """What a training config would train, and what it would cost."""
    model, device = config.model, config.resolve_device()
    console.print(
        f"{config.steps:,} steps of {config.batch_tokens:,} tokens ({config.tokens:,} in all) on {device.type}, in "
        f"{precision(config, device)}; data: {config.data.name}; kernels {manner.kernels(config, device)}"
        f"{', cuda_graph' * config.cuda_graph}", markup=False
    )  # fmt: skip
    table = _table("", "params", "flops_per_token", "memory_bytes")
    models = {"this model": model, "dense, same width": model.dense()}
    item = 2 if is_bfloat16(config, device) else 4
    for name, one in models.items():
        table.add_row(name, *_figures(training_cost(config.change(model=one), item).asdict()))
    _print_table(table)
    for name, one in models.items():
        ranks = f"; ranks {one.ranks_text}" if one.ranks_text else ""
        console.print(f"{name}: placement {one.placement.text}{ranks}", markup=False, soft_wrap=True)
    if config.precision == "auto" and item == 4:
        memory = _gib(training_cost(config).memory_bytes)
        console.print(f"memory_bytes: with activations in float32, as here; on a GPU, in bfloat16, this model has {memory}")
    console.print(f"in all: {config.tokens * training_cost(config).flops_per_token:.3g} training FLOPs")


def print_outcomes(found: Sequence[Outcome], place: Path) -> None:
    """What the exported configs of a target's folder came to, a row a training, and against their dense twin."""
    table = _table("config", "trained in", "seed", "steps", "evaluated at", "loss_nats", "perplexity", "tokens/s")
    for one in found:
        for training in one.trainings:
            last = ["", "", ""] if training.last is None else [f"{training.last[0]:,} tokens", *_loss(training.last[1])]
            steps = f"{training.steps:,} of {training.config.steps:,}"
            speed = "" if training.tokens_per_second is None else f"{training.tokens_per_second:,.0f}"
            folder = str(training.folder.relative_to(place))
            table.add_row(Text(one.name), Text(folder), str(training.config.seed), steps, *last, speed)
    if table.row_count:
        _print_table(table)
    for line in outcome_words.sentences(found, place):
        console.print(line, markup=False)


def _loss(loss_nats: float) -> list[str]:
    return [f"{loss_nats:.4f}", f"{math.exp(loss_nats):.4g}"]


def print_progress(progress: Progress, steps: int) -> None:
    """A line for a training step that has a loss to tell."""
    if progress.train_loss_nats is None:
        return
    valid = "" if progress.valid_loss_nats is None else f", validation {progress.valid_loss_nats:.4f} nats"
    console.print(
        f"step {progress.step:,} of {steps:,}, {progress.tokens:,} tokens: {progress.train_loss_nats:.4f} nats{valid}, "
        f"{duration(progress.seconds)}"
    )


def _figures(figures: Mapping[str, int | float]) -> list[str]:
    return [f"{figures['params']:,}", f"{figures['flops_per_token']:,}", _gib(figures["memory_bytes"])]


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def _table(*columns: str) -> Table:
    table = Table(box=None, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        figures = name.startswith(("loss", "against", "flops", "params", "memory", "step_seconds", "d_ff"))
        last = name.startswith("placement")
        table.add_column(name, justify="right" if figures else "left", no_wrap=not last, overflow="fold")
    return table


def _print_table(table: Table) -> None:
    """Wider than the console where it has to be: rich would cut off a number's last digits."""
    wide = console.options.update(max_width=WIDEST)
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(Measurement.get(console, wide, cell).maximum for cell in (column.header, *column.cells))
    least = Measurement.get(console, wide, table).minimum
    table.width = least if least > console.width else None
    console.print(table, crop=False)


def duration(seconds: float) -> str:
    """Of two units, the larger first."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
