"""metrics.jsonl told again, as it grows, to programs that show many trainings: TensorBoard, Weights & Biases."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from .config import Config, UserError, dump_yaml, one_line
from .files import replace_text
from .metrics import Row

TENSORBOARD, WANDB = "tensorboard", "wandb"
"""Packages, extras of this one, and folders of a training's."""
STATE = "lpanas.json"


class Log(Protocol):
    """One such program's."""

    def tell(self, row: Row) -> None:
        """One more line of metrics.jsonl, unless it has been told. Raises OSError."""

    def close(self) -> None:
        """All that was told is written, or sent, when this has ended."""


@dataclass(frozen=True)
class Logs:
    """Which of them a training has."""

    tensorboard: bool = False
    wandb: str | None = None
    """The project."""

    def check(self) -> None:
        """Raises UserError where a package is missing, or the project has no name."""
        if self.wandb is not None and not self.wandb.strip():
            raise UserError("--wandb: expected a project's name, found an empty one")
        for package, wanted in ((TENSORBOARD, self.tensorboard), (WANDB, self.wandb is not None)):
            if wanted and find_spec(package) is None:
                raise UserError(f"--{package}: {package} is not installed: pip install 'lpanas[{package}]'")

    def open(self, out: Path, config: Config, done: int, rows: Sequence[Row]) -> list[Log]:
        """Each of them in a training's folder, told what it lacks of the rows up to the steps that are done. Raises UserError,
        OSError."""
        logs: list[Log] = [TensorBoard(out / TENSORBOARD, config, done)] if self.tensorboard else []
        if self.wandb is not None:
            logs.append(Wandb(out / WANDB, config, self.wandb))
        for log in logs:
            for row in rows:
                log.tell(row)
        return logs


UNLOGGED = Logs()


class TensorBoard:
    """Event files. A training that goes on purges, in a file of its own, the steps that it does again."""

    def __init__(self, folder: Path, config: Config, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        state = _read(folder)
        self.path, self.told = folder / STATE, min(done, int(state.get("told", 0)))
        self.writer = SummaryWriter(str(folder), purge_step=self.told + 1 if state else None)
        self.writer.add_text("config", _block(dump_yaml(config)), self.told)
        self._keep()

    def tell(self, row: Row) -> None:
        if row["step"] <= self.told:
            return
        for name, value in row.items():
            if name != "step" and not isinstance(value, (str, bool)):  # a word has no curve
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()
        self.told = row["step"]
        self._keep()

    def _keep(self) -> None:
        replace_text(self.path, json.dumps({"told": self.told}), sync=False)

    def close(self) -> None:
        with suppress(OSError):  # what was told is there
            self.writer.close()


class Wandb:
    """A run, which a training that goes on takes up by its id. What it has been told cannot be taken back: steps that are done
    again, to the same numbers, are left out."""

    def __init__(self, folder: Path, config: Config, project: str) -> None:
        import wandb

        state = _read(folder)
        if state.get("project") != project:
            state = {"project": project, "id": uuid4().hex[:8], "told": 0}
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.state = folder / STATE, state
        settings = wandb.Settings(console="off", silent=True)
        try:
            self.run = wandb.init(
                project=project,
                id=state["id"],
                resume="allow",
                dir=folder.parent,
                config=config.model_dump(mode="json"),
                settings=settings,
            )
        except wandb.Error as error:  # no key, no network, no such entity
            raise UserError(
                f"--wandb {project}: {one_line(error)[:200]}; or WANDB_MODE=offline, and `wandb sync` later"
            ) from None
        replace_text(self.path, json.dumps(state))

    def tell(self, row: Row) -> None:
        if row["step"] <= self.state["told"]:
            return
        its = {name: value for name, value in row.items() if name != "step"}
        self.run.log(its, step=row["step"], commit=True)
        self.state["told"] = row["step"]
        replace_text(self.path, json.dumps(self.state), sync=False)

    def close(self) -> None:
        self.run.finish()


def _read(folder: Path) -> dict[str, Any]:
    """What a log has left there of itself; nothing where it is new."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _block(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())  # code in Markdown
