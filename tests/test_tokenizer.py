import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.tokenizer import END_WORD, Bytes, Learned, dtype_of, read_tokenizer, train_bpe
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture(scope="module")
def bpe() -> Learned:
    return train_bpe([path.read_bytes() for path in sorted((LIBRARY / "json").glob("*.py"))], 600)


def library(learned: Learned, texts: list[bytes]) -> list[int]:
    """The `tokenizers` library's own ids, text by text."""
    found = ([*learned.tokenizer.encode(text.decode(), add_special_tokens=False).ids, learned.end] for text in texts)
    return [number for ids in found for number in ids]


def saved(learned: Learned, folder: Path) -> Path:
    learned.save(folder)
    return folder / "tokenizer.json"


BLANKS = [" ", "\n", "\t\r\n", "  ", "\u00a0", "\u2003", "\x1c", "\x85", "\x00", "\x0b", "\u180e", "\u200b"]
OTHERS = ["don't", "'ll", "'S", "x1", "((", "é", "漢字", "²", "😀", "e\u0301", "\u0966", END_WORD]
WORDS = st.sampled_from([*BLANKS, *OTHERS])


@given(texts=st.lists(st.one_of(st.text(), st.lists(WORDS).map("".join)), max_size=5))
def test_words_that_are_remembered_give_the_librarys_ids(bpe: Learned, texts: list[str]) -> None:
    encoded = [text.encode() for text in texts]
    assert bpe.encode(encoded).tolist() == library(bpe, encoded)


def test_every_character_next_to_blanks_gives_the_librarys_ids(bpe: Learned) -> None:
    characters = [chr(code) for code in [*range(0x3100), *range(0xFE00, 0x10000)]]
    for first in range(0, len(characters), 64):
        texts = [f"a{c} b {c}c {c} \n{c}{c}'s".encode() for c in characters[first : first + 64]]
        assert bpe.encode(texts).tolist() == library(bpe, texts)


def test_real_text_gives_the_librarys_ids_also_when_words_are_forgotten(bpe: Learned) -> None:
    texts = [path.read_bytes() for path in sorted((LIBRARY / "email").glob("*.py"))]
    expected = library(bpe, texts)
    assert bpe.encode(texts).tolist() == expected
    forgetful = Learned(bpe.tokenizer, bpe.end, cache_bytes=1000)
    assert [number for text in texts for number in forgetful.encode([text]).tolist()] == expected
    assert forgetful.by_word
    assert len(forgetful.by_word.words) + len(forgetful.by_word.words.before) < 10


@given(text=st.text())
def test_a_bpe_never_fails_and_loses_nothing(bpe: Learned, text: str) -> None:
    ids = bpe.encode([text.encode()])
    assert ids[-1] == bpe.end == bpe.vocab_size - 1
    assert ids.max(initial=0) < bpe.vocab_size
    assert bpe.tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) == text


def test_a_bpe_has_the_tokens_asked_for_and_is_the_same_again(bpe: Learned) -> None:
    texts = [path.read_bytes() for path in sorted((LIBRARY / "json").glob("*.py"))]
    assert bpe.vocab_size == 600
    assert train_bpe(texts, 600).tokenizer.to_str() == bpe.tokenizer.to_str()
    assert train_bpe([b"few"], 600).vocab_size < 600


def test_a_text_that_spells_the_end_of_text_is_text(bpe: Learned) -> None:
    ids = bpe.encode([f"a{END_WORD}b".encode()]).tolist()
    assert ids.count(bpe.end) == 1
    assert ids[-1] == bpe.end


@pytest.mark.parametrize(("size", "dtype"), [(257, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (200_000, "uint32")])
def test_ids_are_as_narrow_as_the_vocabulary_allows(size: int, dtype: str, tmp_path: Path) -> None:
    assert dtype_of(size) == dtype
    assert np.iinfo(dtype).max >= size - 1
    vocab = {chr(ord("a") + n): n for n in range(3)} | {END_WORD: size - 1}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=END_WORD))
    tokenizer.save(str(tmp_path / "t.json"))
    learned = read_tokenizer(tmp_path / "t.json", None)
    assert learned.vocab_size == size
    assert learned.encode([b"c"]).tolist() == [2, size - 1]
    assert learned.encode([b"c"]).dtype == dtype


def test_bytes_are_bytes() -> None:
    assert Bytes().encode([b"ab", b"\xff"]).tolist() == [97, 98, 256, 255, 256]
    assert Bytes().encode([]).dtype == np.uint16


def make(kind: str, bpe: Learned, folder: Path) -> Path:
    """A tokenizer.json that cuts text in another way than ours."""
    tokenizer = Tokenizer.from_str(bpe.tokenizer.to_str())
    if kind == "spaces before":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "metaspace":
        tokenizer.model.unk_token = "!"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    elif kind == "words of its own":
        tokenizer.add_tokens([AddedToken("def f"), AddedToken("x y")])
    elif kind == "truncates":
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "other.json"))
    return folder / "other.json"


@pytest.mark.parametrize("kind", ["the same", "spaces before", "metaspace", "words of its own", "truncates"])
def test_a_file_gives_the_librarys_ids_whatever_its_rules(kind: str, bpe: Learned, tmp_path: Path) -> None:
    path = make(kind, bpe, tmp_path)
    texts = [b"def f(x y):\n    return 'x'  # don't  \n", "é x y".encode(), b""]
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    learned = read_tokenizer(path, None)
    expected = [[*tokenizer.encode(text.decode(), add_special_tokens=False).ids, learned.end] for text in texts]
    assert learned.encode(texts).tolist() == [number for ids in expected for number in ids]


@pytest.mark.parametrize("kind", ["the same", "words of its own"])
def test_the_bytes_of_tokens_add_up_to_the_text(kind: str, bpe: Learned, tmp_path: Path) -> None:
    learned = read_tokenizer(make(kind, bpe, tmp_path), None)
    for text in ("def f(x y):\n    return 'x'  # don't  \n", "é x y 漢字 😀\x00", f"a{END_WORD}b"):
        assert learned.token_bytes[learned.encode([text.encode()])].sum() == len(text.encode())
    for number in range(256):
        letter = sorted(pre_tokenizers.ByteLevel.alphabet())[number]
        assert learned.token_bytes[learned.tokenizer.token_to_id(letter)] == 1


def test_only_the_ends_of_documents_are_followed_by_end_of_text(bpe: Learned) -> None:
    for encoder in (Bytes(), bpe):
        texts, ends = [b"one", b"two", b"three"], [False, True, False]
        ids = [encoder.encode([text], [end]).tolist() for text, end in zip(texts, ends, strict=True)]
        assert encoder.encode(texts, ends).tolist() == ids[0] + ids[1] + ids[2]
        assert [one[-1] == encoder.end for one in ids] == ends


def test_a_tokenizer_that_loses_text_or_is_random_is_refused(bpe: Learned, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "</s>": 2}, []))
    tokenizer.save(str(path))
    assert read_tokenizer(path, None).encode([b"abba"]).tolist() == [0, 1, 1, 0, 2]
    with pytest.raises(UserError, match="has no token for 'c', and would drop it; expected an unk_token"):
        read_tokenizer(path, None).encode([b"abc"])
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(path))
    with pytest.raises(UserError, match=r"t\.json has dropout 0\.5, so that a text's tokens are random"):
        read_tokenizer(path, None)
    Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="<unk>")).save(str(path))
    with pytest.raises(UserError, match=r"cannot make tokens of the text: WordLevel error: Missing \[UNK\]"):
        read_tokenizer(path, None).encode([b"b"])


def test_a_saved_tokenizer_is_read_again_and_a_file_is_copied_unchanged(bpe: Learned, tmp_path: Path) -> None:
    path = saved(bpe, tmp_path)
    again = read_tokenizer(path, None)
    assert (again.end, again.vocab_size) == (bpe.end, bpe.vocab_size)
    assert again.encode([b"some text"]).tolist() == bpe.encode([b"some text"]).tolist()
    (tmp_path / "copy").mkdir()
    assert saved(again, tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_file_that_is_no_tokenizer_is_one_line(bpe: Learned, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, expected in {"{": "holds no tokenizer", json.dumps({"a": 1}): "holds no tokenizer"}.items():
        path.write_text(content)
        with pytest.raises(UserError, match=expected) as error:
            read_tokenizer(path, None)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        read_tokenizer(tmp_path / "none.json", None)
    Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a")).save(str(path))
    with pytest.raises(UserError, match=r"has none of the tokens .*; name one with end_of_text"):
        read_tokenizer(path, None)
    with pytest.raises(UserError, match="end_of_text: '<fin>' is no token of"):
        read_tokenizer(path, "<fin>")
    assert read_tokenizer(path, "<end>").end == 1
