import json
import re
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lpanas.lpa import checkpoint
from lpanas.lpa.checkpoint import Reached
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.train_config import TrainConfig
from making import Call

State = tuple[Decoder, torch.optim.AdamW]


def started(config: ModelConfig, seed: int, steps: int = 0) -> State:
    """A model and its optimizer after some steps."""
    model = build(config.change(tie_embeddings=True), torch.device("cpu"), seed)
    adamw, tokens = optimizer(model, OptimConfig(lr=1e-2)), torch.arange(16)[None]
    for _ in range(steps):
        model.loss(tokens, tokens + 1).backward()
        adamw.step()
        adamw.zero_grad()
    return model, adamw


def same(one: State, other: State) -> bool:
    def tensors(state: State) -> list[torch.Tensor]:
        moments = [value for entry in state[1].state.values() for value in entry.values()]
        return [*state[0].state_dict().values(), *moments]

    pairs = list(zip(tensors(one), tensors(other), strict=False))
    return len(tensors(one)) == len(tensors(other)) and all(torch.equal(*pair) for pair in pairs)


def test_a_saved_state_loads_bit_for_bit(tiny: ModelConfig, tmp_path: Path) -> None:
    saved, fresh = started(tiny, 0, steps=3), started(tiny, 1)
    checkpoint.save(tmp_path / "c.pt", "mine", Reached(3), *saved)
    assert not same(saved, fresh)
    assert checkpoint.load(tmp_path / "c.pt", "mine", *fresh).step == checkpoint.reached(tmp_path / "c.pt", "mine").step == 3
    assert same(saved, fresh)
    assert fresh[0].head.weight is fresh[0].embedding.weight


def test_another_configs_checkpoint_is_refused_and_nothing_is_loaded(tiny: ModelConfig, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pt", "mine", Reached(3), *started(tiny, 0, steps=1))
    fresh = started(tiny, 1)
    with pytest.raises(UserError, match=r"^.*c\.pt: a checkpoint of another config[^\n]*$"):
        checkpoint.load(tmp_path / "c.pt", "other", *fresh)
    with pytest.raises(UserError, match="another config"):
        checkpoint.reached(tmp_path / "c.pt", "other")
    assert same(fresh, started(tiny, 1))


def test_a_draft_left_half_written_does_not_disturb_the_old_one(tiny: ModelConfig, tmp_path: Path) -> None:
    saved, path = started(tiny, 0, steps=2), tmp_path / "c.pt"
    checkpoint.save(path, "mine", Reached(2), *saved)
    whole = path.read_bytes()
    path.with_suffix(".draft").write_bytes(whole[: len(whole) // 2])
    fresh = started(tiny, 1)
    assert checkpoint.load(path, "mine", *fresh).step == 2
    assert same(saved, fresh)
    checkpoint.save(path, "mine", Reached(3), *saved)
    assert checkpoint.reached(path, "mine").step == 3
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_save_that_fails_leaves_the_old_one(tiny: ModelConfig, tmp_path: Path) -> None:
    state, path = started(tiny, 0), tmp_path / "c.pt"
    checkpoint.save(path, "mine", Reached(2), *state)
    path.with_suffix(".draft").mkdir()
    with pytest.raises(OSError, match="draft"):
        checkpoint.save(path, "mine", Reached(3), *state)
    assert checkpoint.reached(path, "mine").step == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        folder,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"hello there"),
        lambda path: path.write_bytes(b"PK\5\6" + bytes(18)),
        lambda path: torch.save([1], path),
        lambda path: torch.save({"weights": 1}, path),
        lambda path: torch.save(Path(), path),
    ],
    ids=["cut", "a folder", "empty", "text", "empty zip", "a list", "other keys", "an object"],
)
def test_an_unreadable_checkpoint_is_a_mistake_in_one_line(
    damage: Callable[[Path], None], tiny: ModelConfig, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, "mine", Reached(2), *started(tiny, 0))
    damage(path)
    for read in (lambda: checkpoint.reached(path, "mine"), lambda: checkpoint.load(path, "mine", *started(tiny, 1))):
        with pytest.raises(UserError, match=r"^[^\n]*c\.pt: not a checkpoint that can be read: [^\n]*$") as told:
            read()
        assert len(str(told.value)) < len(str(path)) + 160


@pytest.mark.parametrize("limit", [1000, 4000, 20000], ids=["metrics", "a later row", "checkpoint"])
def test_a_full_disk_ends_a_training_in_one_line_and_the_last_checkpoint_serves(
    limit: int, tiny: ModelConfig, pages: DataConfig, tmp_path: Path, call: Call
) -> None:
    optim = OptimConfig(lr=1e-2)
    steps = {"tokens": 24 * 4 * 16, "log_every": 1, "checkpoint_every": 20}
    config = TrainConfig(model=tiny, data=pages, optim=optim, batch_size=4, device="cpu", **steps)
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(dump_yaml(config))
    assert call("train", path, "--out", tmp_path / "whole")[0] == 0
    assert call("train", path, "--out", out, "--steps", 7)[0] == 0
    with files_up_to(limit):
        code, _, told = call("train", path, "--out", out)
    assert code == 2
    assert re.fullmatch(rf"lpanas: \S+: cannot be written: .*File too large; {out}/checkpoint.pt is whole, .*\n", told)
    assert checkpoint.reached(out / "checkpoint.pt", None).step == 7
    assert not list(out.glob("*.draft"))
    assert call("train", path, "--out", out)[0] == 0
    assert told_of(out) == told_of(tmp_path / "whole")


def told_of(out: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["train_loss_nats"]) for row in rows]


@contextmanager
def files_up_to(limit: int) -> Generator[None]:
    """No file can grow beyond so many bytes, even root's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
