"""What test_distributed.py runs in each of two processes, by torchrun: the parts of a step that a whole training hides."""

import os
import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lpanas.lpa.checkpoint_folder import tensors
from lpanas.lpa.config import UserError, parse_yaml
from lpanas.lpa.data import Batches
from lpanas.lpa.distributed import SharedMistakeError, joined
from lpanas.lpa.guard import DivergedError, Guard
from lpanas.lpa.model import build
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.placement import Placement
from lpanas.lpa.shards import Shards
from lpanas.lpa.train import CHECKPOINT, accumulate, fresh, step, train
from lpanas.lpa.train_config import TrainConfig
from torch.utils._python_dispatch import TorchDispatchMode

MODEL = "{vocab_size: 32, d_model: 8, d_ff: 12, n_layers: 2, n_heads: 2, context: 4, tie_embeddings: true}"
CONFIG = TrainConfig.parse(
    parse_yaml(f"model: {MODEL}\noptim: {{lr: 0.1, lr_rule: uniform}}\ntokens: 64\nbatch_size: 4\ndevice: cpu", "c"), "c"
)

CPU = torch.device("cpu")

PLACEMENT = Placement.parse("0 attention=1/4; 1 up,down=1/4", 2)


def mistake_on_the_second(world) -> None:
    with world.together():
        if world.rank == 1:
            raise UserError("only here")


def what_one_finds_all_hear_of(world) -> None:
    with pytest.raises(SharedMistakeError, match=r"^only here$"):
        mistake_on_the_second(world)
    assert world.largest(world.rank * 15) == 15
    assert list(world.deal("abcde")) == [("ab"[world.rank], True), ("cd"[world.rank], True), ("e", world.rank == 0)]


def a_folder_that_one_does_not_share_is_a_mistake(world) -> None:
    with tempfile.TemporaryDirectory() as own:
        there = Path(world.first_says(own))
        world.check_shared(there)
        with pytest.raises(SharedMistakeError, match=r"^--out [^\n]*process 1 does not see there what process 0 writes"):
            world.check_shared(Path(own), seconds=0.2)
        world.wait()
        assert not list(Path(own).iterdir())


def a_loss_that_one_finds_not_finite_changes_no_weight_anywhere(world) -> None:
    model = build(CONFIG.model.change(tie_embeddings=False), torch.device("cpu"), 0)
    with torch.no_grad():
        model.embedding.weight[5] = torch.nan  # a token that the second process alone reads
    model = world.shard(model, torch.device("cpu"), False)
    adamw = optimizer(model, CONFIG.optim)
    before = [parameter.to_local().clone() for parameter in model.parameters()]
    tokens = torch.full((2, 4), 5 if world.rank else 4)
    with pytest.raises(DivergedError, match=r"^the training loss was nan at step 7$"):
        step(model, adamw, (tokens, tokens), CONFIG, 6, 1.0, world)
    after = [parameter.to_local() for parameter in model.parameters()]
    assert all(torch.equal(*pair) or pair[0].isnan().any() for pair in zip(before, after, strict=True))
    assert not adamw.state


class Called(TorchDispatchMode):
    """How often an operator of torch was called."""

    def __init__(self, operator) -> None:
        super().__init__()
        self.operator, self.count = operator, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is self.operator.default
        return func(*args, **kwargs or {})


def local(tensors) -> list[torch.Tensor]:
    return [tensor.to_local().clone() for tensor in tensors]


def steps_with(guard, world, bad: range, reads: list[int]) -> list[list[torch.Tensor]]:
    """This process's weights after each of five steps, of which the second process finds some not finite."""
    model = fresh(CONFIG, CPU, world)
    adamw, after = optimizer(model, CONFIG.optim), []
    for number in range(5):
        tokens, norm = torch.arange(8).view(2, 4) + 8 * world.rank, model.norm.weight.detach().to_local()
        kept = norm.clone()
        if world.rank and number in bad:
            norm.fill_(torch.nan)
        with Called(torch.ops.aten._local_scalar_dense) as read:  # for which a GPU would have to be waited for
            step(model, adamw, (tokens, tokens), CONFIG, number, 1.0, world, guard)
        if world.rank and number in bad:
            norm.copy_(kept)
        reads.append(read.count)
        after.append(local(model.parameters()))
    return after


def without_a_wait_no_weight_moves_anywhere_from_a_bad_step_on(world) -> None:
    """And the steps before it are those of processes that wait, to the bit."""
    guard, reads, its_reads = Guard(CPU, waits=False), [], []
    after = steps_with(guard, world, range(2, 3), reads)
    waiting = steps_with(Guard(CPU), world, range(0), its_reads)
    for number in range(5):
        assert all(map(torch.equal, after[number], waiting[min(number, 1)]))
    assert reads == [0] * 5
    assert all(its_reads)
    with pytest.raises(DivergedError, match=r"^the training loss was nan at step 3$"):
        guard.check()


def one_bad_window(folder: Path, number: int, config: TrainConfig) -> Shards:
    """Tokens from 0 to 15, and a single 20: in what the second of two processes reads at a step (0-based)."""
    tokens = np.arange(1 + config.tokens, dtype=np.uint16) % 16
    window = Batches(tokens, config.model.context, config.batch_size, config.seed, slice(2, 4)).read(number)[0]
    tokens[window * config.model.context + 1] = 20
    for name, split in {"train": tokens, "valid": tokens[:5] % 16, "test": tokens[:5] % 16}.items():
        split.tofile(folder / f"{name}.bin")
    return Shards(folder, "", {"train": len(tokens), "valid": 5, "test": 5}, {}, 32)


def tell(steps, count: int, told: list[int]) -> None:
    with closing(steps):
        told.extend(progress.step for progress in islice(steps, count))


def where_a_training_without_waits_ends(world, count: int) -> tuple[int, list[str]]:
    """The last step that it tells, of `count` at most, and the checkpoints that it leaves beside the one that it begins with,
    whose embedding of the token 20 is not a number."""
    model = CONFIG.model.change(tie_embeddings=False)
    config = CONFIG.change(model=model, tokens=16 * 12, log_every=4, evals=1, seed=2)
    with tempfile.TemporaryDirectory() as own:
        folder = Path(world.first_says(own))
        shards, out = one_bad_window(folder, 5, config), folder / "out"
        if world.is_first:
            alone = train(config, shards, out)
            next(alone)
            alone.close()
            state = torch.load(out / CHECKPOINT)
            state["model"]["embedding.weight"][20] = torch.nan
            torch.save(state, out / CHECKPOINT)
        world.wait()
        told: list[int] = []
        with pytest.raises(DivergedError, match=r"^the training loss was nan at step 6$"):
            tell(train(config, shards, out, world=world, guard=Guard(CPU, waits=False)), count, told)
        world.wait()
        found = told[-1], sorted(path.name for path in out.glob("checkpoint*"))
        world.wait()
    return found


def a_training_without_waits_says_at_its_next_line_everywhere_which_step_was_bad_and_keeps_none_after_it(world) -> None:
    """Also when it is stopped before that line."""
    assert where_a_training_without_waits_ends(world, 99) == (7, [CHECKPOINT])
    assert where_a_training_without_waits_ends(world, 5) == (6, [CHECKPOINT])


def gradients_are_those_of_one_process(world) -> None:
    """With tied embeddings, microbatches that are averaged apart or together, activations computed again, and a bias in the
    head."""
    config = CONFIG.change(microbatch=1, model=CONFIG.model.change(head_bias=True))
    stream = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(32, (2, 4, 4), generator=stream)
    alone = build(config.model, CPU, 0)
    loss = accumulate(alone, inputs, targets, config.change(microbatch=None))
    part, groups = world.part(4), CONFIG.model.n_layers + 1
    for every, averages in {"microbatch": 2 * groups, "batch": groups}.items():
        its = config.change(activation_checkpointing=True, average_every=every)
        model = fresh(its, CPU, world)
        with Called(torch.ops.c10d._reduce_scatter_base_) as averaged:
            shared = world.mean(accumulate(model, inputs[part], targets[part], its))
        assert averaged.count == averages
        torch.testing.assert_close(shared, loss)
        for (name, one), (other_name, other) in zip(alone.named_parameters(), model.named_parameters(), strict=True):
            assert name == other_name
            assert other.grad.to_local().numel() < one.numel()
            torch.testing.assert_close(other.grad.full_tensor(), one.grad)


def weights_are_the_bits_of_one_process(world) -> None:
    """Matrices whose rows do not divide, factors, biases, tied embeddings."""
    shape = {"d_ff": 13, "bias": True, "norm": "layer_after", "positions": "learned", "rank_multiple": 1}
    model = CONFIG.model.change(**shape, placement=PLACEMENT)
    for init in ("matched", "lpa"):
        config = CONFIG.change(model=model.change(init=init), seed=3)
        alone, parts = fresh(config, torch.device("cpu")), fresh(config, torch.device("cpu"), world)
        assert parts.head.weight is parts.embedding.weight
        for (name, one), (other_name, other) in zip(alone.named_parameters(), parts.named_parameters(), strict=True):
            assert name == other_name
            assert other.to_local().numel() < one.numel()
            assert torch.equal(other.full_tensor(), one)


def bfloat16_keeps_float32_weights_gradients_and_stream(world) -> None:
    """And gives what one process gives under autocast."""
    config = CONFIG.change(precision="bfloat16")
    model = fresh(config, torch.device("cpu"), world)
    adamw = optimizer(model, OptimConfig(lr=0.1, lr_rule="uniform"))
    streams = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, given: streams.append(given[0].dtype))
    tokens = torch.arange(8).view(2, 4)
    alone = fresh(config, torch.device("cpu"))
    exact, rounded = accumulate(alone, tokens, tokens, config), accumulate(model, tokens, tokens, config)
    torch.testing.assert_close(rounded, exact, rtol=1e-6, atol=0)
    assert set(streams) == {torch.float32}
    for one, other in zip(alone.parameters(), model.parameters(), strict=True):
        assert other.grad.dtype == torch.float32
        assert (other.grad.full_tensor() - one.grad).norm() < 0.01 * one.grad.norm()
    adamw.step()
    assert {value.dtype for value in tensors(model, adamw).values()} == {torch.float32}


if __name__ == "__main__":
    with joined() as world:
        for check in (
            what_one_finds_all_hear_of,
            a_folder_that_one_does_not_share_is_a_mistake,
            a_loss_that_one_finds_not_finite_changes_no_weight_anywhere,
            without_a_wait_no_weight_moves_anywhere_from_a_bad_step_on,
            a_training_without_waits_says_at_its_next_line_everywhere_which_step_was_bad_and_keeps_none_after_it,
            gradients_are_those_of_one_process,
            weights_are_the_bits_of_one_process,
            bfloat16_keeps_float32_weights_gradients_and_stream,
        ):
            check(world)
            dist.barrier()
            print(f"{check.__name__} {os.environ['RANK']}", flush=True)
