"""What a training tells as it goes: its progress, its speed, and the file of both."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from .checkpoint import Curve
from .config import UserError, one_line
from .files import replace_text
from .kernels import resolved
from .train_config import TrainConfig

if TYPE_CHECKING:
    from .logs import Log

METRICS = "metrics.jsonl"
Row = dict[str, Any]
"""A line of it."""

PEAKS: dict[str, float | None] = {
    "NVIDIA A100": 312e12,
    "NVIDIA RTX A6000": 154.85e12,  # 309.7 with sparsity
    "NVIDIA H100 PCIe": 756e12,  # 1513
    "NVIDIA H100 NVL": 835e12,  # 1671
    "NVIDIA H100": 989e12,  # SXM; 1979
    "NVIDIA H200 NVL": None,  # less than SXM's
    "NVIDIA H200": 989e12,  # SXM; 1979
    "NVIDIA L40S": 362.05e12,  # 733
    "NVIDIA B200": 2250e12,  # 4500
    "NVIDIA GB200": 2500e12,  # 5000
    "NVIDIA GeForce RTX 4090 ": None,  # Laptop GPU, D
    "NVIDIA GeForce RTX 4090": 165.2e12,  # 330.4; float32 accumulation
}
"""FLOPs a second of dense bfloat16 matmuls, by how the GPU's name begins, the longer name first; None: not known. Data sheets
have most with 2:4 sparsity, which doubles them (on the right). From NVIDIA's data sheets, in copies (A100, H100, L40S) and as
torchtitan 0.3.0 cites them (all others and those); the 4090's from NVIDIA's white paper on Ada, second hand."""


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_flops(device: torch.device) -> float | None:
    """FLOPs a second that a device promises in bfloat16; None where that is not known."""
    if device.type != "cuda":
        return None
    return named_peak(device_name(device))


def named_peak(name: str) -> float | None:
    """Of a GPU by its name; None for a part of one (MIG), too."""
    if " MIG " in name:
        return None
    return next((peak for start, peak in PEAKS.items() if name.startswith(start)), None)


@dataclass(frozen=True)
class Progress:
    """A training after one more step."""

    step: int
    """Steps done."""
    tokens: int
    """Tokens trained on."""
    train_loss_nats: float | None
    """Mean over the steps since the last log line, at log lines."""
    valid_loss_nats: float | None
    """At evaluations."""
    seconds: float
    """Spent in this call so far; metrics.jsonl has those of earlier calls, too."""
    curve: Curve = ()
    """Of every evaluation so far, those of earlier calls included."""
    test_loss_nats: float | None = None
    """At the end, where the config asks for it."""
    lr: float | None = None
    """Of the step, before each parameter's own share of it; at log lines."""
    gradient_norm: float | None = None
    """Of the step's whole gradient, before it is clipped; at log lines."""


@dataclass(frozen=True)
class Machine:
    """What a line's speed is of."""

    devices: int
    """One a process."""
    device: str
    """`cpu`, or the GPU's name."""
    precision: str
    """float32 or bfloat16."""
    kernels: str
    """What is compiled."""
    cuda_graph: bool
    activation_checkpointing: bool
    microbatch: int
    """Sequences in one forward pass of a process."""

    @classmethod
    def of(cls, config: TrainConfig, device: torch.device, devices: int, precision: str) -> Self:
        """Where and how this process trains, and so many more like it."""
        share = config.batch_size // devices
        ways = resolved(config.kernels, device), config.cuda_graph, config.activation_checkpointing
        return cls(devices, device_name(device), precision, *ways, min(config.microbatch or share, share))


@dataclass
class Speed:
    """Tokens a second since it was last asked, evaluations and all; none where something was compiled meanwhile."""

    flops_per_token: int
    """Of training, by formula."""
    peak_flops: float | None
    """That all devices together promise, a second."""
    tokens: int
    """Trained on when it was last asked."""
    seconds: float = 0.0
    """Passed then."""
    count: Callable[[], int] = int
    """Of what was compiled so far; nothing is, when left out."""
    counted: int = field(init=False)
    """When it was last asked."""

    def __post_init__(self) -> None:
        self.counted = self.count()

    def since(self, tokens: int, seconds: float) -> dict[str, float]:
        """tokens_per_second and, where the devices' peak is known, mfu: the share of it that the model's own FLOPs are (PaLM,
        arXiv 2204.02311, appendix B). What is computed again does not count. Nothing where compiling took some of the time."""
        rate = (tokens - self.tokens) / max(seconds - self.seconds, 1e-9)
        before, self.counted = self.counted, self.count()
        self.tokens, self.seconds = tokens, seconds
        if self.counted != before:
            return {}
        share = {} if self.peak_flops is None else {"mfu": rate * self.flops_per_token / self.peak_flops}
        return {"tokens_per_second": rate, **share}


class Metrics:
    """metrics.jsonl: a line a logged step; lines past the checkpoint that a run goes on from are dropped."""

    def __init__(self, out: Path | None, done: int, speed: Speed, machine: Machine, seconds: float = 0.0) -> None:
        """done, seconds: steps and time of earlier calls, which this one goes on from."""
        self.speed, self.machine = speed, machine
        self.path = None if out is None else out / METRICS
        self.logs: Sequence[Log] = ()
        """What is told each line, too."""
        self.rows: list[Row] = []
        """What earlier calls have left."""
        self.before = seconds
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = list(map(_row, _whole_lines(self.path)))
        if damaged := rows.count(None):
            lines = "1 line that cannot be read is" if damaged == 1 else f"{damaged:,} lines that cannot be read are"
            print(f"lpanas: {self.path}: {lines} dropped", file=sys.stderr, flush=True)
        self.rows = [row for row in rows if row is not None and row["step"] <= done]
        self.before = max([seconds, *(float(row.get("seconds", 0)) for row in self.rows[-1:])])  # an old checkpoint has none
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def write(self, progress: Progress) -> None:
        """Append a step, if it has a loss to tell. Raises OSError."""
        if self.path is None or (progress.train_loss_nats is None and progress.valid_loss_nats is None):
            return
        row = {name: value for name, value in vars(progress).items() if value is not None and name != "curve"}
        row |= self.speed.since(progress.tokens, progress.seconds) | vars(self.machine)
        row["seconds"] = self.before + progress.seconds
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for log in self.logs:
            log.tell(row)

    def close(self) -> None:
        """The logs' end."""
        for log in self.logs:
            log.close()


def read_metrics(folder: Path) -> list[Row]:
    """The rows of a training's metrics.jsonl, one a logged step. Raises UserError."""
    path = folder / METRICS
    try:
        rows = [json.loads(line) for line in _whole_lines(path)]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    if not all(isinstance(row, dict) and {"step", "tokens"} <= set(row) for row in rows):
        raise UserError(f"{path}: expected a step and its tokens in every line")
    return rows


def _row(line: str) -> Row | None:
    """None where it is none."""
    try:
        row = json.loads(line)
        return row if isinstance(row["step"], int) else None
    except (ValueError, TypeError, KeyError):
        return None


def _whole_lines(path: Path) -> list[str]:
    """Those that a training has left (a killed one may leave a torn last line)."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
