"""Is a step's time the sum of its pieces' times? Candidates of a space, whole steps of the target against the table, compiled
alike, each shape by itself; and on a GPU the peak of memory against the formula, and what its host takes of a step.

    python tests/benchmarks/step_table.py sublayers --set target.microbatch=16
    python tests/benchmarks/step_table.py sublayers --device cpu --set target.microbatch=2 --set target.batch_size=8 \
        --set "target.model={vocab_size: 2048, d_model: 256, d_ff: 688, n_heads: 4, n_layers: 4, context: 256, \
rank_multiple: 16, ffn_multiple: 8}"

Aimed at: a median error of 3 %, a worst one of 8 %.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.cost import training_cost
from lpanas.lpa.kernels import each_shape_by_itself, forget
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.piece_time import kernels_name
from lpanas.lpa.pieces import Piece, pieces
from lpanas.lpa.step_table import StepTable, step_table
from lpanas.lpa.step_time import Stepper
from lpanas.lpa.train import is_bfloat16
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.budget import ARMS
from lpanas.search.candidate import Candidate
from lpanas.search.carry import train_config
from lpanas.search.presets import load_space
from lpanas.search.space import Space
from lpanas.search.timetable import asked

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A candidate."""

    placement: str
    d_ff: int
    foretold_seconds: float
    """By the table."""
    host_seconds: float
    """Of these, what the host takes to start the kernels; on a CPU 0."""
    seconds: float
    """Of whole steps, the median."""
    foretold_ratio: float
    ratio: float
    """To the dense target's: the median over pairs of steps."""
    formula_bytes: int
    peak_bytes: int | None
    """As torch's allocator saw it; on a GPU."""

    @property
    def error(self) -> float:
        """Of the seconds."""
        return self.foretold_seconds / self.seconds - 1

    @property
    def ratio_error(self) -> float:
        """Of the ratio to dense, which is what a front shows."""
        return self.foretold_ratio / self.ratio - 1


def main() -> None:
    args = _read()
    space = load_space(args.space, args.settings)
    config = train_config(space, space.target.model).change(device=args.device)
    torch.set_num_threads(args.threads)
    torch.cuda.init() if config.resolve_device().type == "cuda" else None
    with each_shape_by_itself(kernels_name(config, config.resolve_device())):
        _measure(args, space, config)


def _measure(args: argparse.Namespace, space: Space, config: TrainConfig) -> None:
    began = time.monotonic()
    table = _measured(config, asked(space))
    print(f"{len(table.pieces)} pieces in {time.monotonic() - began:.0f} s, under {table.under.model_dump_json()}")
    print(f"spread of a piece: median {median(one.spread for one in table.pieces.values()):.1%}")
    rows = [_row(config, one.target, table, args.rounds) for one in _chosen(space, args)]
    for row in rows:
        print(_line(row))
    _summary("a step's seconds", [row.error for row in rows])
    _summary("its ratio to dense", [row.ratio_error for row in rows if row.placement != rows[0].placement])
    again = _measured(config, pieces(config.model, config.model.d_ff))
    drift = _dense_seconds(again, config) / _dense_seconds(table, config) - 1
    print(f"the dense target's pieces, measured again after all this: {drift:+.1%}")
    if rows[0].peak_bytes is not None:
        _summary("memory_bytes, by formula", [row.formula_bytes / (row.peak_bytes or 1) - 1 for row in rows])
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"under": table.under.model_dump(), "rows": [asdict(row) for row in rows]}, file, indent=1)


def _measured(config: TrainConfig, of: Collection[Piece]) -> StepTable:
    """Without what any cache has."""
    with tempfile.TemporaryDirectory() as folder:
        return step_table(config, of, _say, Path(folder))


def _dense_seconds(table: StepTable, config: TrainConfig) -> float:
    return table.step_seconds(config.model, config.model.d_ff, config.batch_size)


def _read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", help="a preset's name or a YAML file")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--candidates", type=int, default=12, help="the four arms included, the others drawn")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of steps of a candidate and the dense target")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def _chosen(space: Space, args: argparse.Namespace) -> list[Candidate]:
    """The arms, dense first, and random candidates."""
    found = {one.trained: one for one in map(space.arm, ARMS)}
    for point in space.drawn(Random(0)):
        if len(found) >= args.candidates:
            break
        one = space.candidate(point)
        found.setdefault(one.trained, one)
    return list(found.values())


def _row(config: TrainConfig, model: ModelConfig, table: StepTable, rounds: int) -> Row:
    dense, batch = config.model, config.batch_size
    gc.collect()
    forget()  # a process compiles a bounded number of kinds
    own = _begun(config.change(model=model))
    peak = torch.cuda.max_memory_allocated() if own.device.type == "cuda" else None
    other = _begun(config)
    pairs = [_pair(own, other, number) for number in range(rounds)]
    foretold, of_dense = (table.step_seconds(one, dense.d_ff, batch) for one in (model, dense))
    item = 2 if is_bfloat16(config, own.device) else 4
    return Row(
        placement=model.placement.text,
        d_ff=model.d_ff,
        foretold_seconds=foretold,
        host_seconds=table.sums(model, dense.d_ff, batch)[1],
        seconds=median(one for one, _ in pairs),
        foretold_ratio=foretold / of_dense,
        ratio=median(one / its for one, its in pairs),
        formula_bytes=training_cost(config.change(model=model), item).memory_bytes,
        peak_bytes=peak,
    )


def _begun(config: TrainConfig) -> Stepper:
    if config.resolve_device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stepper = Stepper(config)
    stepper.warm_up()
    return stepper


def _pair(own: Stepper, dense: Stepper, number: int) -> tuple[float, float]:
    """The seconds of a step of each, which of them goes first alternates."""
    if number % 2:
        its = dense.step_seconds()
        return own.step_seconds(), its
    return own.step_seconds(), dense.step_seconds()


def _line(row: Row) -> str:
    peak = f", memory {row.formula_bytes / GIB:.2f} GiB, peak {row.peak_bytes / GIB:.2f}" if row.peak_bytes else ""
    host = f" (host {row.host_seconds:.4g})" if row.host_seconds else ""
    return (
        f"{row.foretold_seconds:.4g} s foretold{host}, {row.seconds:.4g} s: {row.error:+.1%}; x {row.foretold_ratio:.3f} dense "
        f"foretold, x {row.ratio:.3f}: {row.ratio_error:+.1%}{peak}; d_ff {row.d_ff}, {row.placement}"
    )


def _summary(what: str, errors: list[float]) -> None:
    sizes = sorted(map(abs, errors))
    mean = sum(errors) / len(errors)
    print(f"{what}: median error {median(sizes):.1%}, worst {sizes[-1]:.1%}, mean {mean:+.1%}, n {len(errors)}")


def _say(line: str) -> None:
    print(f"\r{line:70}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{error}")
