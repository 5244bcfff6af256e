"""Documents -> splits, in pieces: by the hash of their text, equal ones once, without holding them all."""

import hashlib
import heapq
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from .config import UserError
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

PLACE = struct.Struct(">QI?")
"""Where a piece is among the held-out text, how long it is, and Piece.ends."""


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
    known = Known(known_documents)
    with Sample(held_out_bytes) as valid, Sample(held_out_bytes) as test:
        held_out = {"valid": valid, "test": test}
        for text in documents:
            digest = hashlib.sha256(text).digest()
            if not known.add(digest):
                continue
            split = split_of(digest)
            if split == "train" or len(text) * HELD_OUT_SHARE > held_out_bytes:
                trained: Iterable[bytes] = [text]
            else:
                trained = held_out[split].push(digest, text)
            yield from (("train", piece) for text in trained for piece in pieces(text))
        for split, sample in held_out.items():
            yield from ((split, piece) for piece in mixed(sample))


def pieces(text: bytes, long: int = LONG_BYTES, size: int = PIECE_BYTES) -> list[Piece]:
    """A document above `long` bytes in pieces of at most `size`, as text.cut makes them."""
    if 0 < len(text) <= long:
        return [Piece(text, True)]  # as below, in a third of the time
    found = list(cut([text], long, size))
    return [Piece(part, number == len(found)) for number, part in enumerate(found, 1)]


def mixed(sample: "Sample") -> Iterator[Piece]:
    """The held-out pieces of the documents, in the order of a hash of (document, number of the piece)."""
    keyed = list[bytes]()  # of each piece 88 bytes
    for offset, text in sample.placed():
        digest = hashlib.sha256(text).digest()
        for number, piece in enumerate(pieces(text, HELD_OUT_PIECE_BYTES, HELD_OUT_PIECE_BYTES)):
            key = hashlib.sha256(digest + number.to_bytes(8)).digest()
            keyed.append(key + PLACE.pack(offset, len(piece.text), piece.ends))
            offset += len(piece.text)
    for record in sorted(keyed):
        offset, size, ends = PLACE.unpack(record[-PLACE.size :])
        yield Piece(sample.store.read(offset, size), ends)


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


class Store:
    """Texts in a file of the system that has no name. What stays on the heap for long among much that comes and goes leaves
    gaps there: 64 MiB of held-out text cost 250 MiB."""

    def __init__(self) -> None:
        try:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by Sample)
        except OSError as error:
            raise UserError(f"no temporary file can be made: {error.strerror or error}") from None
        self.size = 0

    def add(self, text: bytes) -> int:
        """Where the text is from now on. Raises UserError: no room."""
        offset, left = self.size, text
        self.file.seek(offset)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            where = f"{tempfile.gettempdir()}: cannot be written: {error.strerror}"
            raise UserError(f"{where}; text is kept there meanwhile, and TMPDIR names another folder") from None
        self.size += len(text)
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of text."""
        self.file.seek(offset)
        return self.file.read(size)


class Sample:
    """The documents with the smallest hashes, up to so many bytes: fair whatever the order they come in.

    Those given up stay in the store: about limit * ln(all / limit) bytes for documents in an order that is random.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.store = limit, 0, Store()
        self.held = dict[int, int]()
        """Minus the hash of a document (so that a heap's first has the largest): its offset * 2**32 + its size."""
        self.largest = list[int]()
        self.bar = -(2**256)
        """A document that was given up is not taken back, nor is any with a larger hash."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.file.close()

    def push(self, digest: bytes, text: bytes) -> Iterator[bytes]:
        """Take a document; the ones that are given up for it."""
        key = -int.from_bytes(digest)
        if key in self.held:
            return
        if key <= self.bar:
            yield text
            return
        self.held[key] = self.store.add(text) << 32 | len(text)
        self.size += len(text)
        heapq.heappush(self.largest, key)
        while self.size > self.limit:
            self.bar = heapq.heappop(self.largest)
            _, given_up = self._read(self.held.pop(self.bar))
            self.size -= len(given_up)
            yield given_up

    def placed(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the store, document) in the order of their hashes, so that any prefix is a fair sample."""
        for key in sorted(self.held, reverse=True):
            yield self._read(self.held[key])

    def _read(self, place: int) -> tuple[int, bytes]:
        offset, size = divmod(place, 2**32)
        return offset, self.store.read(offset, size)
