import random
import sysconfig
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lpanas.lpa.words import CHUNK, ENDED, IDS, SHORT, UNENDED, WordByWord, starts
from tokenizers import pre_tokenizers

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
BLANKS = [" ", "  ", "\n", "\t", "\r\n", "\x0b", "\x0c", "\n \n  "]
CONTRACTIONS = ["'", "''", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'r", "'l", "'v", "'rev"]
OTHERS = ["\x00", "\x00\x00", "\x1c", "\x1f", "\x7f", "!", "((", "_", "a", "Z", "the", "0", "42", "x" * 7, "y" * 14]
ASCII = st.lists(st.sampled_from([*BLANKS, *CONTRACTIONS, *OTHERS, *map(chr, range(128))]), max_size=30).map("".join)
HIGH = ["é", "\u2019", "漢", "😀", "\u00a0", "\u0085", "\u2003", "\u3000", "\u2028", "\u200b", "²", "\u0966", "à", "\u2029"]
ANY = st.lists(st.sampled_from([*BLANKS, *BLANKS, *CONTRACTIONS, *OTHERS, *HIGH]), max_size=30).map("".join)


def pieces(text: str) -> list[str]:
    """The words that the `tokenizers` library cuts the text into."""
    return [text[first:last] for _, (first, last) in BYTE_LEVEL.pre_tokenize_str(text)]


def made(text: str) -> list[int]:
    """Ids that show how a text was cut: of each word its size and its bytes; of those that begin with an x, nothing."""
    return [number for word in pieces(text) if word[0] != "x" for number in (300 + len(word), *word.encode())]


def word_by_word(dtype: str = "uint16", slots_bits: int = 18) -> WordByWord:
    kind = np.dtype(dtype)
    return WordByWord(lambda word: array(kind.char, made(word)).tobytes(), 299, kind, 2**20, slots_bits)


@given(texts=st.lists(ASCII, max_size=4))
@example(texts=["don't", "'", "'s", " 's", "'s's", "\n'll", "x'rex", "a''s", "'ll've  's", " ", "", "\n", "a \x1c b"])
def test_ascii_text_is_cut_where_the_library_cuts_it(texts: list[str]) -> None:
    batch = b"".join(text.encode() + random.choice((ENDED, UNENDED)) for text in texts)
    expected, place = list[int](), 0
    for text in texts:
        for word in pieces(text):
            expected.append(place)
            place += len(word)
        expected.append(place)
        place += 1
    assert np.flatnonzero(starts(batch)).tolist() == expected


KEPT = word_by_word(), word_by_word("uint32"), word_by_word(slots_bits=2)
"""What was remembered of other texts changes nothing, nor do words that share a slot."""


@given(texts=st.lists(st.tuples(st.one_of(ASCII, ANY, st.text()), st.booleans()), max_size=5))
@example(texts=[("a\u00a0 \n b", True), ("é \n\n\u2019s 's", False), ("\u3000 漢\x1c \x1d", True), ("à \x00 à\x00", True)])
def test_each_text_gives_its_words_ids_and_its_end(texts: list[tuple[str, bool]]) -> None:
    expected = [number for text, end in texts for number in (*made(text), *[299] * end)]
    for encoder in KEPT:
        found = encoder.encode([text.encode() for text, _ in texts], [end for _, end in texts])
        assert found.tolist() == expected
        assert found.dtype == encoder.dtype


@pytest.mark.parametrize("size", [7, 8, 9, SHORT - 1, SHORT, SHORT + 1, SHORT + 2, 400])
def test_words_that_differ_in_any_byte_or_in_size_are_not_confused(size: int) -> None:
    words = {b"-" * size, b"-" * (size + 1), b"-" * (size - 1) + b"\x00", b"-" * size + b"\x00", b"\x00" * size}
    words |= {b"-" * place + b"!" + b"-" * (size - place - 1) for place in range(size)}
    encoder = word_by_word()
    for _ in range(2):  # made, then remembered
        for word in words:
            assert encoder.encode([word], [True]).tolist() == [*made(word.decode()), 299]


def test_words_of_any_number_of_tokens_are_remembered_and_found_again() -> None:
    asked = list[str]()

    def make(word: str) -> bytes:
        asked.append(word)
        return array("H", range(len(word))).tobytes()

    encoder = WordByWord(make, 299, np.dtype("uint16"), 2**20)
    texts = [b"z" * size for size in range(1, 40)]
    for _ in range(3):
        expected = [number for text in texts for number in (*range(len(text)), 299)]
        assert encoder.encode(texts, [True] * len(texts)).tolist() == expected
    assert sorted(map(len, asked)) == list(range(1, 40))
    assert IDS < 40


def test_real_text_longer_than_what_is_looked_up_at_a_time_is_cut_as_the_library_cuts_it() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes() for path in sorted((root / "email").glob("*.py"))]
    batch = b"".join(text + ENDED for text in texts)
    assert starts(batch).sum() > 2 * CHUNK
    expected = [number for text in texts for number in (*made(text.decode()), 299)]
    assert word_by_word().encode(texts, [True] * len(texts)).tolist() == expected
