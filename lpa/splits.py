"""Documents -> splits, in pieces: by the hash of their text, equal ones once, without holding them all."""

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .text import LONG_BYTES, PIECE_BYTES, cut

SPLITS = ("train", "valid", "test")
HELD_OUT_PERCENT = 5
"""Of the documents, by content hash, for validation and as many for test (assumption)."""
HELD_OUT_BYTES = 32 * 2**20
"""Validation and test end at so much text each; further documents are trained on (assumption)."""
HELD_OUT_PIECE_BYTES = 4096
"""At most so much text of one document stands together in validation and test (assumption), cut at line ends."""
HELD_OUT_SHARE = 8
"""A document of more than 1 / HELD_OUT_SHARE of HELD_OUT_BYTES is trained on: it would be most of a split (assumption)."""
KNOWN_DOCUMENTS = 12_000_000
"""Documents among which repeats are dropped, the first so many; 128 MiB."""


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: bytes
    ends: bool
    """Whether the document ends with it, so that the end-of-text token follows."""


def split_of(digest: bytes) -> str:
    """The split of a document by the SHA-256 of its text."""
    bucket = int.from_bytes(digest[-4:], "big") % 100
    return "valid" if bucket < HELD_OUT_PERCENT else "test" if bucket < 2 * HELD_OUT_PERCENT else "train"


def by_split(
    documents: Iterable[bytes], held_out_bytes: int = HELD_OUT_BYTES, known_documents: int = KNOWN_DOCUMENTS
) -> Iterator[tuple[str, Piece]]:
    """(split, piece), equal documents once, all pieces of a document in one split.

    Training's documents come as they are, long ones in pieces, one after the other. Of validation and test short pieces come,
    of all their documents mixed by hash: any prefix of them is then a fair sample of the text, and not a few long documents.
    """
    known, held_out = Known(known_documents), {split: Sample(held_out_bytes) for split in SPLITS if split != "train"}
    for text in documents:
        digest = hashlib.sha256(text).digest()
        if not known.add(digest):
            continue
        split = split_of(digest)
        if split == "train" or len(text) * HELD_OUT_SHARE > held_out_bytes:
            trained = [text]
        else:
            trained = held_out[split].push(digest, text)
        yield from (("train", piece) for text in trained for piece in pieces(text))
    for split, sample in held_out.items():
        yield from ((split, piece) for piece in mixed(sample.texts()))


def pieces(text: bytes, long: int = LONG_BYTES, size: int = PIECE_BYTES) -> list[Piece]:
    """A document above `long` bytes in pieces of at most `size`, as text.cut makes them."""
    found = list(cut([text], long, size))
    return [Piece(part, number == len(found)) for number, part in enumerate(found, 1)]


def mixed(texts: Iterable[bytes]) -> list[Piece]:
    """The held-out pieces of the documents, in the order of a hash of (document, number of the piece)."""
    keyed = list[tuple[bytes, Piece]]()
    for text in texts:
        digest = hashlib.sha256(text).digest()
        for number, piece in enumerate(pieces(text, HELD_OUT_PIECE_BYTES, HELD_OUT_PIECE_BYTES)):
            keyed.append((hashlib.sha256(digest + number.to_bytes(8)).digest(), piece))
    return [piece for _, piece in sorted(keyed, key=lambda pair: pair[0])]


class Known:
    """The hashes of documents that were met, 8 bytes each, in one open-addressing table; 0 is a free place."""

    def __init__(self, limit: int = KNOWN_DOCUMENTS) -> None:
        self.limit, self.count, self.table = limit, 0, array("Q", bytes(8 * 2**12))

    def add(self, digest: bytes) -> bool:
        """Whether the document is new; past the limit, new ones are not remembered."""
        key = int.from_bytes(digest[:8]) or 1
        place = self._place(key)
        if self.table[place]:
            return False
        if self.count < self.limit:
            self.table[place] = key
            self.count += 1
            if self.count * 4 > len(self.table) * 3:
                self._grow()
        return True

    def _place(self, key: int) -> int:
        table, mask = self.table, len(self.table) - 1
        place = key & mask
        while table[place] and table[place] != key:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        before, self.table = self.table, array("Q", bytes(16 * len(self.table)))
        for key in before:
            if key:
                self.table[self._place(key)] = key


class Sample:
    """The documents with the smallest hashes, up to so many bytes: fair whatever the order they come in."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.held = limit, 0, dict[bytes, bytes]()
        self.largest: list[tuple[int, bytes]] = []
        self.bar = b"\xff" * 32
        """A document that was given up is not taken back, nor is any with a larger hash."""

    def push(self, digest: bytes, text: bytes) -> Iterator[bytes]:
        """Take a document; the ones that are given up for it."""
        if digest in self.held:
            return
        if digest >= self.bar:
            yield text
            return
        self.held[digest] = text
        self.size += len(text)
        heapq.heappush(self.largest, (-int.from_bytes(digest), digest))
        while self.size > self.limit:
            _, self.bar = heapq.heappop(self.largest)
            given_up = self.held.pop(self.bar)
            self.size -= len(given_up)
            yield given_up

    def texts(self) -> list[bytes]:
        """The documents in the order of their hashes, so that any prefix is a fair sample."""
        return [self.held[digest] for digest in sorted(self.held)]
