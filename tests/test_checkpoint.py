from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lpanas.lpa import checkpoint
from lpanas.lpa.checkpoint import Reached
from lpanas.lpa.config import UserError
from lpanas.lpa.model import Decoder, ModelConfig, build
from lpanas.lpa.optim import OptimConfig, optimizer

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
        with pytest.raises(UserError, match=r"^[^\n]*c\.pt: not a checkpoint that can be read[^\n]*$"):
            read()
