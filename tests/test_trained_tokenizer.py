import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hf_folders import SHAPE
from lpanas.lpa import keeper
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards, prepare
from lpanas.lpa.tokenizer import read_tokenizer, train_bpe
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.hf_export import export_checkpoint
from making import Call

WORDS = "the cat sat on the mat, and the dog sat on the log; "


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data of the test's own, so that it can be lost."""
    monkeypatch.setenv("LPANAS_CACHE", str(tmp_path / "cache"))


def text(folder: Path, **fields: object) -> DataConfig:
    (folder / "text").mkdir(exist_ok=True)
    for number in range(40):
        (folder / "text" / f"{number}.txt").write_text(f"page {number}: " + WORDS * 4)
    return DataConfig.parse({"source": "text", "text": [f"{folder}/text/*.txt"], "max_epochs": None} | fields, "data")


def bpe(folder: Path) -> DataConfig:
    return text(folder, tokenizer="bpe", vocab_size=280)


def file(folder: Path) -> DataConfig:
    train_bpe([WORDS.encode()], 280).save(folder)
    return text(folder, tokenizer=f"{folder}/tokenizer.json")


def shards(folder: Path) -> DataConfig:
    prepare(bpe(folder), folder / "shards")
    return DataConfig(source="shards", shards=f"{folder}/shards", max_epochs=None)


def change(folder: Path) -> None:
    """Other words, another tokenizer.json, other shards in the place of those before."""
    for number in range(60):
        (folder / "text" / f"more-{number}.txt").write_text(f"page {number}: " + "we shall see what we shall see. " * 9)
    if (folder / "tokenizer.json").exists():
        train_bpe([b"we shall see what we shall see. "], 280).save(folder)
    if (folder / "shards").exists():
        shutil.rmtree(folder / "shards")
        shards(folder)


def lose(folder: Path) -> None:
    for path in (folder / "text", folder / "shards", folder / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "tokenizer.json").unlink(missing_ok=True)


def run(data: DataConfig, out: Path, steps: int = 2) -> TrainConfig:
    model = ModelConfig.parse(SHAPE | {"vocab_size": 280}, "model").model_dump(mode="json")
    raw = {"model": model, "data": data.model_dump(mode="json"), "optim": {"lr": 1e-2}, "tokens": 256, "batch_size": 4}
    config = TrainConfig.parse(raw | {"device": "cpu"}, "train")
    steps_done = train(config, open_shards(data), out)
    for _ in range(steps):
        next(steps_done)
    steps_done.close()
    return config


def exported(out: Path) -> tuple[dict[str, str], list[str]]:
    """The tokenizer's files of an export, and what was said."""
    lines = list[str]()
    folder = export_checkpoint(out, None, False, lines.append)
    return {path.name: path.read_text() for path in folder.glob("tokenizer*")}, lines


@pytest.mark.parametrize("since", [change, lose])
@pytest.mark.parametrize("source", [bpe, file, shards])
def test_a_trained_model_keeps_its_tokenizer_whatever_becomes_of_the_data(
    source: Callable[[Path], DataConfig], since: Callable[[Path], None], tmp_path: Path
) -> None:
    data = source(tmp_path)
    run(data, tmp_path / "train")
    beside = tmp_path / "tokenizer.json" if source is file else open_shards(data).folder / "tokenizer.json"
    ours = read_tokenizer(beside, None).encode([WORDS.encode()]).tolist()
    first = exported(tmp_path / "train")
    since(tmp_path)
    assert exported(tmp_path / "train") == first
    assert first[1] == []
    assert json.loads(first[0]["tokenizer_config.json"])["eos_token"] == "<|endoftext|>"
    assert read_tokenizer(tmp_path / "train" / "hf" / "tokenizer.json", None).encode([WORDS.encode()]).tolist() == ours


@pytest.mark.parametrize("source", [bpe, file, shards])
def test_a_training_that_kept_none_gets_that_of_its_data_while_they_are_the_same(
    source: Callable[[Path], DataConfig], call: Call, tmp_path: Path
) -> None:
    out = tmp_path / "train"
    run(source(tmp_path), out)
    kept = exported(out)
    for name in ("tokenizer.json", "meta.json"):
        (out / name).unlink()
    assert exported(out) == kept
    for since, why in ((change, "is no longer what it was trained on"), (lose, "")):
        since(tmp_path)
        code, _, said = call("export", "--checkpoint", out, "--to", "hf")
        assert code == 0
        assert said.count("\n") == 1
        assert said.startswith(f"lpanas: no tokenizer is exported: none is kept in {out}, and ")
        assert why in said
        assert not list((out / "hf").glob("tokenizer*"))
        assert json.loads((out / "hf" / "config.json").read_text())["eos_token_id"] is None


def test_bytes_need_nothing_beside_the_checkpoint(tmp_path: Path) -> None:
    run(text(tmp_path), tmp_path / "train")
    first = exported(tmp_path / "train")
    lose(tmp_path)
    assert exported(tmp_path / "train") == first
    assert sorted(first[0]) == ["tokenizer.json", "tokenizer_config.json"]
    held = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert held == ["checkpoint.pt", "config.yaml", "hf", "metrics.jsonl"]


def test_going_on_keeps_the_tokenizer_of_the_start(tmp_path: Path) -> None:
    data, out = shards(tmp_path), tmp_path / "train"
    run(data, out, steps=1)
    before = (out / "tokenizer.json").read_bytes()
    assert before == (tmp_path / "shards" / "tokenizer.json").read_bytes()
    train_bpe([b"we shall see what we shall see. "], 280).save(tmp_path / "shards")  # the tokens stay what they are
    run(data, out, steps=1)
    assert (out / "tokenizer.json").read_bytes() == before


def test_a_start_anew_keeps_nothing_of_another_that_was_given_up(tmp_path: Path) -> None:
    out = tmp_path / "train"
    run(bpe(tmp_path), out, steps=1)
    (out / "checkpoint.pt").unlink()
    data = shards(tmp_path)
    (tmp_path / "shards" / "tokenizer.json").unlink()
    run(data, out, steps=1)
    assert exported(out) == ({}, [f"no tokenizer.json in {out}; add the tokenizer's files, and eos_token_id to config.json"])


def test_a_folder_of_many_processes_is_told_from_another_trainings_too(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-000000003").mkdir()
    row = {"fingerprint": "a", "step": 3, "curve": [], "pending": []}
    (tmp_path / "checkpoint-000000003" / "reached.json").write_text(json.dumps(row))
    assert [keeper.is_of(tmp_path / "checkpoint-000000003", name) for name in "ab"] == [True, False]
