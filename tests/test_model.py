import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import UserError
from lpanas.lpa.kernels import rotate
from lpanas.lpa.linear import LowRankLinear
from lpanas.lpa.model import Decoder, build, rotary
from lpanas.lpa.model_config import ModelConfig
from torch import Tensor

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 61, "d_model": 32, "d_ff": 48, "n_layers": 2, "n_heads": 4, "context": 16, "rank_multiple": 1}
MIXED = "0 q,k=1/4 down=1/8; 1 v,o=1/8 gate,up=1/4"


def shape(**fields: object) -> ModelConfig:
    return ModelConfig.parse(SHAPE | fields, "model")


def tokens(batch: int = 2, time: int = 16, seed: int = 0, vocab_size: int = 61) -> Tensor:
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@given(at=st.integers(1, 15), kv=st.sampled_from([1, 2, 4]), low=st.booleans())
def test_a_later_token_never_changes_earlier_logits(at: int, kv: int, low: bool) -> None:
    model = build(shape(n_kv_heads=kv, placement=MIXED if low else "dense"), CPU, 0)
    before = tokens(1)
    after = before.clone()
    after[:, at] = (after[:, at] + 7) % 61
    with torch.no_grad():
        torch.testing.assert_close(model(after)[:, :at], model(before)[:, :at], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(after)[:, at], model(before)[:, at], atol=1e-2)


def test_every_earlier_token_reaches_the_last_logits() -> None:
    model = build(shape(), CPU, 0)
    x = torch.zeros(1, 16, 32)
    model.embedding.register_forward_hook(lambda *args: x.requires_grad_() + args[2].detach())
    model(tokens(1))[0, -1].square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(-1) > 1e-6).all())


@given(shift=st.integers(0, 100), gap=st.integers(-20, 20), d_head=st.sampled_from([2, 8, 64]))
def test_rotary_scores_depend_on_distance_only(shift: int, gap: int, d_head: int) -> None:
    cos, sin = rotary(shape(head_dim=d_head), 160, CPU)
    q, k = draw(1, 1, 1, d_head), draw(1, 1, 1, d_head, seed=1)

    def score(i: int, j: int) -> Tensor:
        return (rotate(q, cos[i : i + 1], sin[i : i + 1]) * rotate(k, cos[j : j + 1], sin[j : j + 1])).sum()

    first = max(0, -gap)
    torch.testing.assert_close(score(first, first + gap), score(first + shift, first + shift + gap), rtol=1e-3, atol=1e-4)


def test_rotary_is_a_complex_rotation_of_half_split_pairs() -> None:
    config = shape(head_dim=8, rope_theta=500.0)
    cos, sin = rotary(config, 16, CPU)
    x = draw(2, 4, 16, 8)
    positions = torch.arange(16.0)[:, None]
    turn = torch.polar(torch.ones(16, 4), positions * 500.0 ** (-torch.arange(4.0) / 4))
    turned = torch.complex(x[..., :4], x[..., 4:]) * turn
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat((turned.real, turned.imag), -1))


@pytest.mark.parametrize("kv", [1, 2])
def test_grouped_queries_equal_repeated_key_value_heads(kv: int) -> None:
    grouped, full = build(shape(n_kv_heads=kv), CPU, 0), build(shape(), CPU, 1)
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith(("attention.k.weight", "attention.v.weight"))]:
        state[name] = state[name].view(kv, 8, 32).repeat_interleave(4 // kv, dim=0).reshape(32, 32)
    full.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(grouped(tokens()), full(tokens()), rtol=1e-4, atol=1e-4)


def test_factors_that_multiply_to_the_dense_weights_give_the_dense_logits() -> None:
    config = shape(placement=MIXED)
    low, dense = build(config, CPU, 0), build(config.dense(), CPU, 1)
    state = low.state_dict()
    for name, module in low.named_modules():
        if isinstance(module, LowRankLinear):
            state[f"{name}.weight"] = state.pop(f"{name}.b.weight") @ state.pop(f"{name}.a.weight")
    dense.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(low(tokens()), dense(tokens()), rtol=1e-4, atol=1e-4)


def reference(config: ModelConfig, state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The decoder written out, without dropout: one head and one position at a time."""

    def norm(x: Tensor, at: str) -> Tensor:
        if config.norm == "rms_before":
            return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * state[f"{at}.weight"]
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * state[f"{at}.weight"] + state[f"{at}.bias"]

    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    def project(x: Tensor, at: str) -> Tensor:
        if f"{at}.weight" in state:
            return x @ state[f"{at}.weight"].T + state.get(f"{at}.bias", 0)
        x = x @ state[f"{at}.a.weight"].T
        x = silu(x) if config.factor_activation == "silu" else x
        return x @ state[f"{at}.b.weight"].T + state.get(f"{at}.b.bias", 0)

    def turn(x: Tensor) -> Tensor:  # (time, d_head)
        if config.positions == "learned":
            return x
        half = config.d_head // 2
        angle = torch.arange(len(x))[:, None] * config.rope_theta ** (-torch.arange(half) / half)
        left, right = x[:, :half], x[:, half:]
        return torch.cat((left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()), 1)

    def attend(x: Tensor, at: str) -> Tensor:
        q, k, v = (project(x, f"{at}.{name}") for name in "qkv")
        heads = []
        for head in range(config.n_heads):
            kv = head * config.kv_heads // config.n_heads
            mine, theirs = (
                slice(head * config.d_head, (head + 1) * config.d_head),
                slice(kv * config.d_head, (kv + 1) * config.d_head),
            )
            scores = turn(q[:, mine]) @ turn(k[:, theirs]).T / math.sqrt(config.d_head)
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v[:, theirs])
        return project(torch.cat(heads, -1), f"{at}.o")

    def feed(x: Tensor, at: str) -> Tensor:
        up = project(x, f"{at}.up")
        return project(up.clamp(min=0) if config.ffn == "relu" else silu(project(x, f"{at}.gate")) * up, f"{at}.down")

    x = state["embedding.weight"][ids]
    if config.positions == "learned":
        x = x + state["positions.weight"][: len(ids)]
    for layer in range(config.n_layers):
        at = f"blocks.{layer}"
        for sublayer, name in ((attend, "attention"), (feed, "ffn")):
            if config.norm == "rms_before":
                x = x + sublayer(norm(x, f"{at}.{name}_norm"), f"{at}.{name}")
            else:
                x = x + norm(sublayer(x, f"{at}.{name}"), f"{at}.{name}_norm")
    x = norm(x, "norm") if config.norm == "rms_before" else x
    return x @ state["head.weight"].T + state["head.bias"]


LARGE = {"ffn": "relu", "norm": "layer_after", "positions": "learned", "bias": True, "dropout": 0.1, "head_bias": True}
"""The kind of the LPA authors' 370M model."""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_kv_heads": 2},
        {"head_dim": 12, "n_kv_heads": 1, "norm_eps": 0.1, "rope_theta": 100.0},
        {"placement": MIXED, "factor_activation": "silu"},
        {"tie_embeddings": True},
        {"ffn": "relu"},
        {"norm": "layer_after", "norm_eps": 0.1},
        {"positions": "learned"},
        {"bias": True, "placement": MIXED},
        LARGE,
        LARGE | {"placement": MIXED, "factor_activation": "silu", "n_kv_heads": 2},
    ],
    ids=str,
)
def test_the_decoder_agrees_with_a_plain_reference(fields: dict[str, object]) -> None:
    config = shape(**{"head_bias": True, **fields})
    model = build(config, CPU, 0).eval()
    ids = tokens(time=11)
    with torch.no_grad():
        for number, parameter in enumerate(parameter for parameter in model.parameters() if parameter.ndim == 1):
            parameter.add_(0.2 * draw(*parameter.shape, seed=number))
        expected = torch.stack([reference(config, model.state_dict(), row) for row in ids])
        torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_drawn_in_training_only() -> None:
    model = build(shape(**LARGE), CPU, 0)
    with torch.no_grad():
        assert not torch.equal(model(tokens()), model(tokens()))
        model.eval()
        assert torch.equal(model(tokens()), model(tokens()))


@pytest.mark.parametrize("norm", ["rms_before", "layer_after"])
def test_dropout_falls_on_the_sublayers_outputs_and_on_nothing_else(norm: str) -> None:
    torch.manual_seed(0)
    model = build(shape(norm=norm, dropout=1 - 1e-9), CPU, 0)
    with torch.no_grad():
        assert torch.equal(model(tokens()), model.head(model.norm(model.embedding(tokens()))))


def test_the_loss_is_the_mean_negative_log_probability_of_the_targets() -> None:
    model, ids, targets = build(shape(), CPU, 0), tokens(), tokens(seed=1)
    with torch.no_grad():
        probabilities = model(ids).double().softmax(-1).gather(-1, targets[..., None])
        assert model.loss(ids, targets).item() == pytest.approx(-probabilities.log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("init", ["matched", "lpa"])
def test_tensors_of_one_name_are_drawn_alike_in_every_placement(init: str) -> None:
    states = [build(shape(placement=text, init=init), CPU, 3).state_dict() for text in ("dense", MIXED, "0 q=1/4; 1 v=1/8")]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        shared = states[one].keys() & states[other].keys()
        assert {"embedding.weight", "head.weight", "norm.weight"} < shared
        assert all(torch.equal(states[one][name], states[other][name]) for name in shared)
    assert "blocks.0.attention.q.a.weight" in states[1].keys() & states[2].keys()


def test_weights_depend_on_the_seed_and_the_name_and_on_nothing_before() -> None:
    torch.manual_seed(5)
    first = build(shape(), CPU, 3).state_dict()
    torch.manual_seed(6)
    again, other = build(shape(), CPU, 3).state_dict(), build(shape(), CPU, 4).state_dict()
    drawn = [name for name in first if "norm" not in name]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in drawn)
    assert not torch.equal(first["blocks.0.attention.q.weight"], first["blocks.1.attention.q.weight"])


def test_a_deeper_model_starts_with_the_same_lower_layers_but_for_the_depth_scale() -> None:
    shallow, deep = (build(shape(n_layers=layers), CPU, 0).state_dict() for layers in (2, 8))
    for name, scale in (("attention.q", 1.0), ("ffn.up", 1.0), ("attention.o", 0.5), ("ffn.down", 0.5)):
        torch.testing.assert_close(deep[f"blocks.1.{name}.weight"], scale * shallow[f"blocks.1.{name}.weight"])


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("embedding", 1.0),
        ("head", 1 / 128),
        ("blocks.0.attention.q", 1 / 128),
        ("blocks.1.attention.o", 1 / (4 * 128)),
        ("blocks.0.ffn.gate", 1 / 128),
        ("blocks.1.ffn.down", 1 / (4 * 256)),
    ],
)
def test_dense_weights_start_at_their_closed_form(name: str, variance: float) -> None:
    weight = build(shape(vocab_size=512, d_model=128, d_ff=256), CPU, 0).get_submodule(name).weight.detach()
    assert weight.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / weight.numel()))
    assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(variance / weight.numel()))


@pytest.mark.parametrize("placement", ["dense", "both=1/4"])
def test_the_stream_keeps_its_scale_with_depth(placement: str) -> None:
    model = build(shape(d_model=64, d_ff=128, n_layers=12, placement=placement), CPU, 0)
    scales: list[float] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: scales.append(args[2].square().mean().sqrt().item()))
    with torch.no_grad():
        model(tokens())
    assert 0.8 < scales[-1] < 2


def test_norms_start_at_one_and_biases_at_zero() -> None:
    state = build(shape(head_bias=True), CPU, 0).state_dict()
    assert all(bool((value == 1).all()) for name, value in state.items() if "norm" in name)
    assert bool((state["head.bias"] == 0).all())


def test_a_tied_head_is_one_tensor_also_after_build() -> None:
    model = build(shape(tie_embeddings=True), CPU, 0)
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())
    model.loss(tokens(), tokens(seed=1)).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(model.head.weight, model.embedding.weight)
    assert model.embedding.weight.std().item() == pytest.approx(1 / math.sqrt(32), rel=0.2)


def test_a_built_model_is_whole() -> None:
    model = build(shape(placement=MIXED, head_bias=True), CPU, 0)
    assert all(value.device == CPU and bool(value.isfinite().all()) for value in model.state_dict().values())
    assert model(tokens(time=5)).shape == (2, 5, 61)
    model.loss(tokens(), tokens(seed=1)).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())


def test_silu_factors_differ_from_plain_ones_only_where_low_rank_is() -> None:
    plain, silu = (build(shape(placement=MIXED, factor_activation=kind), CPU, 0) for kind in ("none", "silu"))
    silu.load_state_dict(plain.state_dict())
    dense = [build(shape(factor_activation=kind), CPU, 0) for kind in ("none", "silu")]
    with torch.no_grad():
        assert not torch.allclose(plain(tokens()), silu(tokens()), atol=1e-3)
        assert torch.equal(dense[0](tokens()), dense[1](tokens()))


def test_the_model_leaves_no_bias_but_the_heads() -> None:
    with torch.device("meta"):
        names = [name for name, _ in Decoder(shape(placement=MIXED, head_bias=True)).named_parameters()]
    assert [name for name in names if "bias" in name] == ["head.bias"]


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ({"n_heads": 5}, "n_heads: 5 heads do not divide d_model 32"),
        ({"n_kv_heads": 3}, "n_kv_heads: 3 does not divide n_heads 4"),
        ({"n_heads": 32}, "head_dim: rotary positions need an even one, found 1"),
        ({"head_dim": 7}, "head_dim: rotary positions need an even one, found 7"),
        ({"placement": "q=1/2"}, "placement: rank 16 (1/2) saves nothing in q of layer 0, 32 x 32; below 16 it would"),
        ({"placement": "0 dense; 1 k=1/4", "rank_multiple": 64}, "placement: rank 32 (1/4) saves nothing in k of layer 1"),
        ({"placement": "q=3"}, "placement: the rank 3 is not between 0 and full rank"),
        ({"placement": "0-4 dense"}, "placement: layers 0-4 are not among 0-1"),
        ({"d_model": 0}, "d_model: expected greater than 0, found 0"),
        ({"vocab_size": 1}, "vocab_size: expected greater than 1, found 1"),
        ({"placement": 3}, "placement: expected"),
        ({"n_layers": "two"}, "n_layers: expected a whole number, found 'two'"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_in_one_line(fields: dict[str, object], mistake: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$") as error:
        shape(**fields)
    assert str(error.value).startswith(f"model: {mistake}")


def test_place_and_dense_change_nothing_but_the_placement() -> None:
    config = shape(placement=MIXED, n_kv_heads=2, head_bias=True)
    assert config.dense() == shape(n_kv_heads=2, head_bias=True)
    assert config.dense().place(config.placement) == config


def test_attention_alone_is_torchs_attention() -> None:
    model = build(shape(n_layers=1), CPU, 0)
    attention, x = model.blocks[0].attention, draw(2, 16, 32)
    weights = [attention.get_submodule(name).weight for name in "qkvo"]
    zero = torch.zeros(96), torch.zeros(32)
    expected, _ = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3, 32, 4, torch.cat(weights[:3]), zero[0], None, None, False, 0.0, weights[3], zero[1],
        attn_mask=torch.ones(16, 16).triu(1).bool(), is_causal=True, need_weights=False,
    )  # fmt: skip
    torch.testing.assert_close(attention(x, None), expected.transpose(0, 1), rtol=1e-4, atol=1e-5)
