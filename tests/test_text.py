import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.text import LONG_BYTES, PIECE_BYTES, cut, documents

TEXTS = ["one", "zwei\nZeilen", "drei: é 漢字 😀", "  four\n", 'five "quoted"']
ZIPS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def rows(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()


def table(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


FORMS = {".jsonl": rows, ".ndjson": rows, ".parquet": table}


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("zipped", ZIPS)
@pytest.mark.parametrize("form", FORMS)
def test_each_row_is_a_document_however_it_is_stored(form: str, zipped: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{form}{zipped}"
    path.write_bytes(ZIPS[zipped](FORMS[form]([*TEXTS, ""])))
    assert list(documents(path, "text")) == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("zipped", ZIPS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "README"])
def test_any_other_file_is_one_document(name: str, zipped: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{zipped}"
    path.write_bytes(ZIPS[zipped]("\n".join(TEXTS).encode()))
    assert list(documents(path, "text")) == ["\n".join(TEXTS).encode()]


@pytest.mark.parametrize("zipped", [".gz", ".zst"])
def test_files_of_several_frames_are_read_to_the_end(zipped: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.jsonl{zipped}"
    path.write_bytes(b"".join(ZIPS[zipped](rows([text])) for text in TEXTS))
    assert list(documents(path, "text")) == [text.encode() for text in TEXTS]


@given(
    texts=st.lists(st.text(st.sampled_from("ab\n é漢😀"), max_size=40), max_size=4),
    repeat=st.sampled_from([1, 3000, LONG_BYTES // 40]),
    size=st.sampled_from([1000, 2**16, 2**20]),
)
def test_a_long_text_is_cut_between_characters_and_nothing_is_lost(texts: list[str], repeat: int, size: int) -> None:
    text = ("".join(texts) * repeat).encode()
    pieces = list(cut(text[first : first + size] for first in range(0, len(text), size)))
    assert b"".join(pieces) == text
    assert all(piece.decode() for piece in pieces)
    if len(text) <= LONG_BYTES:
        assert len(pieces) == bool(text)
    else:
        assert max(map(len, pieces)) <= PIECE_BYTES


def test_a_long_text_with_lines_is_cut_after_lines(tmp_path: Path) -> None:
    lines = b"".join(b"line %d of many\n" % number for number in range(200_000))
    (tmp_path / "a.txt").write_bytes(lines)
    pieces = list(documents(tmp_path / "a.txt", "text"))
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) < 2 * len(lines) / PIECE_BYTES


def test_a_long_text_without_lines_is_cut_before_spaces() -> None:
    pieces = list(cut([b"some words " * 10_000], 0, 1000))
    assert b"".join(pieces) == b"some words " * 10_000
    assert all(piece.startswith(b" ") for piece in pieces[1:])
    assert max(map(len, pieces)) <= 1000


@pytest.mark.parametrize("form", FORMS)
def test_a_long_row_is_one_document(form: str, tmp_path: Path) -> None:
    texts = ["short", "long\n" * LONG_BYTES, "short, too"]
    (tmp_path / f"a{form}").write_bytes(FORMS[form](texts))
    assert list(documents(tmp_path / f"a{form}", "text")) == [text.encode() for text in texts]


def test_positions_are_told_in_order_and_within_the_file(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": rows(TEXTS), "a.jsonl.gz": gzip.compress(rows(TEXTS)), "a.parquet": table(TEXTS)}.items():
        heard: list[int] = []
        (tmp_path / name).write_bytes(content)
        list(documents(tmp_path / name, "text", heard.append))
        assert heard == sorted(heard)
        assert 0 < heard[-1] <= len(content)


BAD_ROWS = {
    b'{"text": "a"}\n{"text": \n': r"a.jsonl:2: not JSON: Expecting value at column",
    b'{"text": "a"}\n\n[1]\n': r"a.jsonl:3: expected an object with the text field 'text', found a list",
    b'{"test": "a"}': r"a.jsonl:1: no text field 'text', did you mean 'test'?",
    b'{"text": 5}': r"a.jsonl:1: expected text in 'text', found a int",
    b'{"text": null}': r"a.jsonl:1: expected text in 'text', found a NoneType",
    b'{"text": "caf\xe9"}': r"a.jsonl:1: not UTF-8",
    b'{"text": "a", "n": ' + b"9" * 5000 + b"}": r"a.jsonl:1: not JSON that can be read: a number of too many digits",
    b'{"text": "\\ud800"}': r"a.jsonl:1: 'text' holds half of a surrogate pair, which is no text",
}


@pytest.mark.parametrize("content", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as error:
        list(documents(tmp_path / "a.jsonl", "text"))
    assert BAD_ROWS[content] in line(error)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_text_that_is_not_utf8_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(ZIPS[path.suffix if path.suffix != ".txt" else ""]("café".encode("latin-1")))
    with pytest.raises(UserError) as error:
        list(documents(path, "text"))
    assert line(error) == f"data.text: {path} is not UTF-8"


HARM = [
    (name, harm) for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.parquet.zst") for harm in ("cut", "changed", "other")
]


@pytest.mark.parametrize(("name", "harm"), [case for case in HARM if case != ("a.parquet", "changed")])  # it has no checksum
def test_a_damaged_file_is_named(name: str, harm: str, tmp_path: Path) -> None:
    path = tmp_path / name
    texts = [f"{n} {n * 7919**3 % 10**9}" for n in range(3000)]
    made = FORMS[f".{name.split('.')[1]}"](texts)
    whole = ZIPS[path.suffix](made) if path.suffix in ZIPS else made
    if harm == "changed":
        middle = len(whole) // 2
        broken = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
    else:
        broken = whole[: len(whole) * 2 // 3] if harm == "cut" else b"no such thing" * 9
    path.write_bytes(broken)
    with pytest.raises(UserError) as error:
        list(documents(path, "text"))
    assert f"data.text: {path} is damaged" in line(error)


def test_a_missing_column_and_a_row_without_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"txt": ["a"], "other": ["b"]}), path)
    with pytest.raises(UserError) as error:
        list(documents(path, "text"))
    assert line(error) == f"data.text: {path}: no column 'text', did you mean 'txt'?"
    pq.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(UserError) as error:
        list(documents(path, "text"))
    assert line(error) == f"data.text: {path}: expected text in 'text', found None in row 2"
