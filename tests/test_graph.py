"""Steps of a captured graph are those that are taken as they come: on a CPU with captures as recorded.py makes them, and on a
GPU."""

import gc
import weakref
from itertools import islice
from pathlib import Path

import pytest
import recorded
import torch
from lpanas.lpa import checkpoint
from lpanas.lpa.checkpoint import Reached
from lpanas.lpa.config import UserError
from lpanas.lpa.data import Batches, DataConfig, Shards
from lpanas.lpa.distributed import ALONE
from lpanas.lpa.graph import WARMUP, Add, Graphed, free
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import optimizer
from lpanas.lpa.train import adder, evaluate, fresh, scorer, step, train
from lpanas.lpa.train_config import TrainConfig

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
TIED = {"tie_embeddings": True}
LOW_RANK = {"placement": "0 q,k=1/4; 1 down=1/4"}


@pytest.fixture
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    """Twelve steps."""
    optim = {"lr": 1e-2, "lr_rule": "uniform"}
    raw = {"model": tiny, "data": pages, "optim": optim, "tokens": 16 * 4 * 12, "batch_size": 4, "microbatch": 2}
    return TrainConfig.model_validate(raw | {"log_every": 1, "evals": 3})


def begun(config: TrainConfig, graph: bool) -> tuple[Decoder, torch.optim.AdamW, Add, Add]:
    """A model, its optimizer, what adds a gradient and what gives a loss."""
    model = fresh(config, CPU)
    add = adder(model, config.change(cuda_graph=False), CPU, ALONE)
    add = Graphed(add, list(model.parameters())) if graph else add
    return model, optimizer(model, config.optim), add, scorer(model, config, add)


def losses(config: TrainConfig, shards: Shards, graph: bool, stops: tuple[int, ...], out: Path) -> list[float]:
    """Of training, and after every second step of validation. stops: steps after which a checkpoint is gone on from."""
    batches = Batches(shards.split("train"), config.model.context, config.batch_size, config.seed)
    model, adamw, *its = begun(config, graph)
    found: list[float | torch.Tensor] = []
    for number in range(config.steps):
        if number in stops:
            checkpoint.save(out, "one", Reached(number), model, adamw)
            model, adamw, *its = begun(config, graph)
            checkpoint.load(out, "one", model, adamw)
        add, score = its
        found.append(step(model, adamw, batches(number), config, number, 1.0, add=add)[0])
        if number % 2:
            found.append(evaluate(model, shards, "valid", config, score=score))
    assert all(isinstance(one, Graphed) and isinstance(one.graph, recorded.Recorded) for one in its) or not graph
    return [float(loss) for loss in found]


@pytest.mark.parametrize("microbatch", [4, 2, 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [{}, TIED, LOW_RANK], ids=["apart", "tied", "low rank"])
def test_replayed_steps_are_to_the_bit_those_taken_as_they_come(
    model: dict[str, object],
    precision: str,
    microbatch: int,
    config: TrainConfig,
    shards: Shards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded.use(monkeypatch)
    config = config.change(model=config.model.change(**model), precision=precision, microbatch=microbatch)
    one, other = (losses(config, shards, graph, (), tmp_path / "state") for graph in (False, True))
    assert other == one
    assert len(set(one)) == len(one)


@pytest.mark.parametrize("stops", [(WARMUP - 1,), (WARMUP, WARMUP + 1), (6, 8)])
def test_a_training_that_goes_on_captures_anew_and_takes_the_same_steps(
    stops: tuple[int, ...], config: TrainConfig, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.use(monkeypatch)
    one, other = (losses(config, shards, *how, tmp_path / "state") for how in ((False, ()), (True, stops)))
    assert other == one


def test_of_batches_of_another_shape_the_loss_is_that_which_comes(
    config: TrainConfig, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one of a split is smaller."""
    recorded.use(monkeypatch)
    windows = 2 * 7 + 1
    config = config.change(data=config.data.change(valid_tokens=windows * config.model.context))
    model, _, _, score = begun(config, graph=True)
    plain = evaluate(model, shards, "valid", config)
    assert [evaluate(model, shards, "valid", config, score=score) for _ in range(3)] == [plain] * 3
    assert isinstance(score, Graphed)
    assert isinstance(score.graph, recorded.Recorded)


def test_a_run_that_has_ended_holds_nothing_and_the_next_one_has_its_stream(
    config: TrainConfig, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.use(monkeypatch)
    cleared = list[int]()
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: cleared.append(1), raising=False)
    model, _, add, score = begun(config, graph=True)
    batch = Batches(shards.split("train"), config.model.context, config.batch_size, config.seed)(0)
    assert isinstance(add, Graphed)
    assert isinstance(score, Graphed)
    assert score.pool is add.pool
    for one in (add, score) * (WARMUP + 1):
        one(*batch)
    gradient = weakref.ref(add.gradients[0])
    losses, captured = [weakref.ref(one.loss) for one in (add, score)], add.graph
    for parameter in model.parameters():
        parameter.grad = None
    del one
    free(add, score)
    assert gradient() is None
    assert [one() for one in losses] == [None, None]
    assert isinstance(captured, recorded.Recorded)
    assert not captured.calls
    assert cleared == [1]
    assert add.stream is begun(config, graph=True)[2].stream  # pyrefly: ignore[missing-attribute]
    free(adder(model, config, CPU, ALONE))  # no graph
    assert cleared == [1]


@pytest.mark.parametrize("stop", [None, 2])
def test_of_a_run_that_has_ended_no_model_is_left_whose_memory_the_next_one_would_count(
    stop: int | None, config: TrainConfig, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing collects garbage."""
    models = list[weakref.ref[Decoder]]()

    def made(*its: object) -> Decoder:
        model = fresh(*its)  # pyrefly: ignore[bad-argument-type]
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr("lpanas.lpa.train.fresh", made)
    gc.disable()
    try:
        for _ in islice(train(config.change(device="cpu"), shards), stop):
            pass
        assert [model() for model in models] == [None]
    finally:
        gc.enable()


def on_a_gpu(config: TrainConfig, **changes: object) -> TrainConfig:
    return config.change(device="cuda", kernels="plain", precision="float32").change(**changes)


def rows(config: TrainConfig, shards: Shards, out: Path | None = None) -> list[float]:
    """The losses of training and validation."""
    told = train(config, shards, out)
    return [loss for row in told for loss in (row.train_loss_nats, row.valid_loss_nats) if loss is not None]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("microbatch", [4, 1])
@pytest.mark.parametrize(("kernels", "precision"), [("plain", "float32"), ("regions", "float32"), ("regions", "bfloat16")])
@pytest.mark.parametrize("model", [{}, TIED, LOW_RANK], ids=["apart", "tied", "low rank"])
def test_a_graph_takes_the_same_steps_on_a_gpu(
    model: dict[str, object], kernels: str, precision: str, microbatch: int, config: TrainConfig, shards: Shards
) -> None:
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    computed = {"kernels": kernels, "precision": precision, "microbatch": microbatch}
    config = on_a_gpu(config, model=config.model.change(**model), **computed)
    one, other = (rows(config.change(cuda_graph=graph), shards) for graph in (False, True))
    assert other == pytest.approx(one, rel=1e-5 if precision == "float32" else 2e-3)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("stop", [2, 6])
def test_a_training_on_a_gpu_goes_on_with_a_graph(stop: int, config: TrainConfig, shards: Shards, tmp_path: Path) -> None:
    """Also with one in the place of none, which do not decide the result."""
    config = on_a_gpu(config)
    steps = train(config.change(cuda_graph=True), shards, tmp_path)
    begun = [row.train_loss_nats for row in islice(steps, stop)]
    steps.close()
    rest = [row.train_loss_nats for row in train(config.change(cuda_graph=True), shards, tmp_path)]
    assert [*begun, *rest] == pytest.approx([row.train_loss_nats for row in train(config, shards)], rel=1e-5)


def test_a_graph_without_a_gpu_is_a_mistake_in_one_line(config: TrainConfig, shards: Shards) -> None:
    with pytest.raises(UserError, match=r"cuda_graph: only on one GPU alone, found 1 on cpu"):
        next(train(config.change(device="cpu", cuda_graph=True), shards))


def test_what_draws_random_numbers_has_no_graph(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"cuda_graph: not with dropout"):
        config.change(cuda_graph=True, activation_checkpointing=True)
