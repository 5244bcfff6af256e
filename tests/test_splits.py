import hashlib
import os
import random
import resource
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.splits import HELD_OUT_PIECE_BYTES, Known, Sample, by_split, pieces, split_of


def key(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


TEXTS = st.lists(st.binary(min_size=1, max_size=6), max_size=40)


@given(texts=TEXTS)
def test_repeats_are_known_as_a_set_knows_them(texts: list[bytes]) -> None:
    known = Known()
    assert [known.add(key(text)) for text in texts] == [text not in texts[:place] for place, text in enumerate(texts)]


def test_a_table_that_grows_forgets_nothing() -> None:
    known, keys = Known(), [key(b"%d" % number) for number in range(20_000)]
    assert all(known.add(digest) for digest in keys)
    assert not any(known.add(digest) for digest in keys)
    assert known.count == len(keys) < len(known.table)


@given(texts=TEXTS, limit=st.integers(0, 60), order=st.randoms(use_true_random=False))
def test_a_sample_is_a_prefix_by_hash_whatever_the_order(texts: list[bytes], limit: int, order: random.Random) -> None:
    given_up, shuffled = list[bytes](), texts * 2
    order.shuffle(shuffled)
    with Sample(limit) as sample:
        for text in shuffled:
            given_up += sample.push(key(text), text)
        held = [text for _, text in sample.placed()]
    by_hash = sorted(set(texts), key=key)
    assert held == by_hash[: len(held)]
    assert set(given_up) == set(by_hash[len(held) :])
    assert sum(map(len, held)) <= limit
    if sum(map(len, by_hash)) <= limit:
        assert held == by_hash


@given(texts=TEXTS)
def test_every_document_lands_once_in_its_split_and_held_out_ones_by_hash(texts: list[bytes]) -> None:
    found = [(split, piece.text) for split, piece in by_split(texts)]
    assert sorted(text for _, text in found) == sorted(set(texts))
    assert all(split == split_of(key(text)) for split, text in found)
    for split in ("valid", "test"):
        part = [text for name, text in found if name == split]
        assert part == sorted(part, key=lambda text: key(key(text) + bytes(8)))
    train = [text for name, text in found if name == "train"]
    assert train == [text for text in dict.fromkeys(texts) if text in train]


def test_held_out_text_past_its_cap_is_trained_on_and_never_straddles() -> None:
    texts = [b"page %06d" % (number % 2000) for number in range(4000)]
    held_out = by_split(texts, held_out_bytes=300, known_documents=100)  # so few that repeats come through, too
    found = [(split, piece.text) for split, piece in held_out]
    parts = {split: [text for name, text in found if name == split] for split in ("train", "valid", "test")}
    assert set(parts["train"]) | set(parts["valid"]) | set(parts["test"]) == set(texts)
    assert not set(parts["train"]) & {*parts["valid"], *parts["test"]}
    for split in ("valid", "test"):
        fair = sorted({text for text in texts if split_of(key(text)) == split}, key=key)
        assert set(parts[split]) == set(fair[: 300 // 11])
        assert len(parts[split]) == 300 // 11


def test_a_document_is_in_one_split_whole_and_ends_once() -> None:
    texts = [b"%d\n" % number + b"line %d\n" % number * (number * 97 % 4000) for number in range(300)] + [b"long " * 2**20]
    found = list(by_split(texts))
    for split in ("valid", "test"):
        assert max(len(piece.text) for name, piece in found if name == split) <= HELD_OUT_PIECE_BYTES
    for text in texts:
        expected = pieces(text) if split_of(key(text)) == "train" else pieces(text, 0, HELD_OUT_PIECE_BYTES)
        for piece in expected:
            assert (split_of(key(text)), piece) in found
        assert [piece.ends for piece in expected] == [False] * (len(expected) - 1) + [True]
    assert sum(len(piece.text) for _, piece in found) == sum(map(len, texts))


def test_the_first_32_ki_tokens_of_validation_are_of_many_documents() -> None:
    texts = [b"line %d\n" % number * 9000 for number in range(400)]  # 80 kB each
    valid = b"".join(piece.text for split, piece in by_split(texts) if split == "valid")
    n_documents = sum(split_of(key(text)) == "valid" for text in texts)
    assert n_documents > 12
    assert len(set(valid[: 2**15].splitlines()[:-1])) >= 6  # of 8 pieces; whole documents in a row would be one


def test_a_document_that_would_be_most_of_a_split_is_trained_on() -> None:
    texts = [b"%d" % number * 400 for number in range(200)]
    found = {split for split, _ in by_split(texts, held_out_bytes=400 * 7)}
    assert found == {"train"}


def test_held_out_text_is_not_held_in_memory() -> None:
    def texts() -> Iterator[bytes]:
        for number in range(2000):
            yield random.Random(number).randbytes(2**14)

    tracemalloc.start()
    try:
        sizes = [len(piece.text) for split, piece in by_split(texts()) if split != "train"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) > 2**21
    assert peak < 2**20


def test_a_disk_without_room_for_held_out_text_is_one_line_and_leaves_no_file_open() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: File too large; text .* TMPDIR") as error:
            list(by_split(b"%d" % number * 100 for number in range(2000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    del error
    assert len(os.listdir("/proc/self/fd")) == before
