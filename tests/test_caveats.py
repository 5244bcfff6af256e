"""What an export says that does not hold of its target, and how many tokens a source may have."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lpanas.lpa.model import Decoder
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.sources import DataConfig
from lpanas.lpa.tokenizer import read_tokenizer
from lpanas.search.caveats import vocabulary
from lpanas.search.export import export
from lpanas.search.presets import load_config
from lpanas.search.results import Results
from making import arm_records, tiny_space
from tokenizers import Tokenizer, models

PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"


def params_of(path):
    """Of a config's model, built."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(load_config(path).model).parameters())


def test_a_run_above_the_limits_of_the_space_is_said_to_be(tmp_path):
    space = tiny_space("limits={params: 0.8 x dense}")
    found = Results(space, arm_records(space, 3.0, 3.1, 3.2, 3.3), [])
    heads = [export(found, record, tmp_path).path.read_text() for record in found.records]
    assert ["Above the limits of the space: params." in head for head in heads] == [not one.feasible for one in found.records]
    assert {one.feasible for one in found.records} == {True, False}


def test_relative_limits_are_checked_at_a_named_shape_too(tmp_path):
    space = tiny_space("limits={params: 0.97 x dense, memory_bytes: 1e9}")
    found = Results(space, arm_records(space, 3.0, 3.1, 3.2, 3.3), [])
    said = set()
    for record in found.records:
        done = export(found, record, tmp_path, "llama-20m")
        above = params_of(done.path) > 0.97 * params_of(done.dense)
        head = " ".join(line.strip("# ") for line in done.path.read_text().splitlines())
        assert ("Above the limits of the space at llama-20m: params." in head) == above
        said.add(above)
    assert said == {True, False}


def test_a_vocabulary_that_the_text_does_not_use_is_said(tmp_path, call):
    shutil.copytree(PROSE, tmp_path / "prose")  # bytes, 257 tokens, and a target with 32,000
    said = " ".join(call("export", tmp_path / "prose")[1].split())
    unused = 2 * (32_000 - 257) * 768
    line = f"The data's tokenizer has 257 tokens, the model's vocab_size is 32,000: {unused:,} of the parameters"
    assert line in said
    head = " ".join(one.strip("# ") for one in (tmp_path / "prose/export/target/train.yaml").read_text().splitlines())
    assert line in head
    space = tiny_space()
    found = Results(space, arm_records(space, 3.0), [])
    export(found, found.records[0], tmp_path)
    assert "never occur" not in (tmp_path / "export/target/train.yaml").read_text()  # 257 of 264


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
