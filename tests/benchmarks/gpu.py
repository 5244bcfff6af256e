"""What a GPU makes of training and of a search: stages, each bounded, each ratios within one run, as JSON.

    python tests/benchmarks/gpu.py [STAGE...] [--toy] [--seconds S] [--limit S] [--within S] [--out FILE]

device    the rate of large bfloat16 products and of copies: the ceilings of everything else
peers     llama-130m dense, context 1024, in tokens a second: our kernels, with and without CUDA graphs, against Hugging
          Face's LlamaForCausalLM under torch.compile with fused AdamW, and litgpt's GPT where that is installed; same shape,
          tokens and precision; each alone beside ours without a compiler, in turn (tests/benchmarks/peer_speed.py)
lowrank   low rank against dense, compiled alike, pairs of steps one right after the other: kernels x placement x rank x shape x
          context, with the ratio of FLOPs, of the roofline (tests/benchmarks/roofline.py) and as measured, and a sentence where
          the last is more than 5 points above the roofline's
packing   runs an hour at llama-9m and llama-20m: one at a time, and several processes that share the device
together  the same shapes, several runs in one process, as one stack (tests/benchmarks/stacked.py) or on streams of their own:
          their steps against one at a time, in turn
startup   what of a run is not training at speed, in a search's own worker, one candidate after another: with no compiler's
          cache (cold), then with what that one left there (warm)

All of them, in this order, when none is named. --toy: at shapes for a CPU, on it, which tests that everything runs and says
nothing of speed. --seconds: of each measurement. --limit: of each stage; it ends what runs in Python or in another process, and
waits for a call into CUDA. --within: of all stages together; each has its share of it, and what those before it left. In each
stage what says most comes first. --out (gpu-DEVICE.json when left out) is written anew with each row; stages that it has of
other calls stay, if they were measured on the same device with the same versions. What fails is a row or a stage with `failed`,
as is a stage that its time ends, and then the exit code is 1. At the end plain lines say what to use here and which aims were
met, as `answers` in the JSON and on standard error. Needs transformers for its peer.

How long, as reckoned for an H100 and not yet measured, with 10 seconds each: device half a minute; peers 10 minutes, most of it
compilers; lowrank a minute a row, 4 rows that say most, 56 in all; packing 8 minutes for the 6 rows that decide, half an hour
for all; together 10 minutes; startup 10 minutes. In 500 s: --within 480 --seconds 3 device peers lowrank packing.
tests/benchmarks/README.md says what each stage does and what was measured.
"""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.metrics import device_name, peak_flops

sys.path.insert(0, str(Path(__file__).parent))
import roofline
from answers import answers
from clocks import Clocks, uuid
from contenders import Asked
from lowrank import lowrank
from packed import packing
from peer_speed import peers
from staged import Report, Rows
from startup import startup
from together import together


def device(asked: Asked) -> Rows:
    """FLOPs and bytes a second."""
    limits, peak = roofline.ceilings(asked.device, asked.toy), peak_flops(asked.device)
    found = {"matmul_flops_per_second": limits.flops_per_second, "copy_bytes_per_second": limits.bytes_per_second}
    yield found | ({"share_of_promised_peak": limits.flops_per_second / peak} if peak else {})


STAGES: dict[str, Callable[[Asked], Rows]] = {
    "device": device, "peers": peers, "lowrank": lowrank, "packing": packing, "together": together, "startup": startup
}  # fmt: skip
SHARES = {"device": 0.04, "peers": 0.26, "lowrank": 0.3, "packing": 0.4, "together": 0.15, "startup": 0.3}
"""Of what --within leaves, a stage's against those of all that are yet to come (assumption: what an H100 is reckoned to take
for the first rows of each)."""


def limit_of(name: str, rest: Iterable[str], left: float, limit: float) -> float:
    """Seconds of a stage. rest: the stages after it; left: seconds of all."""
    return max(0.1, min(limit, left * SHARES[name] / (SHARES[name] + sum(SHARES[one] for one in rest))))


def run(names: Sequence[str], asked: Asked, report: Report, limit: float, within: float) -> None:
    """Stages, one after the other. limit: seconds of each; within: of all."""
    end = time.perf_counter() + within
    for place, name in enumerate(names):
        seconds = limit_of(name, names[place + 1 :], end - time.perf_counter(), limit)
        report.run(name, lambda name=name: STAGES[name](asked), seconds)


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"gpu.py: {message}\n")


def parse() -> tuple[Parser, argparse.Namespace]:
    """The command line, checked."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--within", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, default=None)
    words = parser.parse_args()
    if unknown := set(words.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; expected {', '.join(STAGES)}")
    if not torch.cuda.is_available() and not words.toy:
        parser.error("torch sees no GPU here: --toy runs everything small on a CPU")
    return parser, words


def main() -> None:
    parser, words = parse()
    place = torch.device("cpu") if words.toy else torch.device("cuda", torch.cuda.current_device())
    path = words.out or Path(f"gpu-{re.sub('[^A-Za-z0-9]+', '-', device_name(place))}.json")
    with Clocks(uuid(place)) as clocks:
        asked = Asked(words.toy, words.seconds, place, clocks)
        try:
            report = Report(path, asked.device, clocks)
        except UserError as error:
            parser.error(f"--out {error}")
        print(f"gpu.py: {path} has what is measured", file=sys.stderr)
        try:
            run(words.stages or list(STAGES), asked, report, words.limit, words.within)
        except KeyboardInterrupt:
            parser.exit(130, f"gpu.py: stopped; {path} has what was measured until then\n")
    report.found["answers"] = answers(report.found)
    report.write()
    print(report.text)
    print(*report.found["answers"], sep="\n", file=sys.stderr)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
