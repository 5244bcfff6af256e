"""Texts -> token ids, word by word: a word's ids are made once and remembered, and most words are found many at a time.

Only for tokenizers that cut text into words as GPT-2's pattern does and change nothing else.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

ASCII_WORD = re.compile(
    r"[A-Za-z]++|'(?:s|t|re|ve|m|ll|d)|[^\sA-Za-z0-9]++| (?:[A-Za-z]++|[^\sA-Za-z0-9]++|[0-9]++)|[0-9]++|\s+(?!\S)|\s+",
    re.ASCII,
)
"""What the `tokenizers` library's ByteLevel cuts ASCII text into before it merges (GPT-2's pattern); alternatives that start
with one kind of character each, and that give nothing back, take 3/4 of the time."""
RUN = re.compile(r"\s*\S+|\s+")
"""Of any text: pieces that this pattern never joins; Python's whitespace is Unicode's and NO_RUN."""
NO_RUN = re.compile(r"[\x1c-\x1f]")

LETTER, DIGIT, OTHER, BLANK, HIGH, HIGH_BLANK, MARK = range(1, 8)
"""Kinds of bytes. HIGH is of characters that are not ASCII, HIGH_BLANK of such as may be the last byte of whitespace."""
ENDED, UNENDED = b"\xff", b"\xfe"
"""Marks, which no UTF-8 has: after a text with the end-of-text token behind it, and after one without."""
SHORT = 15
"""Bytes of the longest word of the table: with its size two numbers of 64 bits, and nothing is hashed away. Of the words of
source code 1.6 % are longer."""
IDS = 6
"""Of the word with the most tokens in the table; of source code 1 short word in 10,000 has more."""
SLOTS_BITS = 18
"""2**18 words, 8 MB: of 12 million words of source code 5.5 % were not found (1.6 % too long, 1 % new), with 2**16 8.8 %."""
CHUNK = 2**14
"""Words looked up at a time."""


def _kinds() -> bytes:
    kinds = bytearray([OTHER] * 128 + [HIGH] * 126 + [MARK] * 2)
    for kind, codes in (
        (LETTER, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
        (DIGIT, b"0123456789"),
        (BLANK, b" \t\n\v\f\r"),
        (HIGH_BLANK, {chr(code).encode()[-1] for code in range(128, 2**16) if chr(code).isspace()}),
    ):
        for code in codes:
            kinds[code] = kind
    return bytes(kinds)


KIND_OF = _kinds()
PLAIN = bytes([*range(128), *ENDED, *UNENDED])
AFTER_APOSTROPHE = (b"s", b"t", b"m", b"d", b"re", b"ve", b"ll")
MASKS = np.array([[2 ** (8 * min(max(size - before, 0), 8)) - 1 for size in range(SHORT + 2)] for before in (0, 8)], np.uint64)
"""(2, SHORT + 2): which bits of two numbers are a word's, by its size."""
MIX = np.array([[0x9E3779B97F4A7C15], [0xC2B2AE3D27D4EB4F]], np.uint64)
"""Odd, without a pattern (assumption); their high bits say the slot."""


def starts(text: bytes) -> np.ndarray:
    """(bytes,) bool: where the words begin, of texts each of which has a mark behind it; a mark is a word.

    Beside what is not ASCII the words are not told apart: there a stretch begins that `cut` has to cut.
    """
    kind = np.frombuffer(text.translate(KIND_OF), np.uint8)
    found = np.ones(len(text), bool)
    blank, inked = kind == BLANK, kind < BLANK
    found[1:] = (kind[1:] != kind[:-1]) & ~(inked[1:] & (np.frombuffer(text, np.uint8)[:-1] == ord(" ")))
    found[:-1] |= blank[:-1] & inked[1:]  # whitespace leaves its last character to the word behind it
    found |= kind == MARK
    _contract(text, found)
    if text.translate(None, PLAIN):
        _stretch(kind, blank, found)
    return found


def _contract(text: bytes, found: np.ndarray) -> None:
    """A word that begins with an apostrophe takes the letters of a contraction, and the next word begins behind them."""
    byte = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((byte == ord("'")) & found)  # none is the last byte, which is a mark
    first, second = byte[marks + 1], byte[np.minimum(marks + 2, len(byte) - 1)]
    for letters in AFTER_APOSTROPHE:
        at = marks[(first == letters[0]) & ((second == letters[-1]) | (len(letters) == 1))]
        found[at + 1] = False
        found[at + 1 + len(letters)] = True


def _stretch(kind: np.ndarray, blank: np.ndarray, found: np.ndarray) -> None:
    """Only the first of the words stays whose text, up to whitespace behind what is surely none, is not all ASCII."""
    edge = kind == MARK
    edge[1:] |= edge[:-1] | (blank[1:] & (kind[:-1] != HIGH_BLANK) & ~blank[:-1])
    edge[:1] = True
    edges = np.flatnonzero(edge)
    high = np.logical_or.reduceat((kind == HIGH) | (kind == HIGH_BLANK), edges)
    found &= ~np.repeat(high, np.diff(edges, append=len(kind)))
    found[edges[high]] = True


def cut(text: str) -> list[str]:
    """The text in pieces whose tokens do not depend on each other; an ASCII one is a single word of the model."""
    if text.isascii():
        return ASCII_WORD.findall(text)
    words = list[str]()
    for run in [text] if NO_RUN.search(text) else RUN.findall(text):
        words += ASCII_WORD.findall(run) if run.isascii() else (run,)
    return words


class Words(dict[str, bytes]):
    """Words and their ids, made when they are first asked for; when full, those are forgotten that were not asked for since
    the last time. See tests/benchmarks/prepare.py."""

    def __init__(self, make: Callable[[str], bytes], limit: int) -> None:
        """At most about `limit` bytes are held."""
        super().__init__()
        self.make, self.limit, self.size = make, limit, 0
        self.before = dict[str, bytes]()

    def __missing__(self, word: str) -> bytes:
        ids = self.before.get(word) or self.make(word)
        self.size += 130 + 2 * len(word)  # measured: 115 to 135 for words of 10 letters, their part of the dictionary included
        if self.size > self.limit // 2:
            self.before, self.size = dict(self), 0
            self.clear()
        self[word] = ids
        return ids


class WordByWord:
    """Texts -> ids. Short words are in a table, each at the slot that its bytes say, where the last one that came stays."""

    def __init__(
        self, make: Callable[[str], bytes], end: int, dtype: np.dtype, cache_bytes: int, slots_bits: int = SLOTS_BITS
    ) -> None:
        """`make`: the ids of a piece as `cut` gives it, packed as `dtype`; `end`: the token behind a document."""
        self.words, self.dtype, self.slots_bits = Words(make, cache_bytes), dtype, slots_bits
        self.marks = {ENDED: np.array([end], dtype).tobytes(), UNENDED: b""}
        self.keys = np.zeros((2, 2**slots_bits), np.uint64)
        self.counts, self.ids = np.zeros(2**SLOTS_BITS, np.uint8), np.zeros((2**slots_bits, IDS), dtype)

    def encode(self, texts: Sequence[bytes], ends: Sequence[bool]) -> np.ndarray:
        """(tokens,): of UTF-8 texts, and the end-of-text token after those that are the ends of documents."""
        text = b"".join(part + (ENDED if end else UNENDED) for part, end in zip(texts, ends, strict=True))
        bounds = np.append(np.flatnonzero(starts(text)), len(text))
        text += bytes(16)  # read behind the last word, and masked
        found = [self._chunk(text, bounds[first : first + CHUNK + 1]) for first in range(0, len(bounds) - 1, CHUNK)]
        return np.concatenate([np.zeros(0, self.dtype), *found])

    def _chunk(self, text: bytes, bounds: np.ndarray) -> np.ndarray:
        """The ids of the words between the bounds."""
        keys = _keys(text, bounds)
        slots = (np.bitwise_xor.reduce(keys * MIX) >> np.uint64(64 - self.slots_bits)).astype(np.int64)
        known = (self.keys[0][slots] == keys[0]) & (self.keys[1][slots] == keys[1])
        counts, other = self.counts[slots].astype(np.int64), np.flatnonzero(~known)
        first, last = bounds[other].tolist(), bounds[other + 1].tolist()
        made = [self._ids(text[start:stop]) for start, stop in zip(first, last, strict=True)]
        counts[other] = np.fromiter(map(len, made), np.int64, len(made)) // self.dtype.itemsize
        places = np.cumsum(counts) - counts
        ids = np.empty(counts.sum(), self.dtype)
        for number in range(IDS):
            several = np.flatnonzero(known & (counts > number))
            ids[places[several] + number] = self.ids[slots[several], number]
        ids[_spans(places[other], counts[other])] = np.frombuffer(b"".join(made), self.dtype)
        kept = other[(np.diff(bounds)[other] <= SHORT) & (counts[other] <= IDS)]
        self._keep(keys[:, kept], slots[kept], ids, places[kept], counts[kept])
        return ids

    def _ids(self, word: bytes) -> bytes:
        if word.isascii():
            return self.words[word.decode("ascii")]
        if word in self.marks:
            return self.marks[word]
        return b"".join(map(self.words.__getitem__, cut(word.decode("utf-8"))))

    def _keep(self, keys: np.ndarray, slots: np.ndarray, ids: np.ndarray, places: np.ndarray, counts: np.ndarray) -> None:
        """Put words into the table; of several in one slot the last stays, in every array."""
        self.keys[:, slots], self.counts[slots] = keys, counts
        for number in range(IDS):
            several = counts > number
            self.ids[slots[several], number] = ids[places[several] + number]


def _keys(text: bytes, bounds: np.ndarray) -> np.ndarray:
    """(2, words) uint64: the bytes and the size of each word, or of what is too long a key that no word has."""
    sizes = np.minimum(np.diff(bounds), SHORT + 1)
    numbers = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))  # 8 bytes from each on
    keys = np.stack((numbers[bounds[:-1]], numbers[bounds[:-1] + 8])) & MASKS[:, sizes]
    keys[1] |= sizes.astype(np.uint64) << np.uint64(56)
    return keys


def _spans(places: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """place, place + 1, ... of each, so many as its count."""
    return np.arange(counts.sum()) + np.repeat(places - (np.cumsum(counts) - counts), counts)
