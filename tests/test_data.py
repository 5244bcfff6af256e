import hashlib
import math
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.data import Batches, ResidentBatches, check_fits, near, valid_batches, windows
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.shards import Shards, read_shards
from lpanas.lpa.sources import DataConfig
from lpanas.lpa.splits import HELD_OUT_PIECE_BYTES, SPLITS, pieces
from lpanas.lpa.tokenizer import BYTE_VOCAB, END_OF_TEXT


@pytest.fixture(scope="session")
def stdlib() -> Shards:
    return open_shards(DataConfig())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, bytes]], DataConfig]:
    """Files by name, as a source."""

    def write(files: dict[str, bytes]) -> DataConfig:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text)
        return DataConfig(source="text", text=(f"{tmp_path}/**/*.txt",))

    return write


def text_of(shards: Shards, split: str) -> bytes:
    """All text of a split."""
    tokens = np.asarray(shards.split(split))
    return tokens[tokens != END_OF_TEXT].astype(np.uint8).tobytes()


def documents(shards: Shards, split: str) -> list[bytes]:
    """The texts of a split of short documents, or of training, read back."""
    tokens = shards.split(split)
    ends = np.flatnonzero(tokens == END_OF_TEXT)
    return [tokens[first + 1 : last].astype(np.uint8).tobytes() for first, last in pairwise([-1, *ends])]


def test_the_standard_library_comes_whole_without_its_tests(stdlib: Shards) -> None:
    root = Path(sysconfig.get_paths()["stdlib"])

    def texts(*globs: str) -> set[bytes]:
        return {path.read_bytes() for pattern in globs for path in root.glob(pattern)}

    held = set(documents(stdlib, "train"))
    library = texts("*.py", "json/*.py", "asyncio/*.py", "email/*.py") - {b""}
    rest = b"".join(text_of(stdlib, split) for split in ("valid", "test"))
    held_out = {text for text in library - held if all(piece.text in rest for piece in pieces(text, 0, HELD_OUT_PIECE_BYTES))}
    assert len(library & held) > 0.8 * len(library)
    assert len(library & held | held_out) > 0.99 * len(library)
    assert not held & texts("test/test_*.py", "*/test/test_*.py", "*/tests/test_*.py", "*/idle_test/test_*.py")
    assert not held & texts("site-packages/*/__init__.py")
    for split in SPLITS:
        assert stdlib.text_bytes[split] == len(text_of(stdlib, split))


def test_the_standard_library_is_enough_text_for_five_million_tokens(stdlib: Shards, tiny: ModelConfig) -> None:
    check_fits(stdlib, DataConfig(), int(5e6), tiny)
    assert min(stdlib.tokens["valid"], stdlib.tokens["test"]) > DataConfig().valid_tokens


def test_end_of_text_follows_each_document_and_nothing_is_lost(write: Callable[[dict[str, bytes]], DataConfig]) -> None:
    files = {f"{number}.txt": f"page {number} é".encode() for number in range(200)}
    shards = open_shards(write(files))
    read = [text for split in SPLITS for text in documents(shards, split)]
    assert sorted(read) == sorted(files.values())
    for split in SPLITS:
        assert shards.split(split)[-1] == END_OF_TEXT
        assert shards.tokens[split] == len(shards.split(split))
        assert shards.text_bytes[split] == sum(map(len, documents(shards, split)))
        assert shards.split(split).max() < BYTE_VOCAB == shards.vocab_size


def test_splits_are_disjoint_and_equal_documents_stand_once(write: Callable[[dict[str, bytes]], DataConfig]) -> None:
    once = {f"{number}.txt": f"page {number}".encode() for number in range(200)}
    twice = once | {f"copy/{name}": text for name, text in once.items()} | {"empty.txt": b""}
    shards = open_shards(write(twice))
    parts = [documents(shards, split) for split in SPLITS]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 200
    assert 0.02 < len(parts[1]) / 200 < 0.1
    assert 0.02 < len(parts[2]) / 200 < 0.1


def test_a_documents_split_depends_on_its_text_alone(write: Callable[[dict[str, bytes]], DataConfig]) -> None:
    few = open_shards(write({f"{number}.txt": f"page {number}".encode() for number in range(100)}))
    many = open_shards(write({f"more/{number}.txt": f"page {number}".encode() for number in range(50, 300)}))
    for split in SPLITS:
        assert set(documents(few, split)) <= set(documents(many, split))


def test_a_second_opening_finds_the_shards_and_changed_text_makes_others(
    write: Callable[[dict[str, bytes]], DataConfig], cache: Path
) -> None:
    config = write({"a.txt": b"one", "b.txt": b"two"})
    first = open_shards(config)
    written = (first.folder / "train.bin").stat().st_mtime_ns
    again = open_shards(config)
    assert first.folder.parent == cache
    assert again == first == read_shards(first.folder)
    assert (again.folder / "train.bin").stat().st_mtime_ns == written
    renamed = open_shards(DataConfig(source="text", text=(config.text[0].replace("*.txt", "[ab].txt"),)))
    assert renamed.folder == first.folder
    changed = open_shards(write({"b.txt": b"too"}))
    assert (changed.folder, changed.content) != (first.folder, first.content)
    assert not list(cache.glob(".draft-*"))


@given(
    n_tokens=st.integers(20, 400),
    context=st.integers(1, 8),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 9),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=5),
)
def test_a_batch_is_a_pure_function_of_seed_and_step(
    n_tokens: int, context: int, batch_size: int, seed: int, steps: list[int]
) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    first = {step: Batches(tokens, context, batch_size, seed)(step) for step in sorted(set(steps))}
    other, batches = Batches(tokens, context, batch_size, seed + 1), Batches(tokens, context, batch_size, seed)
    for step in reversed(steps):
        other(step)
        assert all(torch.equal(one, two) for one, two in zip(batches(step), first[step], strict=True))


def test_another_seed_and_another_epoch_have_another_order() -> None:
    tokens = np.arange(1001, dtype=np.uint16)
    epochs = [Batches(tokens, 10, 100, seed)(epoch)[0][:, 0].tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in epochs}) == 4
    assert all(sorted(order) == list(range(0, 1000, 10)) for order in epochs)


@given(n_windows=st.integers(1, 40), context=st.integers(1, 6), spare=st.integers(0, 5), batch_size=st.integers(1, 9))
def test_every_epoch_reads_every_window_once(n_windows: int, context: int, spare: int, batch_size: int) -> None:
    tokens = np.arange(n_windows * context + 1 + min(spare, context - 1), dtype=np.uint16)
    batches = Batches(tokens, context, batch_size, seed=0)
    read = torch.cat([batches(step)[0] for step in range(-(-3 * n_windows // batch_size))])[: 3 * n_windows]
    for epoch in read.view(3, -1):
        assert sorted(epoch.tolist()) == list(range(n_windows * context))


@given(n_tokens=st.integers(30, 300), context=st.integers(1, 20), batch_size=st.integers(1, 5), step=st.integers(0, 40))
def test_targets_are_the_inputs_one_token_on(n_tokens: int, context: int, batch_size: int, step: int) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    inputs, targets = Batches(tokens, context, batch_size, 0)(step)
    assert inputs.shape == targets.shape == (batch_size, context)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(context))


@given(n_tokens=st.integers(12, 300), context=st.integers(1, 10), limit=st.integers(1, 400), batch_size=st.integers(1, 7))
def test_validation_reads_a_fixed_prefix_without_overlap(n_tokens: int, context: int, limit: int, batch_size: int) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    inputs, targets = (torch.cat(half) for half in zip(*valid_batches(tokens, context, limit, batch_size), strict=True))
    assert inputs.flatten().tolist() == list(range(inputs.numel()))
    assert torch.equal(targets, inputs + 1)
    left = min(limit, n_tokens - 1) - inputs.numel()
    assert left < context
    assert left >= 0 or len(inputs) == 1


def test_windows_start_where_they_are_asked_to() -> None:
    inputs, targets = windows(np.array([5, 6, 7, 8, 9], np.uint16), np.array([2, 0]), 2)
    assert inputs.tolist() == [[7, 8], [5, 6]]
    assert targets.tolist() == [[8, 9], [6, 7]]


@given(loss=st.floats(0, 10), tokens=st.integers(1, 10**9), text_bytes=st.integers(1, 10**9))
def test_bits_per_byte_of_tokens_of_unknown_length_has_its_closed_form(loss: float, tokens: int, text_bytes: int) -> None:
    shards = Shards(Path(), "", {"valid": tokens}, {"valid": text_bytes})
    assert shards.bits_per_byte(loss, "valid", 1, 1) * text_bytes == pytest.approx(math.log2(math.e) * loss * tokens)


def test_a_uniform_guess_over_the_bytes_is_eight_bits_a_byte() -> None:
    assert Shards(Path(), "", {"valid": 7}, {"valid": 7}).bits_per_byte(math.log(256), "valid", 2, 4) == pytest.approx(8)


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_glob_without_files_is_named(write: Callable[[dict[str, bytes]], DataConfig], tmp_path: Path) -> None:
    write({"a.txt": b"one"})
    with pytest.raises(UserError) as error:
        open_shards(DataConfig(source="text", text=(f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")))
    assert line(error) == f"data.text: no file matches '{tmp_path}/b.txt'"


def test_a_file_that_is_not_utf8_is_named(write: Callable[[dict[str, bytes]], DataConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_shards(write({"a.txt": b"one", "b.txt": "café".encode("latin-1")}))
    assert line(error) == f"data.text: {tmp_path}/b.txt is not UTF-8"


@pytest.mark.parametrize("raw", [{"source": "text"}, {"text": ["a.txt"]}, {"source": "text", "text": []}])
def test_globs_and_the_text_source_go_together(raw: dict[str, object]) -> None:
    with pytest.raises(UserError) as error:
        DataConfig.parse(raw, "data")
    assert "'source: text' and a list of globs go together" in line(error)


def held(train: int, valid: int) -> Shards:
    return Shards(Path(), "", {"train": train, "valid": valid, "test": valid}, {})


@pytest.mark.parametrize(
    ("train", "epochs", "tokens", "needed"),
    [
        (1000, 1.0, 1000, "1,001"),
        (1000, 0.5, 600, "1,201"),
        (1000, 2.5, 2501, "1,002"),
        (16, None, 10**9, "17"),
        (9, 1.0, 1, "17"),
    ],
)
def test_too_little_training_text_says_what_was_found_and_needed(
    train: int, epochs: float | None, tokens: int, needed: str, tiny: ModelConfig
) -> None:
    config = DataConfig(max_epochs=epochs)
    with pytest.raises(UserError) as error:
        check_fits(held(train, 100), config, tokens, tiny)
    assert "too little training text in the standard library" in line(error)
    assert f"{train:,} tokens found, {needed} needed" in line(error)
    check_fits(held(int(needed.replace(",", "")), 100), config, tokens, tiny)


def test_too_little_validation_text_says_what_was_found_and_needed(tiny: ModelConfig) -> None:
    with pytest.raises(UserError) as error:
        check_fits(held(1000, 16), DataConfig(), 100, tiny)
    assert line(error).endswith("too little validation text in the standard library: 16 tokens found, 17 needed")
    check_fits(held(1000, 17), DataConfig(), 100, tiny)


def test_text_without_validation_documents_is_too_little(
    write: Callable[[dict[str, bytes]], DataConfig], tiny: ModelConfig
) -> None:
    config = write({"a.txt": b"one" * 100})
    with pytest.raises(UserError, match=r"too little .* text in .*\*\.txt: 0 tokens found"):
        check_fits(open_shards(config), config, 16, tiny)


def test_a_vocabulary_smaller_than_the_datas_is_refused(tiny: ModelConfig) -> None:
    with pytest.raises(UserError) as error:
        check_fits(held(1000, 100), DataConfig(), 100, tiny.change(vocab_size=256))
    assert line(error) == "model.vocab_size: 256 is less than the data's 257 different tokens"


def test_short_files_stand_in_the_order_of_hashes_in_every_split(write: Callable[[dict[str, bytes]], DataConfig]) -> None:
    """Whatever becomes other shards of the same text needs another name, and a new one here (and in FORMAT)."""
    texts = [f"page {number} é".encode() for number in range(200)]
    shards = open_shards(write({f"{number}.txt": text for number, text in enumerate(texts)}))
    by_hash = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    mixed = sorted(texts, key=lambda text: hashlib.sha256(hashlib.sha256(text).digest() + bytes(8)).digest())
    for split in SPLITS:
        found = documents(shards, split)
        in_order = by_hash if split == "train" else mixed
        assert found == [text for text in in_order if text in found]
    assert shards.content == "a03266442c7bbdd9"


@pytest.mark.parametrize(("kind", "largest"), [("uint16", 2**16 - 1), ("uint32", 2**32 - 1)])
def test_batches_of_windows_on_a_device_are_those_of_tokens_on_disk(kind: str, largest: int) -> None:
    tokens = np.random.default_rng(0).integers(0, largest, 500, kind, endpoint=True)
    tokens[:4] = 0, largest, largest // 2, largest // 2 + 1
    here = Batches(tokens, context=7, batch_size=5, seed=3, part=slice(1, 4))
    for steps in (range(2), range(30, 33), range(100)):  # some windows; an epoch's end; all, several times
        there = ResidentBatches(here, steps, torch.device("cpu"))
        for step in steps:
            for one, other in zip(here(step), there(step), strict=True):
                assert one.dtype == other.dtype == torch.int64
                assert torch.equal(one, other)
    assert len(ResidentBatches(here, range(2), torch.device("cpu")).windows) == 2 * 3  # what is read, and no more


def test_on_a_cpu_and_where_a_run_reads_much_batches_come_from_the_host() -> None:
    here = Batches(np.zeros(500, "uint16"), context=7, batch_size=5, seed=3)
    assert near(here, range(3), torch.device("cpu")) is here
    vast = Batches(np.lib.stride_tricks.as_strided(np.zeros(1, "uint32"), (2**30,), (0,)), 1023, 512, seed=0)
    assert near(vast, range(10**6), torch.device("cuda")) is vast
