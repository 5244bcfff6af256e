import ast
import json
import math
import re
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from lpanas.lpa import checkpoint, hf
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.data import Batches, DataConfig
from lpanas.lpa.hf_tokenizer import bytes_tokenizer, hf_tokenizer
from lpanas.lpa.model import Decoder, ModelConfig, build
from lpanas.lpa.prepare import open_shards, prepare
from lpanas.lpa.tokenizer import Bytes, Learned, read_tokenizer
from lpanas.lpa.train import TrainConfig, train
from lpanas.search.hf_export import export_checkpoint, export_config
from lpanas.search.presets import load_space, presets
from making import Call
from safetensors.torch import load_file

SHAPE: dict[str, object] = {
    "vocab_size": 257,
    "d_model": 32,
    "d_ff": 48,
    "n_layers": 3,
    "n_heads": 4,
    "context": 32,
    "rank_multiple": 1,
}
PLACED = {"placement": "0 attention=1/4; 1 q=1/8 down=1/4; 2 dense"}
LOW_RANK: dict[str, dict[str, object]] = {
    "bands": PLACED,
    "silu, tied": {"placement": "both=1/8", "factor_activation": "silu", "tie_embeddings": True},
    "grouped heads": {"placement": "k,up=1/8", "n_kv_heads": 2, "rope_theta": 500.0, "norm_eps": 1e-4},
    "heads of another width": {"placement": "both=1/8", "head_dim": 16, "n_heads": 3},
    "head with a bias": {"head_bias": True},
}
DENSE: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped, tied": {"n_kv_heads": 1, "tie_embeddings": True, "rope_theta": 500.0},
}
CPU = torch.device("cpu")
TEXT = "héllo <|endoftext|> the cat  sat\n\n on 'it' 日本 \x00\x7f"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """transformers, without a network and with a folder of its own for the code of models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lpanas[hf]'")
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        patch.setattr("sys.path", [*sys.path])
        patch.setattr(socket.socket, "connect", _no_network)
        yield transformers


def _no_network(*_: object) -> None:
    raise AssertionError("something asked the network")


def model(fields: dict[str, object]) -> Decoder:
    return build(ModelConfig.parse(SHAPE | fields, "model"), CPU, 1)


def written(fields: dict[str, object], folder: Path, merge: bool = False) -> Decoder:
    """A model whose folder has been written; returns ours."""
    ours = model(fields)
    config, weights = ours.config, hf.model_weights(ours.config, ours.state_dict(), "here")
    if merge:
        config, weights = hf.merged(config, weights)
    hf.write_folder(folder, config, bytes_tokenizer(), weights)
    return ours


def tokens(batch: int = 3, time: int = 20) -> torch.Tensor:
    return torch.randint(0, 257, (batch, time), generator=torch.Generator().manual_seed(5))


def greedy(ours: Decoder, begin: torch.Tensor, count: int) -> torch.Tensor:
    """The whole sequence anew for every token."""
    for _ in range(count):
        begin = torch.cat((begin, ours(begin)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return begin


@pytest.fixture(scope="module")
def trained(pages: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a low-rank training of 40 steps."""
    folder = tmp_path_factory.mktemp("training")
    shape = ModelConfig.parse(SHAPE | PLACED, "model")
    raw = {"tokens": 5120, "batch_size": 4, "device": "cpu", "optim": {"lr": 1e-2}}
    config = TrainConfig.parse(raw | {"model": shape.model_dump(mode="json"), "data": pages.model_dump(mode="json")}, "train")
    for _ in train(config, open_shards(pages), folder):
        pass
    return folder


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", LOW_RANK)
def test_a_low_rank_folder_gives_our_logits(hub: Any, kind: str, attention: str, tmp_path: Path) -> None:
    ours = written(LOW_RANK[kind], tmp_path / "hf")
    with pytest.raises(ValueError, match="trust_remote_code"):
        hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    load = {"trust_remote_code": True, "attn_implementation": attention}
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", **load)
    inner = hub.AutoModel.from_pretrained(tmp_path / "hf", **load)
    with torch.no_grad():
        expected, found = ours(tokens()), theirs(tokens()).logits
        hidden = inner(tokens()).last_hidden_state
    assert type(theirs).__name__ == "LowRankLlamaForCausalLM"
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.head(hidden), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_folder_is_transformers_own_llama_and_gives_our_logits(hub: Any, kind: str, tmp_path: Path) -> None:
    ours = written(DENSE[kind], tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    assert type(theirs) is hub.LlamaForCausalLM
    assert not list((tmp_path / "hf").glob("*.py"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=2e-5)


def test_merged_factors_are_a_plain_llama_with_the_same_logits(hub: Any, tmp_path: Path) -> None:
    ours = written(PLACED, tmp_path / "merged", merge=True)
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", trust_remote_code=False)
    assert type(theirs) is hub.LlamaForCausalLM
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=2e-5)


def test_the_config_says_the_placement_and_the_ranks(hub: Any, tmp_path: Path) -> None:
    written(PLACED | {"rope_theta": 500.0}, tmp_path / "hf")
    config = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert config.placement == "0 q,k,v,o=1/4; 1 q=1/8 down=1/4; 2 dense"
    assert config.ranks == [{"q": 8, "k": 8, "v": 8, "o": 8}, {"q": 4, "down": 8}, {}]
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500.0}
    assert (config.num_key_value_heads, config.head_dim, config.dtype, config.eos_token_id) == (4, 8, torch.float32, 256)


@pytest.mark.parametrize(
    "change", [{"ranks": [{}]}, {"ranks": [{"w": 4}, {}, {}]}, {"init": "zero"}, {"ranks": [{"q": "4"}, {}, {}]}]
)
def test_a_config_that_was_spoilt_is_refused(hub: Any, change: dict[str, object], tmp_path: Path) -> None:
    written(PLACED, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Exception, match=next(iter(change))):
        hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModel"])
@pytest.mark.parametrize(
    ("init", "attention", "product"), [("matched", 1.0, 1.0), ("scaled", 3**-0.5, 1.0), ("lpa", 1 / 3, 1 / 3)]
)
def test_without_weights_products_start_at_the_rules_std(
    hub: Any, kind: str, init: str, attention: float, product: float, tmp_path: Path
) -> None:
    wide = {"d_model": 192, "d_ff": 256, "n_layers": 2, "placement": "0 both=1/4; 1 dense", "init": init}
    config = ModelConfig.parse(SHAPE | wide, "model")
    hf.write_folder(tmp_path / "hf", config, None, None)
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = getattr(hub, kind).from_config(read, trust_remote_code=True)
    layers = (made.model if kind != "AutoModel" else made).layers
    depth = 1 if init == "lpa" else 1 / math.sqrt(2 * 2)
    for name, d_in, ends, share in (
        ("self_attn.q_proj", 192, 1, attention),
        ("self_attn.o_proj", 192, depth, attention),
        ("mlp.up_proj", 192, 1, product),
        ("mlp.down_proj", 256, depth, product),
    ):
        factors, dense = layers[0].get_submodule(name), layers[1].get_submodule(name)
        with torch.no_grad():
            found = (factors.b.weight @ factors.a.weight).std().item()
        assert found == pytest.approx(share * ends / math.sqrt(d_in), rel=0.06)
        assert dense.weight.std().item() == pytest.approx(
            (3**-0.5 if init == "lpa" else share * ends) / math.sqrt(d_in), rel=0.03
        )
    if kind != "AutoModel":
        assert made.lm_head.weight.std().item() == pytest.approx((3**-0.5 if init == "lpa" else 1) / math.sqrt(192), rel=0.03)


def test_with_a_silu_between_its_factors_a_layer_starts_at_the_dense_scale(hub: Any, tmp_path: Path) -> None:
    wide = {"d_model": 192, "n_layers": 2, "placement": "both=1/4", "d_ff": 512, "factor_activation": "silu"}
    hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | wide, "model"), None, None)
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True)
    with torch.no_grad():
        outputs = made.model.layers[1].mlp.up_proj(torch.randn(512, 192))
    assert outputs.std().item() == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", ["bands", "grouped heads", "silu, tied"])
def test_greedy_generation_is_our_own(hub: Any, kind: str, cached: bool, tmp_path: Path) -> None:
    ours = written(LOW_RANK[kind], tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    begin = tokens(2, 6)
    options = {"do_sample": False, "use_cache": cached, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found = theirs.generate(begin, attention_mask=torch.ones_like(begin), max_new_tokens=12, **options)
        assert torch.equal(found, greedy(ours, begin, 12))


def test_rows_filled_up_on_the_left_generate_what_they_do_alone(hub: Any, tmp_path: Path) -> None:
    written(PLACED, tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    alone = tokens(1, 5)
    filled = torch.cat((torch.full((1, 3), 256), alone), dim=1)
    both = torch.cat((filled, tokens(1, 8)))
    mask = torch.ones_like(both)
    mask[0, :3] = 0
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 256}
    expected = theirs.generate(alone, attention_mask=torch.ones_like(alone), **options)[0, 5:]
    assert torch.equal(theirs.generate(both, attention_mask=mask, **options)[0, 8:], expected)


@pytest.mark.parametrize("kind", ["bands", "silu, tied"])
def test_what_transformers_saves_loads_with_the_same_logits(hub: Any, kind: str, tmp_path: Path) -> None:
    written(LOW_RANK[kind], tmp_path / "hf")
    first = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    first.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_lowrank_llama.py").exists()
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(load_file(tmp_path / "hf" / "model.safetensors"))
    second = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(first(tokens()).logits, second(tokens()).logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_lowers_the_loss(hub: Any, checkpointing: bool, pages: DataConfig, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lpanas[hf]'")
    hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | PLACED, "model"), bytes_tokenizer(), None)
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True)
    rows = Batches(open_shards(pages).split("train"), 32, 160, 0)(0)[0]
    options = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1}
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    arguments = hub.TrainingArguments(tmp_path / "out", **options, **quiet)
    if checkpointing:  # by its name from 5.24 on, or before
        (getattr(made, "activation_checkpointing_enable", None) or made.gradient_checkpointing_enable)()
    calls: list[int] = []
    made.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    trainer = hub.Trainer(made, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 20
    assert len(calls) == (40 if checkpointing else 20)
    assert sum(losses[-3:]) / 3 < losses[0] - 0.5


def test_a_checkpoints_folder_gives_the_trained_models_logits(hub: Any, call: Call, trained: Path, tmp_path: Path) -> None:
    ours = build(ModelConfig.parse(SHAPE | PLACED, "model"), CPU, 0)
    ours.load_state_dict(checkpoint.weights(trained / "checkpoint.pt"))
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


@pytest.mark.filterwarnings("ignore")  # of lm_eval and what it brings along
def test_the_evaluation_harness_finds_our_log_likelihoods(hub: Any, trained: Path, tmp_path: Path) -> None:
    reason = "lm-evaluation-harness is not installed, being too large for every run: pip install lm_eval"
    models = pytest.importorskip("lm_eval.models.huggingface", reason=reason)
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason).Instance
    export_checkpoint(trained, tmp_path / "hf", False, print)
    harness = models.HFLM(pretrained=str(tmp_path / "hf"), trust_remote_code=True, device="cpu", dtype="float32", batch_size=2)
    ours = build(ModelConfig.parse(SHAPE | PLACED, "model"), CPU, 0)
    ours.load_state_dict(checkpoint.weights(trained / "checkpoint.pt"))
    pairs = [("page 7 says:", " the cat"), ("the", " mat. the"), ("sat on", " 日本")]
    found = harness.loglikelihood([instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True)
    for (before, after), (value, is_greedy) in zip(pairs, found, strict=True):
        ids = torch.tensor([[*f"{before}{after}".encode()]])
        count = len(after.encode())
        with torch.no_grad():
            logs = ours(ids[:, :-1]).log_softmax(-1)[:, -count:]
        expected = logs.gather(-1, ids[:, -count:, None]).sum().item()
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert is_greedy == torch.equal(logs.argmax(-1), ids[:, -count:])
    text = "page 9 says: the cat sat"  # begins after an end-of-text token, as a document does in training
    rolling = harness.loglikelihood_rolling([instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    ids = torch.tensor([[256, *text.encode()]])
    with torch.no_grad():
        logs = ours(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])
    assert rolling[0] == pytest.approx(logs.sum().item(), rel=1e-5)


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
    assert hub.AutoConfig.from_pretrained(folder).eos_token_id is None


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
        ((tmp_path, "--to", "hg"), "--to: unknown form 'hg', known: native, hf"),
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


def test_the_modeling_file_needs_torch_and_transformers_alone() -> None:
    source = Path(hf.__file__).with_name("modeling_lowrank_llama.py").read_text()
    roots = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
    assert roots == {"math", "typing", "torch", "transformers", "huggingface_hub"}  # the last comes with transformers
