"""What trains in tests/benchmarks/gpu.py: our own loop's step, and that of other programs as their users train fastest."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from lpanas.lpa.data import Batches, near
from lpanas.lpa.distributed import ALONE
from lpanas.lpa.guard import Guard
from lpanas.lpa.kernels import each_shape_by_itself
from lpanas.lpa.kernels import forget as forget_compiled
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer, schedule
from lpanas.lpa.step_time import timed
from lpanas.lpa.train import adder, autocast, fresh, step
from lpanas.lpa.train_config import TrainConfig

WARMUP, TOGETHER = 6, 3
"""Steps before the first that counts, which compile, capture and settle; steps timed as one."""
TOKENS = 2**22
"""Random ones that batches are cut from."""
STEPS = 1000
"""After which the batches come again."""
MODES = {False: (None, "max-autotune-no-cudagraphs"), True: ("reduce-overhead",)}
"""torch.compile's, for other programs, without and with CUDA graphs."""

TOY = {"vocab_size": 264, "context": 32, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "rank_multiple": 4}


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    toy: bool
    seconds: float
    device: torch.device


@dataclass
class Contender:
    """Something that trains: a call is one step."""

    step: Callable[[], object]
    tokens: int
    """A step."""
    first_seconds: float = 0.0
    """From nothing to the end of its first steps, compiling and all."""
    taken: list[float] = field(default_factory=list)
    """Seconds of steps."""
    failed: str = ""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return median(self.taken)


Make = Callable[[], Contender]


def toy() -> ModelConfig:
    """For a CPU."""
    return ModelConfig.parse(TOY, "toy")


def training(model: ModelConfig, batch: int, asked: Asked, **more: Any) -> TrainConfig:
    """A step is one microbatch."""
    device: Any = asked.device.type
    return TrainConfig(model=model, optim=OptimConfig(lr=1e-4), tokens=10**9, batch_size=batch, device=device, **more)


def ours(config: TrainConfig, asked: Asked, tokens: np.ndarray | None = None) -> Contender:
    """Our loop's step: a batch cut where the tokens lie, forward, backward, guard, clipping, schedule, update. tokens: random
    ones when left out."""
    began = time.perf_counter()
    model = fresh(config, asked.device)
    adamw, add = optimizer(model, config.optim), adder(model, config, asked.device, ALONE)
    tokens = random_tokens(config, asked) if tokens is None else tokens
    steps = range(min(config.steps, STEPS))
    batches = near(Batches(tokens, config.model.context, config.batch_size, config.seed), steps, asked.device)
    guard = Guard(asked.device)
    numbers = iter(range(config.steps))

    def once() -> tuple[torch.Tensor, torch.Tensor]:
        number = next(numbers)
        share = schedule(config.optim, number, config.steps)
        return step(model, adamw, batches(number % STEPS), config, number, share, ALONE, guard, add)

    return warmed(Contender(once, config.batch_tokens), asked, began)


def random_tokens(config: TrainConfig, asked: Asked) -> np.ndarray:
    """(tokens,) uint16."""
    count = 2**14 if asked.toy else TOKENS
    return np.random.default_rng(0).integers(config.model.vocab_size, size=count, dtype=np.uint16)


def batch_of(config: TrainConfig, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, context) each, on the device."""
    tokens = random_tokens(config, asked)
    inputs, targets = Batches(tokens, config.model.context, config.batch_size, config.seed)(0)
    return inputs.to(asked.device), targets.to(asked.device)


def hugging_face(config: TrainConfig, mode: str | None, asked: Asked) -> Contender:
    """LlamaForCausalLM as its users train it fastest: compiled, SDPA, autocast, fused AdamW. It waits for no batch."""
    from transformers import LlamaConfig, LlamaForCausalLM

    began, m = time.perf_counter(), config.model
    shape = LlamaConfig(
        vocab_size=m.vocab_size, hidden_size=m.d_model, intermediate_size=m.d_ff, num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads, max_position_embeddings=m.context, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).to(asked.device)
    fast = model if asked.toy else torch.compile(model, mode=mode)
    inputs, _ = batch_of(config, asked)
    return warmed(of_others(model, lambda: fast(input_ids=inputs, labels=inputs).loss, config, asked), asked, began)


def litgpt(config: TrainConfig, mode: str | None, asked: Asked) -> Contender:
    """Its GPT of the same shape, likewise."""
    from litgpt import GPT, Config

    began, m = time.perf_counter(), config.model
    shape = Config(
        block_size=m.context, vocab_size=m.vocab_size, padded_vocab_size=m.vocab_size, n_layer=m.n_layers, n_head=m.n_heads,
        n_embd=m.d_model, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=m.d_ff,
    )  # fmt: skip
    model = GPT(shape).to(asked.device)
    fast = model if asked.toy else torch.compile(model, mode=mode)
    inputs, targets = batch_of(config, asked)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(fast(inputs).flatten(0, 1).float(), targets.flatten())

    return warmed(of_others(model, loss, config, asked), asked, began)


def of_others(model: torch.nn.Module, loss: Callable[[], torch.Tensor], config: TrainConfig, asked: Asked) -> Contender:
    """Another program's model, with what ours has around it."""
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def once() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with autocast(config, asked.device):
            its = loss()
        its.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return Contender(once, config.batch_tokens)


def warmed(one: Contender, asked: Asked, began: float) -> Contender:
    """After what compiles, captures and settles."""
    for _ in range(WARMUP):
        one.step()
    if asked.device.type == "cuda":
        torch.cuda.synchronize()
    one.first_seconds = time.perf_counter() - began
    return one


def in_turn(makers: dict[str, Make], asked: Asked) -> dict[str, Contender]:
    """All on the device together, steps of each in turn until the time is over; one that fails is left, with its words."""
    found = {name: _made(make) for name, make in makers.items()}
    end = time.perf_counter() + asked.seconds
    while going := [one for one in found.values() if not one.failed]:
        if time.perf_counter() >= end and len(going[0].taken) >= 3:
            break
        for one in going:
            try:
                seconds = timed(asked.device, [lambda one=one: [one.step() for _ in range(TOGETHER)] and None])
                one.taken.append(seconds[0] / TOGETHER)
            except Exception as error:
                one.failed, one.step = last_lines(error), lambda: None
                one.taken.clear()
    return found


def _made(make: Make) -> Contender:
    try:
        return make()
    except Exception as error:
        return Contender(lambda: None, 0, failed=last_lines(error))


def last_lines(error: BaseException, count: int = 8) -> str:
    """Of its traceback."""
    return "\n".join("".join(traceback.format_exception(error)).splitlines()[-count:])[-2000:]


@contextmanager
def compiled_alike() -> Iterator[None]:
    """What is compiled knows its shape, the first model's as any later one's, and is forgotten before and after."""
    with each_shape_by_itself("regions"):
        forget()
        try:
            yield
        finally:
            forget()


def forget() -> None:
    """All that was compiled in this process, and memory that nothing holds."""
    forget_compiled()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
