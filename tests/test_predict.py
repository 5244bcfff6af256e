"""What a training would take, worked out a second time."""

import json
import math
import re

import pytest
import torch
from lpanas.lpa.config import UserError, parse_yaml
from lpanas.lpa.cost import cost
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.export import export
from lpanas.search.export_readme import readme
from lpanas.search.predict import Assumed, lines, predict
from lpanas.search.results import Results
from making import arm_records, tiny_space
from test_timetable import timed_space
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SPACE = tiny_space()
FOUND = Results(SPACE, arm_records(SPACE, 3.0, 3.1, 3.2, 3.3), [])


def counted_flops(config: TrainConfig) -> float:
    """Training FLOPs a token as torch counts them in one microbatch."""
    model = build(config.model, torch.device("cpu"), 0)
    tokens = torch.zeros(2, config.model.context, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(tokens, tokens).backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.parametrize("arm", range(4))
def test_the_file_beside_a_config_foretells_what_the_built_model_says(tmp_path, arm):
    path = export(FOUND, FOUND.records[arm], tmp_path, assumed=Assumed(0.5, 200.0)).path
    found = json.loads((path.parent / "prediction.json").read_text())
    assert found["assumed"] == {"mfu": 0.5, "peak_tflops": 200.0}
    for key, place in (("predicted", path), ("dense", path.parent / "dense" / "train.yaml")):
        its, config = found[key], TrainConfig.parse(parse_yaml(place.read_text(), "x"), "x")
        with torch.device("meta"):
            params = sum(one.numel() for one in Decoder(config.model).parameters())
        flops, steps = counted_flops(config), math.ceil(config.tokens / (8 * 32))
        assert its["params"] == params
        assert its["flops_per_token"] == flops
        assert (its["steps"], its["tokens"], its["flops"]) == (steps, steps * 256, steps * 256 * flops)
        assert its["assumed_step_seconds"] == pytest.approx(flops * 256 / 100e12, rel=1e-12)
        assert its["assumed_gpu_hours"] == pytest.approx(steps * its["assumed_step_seconds"] / 3600, rel=1e-12)
        assert its["memory_bytes"] == its["state_bytes"] + its["activation_bytes"]
        # float32 weights, gradients and two moments; bfloat16 copies of what matmuls read, so not of embedding and norms
        with torch.device("meta"):
            matmuls = sum(one.weight.numel() for one in Decoder(config.model).modules() if isinstance(one, torch.nn.Linear))
        assert its["state_bytes"] == 16 * params + 2 * matmuls


def test_the_activations_of_a_microbatch_are_the_sum_by_hand(tmp_path):
    """Of the tiny target, 4 layers of d_model 64 and d_ff 192 with 2 heads and 264 tokens, in bytes a token."""
    norm = 4 * 64 + 4 + 2 * 64  # the float32 stream, its root mean square, the result
    attention = 2 * 4 * 64 + 4 * 2  # q, k, v and the result; the softmax's sum of each head
    ffn = 2 * 4 * 192  # gate, its SiLU, up, their product
    kept = 4 * (2 * norm + attention + ffn) + norm + 4 * 264 + 8  # log-softmax and the target
    dense = kept + 8 * 264  # the loss's gradient, the most that passes at the backward pass's start
    low = dense + 2 * 4 * 4 * 16  # x A of rank 16 in q, k, v, o of each layer
    path = export(FOUND, FOUND.records[1], tmp_path).path
    its = json.loads((path.parent / "prediction.json").read_text())
    assert its["microbatch"] == 4
    assert its["dense"]["activation_bytes"] == 4 * 32 * dense
    assert its["predicted"]["activation_bytes"] == 4 * 32 * low


def test_memory_is_that_of_the_configs_activations_and_beside_it_that_of_recomputed_ones(tmp_path):
    config = TrainConfig.parse(parse_yaml(export(FOUND, FOUND.records[1], tmp_path).path.read_text(), "x"), "x")
    kept, again = (predict(config.change(activation_checkpointing=on), Assumed()) for on in (False, True))
    sizes = {on: cost(config.model, config.microbatch, recomputes=on).memory_bytes for on in (False, True)}
    assert (kept.memory_bytes, kept.recomputed_memory_bytes) == (sizes[False], sizes[True])
    assert (again.memory_bytes, again.recomputed_memory_bytes) == (sizes[True], sizes[True])
    assert kept.state_bytes == again.state_bytes
    assert kept.flops == again.flops
    texts = [lines(one, one, Assumed(), 4)[3] for one in (kept, again)]
    assert "activations kept: " in texts[0]
    assert "with `activation_checkpointing: true`" in texts[0]
    assert "activations computed again: " in texts[1]
    assert f"{sizes[True] / 2**30:.2f} GiB" in texts[0]
    cells = f"| {sizes[False] / 2**30:.2f} | {sizes[True] / 2**30:.2f} |"
    assert cells in readme(export(FOUND, FOUND.records[1], tmp_path).path.parent)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_searched_on_is_what_the_exported_config_takes(tmp_path, again):
    """In bytes a token, by hand, as below: what all blocks keep, or the inputs of four and one whole."""
    space = tiny_space(f"target.activation_checkpointing={again}", "objectives=[loss_nats, memory_bytes]")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    path = export(found, found.records[1], tmp_path).path
    config = TrainConfig.parse(parse_yaml(path.read_text(), "x"), "x")
    foretold = json.loads((path.parent / "prediction.json").read_text())
    assert config.activation_checkpointing is again
    assert found.records[1].costs["memory_bytes"] == foretold["predicted"]["memory_bytes"]
    assert space.dense_costs["memory_bytes"] == foretold["dense"]["memory_bytes"]
    norm, attention, ffn = 4 * 64 + 4 + 2 * 64, 2 * 4 * 64 + 4 * 2, 2 * 4 * 192
    block, loss, passing = 2 * norm + attention + ffn, 8 * 264, 4 * 64 + 3 * 2 * 192
    last = norm + 4 * 264 + 8
    kept = 4 * 4 * 64 + max(last + loss, block - 4 * 64 + passing) if again else 4 * block + last + max(loss, passing)
    assert foretold["dense"]["activation_bytes"] == 4 * 32 * kept


def test_time_is_the_flops_over_what_a_gpu_is_assumed_to_do(tmp_path):
    config = TrainConfig.parse(parse_yaml(export(FOUND, FOUND.records[0], tmp_path).path.read_text(), "x"), "x")
    usual = predict(config, Assumed())
    assert usual.assumed_gpu_hours == pytest.approx(usual.flops / (0.4 * 989e12) / 3600)
    assert predict(config, Assumed(0.2, 989.0)).assumed_gpu_hours == pytest.approx(2 * usual.assumed_gpu_hours)


def test_the_prediction_stands_in_the_files_head_with_its_assumptions(tmp_path):
    path = export(FOUND, FOUND.records[1], tmp_path).path
    its = json.loads((path.parent / "prediction.json").read_text())
    head = " ".join(line.strip("# ") for line in path.read_text().split("\nmodel:")[0].splitlines())
    mine, dense = its["predicted"], its["dense"]
    assert f"params: {mine['params']:,} (dense {dense['params']:,}; x {mine['params'] / dense['params']:.3f})" in head
    assert f"training FLOPs in all: {mine['flops']:.4g} (dense {dense['flops']:.4g}" in head
    assert "assumed: 0.4 of a GPU's peak of 989 TFLOP/s (H100 SXM" in head
    assert "lower bound" in head
    assert re.search(r"assumed GPU hours: [^)]*; x [\d.]+\); assumed, not measured with lpanas train", head)
    assert "not measured with lpanas train" in " ".join((path.parent / "README.md").read_text().split())


def test_what_a_study_has_measured_leads_and_what_is_assumed_has_other_names(tmp_path):
    space = timed_space()
    found = Results(space, arm_records(space, 3.0, 3.1, 3.2, 3.3), [])
    record = found.records[3]
    path = export(found, record, tmp_path).path
    its = json.loads((path.parent / "prediction.json").read_text())
    seconds, dense, steps = record.costs["step_seconds"], space.dense_costs["step_seconds"], its["predicted"]["steps"]
    assert its["measured"] == {
        "device": "made up, 1 thread",
        "step_seconds": seconds,
        "dense_step_seconds": dense,
        "hours": pytest.approx(steps * seconds / 3600),
        "dense_hours": pytest.approx(steps * dense / 3600),
    }
    assert "step_seconds" not in its["predicted"]
    head = " ".join(line.strip("# ") for line in path.read_text().split("\nmodel:")[0].splitlines())
    line = (
        f"seconds a step, its pieces measured on made up, 1 thread: {seconds:.4g} (dense {dense:.4g}; x {seconds / dense:.3f})"
    )
    assert line in head
    assert head.index("hours on one made up") < head.index("assumed seconds a step") < head.index("assumed GPU hours")
    assert "lpanas confirm measures steps" not in head
    text = (path.parent / "README.md").read_text()
    hours = steps * seconds / 3600
    assert "| s a step, measured | x dense | hours, measured | assumed s a step, one GPU | assumed GPU hours |" in text
    assert f"| {seconds:.4g} | {seconds / dense:.3f} | {hours:.4g} | {its['predicted']['assumed_step_seconds']:.4g} |" in text
    assert "Measured: the sum of a step's pieces on made up, 1 thread; hours on one such device" in text
    elsewhere = export(found, record, tmp_path, "llama-20m").path
    assert json.loads((elsewhere.parent / "prediction.json").read_text())["measured"] is None
    assert "measured on" not in elsewhere.read_text().partition("Predicted")[2].partition("What decided")[0]


def test_a_prediction_of_an_older_version_is_read_by_its_own_names(tmp_path):
    place = export(FOUND, FOUND.records[1], tmp_path).path.parent
    new, its = (place / "README.md").read_text(), json.loads((place / "prediction.json").read_text())
    del its["measured"]
    for part in (its["predicted"], its["dense"]):
        for key in ("step_seconds", "gpu_hours"):
            part[key] = part.pop(f"assumed_{key}")
    (place / "prediction.json").write_text(json.dumps(its))
    assert readme(place) == new


@pytest.mark.parametrize("mfu", [0.0, -1.0, 1e-300, 0.0009, 1.01, math.nan, math.inf])
def test_a_utilisation_that_no_gpu_has_is_a_mistake(mfu):
    with pytest.raises(UserError, match=r"--mfu: expected a share of the peak from 0.001 to 1"):
        Assumed(mfu).check()


@pytest.mark.parametrize("peak", [0.0, -989.0, math.nan, math.inf])
def test_a_peak_that_no_gpu_has_is_a_mistake(peak):
    with pytest.raises(UserError, match=r"--peak-tflops: expected TFLOP/s above 0"):
        Assumed(0.4, peak).check()
