"""What a training step takes as the sum of its pieces: each is measured once for a device and kept on disk for whoever asks."""

import platform
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from .config import Config, UserError
from .files import forget_drafts, replace_text
from .kernels import each_shape_by_itself
from .metrics import device_name
from .model_config import ModelConfig
from .piece_time import SECONDS, PieceTime, kernels_name, piece_time
from .pieces import Layer, Piece, Project, length, pieces
from .train import precision
from .train_config import TrainConfig

FOLDER = "step_times"
"""Of the tables in the cache."""
WRITE_SECONDS = 2.0
"""Between two writes of what was measured, so long as more is measured (assumption)."""
VERSION = 2
"""Of what is measured: to be raised when pieces, how they are timed, `products` or kernels change, as older times then hold for
something else. 1: before there were versions."""
DRIFT = 0.05
"""Pieces of two days belong to one table where one that is timed on both days differs by no more (assumption). A repetition
differs by less on a machine that others use, too: on a CPU the dense target's pieces by 3.5 % (tests/benchmarks/README.md); and
by what is let through, a ratio of pieces of both days may be off."""


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
    microbatch: Annotated[int, Field(ge=1)]
    """Sequences in one forward pass."""
    context: Annotated[int, Field(ge=1)]
    """Tokens in each."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes what a block holds again."""
    clips: bool = True
    """Whether the gradient is clipped."""
    version: int = 1
    """Of what is measured (VERSION)."""
    triton: str = ""
    cuda: str = ""
    driver: str = ""
    """Their versions, of a GPU's; on a CPU nothing."""

    @property
    def is_gpu(self) -> bool:
        """Whether it was a GPU."""
        return not self.threads

    @property
    def file(self) -> str:
        """The name of the file that keeps what was measured under it: what one looks for, and a hash of all."""
        words = [self.device, f"torch {self.torch}", self.precision, self.kernels, f"{self.microbatch}x{self.context}"]
        words += [f"threads {self.threads}"] if self.threads else []
        words += ["checkpointed"] if self.activation_checkpointing else []
        words += [sha256(self.model_dump_json().encode()).hexdigest()[:8]]
        return re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(words)) + ".json"

    def unlike(self, here: "Under") -> str:
        """How it differs from another, in words; nothing where it does not."""
        there, other = self.model_dump(), here.model_dump()
        return ", ".join(f"{key} ({there[key]} there, {other[key]} here)" for key in there if there[key] != other[key])


def under(config: TrainConfig) -> Under:
    """What pieces of a training are measured under, here. Raises UserError for kernels that compile more than a piece."""
    device = config.resolve_device()
    on_gpu = device.type == "cuda"
    return Under(
        device=device_name(device) if on_gpu else processor(),
        torch=torch.__version__,
        precision=precision(config, device),
        kernels=kernels_name(config, device),
        threads=0 if on_gpu else torch.get_num_threads(),
        microbatch=config.microbatch or config.batch_size,
        context=config.model.context,
        activation_checkpointing=config.activation_checkpointing,
        clips=config.optim.clip is not None,
        version=VERSION,
        triton=_triton() if on_gpu else "",
        cuda=torch.version.cuda or torch.version.hip or "" if on_gpu else "",
        driver=driver() if on_gpu else "",
    )


def _triton() -> str:
    with suppress(PackageNotFoundError):
        return version("triton")
    return ""


def driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    with suppress(OSError):
        if found := driver_version(Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")):
            return found
    return str(torch._C._cuda_getDriverVersion()) if hasattr(torch._C, "_cuda_getDriverVersion") else ""


def driver_version(text: str) -> str | None:
    """The version that NVIDIA's kernel module says it has."""
    found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text)
    return found and found[1]


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
    anchor: int = 0
    """Width of the square projection, one of the pieces, that is timed again before more is added."""

    @property
    def probe(self) -> Piece:
        """That projection."""
        return Project((Layer(self.anchor, self.anchor),))

    @property
    def text(self) -> str:
        """As a file has it."""
        return self.model_dump_json(indent=1) + "\n"

    def lacks(self, asked: Collection[Piece]) -> list[Piece]:
        """Those of some pieces that it does not have."""
        return [piece for piece in asked if piece.key not in self.pieces]

    def only(self, asked: Collection[Piece]) -> "StepTable":
        """What it says of these, and of its probe where it has that: who adds to it asks whether the machine is as it was.
        Raises KeyError."""
        probe = [self.probe] if self.probe.key in self.pieces else []
        return self.change(pieces={piece.key: self.pieces[piece.key] for piece in dict.fromkeys([*asked, *probe])})

    def filled(self, other: "StepTable") -> "StepTable":
        """With what another has besides. Raises UserError where the machine was in another state then."""
        then, now = (one.pieces.get(self.probe.key) for one in (self, other))
        if then and now and not is_alike(then, now):
            raise UserError("the machine is faster or slower than when the study's pieces were measured")
        return self.change(pieces=other.pieces | self.pieces)

    def step_seconds(self, model: ModelConfig, dense_width: int, batch_size: int) -> float:
        """Of a step: all its microbatches and the update, on the device or on the host, whichever takes longer. dense_width:
        d_ff of the dense twin; batch_size: sequences a step. Raises KeyError for a piece that it does not have."""
        return max(self.sums(model, dense_width, batch_size))

    def sums(self, model: ModelConfig, dense_width: int, batch_size: int) -> tuple[float, float]:
        """Seconds of a step: of the device, and of the host that starts its kernels (0 on a CPU). Arguments: as of
        step_seconds."""
        further = batch_size // self.under.microbatch - 1
        device = host = 0.0
        for piece, count in pieces(model, dense_width).items():
            its = self.pieces[piece.key]
            device += count * (its.first + further * its.more)
            host += count * (its.host_first + further * its.host_more)
        return device, host


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

    def timed(piece: Piece) -> PieceTime:
        with each_shape_by_itself(its.kernels):
            return measure(piece, config)

    empty = StepTable(under=its, pieces={}, anchor=config.model.d_model)  # a piece of a Llama-style model anyway
    table = cached(path, its) or empty
    if table.lacks(asked):
        if table.pieces and not _is_as_then(table, timed, say):
            say("the machine is faster or slower than it was: all pieces are measured anew")
            table = empty
        table = _completed(table, asked, path, timed, say)
    return table.only(asked)


def _is_as_then(table: StepTable, timed: Callable[[Piece], PieceTime], say: Say) -> bool:
    """Whether the machine is as it was when a table was begun, so that times of now may be added to it."""
    say("a piece that was measured before")
    then = table.pieces.get(table.probe.key)
    return any(is_alike(then, timed(table.probe)) for _ in range(2))  # one disturbed measurement does not cost the table


def is_alike(one: PieceTime | None, other: PieceTime | None) -> bool:
    """Whether two times of one piece are of one state of a machine."""
    if one is None or other is None:
        return False
    return abs((one.first + one.more) / (other.first + other.more) - 1) <= DRIFT


def _completed(
    table: StepTable, asked: Collection[Piece], path: Path, timed: Callable[[Piece], PieceTime], say: Say
) -> StepTable:
    """A table with all pieces that are asked for, and its probe."""
    its = table.under
    tokens = its.microbatch * its.context
    size = {piece: length(piece, tokens, its.context) for piece in table.lacks([table.probe, *asked])}
    left = sorted(size, key=lambda piece: -size[piece])  # the longest first, which foretells the others
    if table.probe in size:
        left.remove(table.probe)
        left.insert(1, table.probe)
    written, rate = time.monotonic(), 0.0
    for number, piece in enumerate(left):
        ahead = sum(max(SECONDS, rate * size[one]) for one in left[number:])
        say(f"{number + 1} of {len(left)} pieces of a step{f', about {ahead / 60:.1f} min to go' if rate else ''}")
        begun = time.monotonic()
        table = table.change(pieces=table.pieces | {piece.key: timed(piece)})
        rate = rate or (time.monotonic() - begun) / size[piece]
        if number + 1 == len(left) or (number and time.monotonic() - written > WRITE_SECONDS):
            table, written = _keep(table, path), time.monotonic()
    return table


def cached(path: Path, its: Under) -> StepTable | None:
    """What the cache has of what was measured under the same. path: its file there."""
    with suppress(OSError, UnicodeDecodeError, UserError):
        found = StepTable.parse_json(path.read_text(encoding="utf-8"), str(path))
        if found.under == its:
            return found
    return None


def _keep(table: StepTable, path: Path) -> StepTable:
    """Write a table into the cache, beside what others have put there meanwhile, where the machine was as it is; all of it."""
    theirs, key = cached(path, table.under), table.probe.key
    if theirs and theirs.anchor == table.anchor and is_alike(theirs.pieces.get(key), table.pieces.get(key)):
        table = table.change(pieces=theirs.pieces | table.pieces)
    with suppress(OSError):  # it is measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        forget_drafts(path.parent)
        replace_text(path, table.text, sync=False)
    return table


def read_table(path: Path, remedy: str = "") -> StepTable:
    """The table in a file. remedy: what to do about one that is missing or damaged. Raises UserError."""
    try:
        return StepTable.parse_json(path.read_text(encoding="utf-8"), str(path), remedy)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise UserError(f"{path}: cannot be read: {why}{remedy and f'; {remedy}'}") from None
