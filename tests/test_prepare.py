import json
import os
import random
import shutil
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
from tokenizers import Tokenizer, models

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


def test_a_place_that_cannot_be_taken_is_refused_before_the_work(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = {
        "../dangling": "a link to nothing",
        "../loop": "",
        "../a.jsonl/sub": f"{tmp_path}/a.jsonl is a file",
        "../a.jsonl": "Not a directory",
        ".": "the current folder cannot be replaced",
        "/": "holds '",
        "\udcff": "its name is not UTF-8",
    }

    def work(what: str, done: int, whole: int) -> None:
        raise AssertionError("the work has begun")

    for name, expected in said.items():
        with pytest.raises(UserError, match=f"^--out .*{expected}"):
            prepare(source(rows), Path(name), work)


def test_links_and_double_dots_in_the_place_are_resolved(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert prepare(source(rows), tmp_path / "link").folder == tmp_path / "empty"
    assert prepare(source(rows), tmp_path / "new" / ".." / "out").folder == tmp_path / "out"
    assert not (tmp_path / "new").exists()


def test_only_drafts_of_ours_are_removed_and_no_new_folder_is_left_behind(rows: Path, tmp_path: Path) -> None:
    for name in (".draft-chapter", ".lpanas-draft-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("precious")
    (tmp_path / ".lpanas-draft-killed").mkdir()
    (tmp_path / ".lpanas-draft-killed" / ".lpanas-draft").touch()
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        prepare(source(rows, tokenizer="none.json"), tmp_path / "new" / "deep" / "out")
    with pytest.raises(UserError, match="holds no tokenizer"):
        prepare(source(rows, tokenizer=str(rows / "a.jsonl")), tmp_path / "new" / "deep" / "out")
    assert not (tmp_path / "new").exists()
    prepare(source(rows), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".draft-chapter", ".lpanas-draft-mine"]


@pytest.mark.parametrize("other", ["a.jsonl", "*.jsonl"])
def test_of_two_at_once_the_later_takes_the_same_shards_and_refuses_others(other: str, rows: Path, tmp_path: Path) -> None:
    faster = DataConfig(source="text", text=(f"{rows}/{other}",))

    def meanwhile(what: str, done: int, whole: int) -> None:
        if what == "writing tokens" and not (tmp_path / "out").exists():
            prepare(faster, tmp_path / "out")

    if other == "*.jsonl":
        prepare(source(rows), tmp_path / "out", meanwhile)
    else:
        with pytest.raises(UserError, match="holds shards of another text or tokenizer"):
            prepare(source(rows), tmp_path / "out", meanwhile)
    assert prepare(faster, tmp_path / "out").tokens == open_shards(faster).tokens
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("changed", ["a.jsonl", "t.json"])
def test_what_changes_while_it_is_read_is_refused(changed: str, rows: Path, tmp_path: Path, cache: Path) -> None:
    train_bpe([b"a few words"], 260).save(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "t.json")
    before, content = sorted(cache.iterdir()), (tmp_path / changed).read_bytes()

    def meanwhile(what: str, done: int, whole: int) -> None:
        if what == "writing tokens" and (tmp_path / changed).read_bytes() == content:
            (tmp_path / changed).write_bytes(content + b"\n")

    with pytest.raises(UserError, match=f"{changed} was changed while it was read"):
        open_shards(source(rows, tokenizer=str(tmp_path / "t.json")), meanwhile)
    assert sorted(cache.iterdir()) == before


def test_a_source_without_text_is_refused_and_a_split_without_documents_said(tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "one.txt").write_text("one small file")
    for name in ("empty.txt", "rows.jsonl"):
        code, out, err = call("prepare", tmp_path / name, "--out", tmp_path / "out")
        assert (code, out, err) == (2, "", f"lpanas: data: no text in {tmp_path / name}\n")
    code, _, err = call("prepare", tmp_path / "one.txt", "--out", tmp_path / "out")
    assert code == 0
    assert err.startswith("lpanas: no document fell to valid and test; a search needs many documents")
    assert len(err.splitlines()) == 1


def test_a_long_row_is_in_one_split_whole(tmp_path: Path) -> None:
    texts = [f"{number}\n" * (2**22 // len(f"{number}\n") if number < 4 else 5) for number in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    shards = open_shards(source(tmp_path))
    found = [set(bytes(np.array(shards.split(split)[shards.split(split) < 256], np.uint8)).split()) for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == 100
    assert sum(shards.text_bytes.values()) == sum(map(len, texts))
    assert sum(int((shards.split(split) == 256).sum()) for split in SPLITS) == 100


def test_a_damaged_cache_names_the_folder_to_remove(rows: Path) -> None:
    folder = open_shards(source(rows)).folder
    (folder / "train.bin").write_bytes(b"")
    with pytest.raises(UserError, match=f"truncated: .*; remove the folder {folder}, and it is made anew"):
        open_shards(source(rows))
    shutil.rmtree(folder)


def test_the_commands_end_of_text_and_any_file_name_will_do(rows: Path, tmp_path: Path, call: Call) -> None:
    Tokenizer(models.WordLevel({"a": 0, "<fin>": 1}, unk_token="a")).save(str(tmp_path / "t.json"))
    words = ("prepare", rows / "a.jsonl", "--tokenizer", tmp_path / "t.json", "--out", tmp_path / "out")
    code, _, err = call(*words)
    assert code == 2
    assert "name one with end_of_text (--end-of-text)" in err
    assert call(*words, "--end-of-text", "<fin>")[0] == 0
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["end_of_text"] == 1
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / name).write_text("a few words")
    assert call("prepare", tmp_path / name, "--out", tmp_path / "other")[0] == 0


def test_an_interrupted_prepare_leaves_nothing_and_a_killed_one_is_tidied_up(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "w") as file:
        for seed in range(12_000):
            file.write(json.dumps({"text": random.Random(seed).randbytes(1000).hex()}) + "\n")
    train_bpe([b"a few words"], 260).save(tmp_path)
    out = tmp_path / "made" / "out"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
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
