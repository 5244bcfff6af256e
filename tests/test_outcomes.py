"""What exported configs came to: read from their folders, paired with the dense twin."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from lpanas.lpa.config import dump_yaml
from lpanas.search import outcome_words
from lpanas.search.export import export
from lpanas.search.outcomes import outcomes
from lpanas.search.presets import load_config
from lpanas.search.results import Results
from making import TINY, arm_records, tiny_space
from scipy import stats

SPACE = tiny_space("target.batch_size=4")
FOUND = Results(SPACE, arm_records(SPACE, 3.0, 3.1, 3.2, 3.3), [])


@pytest.fixture
def place(tmp_path):
    """The folder of an exported attention arm and its dense twin, neither trained."""
    return export(FOUND, FOUND.records[1], tmp_path).path.parent


ONE = {"devices": 1, "device": "NVIDIA H100", "precision": "bfloat16"}


def ran(file, name, losses, seed=0, speed=1000.0, on=ONE, **changed):
    """A training's folder beside a config. losses: validation losses by steps; on: what its log says of the devices."""
    config = load_config(file).change(seed=seed, **changed)
    folder = file.parent / name
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(config))
    rows = [{"step": step, "tokens": step * config.batch_tokens, "valid_loss_nats": loss, "tokens_per_second": speed, **on}
            for step, loss in losses.items()]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(place):
    return outcome_words.sentences(outcomes(place), place)


def test_before_any_training_the_next_command_is_said(place):
    assert words(place) == [f"None has been trained: lpanas train {place}/train.yaml"]


def test_pairs_of_seeds_are_compared_where_all_were_evaluated(place):
    dense, low = {0: 2.0, 1: 2.1, 2: 1.9}, {0: 2.03, 1: 2.11, 2: 1.95}
    for seed in dense:
        ran(place / "dense" / "train.yaml", f"seed-{seed}", {10: 3.0, 20: dense[seed]}, seed, speed=800.0)
        more = {30: 0.5} if seed == 1 else {}
        ran(place / "train.yaml", f"seed-{seed}", {10: 3.0, 20: low[seed], **more}, seed)
    found = outcomes(place)
    assert [one.name for one in found] == ["train.yaml", "dense/train.yaml"]
    compared = found[0].compared
    differences = np.array([low[seed] - dense[seed] for seed in dense])
    assert compared.tokens == 20 * load_config(place / "train.yaml").batch_tokens
    assert compared.differences_nats == pytest.approx(differences)
    assert compared.speed == 1000 / 800
    expected = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert (compared.interval.low, compared.interval.high) == pytest.approx(expected)
    text = words(place)[0]
    assert f"{100 * math.expm1(differences.mean()):+.2f} %" in text
    assert "3 seeds" in text


def test_a_seed_that_is_repeated_is_one_pair_the_furthest(place):
    """A second training of a seed is the first one again, and says nothing of chance."""
    ran(place / "dense" / "train.yaml", "a", {10: 2.0})
    ran(place / "dense" / "train.yaml", "b", {10: 2.0, 20: 1.5})
    for name, losses in (("a", {10: 2.5}), ("b", {10: 2.5, 20: 1.75}), ("c", {10: 2.5})):
        ran(place / "train.yaml", name, losses)
    found = outcomes(place)[0]
    assert found.compared.differences_nats == (0.25,)
    assert found.compared.interval is None
    said = words(place)
    assert "one seed: how much of it is chance is not known" in said[0]
    assert said[1].endswith(f"the one that has come furthest; not {place / 'a'}, {place / 'c'}, {place / 'dense' / 'a'}")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ONE | {"devices": 2}, "ran on 1 x NVIDIA H100, bfloat16, the twin on 2 x NVIDIA H100, bfloat16"),
        (ONE | {"device": "NVIDIA A100"}, "the twin on 1 x NVIDIA A100, bfloat16"),
        (ONE | {"precision": "float32"}, "the twin on 1 x NVIDIA H100, float32"),
        ({}, "the twin on what its log does not say"),
    ],
)
def test_speeds_of_other_devices_are_not_compared(place, other, said):
    ran(place / "dense" / "train.yaml", "train", {20: 2.0}, on=other)
    ran(place / "train.yaml", "train", {20: 2.5}, speed=3000.0)
    assert outcomes(place)[0].compared.speed is None
    assert f"{said}: speeds are not compared" in words(place)[0]
    assert "tokens a second" not in words(place)[0]


def test_speeds_of_other_kernels_are_not_compared_nor_those_of_unknown_devices(place):
    ran(place / "dense" / "train.yaml", "train", {20: 2.0}, kernels="plain")
    ran(place / "train.yaml", "train", {20: 2.5})
    assert "the twin on 1 x NVIDIA H100, bfloat16, kernels plain: speeds are not compared" in words(place)[0]
    for file in (place / "dense" / "train.yaml", place / "train.yaml"):
        shutil.rmtree(file.parent / "train")
        ran(file, "old", {20: 2.0}, on={})
    assert "speeds are not compared: the logs do not say what they were measured on" in words(place)[0]


def test_speeds_of_other_microbatches_are_not_compared(place):
    ran(place / "train.yaml", "train", {20: 2.0}, microbatch=1)
    ran(place / "dense" / "train.yaml", "train", {20: 2.0})
    assert "ran on 1 x NVIDIA H100, bfloat16, microbatch 1, the twin on 1 x NVIDIA H100, bfloat16" in words(place)[0]


def test_a_training_that_went_on_elsewhere_has_no_one_speed(place):
    for file in (place / "train.yaml", place / "dense" / "train.yaml"):
        ran(file, "train", {20: 2.0})
        with open(file.parent / "train" / "metrics.jsonl", "a") as rows:
            rows.write(json.dumps({"step": 30, "tokens": 960, "tokens_per_second": 9.0, **ONE, "devices": 8}) + "\n")
    assert "ran on 1 x NVIDIA H100, bfloat16, then 8 x NVIDIA H100, bfloat16, the twin" in words(place)[0]


WAYS = {"kernels": "plain", "cuda_graph": False, "activation_checkpointing": False, "microbatch": 4}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kernels": "regions"}, "kernels regions"),
        ({"cuda_graph": True}, "kernels plain, cuda_graph True"),
        ({"activation_checkpointing": True}, "kernels plain, activation_checkpointing True"),
        ({"microbatch": 2}, "microbatch 2, kernels plain"),
    ],
)
def test_a_training_that_went_on_another_way_has_no_one_speed_though_its_config_says_the_last_alone(place, changed, said):
    for file in (place / "train.yaml", place / "dense" / "train.yaml"):
        ran(file, "train", {20: 2.0}, on=ONE | WAYS)
    assert "x 1.000 its tokens a second" in words(place)[0]
    with open(place / "train" / "metrics.jsonl", "a") as rows:
        rows.write(json.dumps({"step": 30, "tokens": 960, "tokens_per_second": 9.0, **ONE, **WAYS, **changed}) + "\n")
    usual = "1 x NVIDIA H100, bfloat16, kernels plain"
    assert f"ran on {usual}, then 1 x NVIDIA H100, bfloat16, {said}, the twin on {usual}: speeds" in words(place)[0]


def test_the_proxys_loss_stands_beside_that_of_the_same_tokens_alone(place):
    model = load_config(place / "train.yaml").model
    data = load_config(place / "train.yaml").data
    ran(place / "train.yaml", "same", {20: 2.0})
    # the tiny space: its proxy ends at 3.1 nats after 640 tokens at a context of 16, its target has one of 32
    (line,) = [line for line in words(place) if "proxy" in line]
    assert line == "train.yaml: 2.0000 nats where its proxy had 3.1000 after 640 tokens (roughly: a context of 32, its 16)"
    assert model.context == 32
    ran(place / "train.yaml", "more", {20: 1.9}, seed=1, data=data.change(valid_tokens=99))
    (line,) = [line for line in words(place) if "proxy" in line]
    assert line.endswith(" (roughly: a context of 32, its 16; up to 99 or 65,536 tokens of validation, its 65,536)")


@pytest.mark.parametrize(
    "changed",
    [{"source": "text", "text": ("a.txt",)}, {"tokenizer": "bpe", "vocab_size": 264}, {"source": "hf", "dataset": "a"}],
)
def test_a_loss_of_other_tokens_is_not_held_against_the_proxys(place, changed):
    ran(place / "train.yaml", "train", {20: 1.0}, data=load_config(place / "train.yaml").data.change(**changed))
    (line,) = [line for line in words(place) if "proxy" in line]
    assert line == (
        f"train.yaml: not compared with its proxy, whose text or tokens are not known to be the same: {place / 'train'}"
    )


def test_seeds_text_tokens_and_rates_must_be_the_same(place):
    ran(place / "dense" / "train.yaml", "train", {20: 2.0})
    config = load_config(place / "train.yaml")
    others = [{"seed": 1}, {"tokens": 999_999}, {"batch_size": 8}]
    others += [{"optim": config.optim.change(lr=0.5)}, {"data": config.data.change(valid_tokens=99)}]
    for number, changed in enumerate(others):
        ran(place / "train.yaml", f"other-{number}", {20: 2.5}, **changed)
    assert outcomes(place)[0].compared is None
    assert "no two with the same seed" in words(place)[0]
    ran(place / "train.yaml", "the-same", {20: 2.5}, evals=3, microbatch=1, log_every=1)
    assert outcomes(place)[0].compared.differences_nats == (0.5,)
    assert "one seed" in words(place)[0]


def test_a_training_of_another_model_is_left_out_and_named(place):
    model = load_config(place / "train.yaml").model
    ran(place / "train.yaml", "try", {20: 0.1}, model=model.change(context=16))
    found = outcomes(place)
    assert found[0].trainings == ()
    assert any(f"{place}/try: left out" in line for line in words(place))


def test_a_training_that_has_told_nothing_yet_is_a_row_without_a_loss(place, call):
    ran(place / "train.yaml", "train", {})
    code, text, err = call("show", place)
    assert (code, err) == (0, "")
    assert re.search(r"train\.yaml +train +0 +0 of ", text)
    assert "the twin has not been trained" in text


def test_the_torn_last_line_of_a_killed_training_is_not_read(place):
    ran(place / "train.yaml", "train", {20: 2.0})
    with open(place / "train" / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "toke')
    assert outcomes(place)[0].trainings[0].steps == 20


@pytest.mark.parametrize("text", ["[1]\n", '{"step": 1}\n', "no json\n"])
def test_metrics_that_are_none_are_a_mistake_in_one_line(place, text):
    ran(place / "train.yaml", "train", {})
    (place / "train" / "metrics.jsonl").write_text(text)
    ran(place / "dense" / "train.yaml", "train", {20: 2.0})
    ran(place / "train.yaml", "another", {20: 2.5})
    found = outcomes(place)
    assert [training.folder.name for training in found[0].trainings] == ["another"]
    assert found[0].compared.differences_nats == (0.5,)
    (line,) = [line for line in words(place) if "metrics.jsonl" in line]
    assert line.startswith(f"train.yaml: left out: {place / 'train' / 'metrics.jsonl'}: ")
    assert "\n" not in line


def test_a_misspelt_key_is_said_in_its_place_and_the_rest_is_shown(place, call):
    for file in (place / "dense" / "train.yaml", place / "train.yaml"):
        ran(file, "train", {20: 2.0})
    (place / "other").mkdir()
    text = (place / "train.yaml").read_text()
    (place / "other" / "train.yaml").write_text(text.replace("batch_size:", "batch_sise:"))
    code, shown, err = call("show", place)
    assert (code, err) == (0, "")
    assert "train.yaml against dense/train.yaml: +0.0000 nats" in shown
    lines = " ".join(shown.split())
    assert f"other/train.yaml: left out: {place / 'other' / 'train.yaml'}: batch_sise: unknown key" in lines
    assert "did you mean 'batch_size'?" in lines
    (place / "dense" / "train.yaml").write_text("{}")
    said = words(place)
    assert "train.yaml against dense/train.yaml: nothing to compare, its config cannot be read" in said
    assert said[-1].startswith(f"dense/train.yaml: left out: {place / 'dense' / 'train.yaml'}: ")


def test_the_loss_in_a_row_is_that_of_the_tokens_beside_it(place, call):
    """It goes on after the last evaluation."""
    config = load_config(place / "train.yaml")
    ran(place / "train.yaml", "train", {29: 2.5})
    with open(place / "train" / "metrics.jsonl", "a") as rows:
        rows.write(json.dumps({"step": 30, "tokens": 30 * config.batch_tokens, **ONE}) + "\n")
    shown = call("show", place)[1]
    assert "evaluated at" in shown
    assert re.search(rf"train +0 +30 of {config.steps:,} +{29 * config.batch_tokens:,} tokens +2\.5000 ", shown)
    assert f"{30 * config.batch_tokens:,}" not in shown


def test_a_seed_that_is_left_out_is_said_with_the_keys_that_differ(place):
    config = load_config(place / "train.yaml")
    ran(place / "dense" / "train.yaml", "train", {20: 2.0})
    ran(place / "dense" / "train.yaml", "far", {20: 2.0}, seed=2, batch_size=8, tokens=999_999, precision="float32")
    ran(place / "dense" / "train.yaml", "near", {20: 2.0}, seed=2)
    ran(place / "train.yaml", "train", {20: 2.5})
    ran(place / "train.yaml", "two", {20: 2.5}, seed=2, batch_size=8, optim=config.optim.change(lr=0.5))
    ran(place / "train.yaml", "three", {20: 2.5}, seed=3)
    said = words(place)
    assert "+0.5000 nats" in said[0]
    assert "one seed" in said[0]
    assert said[1:3] == [
        f"train.yaml seed 3: left out, dense/train.yaml has not been trained with it ({place / 'three'})",
        f"train.yaml seed 2: left out, batch_size and optim.lr differ from the twin's ({place / 'two'})",
    ]


@pytest.mark.parametrize("name", ["train", "dense", "dense/train"])
def test_the_folder_of_one_training_leads_to_its_targets(place, call, name):
    ran(place / "dense" / "train.yaml", "train", {20: 2.0})
    ran(place / "train.yaml", "train", {20: 2.0})
    code, _, err = call("show", place / name)
    assert code == 2
    assert err == f"lpanas: {place / name}: part of an exported target, which is shown whole: lpanas show {place}\n"


def test_what_is_missing_in_a_folder_is_said(place, call):
    code, _, err = call("show", place.parent)
    assert code == 2
    assert err.endswith(f"{place.parent}: holds exported targets, and one is shown at a time: lpanas show {place}\n")
    shutil.rmtree(place / "dense")
    code, _, err = call("show", place)
    assert code == 2
    assert "holds train.yaml, and the dense twin is missing (dense/train.yaml in it)" in err
    ran(place / "train.yaml", "train", {20: 2.0})
    assert "but a training in no exported target's folder: see metrics.jsonl in it" in call("show", place / "train")[2]


@pytest.mark.slow
def test_a_small_target_with_ten_times_the_tokens_ends_below_its_proxy(call, tmp_path, pages):
    """From a search to two trainings by the command line alone."""
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    raw["target"] |= {"batch_size": 4, "tokens_per_param": 10 * 640 / SPACE.dense_costs["params"]}
    raw["search"] = {"trials": 4, "noise_seeds": 2, "workers": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(raw))
    study = tmp_path / "study"
    assert call("search", tmp_path / "tiny.yaml", "--out", study)[0] == 0
    assert call("export", study, "--pick", "1,2")[0] == 0
    place = study / "export" / "target"
    for file in (place / "train.yaml", *place.glob("*/train.yaml")):
        assert call("train", file)[0] == 0
    found = outcomes(place)
    assert len(found) == 4
    for one in found[:-1]:
        reached, ended = one.trainings[0].last
        assert reached >= 10 * one.proxy.tokens
        assert ended < one.proxy.loss_nats - 0.1
        assert len(one.compared.differences_nats) == 1
    shown = call("show", place)[1]
    assert shown.count("against dense/train.yaml: ") == 3
    assert "where its proxy had" in shown


def test_the_committed_target_ended_below_its_proxies_and_its_readme_says_what_its_logs_do():
    kept = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_carried"
    table = [line for line in (kept / "README.md").read_text().splitlines() if line.startswith("| trial-")]

    def ends(name):
        logs = ((kept / "export" / "target" / name / f"seed-{seed}" / "metrics.jsonl").read_text() for seed in (0, 1))
        return np.array([json.loads(log.splitlines()[-1])["valid_loss_nats"] for log in logs])

    dense = ends("dense")
    for one in outcomes(kept / "export" / "target")[:-1]:
        name = one.name.split("/")[0]
        row, losses = next(line for line in table if line.startswith(f"| {name},")), ends(name)
        assert losses.max() < one.proxy.loss_nats
        assert one.trainings[0].last[0] >= 10 * one.proxy.tokens
        low, high = stats.t.interval(0.95, 1, (losses - dense).mean(), stats.sem(losses - dense))
        percent = [100 * math.expm1(value) for value in ((losses - dense).mean(), low, high)]
        said = "{:+.2f} % ({:+.2f} to {:+.2f})".format(*percent)
        assert all(text in row for text in (said, f"{losses[0]:.4f}, {losses[1]:.4f}", f"{one.proxy.loss_nats:.4f}"))
    assert len(table) == 3
