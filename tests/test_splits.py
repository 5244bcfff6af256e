import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.splits import Known, Sample, by_split, split_of


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
    sample, given_up = Sample(limit), list[bytes]()
    shuffled = texts * 2
    order.shuffle(shuffled)
    for text in shuffled:
        given_up += sample.push(key(text), text)
    by_hash = sorted(set(texts), key=key)
    held = sample.texts()
    assert held == by_hash[: len(held)]
    assert set(given_up) == set(by_hash[len(held) :])
    assert sum(map(len, held)) <= limit
    if sum(map(len, by_hash)) <= limit:
        assert held == by_hash


@given(texts=TEXTS)
def test_every_document_lands_once_in_its_split_and_held_out_ones_by_hash(texts: list[bytes]) -> None:
    found = list(by_split(texts))
    assert sorted(text for _, text in found) == sorted(set(texts))
    assert all(split == split_of(key(text)) for split, text in found)
    for split in ("valid", "test"):
        part = [text for name, text in found if name == split]
        assert part == sorted(part, key=key)
    train = [text for name, text in found if name == "train"]
    assert train == [text for text in dict.fromkeys(texts) if text in train]


def test_held_out_text_past_its_cap_is_trained_on_and_never_straddles() -> None:
    texts = [b"page %06d" % (number % 2000) for number in range(4000)]
    found = list(by_split(texts, held_out_bytes=300, known_documents=100))  # so few that repeats come through, too
    parts = {split: [text for name, text in found if name == split] for split in ("train", "valid", "test")}
    assert set(parts["train"]) | set(parts["valid"]) | set(parts["test"]) == set(texts)
    assert not set(parts["train"]) & {*parts["valid"], *parts["test"]}
    for split in ("valid", "test"):
        fair = sorted({text for text in texts if split_of(key(text)) == split}, key=key)
        assert parts[split] == fair[: 300 // 11]
