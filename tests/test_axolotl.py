import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from consumer import STAND_IN, consume
from hf_folders import DOCUMENTS, OPTIM, OTHER, RECIPE_SHAPE, our_spreads, product_ratios, recipe
from lpanas.lpa.model import build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import optimizer
from lpanas.lpa.train_config import TrainConfig
from lpanas.lpa.weights import hf_name
from lpanas.search.axolotl import write

SCRIPT = """
import json, os, sys
os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
os.chdir(sys.argv[1])
stand_in("numba", njit=lambda function: function)  # which makes the same function faster
four_bit, quantized = type("Params4bit", (), {}), type("QuantState", (), {})
inner = {"nn": stand_in("bitsandbytes.nn", Params4bit=four_bit, Linear4bit=four_bit)}
stand_in("bitsandbytes", functional=stand_in("bitsandbytes.functional", QuantState=quantized), **inner)
from pydantic import ValidationError
from axolotl.cli.config import load_cfg

read, misspelt = load_cfg("axolotl.yaml", dataset_num_proc=1), load_cfg("misspelt.yaml")
os.chdir("other")
other = load_cfg("axolotl.yaml")
os.chdir("..")
try:
    refused = load_cfg("wrong.yaml") and ""
except ValidationError as error:
    refused = str(error)

from types import SimpleNamespace
from axolotl.cli.args import TrainerCliArgs
from axolotl.common.datasets import load_datasets
from axolotl.core.trainers.mixins.optimizer import OptimizerMixin
from axolotl.loaders import ModelLoader, load_tokenizer
from transformers import Trainer

model, _ = ModelLoader(read, load_tokenizer(read)).load()
spreads = {name: one.std().item() for name, one in model.named_parameters() if one.ndim == 2}
names = {one: name for name, one in model.named_parameters()}
trainer = SimpleNamespace(args=read, get_decay_parameter_names=lambda model: Trainer.get_decay_parameter_names(None, model))
groups = OptimizerMixin.create_optimizer_grouped_parameters(trainer, model, {"lr": read.learning_rate})
rates = {names[one]: [group["lr"], group["weight_decay"]] for group in groups for one in group["params"]}
os.chdir("dense")
twin, _ = ModelLoader(load_cfg("axolotl.yaml"), load_tokenizer(read)).load()
os.chdir("..")
twin = {name: one.std().item() for name, one in twin.named_parameters() if one.ndim == 2}
rows = load_datasets(cfg=read, cli_args=TrainerCliArgs()).train_dataset["input_ids"]
built = {"spreads": spreads, "dtypes": sorted({str(one.dtype) for one in model.parameters()}), "rates": rates}
built["params"] = sum(one.numel() for one in model.parameters())
said = [[read.to_dict(), other.to_dict()], "warmup_stepz" in misspelt, refused, built, [list(row) for row in rows], twin]
print("\\n" + json.dumps(said, default=str))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig]:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "text").mkdir()
    for name in ("notes.txt", ".hidden.jsonl"):  # beside the text, and not of it
        (folder / "text" / name).write_text("mine")
    return folder, recipe(folder, "axolotl")


@pytest.fixture(scope="module")
def read(config: tuple[Path, TrainConfig]) -> list[Any]:
    """What axolotl has read and built."""
    folder, _ = config
    text = (folder / "axolotl.yaml").read_text()
    recipe(folder / "other", "axolotl", **OTHER)
    recipe(folder / "dense", "axolotl", model=RECIPE_SHAPE)
    (folder / "misspelt.yaml").write_text(text.replace("warmup_steps", "warmup_stepz"))
    (folder / "wrong.yaml").write_text(text.replace("sequence_len: 48", "sequence_len: many"))
    return json.loads(consume("axolotl", STAND_IN + SCRIPT, folder).splitlines()[-1])


def test_axolotl_reads_every_key_as_it_is_meant(config: tuple[Path, TrainConfig], read: list[Any]) -> None:
    folder, ours = config
    said, other = read[0]
    for found, place in ((said, folder), (other, folder / "other")):
        keys = yaml.safe_load((place / "axolotl.yaml").read_text())
        (wanted,), (dataset,) = keys.pop("datasets"), found["datasets"]
        assert {key: dataset[key] for key in wanted} == wanted
        assert {key: found.get(key) for key in keys} == keys
    assert (other["learning_rate"], other["max_grad_norm"], other["bf16"], "lr_groups" in other) == (3e-3, 0, False, False)
    optim = ours.optim
    assert (said["adam_beta1"], said["adam_beta2"], said["adam_epsilon"]) == (optim.beta1, optim.beta2, optim.eps)
    assert (said["weight_decay"], said["max_grad_norm"], said["seed"]) == (optim.weight_decay, optim.clip, ours.seed)
    assert (said["sequence_len"], said["max_steps"], said["bf16"]) == (ours.model.context, ours.steps, True)
    assert said["micro_batch_size"] * said["gradient_accumulation_steps"] == ours.batch_size


def test_axolotl_drops_a_key_that_it_does_not_know_and_refuses_a_wrong_value(read: list[Any]) -> None:
    assert not read[1]
    assert "sequence_len" in read[2]


def test_axolotl_builds_our_model_from_scratch(config: tuple[Path, TrainConfig], read: list[Any]) -> None:
    model, built = config[1].model, read[3]
    assert built["params"] == sum(one.numel() for one in build(model, torch.device("cpu"), 0).parameters())
    assert built["dtypes"] == ["torch.float32"]
    ratios = product_ratios(built["spreads"], model)
    assert len(ratios) == 6
    assert ratios == pytest.approx([1] * 6, rel=0.15)


def test_axolotl_starts_the_dense_twin_by_our_rules_too(read: list[Any]) -> None:
    assert read[5] == pytest.approx(our_spreads(ModelConfig.parse(RECIPE_SHAPE, "model")), rel=0.06)


def test_each_tensor_has_its_own_learning_rate_in_axolotl(config: tuple[Path, TrainConfig], read: list[Any]) -> None:
    ours = build(config[1].model, torch.device("cpu"), 0)
    names = {parameter: hf_name(name) for name, parameter in ours.named_parameters()}
    groups = optimizer(ours, config[1].optim).param_groups
    expected = {names[one]: [group["lr"], group["weight_decay"]] for group in groups for one in group["params"]}
    half = OPTIM["lr"] * 32 / 64
    assert expected["lm_head.weight"] == pytest.approx([half, 0.1])
    expected |= {"lm_head.weight": [half, 0.0], "model.embed_tokens.weight": [half, 0.0]}  # as its head says
    assert len({rate for rate, _ in expected.values()}) == 6
    assert read[3]["rates"].keys() == expected.keys()
    for name, rates in read[3]["rates"].items():
        assert rates == pytest.approx(expected[name]), name


def test_axolotl_reads_the_trainings_own_text(config: tuple[Path, TrainConfig], read: list[Any]) -> None:
    folder, _ = config
    assert yaml.safe_load((folder / "axolotl.yaml").read_text())["datasets"][0]["data_files"] == [f"{folder}/text/*.jsonl"]
    tokens = [[*text.encode(), 256] for text in DOCUMENTS]
    assert sorted(read[4]) == sorted(one[first : first + 48] for one in tokens for first in range(0, len(one), 48))


def test_a_glob_is_named_where_it_is_the_same_files_and_each_file_is_named_once(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    ours = recipe(folder, "axolotl")
    for name in ("c.jsonl", "d.jsonl", "e.txt"):
        (folder / "text" / name).write_text("{}")
    a, b, c, d = (f"{folder}/text/{letter}.jsonl" for letter in "abcd")
    whole = f"{folder}/text/*.jsonl"
    for words, named in (
        ((c, whole), [c, a, b, d]),  # the glob would name one of them again
        ((whole, c), [whole]),
        ((f"{folder}/text/[ab].jsonl", f"{folder}/**/*.jsonl"), [a, b, c, d]),
        ((f"{folder}/text/*",), [a, b, c, d]),  # of two kinds
    ):
        write(ours.change(data=ours.data.change(text=words)), folder, print)
        assert yaml.safe_load((folder / "axolotl.yaml").read_text())["datasets"][0]["data_files"] == named
