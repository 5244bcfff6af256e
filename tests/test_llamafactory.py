import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from consumer import STAND_IN, consume
from hf_folders import OPTIM, OTHER, RECIPE_SHAPE, our_spreads, product_ratios, recipe
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, schedule
from lpanas.lpa.train_config import TrainConfig
from lpanas.search import hf_trainer, llamafactory

SCRIPT = """
stand_in("torchaudio")  # sound
import json, os, sys, yaml
os.chdir(sys.argv[1])
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.tuner import run_exp

sys.argv = ["llamafactory-cli", "llamafactory.yaml", "use_cpu=true"]  # what llamafactory-cli makes of its `train`
model_args, data_args, training_args, finetuning_args, _ = get_train_args()
said = vars(finetuning_args) | vars(training_args) | vars(data_args) | vars(model_args)
other = {}
for read in get_train_args({**yaml.safe_load(open("other/llamafactory.yaml")), "use_cpu": True}):
    other |= vars(read)
tokenizer = load_tokenizer(model_args)["tokenizer"]
model = load_model(tokenizer, model_args, finetuning_args, is_trainable=True)
spreads = {name: one.std().item() for name, one in model.named_parameters() if one.ndim == 2}
dtypes = {str(one.dtype) for one in model.parameters()}
run_exp()
os.chdir("dense")
dense_args, _, _, dense_finetuning, _ = get_train_args({**yaml.safe_load(open("llamafactory.yaml")), "use_cpu": True})
twin = load_model(tokenizer, dense_args, dense_finetuning, is_trainable=True)
os.chdir("..")
twin = {name: one.std().item() for name, one in twin.named_parameters() if one.ndim == 2}
try:
    sys.argv = ["llamafactory-cli", "misspelt.yaml", "use_cpu=true"]
    refused = get_train_args() and ""
except ValueError as error:
    refused = str(error)
built = [spreads, sorted(dtypes), sum(one.numel() for one in model.parameters())]
print("\\n" + json.dumps([[said, other], *built, refused, twin], default=str))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig]:
    folder = tmp_path_factory.mktemp("recipe")
    return folder, recipe(folder, "llamafactory")


@pytest.fixture(scope="module")
def trained(config: tuple[Path, TrainConfig]) -> list[Any]:
    """What LLaMA-Factory has read, built and trained."""
    folder, _ = config
    text = (folder / "llamafactory.yaml").read_text()
    recipe(folder / "other", "llamafactory", **OTHER)
    recipe(folder / "dense", "llamafactory", model=RECIPE_SHAPE)
    (folder / "misspelt.yaml").write_text(text.replace("warmup_steps", "warmup_stepz"))
    return json.loads(consume("llamafactory", STAND_IN + SCRIPT, folder).splitlines()[-1])


def test_llamafactory_reads_every_key_as_it_is_meant(config: tuple[Path, TrainConfig], trained: list[Any]) -> None:
    folder, ours = config
    said, other = trained[0]
    for found, place in ((said, folder), (other, folder / "other")):
        for key, value in yaml.safe_load((place / "llamafactory.yaml").read_text()).items():
            shown = found[key].removeprefix("SchedulerType.").lower() if key == "lr_scheduler_type" else found[key]
            assert shown == ([value] if key == "dataset" else value), key
    assert (other["learning_rate"], other["max_grad_norm"], other["bf16"]) == (3e-3, 0, False)
    assert said["packing"] is True
    optim = ours.optim
    assert (said["adam_beta1"], said["adam_beta2"], said["adam_epsilon"]) == (optim.beta1, optim.beta2, optim.eps)
    assert (said["weight_decay"], said["max_grad_norm"], said["seed"]) == (optim.weight_decay, optim.clip, ours.seed)
    assert (said["cutoff_len"], said["max_steps"]) == (ours.model.context, ours.steps)
    assert said["per_device_train_batch_size"] * said["gradient_accumulation_steps"] == ours.batch_size


def test_llamafactory_refuses_a_key_that_it_does_not_know(trained: list[Any]) -> None:
    assert "warmup_stepz" in trained[4]


def test_llamafactory_builds_our_model_from_scratch(config: tuple[Path, TrainConfig], trained: list[Any]) -> None:
    _, spreads, dtypes, params, *_ = trained
    model = config[1].model
    with torch.device("meta"):
        assert params == sum(one.numel() for one in Decoder(model).parameters())
    assert dtypes == ["torch.float32"]
    ratios = product_ratios(spreads, model)
    assert len(ratios) == 6
    assert ratios == pytest.approx([1] * 6, rel=0.15)


def test_llamafactory_starts_the_dense_twin_by_our_rules_too(trained: list[Any]) -> None:
    assert trained[5] == pytest.approx(our_spreads(ModelConfig.parse(RECIPE_SHAPE, "model")), rel=0.06)


def test_llamafactory_trains_it_by_our_schedule_a_step_later(config: tuple[Path, TrainConfig], trained: list[Any]) -> None:
    folder, ours = config
    log = json.loads((folder / "trained" / "llamafactory" / "trainer_state.json").read_text())["log_history"][: ours.steps]
    peak = OPTIM["lr"] * 32 / 64
    expected = [0.0, *(peak * schedule(ours.optim, step, ours.steps) for step in range(ours.steps - 1))]
    assert [line["learning_rate"] for line in log] == pytest.approx(expected)
    assert log[-1]["loss"] < log[0]["loss"] - 1


@pytest.mark.parametrize(
    "optim",
    [
        OPTIM,
        OPTIM | {"warmup_share": 0},
        OPTIM | {"schedule": "linear"},
        OPTIM | {"final_share": 1},
        OPTIM | {"schedule": "linear", "final_share": 0},
    ],
)
def test_transformers_schedule_is_ours_a_step_later(hub: Any, optim: dict[str, object]) -> None:
    ours, steps = OptimConfig.parse(optim, "optim"), 40
    warmup = round(ours.warmup_share * steps)
    name, arguments = hf_trainer.schedule(ours, 3e-3)
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    theirs = hub.get_scheduler(name, adamw, warmup, steps, scheduler_specific_kwargs=arguments)
    found = []
    for _ in range(steps):
        found.append(adamw.param_groups[0]["lr"])
        adamw.step()
        theirs.step()
    first = 0.0 if warmup else 3e-3
    assert found == pytest.approx([first, *(3e-3 * schedule(ours, step, steps) for step in range(steps - 1))], abs=1e-12)


def files(folder: Path, *names: str) -> DataConfig:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("text")
    return DataConfig(source="text", text=tuple(str(folder / name) for name in names))


def test_the_list_of_datasets_points_to_the_trainings_own_text(tmp_path: Path) -> None:
    def listed(data: DataConfig) -> tuple[list[object], str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        config = recipe(folder, "native").change(data=data)
        path = llamafactory.write(config, folder, print)
        entries = json.loads((folder / "dataset_info.json").read_text())
        names = yaml.safe_load(path.read_text())["dataset"].split(",")
        assert names == list(entries)
        return [entry.get("file_name") or (entry["hf_hub_url"], entry["split"]) for entry in entries.values()], path.read_text()

    whole = files(tmp_path / "whole", "a.txt", "b.txt")
    assert listed(whole)[0] == [str(tmp_path / "whole")]
    assert "Each line of a .txt file is a document" in listed(whole)[1]
    part = files(tmp_path / "part", "a.jsonl", "b.parquet")
    assert listed(part)[0] == [str(tmp_path / "part" / "a.jsonl"), str(tmp_path / "part" / "b.parquet")]
    gone = DataConfig(source="text", text=(f"{tmp_path}/gone.jsonl",))
    for data in (files(tmp_path / "other", "a.jsonl.zst"), gone, DataConfig()):
        entries, text = listed(data)
        assert entries == ["text.jsonl"]
        assert "put yours into text.jsonl" in text.replace("\n#  ", "")
    assert listed(DataConfig(source="hf", dataset="a/b"))[0] == [("a/b", "train")]
