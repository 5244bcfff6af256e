"""How many tokens a source may have, as the files beside it say."""

import json

import pytest
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.sources import DataConfig
from lpanas.lpa.tokenizer import read_tokenizer
from lpanas.search.caveats import vocabulary
from tokenizers import Tokenizer, models


def test_bytes_are_257_tokens_and_a_bpe_as_many_as_it_was_asked_for():
    assert vocabulary(DataConfig()) == 256 + 1
    assert vocabulary(DataConfig(tokenizer="bpe", vocab_size=5000)) == 5000


def test_shards_have_what_they_are_read_with(tmp_path, pages):
    shards = open_shards(pages.change(tokenizer="bpe", vocab_size=300))
    assert vocabulary(DataConfig(source="shards", shards=str(shards.folder))) == shards.vocab_size
    (tmp_path / "meta.json").write_text("{}")  # of the first version: bytes
    assert vocabulary(DataConfig(source="shards", shards=str(tmp_path))) == 257


@pytest.mark.parametrize(
    "model",
    [models.BPE({"a": 0, "b": 1}, []), models.Unigram([("a", -1.0), ("b", -2.0)], None), models.WordLevel({"a": 7}, "a")],
)
def test_a_tokenizer_file_has_what_the_tokenizers_library_reads(tmp_path, model):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["</s>"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert vocabulary(DataConfig(tokenizer=str(path))) == max(tokenizer.get_vocab().values()) + 1
    assert vocabulary(DataConfig(tokenizer=str(path))) == read_tokenizer(path, "</s>").vocab_size


@pytest.mark.parametrize("text", ["[]", "{", "{}", json.dumps({"model": {"vocab": 3}}), json.dumps({"model": {"vocab": {}}})])
def test_what_is_no_tokenizer_is_not_known(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    assert vocabulary(DataConfig(tokenizer=str(tmp_path / "tokenizer.json"))) is None
    assert vocabulary(DataConfig(tokenizer=str(tmp_path / "none.json"))) is None
