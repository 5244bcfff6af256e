"""Equal step times: the ratio of times and the way to a width on times that are made up; the clock once, on a tiny model."""

import json
import math
import random
from dataclasses import replace
from statistics import NormalDist, median
from types import SimpleNamespace

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.cost import rebalance
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.step_time import Stepper, of_step
from lpanas.lpa.train import accumulate, step
from lpanas.lpa.train_config import TrainConfig
from lpanas.search import equal_time, folder, timing, widths
from lpanas.search.apart import Beforehand, now_and_then
from lpanas.search.carry import dense_training
from lpanas.search.equal_time import Grid, Ratio, equal_width, measure, median_interval, pairs_needed
from lpanas.search.ledger import CONFIRM, Ledger
from lpanas.search.protocol import WITHIN
from lpanas.search.timing import Task, Timings, check_noise, check_speed, foretelling, known, timings
from lpanas.search.variants import guesses, low_rank_targets, variants
from made_up import protocol_space
from making import job
from optuna.storages import InMemoryStorage
from scipy.stats import binom, norm

STEPS = "confirm.matches=[step_seconds]"
CPU = SimpleNamespace(device="cpu", threads=1)


def exact(value):
    return Ratio(value, value, value)


def silent(heard):
    pass


# how sure a ratio is


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 40, 301])
def test_the_medians_interval_is_the_narrowest_that_the_sign_test_allows(n, coverage):
    low, high = median_interval(list(range(n)), coverage)
    if math.isinf(low):
        assert 2 * binom.cdf(0, n, 0.5) > 1 - coverage
        return
    assert low + high == n - 1
    assert 2 * binom.cdf(low, n, 0.5) <= 1 - coverage + 1e-12
    assert 2 * binom.cdf(low + 1, n, 0.5) > 1 - coverage


def noisy(ratio, spread, seed):
    """Pairs of steps whose ratios have a known median, with a tail of long steps."""
    chance = random.Random(seed)

    def pair():
        drift = 1e-3 * math.exp(chance.gauss(0, 0.3))  # of the machine, the same for both
        return drift, drift * ratio * math.exp(chance.gauss(0, spread) + (chance.random() < 0.05) * chance.gauss(0, 1))

    return pair


@pytest.mark.parametrize("truth", [0.9, 0.996, 1.0, 1.003, 1.008, 1.2])
def test_a_settled_ratio_is_seldom_wrong_though_it_is_looked_at_again_and_again(truth):
    found = [measure(noisy(truth, 0.01, seed), silent) for seed in range(100)]
    assert sum(not one.low <= truth <= one.high for one in found) <= 10
    certain = [one for one in found if one.low > 1 - WITHIN and one.high < 1 + WITHIN]
    assert all(one.is_settled(WITHIN) for one in found)
    assert sum(one.is_equal(WITHIN) for one in certain) == len(certain)
    if abs(truth - 1) >= 1.5 * WITHIN:  # the middle of an interval of WITHIN / 2 decides
        assert sum(one.is_equal(WITHIN) for one in found) <= 10


def test_pairs_are_spent_where_they_are_needed():
    far, near = measure(noisy(1.3, 0.02, 1), silent), measure(noisy(1.0, 0.02, 1), silent)
    assert far.pairs == equal_time.FIRST
    assert near.pairs > 10 * far.pairs


def test_what_is_measured_are_medians_and_every_look_is_told():
    pairs, heard = [], []
    draw = noisy(1.001, 0.01, 5)

    def pair():
        pairs.append(draw())
        return pairs[-1]

    found = measure(pair, heard.append)
    assert found == heard[-1]
    assert [one.pairs for one in heard] == sorted({one.pairs for one in heard})
    assert found.value == median(b / a for a, b in pairs)
    assert (found.dense_seconds, found.seconds) == (median(a for a, _ in pairs), median(b for _, b in pairs))
    assert found.pairs == len(pairs)


@pytest.mark.parametrize("most", [equal_time.PAIRS, 100, 13, 1])
def test_a_machine_that_is_too_noisy_is_refused_with_the_figure_after_the_last_pair_that_is_allowed(most):
    draw, drawn = noisy(1.0, 0.5, 0), []

    def pair():
        drawn.append(draw())
        return drawn[-1]

    words = rf"too noisy: by {most:,} pairs of steps in \d+ s .* ± (\d\.\d+|inf), and ± 0.0025"
    with pytest.raises(UserError, match=words) as raised:
        measure(pair, silent, is_late=lambda: len(drawn) >= most)
    assert "\n" not in str(raised.value)
    assert len(drawn) == most


def test_the_pairs_that_are_foretold_are_those_of_the_closed_form_and_about_those_that_settle_it():
    for spread in (0.01, 0.02, 0.04):
        normal = NormalDist(1.0, spread)
        ratios = [normal.inv_cdf((place + 0.5) / 4000) for place in range(4000)]
        closed = math.pi / 2 * (norm.ppf(1 - (1 - equal_time.COVERAGE) / 2) * spread / (WITHIN / 2)) ** 2
        assert pairs_needed(ratios) == pytest.approx(closed, rel=1e-2)
        spent = [measure(noisy(1.0, spread, seed), silent).pairs for seed in range(15)]
        assert 0.4 * closed < median(spent) < 1.5 * closed
    assert pairs_needed([1.0, 1.0]) == equal_time.FIRST


# the way to a width


def searched(times, dense, step=1, guess=None, is_model=lambda d_ff: True):
    """The width that is found, and all that were measured; times: of a width, the dense arm's being 1."""
    tried = []

    def ratio(d_ff):
        assert d_ff > 0
        assert is_model(d_ff)
        assert d_ff % step == 0
        assert d_ff not in tried  # a measurement takes minutes
        tried.append(d_ff)
        return exact(times(d_ff))

    try:
        return equal_width(ratio, guess or dense, Grid(dense, step, is_model))[0], tried
    except ValueError as error:
        return str(error), tried


def ceil_to(d_ff, tile):
    return -(-d_ff // tile) * tile


@pytest.mark.parametrize("fixed", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("answer", [40, 700, 2048, 3000, 9000])
@pytest.mark.parametrize("guess", [100, 2048, 5000])
def test_on_a_straight_line_the_width_is_found_in_a_few_measurements(fixed, answer, guess):
    found, tried = searched(lambda d_ff: fixed + (1 - fixed) * d_ff / answer, 2048, guess=guess)
    assert isinstance(found, int)
    assert abs((1 - fixed) * (found / answer - 1)) <= WITHIN
    assert len(tried) <= 9


@pytest.mark.parametrize("tile", [1, 8, 64, 128])
@pytest.mark.parametrize("step", [1, 8, 64])
def test_where_times_have_steps_a_width_is_found_just_when_there_is_one(tile, step):
    chance = random.Random(tile * step)
    for _ in range(40):
        dense, fixed, answer = chance.randrange(64, 1500), chance.uniform(0, 0.9), chance.uniform(30, 3000)

        def times(d_ff, fixed=fixed, answer=answer):
            return fixed + (1 - fixed) * ceil_to(d_ff, tile) / answer

        every = range(step, max(step, equal_time.WIDEST * dense) + 1, step)
        there_is = any(abs(times(d_ff) - 1) <= WITHIN for d_ff in every)
        found, tried = searched(times, dense, step, guess=chance.choice(every))
        if there_is:
            assert isinstance(found, int)
            assert abs(times(found) - 1) <= WITHIN
        else:
            nearest = min(abs(times(d_ff) - 1) for d_ff in every)
            assert isinstance(found, str)
            assert min(abs(times(d_ff) - 1) for d_ff in tried) == nearest
        assert len(tried) <= 30


def test_what_cannot_be_reached_is_refused_with_the_nearest_width_in_the_words_of_the_other_matches():
    found, tried = searched(lambda d_ff: 1.3 + d_ff / 1e6, 96, step=8)
    assert tried[-1] == 8
    assert found.startswith("the nearest FFN, d_ff 8, has +30.00% of the dense arm's step_seconds, and 0.5% may be missing")
    found, tried = searched(lambda d_ff: 0.5, 96, step=8)
    assert max(tried) == 96 * equal_time.WIDEST
    assert "-50.00% of the dense arm's step_seconds" in found


@pytest.mark.parametrize(("first", "last"), [(1, 49), (1, 95), (60, 90), (90, 99), (97, 99), (160, 170), (100, 768)])
def test_widths_that_there_is_no_model_of_are_passed_over(first, last):
    def is_model(d_ff):
        return not first <= d_ff <= last

    for answer in (20, 50, 95, 96, 97, 130, 165, 300):
        found, tried = searched(lambda d_ff, answer=answer: d_ff / answer, 96, is_model=is_model)
        if is_model(answer):
            assert found == answer
        elif isinstance(found, str):
            every = filter(is_model, range(1, 96 * equal_time.WIDEST + 1))
            assert min(abs(d_ff / answer - 1) for d_ff in tried) == min(abs(d_ff / answer - 1) for d_ff in every)


def test_noisy_times_lead_to_a_width_that_takes_the_dense_time():
    for seed in range(20):
        found, its = equal_width(
            lambda d_ff, seed=seed: measure(noisy(0.4 + 0.6 * d_ff / 1700, 0.02, f"{seed} {d_ff}"), silent),
            2048,
            Grid(2048, 8, lambda d_ff: True),
        )
        assert abs(0.6 * (found / 1700 - 1)) <= 1.5 * WITHIN
        assert its.is_equal(WITHIN)


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
