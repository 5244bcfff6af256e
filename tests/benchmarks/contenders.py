"""What trains in tests/benchmarks/gpu.py: our own loop's step, and that of other programs as their users train fastest."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lpanas.lpa.distributed import ALONE
from lpanas.lpa.model import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.step_time import timed
from lpanas.lpa.train import TrainConfig, adder, autocast, fresh, gradient_norm, update


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    toy: bool
    seconds: float
    device: torch.device


@dataclass
class Contender:
    """Something that trains: a call is one step."""

    name: str
    step: Callable[[], object]
    tokens: int
    """A step."""
    first_seconds: float = 0.0
    """Of its first steps, compiling and all."""


def training(model: ModelConfig, batch: int, asked: Asked, **more: Any) -> TrainConfig:
    """A step is one microbatch."""
    device: Any = asked.device.type
    return TrainConfig(model=model, optim=OptimConfig(lr=1e-4), tokens=10**9, batch_size=batch, device=device, **more)


def ours(name: str, config: TrainConfig, asked: Asked) -> Contender:
    """Our loop's step on random tokens."""
    began = time.perf_counter()
    model = fresh(config, asked.device)
    adamw, add = optimizer(model, config.optim), adder(model, config, asked.device, ALONE)
    inputs, targets = tokens_of(config, asked)

    def step() -> None:
        add(inputs, targets)
        update(model, adamw, config, 1.0, gradient_norm(model))

    return warmed(Contender(name, step, config.batch_tokens), asked, began)


def tokens_of(config: TrainConfig, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, context) each."""
    stream = torch.Generator().manual_seed(0)
    shape = (2, config.batch_size, config.model.context)
    inputs, targets = torch.randint(config.model.vocab_size, shape, generator=stream).to(asked.device)
    return inputs, targets


def hugging_face(config: TrainConfig, asked: Asked) -> Contender:
    """LlamaForCausalLM as its users train it fastest: compiled, SDPA, autocast, fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    began, m = time.perf_counter(), config.model
    shape = LlamaConfig(
        vocab_size=m.vocab_size, hidden_size=m.d_model, intermediate_size=m.d_ff, num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads, max_position_embeddings=m.context, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).to(asked.device)
    compiled = model if asked.toy else torch.compile(model)
    inputs, _ = tokens_of(config, asked)

    step = steps(model, lambda: compiled(input_ids=inputs, labels=inputs).loss, config, asked)
    return warmed(Contender("Hugging Face, compiled", step, config.batch_tokens), asked, began)


def litgpt(config: TrainConfig, asked: Asked) -> Contender | None:
    """Its GPT of the same shape, compiled; None where it is not installed."""
    try:
        from litgpt import GPT, Config
    except ImportError:
        return None
    began, m = time.perf_counter(), config.model
    shape = Config(
        block_size=m.context, vocab_size=m.vocab_size, padded_vocab_size=m.vocab_size, n_layer=m.n_layers, n_head=m.n_heads,
        n_embd=m.d_model, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=m.d_ff,
    )  # fmt: skip
    model = GPT(shape).to(asked.device)
    compiled = model if asked.toy else torch.compile(model)
    inputs, targets = tokens_of(config, asked)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(compiled(inputs).flatten(0, 1).float(), targets.flatten())

    return warmed(Contender("litgpt, compiled", steps(model, loss, config, asked), config.batch_tokens), asked, began)


def steps(model: torch.nn.Module, loss: Callable[[], torch.Tensor], config: TrainConfig, asked: Asked) -> Callable[[], object]:
    """A step of another program's model, with what ours does around it."""
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with autocast(config, asked.device):
            its = loss()
        its.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def warmed(one: Contender, asked: Asked, began: float) -> Contender:
    """After what compiles, captures and settles."""
    for _ in range(6):
        one.step()
    if asked.device.type == "cuda":
        torch.cuda.synchronize()
    one.first_seconds = time.perf_counter() - began
    return one


def in_turn(contenders: list[Contender], asked: Asked) -> dict[str, list[float]]:
    """Seconds of steps by name, taken in turn until the time is over."""
    taken: dict[str, list[float]] = {one.name: [] for one in contenders}
    end = time.perf_counter() + asked.seconds
    while time.perf_counter() < end or len(taken[contenders[0].name]) < 3:
        for one in contenders:
            taken[one.name] += timed(asked.device, [lambda one=one: [one.step() for _ in range(3)] and None])
    return {name: [seconds / 3 for seconds in all_of_it] for name, all_of_it in taken.items()}
