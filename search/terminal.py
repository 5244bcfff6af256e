"""The same results in a terminal: one screen at the end of a search, what `show` prints."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..lpa.cost import cost
from ..lpa.train import Progress, TrainConfig, is_bfloat16
from . import wording
from .budget import ARMS
from .confirmation import ComparisonResult, Confirmation
from .outlook import outlook
from .proxy import Record
from .results import Results
from .space import Space

WIDTH = 120
"""Columns where there is no terminal to ask."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def print_results(found: Results, paths: dict[str, object]) -> None:
    """One screen: the arms, the front, the winner, the smallest difference, where things are."""
    console.print(_records("The reference arms", found, list(found.arms.values())))
    listed = [record for record in found.records if record.listed is not None]
    if listed:
        console.print(_records("The placements that were asked for", found, listed))
    console.print(_records("The front, lowest loss first", found, found.front))
    outside = [record.run for record in (*found.arms.values(), *listed) if not record.feasible]
    if outside:
        console.print(f"Above the space's limits, and so not on the front: {', '.join(outside)}", markup=False)
    again = sum(record.continues is not None for record in found.records)
    if found.stopped or again:
        told = f"{len(found.stopped)} candidates were stopped at a rung" + (f", {again} more taken up again" if again else "")
        console.print(f"{told}; {found.tokens:,} tokens were trained on in all")
    failed = [record for record in found.records if record.status in ("diverged", "failed")]
    if failed:
        console.print(f"{len(failed)} runs did not end well; the first: {failed[0].run}, {failed[0].reason}", markup=False)
    winner, noise = found.winner, found.noise
    if winner is not None:
        shares = ", ".join(f"{found.relative(winner, name):.3f} x dense in {name}" for name in found.costs)
        console.print(
            f"Winner ({found.winner_words}): {winner.run}, {winner.placement}, d_ff {winner.target.d_ff}", markup=False
        )
        tied = f"{len(found.tied(winner))} other candidates" if noise else "it is not known how many others"
        console.print(f"  {winner.loss_nats:.4f} nats, {shares}; {tied} cannot be told from it by loss")
    if noise is None:
        console.print("The smallest difference this proxy can resolve is not known: too few dense seeds ended well")
    else:
        console.print(
            f"Smallest difference this proxy can resolve: {noise.resolvable_nats:.3f} nats between two single runs "
            f"(std {noise.std_nats:.4f} over {noise.n} seeds of the dense arm)"
        )
    for name, path in paths.items():
        console.print(f"{name}: {path}", markup=False)


def _records(title: str, found: Results, records: Sequence[Record]) -> Table:
    table = _table(
        "run", "arm", "loss_nats", "against dense", *(f"{name}\nx dense" for name in found.costs), "d_ff", "placement"
    )
    table.title = title
    for record in records:
        delta = found.delta(record)
        loss = record.status if record.loss_nats is None else f"{record.loss_nats:.4f}"
        against = "" if delta is None or record.arm == "dense" else f"{delta:+.4f} {found.against_dense(record)}"
        shares = [f"{found.relative(record, name):.3f}" for name in found.costs]
        table.add_row(record.run, record.arm or "", loss, against, *shares, str(record.target.d_ff), record.placement)
    return table


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
        console.print(_comparisons(title, its) if begun else Text(f"{title} (no pairs of seeds yet)", style="bold"))
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
        f"{proxy.steps:,} steps of {proxy.batch_tokens:,} tokens ({proxy.tokens:,} in all), {proxy.resolve_device().type}"
    )
    planned = space.search.planned
    figures = cost(proxy.model, proxy.microbatch or proxy.batch_size, 4)
    total = planned * proxy.tokens * figures.flops_per_token
    console.print(f"  {planned} runs, at most {total:.3g} training FLOPs in all; a dense run {figures.params:,} params")
    table = _table("arm", "params", "flops_per_token", "memory_bytes", "ranks of the proxy", "placement of the target")
    for name in ARMS:
        candidate = space.arm(name)
        figures = cost(candidate.target, space.target.microbatch)
        ranks = candidate.proxy.ranks_text
        table.add_row(name, *_figures(figures.asdict()), ranks, candidate.target.placement.text)
    console.print(table)
    for name, limit in space.limits.items():
        console.print(f"limit: {name} at most {limit}", markup=False)
    console.print(f"confirm: {outlook(space)}", markup=False)


def print_config(config: TrainConfig) -> None:
    """What a training config would train, and what it would cost."""
    model = config.model
    console.print(
        f"{config.steps:,} steps of {config.batch_tokens:,} tokens ({config.tokens:,} in all) on "
        f"{config.resolve_device().type}; data: {config.data.name}", markup=False
    )  # fmt: skip
    table = _table("", "params", "flops_per_token", "memory_bytes", "ranks", "placement")
    microbatch = config.microbatch or config.batch_size
    item = 2 if is_bfloat16(config, config.resolve_device()) else 4
    for name, one in (("this model", model), ("dense, same width", model.dense())):
        table.add_row(name, *_figures(cost(one, microbatch, item).asdict()), one.ranks_text, one.placement.text)
    console.print(table)
    console.print(f"in all: {config.tokens * cost(model, microbatch).flops_per_token:.3g} training FLOPs")


def print_progress(progress: Progress, steps: int) -> None:
    """A line for a training step that has a loss to tell."""
    if progress.train_loss_nats is None:
        return
    valid = "" if progress.valid_loss_nats is None else f", validation {progress.valid_loss_nats:.4f} nats"
    console.print(
        f"step {progress.step:,} of {steps:,}, {progress.tokens:,} tokens: {progress.train_loss_nats:.4f} nats{valid}, "
        f"{duration(progress.seconds)}"
    )


def _figures(figures: dict[str, int]) -> list[str]:
    return [f"{figures['params']:,}", f"{figures['flops_per_token']:,}", f"{figures['memory_bytes'] / 2**30:.2f} GiB"]


def _table(*columns: str) -> Table:
    table = Table(box=None, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        figures = name.startswith(("loss", "against", "flops", "params", "memory", "d_ff"))
        last = name.startswith("placement")
        table.add_column(name, justify="right" if figures else "left", no_wrap=not last, overflow="fold")
    return table


def duration(seconds: float) -> str:
    """Of two units, the larger first."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
