"""Whether times from a file that a space names are of the way that its target would be trained."""

from types import SimpleNamespace

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.step_table import VERSION
from lpanas.search.timetable import FILE, asked, keep, of
from making import tiny_space
from test_timetable import CPU, GPU, TIMED, UNDER, ledger, nothing_measured, timed_space

RUNS_ON_GPU = SimpleNamespace(device="cuda", threads=1)
EVEN = "target.model.ffn_multiple=8"


def written(tmp_path, *settings, **under):
    """A file of times that were measured under something else, and the space that names it."""
    its = timed_space(EVEN, *settings).step_times
    path = tmp_path / "times.json"
    path.write_text(its.change(under=UNDER.change(**under)).model_dump_json())
    return tiny_space(*TIMED, EVEN, *settings, f"target.step_times={path}"), path


@pytest.mark.parametrize("place", [CPU, RUNS_ON_GPU])
def test_a_file_of_a_gpu_is_read_wherever_runs_train_and_nothing_is_measured(place, tmp_path):
    named, _ = written(tmp_path, device="another", **GPU)
    assert of(named, tmp_path / "study", place, {}, nothing_measured).dense_costs == timed_space(EVEN).dense_costs


def test_a_file_of_a_cpu_is_read_where_runs_train_on_one(tmp_path):
    named, _ = written(tmp_path, device="another", threads=8)
    assert of(named, tmp_path / "study", CPU, {}, nothing_measured).dense_costs == timed_space(EVEN).dense_costs


FLOAT32 = GPU | {"precision": "float32"}
UNFIT = {
    "measured on a CPU (made up), and runs train on a GPU": {},
    "measured in float32, and a GPU trains in bfloat16 (if it cannot: proxy.precision: float32)": FLOAT32,
    f"measured by another version of lpanas (1 there, {VERSION} here)": GPU | {"version": 1},
    "measured for another target: proxy.optim.clip is set here and was not there": GPU | {"clips": False},
}


@pytest.mark.parametrize("why", UNFIT)
def test_a_file_that_says_nothing_of_a_training_on_a_gpu_is_refused_in_a_line(why, tmp_path):
    named, path = written(tmp_path, **UNFIT[why])
    with pytest.raises(UserError) as raised:
        of(named, tmp_path / "study", RUNS_ON_GPU, {}, nothing_measured)
    assert str(raised.value) == f"{path}: {why}; make it anew: lpanas show SPACE --step-times FILE"


def test_float32_on_a_gpu_is_what_a_space_may_ask_for(tmp_path):
    named, _ = written(tmp_path, "proxy.precision=float32", **FLOAT32)
    assert of(named, tmp_path / "study", RUNS_ON_GPU, {}, nothing_measured).step_times is not None


@pytest.mark.parametrize(("multiple", "right"), [(1, 8), (4, 8), (12, 24)])
def test_widths_that_a_gpu_has_slower_kernels_for_are_refused_with_the_multiple_that_is_right(multiple, right, tmp_path):
    named, path = written(tmp_path, f"target.model.ffn_multiple={multiple}", **GPU)
    why = "in bfloat16 a GPU takes slower kernels where the FFN's width is no multiple of 8, as candidates' may be"
    with pytest.raises(UserError) as raised:
        of(named, tmp_path / "study", CPU, {}, nothing_measured)
    assert str(raised.value).startswith(f"{path}: {why}; set target.model ffn_multiple: {right}; ")


EVENLY = [(4, "[none]", GPU), (8, "[none, params]", GPU), (24, "[none, params]", GPU), (4, "[none, params]", {})]


@pytest.mark.parametrize(("multiple", "rules", "under"), [*EVENLY, (4, "[none, params]", FLOAT32)])
def test_where_no_width_is_odd_or_odd_ones_have_kernels_as_fast_none_is_refused(multiple, rules, under, tmp_path):
    named, _ = written(tmp_path, f"target.model.ffn_multiple={multiple}", f"vary.rebalance={rules}", **under)
    assert of(named, tmp_path / "study", CPU, {}, nothing_measured).step_times is not None


OTHERS = {
    "target.microbatch=8": "measured for another target: target.microbatch (4 there, 8 here)",
    "target.model.context=64": "measured for another target: target.model.context (32 there, 64 here)",
    "target.model.d_ff=256": "lacks {} of {} pieces, the first '",
    "vary.ranks.ffn=[dense, 1/2, 1/4, 1/8]": "lacks {} of {} pieces, the first '",
}


@pytest.mark.parametrize("setting", OTHERS)
def test_a_file_of_another_target_is_refused_with_what_differs(setting, tmp_path):
    keep(timed_space(), tmp_path, ledger())
    path, settings = tmp_path / FILE, (setting,)
    there, here = (set(asked(tiny_space(*TIMED, *more))) for more in ((), settings))
    why = OTHERS[setting].format(len(here - there), len(here))
    with pytest.raises(UserError) as raised:
        of(tiny_space(*TIMED, *settings, f"target.step_times={path}"), tmp_path / "study", CPU, {}, nothing_measured)
    assert str(raised.value).startswith(f"{path}: {why}"), raised.value
    assert str(raised.value).endswith("; make it anew: lpanas show SPACE --step-times FILE")
    with pytest.raises(UserError, match=r"; give another --out$"):
        of(tiny_space(*TIMED, *settings), tmp_path, CPU, {}, nothing_measured)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_where_runs_have_a_gpu_and_the_driver_has_none_the_way_is_named(tmp_path):
    with pytest.raises(UserError, match=r"torch sees none on this machine; make a file .* and name it: target\.step_times$"):
        of(tiny_space(*TIMED), tmp_path, SimpleNamespace(device="cuda", threads=1), {}, nothing_measured)


def test_a_file_without_a_cost_that_asks_for_it_is_a_mistake():
    with pytest.raises(UserError, match="step_times: step_seconds is neither among the objectives nor among the limits"):
        tiny_space("target.step_times=x.json")


def test_a_table_is_no_key_of_a_space():
    with pytest.raises(UserError, match="step_times: "):
        tiny_space("step_times={}")
