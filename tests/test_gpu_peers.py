"""The peers of tests/benchmarks/gpu.py are as fast as they can be had, and a ratio to the best of them leaves none out."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lpanas.lpa.model_config import ModelConfig
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from kernel_times import attention_kernels, kernel_seconds, part_of, parts, seconds_by_name
from peer_speed import over_peers

CPU = torch.device("cpu")
SHAPE = ModelConfig.parse({"vocab_size": 264, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "context": 32}, "m")


def hugging_face() -> Any:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lpanas[hf]'")
    from others import hugging_face

    return hugging_face(SHAPE)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(264, (2, 33), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def test_compiled_hugging_face_has_no_mask_and_is_causal() -> None:
    _, loss = hugging_face()
    calls = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        calls.extend(node.kwargs for node in graph.graph.nodes if "scaled_dot_product" in str(node.target))
        return graph.forward

    with torch.autocast("cpu", torch.bfloat16):
        torch.compile(loss, backend=backend, fullgraph=True)(*batch())
    assert [(its["attn_mask"], its["is_causal"]) for its in calls] == [(None, True)] * SHAPE.n_layers


def test_without_a_mask_hugging_faces_loss_is_that_of_its_own_masked_attention() -> None:
    model, loss = hugging_face()
    without = loss(*batch())
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(without, loss(*batch()))


def test_the_backward_pass_of_what_is_compiled_reads_one_number() -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    _, loss = hugging_face()
    tangents = []

    def forward(graph: torch.fx.GraphModule, _: object) -> Any:
        return make_boxed_func(graph.forward)

    def backward(graph: torch.fx.GraphModule, given: Any) -> Any:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        tangents.extend(its.shape for node, its in zip(nodes, given, strict=True) if "tangents" in node.name)
        return make_boxed_func(graph.forward)

    torch.compile(loss, backend=aot_autograd(fw_compiler=forward, bw_compiler=backward))(*batch()).backward()
    assert tangents == [torch.Size([])]


def test_of_a_group_with_a_peer_that_was_not_measured_there_is_no_ratio() -> None:
    speeds = [("ours, a", False, 6.0), ("peer", False, 4.0), ("ours, b", True, 10.0), ("peer b", True, 8.0)]
    rows: list[dict[str, Any]] = [{"entrants": [[name, graph] for name, graph, _ in speeds]}]
    rows += [{"name": name, "cuda_graph": graph, "over_plain": speed} for name, graph, speed in speeds]
    kinds = (False, True), (False,), (True,)
    assert [over_peers(rows, kind)["value"] for kind in kinds] == [10 / 8, 6 / 4, 10 / 8]
    rows[-1] = {"name": "peer b", "cuda_graph": True, "failed": "out of memory"}
    found = [over_peers(rows, kind) for kind in kinds]
    assert [its["value"] for its in found] == [None, 6 / 4, None]
    assert [its["among_measured"] for its in found] == [10 / 4, 6 / 4, None]
    assert found[0]["why"] == "peer b: failed"
    assert over_peers(rows[:-1], (False, True))["why"] == "peer b: not measured"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention)", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x64", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x64_tn>", "products"),
        ("triton_tem_fused_mm_4", "products"),
        ("triton_poi_fused_mul_silu_3", "between"),
        ("triton_poi_fused__scaled_dot_product_flash_attention_clone_2", "between"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "between"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_kernels_time_counts_once() -> None:
    def event(name: str, start: int, end: int, device: DeviceType, **more: Any) -> FunctionEvent:
        return FunctionEvent(1, name, 0, start, end, use_device="cuda", device_type=device, **more)

    launch = event("cudaLaunchKernel", 0, 5, DeviceType.CPU)
    launch.append_kernel("gemm", 0, 2000)
    whole = event("Optimizer.step", 0, 5000, DeviceType.CUDA, is_user_annotation=True)
    kernels = [event("gemm", 10, 2010, DeviceType.CUDA), event("gemm", 2010, 4010, DeviceType.CUDA)]
    assert launch.self_device_time_total == 2000  # torch says it of the launch, too
    assert seconds_by_name([launch, whole, *kernels], is_gpu=True) == {"gemm": pytest.approx(0.004)}


def test_the_parts_of_a_step_are_all_of_its_time() -> None:
    a, q = torch.randn(256, 256), torch.randn(1, 2, 64, 32)

    def step() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        torch.mm(a, a)

    kernels = kernel_seconds(step, CPU)
    assert part_of("aten::mm") == "products"
    assert "aten::mm" in kernels
    assert "flash" in (attention_kernels(kernels) or [""])[0]
    assert attention_kernels({}) is None
    found = parts(kernels, 1.0)
    assert found is not None
    assert sum(found.values()) == pytest.approx(1)
    assert parts({}, 1.0) is None
    assert found["idle"] == pytest.approx(1 - sum(kernels.values()))


def test_where_no_kernels_are_known_it_is_said_why(capsys: pytest.CaptureFixture[str]) -> None:
    def step() -> None:
        raise RuntimeError("CUPTI is taken")

    assert kernel_seconds(step, CPU) == {}
    assert capsys.readouterr().err == "no kernels are known: CUPTI is taken\n"
