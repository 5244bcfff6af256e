"""tests/benchmarks/gpu.py runs whole at toy size, and its roofline is what can be counted by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lpanas.lpa.cost import flops_per_token
from lpanas.lpa.model import ModelConfig

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import roofline  # noqa: E402 (a script's neighbour)

SHAPE = {"vocab_size": 512, "d_model": 64, "d_ff": 128, "n_heads": 4, "n_layers": 3, "context": 32, "rank_multiple": 8}


@pytest.mark.slow
def test_every_stage_runs_at_toy_size(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lpanas[hf]'")
    out = tmp_path / "gpu.json"
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--seconds", "0.1", "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert not [name for name, its in found.items() if isinstance(its, dict) and "failed" in its]
    assert found["environment"]["device"] == "cpu"
    assert [row["name"] for row in found["peers"]["rows"]] == ["ours, plain", "Hugging Face, compiled"]
    for row in found["lowrank"]:
        assert 0.5 < row["roofline_ratio"] < 1
        assert row["flops_ratio"] < 1
    one, two = found["packing"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert two["largest_difference_nats"] < 1e-5
    again = subprocess.run([*words[:2], "--toy", "speed"], capture_output=True, text=True)
    assert again.returncode == 2
    assert "unknown stage speed" in again.stderr


def test_where_memory_is_free_the_roofline_is_the_flops() -> None:
    config = ModelConfig.parse(SHAPE | {"placement": "attention=1/4"}, "m")
    device = roofline.Device(flops_per_second=1e12, bytes_per_second=1e30)
    tokens = 4 * 32
    matmuls = flops_per_token(config) - 12 * 3 * 32 * 64  # the scores: the roofline's are causal, with a flash backward pass
    scores = 3 * 3.5 * 2 * 32 * 64
    expected = tokens * (matmuls + scores) / 1e12
    assert roofline.microbatch_seconds(config, 4, device) == pytest.approx(expected, rel=1e-12)
    assert roofline.step_seconds(config, 4, 5, device) == pytest.approx(5 * expected, rel=1e-9)


def test_where_flops_are_free_low_rank_is_no_faster_by_its_flops() -> None:
    device = roofline.Device(flops_per_second=1e30, bytes_per_second=1e9)
    dense = ModelConfig.parse(SHAPE, "m")
    low = ModelConfig.parse(SHAPE | {"placement": "attention=1/4"}, "m")
    ratio = roofline.step_seconds(low, 4, 1, device) / roofline.step_seconds(dense, 4, 1, device)
    assert ratio > flops_per_token(low) / flops_per_token(dense)
