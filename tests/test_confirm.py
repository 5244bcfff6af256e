"""`lpanas confirm`, from a search's folder to a verdict, with real training of tiny models."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from lpanas.lpa.config import override, parse_yaml
from lpanas.search.folder import study_in
from lpanas.search.results import read_study
from lpanas.search.stored import read_records
from lpanas.search.verdict import read_verdict
from made_up import SHAPE
from making import TINY, hear_interrupts, plain
from test_kill import COMMAND, ended_runs, group_is_gone

CONFIRM = """
confirm:
  arms: [dense, attention, ffn, winner]
  claim: [attention better than dense, attention better than ffn]
  matches: [width, params]
  controls: []
  lr_extend: 0
  seeds: {sweep: 1, first: 2, most: 3}
"""


@pytest.fixture(scope="module")
def space(pages, tmp_path_factory):
    """A tiny space with a protocol, as a file."""
    raw = override(parse_yaml(TINY + CONFIRM, "tiny.yaml"), [SHAPE])
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def searched(space, tmp_path_factory):
    """A study's folder."""
    out = tmp_path_factory.mktemp("searched") / "study"
    command = [*COMMAND, "search", str(space), "--out", str(out), "--set", "search.trials=5"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module")
def confirmed(searched, tmp_path_factory):
    """Its confirmation's folder, undisturbed, and what was printed."""
    out = tmp_path_factory.mktemp("confirmed") / "confirm"
    ran = subprocess.run([*COMMAND, "confirm", str(searched), "--out", str(out)], check=True, capture_output=True, text=True)
    return out, ran.stdout


def test_from_a_searchs_end_to_a_verdict_is_one_command(searched, confirmed):
    out, shown = confirmed
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["finished"] is True
    assert verdict["claims"][0]["verdict"] in shown
    assert f"verdict: {out / 'verdict.json'}" in shown
    records = read_records(out / "records.jsonl")
    assert len({record.trained for record in records}) == len(records) == verdict["runs"]
    assert all(record.test_loss_nats is not None for record in records)
    winner = read_study(searched).winner
    arm = next(one for one in verdict["arms"] if one["arm"] == "winner")
    assert arm["placement"] == winner.model.placement.text


def test_the_search_has_seen_none_of_its_seeds_and_its_study_is_left_as_it_was(searched, confirmed):
    found, records = read_study(searched), read_records(confirmed[0] / "records.jsonl")
    assert not {record.seed for record in (*found.records, *found.seeds)} & {record.seed for record in records}
    assert len(found.records) == 5


def test_the_same_command_again_trains_nothing(searched, confirmed, call):
    out, _ = confirmed
    before = [record.model_dump_json() for record in read_verdict(out)[1]]
    code, _, err = call("confirm", searched, "--out", out)
    assert (code, err) == (0, "")
    assert [record.model_dump_json() for record in read_verdict(out)[1]] == before


@pytest.mark.parametrize("command", ["report", "show", "watch"])
def test_a_confirmations_folder_can_be_looked_at_like_a_searchs(confirmed, command, call):
    out, shown = confirmed
    before = (out / "verdict.json").read_bytes()
    code, said, err = call(command, out)
    assert (code, err) == (0, "")
    assert shown.splitlines()[1].removesuffix(".") in said
    assert (out / "verdict.json").read_bytes() == before


def test_a_search_and_a_confirmation_keep_out_of_each_others_folders(space, searched, confirmed, call):
    before = (searched / "records.jsonl").read_bytes(), (confirmed[0] / "records.jsonl").read_bytes()
    wrong = {"search": ("confirm", searched, "--out", searched), "confirmation": ("search", space, "--out", confirmed[0])}
    for held, words in wrong.items():
        code, _, err = call(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert f"holds a {held}" in err
    assert before == ((searched / "records.jsonl").read_bytes(), (confirmed[0] / "records.jsonl").read_bytes())


def test_what_is_of_a_search_alone_is_refused_for_a_confirmation(confirmed, call):
    for words in (("export",), ("watch", "--port", "8080"), ("confirm",)):
        command, *options = words
        code, _, err = call(command, confirmed[0], *options)
        assert (code, err.count("\n")) == (2, 1)
        assert "confirmation" in err


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_records(searched, confirmed, tmp_path):
    out, command = tmp_path / "confirm", [*COMMAND, "confirm", str(searched), "--workers", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "start_new_session": True, "preexec_fn": hear_interrupts}
    for count in (3, 12):
        driver = subprocess.Popen([*command, "--out", str(out)], **quiet)
        while driver.poll() is None and ended_runs(out) < count:
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        assert group_is_gone(driver.pid, 10)
    before = {record.run: record.model_dump_json() for record in read_verdict(out)[1]}
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    after = read_verdict(out)[1]
    assert {record.run: record.model_dump_json() for record in after if record.run in before} == before
    undisturbed = {one.trained: (one.loss_nats, one.test_loss_nats) for one in read_verdict(confirmed[0])[1]}
    assert {one.trained: (one.loss_nats, one.test_loss_nats) for one in after} == undisturbed
    assert len(after) == len(undisturbed)
    assert not list(out.glob("checkpoints/*"))


REFUSED = {
    "confirm.tokens=9e3": r"confirm.tokens: 9,000 do not reach the first look: [\d,]+ are needed",
    "confirm.sizes=[{name: a, model: {d_model: 16, d_ff: 20}}]": r"confirm: .* at equal params and size 'a': the nearest FFN",
    "confirm.placements.same={ranks: {attention: 1/4}}": r"confirm.claim: 'same better .*: both are one model",
    "confirm.claim=[winner better than winner]": r"confirm.claim.*compares an arm with itself",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_protocol_that_cannot_be_met_is_refused_before_anything_runs(setting, searched, tmp_path, call):
    same = ["confirm.arms=[dense, attention, same]", "confirm.claim=[same better than attention]"] if "same" in setting else []
    words = [word for one in (setting, *same) for word in ("--set", one)]
    code, shown, err = call("confirm", searched, "--out", tmp_path / "out", *words)
    assert (code, shown, err.count("\n")) == (2, "", 1)
    assert re.search(REFUSED[setting], err), err
    assert not (tmp_path / "out").exists()


def test_the_protocol_cannot_be_changed_once_it_runs(searched, confirmed, call):
    before = (confirmed[0] / "space.yaml").read_bytes()
    for setting, key in (("confirm.alpha=0.1", "confirm.alpha"), ("confirm.seeds.most=9", "confirm.seeds.most")):
        code, _, err = call("confirm", searched, "--out", confirmed[0], "--set", setting)
        assert code == 2
        assert f"made with another space: {key} (" in err
    assert (confirmed[0] / "space.yaml").read_bytes() == before


def test_a_budget_that_ends_it_early_is_gone_on_from(searched, confirmed, tmp_path, call):
    out, least = tmp_path / "confirm", json.loads((confirmed[0] / "verdict.json").read_text())["tokens"]
    code, shown, _ = call("confirm", searched, "--out", out, "--minutes", "1e-9")
    assert code == 0
    assert "So far, as it has not come to its end" in shown
    assert read_verdict(out)[1] == []
    assert call("confirm", searched, "--out", out, "--tokens", least)[0] == 0
    assert sorted(one.trained for one in read_verdict(out)[1]) == sorted(one.trained for one in read_verdict(confirmed[0])[1])


def test_on_another_storage_it_has_a_study_of_its_own_that_is_found_by_its_folder(space, tmp_path, call):
    url, out = f"sqlite:///{tmp_path}/server.db", tmp_path / "study"
    small = ("--set", "search.trials=4")
    assert call("search", space, "--out", out, "--storage", url, *small)[0] == 0
    assert call("confirm", out, "--storage", url)[0] == 0
    assert study_in(out / "confirm", url) == ("study/confirm", "confirm")
    _, shown, _ = call("report", out / "confirm", "--storage", url)
    assert "The claim" in shown
    assert len(read_study(out, url).records) == 4
    assert plain(read_verdict(out / "confirm", url)[1]) == plain(read_records(out / "confirm" / "records.jsonl"))
