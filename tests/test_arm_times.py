"""step_seconds of a confirmation's arms: by its study's own table, filled up on its device alone; and where they are said."""

import json
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from lpanas.lpa.config import UserError, override, parse_yaml
from lpanas.lpa.model import Decoder
from lpanas.lpa.pieces import Layer, Project
from lpanas.lpa.step_table import StepTable, under
from lpanas.search import arm_times, timetable, timing, widths
from lpanas.search.carry import dense_training
from lpanas.search.conclude import conclude
from lpanas.search.confirm import resolved
from lpanas.search.fitting import attached
from lpanas.search.folder import DATABASE
from lpanas.search.ledger import CONFIRM, Ledger
from lpanas.search.results import read_study
from lpanas.search.timetable import FILE, asked, times
from lpanas.search.timing import Timed, Timings
from lpanas.search.variants import guesses, low_rank_targets, variants
from lpanas.search.verdict_figures import cost_rows
from lpanas.search.verdict_page import figures, write_page
from lpanas.search.wording import remarks
from made_up import SHAPE, Losses, play, protocol_space
from making import TINY, job
from optuna.storages import InMemoryStorage
from page_tables import UNKNOWN, tables
from test_confirm import CONFIRM as PROTOCOL
from test_kill import COMMAND
from test_timetable import CPU, UNDER, made_up, nothing_measured, table, weights

SECONDS = "objectives=[loss_nats, step_seconds]"
THIN = ("confirm.placements={thin: {ranks: {attention: 1/8}}}", "confirm.arms=[dense, attention, ffn, both, thin]")
STEPS = ("confirm.matches=[width, step_seconds]", "vary.rebalance=[none, flops]")


def per_weight(pieces):
    """The table of some pieces: a second a million weights of a projection and a microbatch, nothing else."""
    return table({one.key: weights(one) / 1e6 if hasattr(one, "layers") else 0.0 for one in pieces})


def space_of(*settings):
    """A confirmation's, with its study's table."""
    space = protocol_space(SECONDS, "vary.rebalance=[none, params]", "confirm.matches=[width, params]", *settings)
    return attached(space, per_weight(asked(space)))


def its(space, tmp_path, measure=nothing_measured, texts=None):
    """The confirmation's space, and what was said."""
    said, arms = [], variants(space, guesses(space))
    return arm_times.of(space, arms, tmp_path, CPU, texts or {}, said.append, measure), said


def of_weights(model):
    """What of a step the blocks' matrices take, by the built model: two microbatches of a millionth a weight."""
    with torch.device("meta"):
        built = Decoder(model)
    return 2e-6 * sum(one.weight.numel() for one in built.blocks.modules() if isinstance(one, torch.nn.Linear))


def test_the_arms_have_the_seconds_of_the_studys_table_and_nothing_is_measured(tmp_path):
    space, said = its(space_of(), tmp_path)
    arms = variants(space, {})
    found = conclude(space, arms, [])
    assert said == []
    assert found.dense_step_seconds == pytest.approx(of_weights(space.target.model))
    shares = {(one.arm, one.matches): found.step_share(one) for one in found.arms if one.control is None}
    assert shares["dense", ("width", "params")] == 1
    # a layer has 4 x 64 x 64 + 3 x 64 x 192 = 53,248 weights; at rank 16 attention has 8,192, at rank 32 the FFN has 24,576
    by_hand = {"attention": 45056 / 53248, "ffn": 40960 / 53248, "both": 32768 / 53248}
    assert {arm: shares[arm, ("width",)] for arm in by_hand} == pytest.approx(by_hand)
    for one in (arm for arm in arms if arm.match == "params" and not arm.control):
        share = of_weights(one.target) / of_weights(space.target.model)
        assert shares[one.arm, ("width", "params") if one.arm == "dense" else ("params",)] == pytest.approx(share)


def test_what_the_studys_table_lacks_is_measured_under_the_same_alone(tmp_path):
    space, tasks = space_of(*THIN), []

    def measure(task, say):
        tasks.append(task)
        return made_up(task, say)

    whole, said = its(space, tmp_path, measure)
    (task,) = tasks
    assert task.under == UNDER
    assert said == []
    assert {one.key for one in task.pieces} == {"project 64>64 rank 8 64>64 rank 8 64>64 rank 8", "project 64>64 rank 8"}
    (thin,) = (one for one in variants(whole, {}) if (one.arm, one.match, one.control) == ("thin", "width", None))
    assert whole.costs(thin.target)["step_seconds"] == pytest.approx(of_weights(thin.target))


def refused(task, say):
    raise UserError("step_seconds: the study's step times were measured under something else: device (made up there, cpu here)")


def test_an_arm_that_cannot_be_measured_where_the_study_was_has_none_and_it_is_said(tmp_path):
    space, said = its(space_of(*THIN, "confirm.controls=[]"), tmp_path, refused)
    assert said == [
        "some arms have no step_seconds, as 2 pieces of their steps are not known and cannot be measured here; the study's "
        "step times were measured under something else: device (made up there, cpu here)"
    ]
    records = play(space, Losses(arms=Losses().arms | {"thin": 2.2}))
    found = conclude(space, variants(space, {}), records)
    assert {one.arm for one in found.arms if found.step_share(one) is None} == {"thin"}
    told = dict(remarks(found))["What a step of the target takes, x the dense arm's"]
    assert told[0] == "At equal width, the sum of its pieces: attention 0.846, ffn 0.769, both 0.615."
    assert told[-1].startswith("Not known of thin at equal width and proxy and thin at equal params and proxy: ")
    rows = tables(write_page(found, space, tmp_path).read_text(encoding="utf-8"))["arms"]
    shown = {(row["arm"], row["match"]): row["step / dense"] for row in rows}
    assert shown["attention", "width"] == "0.8462"
    assert shown["thin", "width"] == UNKNOWN
    assert set(cost_rows(found, "step_seconds")["arm"]) == {"dense", "attention", "ffn", "both"}
    assert [one.name for one in figures(found) if one.name.startswith("costs")] == ["costs_1", "costs_2", "costs_3"]


def test_the_same_table_is_read_from_then_on_in_every_folder(tmp_path):
    space, _ = its(space_of(*THIN), tmp_path, made_up)
    study, elsewhere = Ledger(space, InMemoryStorage(), "s", of=CONFIRM), tmp_path / "b"
    elsewhere.mkdir()
    arm_times.keep(space, tmp_path, study)
    study.add(CONFIRM, job(space.arm("dense"), "confirm-0"))
    again, _ = its(space_of(*THIN), elsewhere, texts=study.measured)
    assert again.step_times == space.step_times
    arm_times.keep(again, elsewhere, study)
    assert (elsewhere / FILE).read_bytes() == (tmp_path / FILE).read_bytes()
    bare = protocol_space(SECONDS, "confirm.matches=[width, params]", *THIN)
    assert arm_times.kept(bare, elsewhere, {}).dense_costs == space.dense_costs
    (elsewhere / FILE).unlink()
    assert arm_times.kept(bare, elsewhere, study.measured).dense_costs == space.dense_costs
    assert arm_times.kept(bare, elsewhere, {}).step_times is None  # one of an older version


def test_a_search_that_counts_no_seconds_has_none_in_its_confirmation(tmp_path):
    space, said = its(protocol_space(), tmp_path)
    found = conclude(space, variants(space, {}), [])
    assert (said, space.step_times, found.step_times, found.dense_step_seconds) == ([], None, "", None)
    assert "step / dense" not in tables(write_page(found, space, tmp_path).read_text(encoding="utf-8"))["arms"][0]


WITHOUT = {
    "params": ("confirm.matches=[params]",),
    "flops": ("confirm.matches=[flops]", "vary.rebalance=[none, flops]"),
    "two arms": ("confirm.arms=[dense, attention]", "confirm.claim=[attention better than dense]", "confirm.matches=[width]"),
    "no controls": ("confirm.arms=[dense, ffn]", "confirm.claim=[ffn better than dense]", "confirm.controls=[]"),
}


@pytest.mark.parametrize("host", [0.0, 2.0])
@pytest.mark.parametrize("which", WITHOUT)
def test_a_table_without_some_of_the_reference_arms_is_told_like_another(which, host, tmp_path):
    space = protocol_space(SECONDS, "vary.rebalance=[none, params]", *WITHOUT[which])
    whole = per_weight(asked(space))
    slow = {key: one.change(host_first=host if "rank" in key else 0.0) for key, one in whole.pieces.items()}
    space = attached(space, whole.change(pieces=slow))
    arms = variants(space, guesses(space))
    space, _ = its(space, tmp_path, made_up)
    found = conclude(space, arms, [])
    assert "(dense: 0.426 s ± 0.0 %" in found.step_times  # 4 layers of 53,248 weights, two microbatches
    waiting = found.step_times.partition(" and its seconds count, in ")[2]
    assert host or not waiting
    if which == "two arms" and host:
        assert waiting.startswith("attention (16 s against ")
        assert ", ffn (" not in waiting
    assert write_page(found, space, tmp_path).exists()


def test_a_table_without_pieces_of_the_dense_arm_is_told_too(tmp_path):
    space = space_of("limits.step_seconds=5 x dense")
    lacking = {key: one for key, one in space.step_times.pieces.items() if " joined" not in key}
    space, said = its(attached(space, space.step_times.change(pieces=lacking)), tmp_path, refused)
    found = conclude(space, variants(space, {}), [])
    assert said[0].startswith("some arms have no step_seconds, as a piece of their steps is not known and cannot be measured")
    assert found.dense_step_seconds is None
    assert "of the target, the sum of its pieces; " in found.step_times
    assert write_page(found, space, tmp_path).exists()


def test_more_is_measured_after_the_studys_own_piece_that_says_whether_the_machine_is_as_it_was(tmp_path):
    shape = ("proxy.model.bias=true", "target.model.bias=true")  # no projection of the model is the one that is timed again
    space, asks = protocol_space(SECONDS, *shape, *THIN), []
    probe = Project((Layer(64, 64),))
    table = per_weight([*asked(space), probe]).change(anchor=64)
    (tmp_path / FILE).write_text(table.text)
    assert probe not in asked(space)
    read = timetable.of(space, tmp_path, CPU, {}, nothing_measured)

    def faster(task, say):
        asks.extend(task.pieces)
        found = per_weight(task.pieces)
        return found.change(pieces={key: one.change(first=one.first / 2) for key, one in found.pieces.items()})

    empty = tmp_path / "confirm"
    _, said = its(read, empty, faster)
    assert probe in asks
    assert said[0].endswith("the machine is faster or slower than when the study's pieces were measured")


# together with equal step times


def test_at_equal_step_seconds_the_page_says_whole_steps_beside_the_sum_of_pieces(tmp_path):
    space = space_of(*STEPS, "confirm.controls=[]")
    timed = {arm: Timed(d_ff=192, dense_seconds=1, seconds=1, ratio=0.998, ratio_low=0.996, ratio_high=1.0004, pairs=40)
             for arm in ("attention", "ffn", "both")}  # fmt: skip
    arms = variants(space, dict.fromkeys(timed, 288))
    space = arm_times.of(space, arms, tmp_path, CPU, {}, [].append, made_up)
    found = conclude(space, arms, [], timed)
    rows = tables(write_page(found, space, tmp_path).read_text(encoding="utf-8"))["arms"]
    shown = {(row["arm"], row["match"]): (row["step / dense"], row["whole steps / dense"]) for row in rows}
    assert shown["attention", "width"] == ("0.8462", UNKNOWN)
    assert shown["attention", "step_seconds"] == (f"{(8192 + 3 * 64 * 288) / 53248:.4f}", "0.9980 (0.9960 to 1.0004)")
    told = dict(remarks(found))["What a step of the target takes, x the dense arm's"]
    assert "At equal step_seconds, whole steps in pairs: attention 0.9980 (0.9960 to 1.0004), " in " ".join(told)


def test_costs_are_of_the_target_whose_steps_are_told_though_its_proxy_is_another_matchs_too(tmp_path):
    space = space_of(*STEPS, "confirm.controls=[]")
    timed = {arm: Timed(d_ff=d_ff, dense_seconds=1, seconds=1, ratio=0.998, ratio_low=0.996, ratio_high=1.0, pairs=40)
             for arm, d_ff in (("attention", 193), ("ffn", 192), ("both", 288))}  # fmt: skip
    arms = variants(space, {arm: one.d_ff for arm, one in timed.items()})
    space = arm_times.of(space, arms, tmp_path, CPU, {}, [].append, made_up)
    found = conclude(space, arms, [], timed)
    rows = {(one.arm, *one.matches): one for one in found.arms}
    assert set(rows) == {("dense", "width", "step_seconds"), ("attention", "width"), ("attention", "step_seconds"),
                         ("ffn", "width", "step_seconds"), ("both", "width"), ("both", "step_seconds")}  # fmt: skip
    for match, d_ff in (("width", 192), ("step_seconds", 193)):
        one = rows["attention", match]
        assert (one.target_d_ff, one.d_ff, one.whole_steps is not None) == (d_ff, 96, d_ff == 193)
        assert one.target_costs["step_seconds"] == pytest.approx(4 * 2e-6 * (8192 + 3 * 64 * d_ff))
    shown = tables(write_page(found, space, tmp_path).read_text(encoding="utf-8"))["arms"]
    assert {(row["match"], row["d_ff at the target"]) for row in shown if row["arm"] == "attention"} == {
        ("width", "192"),
        ("step_seconds", "193"),
    }
    told = dict(remarks(found))["What a step of the target takes, x the dense arm's"]
    assert any(line.startswith("At equal step_seconds, the sum of its pieces: attention 0.850, both ") for line in told)


def test_widths_of_whole_steps_go_by_no_version_of_pieces(tmp_path):
    space = protocol_space(STEPS[0], "target.batch_size=8", "confirm.arms=[dense, attention]", "confirm.beside=[]",
                           "confirm.claim=[attention better than dense]")  # fmt: skip
    config = dense_training(space, "cpu")
    here, low = under(config), low_rank_targets(space)
    task = timing.Task(config, low, 1, within=0.6, under=here.change(version=1))
    assert list(timing.timings(task, [].append).arms) == ["attention"]
    with pytest.raises(UserError, match=r"something else: torch \(1 there, .* here\); confirm it there"):
        timing.timings(replace(task, under=here.change(version=1, torch="1")), [].append)


def test_widths_of_equal_step_seconds_are_measured_under_what_the_studys_table_was(tmp_path):
    space, tasks = space_of(*STEPS), []

    def measure(task, say):
        tasks.append(task)
        its = dict.fromkeys(("dense_seconds", "seconds", "ratio", "ratio_low", "ratio_high"), 1.0)
        arms = {arm: its | {"d_ff": 240, "pairs": 8} for arm in task.arms}
        return Timings.parse({"device": "x", "torch": "2", "threads": 3, "precision": "float32", "arms": arms}, "made up")

    threaded = attached(space, space.step_times.change(under=UNDER.change(threads=3)))
    widths.of(threaded, tmp_path, CPU, {}, measure)
    assert (tasks[0].under.device, tasks[0].threads) == ("made up", 3)
    task = timing.Task(dense_training(space, "cpu"), low_rank_targets(space), 1, under=UNDER)
    words = (
        r"confirm.matches: step_seconds: the study's step times were measured under something else: device \(made up there, "
    )
    with pytest.raises(UserError, match=words):
        timing.measured(task, [].append)


def test_pieces_are_not_measured_on_another_device_than_the_studys(tmp_path):
    space = space_of()
    with pytest.raises(UserError, match=r"measured under something else: device \(made up there, .* here\)"):
        times(space, SimpleNamespace(device="cpu", threads=1), asked(space)[:1], under=UNDER)


# from the command line


@pytest.fixture(scope="module")
def searched(pages, tmp_path_factory):
    """A study that minimises seconds, by a made-up file of times."""
    place = tmp_path_factory.mktemp("searched")
    raw = override(parse_yaml(TINY + PROTOCOL, "tiny.yaml"), [SHAPE, SECONDS, f"target.step_times={place / 'times.json'}"])
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    (place / "times.json").write_text(per_weight(asked(protocol_space(SECONDS))).text)
    (place / "tiny.yaml").write_text(yaml.safe_dump(raw))
    command = [*COMMAND, "search", str(place / "tiny.yaml"), "--out", str(place / "study"), "--set", "search.trials=4"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return place / "study"


def test_a_confirmation_of_a_study_of_seconds_says_them_and_again_without_the_studys_file(searched, call):
    space = resolved(searched, None, [])
    assert space.step_times is not None
    code, said, error = call("confirm", searched, "--set", "confirm.matches=[width]")
    assert (code, error) == (0, "")
    assert "At equal width, the sum of its pieces: attention 0.846, ffn 0.769" in said
    out = searched / "confirm"
    verdict = (out / "verdict.json").read_bytes()
    found = json.loads(verdict)
    seconds = {one["arm"]: one["target_costs"]["step_seconds"] for one in found["arms"]}
    assert seconds["attention"] / seconds["dense"] == pytest.approx(45056 / 53248)
    assert found["dense_step_seconds"] == seconds["dense"]
    assert "were measured on made up" in found["step_times"]
    assert StepTable.parse_json((out / FILE).read_text(), "x").pieces.items() <= space.step_times.pieces.items()
    (out / FILE).unlink()
    code, _, error = call("report", out)
    assert (code, error) == (0, "")
    assert (out / "verdict.json").read_bytes() == verdict


def test_a_study_that_an_older_version_has_begun_is_read_by_all_and_confirmed(searched, tmp_path, call):
    out = tmp_path / "study"
    shutil.copytree(searched, out, ignore=shutil.ignore_patterns("confirm", DATABASE))  # records.jsonl is read then
    before = read_study(searched)
    text = (out / FILE).read_text()
    assert " joined" in text
    (out / FILE).write_text(text.replace(" joined", "").replace('"version": 2', '"version": 1'))
    found = read_study(out)
    assert found.space.dense_costs == before.space.dense_costs
    assert [found.relative(one, "step_seconds") for one in found.records] == [
        before.relative(one, "step_seconds") for one in before.records
    ]
    for command in (("show", out), ("report", out), ("export", out)):
        code, _, error = call(*command)
        assert (code, error) == (0, "")
    code, said, error = call("confirm", out, "--set", "confirm.matches=[params]")
    assert code == 0, error
    assert "some arms have no step_seconds, as " in error
    assert "version (1 there, 2 here)" in error
    assert "of the target, the sum of its pieces; " in " ".join(said.split())
    assert call("report", out / "confirm")[0] == 0
