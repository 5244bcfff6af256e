import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import LOW_RANK, PLACED, SHAPE, greedy, model, tokens, trained_in, trained_model, written
from lpanas.lpa import hf
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.hf_tokenizer import bytes_tokenizer, hf_tokenizer
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards, prepare
from lpanas.lpa.tokenizer import Bytes, Learned, read_tokenizer
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.hf_export import export_checkpoint, export_config
from lpanas.search.presets import load_space, presets
from making import Call
from safetensors.torch import load_file

TEXT = "héllo <|endoftext|> the cat  sat\n\n on 'it' 日本 \x00\x7f"


@pytest.fixture(scope="module")
def trained(pages: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a low-rank training of 40 steps."""
    folder = tmp_path_factory.mktemp("training")
    trained_in(folder, pages)
    return folder


def test_a_checkpoints_folder_gives_the_trained_models_logits(hub: Any, call: Call, trained: Path, tmp_path: Path) -> None:
    ours = trained_model(trained)
    code, shown, _ = call("export", "--checkpoint", trained, "--to", "hf")
    assert (code, shown.replace("\n", "")) == (0, str(trained / "hf"))
    assert call("export", "--checkpoint", trained / "checkpoint.pt", "--to", "hf", "--merge", "--out", tmp_path / "m")[0] == 0
    for folder, low_rank in ((trained / "hf", True), (tmp_path / "m", False)):
        theirs = hub.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=low_rank)
        with torch.no_grad():
            torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=5e-5)
    tokenizer = hub.AutoTokenizer.from_pretrained(trained / "hf", trust_remote_code=True)
    begin = tokenizer("page 7 says: the c", return_tensors="pt")
    loaded = hub.AutoModelForCausalLM.from_pretrained(trained / "hf", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(loaded.generate(**begin, max_new_tokens=8, do_sample=False), greedy(ours, begin["input_ids"], 8))


@pytest.mark.parametrize("preset", [name for name in presets() if name != "lpa-370m"])  # which is no Llama
def test_the_target_of_every_preset_has_our_number_of_parameters(hub: Any, preset: str, tmp_path: Path) -> None:
    space = load_space(preset)
    for arm in ("dense", "both"):
        config = space.arm(arm).target
        hf.write_folder(tmp_path / arm, config, None, None)
        with torch.device("meta"):
            read = hub.AutoConfig.from_pretrained(tmp_path / arm, trust_remote_code=True)
            theirs = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True)
            ours = Decoder(config)
        assert sum(one.numel() for one in theirs.parameters()) == sum(one.numel() for one in ours.parameters())


def test_a_config_is_exported_beside_it_without_weights(hub: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text((trained / "config.yaml").read_text())
    lines: list[str] = []
    folder = export_config(tmp_path / "train.yaml", lines.append)
    assert (folder, lines) == (tmp_path / "hf", [])
    assert not (folder / "model.safetensors").exists()
    assert hub.AutoConfig.from_pretrained(folder, trust_remote_code=True).num_hidden_layers == 3


def byte_tokenizer(folder: Path) -> DataConfig:
    return DataConfig()


def trained_bpe(folder: Path) -> DataConfig:
    (folder / "a.txt").write_text("the cat sat on the mat. " * 50)
    return DataConfig(source="text", text=(f"{folder}/*.txt",), tokenizer="bpe", vocab_size=270)


def prepared_bpe(folder: Path) -> DataConfig:
    prepare(trained_bpe(folder), folder / "shards")
    return DataConfig(source="shards", shards=str(folder / "shards"))


def given_file(folder: Path) -> DataConfig:
    """One that puts a beginning-of-text token before each text, cuts and fills up."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)} | {"th": 256}, [("t", "h")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    ids = made.get_vocab()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.save(str(folder / "tokenizer.json"))
    return DataConfig(tokenizer=str(folder / "tokenizer.json"))


@pytest.mark.parametrize("source", [byte_tokenizer, trained_bpe, prepared_bpe, given_file])
@pytest.mark.parametrize("fields", [{}, PLACED])
def test_the_tokenizer_encodes_and_decodes_as_ours(hub: Any, source: Any, fields: dict[str, object], tmp_path: Path) -> None:
    data = source(tmp_path)
    if data.tokenizer == "bytes" and data.source == "stdlib":
        encoder: Bytes | Learned = Bytes()
    elif source is given_file:
        encoder = read_tokenizer(tmp_path / "tokenizer.json", None)
    else:
        shards = Path(data.shards) if data.shards else open_shards(data).folder
        encoder = read_tokenizer(shards / "tokenizer.json", None)
    found = hf_tokenizer(data)
    assert found is not None
    hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | fields | {"vocab_size": 300}, "model"), found, None)
    theirs = hub.AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=bool(fields))
    assert theirs(TEXT)["input_ids"] == encoder.encode([TEXT.encode()], [False]).tolist()
    assert theirs.decode(theirs(TEXT)["input_ids"]) == TEXT
    assert theirs.eos_token_id == encoder.end
    assert theirs.model_max_length == 32
    generation = hub.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (generation.eos_token_id, generation.pad_token_id) == (encoder.end, encoder.end)
    theirs.save_pretrained(tmp_path / "again")
    again = hub.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]


def test_shards_without_a_tokenizer_are_said_to_have_none(hub: Any, trained: Path, tmp_path: Path) -> None:
    shards = prepare(trained_bpe(tmp_path), tmp_path / "shards")
    (shards.folder / "tokenizer.json").unlink()
    raw = DataConfig(source="shards", shards=str(shards.folder))
    model_config = ModelConfig.parse(SHAPE | {"vocab_size": 270}, "model")
    config = TrainConfig.parse(
        {"model": model_config.model_dump(mode="json"), "data": raw.model_dump(mode="json"), "optim": {"lr": 1e-2}}
        | {"tokens": 128, "batch_size": 4},
        "train",
    )
    (tmp_path / "train.yaml").write_text(dump_yaml(config))
    lines: list[str] = []
    folder = export_config(tmp_path / "train.yaml", lines.append)
    assert len(lines) == 1
    assert "no tokenizer.json in" in lines[0]
    assert not list(folder.glob("tokenizer*"))
    assert hub.AutoConfig.from_pretrained(folder, trust_remote_code=True).eos_token_id is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"bias": True}, "hf: model.bias: true is not in Hugging Face's Llama; expected false"),
        ({"positions": "learned"}, "hf: model.positions: learned is not in Hugging Face's Llama; expected rotary"),
        ({"ffn": "relu"}, "hf: model.ffn: relu is not in Hugging Face's Llama; expected swiglu"),
        ({"norm": "layer_after"}, "hf: model.norm: layer_after is not in Hugging Face's Llama; expected rms_before"),
        ({"dropout": 0.1}, "hf: model.dropout: 0.1 is not in Hugging Face's Llama; expected 0"),
        ({"vocab_size": 200}, "hf: model.vocab_size: 200 is less than the tokenizer's 257 tokens"),
    ],
)
def test_what_is_no_llama_is_refused_in_a_line(fields: dict[str, object], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | fields, "model"), bytes_tokenizer(), None)
    assert not list(tmp_path.iterdir())


def test_factors_with_a_silu_between_them_are_not_merged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--merge: with model\.factor_activation silu a product of factors is no matrix$"):
        written(LOW_RANK["silu, tied"], tmp_path / "hf", merge=True)
    assert not list(tmp_path.iterdir())


def test_words_that_do_not_go_together_are_refused_in_a_line(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"no checkpoint")
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    for words, line in (
        ((), "export: expected a study's folder, or --checkpoint"),
        ((tmp_path, "--to", "hg"), "--to: unknown form 'hg', known: native, hf, llamafactory, axolotl, torchtitan"),
        ((tmp_path, "--merge"), "--merge: only goes with --checkpoint"),
        ((tmp_path, "--checkpoint", trained, "--to", "hf"), "expected no study's folder beside it"),
        (("--checkpoint", trained, "--to", "hf", "--target", "llama-9m"), "--target: does not go with --checkpoint"),
        (("--checkpoint", trained), "expected --to hf, found --to native"),
        (("--checkpoint", tmp_path, "--to", "hf"), "no such file (expected a checkpoint.pt"),
        (("--checkpoint", tmp_path / "other", "--to", "hf"), "not a checkpoint that can be read"),
        (("--checkpoint", trained, "--to", "hf", "--out", trained), "holds 'checkpoint.pt'; expected a new or empty folder"),
    ):
        code, _, error = call("export", *words)
        assert code == 2
        assert line in error.replace("\n", " ")
        assert error.count("\n") == 1


def test_weights_are_not_lost_to_a_folder_without_and_replaced_by_others(tmp_path: Path) -> None:
    written(PLACED, tmp_path / "hf")
    with pytest.raises(UserError, match=r"holds model\.safetensors, which would be lost"):
        hf.write_folder(tmp_path / "hf", model(PLACED).config, bytes_tokenizer(), None)
    written({}, tmp_path / "hf")
    assert "model.layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "hf" / "model.safetensors")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted(
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    )


def test_a_checkpoint_of_another_model_is_refused_with_the_tensor(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    text = (trained / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("q,k,v,o=1/4", "q,k,v,o=1/8"))
    with pytest.raises(UserError, match=r"blocks\.0\.attention\.q\.a\.weight: expected \[4, 32\], found \[8, 32\]"):
        export_checkpoint(tmp_path, None, False, print)
