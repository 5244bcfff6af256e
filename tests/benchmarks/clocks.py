"""The clocks of the measured GPU while it is measured, sampled by nvidia-smi; nothing where there is none."""

import os
import subprocess
import time
from contextlib import suppress
from statistics import median
from threading import Thread
from typing import Any, Self

import torch

FIELDS = {"sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem", "watts": "power.draw", "celsius": "temperature.gpu"}
REASONS = "clocks_event_reasons.active"
IDLE = "gpu_idle"
NAMES = (IDLE, "applications_clocks", "power_cap", "hardware_slowdown", "sync_boost", "thermal_slowdown",
         "hardware_thermal_slowdown", "hardware_power_brake", "display_clocks")  # fmt: skip
"""Why clocks are as they are, from bit 0 of NVML's mask on (nvml.h, nvmlClocksEventReasons)."""
CONSTANTS = "uuid,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total"
PERIOD_MS = 200
"""Between two samples (assumption)."""


class Clocks:
    """Samples of one GPU, taken while the block lasts. Without a GPU, or before it, there are none."""

    def __init__(self, gpu: str | None = None) -> None:
        """gpu: its UUID, as nvidia-smi has it."""
        self.gpu, self.samples = gpu, list[tuple[float, list[str]]]()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self.gpu is not None:
            with suppress(OSError):
                self._start(self.gpu)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.reader.join()

    def _start(self, gpu: str) -> None:
        query = ",".join([*FIELDS.values(), REASONS])
        words = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={query}", "--format=csv,noheader,nounits", f"--loop-ms={PERIOD_MS}"]
        ours, theirs = os.openpty()  # to a pipe it might write its lines late, many at once
        try:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.reader = Thread(target=self._read, args=(ours,), daemon=True)
        self.reader.start()

    def _read(self, terminal: int) -> None:
        with suppress(OSError), open(terminal, encoding="utf-8", errors="replace") as lines:  # a terminal's end is an error
            for line in lines:
                words = [word.strip() for word in line.split(",")]
                if len(words) == len(FIELDS) + 1:
                    self.samples.append((time.perf_counter(), words))

    def during(self, began: float, ended: float) -> dict[str, Any] | None:
        """Least, median and most of each between two times of time.perf_counter, while the device was at work, and every reason
        that its clocks had. None when there is no such sample."""
        rows = [words for moment, words in list(self.samples) if began <= moment <= ended]
        busy = [words for words in rows if IDLE not in reasons(words[-1])]
        if not busy:
            return None
        found: dict[str, Any] = {"samples": len(busy), "idle_samples": len(rows) - len(busy)}
        for name, column in zip(FIELDS, zip(*busy, strict=True), strict=False):
            if values := [value for word in column if (value := _number(word)) is not None]:
                found[name] = [min(values), median(values), max(values)]
        return found | {"reasons": sorted({reason for words in busy for reason in reasons(words[-1])})}


def reasons(mask: str) -> list[str]:
    """The names of a mask's bits; none where it is no number."""
    try:
        bits = int(mask, 16)
    except ValueError:
        return []
    return [name for place, name in enumerate(NAMES) if bits >> place & 1]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # [N/A]
        return None


def uuid(device: torch.device) -> str | None:
    """As nvidia-smi names a GPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def constants(device: torch.device) -> dict[str, str]:
    """What of a GPU does not change."""
    with suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", f"--id={uuid(device)}", f"--query-gpu={CONSTANTS}", "--format=csv,noheader"]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.strip().split(", ")
        return dict(zip(CONSTANTS.split(","), said, strict=False))
    return {}
