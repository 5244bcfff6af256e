"""What a training step takes as the sum of its pieces: each is measured once for a device and kept on disk for whoever asks."""

import platform
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import torch

from .config import Config, UserError
from .files import forget_drafts, replace_text
from .kernels import each_shape_by_itself
from .model_config import ModelConfig
from .piece_time import SECONDS, PieceTime, kernels_name, piece_time
from .pieces import Piece, flops, pieces
from .train import is_bfloat16
from .train_config import TrainConfig

FOLDER = "step_times"
"""Of the tables in the cache."""
WRITE_SECONDS = 2.0
"""Between two writes of what was measured, so long as more is measured (assumption)."""


class Under(Config):
    """What a piece's time depends on besides the piece."""

    device: str
    """The GPU's product name, or the processor's."""
    torch: str
    """Its version."""
    precision: str
    """Of activations."""
    kernels: str
    """What is compiled: plain or regions."""
    threads: int
    """Of torch on a CPU; on a GPU 0."""
    microbatch: int
    """Sequences in one forward pass."""
    context: int
    """Tokens in each."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes what a block holds again."""

    @property
    def file(self) -> str:
        """The name of the file that keeps what was measured under it."""
        words = [self.device, f"torch {self.torch}", self.precision, self.kernels, f"{self.microbatch}x{self.context}"]
        words += [f"threads {self.threads}"] if self.threads else []
        words += ["checkpointed"] if self.activation_checkpointing else []
        return re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(words)) + ".json"

    def unlike(self, here: "Under") -> str:
        """How it differs from another, in words; nothing where it does not."""
        there, other = self.model_dump(), here.model_dump()
        return ", ".join(f"{key} ({there[key]} there, {other[key]} here)" for key in there if there[key] != other[key])


def under(config: TrainConfig) -> Under:
    """What pieces of a training are measured under, here. Raises UserError for kernels that compile more than a piece."""
    device = config.resolve_device()
    return Under(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        torch=torch.__version__,
        precision="bfloat16" if is_bfloat16(config, device) else "float32",
        kernels=kernels_name(config, device),
        threads=0 if device.type == "cuda" else torch.get_num_threads(),
        microbatch=config.microbatch or config.batch_size,
        context=config.model.context,
        activation_checkpointing=config.activation_checkpointing,
    )


def check_under(there: Under | None, config: TrainConfig) -> None:
    """Raises UserError where a training is measured here under something else than that, if there is one."""
    if there is not None and (words := there.unlike(under(config))):
        raise UserError(f"the study's step times were measured under something else: {words}")


def processor() -> str:
    """What this machine's processor is called."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "cpu"


class StepTable(Config):
    """Seconds of pieces by their keys, all measured under the same."""

    under: Under
    pieces: dict[str, PieceTime]

    @property
    def text(self) -> str:
        """As a file has it."""
        return self.model_dump_json(indent=1) + "\n"

    def lacks(self, asked: Collection[Piece]) -> list[Piece]:
        """Those of some pieces that it does not have."""
        return [piece for piece in asked if piece.key not in self.pieces]

    def only(self, asked: Collection[Piece]) -> "StepTable":
        """What it says of these. Raises KeyError."""
        return self.change(pieces={piece.key: self.pieces[piece.key] for piece in asked})

    def step_seconds(self, model: ModelConfig, dense_width: int, batch_size: int) -> float:
        """Of a step: all its microbatches and the update. dense_width: d_ff of the dense twin; batch_size: sequences a step.
        Raises KeyError for a piece that it does not have."""
        further = batch_size // self.under.microbatch - 1
        total = 0.0
        for piece, count in pieces(model, dense_width).items():
            its = self.pieces[piece.key]
            total += count * (its.first + further * its.more)
        return total


Measure = Callable[[Piece, TrainConfig], PieceTime]
"""A piece of a training -> its time."""
Say = Callable[[str], object]


def step_table(
    config: TrainConfig, asked: Collection[Piece], say: Say, cache: Path, measure: Measure = piece_time
) -> StepTable:
    """The times of these pieces: those in the cache, and what is missing there measured in this process and put into it.

    config: the dense target's training; say: hears in a line how far it is; cache: a folder. A file there that cannot be read
    is measured anew. Raises UserError.
    """
    its = under(config)
    path = cache / its.file
    table = _cached(path, its)
    tokens = its.microbatch * its.context
    size = {piece: flops(piece, tokens, its.context) for piece in table.lacks(asked)}
    left = sorted(size, key=lambda piece: -size[piece])  # the longest first, which foretells the others
    written, rate = time.monotonic(), 0.0
    for number, piece in enumerate(left):
        ahead = sum(max(SECONDS, rate * size[one]) for one in left[number:])
        say(f"{number + 1} of {len(left)} pieces of a step{f', about {ahead / 60:.1f} min to go' if rate else ''}")
        begun = time.monotonic()
        with each_shape_by_itself(its.kernels):
            table = table.change(pieces=table.pieces | {piece.key: measure(piece, config)})
        rate = rate or (time.monotonic() - begun) / size[piece]
        if number + 1 == len(left) or time.monotonic() - written > WRITE_SECONDS:
            table, written = _keep(table, path), time.monotonic()
    return table.only(asked)


def _cached(path: Path, its: Under) -> StepTable:
    """What the cache has, or an empty table."""
    with suppress(OSError, UnicodeDecodeError, UserError):
        found = StepTable.parse_json(path.read_text(encoding="utf-8"), str(path))
        if found.under == its:
            return found
    return StepTable(under=its, pieces={})


def _keep(table: StepTable, path: Path) -> StepTable:
    """Write a table into the cache, beside what others have put there meanwhile; all of it."""
    merged = table.change(pieces=_cached(path, table.under).pieces | table.pieces)
    with suppress(OSError):  # it is measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        forget_drafts(path.parent)
        replace_text(path, merged.text, sync=False)
    return merged


def read_table(path: Path) -> StepTable:
    """The table in a file. Raises UserError."""
    try:
        return StepTable.parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
