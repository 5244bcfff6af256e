"""What `lpanas show` prints of a training's config and of a space."""

import pytest
from lpanas.search import terminal
from lpanas.search.presets import load_config
from making import tiny_space
from rich.console import Console

CONFIG = """
model: {shape: llama-1b, rank_multiple: 32, placement: "0-7 q,k,v,o=1/4; 8-23 gate,up=1/2 down=1/8"}
optim: {lr: 0.001}
tokens: 1_000_000
batch_size: 4
device: cpu
"""
DENSE_PARAMS = 32000 * 2048 * 2 + 24 * (4 * 2048**2 + 3 * 2048 * 5461 + 2 * 2048) + 2048
"""By hand: embedding and head, 24 blocks of four and three matrices and two norms, the last norm."""
RANKS = "0-7 q512 k512 v512 o512; 8-23 gate1024 up1024 down256"


@pytest.fixture(params=[20, 44, 80, 400])
def console(request, monkeypatch):
    """One of so many columns."""
    made = Console(width=request.param, highlight=False)
    monkeypatch.setattr(terminal, "console", made)
    return made


def shown(console, what, thing):
    with console.capture() as captured:
        what(thing)
    return captured.get()


def test_no_digit_of_a_configs_figures_is_cut_off_however_narrow_the_console(console, tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)
    text = shown(console, terminal.print_config, load_config(tmp_path / "train.yaml"))
    assert f"{DENSE_PARAMS:,} " in text
    assert f"{6 * (DENSE_PARAMS - 32000 * 2048 - 49 * 2048) + 12 * 24 * 1024 * 2048:,} " in text
    assert f"\nthis model: placement 0-7 q,k,v,o=1/4; 8-23 gate,up=1/2 down=1/8; ranks {RANKS}\n" in text
    assert "\ndense, same width: placement 0-23 dense\n" in text
    for heading in ("params", "flops_per_token", "memory_bytes"):
        assert heading in text


def test_no_digit_of_a_spaces_figures_is_cut_off_however_narrow_the_console(console):
    space = tiny_space()
    text = shown(console, terminal.print_space, space)
    for name in ("dense", "attention", "ffn", "both"):
        row = next(line for line in text.splitlines() if line.startswith(f"{name} ") and "GiB" in line)
        params, flops = row.split()[1:3]
        assert (params, flops) == tuple(f"{space.arm(name).costs[key]:,}" for key in ("params", "flops_per_token"))
    ranks = space.arm("both").proxy.ranks_text
    assert f"\nboth: placement of the target {space.arm('both').target.placement.text}; ranks of the proxy {ranks}\n" in text


def test_a_configs_memory_is_said_for_this_device_and_for_a_gpu(tmp_path, call):
    (tmp_path / "train.yaml").write_text(CONFIG.replace("device: cpu\n", ""))
    if load_config(tmp_path / "train.yaml").resolve_device().type == "cuda":
        pytest.skip("this one has a GPU")
    text = call("show", tmp_path / "train.yaml")[1]
    assert "on cpu, in float32;" in text
    assert "memory_bytes: with activations in float32, as here; on a GPU, in bfloat16, this model has " in text
    for precision in ("float32", "bfloat16"):
        text = call("show", tmp_path / "train.yaml", "--set", f"precision={precision}")[1]
        assert f"on cpu, in {precision};" in text
        assert "memory_bytes: " not in text
