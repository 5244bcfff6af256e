import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lpanas.lpa.config import UserError
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.shards import read_shards
from lpanas.lpa.sources import DataConfig

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Shards by hand: each split 0, 1, ... 9, and whatever else meta.json says."""

    def make(dtype: str = "uint16", **meta: object) -> Path:
        for split in ("train", "valid", "test"):
            np.arange(10, dtype=dtype).tofile(tmp_path / f"{split}.bin")
        counts = dict.fromkeys(("train", "valid", "test"), 10)
        raw = {"tokens": counts, "text_bytes": counts, "vocab_size": 10, "dtype": dtype} | meta
        (tmp_path / "meta.json").write_text(json.dumps(raw))
        return tmp_path

    return make


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_shards_of_both_widths_are_mapped_not_read(dtype: str, make: Make) -> None:
    shards = open_shards(DataConfig(source="shards", shards=str(make(dtype, content="abc"))))
    assert shards.split("valid").tolist() == list(range(10))
    assert isinstance(shards.split("valid"), np.memmap)
    assert (shards.split("valid").dtype, shards.vocab_size, shards.content) == (dtype, 10, "abc")


def test_shards_of_the_first_version_are_bytes(make: Make) -> None:
    folder = make()
    raw = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({name: raw[name] for name in ("tokens", "text_bytes")}))
    shards = read_shards(folder)
    assert (shards.vocab_size, shards.dtype, shards.content) == (257, "uint16", folder.name)


@pytest.mark.parametrize("size", [0, 19, 21])
def test_a_shard_of_another_length_is_named(size: int, make: Make) -> None:
    folder = make()
    (folder / "valid.bin").write_bytes(bytes(size))
    with pytest.raises(UserError) as error:
        read_shards(folder)
    what = "truncated" if size < 20 else "longer than meta.json says"
    assert str(error.value) == f"{folder}/valid.bin: {what}: {size} bytes found, 20 expected"


def test_a_token_out_of_range_is_named_with_its_place(make: Make) -> None:
    folder = make("uint32", vocab_size=8)
    with pytest.raises(UserError) as error:
        open_shards(DataConfig(source="shards", shards=str(folder)))
    assert str(error.value) == f"{folder}/train.bin: token 8 is 8, but vocab_size is 8"


def test_the_bytes_of_the_windows_targets_are_summed(make: Make) -> None:
    folder = make(token_bytes=True)
    np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.uint32).tofile(folder / "token_bytes.bin")
    shards = read_shards(folder)  # two windows of 3: targets 1 to 6, which stand for 21 bytes
    assert shards.bits_per_byte(np.log(2), "valid", 3, 7) == pytest.approx(6 / 21)
    (folder / "token_bytes.bin").write_bytes(bytes(39))
    with pytest.raises(UserError, match=r"token_bytes\.bin: truncated: 39 bytes found, 40 expected"):
        read_shards(folder)


def test_tokens_without_text_are_refused(make: Make) -> None:
    folder = make(text_bytes={"train": 10, "valid": 0, "test": 10})
    with pytest.raises(UserError, match=r"meta\.json: text_bytes\.valid: expected the bytes of text of 10 tokens, found 0"):
        read_shards(folder)


BAD_METAS = {
    "{": "meta.json: not JSON",
    "[]": "meta.json: expected an object, found a list",
    "{}": "meta.json: tokens: missing",
    '{"tokens": {"train": 1}, "text_bytes": {"train": 1}}': "tokens and text_bytes need each of train, valid, test",
    '{"tokens": {}, "text_bytes": {}, "dtype": "uint8"}': "dtype: found 'uint8' (text), did you mean 'uint32'?",
}


@pytest.mark.parametrize("text", BAD_METAS)
def test_a_wrong_meta_file_is_one_line(text: str, make: Make) -> None:
    folder = make()
    (folder / "meta.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_shards(folder)
    assert BAD_METAS[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_shards_is_named(tmp_path: Path, make: Make) -> None:
    with pytest.raises(UserError, match=r"none/meta\.json: cannot be read: No such file .*lpanas prepare"):
        read_shards(tmp_path / "none")
    folder = make()
    (folder / "test.bin").unlink()
    with pytest.raises(UserError, match=r"test\.bin: cannot be read: No such file"):
        read_shards(folder)
