"""Every way to compute gives the same losses and gradients; what is compiled knows of no rank."""

import copy

import pytest
import torch
from lpanas.lpa import kernels
from lpanas.lpa.config import UserError
from lpanas.lpa.kernels import COMPILED_KINDS, each_shape_by_itself, first, forget, products, regions, resolved
from lpanas.lpa.linear import LowRankLinear
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 264, "d_model": 32, "d_ff": 88, "n_layers": 3, "n_heads": 4, "context": 16, "rank_multiple": 2}
MODELS = {
    "dense": {},
    "mixed": {"n_kv_heads": 2, "placement": "0-1 q,k=1/4 gate=1/8; 2-2 v,o,up,down=1/4", "factor_activation": "silu"},
    "tied": {"tie_embeddings": True, "placement": "attention=1/4 ffn=1/4"},
    "370m": {
        "ffn": "relu",
        "norm": "layer_after",
        "positions": "learned",
        "bias": True,
        "head_bias": True,
        "placement": "q=1/4",
    },
}


def model_of(name: str, **more: object) -> Decoder:
    return build(ModelConfig.parse(SHAPE | MODELS[name] | more, name), CPU, seed=0)


def loss_and_gradients(model: Decoder, bfloat16: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    stream = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(264, (2, 3, 16), generator=stream)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = model.loss(tokens, targets)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["regions", "blocks", "model"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_compiled_gives_the_plain_losses_and_gradients(kernels: str, name: str) -> None:
    plain, other = model_of(name), model_of(name)
    other.use(kernels, CPU, "aot_eager")
    torch.testing.assert_close(loss_and_gradients(other), loss_and_gradients(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_is_where_it_is_without_compiling() -> None:
    plain, other = model_of("mixed"), model_of("mixed")
    other.use("regions", CPU, "aot_eager")
    torch.testing.assert_close(loss_and_gradients(other, True), loss_and_gradients(plain, True), rtol=2e-2, atol=2e-3)


def test_projections_that_read_the_same_input_are_one_product() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(24, 12, bias=False), LowRankLinear(24, 16, 4), LowRankLinear(24, 12, 6, "silu")]
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    alone, joined = (copy.deepcopy(layers) for _ in range(2))
    results = []
    for its, joins in ((alone, False), (joined, True)):
        for layer in its:
            layer.double()
        x.grad = None
        out = products(its, x, joins)
        torch.cat(out, -1).square().sum().backward()
        results.append((out, x.grad, [parameter.grad for layer in its for parameter in layer.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    with torch.profiler.profile() as counted:
        products(joined, x, joins=True)
    calls = {event.key: event.count for event in counted.key_averages()}
    assert calls["aten::mm"] == 1 + 2  # all that read x; one behind each low-rank one


def test_a_bias_keeps_projections_apart() -> None:
    layers = [nn.Linear(4, 4), LowRankLinear(4, 4, 1, bias=True)]
    x = torch.randn(3, 4)
    torch.testing.assert_close(products(layers, x, joins=True), [layer(x) for layer in layers], rtol=0, atol=0)
    assert first(layers[1]) is layers[1].a


@pytest.mark.slow
def test_regions_are_compiled_for_few_layouts_whatever_the_ranks() -> None:
    torch._dynamo.reset()
    counted, after = CompileCounterWithBackend("aot_eager"), []
    apart = ["dense", "attention=1/4", "0-0 q=1/8; 1-2 ffn=1/8", "q,k=1/8 gate=1/8", "v=1/4 up=1/8", "k=1/16 gate=1/16"]
    for placement in [*apart, "0-1 k=1/8 gate=1/4; 2-2 q=1/16 up=1/16", "q=1/8 up=1/4", "ffn=1/4 k=1/4"]:
        model = model_of("dense", placement=placement)
        model.use("regions", CPU, counted)
        loss_and_gradients(model)
        with torch.no_grad():  # an evaluation, whose last batch may be smaller
            for size in (2, 1):
                model.loss(torch.zeros(size, 16, dtype=torch.int64), torch.zeros(size, 16, dtype=torch.int64))
        after.append(counted.frame_count)
    assert after[0] == 3 * 5  # two norms, rotary positions, gate, loss: in training and in two sizes of evaluation
    assert after[-1] == after[len(apart) - 1] <= 40, after  # again where products' results lie side by side, for any rank then


@pytest.mark.slow
def test_blocks_are_compiled_a_kind_at_a_time() -> None:
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    model = model_of("dense", n_layers=6, placement="0-2 q=1/4; 3-5 dense")
    model.use("blocks", CPU, counted)
    loss_and_gradients(model)
    assert counted.frame_count == 2 + 2  # kinds of blocks; the last norm and the loss


@pytest.mark.slow
def test_beyond_the_kinds_that_are_compiled_a_shape_is_refused_not_timed_uncompiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget()
    monkeypatch.setattr(kernels, "COMPILED_KINDS", 3)
    its = regions("eager")
    words = r"^kernels: regions is compiled for 3 kinds of shapes in a process, and more of them are to be timed; "
    with each_shape_by_itself("regions"):
        for width in (8, 16, 24):
            its.swiglu((torch.ones(2, width), torch.ones(2, width)))
    with pytest.raises(UserError, match=words) as raised, each_shape_by_itself("regions"):
        its.swiglu((torch.ones(2, 32), torch.ones(2, 32)))
    assert "\n" not in str(raised.value)
    forget()


def test_the_kernels_of_a_cpu_are_plain() -> None:
    model = model_of("dense")
    model.use("auto", CPU)
    assert not model.kernels.joins


def test_auto_compiles_for_a_gpu_only_where_triton_finds_a_c_compiler(monkeypatch, tmp_path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").touch()
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert resolved("auto", torch.device("cuda")) == "plain"
    (tmp_path / "gcc").touch(mode=0o755)
    assert resolved("auto", torch.device("cuda")) == "regions"
    (tmp_path / "Python.h").unlink()
    assert resolved("auto", torch.device("cuda")) == "plain"


def test_as_many_kinds_are_compiled_after_times_were_taken_as_before() -> None:
    forget()
    with torch._dynamo.config.patch(recompile_limit=8):
        with each_shape_by_itself("regions"):
            regions("eager")
        regions("eager")
        assert torch._dynamo.config.recompile_limit == COMPILED_KINDS
