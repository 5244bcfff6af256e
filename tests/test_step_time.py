"""Equal step times: what is timed and kept, on times that are made up; the clock once, on a tiny model."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.cost import rebalance
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.step_time import Stepper, of_step
from lpanas.lpa.train import accumulate, step
from lpanas.lpa.train_config import TrainConfig
from lpanas.search import folder, timing, widths
from lpanas.search.apart import Beforehand, now_and_then
from lpanas.search.carry import dense_training
from lpanas.search.ledger import CONFIRM, Ledger
from lpanas.search.timing import Task, Timings, check_noise, check_speed, foretelling, known, timings
from lpanas.search.variants import guesses, low_rank_targets, variants
from made_up import protocol_space
from making import job
from optuna.storages import InMemoryStorage
from test_equal_time import searched, silent

STEPS = "confirm.matches=[step_seconds]"
CPU = SimpleNamespace(device="cpu", threads=1)


# steps


def training(model, **changes):
    fields = {"tokens": 1000, "batch_size": 6, "microbatch": 2, "device": "cpu"}
    return TrainConfig(model=model, optim=OptimConfig(lr=1e-2), **fields | changes)


def test_a_steppers_weights_stay_and_its_gradient_is_that_of_the_training_loop(tiny):
    stepper = Stepper(training(tiny))
    before = [parameter.clone() for parameter in stepper.model.parameters()]
    stepper.warm_up()
    assert all(map(torch.equal, before, stepper.model.parameters()))
    again = Stepper(training(tiny, batch_size=2))
    adamw = optimizer(again.model, again.config.optim)
    step(again.model, adamw, (again.inputs, again.targets), again.config, 0, share=0.0)
    accumulate(again.model, again.inputs, again.targets, again.config)
    stepper._accumulate()
    pairs = zip(stepper.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)


@pytest.mark.parametrize(
    ("seconds", "microbatches", "expected"),
    [([1.0, 100.0], 1, 101), ([1.0, 10.0, 100.0], 2, 111), ([1.0, 10.0, 100.0], 5, 1 + 4 * 10 + 100)],
)
def test_a_step_is_its_first_microbatch_all_others_and_the_update(seconds, microbatches, expected):
    assert of_step(seconds, microbatches) == expected


@pytest.mark.parametrize(("batch", "expected"), [(2, 1), (4, 2), (10, 5)])
def test_a_stepper_counts_the_microbatches_of_a_step(tiny, batch, expected):
    assert Stepper(training(tiny, batch_size=batch, microbatch=2)).microbatches == expected


def test_a_tiny_target_is_measured_for_real():
    space = protocol_space(STEPS, "target.batch_size=8")
    arms = low_rank_targets(space)
    config = space.proxy.change(model=space.target.model, batch_size=8, microbatch=4)
    said = []
    arms["again"] = arms["ffn"]
    found = timings(Task(config, arms, 1, within=0.6), said.append)
    assert list(found.arms) == ["attention", "ffn", "both", "again"]
    assert found.arms["again"] == found.arms["ffn"]  # one model has one width
    assert (found.device, found.torch, found.threads, found.precision) == ("cpu", torch.__version__, 1, "float32")
    for its in found.arms.values():
        figures = [its.dense_seconds, its.seconds, its.ratio, its.ratio_low, its.ratio_high]
        assert all(math.isfinite(figure) and figure > 0 for figure in figures)
        assert its.ratio_low <= its.ratio <= its.ratio_high
        assert its.d_ff % space.target.model.ffn_multiple == 0
    assert any("attention at d_ff" in line for line in said)


class StoppedError(Exception):
    """As a kill is, between two lines."""


def test_a_measurement_that_was_stopped_goes_on_with_the_arms_that_it_had_not_come_to(tmp_path):
    space, part = protocol_space(STEPS, "target.batch_size=4"), tmp_path / folder.PART
    arms = {name: its for name, its in low_rank_targets(space).items() if name != "both"}
    task = Task(dense_training(space, "cpu"), arms, 1, within=0.6, part=part)

    def until_the_second(line):
        if line.startswith("arm 2 of 2"):
            raise StoppedError

    with pytest.raises(StoppedError):
        timings(task, until_the_second)
    assert folder.check_folder(tmp_path) == tmp_path  # the same command may go on in it
    text, said = part.read_text(), []
    found = timings(task, said.append)
    assert [found.arms["attention"].model_dump()] == list(json.loads(text)["arms"].values())
    assert all(line.startswith("arm 2 of 2") for line in said[1:])
    assert timings(task, nothing_measured).arms == found.arms
    assert len(known(task)) == 2
    for other in (replace(task, within=0.59), replace(task, config=task.config.change(seed=9)), replace(task, part=None)):
        assert known(other) == {}
    part.write_text(text[:99])
    assert known(task) == {}


def test_a_target_that_takes_too_long_is_refused_after_its_first_microbatch_or_its_first_pairs():
    check_speed(18.0, "cpu", 30)
    with pytest.raises(UserError, match=r"takes 60.0 s on cpu, so that 20 pairs of steps take 80 min"):
        check_speed(60.0, "cpu", 30)
    check_speed(30.0, "cpu", 30, microbatches=1)  # 20 pairs, two steps each: 20 min
    check_noise(80.0, "cpu", 30)
    with pytest.raises(UserError, match=r"on cpu that it would take about 200 min, and 30 are allowed"):
        check_noise(200.0, "cpu", 30)


def test_a_step_of_one_microbatch_is_refused_by_that_one():
    space = protocol_space(STEPS, "target.batch_size=4")
    config, arms, said = dense_training(space, "cpu"), low_rank_targets(space), []
    assert config.microbatch == config.batch_size
    with pytest.raises(UserError, match=r"takes 0.0 s on cpu, so that 20 pairs"):
        timings(Task(config, arms, 1, minutes=1e-9), said.append)


def test_that_the_time_may_not_suffice_is_said_where_it_goes_on_all_the_same():
    assert foretelling(20.0, 30.0) == "about 20 min, at most 30 (confirm.timing_minutes)"
    assert foretelling(60.0, 30.0) == "about 60 min, at most 30 (confirm.timing_minutes), which may not suffice"


def test_what_would_surely_take_too_long_is_refused_before_any_arm_is_timed():
    space, said = protocol_space(STEPS), []
    task = Task(dense_training(space, "cpu"), low_rank_targets(space), 1, within=1e-5, minutes=1.0)
    with pytest.raises(
        UserError, match=r"dense steps differ so much .* that it would take about [\d,]+ min, and 1 are allowed"
    ):
        timings(task, said.append)
    assert said == ["a step of the dense arm"]


def test_a_width_is_a_multiple_as_rebalances_are_where_the_dense_one_is_none():
    for d_ff in (191, 193, 204):
        for rule in ("params", "flops"):
            space = protocol_space(STEPS, f"target.model.d_ff={d_ff}", "target.model.ffn_multiple=24")
            for placed in low_rank_targets(space).values():
                assert rebalance(placed, rule).d_ff % 24 == 0
        found, tried = searched(lambda its, d_ff=d_ff: 0.5 + its / d_ff / 2, d_ff, step=24)
        assert (found == 192) is (d_ff < 200)
        assert all(its % 24 == 0 for its in tried)


# the file


def made_up(task, say):
    """What a measurement may come to: every arm a little wider than at equal FLOPs."""
    arms = {
        arm: {
            "d_ff": rebalance(placed, "flops").d_ff - 4,
            "dense_seconds": 1.0,
            "seconds": 1.0,
            "ratio": 1.0,
            "ratio_low": 0.999,
            "ratio_high": 1.001,
            "pairs": 8,
        }
        for arm, placed in task.arms.items()
    }
    return Timings.parse({"device": "cpu", "torch": "2", "threads": 1, "precision": "float32", "arms": arms}, "made up")


def ledger(*runs):
    """A confirmation's, with these runs begun."""
    space = protocol_space(STEPS)
    its = Ledger(space, InMemoryStorage(), "s", of=CONFIRM)
    for run in runs:
        its.add(CONFIRM, job(space.arm("dense"), run))
    return its


def nothing_measured(*_):
    raise AssertionError("it is measured again")


@pytest.fixture
def kept(tmp_path):
    """A folder with measured widths."""
    space = protocol_space(STEPS)
    found = widths.of(space, tmp_path, CPU, {}, made_up)
    assert list(tmp_path.iterdir()) == []
    widths.keep(found, tmp_path, ledger())
    return tmp_path


def test_widths_are_measured_once_and_read_from_then_on(kept):
    space = protocol_space(STEPS)
    found = widths.of(space, kept, CPU, {}, nothing_measured)
    text = (kept / widths.FILE).read_text()
    assert widths.by_arm(found) == {arm: its["d_ff"] for arm, its in json.loads(text)["measured"]["arms"].items()}
    widths.keep(found, kept, ledger("confirm-0"))
    assert (kept / widths.FILE).read_text() == text
    assert {one.target.d_ff for one in variants(space, widths.by_arm(found))} >= set(widths.by_arm(found).values())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("arms.attention=3/8", r"confirm.arms 'attention' \(0-3 q,k,v,o=1/4 there, 0-3 q,k,v,o=3/8 here\)"),
        ("target.microbatch=2", r"target.microbatch \(4 there, 2 here\)"),
        ("target.model.d_ff=200", r"target.model.d_ff \(192 there, 200 here\)"),
        ("confirm.arms=[dense, attention, ffn, both, winner]", "winner"),
    ],
)
def test_another_protocols_widths_are_refused_in_a_line(kept, setting, words):
    more = ["confirm.placements={winner: {ranks: {attention: 1/8}}}"] if words == "winner" else []
    with pytest.raises(UserError, match=words) as raised:
        widths.of(protocol_space(STEPS, setting, *more), kept, CPU, {})
    assert widths.FILE in str(raised.value)
    assert "\n" not in str(raised.value)


def test_widths_of_another_kind_of_device_and_a_torn_file_are_refused(kept):
    space = protocol_space(STEPS)
    with pytest.raises(UserError, match=r"device \(cpu there, cuda here\)"):
        widths.of(space, kept, SimpleNamespace(device="cuda", threads=1), {})
    (kept / widths.FILE).write_text("{}")
    with pytest.raises(UserError, match=widths.FILE):
        widths.of(space, kept, CPU, {})


@pytest.mark.parametrize(
    ("key", "value"), [("seconds", -1.0), ("dense_seconds", -3.909), ("ratio", -0.5), ("ratio_low", 1e308), ("pairs", -8)]
)
def test_times_that_cannot_be_are_refused_in_a_line(kept, key, value):
    its = json.loads((kept / widths.FILE).read_text())
    its["measured"]["arms"]["ffn"][key] = value
    (kept / widths.FILE).write_text(json.dumps(its))
    for read in (lambda space: widths.kept(space, kept, {}), lambda space: widths.of(space, kept, CPU, {}, nothing_measured)):
        with pytest.raises(UserError, match=rf"arms\.ffn\.{key}: expected (greater|less) than or equal to \d") as raised:
            read(protocol_space(STEPS))
        assert "\n" not in str(raised.value)


def test_who_reads_a_confirmation_finds_its_widths_whatever_device_they_were_measured_on(kept, tmp_path_factory):
    space = protocol_space(STEPS)
    assert widths.kept(space, kept, {}) == widths.of(space, kept, CPU, {})
    (kept / widths.FILE).write_text((kept / widths.FILE).read_text().replace('"device": "cpu"', '"device": "cuda"', 1))
    assert set(widths.by_arm(widths.kept(space, kept, {}))) == {"attention", "ffn", "both"}
    with pytest.raises(UserError, match=r"target\.batch_size"):
        widths.kept(protocol_space(STEPS, "target.batch_size=16"), kept, {})
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="missing"):
        widths.kept(space, empty, {})
    assert widths.kept(protocol_space("confirm.matches=[width]"), empty, {}) is None


def test_a_confirmation_in_a_server_has_its_widths_in_every_folder(kept, tmp_path_factory):
    space, study, elsewhere = protocol_space(STEPS), ledger(), tmp_path_factory.mktemp("elsewhere")
    first = widths.of(space, kept, CPU, {}, nothing_measured)
    widths.keep(first, kept, study)
    study.add(CONFIRM, job(space.arm("dense"), "confirm-0"))
    found = widths.of(space, elsewhere, CPU, study.measured, nothing_measured)
    assert found == first
    widths.keep(found, elsewhere, study)
    assert (elsewhere / widths.FILE).read_bytes() == (kept / widths.FILE).read_bytes()
    (elsewhere / widths.FILE).unlink()
    assert widths.kept(space, elsewhere, study.measured) == first


def test_runs_whose_widths_are_lost_are_not_gone_on_with(tmp_path):
    found = widths.of(protocol_space(STEPS), tmp_path, CPU, {}, made_up)
    with pytest.raises(UserError, match="missing"):
        widths.keep(found, tmp_path, ledger("confirm-0"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_where_runs_have_a_gpu_and_the_driver_has_none_nothing_is_measured(tmp_path):
    with pytest.raises(UserError, match="torch sees none on this machine"):
        widths.of(protocol_space(STEPS), tmp_path, SimpleNamespace(device="cuda", threads=1), {})


def test_nothing_is_measured_where_step_seconds_is_no_match(tmp_path):
    space = protocol_space("confirm.matches=[width, flops]")
    assert guesses(space) == {}
    assert widths.of(space, tmp_path, CPU, {}, nothing_measured) is None


# at the proxies


def test_every_proxy_has_the_targets_share_of_its_dense_width():
    space = protocol_space(STEPS, "confirm.sizes=[{name: a}, {name: b, model: {d_ff: 1000, rank_multiple: 1}}]")
    found = {"attention": 240, "ffn": 288, "both": 384}
    dense = space.target.model.d_ff
    for one in variants(space, found):
        if one.control is None and one.arm != "dense":
            base = 1000 if one.size == "b" else space.proxy.model.d_ff
            assert one.target.d_ff == found[one.arm]
            assert abs(one.model.d_ff - base * found[one.arm] / dense) <= 0.5


@pytest.mark.parametrize(
    ("arm", "d_ff", "why"), [("ffn", 16, "x d_ff 96, as at the target: placement: rank 8"), ("attention", 1, "target: d_ff: ")]
)
def test_a_share_that_a_proxy_cannot_have_is_refused_by_size_arm_and_match(arm, d_ff, why):
    sizes = "confirm.sizes=[{name: small, model: {d_ff: 96, rank_multiple: 8}}]"
    space = protocol_space(STEPS, sizes, "target.model.rank_multiple=1")
    with pytest.raises(UserError, match=rf"confirm: {arm} at equal step_seconds and size 'small': 0\.\d+ .*{why}") as raised:
        variants(space, {"attention": 240, "ffn": 240, "both": 240} | {arm: d_ff})
    assert "\n" not in str(raised.value)


# the process


def test_without_a_terminal_long_work_is_foretold_and_then_said_now_and_then():
    now, told = [0.0], []
    say = now_and_then(told.append, lambda: now[0])
    say("a")
    say(Beforehand("about 5 min"))
    for now[0] in range(1, 200):
        say(str(now[0]))
    assert told == ["about 5 min", "20", "80", "140"]


def test_a_process_of_its_own_measures_and_says_how_far_it_is():
    space, said = protocol_space(STEPS), []
    config = space.proxy.change(model=space.target.model, batch_size=8, microbatch=4)
    found = timing.measured(Task(config, low_rank_targets(space), 1, within=0.6), said.append)
    assert set(found.arms) == {"attention", "ffn", "both"}
    assert said


def test_what_the_process_refuses_is_a_mistake_in_a_line():
    space = protocol_space(STEPS)
    config = space.proxy.change(model=space.target.model.change(context=10**9), batch_size=8, microbatch=4)
    with pytest.raises(UserError, match=r"matches: step_seconds: the dense target and an arm of it do not fit in memory"):
        timing.measured(Task(config, low_rank_targets(space), 1), silent)
