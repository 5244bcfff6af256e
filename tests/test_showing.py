"""What `lpanas show` prints of a training's config and of a space."""

import os
import re
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search import manner, terminal
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
        assert "; kernels plain: no GPU\n" in text


def cells(text, head):
    """The cell of each column of the row below a heading line that begins so."""
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(head))
    split = [[cell.strip() for cell in re.split(r"\s{2,}", line.strip())] for line in lines[place : place + 2]]
    return dict(zip(*split, strict=True))


def test_a_space_says_where_and_how_its_runs_train(console):
    """On a CPU, which the tiny space asks for."""
    for workers, settings in ((3, ["search.workers=3"]), (len(os.sched_getaffinity(0)), ["search.workers=null"])):
        text = shown(console, terminal.print_space, tiny_space(*settings))
        if console.width < 80:
            return
        expected = {"device": "cpu", "workers": f"{workers}, a thread each", "precision": "float32"}
        assert cells(text, "device ") == expected | {"kernels": "plain: no GPU", "cuda_graph": "off"}
        assert "does nothing" not in text
    text = shown(console, terminal.print_space, tiny_space("search.mps=true", "search.workers_per_device=2"))
    for name in ("mps", "workers_per_device"):
        assert f"\nsearch.{name}: does nothing here, without a GPU\n" in text


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as torch tells of them, and no compiler."""
    told = {"is_available": True, "device_count": 2, "get_device_name": "NVIDIA X", "is_bf16_supported": True}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("lpanas.lpa.kernels.find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("settings", "workers", "each", "is_idle"),
    [
        (("workers=null", "workers_per_device=3"), "6", "3", False),
        (("workers=5", "mps=true"), "5", "2 or 3", False),
        (("workers=1", "mps=true"), "1", "1", True),
        (("workers=2", "mps=true"), "2", "1", True),
    ],
)
def test_on_gpus_it_says_how_many_share_one_and_why_nothing_is_compiled(gpus, settings, workers, each, is_idle):
    space = tiny_space("proxy.device=cuda", "proxy.cuda_graph=true", *(f"search.{one}" for one in settings))
    expected = {"device": "2 x NVIDIA X", "workers": workers, "on each GPU": each, "mps": "on" if space.search.mps else "off"}
    expected |= {"precision": "bfloat16", "kernels": "plain: no C compiler", "cuda_graph": "on"}
    assert manner.of_space(space) == expected
    assert manner.idle(space) == ["search.mps: does nothing here, where no runs share a GPU"] * is_idle


@pytest.mark.parametrize(("name", "said"), [("regions", "regions, but no C compiler"), ("plain", "plain")])
def test_kernels_that_are_asked_for_are_said_with_what_is_missing(gpus, name, said):
    assert manner.kernels(tiny_space(f"proxy.kernels={name}").proxy, torch.device("cuda")) == said
    assert manner.kernels(tiny_space(f"proxy.kernels={name}").proxy, torch.device("cpu")) == name


@given(workers=st.integers(1, 40), gpus=st.integers(1, 9))
def test_workers_share_gpus_as_they_take_them_in_turn(workers, gpus):
    counts = Counter(slot % gpus for slot in range(workers))
    assert manner.sharing(workers, gpus) == [counts[gpu] for gpu in sorted(counts)]


def test_a_number_of_workers_below_one_is_refused_by_its_option(call):
    for command, word in product(("search", "confirm"), ("-3", "0", "many")):
        said = f"lpanas: Invalid value for '--workers': expected a whole number above 0, found {word}\n"
        assert call(command, "quickstart", "--workers", word) == (2, "", said)
