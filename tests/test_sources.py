import gzip
import importlib.util
import json
from pathlib import Path

import pytest
from lpanas.lpa.config import UserError
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.sources import DataConfig, parts, texts

TOO_LARGE = "needs the extra hf, whose datasets is too large for every run"
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason=TOO_LARGE)


def test_a_folder_gives_its_files_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.py", ".git/c.txt", "sub/.d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    config = DataConfig(source="text", text=(str(tmp_path),))
    assert sorted(texts(config, parts(config))) == [b"a.txt", b"sub/b.py"]


def test_equal_files_count_once_and_their_order_is_by_content(tmp_path: Path) -> None:
    found = []
    for folder, names in (("one", "abcd"), ("two", "zyxw")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            (tmp_path / folder / f"{name}.txt").write_text(f"page {number % 3}")
        (tmp_path / folder / f"{names}.txt.gz").write_bytes(gzip.compress(b"page 9", mtime=0))
        config = DataConfig(source="text", text=(f"{tmp_path}/{folder}/*",))
        found.append([part.digest for part in parts(config)])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": f"page {number}"}) * 1)
    told: list[tuple[int, int]] = []
    config = DataConfig(source="text", text=(f"{tmp_path}/*",))
    list(texts(config, parts(config), lambda what, done, whole: told.append((done, whole))))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert told == sorted(told)
    assert told[-1] == (size, size)


RAW = {
    "data.dataset: 'source: hf' and a dataset's name go together": {"source": "hf"},
    "data.shards: 'source: shards' and a folder go together": {"source": "text", "text": ["a"], "shards": "b"},
    "data.split: only 'source: hf' has parts": {"split": "train"},
    "data.vocab_size: 'tokenizer: bpe' and its number of tokens go together": {"vocab_size": 300},
    "data.end_of_text: only a tokenizer.json needs it": {"end_of_text": "</s>"},
    "data.tokenizer: 'source: shards' holds tokens already": {"source": "shards", "shards": "a", "tokenizer": "a.json"},
    "data: source: found 'txt' (text), did you mean 'text'?": {"source": "txt"},
}


@pytest.mark.parametrize("line", RAW)
def test_keys_that_do_not_go_together_are_one_line(line: str) -> None:
    with pytest.raises(UserError) as error:
        DataConfig.parse(RAW[line], "data")
    assert str(error.value).replace("data: ", "data.", 1) == line.replace("data: ", "data.", 1)


@needs_datasets
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_local_dataset_gives_what_its_files_give(form: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"page {number}", "id": number} for number in range(200)]
    if form == "jsonl":
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    ours = open_shards(DataConfig(source="text", text=(str(tmp_path),)))
    theirs = open_shards(DataConfig(source="hf", dataset=str(tmp_path)))
    for split in ("train", "valid", "test"):
        assert theirs.split(split).tolist() == ours.split(split).tolist()
    with pytest.raises(UserError, match=r"has no text in 'txt' in row 1; its columns: text, id"):
        open_shards(DataConfig(source="hf", dataset=str(tmp_path), text_field="txt"))
    with pytest.raises(UserError, match=r"cannot be read: .*split") as error:
        open_shards(DataConfig(source="hf", dataset=str(tmp_path), split="tset"))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_without_datasets_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"needs the datasets library: pip install 'lpanas\[hf\]'"):
        open_shards(DataConfig(source="hf", dataset=str(tmp_path)))
