"""tests/benchmarks/gpu.py runs whole at toy size, measures our own loop, loses no result, and its roofline is what can be
counted by hand."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lpanas.lpa.cost import flops_per_token
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.shards import Shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.budget import ARMS
from lpanas.search.equal_time import FIRST, Ratio
from lpanas.search.presets import parse_space
from lpanas.search.record import Measured, Record
from making import record

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu  # noqa: E402 (a script's neighbours)
import roofline  # noqa: E402
from answers import answers  # noqa: E402
from contenders import WARMUP, Asked, Contender, in_turn, interval, ours  # noqa: E402
from packed import against, plan, search, told  # noqa: E402
from staged import Report, output  # noqa: E402

CPU = torch.device("cpu")
GPU = Asked(False, 0, torch.device("cuda"))
SHAPE = {"vocab_size": 512, "d_model": 64, "d_ff": 128, "n_heads": 4, "n_layers": 1, "context": 32, "rank_multiple": 8}


def model(**changes: object) -> ModelConfig:
    return ModelConfig.parse(SHAPE | changes, "m")


@pytest.mark.slow
def test_every_stage_runs_at_toy_size(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lpanas[hf]'")
    out = tmp_path / "gpu.json"
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--seconds", "0.1", "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found == json.loads(ended.stdout)
    assert found["environment"]["device"] == "cpu"
    _, mine, peer, ratios = found["peers"]["rows"]
    assert (mine["name"], peer["name"]) == ("ours, plain", "Hugging Face, compiled")
    assert ratios["all"]["value"] == pytest.approx(mine["over_plain"] / peer["over_plain"])
    assert all("flash" in row["attention_kernels"][0] for row in (mine, peer))
    _, attention, ffn = found["lowrank"]["rows"]
    # weights of the toy: head 264 x 32, two layers of 4 x 32 x 32 and 3 x 32 x 88, scores 2 x 2 x 32 x 32; rank 8
    dense = 8448 + 2 * (4096 + 8448) + 4096
    assert attention["flops_ratio"] == pytest.approx((dense - 2 * (4096 - 4 * 8 * 64)) / dense)
    assert ffn["flops_ratio"] == pytest.approx((dense - 2 * (8448 - 3 * 8 * 120)) / dense)
    (row,) = found["startup"]["rows"]
    first, *others = row["candidates"].values()
    assert first["worker_seconds"] > max(one["worker_seconds"] for one in others)
    assert first["share_of_a_run"] == pytest.approx(first["start_seconds"] / 60)
    one, two = found["packing"]["rows"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert (one["runs_without_a_loss"], two["runs_without_a_loss"]) == (0, 0)
    assert two["nats_from_one_at_a_time"] < 1e-5
    assert two["over_one_at_a_time"] == pytest.approx(two["runs_an_hour"] / one["runs_an_hour"])
    assert found["answers"] == answers(found)
    assert found["answers"][0].startswith("use, toy dense: kernels plain")
    stack, streams = found["together"]["rows"]
    assert (stack["way"], streams["way"]) == ("stacked", "streams")
    for row in (stack, streams):
        assert row["over_one_alike"] == pytest.approx(2 * row["step_seconds"]["alike"] / row["step_seconds"]["all"])
        assert row["nats_from_one_alike"] < 1e-5


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The program at toy size in this process: exit code and standard error."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that take no time; which of them were run."""
    ran = list[str]()

    def quick(name: str) -> Iterator[dict[str, Any]]:
        ran.append(name)
        yield {"value": len(ran)}

    def stopped(name: str) -> Iterator[dict[str, Any]]:
        yield {"value": 0}
        raise KeyboardInterrupt

    kinds = {"device": quick, "startup": quick, "together": stopped}
    for name, kind in kinds.items():
        monkeypatch.setitem(gpu.STAGES, name, lambda asked, kind=kind, name=name: kind(name))
    return ran


def test_an_unknown_stage_is_a_mistake(measure: Callable[..., tuple[int, str]]) -> None:
    code, said = measure("speed")
    assert code == 2
    assert said.startswith("gpu.py: unknown stage speed; expected device, ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("there", [None, "not a folder", '{"rows": []}', "[1]"])
def test_a_file_that_cannot_be_written_or_is_another_programs_is_refused_before_anything_is_measured(
    there: str | None, measure: Callable[..., tuple[int, str]], stages: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "found.json" if there else tmp_path / "nowhere" / "found.json"
    if there:
        out.write_text(there)
    code, said = measure("device", "--out", out)
    assert (code, stages) == (2, [])
    assert said.startswith(f"gpu.py: --out {out}: ")
    assert said.count("\n") == 1
    assert not there or out.read_text() == there


def test_a_file_keeps_the_stages_of_other_calls_on_the_same_device_with_the_same_versions(
    measure: Callable[..., tuple[int, str]], stages: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    for stage in ("device", "startup", "device"):
        assert measure(stage, "--out", out)[0] == 0
    found = json.loads(out.read_text())
    assert [found[name]["rows"] for name in ("device", "startup")] == [[{"value": 3}], [{"value": 2}]]
    assert "startup" in found["startup"]["command"]
    kept = out.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"')
    out.write_text(kept)
    code, said = measure("device", "--out", out)
    assert (code, len(stages)) == (2, 3)
    assert f"measured otherwise: torch (1.0 there, {torch.__version__} here); name another file" in said
    assert out.read_text() == kept


def test_without_a_file_one_is_named_and_what_a_stop_leaves_is_there(
    measure: Callable[..., tuple[int, str]], stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = measure("device", "together", "startup")
    assert (code, stages) == (130, ["device"])
    assert said.splitlines()[0] == "gpu.py: gpu-cpu.json has what is measured"
    assert said.splitlines()[-1] == "gpu.py: stopped; gpu-cpu.json has what was measured until then"
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert (found["device"]["rows"], found["together"]["rows"]) == ([{"value": 1}], [{"value": 0}])
    assert found["together"]["failed"] == "interrupted"
    assert {"lpanas", "commit", "torch", "processor", "threads", "device"} <= set(found["environment"])


def test_an_interval_that_cannot_be_had_has_a_reason() -> None:
    pairs = [(1.0, 2.0 + place / 100) for place in range(FIRST)]
    assert interval(Ratio.of(pairs)) == {"interval": [2.0, 2.07]}
    assert interval(Ratio.of(pairs[1:])) == {
        "interval": None, "why_no_interval": "7 pairs of steps, 8 are the fewest for 99%"
    }  # fmt: skip


def test_what_is_measured_of_ours_is_the_training_loop_itself(tiny: ModelConfig, shards: Shards) -> None:
    tokens = (WARMUP + 1) * 4 * tiny.context
    config = TrainConfig(model=tiny, optim=OptimConfig(lr=1e-2), tokens=tokens, batch_size=4, device="cpu", log_every=1)
    last = list(train(config, shards))[-1]
    loss, norm = ours(config, Asked(True, 0, CPU), shards.split("train")).step()  # after the steps that do not count
    assert (loss.item(), norm.item()) == (last.train_loss_nats, last.gradient_norm)


def test_a_contender_that_fails_is_told_of_and_the_others_go_on() -> None:
    calls = iter(range(4))
    makers: Any = {
        "good": lambda: Contender(lambda: None, 1),
        "ends early": lambda: Contender(lambda: next(calls), 1),
        "never begins": lambda: 1 // 0,
    }
    found = in_turn(makers, Asked(True, 0, CPU))
    assert len(found["good"].taken) == FIRST
    assert found["good"].failed == ""
    assert "StopIteration" in found["ends early"].failed
    assert "ZeroDivisionError" in found["never begins"].failed


def test_rows_outlive_a_stage_that_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    def fails() -> Iterator[dict[str, Any]]:
        yield {"value": 1.0, "none": [math.inf, math.nan]}
        raise ZeroDivisionError("of all things")

    report = Report(tmp_path / "found.json", CPU)
    report.run("fails", fails, 60)
    report.run("runs", lambda: iter([{"value": 2}]), 60)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fails"]["rows"] == [{"value": 1.0, "none": [None, None]}]
    assert found["fails"]["failed"].endswith("ZeroDivisionError: of all things")
    assert found["runs"]["rows"] == [{"value": 2}]
    assert report.failed


def test_a_stage_without_an_end_is_ended_and_keeps_its_rows() -> None:
    def endless() -> Iterator[dict[str, Any]]:
        yield {"value": 1}
        while True:
            try:
                output([sys.executable, "-c", "import time; time.sleep(600)"], 600)
            except Exception:
                yield {"failed": "the limit is no failure of a part"}

    report = Report(None, CPU)
    report.run("endless", endless, 1)
    assert report.found["endless"]["rows"] == [{"value": 1}]
    assert report.found["endless"]["failed"] == "stopped after 1 s"


def test_of_a_program_that_fails_its_last_words_are_kept() -> None:
    with pytest.raises(RuntimeError, match="exit code 3: so it ends"):
        output([sys.executable, "-c", "import sys; sys.stderr.write('so it ends'); sys.exit(3)"], 60)
    with pytest.raises(RuntimeError, match="not done after"):
        output([sys.executable, "-c", "import time; time.sleep(600)"], 0.2)


def test_packed_runs_are_compared_run_by_run() -> None:
    one = {"runs_an_hour": 50.0, "losses": {"a": 2.0, "b": 3.0}}
    many = {"runs_an_hour": 200.0, "losses": {"b": 3.5, "c": 9.0}}
    assert against(many, one, "one") == {"over_one": 4.0, "nats_from_one": 0.5}
    assert against(many, None, "one") == {}


@pytest.mark.parametrize("has_mps", [False, True])
def test_what_decides_is_measured_first_each_beside_one_at_a_time(
    has_mps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_mps:
        (tmp_path / "nvidia-cuda-mps-control").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    its = plan(GPU)
    first = [(shape.name, way.workers, way.mps) for shape, way in its[:6] if way.workers != 1]
    assert first == [("llama-9m, bytes", 8, has_mps), ("llama-20m, bytes", 8, has_mps)]
    assert has_mps == any(way.mps for _, way in its)
    for place, (shape, way) in enumerate(its):
        before = [(one.name, its.cuda_graph) for one, its in its[:place] if its.workers == 1]
        assert way.workers == 1 or {(shape.name, False), (shape.name, True)} <= set(before)


def test_each_packed_search_trains_the_same_runs_each_once() -> None:
    for shape, way in plan(GPU):
        space = parse_space(search(shape, way, GPU), "packed")
        its = [space.arm(arm) for arm in ARMS] + [space.listed(listed) for listed in space.search.placements]
        dense = space.search.noise_seeds
        assert (space.search.planned, dense) == ((8, 3) if way.workers == 1 else (16, 6))
        assert len(its) == space.search.trials == len({one.proxy.placement.text for one in its})
        assert (space.proxy.tokens, space.proxy.steps, space.proxy.cuda_graph) == (20_000_000, 1221, way.cuda_graph)
        assert {one.proxy.vocab_size for one in its} == {264 if "bytes" in shape.name else 32000}


def test_runs_an_hour_are_from_first_start_to_last_end() -> None:
    def run(number: int, loss: float | None, start: float, seconds: float, arm: str | None = None) -> Record:
        its = record(number, loss, 1, arm)
        times = Measured(device="cpu", started=1e9 + start, seconds=seconds, train_seconds=1.0, peak_memory_bytes=1)
        return its.change(measured=times)

    runs = [run(0, 2.0, 10, 5, arm="dense"), run(1, 2.5, 12, 28), run(2, 2.25, 11, 9), run(3, None, 0, 99)]
    found = told([*runs, run(4, 2.2, 20, 1).change(run="noise-0")])
    assert found["runs_an_hour"] == pytest.approx(4 / 30 * 3600)  # from 10 to 40; one that failed is none
    assert (found["runs"], found["runs_without_a_loss"]) == (4, 1)
    assert found["seed_noise_nats"] == pytest.approx(0.2 / math.sqrt(2))
    with pytest.raises(RuntimeError, match="no run came to its end"):
        told(runs[3:])


def test_matrices_that_read_one_input_are_one_product() -> None:
    ffn = [(64, 256), (128, 64)]
    assert roofline.layer_products(model(), 0) == [(64, 192), (64, 64), *ffn]
    low = [(64, 48), (16, 64), (16, 64), (16, 64), (64, 16), (16, 64)]
    assert roofline.layer_products(model(placement="attention=1/4"), 0) == [*low, *ffn]
    mixed = [(64, 64 + 16 + 8), (16, 64), (8, 64), (64, 64), (64, 128 + 16), (16, 128), (128, 64)]
    assert roofline.layer_products(model(placement="k=1/4 v=1/8 gate=1/4"), 0) == mixed
    grouped = model(n_kv_heads=2, ffn="relu")
    assert roofline.layer_products(grouped, 0) == [(64, 64 + 2 * 32), (64, 64), (64, 128), (128, 64)]


def test_where_memory_is_free_the_roofline_is_the_flops() -> None:
    config = model(placement="attention=1/4", n_layers=3)
    device = roofline.Device(flops_per_second=1e12, bytes_per_second=1e30)
    tokens = 4 * 32
    matmuls = flops_per_token(config) - 12 * 3 * 32 * 64  # the scores: the roofline's are causal, with a flash backward pass
    scores = 3 * 3.5 * 2 * 32 * 64
    expected = tokens * (matmuls + scores) / 1e12
    assert roofline.microbatch_seconds(config, 4, device) == pytest.approx(expected, rel=1e-12)
    assert roofline.step_seconds(config, 4, 5, device) == pytest.approx(5 * expected, rel=1e-9)


def test_where_flops_are_free_the_roofline_is_the_bytes() -> None:
    device = roofline.Device(flops_per_second=1e30, bytes_per_second=1.0)
    # 128 tokens. A product of a x b: 2 (128 a + a b + 128 b) forward and for the input's gradient, 2 x 128 (a + b) + 4 a b for
    # the weight's, 6 a b for its cast: 768 (a + b) + 14 a b.
    qkv, o, gate_up, down, head = 368_640, 155_648, 475_136, 262_144, 901_120
    logits = 128 * 512 * 2 * 3
    attention = (4 + 5 + 3) * 128 * 64 * 2  # reads q, k, v, writes o; reads these and a gradient, writes three
    norms = 2 * 128 * 64 * (4 + 2 + 4 + 2) + 2 * 128 * 64 * (4 + 4 + 4 + 2 + 2)
    positions = 2 * 128 * 64 * 2 * 2 * 2  # q and k, read and written, forward and backward
    gate = (2 + 1 + 3 + 2) * 128 * 128 * 2
    micro = qkv + o + gate_up + down + head + logits + attention + norms + positions + gate
    assert roofline.microbatch_seconds(model(), 4, device) == pytest.approx(micro, rel=1e-9)
    params = 2 * 512 * 64 + 4 * 64 * 64 + 3 * 64 * 128 + 3 * 64
    assert roofline.step_seconds(model(), 4, 2, device) == pytest.approx(2 * micro + 32 * params, rel=1e-9)

    # attention=1/4: qkv and o become 64 x 48, 64 x 16 and four of 16 x 64
    factors = (768 * 112 + 14 * 3072) + (768 * 80 + 14 * 1024) + 4 * (768 * 80 + 14 * 1024)
    low = roofline.microbatch_seconds(model(placement="attention=1/4"), 4, device)
    assert low == pytest.approx(micro - qkv - o + factors, rel=1e-9)


def test_each_operation_takes_the_longer_of_its_two_times() -> None:
    # at 100 FLOPs a byte's time the head, 64 x 512 at 128 tokens, is bound by bytes: its three products have 8,388,608 FLOPs
    # each and 212,992, 212,992 and 278,528 bytes; at 10 by FLOPs, but for its cast of 196,608 bytes
    def head(flops_per_second: float) -> float:
        device = roofline.Device(flops_per_second, 1.0)
        with_head, without = (roofline.microbatch_seconds(model(vocab_size=size), 4, device) for size in (512, 256))
        return with_head - without - 128 * 256 * 6

    half = 64 * 256
    assert head(100.0) == pytest.approx(768 * 256 + 14 * half)
    assert head(10.0) == pytest.approx(3 * 2 * 128 * half / 10 + 6 * half)


def test_of_causal_attention_half_of_the_scores_is_left_out() -> None:
    config = model(n_layers=3)  # queries by keys and by values, 2 FLOPs each, forward and twice backward: half of 3 x 4
    assert roofline.causal_flops_per_token(config) == flops_per_token(config) - 6 * 3 * 32 * 64


def test_of_a_roofline_what_fits_the_cache_is_no_bound() -> None:
    device = roofline.Device(flops_per_second=1e30, bytes_per_second=1.0)
    # At 128 tokens only the product o, 64 x 64, has operations of at most 45,000 bytes: forward and for the input's gradient
    # 2 (2 x 128 x 64 + 64 x 64) each, and its weight's cast, 6 x 64 x 64
    free = 2 * 40_960 + 24_576
    assert roofline.in_l2(model(), 4, 1, device, 45_000) == pytest.approx(free / roofline.step_seconds(model(), 4, 1, device))
    assert roofline.in_l2(model(), 4, 1, device, 0) == 0
    assert roofline.in_l2(model(), 4, 1, device, 1e9) == pytest.approx(1)
