import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lpanas.lpa.config import UserError
from lpanas.lpa.data import valid_batches
from lpanas.lpa.prepare import open_shards, prepare
from lpanas.lpa.shards import Shards
from lpanas.lpa.sources import DataConfig
from lpanas.lpa.splits import SPLITS
from lpanas.lpa.tokenizer import train_bpe
from making import Call, hear_interrupts
from tokenizers import Tokenizer

COMMAND = (sys.executable, "-c", "from lpanas.search.cli import main; main()")


def page(number: int) -> str:
    return f"page {number} says: " + "the cat sat on the mat, and é was there. " * (number % 5)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """300 documents in two files, ten of them in both."""
    for name, numbers in (("a", range(160)), ("b", range(150, 300))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": page(number)}) + "\n" for number in numbers))
    return tmp_path


def source(rows: Path, **options: object) -> DataConfig:
    return DataConfig.parse({"source": "text", "text": [f"{rows}/*.jsonl"], **options}, "data")


def documents(shards: Shards, split: str, end: int) -> list[list[int]]:
    tokens = shards.split(split).tolist()
    assert tokens[-1] == end
    ends = [place for place, token in enumerate(tokens) if token == end]
    return [tokens[first + 1 : last] for first, last in zip([-1, *ends[:-1]], ends, strict=True)]


def test_a_bpe_tokenizes_each_document_once_with_its_end(rows: Path) -> None:
    shards = open_shards(source(rows, tokenizer="bpe", vocab_size=300))
    tokenizer = Tokenizer.from_file(str(shards.folder / "tokenizer.json"))
    found = {split: documents(shards, split, tokenizer.token_to_id("<|endoftext|>")) for split in SPLITS}
    texts = [tokenizer.decode(ids) for split in SPLITS for ids in found[split]]
    assert sorted(texts) == sorted(page(number) for number in range(300))
    for split in SPLITS:
        assert all(ids == tokenizer.encode(tokenizer.decode(ids)).ids for ids in found[split])
        assert shards.text_bytes[split] == sum(len(tokenizer.decode(ids).encode()) for ids in found[split])
        assert shards.tokens[split] == len(shards.split(split))
    assert shards.vocab_size == tokenizer.get_vocab_size() <= 300


def test_the_split_of_a_text_is_the_same_in_every_form_and_tokenizer(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for number in range(300):
        (tmp_path / "pages" / f"{number}.txt").write_text(page(number))
    folder = open_shards(DataConfig(source="text", text=(f"{tmp_path}/pages",)))
    lines = open_shards(source(rows))
    for split in ("valid", "test"):
        assert folder.split(split).tolist() == lines.split(split).tolist()
    assert sorted(documents(folder, "train", 256)) == sorted(documents(lines, "train", 256))


def test_names_do_not_matter_but_text_field_tokenizer_and_content_do(rows: Path, tmp_path: Path) -> None:
    one = open_shards(source(rows)).content
    other = {open_shards(source(rows, tokenizer="bpe", vocab_size=size)).content for size in (280, 290)}
    (rows / "a.jsonl").rename(rows / "c.jsonl")
    assert open_shards(source(rows)).content == one
    with open(rows / "c.jsonl", "a") as file:
        file.write('{"text": "one more"}\n')
    assert len({one, open_shards(source(rows)).content} | other) == 4


def test_a_tokenizer_file_is_used_as_it_is(rows: Path, tmp_path: Path) -> None:
    bpe = open_shards(source(rows, tokenizer="bpe", vocab_size=300))
    shards = open_shards(source(rows, tokenizer=str(bpe.folder / "tokenizer.json")))
    assert shards.content != bpe.content
    for split in SPLITS:
        assert np.array_equal(shards.split(split), bpe.split(split))


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("options", [{}, {"tokenizer": "bpe", "vocab_size": 300}])
def test_bits_per_byte_are_over_the_text_of_the_windows(options: dict[str, object], split: str, rows: Path) -> None:
    """The oracle decodes the target tokens of the windows with the `tokenizers` library."""
    shards, context, limit, loss = open_shards(source(rows, **options)), 7, 100, 1.5
    targets = np.concatenate([batch[1].numpy().ravel() for batch in valid_batches(shards.split(split), context, limit, 3)])
    if options:
        text = Tokenizer.from_file(str(shards.folder / "tokenizer.json")).decode(targets.tolist())  # leaves end-of-text out
        assert "\ufffd" not in text  # the windows begin and end between characters
        size = len(text.encode())
    else:
        size = int((targets != 256).sum())
    found = shards.bits_per_byte(loss, split, context, limit)
    assert found == pytest.approx(loss * len(targets) / np.log(2) / size)
    if options:  # the average over the split is another figure
        assert found != pytest.approx(loss / np.log(2) * shards.tokens[split] / shards.text_bytes[split], rel=0.005)


def test_the_command_prints_the_splits_and_what_to_write(rows: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    code, shown, err = call("prepare", rows, "--out", out, "--tokenizer", "bpe", "--vocab-size", 280)
    assert (code, err) == (0, "")
    shards = open_shards(DataConfig(source="shards", shards=str(out)))
    for split in SPLITS:
        tokens, size = shards.tokens[split], shards.text_bytes[split]
        assert f"{split} {tokens:,} {size:,} {size / tokens:.3f}" in " ".join(shown.split())
    assert f"data: {{source: shards, shards: {out}}}" in shown
    assert call("prepare", rows / "*.jsonl", "--out", out, "--tokenizer", "bpe", "--vocab-size", 280) == (0, shown, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "meta.json", "test.bin", "token_bytes.bin", "tokenizer.json", "train.bin", "valid.bin",
    ]  # fmt: skip


MISTAKES = {
    ("nowhere",): "data.text: no file matches 'nowhere'",
    ("stdlib", "a"): "'stdlib' stands alone, found 2 sources",
    ("",): "SOURCE: expected files, folders or globs, found an empty name",
    (".", "--tokenizer", "bpe"): "--tokenizer bpe needs its number of tokens: --vocab-size N",
    (".", "--vocab-size", "300"): "--vocab-size: only '--tokenizer bpe' has it, found 'bytes'",
    (".", "--tokenizer", "bpe", "--vocab-size", "100"): "lpanas: prepare: vocab_size: expected",
    (".", "--tokenizer", "Bytes"): "tokenizer: found 'Bytes', did you mean 'bytes'?",
    (".", "--tokenizer", "byte"): "data.tokenizer: byte cannot be read: No such file or directory, did you mean 'bytes'?",
    (".", "--tokenizer", "none.json"): "data.tokenizer: none.json cannot be read: No such file or directory",
    (".", "--end-of-text", "</s>"): "end_of_text: only a tokenizer.json needs it",
    (".", "--text-field", "txt"): "no text field 'txt', did you mean 'text'?",
    (): "Missing argument 'SOURCE...'.",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], rows: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rows)
    code, out, err = call("prepare", *words, "--out", "made")
    assert (code, out) == (2, "")
    assert err.startswith("lpanas: ")
    assert len(err.splitlines()) == 1
    assert MISTAKES[words] in err
    assert sorted(os.listdir()) == ["a.jsonl", "b.jsonl"]


def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds 'thesis\.tex'; expected a new or empty folder"):
        prepare(source(rows), tmp_path / "mine")
    prepare(source(rows), tmp_path / "out")
    with pytest.raises(UserError, match="holds shards of another text or tokenizer"):
        prepare(source(rows, tokenizer="bpe", vocab_size=280), tmp_path / "out")
    with pytest.raises(UserError, match=r"--out .*a\.jsonl: Not a directory"):
        prepare(source(rows), rows / "a.jsonl")
    with pytest.raises(UserError, match="/proc/nothing: cannot be written"):
        prepare(source(rows), Path("/proc/nothing"))
    (tmp_path / "empty").mkdir()
    assert prepare(source(rows), tmp_path / "empty").tokens["train"]


def test_an_interrupted_prepare_leaves_nothing_and_a_killed_one_is_tidied_up(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "w") as file:
        for seed in range(12_000):
            file.write(json.dumps({"text": random.Random(seed).randbytes(1000).hex()}) + "\n")
    train_bpe([b"a few words"], 260).save(tmp_path)
    out = tmp_path / "made" / "out"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        words = ("prepare", tmp_path / "a.jsonl", "--out", out, "--tokenizer", tmp_path / "tokenizer.json")
        process = subprocess.Popen([*COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
        limit = time.monotonic() + 60
        while not any(path.stat().st_size for path in out.parent.glob(".lpanas-draft-*/train.bin")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate()
        assert not out.exists()
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert len(err.splitlines()) <= 1
            assert not out.parent.exists()
    (left,) = out.parent.iterdir()
    assert left.name.startswith(".lpanas-draft-")
    (tmp_path / "small.txt").write_text("few words")
    prepare(DataConfig(source="text", text=(f"{tmp_path}/small.txt",)), out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_preparing_does_not_import_torch() -> None:
    code = "import lpanas.search.cli, lpanas.search.preparing, lpanas.lpa.prepare, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
