import json
import math
import random
import shutil
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa import train as training
from lpanas.lpa.config import UserError
from lpanas.lpa.data import Batches, DataConfig, Shards, valid_batches
from lpanas.lpa.guard import DivergedError
from lpanas.lpa.kernels import compilations, regions
from lpanas.lpa.metrics import Speed, named_peak
from lpanas.lpa.model import build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer, schedule
from lpanas.lpa.placement import Placement
from lpanas.lpa.train import Progress, evaluate, fresh, is_bfloat16, reached, train
from lpanas.lpa.train_config import TrainConfig

Rows = list[dict[str, Any]]
CLOCK = ("seconds", "tokens_per_second")


@pytest.fixture(scope="session")
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    """Twelve steps of four sequences, with low rank, silu and a clipped gradient."""
    model = ModelConfig.parse(tiny.model_dump() | {"placement": "0 q,k=1/4; 1 down=1/4", "factor_activation": "silu"}, "model")
    optim = OptimConfig(lr=1e-2, weight_decay=0.1)
    return TrainConfig(
        model=model, data=pages, optim=optim, tokens=12 * 4 * 16, batch_size=4, evals=3, log_every=1, device="cpu"
    )


def run(config: TrainConfig, shards: Shards, out: Path | None = None) -> list[Progress]:
    return list(train(config, shards, out))


def metrics(out: Path) -> Rows:
    """The lines of metrics.jsonl, without the clock."""
    rows: Rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def state(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def same_end(one: Path, other: Path) -> bool:
    """Whether two runs have ended with the same weights and moments, bit for bit."""
    left, right = state(one), state(other)
    moments = [
        torch.equal(value, right["optimizer"]["state"][number][name])
        for number, entry in left["optimizer"]["state"].items()
        for name, value in entry.items()
    ]
    weights = [torch.equal(value, right["model"][name]) for name, value in left["model"].items()]
    return left["step"] == right["step"] and all(moments + weights)


def losses(rows: list[Progress]) -> list[float]:
    return [row.train_loss_nats for row in rows if row.train_loss_nats is not None]


def test_the_same_seed_gives_the_same_bits(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        random.seed(seed)
        run(config, shards, tmp_path / name)
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert same_end(tmp_path / "one", tmp_path / "two")
    run(config.change(seed=1), shards, tmp_path / "three")
    assert metrics(tmp_path / "one")[0]["train_loss_nats"] != metrics(tmp_path / "three")[0]["train_loss_nats"]


def test_a_run_does_not_depend_on_how_it_is_watched(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config, shards, tmp_path / "close")
    run(config.change(evals=1, log_every=5, checkpoint_every=2), shards, tmp_path / "far")
    assert same_end(tmp_path / "close", tmp_path / "far")
    assert metrics(tmp_path / "close")[-1]["valid_loss_nats"] == metrics(tmp_path / "far")[-1]["valid_loss_nats"]
    assert config.change(evals=1, log_every=5, checkpoint_every=2).fingerprint("a") == config.fingerprint("a")


@pytest.mark.parametrize("log_every", [1, 3, 5])
@pytest.mark.parametrize("stops", [[1], [4], [11], [2, 3, 5]])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stops: list[int], log_every: int, config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    config = config.change(log_every=log_every)
    run(config, shards, tmp_path / "whole")
    for count in stops:
        steps = train(config, shards, tmp_path / "parts")
        list(islice(steps, count))
        steps.close()
    assert reached(tmp_path / "parts", config, shards).step == sum(stops)
    rest = run(config, shards, tmp_path / "parts")
    assert [row.step for row in rest] == list(range(sum(stops) + 1, 13))
    assert same_end(tmp_path / "parts", tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_resumed_run_drops_out_what_an_uninterrupted_one_does(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    config = config.change(model=config.model.change(dropout=0.2))
    for out, count in ((tmp_path / "whole", 12), (tmp_path / "parts", 5), (tmp_path / "parts", 7)):
        steps = train(config, shards, out)
        assert len(list(islice(steps, count))) == count
        steps.close()
    assert same_end(tmp_path / "parts", tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    kept, dropped = (losses(run(config.change(model=config.model.change(dropout=rate)), shards)) for rate in (0.0, 0.2))
    assert kept[0] != dropped[0]


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_killed_run_goes_on_from_its_checkpoint_and_tells_no_step_twice(
    log_every: int, config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    config = config.change(checkpoint_every=5, log_every=log_every)
    run(config, shards, tmp_path / "whole")
    steps = train(config, shards, tmp_path / "running")
    list(islice(steps, 7))
    shutil.copytree(tmp_path / "running", tmp_path / "killed")  # what a SIGKILL leaves at this instant
    steps.close()
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "train_lo')
    assert [row.step for row in run(config, shards, tmp_path / "killed")] == list(range(6, 13))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert same_end(tmp_path / "killed", tmp_path / "whole")


def test_a_run_killed_before_its_first_checkpoint_starts_anew(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config, shards, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "metrics.jsonl").write_text('{"step": 1, "train_loss_nats": 9.0}\n{"step": 2')
    run(config, shards, tmp_path / "killed")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_seconds_go_on_where_a_run_stopped(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    config = config.change(log_every=1)
    for number in (4, 3, 12):
        steps = train(config, shards, tmp_path)
        told = list(islice(steps, number))
        steps.close()
        assert told[0].seconds < told[-1].seconds
        state = torch.load(tmp_path / "checkpoint.pt")
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        seconds = [line["seconds"] for line in lines]
        assert seconds == sorted(seconds)
        assert seconds[-1] <= state["seconds"]
        torch.save(state | {"seconds": state["seconds"] + 1000}, tmp_path / "checkpoint.pt")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [int(second // 1000) for second in seconds] == 4 * [0] + 3 * [1] + 5 * [2]


def test_a_checkpoint_that_knows_no_seconds_goes_on_from_those_of_the_last_line(
    config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    steps = train(config.change(log_every=1), shards, tmp_path)
    list(islice(steps, 4))
    steps.close()
    state = torch.load(tmp_path / "checkpoint.pt")
    del state["seconds"]
    torch.save(state, tmp_path / "checkpoint.pt")
    run(config.change(log_every=1), shards, tmp_path)
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(seconds) == 12
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("line", ['{"step": 3, "tok', "[1]", '"step"', '{"tokens": 3}', "3"])
def test_a_damaged_line_of_the_log_is_dropped_and_said(
    line: str, config: TrainConfig, shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config.change(log_every=1)
    run(config, shards, tmp_path / "whole")
    steps = train(config, shards, tmp_path / "stopped")
    list(islice(steps, 7))
    steps.close()
    with open(tmp_path / "stopped" / "metrics.jsonl", "a") as file:
        file.write(f"{line}\n")
    run(config, shards, tmp_path / "stopped")
    said = f"lpanas: {tmp_path / 'stopped' / 'metrics.jsonl'}: 1 line that cannot be read is dropped\n"
    assert capsys.readouterr().err == said
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_finished_run_is_not_done_again(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config, shards, tmp_path)
    before = metrics(tmp_path)
    assert run(config, shards, tmp_path) == []
    assert metrics(tmp_path) == before
    assert reached(tmp_path, config, shards).step == config.steps == 12


def test_a_folder_of_a_run_on_other_data_is_refused(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config, shards, tmp_path)
    with pytest.raises(UserError, match="of other data"):
        run(config, replace(shards, content="other"), tmp_path)


def test_a_folder_of_another_config_is_refused_and_left_alone(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config, shards, tmp_path)
    before = metrics(tmp_path)
    for other in (config.change(seed=1), config.change(tokens=config.tokens * 2)):
        with pytest.raises(UserError, match="a checkpoint of another config"):
            run(other, shards, tmp_path)
        with pytest.raises(UserError, match="a checkpoint of another config"):
            reached(tmp_path, other, shards)
    assert metrics(tmp_path) == before


def test_a_run_without_a_folder_writes_nothing_and_is_the_same(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    told, silent = run(config, shards, tmp_path / "a"), run(config, shards)
    assert losses(silent) == losses(told)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["checkpoint.pt", "config.yaml", "metrics.jsonl"]


@pytest.mark.parametrize("microbatch", [1, 2])
def test_accumulation_follows_the_whole_batch(microbatch: int, config: TrainConfig, shards: Shards) -> None:
    whole = run(config, shards)
    parts = run(config.change(microbatch=microbatch), shards)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert parts[-1].valid_loss_nats == pytest.approx(whole[-1].valid_loss_nats, abs=1e-5)


def test_activation_checkpointing_gives_the_same_bits(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    config = config.change(model=config.model.change(dropout=0.2))
    run(config, shards, tmp_path / "kept")
    steps = train(config, shards, tmp_path / "again")
    list(islice(steps, 5))
    steps.close()
    run(config.change(activation_checkpointing=True), shards, tmp_path / "again")
    assert same_end(tmp_path / "kept", tmp_path / "again")
    again = metrics(tmp_path / "again")
    assert [row["activation_checkpointing"] for row in again] == [False] * 5 + [True] * 7
    assert metrics(tmp_path / "kept") == [row | {"activation_checkpointing": False} for row in again]


def test_a_log_line_tells_the_speed_since_the_one_before(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config.change(log_every=5, evals=1), shards, tmp_path)
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ends = [(0, 0.0), *((row["tokens"], row["seconds"]) for row in told)]
    rates = [(after[0] - before[0]) / (after[1] - before[1]) for before, after in pairwise(ends)]
    assert [row["tokens_per_second"] for row in told] == pytest.approx(rates)
    assert not any("mfu" in row for row in told)  # a CPU has no peak that is known


@pytest.mark.parametrize(("asked", "used"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_log_line_tells_what_its_speed_is_of(
    asked: str, used: str, config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    run(config.change(precision=asked), shards, tmp_path)
    names = ("devices", "device", "precision", "kernels", "cuda_graph", "activation_checkpointing", "microbatch")
    assert {tuple(row[name] for name in names) for row in metrics(tmp_path)} == {(1, "cpu", used, "plain", False, False, 4)}


def test_an_interval_in_which_something_was_compiled_has_no_speed() -> None:
    its = regions("eager")
    speed = Speed(flops_per_token=6, peak_flops=None, tokens=0, count=compilations)
    parts = (torch.ones(3, 5), torch.ones(3, 5))
    its.swiglu(parts)
    assert speed.since(10, 9.0) == {}
    its.swiglu(parts)
    assert speed.since(20, 10.0) == {"tokens_per_second": 10.0}
    with torch.no_grad():  # an evaluation's first
        its.swiglu(parts)
    assert speed.since(30, 20.0) == {}
    assert speed.since(40, 21.0) == {"tokens_per_second": 10.0}


def test_mfu_is_the_models_flops_a_second_over_the_devices() -> None:
    speed = Speed(flops_per_token=6 * 10**9, peak_flops=8 * 989e12, tokens=1000)
    found = speed.since(1000 + 10**6, 2.0)
    assert found == {"tokens_per_second": 5e5, "mfu": pytest.approx(3e15 / 7.912e15)}
    assert speed.since(1000 + 2 * 10**6, 3.0)["tokens_per_second"] == 1e6
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "NVIDIA L40S")
    assert [named_peak(name) for name in names] == [989e12, 756e12, 312e12, 165.2e12, 362.05e12]
    others = ("Something", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H200 NVL", "NVIDIA L4", "NVIDIA A10", "NVIDIA H20")
    assert [named_peak(name) for name in others] == [None] * 6
    assert named_peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def saved(config: TrainConfig, layers: int, again: bool) -> int:
    """Numbers that a forward pass of 4 sequences keeps for the backward pass, the weights left out."""
    model = config.model.change(n_layers=layers, placement=Placement.from_bands(layers, [{}]))
    decoder = fresh(config.change(model=model, activation_checkpointing=again), torch.device("cpu"))
    weights, found = {parameter.data_ptr() for parameter in decoder.parameters()}, dict[int, torch.Tensor]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            found[tensor.data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(4, 16, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder.loss(tokens, tokens)
    return sum(tensor.numel() for tensor in found.values())


def test_activation_checkpointing_keeps_no_more_of_a_block_than_its_input(config: TrainConfig) -> None:
    inputs = 3 * 4 * 16 * 16  # of three layers more: sequences, tokens, width
    assert saved(config, 4, True) - saved(config, 1, True) <= inputs
    assert saved(config, 4, False) - saved(config, 1, False) > 8 * inputs


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_loop_is_plain_adamw_with_clipping(kind: str, config: TrainConfig, shards: Shards) -> None:
    optim = OptimConfig.parse({"lr": 0.03, "lr_rule": "uniform", "schedule": kind, "clip": 0.5}, "optim")
    config = config.change(optim=optim)
    model = build(config.model, torch.device("cpu"), config.seed)
    plain = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0, foreach=False)
    batches, expected = Batches(shards.split("train"), 16, 4, config.seed), []
    for step in range(12):
        loss = model.loss(*batches(step))
        plain.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
        for parameter in model.parameters():
            parameter.grad.mul_(min(1, 0.5 / norm))
        plain.param_groups[0]["lr"] = 0.03 * schedule(optim, step, 12)
        plain.step()
        expected.append(loss.item())
    assert losses(run(config, shards)) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("placement", ["dense", "attention=1/4", "ffn=1/4"])
def test_the_loss_falls_on_a_repetitive_text(placement: str, config: TrainConfig, shards: Shards) -> None:
    model = ModelConfig.parse(config.model.model_dump() | {"placement": placement}, "model")
    rows = run(config.change(model=model, tokens=150 * 4 * 16, optim=OptimConfig(lr=2e-2)), shards)
    assert losses(rows)[0] == pytest.approx(math.log(257), abs=1)
    assert rows[-1].valid_loss_nats is not None
    assert rows[-1].valid_loss_nats < 1.5


def test_a_logged_loss_is_the_mean_since_the_last_log_line(config: TrainConfig, shards: Shards) -> None:
    each, some = losses(run(config, shards)), run(config.change(log_every=5, evals=1), shards)
    logged = {row.step: row.train_loss_nats for row in some if row.train_loss_nats is not None}
    means = {5: sum(each[:5]) / 5, 10: sum(each[5:10]) / 5, 12: sum(each[10:]) / 2}
    assert logged == pytest.approx(means, rel=1e-6)


def test_progress_counts_steps_and_tokens(config: TrainConfig, shards: Shards) -> None:
    rows = run(config, shards)
    assert [(row.step, row.tokens) for row in rows] == [(step, step * 64) for step in range(1, 13)]


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_diverging_run_says_so(log_every: int, config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e6, lr_rule="uniform", clip=None)
    steps = train(config.change(optim=optim, log_every=log_every), shards, tmp_path)
    with pytest.raises(DivergedError, match=r"^the (training loss|gradient's norm) was (nan|inf) at step \d+$"):
        list(steps)
    rows = metrics(tmp_path)
    assert all(math.isfinite(row["train_loss_nats"]) for row in rows)


def test_a_gradient_that_is_not_finite_changes_no_weight(config: TrainConfig) -> None:
    model = fresh(config, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    tokens = torch.zeros(4, 16, dtype=torch.long)
    with pytest.raises(DivergedError, match=r"^the gradient's norm was (nan|inf) at step 3$"):
        training.step(model, optimizer(model, config.optim), (tokens, tokens), config, 2, share=1.0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_a_log_line_tells_rate_and_gradient_of_its_step(config: TrainConfig, shards: Shards) -> None:
    rows = run(config.change(log_every=5, evals=1), shards)
    assert {row.step: row.lr for row in rows if row.lr is not None} == {
        number: config.optim.lr * schedule(config.optim, number - 1, 12) for number in (5, 10, 12)
    }
    assert {row.step for row in rows if row.gradient_norm is not None} == {5, 10, 12}
    model = build(config.model, torch.device("cpu"), config.seed)
    model.loss(*Batches(shards.split("train"), 16, 4, config.seed)(0)).backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert run(config, shards)[0].gradient_norm == pytest.approx(norm, rel=1e-5)


@given(tokens=st.integers(1, 10**9), batch_size=st.integers(1, 64))
def test_steps_round_up(tokens: int, batch_size: int) -> None:
    model = ModelConfig.parse({"vocab_size": 257, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "context": 16}, "m")
    config = TrainConfig(model=model, optim=OptimConfig(lr=1e-3), tokens=tokens, batch_size=batch_size)
    assert config.batch_tokens == batch_size * 16
    assert (config.steps - 1) * config.batch_tokens < tokens <= config.steps * config.batch_tokens


@pytest.mark.parametrize(
    ("evals", "expected"), [(1, [12]), (3, [4, 8, 12]), (4, [3, 6, 9, 12]), (12, [*range(1, 13)]), (50, [*range(1, 13)])]
)
def test_evaluations_are_evenly_spaced_and_the_last_is_at_the_end(
    evals: int, expected: list[int], config: TrainConfig, shards: Shards
) -> None:
    rows = run(config.change(evals=evals, log_every=100), shards)
    assert [row.step for row in rows if row.valid_loss_nats is not None] == expected


@pytest.mark.parametrize("evals", [5, 7, 8, 11])
def test_evaluations_that_do_not_divide_the_steps_are_nearly_even(evals: int, config: TrainConfig, shards: Shards) -> None:
    steps = [0, *(row.step for row in run(config.change(evals=evals), shards) if row.valid_loss_nats is not None)]
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert (len(gaps), steps[-1]) == (evals, 12)
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("microbatch", [None, 1, 2])
def test_evaluation_is_the_mean_over_the_validation_windows(
    microbatch: int | None, config: TrainConfig, shards: Shards
) -> None:
    config = config.change(microbatch=microbatch, data=config.data.change(valid_tokens=7 * 16))
    model = build(config.model, torch.device("cpu"), 0)
    with torch.no_grad():
        one_by_one = [model.loss(*pair).item() for pair in valid_batches(shards.split("valid"), 16, 7 * 16, 1)]
    assert len(one_by_one) == 7
    assert evaluate(model, shards, "valid", config) == pytest.approx(sum(one_by_one) / 7, rel=1e-6)
    assert model.training


def test_bfloat16_keeps_float32_weights_and_stays_near(config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    run(config.change(precision="bfloat16"), shards, tmp_path)
    exact = losses(run(config, shards))
    rounded = [row["train_loss_nats"] for row in metrics(tmp_path)]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
    moments = [value for entry in state(tmp_path)["optimizer"]["state"].values() for value in entry.values()]
    assert {value.dtype for value in [*state(tmp_path)["model"].values(), *moments]} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"microbatch": 3}, "microbatch: 3 does not divide batch_size 4"),
        ({"tokens": 0}, "tokens: expected greater than 0"),
        ({"optim": {"lr": 0.01, "beta1": 1.0}}, "optim.beta1: expected less than 1, found 1.0"),
        ({"optim": {"lr": 0.01, "beta2": 1.0}}, "optim.beta2: expected less than 1, found 1.0"),
        (
            {"model": {"vocab_size": 9, "d_model": 8, "d_ff": 8, "n_layers": 1, "n_heads": 1, "tie_embeddings": True}},
            "train: optim.lr_rule: mup does not carry tied embeddings across widths, expected 'uniform'",
        ),
    ],
)
def test_a_training_that_cannot_run_is_refused(change: dict[str, Any], mistake: str, config: TrainConfig) -> None:
    with pytest.raises(UserError, match=mistake):
        TrainConfig.parse(config.model_dump() | change, "train")


@pytest.mark.parametrize(("precision", "expected"), [("auto", False), ("float32", False), ("bfloat16", True)])
def test_a_cpu_has_bfloat16_where_it_is_asked_for(precision: str, expected: bool, config: TrainConfig) -> None:
    config = config.change(precision=precision)
    assert is_bfloat16(config, config.resolve_device()) is expected
