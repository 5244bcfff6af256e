"""Other programs' models in tests/benchmarks/gpu.py, as their users train them fastest: the loss alone is compiled as one, its
model in it, with autocast, fused AdamW and SDPA's causal kernel. They wait for no batch."""

import time
from collections.abc import Callable

import torch
from contenders import Asked, Contender, random_tokens, warmed
from lpanas.lpa.data import Batches
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.train import autocast
from lpanas.lpa.train_config import TrainConfig
from torch import Tensor, nn

MODES = {False: (None, "max-autotune-no-cudagraphs"), True: ("reduce-overhead", "max-autotune")}
"""torch.compile's, without and with CUDA graphs."""

CAUSAL = "sdpa_causal"

Build = Callable[[ModelConfig], tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]
"""A model, and its loss of inputs and targets, (batch, context) each. Only the loss comes back: were logits to as well, the
backward pass would read a gradient of theirs, a gigabyte of zeros."""


def hugging_face(shape: ModelConfig) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads, max_position_embeddings=shape.context,
            attn_implementation=causal_attention(), use_cache=False,
        )
    )  # fmt: skip

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return model(input_ids=inputs, labels=inputs).loss  # it shifts them itself

    return model, loss


def causal_attention() -> str:
    """The name of its attention through SDPA that is told to be causal. Its own one, compiled under torch before 2.14, is
    given the causal mask instead (transformers 5.24, masking_utils.py), and then takes a slower kernel than flash."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(CAUSAL, sdpa_attention_forward)
    AttentionMaskInterface.register(CAUSAL, lambda *_, **__: None)
    return CAUSAL


def litgpt(shape: ModelConfig) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """Its GPT."""
    from litgpt import GPT, Config

    model = GPT(
        Config(
            block_size=shape.context, vocab_size=shape.vocab_size, padded_vocab_size=shape.vocab_size, n_layer=shape.n_layers,
            n_head=shape.n_heads, n_embd=shape.d_model, rotary_percentage=1.0, parallel_residual=False, bias=False,
            norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=shape.d_ff,
        )
    )  # fmt: skip

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())

    return model, loss


def other(build: Build, mode: str | None, config: TrainConfig, asked: Asked) -> Contender:
    """One of them with what ours has around it. mode: torch.compile's."""
    began = time.perf_counter()
    with asked.device:
        model, loss = build(config.model)
    fast = loss if asked.toy else torch.compile(loss, mode=mode)
    inputs, targets = batch_of(config, asked)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def once() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with autocast(config, asked.device):
            its = fast(inputs, targets)
        its.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return warmed(Contender(once, config.batch_tokens), asked, began)


def batch_of(config: TrainConfig, asked: Asked) -> tuple[Tensor, Tensor]:
    """(batch, context) each, on the device."""
    tokens = random_tokens(config, asked)
    inputs, targets = Batches(tokens, config.model.context, config.batch_size, config.seed)(0)
    return inputs.to(asked.device), targets.to(asked.device)
