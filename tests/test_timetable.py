"""step_seconds as a cost of a search: where its numbers come from, that they stay, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lpanas.lpa.config import UserError
from lpanas.lpa.piece_time import PieceTime
from lpanas.lpa.pieces import Attend, Ends, Layer, Project, Stream, Update, Widen
from lpanas.lpa.step_table import FOLDER, VERSION, StepTable, Under
from lpanas.search import fitting, summary, timetable
from lpanas.search.carry import retarget
from lpanas.search.compare import Comparison, Study
from lpanas.search.fitting import attached
from lpanas.search.ledger import SEARCH, Ledger
from lpanas.search.results import Results, read_study
from lpanas.search.stored import read_records
from lpanas.search.timetable import FILE, asked, keep, kept, of
from making import TINY, arm_records, job, point, tiny_space
from optuna.storages import InMemoryStorage

CPU = SimpleNamespace(device="cpu", threads=1)
TIMED = ("objectives=[loss_nats, step_seconds]", "vary.rebalance=[none, params]")
UNDER = Under(
    device="made up", torch="2", precision="float32", kernels="plain", threads=1, microbatch=4, context=32, version=VERSION
)
GPU = {"precision": "bfloat16", "kernels": "regions", "threads": 0, "cuda": "12"}
"""What of it is another on a GPU."""


def weights(piece):
    return sum(one.d_in * one.d_out if not one.rank else one.rank * (one.d_in + one.d_out) for one in piece.layers)


def made_up(task, say):
    """A second a million weights of a projection and a microbatch, nothing else."""
    assert (task.config.model.placement.text, task.config.microbatch, task.threads) == ("0-3 dense", 4, 1)
    seconds = {piece: weights(piece) / 1e6 if isinstance(piece, (Project, Widen)) else 0.0 for piece in task.pieces}
    return table({piece.key: its for piece, its in seconds.items()})


def table(seconds, **under):
    times = {key: PieceTime(first=its, more=its, n=8, spread=0.0) for key, its in seconds.items()}
    return StepTable(under=UNDER.change(**under), pieces=times)


def nothing_measured(task, say):
    raise AssertionError("something was measured")


def timed_space(*settings):
    space = tiny_space(*TIMED, *settings)
    return of(space, Path("nowhere"), CPU, {}, made_up)


# what is asked for


def test_the_tiny_space_asks_for_what_one_counts_by_hand():
    found = [piece for piece in asked(tiny_space(TIMED[0])) if not isinstance(piece, Update)]
    dense, thin = Layer(64, 64), Layer(64, 64, 16)
    wide = [Layer(64, 192), Layer(64, 192, 16), Layer(64, 192, 32)]
    back = [Layer(192, 64), Layer(192, 64, 16), Layer(192, 64, 32)]
    expected = [
        Ends(64, 264, "rms_before", "rotary", tied=False, bias=False),
        Stream(64, "rms_before", 0.0),
        *(Attend(2, 2, 32, rotary=True, joined=joined) for joined in (False, True)),
        *(Project((one,) * 3) for one in (dense, thin)),
        *(Project((one,)) for one in (dense, thin, *back)),
        *(Widen((one, one)) for one in wide),
    ]
    assert len(found) == len(expected)
    assert set(found) == set(expected)


# a cost


def test_a_candidates_seconds_are_its_pieces_and_the_other_costs_stay_what_they_were():
    space, plain = timed_space(), tiny_space(*TIMED)
    for its in (point(), point("1/4"), point("1/4", "1/2", "params"), point("dense", "1/4", "params")):
        one, other = space.candidate(its), plain.candidate(its)
        body = sum(
            count * weights(Project((Layer(*one.target.projection(name), one.target.rank(layer, name) or 0),)))
            for layer, count in one.target.placement.alike
            for name in one.target.projections
        )
        assert one.costs["step_seconds"] == pytest.approx(2 * body / 1e6)  # two microbatches
        assert {name: cost for name, cost in one.costs.items() if name != "step_seconds"} == other.costs


def test_a_space_that_asks_for_no_seconds_has_none_and_nothing_is_measured(tmp_path):
    space = tiny_space()
    assert of(space, tmp_path, CPU, {}, nothing_measured) is space
    assert "step_seconds" not in space.dense_costs
    assert "step_times" not in space.model_dump()


def test_a_limit_in_seconds_or_in_dense_steps_bounds_what_is_feasible():
    share = timed_space("limits.step_seconds=0.8 x dense")
    dense = share.dense_costs["step_seconds"]
    number = timed_space(f"limits.step_seconds={0.8 * dense:.12f}")
    for its in (point(), point("1/4"), point("dense", "1/4"), point("1/4", "1/4", "params")):
        one = share.candidate(its)
        assert one.feasible == number.candidate(its).feasible == (one.costs["step_seconds"] <= 0.8 * dense)
    assert not share.arm("dense").feasible
    assert share.candidate(point("1/4", "1/4")).feasible


def test_a_limit_that_nothing_keeps_to_is_said_once_times_are_known():
    words = "^tiny: limits: no candidate of the space keeps to step_seconds: 0.01 x dense$"
    with pytest.raises(UserError, match=words):
        timed_space("limits.step_seconds=0.01 x dense")


def test_where_the_gpu_waits_for_its_host_the_hosts_seconds_count_and_it_is_said():
    space = timed_space()
    assert "host" not in summary.step_times(space)
    table = space.step_times
    slow = {key: its.change(host_first=2.0 if "rank" in key else 0.0) for key, its in table.pieces.items()}
    waits = attached(space, table.change(pieces=slow))
    assert waits.dense_costs == space.dense_costs
    assert waits.arm("attention").costs["step_seconds"] == 2.0 * 4 * 2  # in 4 layers: q, k and v; o
    assert waits.arm("both").costs["step_seconds"] == 2.0 * 4 * 4  # and gate and up; down
    said = summary.step_times(waits)
    assert " and its seconds count, in attention (16 s against " in said
    assert ", both (32 s against " in said
    assert "dense (" not in said.partition(" The host ")[2]


def test_how_sure_seconds_are_is_said_and_a_noisy_machine_is_warned_of():
    space = timed_space()

    def said(spread):
        its = space.step_times
        spreads = {key: one.change(spread=spread) for key, one in its.pieces.items()}
        return summary.step_times(attached(space, its.change(pieces=spreads)))

    assert re.search(
        r"s ± \d\.\d %, the arms' ratios to it ± \d\.\d % or less: 95 % by the pieces' repetitions alone\)", said(0.05)
    )
    assert "noisy" not in said(0.05)
    assert "The machine was noisy: the quartiles of a piece's repetitions lie 12 % of its time apart on average." in said(0.12)


# in a study's folder


def ledger(*runs):
    """A search's, with these runs begun."""
    space = tiny_space()
    its = Ledger(space, InMemoryStorage(), "s")
    for run in runs:
        its.add(SEARCH, job(space.arm("dense"), run))
    return its


def test_the_folders_own_table_counts_whatever_the_cache_or_a_file_says(tmp_path):
    space = timed_space()
    keep(space, tmp_path, ledger())
    again = of(tiny_space(*TIMED), tmp_path, CPU, {}, nothing_measured)
    assert again.step_times == space.step_times
    named = of(tiny_space(*TIMED, "target.step_times=nowhere.json"), tmp_path, CPU, {}, nothing_measured)
    assert named.dense_costs == space.dense_costs
    assert kept(tiny_space(*TIMED), tmp_path, {}).step_times == space.step_times
    keep(space, tmp_path, ledger("trial-0"))


def test_a_lost_table_of_a_study_with_runs_is_not_replaced_by_another(tmp_path):
    with pytest.raises(UserError) as raised:
        keep(timed_space(), tmp_path, ledger("trial-0"))
    path = tmp_path / FILE
    assert str(raised.value) == (f"{path}: missing, and the runs there go by it; put it back, or give another --out")
    assert not path.exists()
    with pytest.raises(UserError, match=f"^{path}: missing; the study's step_seconds are those that it gives$"):
        kept(tiny_space(*TIMED), tmp_path, {})


# one that an older version has begun


def older(space):
    """The table as versions before dense q, k and v stayed one tensor have it."""
    its = space.step_times
    pieces = {key.replace(" joined", ""): one for key, one in its.pieces.items()}
    return its.change(pieces=pieces, under=UNDER.change(version=1))


def test_a_study_of_an_older_version_is_read_by_its_records_and_not_gone_on_with(tmp_path):
    space, settings = timed_space(), (*TIMED, "limits.step_seconds=1.5 x dense")
    path = tmp_path / FILE
    path.write_text(older(space).text)
    records = arm_records(space, 3.0, 3.1)
    read = kept(tiny_space(*settings), tmp_path, {}, records)
    assert read.dense_costs == space.dense_costs
    assert read.limit("step_seconds") == 1.5 * space.dense_costs["step_seconds"]
    found = Results(read, records, [])
    for one in records:
        assert found.relative(one, "step_seconds") == one.costs["step_seconds"] / records[0].costs["step_seconds"]
    assert "(dense: " in summary.step_times(read)
    why = f"begun by an older version (1; {VERSION} here)"
    with pytest.raises(UserError) as raised:
        of(tiny_space(*settings), tmp_path, CPU, {}, nothing_measured)
    assert str(raised.value) == f"{path}: {why}; begin anew in another --out"
    with pytest.raises(UserError) as raised:
        kept(tiny_space(*settings), tmp_path, {}, records[1:])
    assert str(raised.value) == f"{path}: {why}, and no run of the dense arm has ended; begin anew in another --out"


def slower(space):
    """The same with another table, as another machine would measure it."""
    its = space.step_times
    return attached(space, its.change(pieces={key: one.change(first=3 * one.first) for key, one in its.pieces.items()}))


def test_the_storages_table_counts_whatever_a_folder_has_and_every_folder_gets_a_copy(tmp_path):
    space, study, folders = timed_space(), ledger(), [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    keep(space, folders[0], study)
    study.add(SEARCH, job(space.arm("dense"), "trial-0"))
    (folders[1] / FILE).write_text(slower(space).step_times.text)
    again = of(tiny_space(*TIMED), folders[1], CPU, study.measured, nothing_measured)
    assert again.dense_costs == space.dense_costs
    keep(again, folders[1], study)
    assert (folders[1] / FILE).read_bytes() == (folders[0] / FILE).read_bytes()
    for folder in folders:
        (folder / FILE).unlink()
        assert kept(tiny_space(*TIMED), folder, study.measured).dense_costs == space.dense_costs


def test_a_driver_that_measured_while_another_began_the_study_goes_by_the_others_table(tmp_path):
    space, study = timed_space(), ledger()
    keep(slower(space), tmp_path, study)
    other = tmp_path / "other"
    with pytest.raises(UserError, match="another driver has begun the study with other times; the same command goes on with"):
        keep(space, other, study)
    assert not other.exists()
    again = of(tiny_space(*TIMED), other, CPU, study.measured, nothing_measured)
    assert again.dense_costs == slower(space).dense_costs


def test_the_table_of_a_study_from_before_storages_had_one_is_put_into_its_storage(tmp_path):
    space, study = timed_space(), ledger("trial-0")
    (tmp_path / FILE).write_text(space.step_times.text)
    keep(of(tiny_space(*TIMED), tmp_path, CPU, study.measured, nothing_measured), tmp_path, study)
    assert study.measured == {FILE: space.step_times.text}


def test_what_does_not_fit_is_said_in_a_line():
    space = tiny_space(*TIMED, "target.model.context=1000000000")
    with pytest.raises(
        UserError, match=r"^step_seconds: a piece of the target does not fit in memory \(the whole target"
    ) as raised:
        timetable.times(space, CPU, asked(space)[:1])
    assert "\n" not in str(raised.value)


def test_show_says_when_it_will_be_known_whether_anything_keeps_to_a_limit_in_seconds(file, call):
    known = "; whether anything keeps to its limit is known then, before the first run"
    assert known in " ".join(call("show", file)[1].split())


# a search


@pytest.fixture
def file(tmp_path, pages):
    """The tiny space, with seconds as an objective and a limit."""
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    raw |= {"objectives": ["loss_nats", "step_seconds"], "limits": {"step_seconds": "1.5 x dense"}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_search_minimises_seconds_and_its_numbers_stay_when_the_cache_is_gone(file, tmp_path, call, monkeypatch, cache):
    monkeypatch.setenv("LPANAS_CACHE", str(here := tmp_path / "cache"))
    shutil.copytree(cache, here)
    out = tmp_path / "out"
    code, said, error = call("search", file, "--out", out, "--trials", 5)
    assert code == 0, error
    assert "step_seconds x dense" in said
    measured = json.loads((out / FILE).read_text())
    assert set(measured["pieces"]) == {piece.key for piece in asked(tiny_space(TIMED[0]))}
    found = read_study(out)
    assert found.costs == ["step_seconds"]
    assert found.relative(found.arms["dense"], "step_seconds") == 1.0
    before = found.records
    assert all(isinstance(one.costs["step_seconds"], float) and one.costs["step_seconds"] > 0 for one in before)

    shutil.rmtree(here / FOLDER)
    code, _, error = call("search", file, "--out", out, "--trials", 6)
    assert code == 0, error
    assert not (here / FOLDER).exists()  # nothing was measured
    again = read_study(out)
    assert again.records[:5] == before
    assert again.space.dense_costs == found.space.dense_costs
    assert read_records(out / "records.jsonl")[:6] == again.records

    for command in (("report", out), ("show", out), ("export", out)):
        code, said, error = call(*command)
        assert code == 0, error
    page = (out / "report.html").read_text()
    assert "time of a step at the target" in page
    assert re.search(r"step_seconds: a step of 8 x 32 tokens of the target .* different ones were measured on", page)
    evidence = json.loads((out / "export" / "target" / "prediction.json").read_text())["evidence"]
    winner = again.winner
    assert evidence["step_seconds"] == winner.costs["step_seconds"]
    assert evidence["dense_step_seconds"] == again.space.dense_costs["step_seconds"]
    assert "A step of the space's target takes" in (out / "export" / "target" / "train.yaml").read_text()


@pytest.mark.parametrize("kind", ["sqlite", "server"])
def test_a_study_in_a_server_has_one_table_from_whichever_folder_it_is_gone_on_with(kind, file, tmp_path, call, request):
    url = f"sqlite:///{tmp_path}/server.db" if kind == "sqlite" else request.getfixturevalue("server_url")
    one, other, times = tmp_path / "a" / "s", tmp_path / "b" / "s", tmp_path / "times.json"  # as on two machines
    words = ("--storage", url, "--set", f"target.step_times={times}")
    space = timed_space()
    times.write_text(space.step_times.text)
    assert call("search", file, "--out", one, *words, "--trials", 4)[0] == 0
    times.write_text(slower(space).step_times.text)
    code, _, error = call("search", file, "--out", other, *words, "--trials", 5)
    assert (code, error) == (0, "")
    assert (one / FILE).read_bytes() == (other / FILE).read_bytes()
    records = read_study(other, url).records
    assert len(records) == 5
    for record in records:
        assert record.costs["step_seconds"] == space.costs(record.target)["step_seconds"]
    (one / FILE).unlink()
    assert call("report", one, "--storage", url)[0] == 0


def test_a_file_is_measured_by_show_and_its_seconds_are_shown(file, tmp_path, call, monkeypatch):
    monkeypatch.setenv("LPANAS_CACHE", str(tmp_path / "cache"))
    code, said, _ = call("show", file)
    assert code == 0
    words = "20 pieces of a step are measured when the search begins; whether anything keeps to its limit is known then"
    assert words in " ".join(said.split())
    times = tmp_path / "times.json"
    code, shown, error = call("show", file, "--step-times", times)
    assert code == 0, error
    assert "step_seconds: a step of 8 x 32 tokens of the target" in shown
    code, said, error = call("show", file, "--set", f"target.step_times={times}")
    assert code == 0, error
    assert "step_seconds: a step of 8 x 32 tokens of the target" in said
    assert said == shown
    more = ("vary.ranks.ffn=[dense, 1/2, 1/4, 1/8]", "vary.rebalance=[none, params]")
    number = len(asked(tiny_space(*TIMED, *more))) - 20
    lines = [call("show", file, *words)[1] for words in ((), ("--set", more[0], "--set", more[1]))]
    assert "all 20 pieces of a step were measured before, here, and are not measured again" in lines[0]
    said = " ".join(lines[1].split())
    assert re.search(
        rf"step_seconds: {number} pieces of a step are measured when .* begins; 20 more were before, about \d", said
    )


@pytest.mark.parametrize("there", [b"", b"name: tiny\n", b'{"pieces": {}}', b"\xff\x00"])
def test_nothing_but_a_file_of_step_times_is_written_over(there, file, tmp_path, call):
    times = tmp_path / "times.json"
    times.write_bytes(there)
    for path in (times, file):
        before = path.read_bytes()
        code, said, error = call("show", file, "--step-times", path)
        why = "is there already, and is no file of step times; name another, or remove it"
        assert (code, said, error) == (2, "", f"lpanas: --step-times {path}: {why}\n")
        assert path.read_bytes() == before


def test_a_file_of_step_times_is_made_anew(file, tmp_path, call):
    times = tmp_path / "times.json"
    times.write_text(table({"another": 1.0}).text)
    assert call("show", file, "--step-times", times)[0] == 0
    assert set(json.loads(times.read_text())["pieces"]) == {piece.key for piece in asked(tiny_space(TIMED[0]))}


def spoilt(text, **fields):
    """A table's text with what its pieces take replaced."""
    its = json.loads(text)
    its["pieces"] = {key: one | fields for key, one in its["pieces"].items()}
    return json.dumps(its)


FALSE = {
    "expected greater than or equal to 0, found -3.909 (a number)": lambda text: spoilt(text, first=-3.909),
    "expected less than or equal to 1000000000000, found 1e+308 (a number)": lambda text: spoilt(text, first=1e308),
    "a step of the dense target takes 0 s by it": lambda text: spoilt(text, first=0.0, more=0.0),
    "is no whole JSON text (line ": lambda text: text[: len(text) // 2],
    "measured for another target: target.model.context (16 there, 32 here)": lambda text: text.replace(
        '"context": 32', '"context": 16'
    ),
}
BEYOND = {
    "under.microbatch: expected greater than or equal to 1": lambda text: text.replace('"microbatch": 4', '"microbatch": 0')
}


@pytest.mark.parametrize("why", FALSE | BEYOND)
def test_seconds_that_cannot_be_are_refused_in_a_line_wherever_they_stand(why, file, tmp_path, call):
    keep(timed_space(), tmp_path, study := ledger())
    times = tmp_path / FILE
    text = (FALSE | BEYOND)[why](times.read_text())
    times.write_text(text)
    code, said, error = call("show", file, "--set", f"target.step_times={times}")
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"lpanas: {times}: ")
    assert why in error
    assert error.endswith("; make it anew: lpanas show SPACE --step-times FILE\n")
    space = tiny_space(*TIMED)
    for read, remedy in ((of, "give another --out"), (kept, "put the study's own back")):
        for texts, place in (({}, str(times)), ({FILE: text}, f"{times} in the storage")):
            with pytest.raises(UserError) as raised:
                read(space, tmp_path, CPU, texts, nothing_measured) if read is of else read(space, tmp_path, texts)
            assert str(raised.value).startswith(f"{place}: ")
            assert why in str(raised.value)
            assert str(raised.value).endswith(f"; {remedy}")
    assert study.measured[FILE] != text


def test_a_named_file_is_refused_by_show_as_by_search_and_shown_where_it_fits(file, tmp_path, call):
    times = tmp_path / "times.json"
    words = ("--set", f"target.step_times={times}")
    lines = [call(*command, *words) for command in (("show", file), ("search", file, "--out", tmp_path / "out"))]
    assert lines[0] == lines[1]
    assert lines[0] == (2, "", f"lpanas: {times}: cannot be read: No such file or directory; {fitting.ANEW}\n")
    times.write_text(timed_space().step_times.change(under=UNDER.change(device="the other one", torch="7.1")).text)
    code, said, error = call("show", file, *words)
    assert code == 0, error
    assert re.search(r"both .* 0\.\d+ s\n", said)
    assert "measured on the other one, 1 thread: microbatch 4, float32, kernels plain, torch 7.1" in " ".join(said.split())


REFUSED = {
    ("quickstart",): "--step-times {}: step_seconds is neither among the space's objectives nor among its limits",
    (
        "quickstart",
        "--set",
        "limits.step_seconds=1.0 x dense",
        "--folder",
    ): "--step-times {}: is a folder; expected a file's name",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_file_that_makes_no_sense_is_refused_before_anything_is_measured(words, tmp_path, call):
    place = tmp_path if "--folder" in words else tmp_path / "times.json"
    code, _, error = call("show", *(word for word in words if word != "--folder"), "--step-times", place)
    assert (code, error) == (2, f"lpanas: {REFUSED[words].format(place)}\n")


def test_seconds_of_two_devices_are_not_held_against_each_other():
    space = timed_space()
    elsewhere = attached(space, space.step_times.change(under=UNDER.change(device="another", torch="3")))

    def study(name, its):
        return Study(name, Path(name), Results(its, arm_records(its, 3.0, 3.1), []))

    assert {one.key for one in Comparison((study("a", space), study("b", elsewhere))).targets} == {"device", "torch"}
    assert not Comparison((study("a", space), study("b", timed_space()))).targets


def test_a_table_does_not_hold_for_another_target(tmp_path):
    assert attached(tiny_space(*TIMED), timed_space().step_times).step_times is not None
    assert retarget(timed_space("target.model.rank_multiple=4"), "llama-9m").step_times is None
