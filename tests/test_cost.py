import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.cost import Rebalance, body_params, cost, flops_per_token, rebalance
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.placement import PROJECTIONS
from lpanas.lpa.train import step
from lpanas.lpa.train_config import TrainConfig
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def shape(**fields: object) -> ModelConfig:
    return ModelConfig.parse({"vocab_size": 61, "n_layers": 2, "context": 8, "rank_multiple": 1} | fields, "model")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Shapes with grouped heads, a width of their own, tied and biased heads and a placement mixed over the layers."""
    kv, group, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 8]))
    given_width, n_layers = draw(st.booleans()), draw(st.integers(1, 3))
    rows = []
    for layer in range(n_layers):
        names = draw(st.lists(st.sampled_from(PROJECTIONS), unique=True))
        words = [f"{name}={draw(st.sampled_from(['1/16', '1/8', '1/4', '3/8']))}" for name in names]
        rows.append(f"{layer} {' '.join(words) or 'dense'}")
    try:
        return shape(
            vocab_size=draw(st.integers(2, 300)),
            d_model=draw(st.integers(2, 40)) if given_width else kv * group * head_dim,
            d_ff=draw(st.integers(8, 90)),
            n_layers=n_layers,
            n_heads=kv * group,
            n_kv_heads=kv,
            head_dim=head_dim if given_width else None,
            context=draw(st.integers(2, 9)),
            tie_embeddings=draw(st.booleans()),
            head_bias=draw(st.booleans()),
            factor_activation=draw(st.sampled_from(["none", "silu"])),
            ffn=draw(st.sampled_from(["swiglu", "relu"])),
            norm=draw(st.sampled_from(["rms_before", "layer_after"])),
            positions=draw(st.sampled_from(["rotary", "learned"])),
            bias=draw(st.booleans()),
            ffn_multiple=draw(st.sampled_from([1, 5, 8])),
            placement="; ".join(rows),
        )
    except UserError as error:
        assume("saves nothing" not in str(error))
        raise


@given(configs())
def test_params_are_those_of_the_built_model(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    body = [*model.blocks.parameters(), *model.norm.parameters()]
    found = cost(config, microbatch=1)
    assert found.params == sum(parameter.numel() for parameter in model.parameters())
    assert found.body_params == body_params(config) == sum(parameter.numel() for parameter in body)


@settings(max_examples=25)
@given(config=configs(), batch=st.integers(1, 3))
def test_flops_are_what_torch_counts_in_a_forward_and_a_backward_pass(config: ModelConfig, batch: int) -> None:
    model = build(config, torch.device("cpu"), 0)
    tokens = torch.zeros(batch, config.context, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(tokens, tokens).backward()
    assert flops_per_token(config) * batch * config.context == counter.get_total_flops()


def test_the_cost_of_a_small_llama_is_the_sum_by_hand() -> None:
    config = shape(vocab_size=100, d_model=8, d_ff=24, n_layers=2, n_heads=2, context=16, placement="attention=1/8 down=1/4")
    factors = 4 * 1 * (8 + 8) + 2 * (24 + 8)
    body = 2 * (factors + 2 * 8 * 24 + 2 * 8) + 8
    found = cost(config, microbatch=1)
    assert (found.params, found.body_params) == (body + 2 * 100 * 8, body)
    assert found.flops_per_token == 6 * (2 * (factors + 2 * 8 * 24) + 100 * 8) + 12 * 2 * 16 * 8
    assert found.asdict()["params"] == found.params


MEASURES = {"params": body_params, "flops": flops_per_token}


@pytest.mark.parametrize("rule", ["params", "flops"])
@given(config=configs())
def test_rebalance_widens_as_far_as_the_dense_budget_goes(rule: Rebalance, config: ModelConfig) -> None:
    assume(config.d_ff >= config.d_model)
    measure, step, wide = MEASURES[rule], config.ffn_multiple, rebalance(config, rule)
    budget = measure(config.dense())
    assert measure(wide) <= budget < measure(wide.change(d_ff=wide.d_ff + step - wide.d_ff % step))
    assert wide.d_ff % step == 0 or wide == config
    assert wide.change(d_ff=config.d_ff) == config


@pytest.mark.parametrize("rule", ["params", "flops"])
def test_rebalance_takes_the_largest_of_all_fitting_widths(rule: Rebalance) -> None:
    config = shape(d_model=32, d_ff=64, n_heads=4, ffn_multiple=4, placement="attention=1/8 up=1/4")
    measure, budget = MEASURES[rule], MEASURES[rule](config.dense())
    fitting = [width for width in range(64, 1024, 4) if measure(config.change(d_ff=width)) <= budget]
    assert rebalance(config, rule).d_ff == max(fitting) > 64


def test_a_width_that_is_no_multiple_is_widened_to_one_or_stays() -> None:
    """llama-1b: 5461 columns of three matrices of 2048 rows, 24 times."""
    big = shape(d_model=2048, d_ff=5461, n_heads=32, n_layers=24, ffn_multiple=8, placement="attention=1/4")
    saved = 4 * (2048**2 - 512 * 2 * 2048)  # a layer, in parameters
    widest = 5461 + saved // (3 * 2048)
    assert rebalance(big, "params").d_ff == widest - widest % 8
    barely = shape(
        d_model=64, d_ff=101, n_heads=4, n_layers=12, ffn_multiple=16, placement="0 q=7/16; 1-11 dense", rank_multiple=4
    )
    assert rebalance(barely, "params") == barely
    assert rebalance(barely, "none") == barely


@given(config=configs(), rule=st.sampled_from(["none", "params", "flops"]))
def test_a_dense_model_has_nothing_to_rebalance(config: ModelConfig, rule: Rebalance) -> None:
    assert rebalance(config.dense(), rule) == config.dense()
    assert rebalance(config, "none") == config


NARROW = [
    {"d_ff": 20, "placement": "attention=1/8 up=3/4"},  # 21 would save nothing in up, 22 does again
    {"d_ff": 16, "placement": "attention=1/8 up=3/4"},
    {"d_ff": 24, "placement": "attention=1/8 ffn=1/4", "rank_multiple": 8},
    {"d_ff": 16, "placement": "0 attention=1/8 down=5/8; 1 attention=1/16", "ffn_multiple": 3},
    {"d_ff": 12, "placement": "0 v,o=1/8 up,down=7/8; 1 gate=1/2", "ffn": "relu", "bias": True, "rank_multiple": 2},
]
"""FFNs narrower than the stream, whose ranks follow d_ff, so that not every width between two fitting ones fits."""


@pytest.mark.parametrize("rule", ["params", "flops"])
@pytest.mark.parametrize("fields", NARROW, ids=str)
def test_a_narrow_ffn_is_widened_to_the_largest_of_all_fitting_widths(fields: dict[str, object], rule: Rebalance) -> None:
    config = shape(d_model=64, n_heads=4, **fields)
    measure, fitting = MEASURES[rule], [config.d_ff]
    for d_ff in (width for width in range(config.d_ff + 1, 512) if width % config.ffn_multiple == 0):
        with contextlib.suppress(ValueError):
            if measure(config.change(d_ff=d_ff)) <= measure(config.dense()):
                fitting.append(d_ff)
    assert rebalance(config, rule).d_ff == max(fitting) < 400


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that are alive after every operation, but for those of `before`."""

    def __init__(self, before: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.before = {tensor.untyped_storage()._cdata for tensor in before}
        self.live: dict[int, int] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.live.keys() | self.before:
                    self.live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, storage._cdata)
        self.bytes = max(self.bytes, sum(self.live.values()))
        return result


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"vocab_size": 4096},
        {"n_kv_heads": 2},
        {"placement": "attention=1/4"},
        {"placement": "both=1/4", "factor_activation": "silu"},
        {"d_model": 256, "d_ff": 700, "vocab_size": 64},
        {"ffn": "relu", "norm": "layer_after", "positions": "learned", "bias": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("item", [2, 4])
def test_memory_is_the_peak_of_a_step(fields: dict[str, object], item: int) -> None:
    config = shape(**(SMALL | fields))
    found = cost(config, BATCH, item)
    assert 0.92 < peak_bytes(config, item) / (found.memory_bytes - 16 * found.params + unfused(config)) < 1.05


SMALL = {"vocab_size": 264, "d_model": 64, "d_ff": 176, "n_heads": 4, "n_layers": 3, "context": 64, "rank_multiple": 4}
BATCH = 4


def unfused(config: ModelConfig) -> int:
    """Bytes that a CPU keeps beside the formula's: one result more in every RMSNorm."""
    norms = 2 * config.n_layers + 1 if config.norm == "rms_before" else 0
    return BATCH * config.context * norms * 4 * config.d_model


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_layers": 12},
        {"vocab_size": 4096, "n_layers": 12},
        {"placement": "both=1/4", "factor_activation": "silu"},
        {"placement": "0 both=1/4; 1-2 dense"},
        {"d_model": 256, "d_ff": 700, "vocab_size": 64},
        {"ffn": "relu", "norm": "layer_after", "positions": "learned", "bias": True},
    ],
    ids=str,
)
def test_memory_with_activation_checkpointing_is_the_peak_of_a_step_and_a_bound_in_bfloat16(fields: dict[str, object]) -> None:
    config = shape(**(SMALL | fields))
    shares = {}
    for item in (4, 2):
        found = cost(config, BATCH, item, recomputes=True)
        shares[item] = peak_bytes(config, item, recomputes=True) / (found.memory_bytes - 16 * found.params)
        kept = cost(config, BATCH, item)
        assert (found.params, found.flops_per_token) == (kept.params, kept.flops_per_token)
        assert found.memory_bytes < kept.memory_bytes
    assert 0.92 < shares[4] < 1.06
    assert 0.7 < shares[2] < 1


def peak_bytes(config: ModelConfig, item: int, recomputes: bool = False) -> int:
    """The peak of a forward and a backward pass, on top of weights, gradients and moments."""
    model = build(config, torch.device("cpu"), 0)
    for block in model.blocks:
        block.recomputes = recomputes
    for module in model.modules():
        if isinstance(module, nn.Dropout) and config.dropout:  # the kernel that a GPU takes, which keeps a mask of bytes
            module.forward = lambda x: torch.native_dropout(x, config.dropout, True)[0]
    tokens = torch.zeros(BATCH, config.context, dtype=torch.long)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Peak([*model.parameters(), *(parameter.grad for parameter in model.parameters())]) as peak:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=item == 2):
            loss = model.loss(tokens, tokens)
        loss.backward()
    return peak.bytes


@pytest.mark.parametrize("item", [2, 4])
@pytest.mark.parametrize("norm", ["rms_before", "layer_after"])
def test_dropout_costs_its_masks(norm: str, item: int) -> None:
    plain = shape(**SMALL, norm=norm)
    config = plain.change(dropout=0.1)
    masks = cost(config, BATCH, item).memory_bytes - cost(plain, BATCH, item).memory_bytes
    assert peak_bytes(config, item) - peak_bytes(plain, item) == pytest.approx(masks, rel=0.05)


def test_memory_is_the_peak_of_whole_steps_with_accumulation_and_a_bound_without() -> None:
    config = shape(**SMALL | {"vocab_size": 4096, "context": 16})
    peaks = {microbatch: whole_peak_bytes(config, microbatch) for microbatch in (BATCH, 2 * BATCH)}
    found = {microbatch: cost(config, microbatch, 4).memory_bytes for microbatch in peaks}
    assert peaks[BATCH] == pytest.approx(found[BATCH] + unfused(config), rel=0.05)
    assert 0.6 * found[2 * BATCH] < peaks[2 * BATCH] < 0.95 * found[2 * BATCH]


def whole_peak_bytes(config: ModelConfig, microbatch: int) -> int:
    """The peak of two steps of AdamW on 2 BATCH sequences in float32: all that is ever alive."""
    training = TrainConfig(
        model=config, optim=OptimConfig(lr=1e-3), tokens=1, batch_size=2 * BATCH, microbatch=microbatch, device="cpu"
    )
    tokens = torch.zeros(2 * BATCH, config.context, dtype=torch.long)
    with Peak() as peak:
        model = build(config, torch.device("cpu"), 0)
        adamw = optimizer(model, training.optim)
        for number in range(2):
            step(model, adamw, (tokens, tokens), training, number, share=1.0)
    return peak.bytes
