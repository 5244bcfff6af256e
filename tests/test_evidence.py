"""What an exported file says that it rests on, against the study's own records and verdict."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lpanas.lpa.config import override, read_yaml
from lpanas.search.evidence import evidence, words
from lpanas.search.export import export
from lpanas.search.presets import parse_space
from lpanas.search.results import Results, read_study
from making import arm_records, ended, job, tiny_space

PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"
SPACE = tiny_space()
SEEDS = [ended(job(SPACE.arm("dense"), f"noise-{n}", seed=n + 1), 3.0 + n / 100) for n in range(2)]
FOUND = Results(SPACE, arm_records(SPACE, 3.0, 3.1), SEEDS)


@pytest.fixture(scope="module")
def prose():
    return read_study(PROSE)


def test_run_loss_difference_and_noise_are_those_of_the_records(tmp_path):
    its = evidence(FOUND, FOUND.records[1], tmp_path)
    assert (its.study, its.run, its.arm, its.seed, its.runs) == ("tiny", "trial-1", "attention", 0, 1)
    assert (its.loss_nats, its.tokens, its.proxy_d_model, its.proxy_layers) == (3.1, 640, 16, 2)
    assert its.delta_nats == pytest.approx(0.1)
    # t(0.975, 2) = 4.302653 (a table), of three seeds
    assert its.noise_seeds == 3
    assert its.resolvable_nats == pytest.approx(4.302653 * np.sqrt(2) * np.std([3.0, 3.0, 3.01], ddof=1), rel=1e-6)
    assert "worse" in words(its)[0]
    assert words(its)[0].endswith("one run.")
    assert words(its)[2].startswith("Not confirmed with seeds")


def test_without_noise_nothing_is_said_to_be_resolved(tmp_path):
    its = evidence(Results(SPACE, arm_records(SPACE, 3.0, 3.1), []), FOUND.records[1], tmp_path)
    assert (its.resolvable_nats, its.noise_seeds, its.against_dense) == (None, 0, "unknown")
    assert words(its)[1].endswith("not measured.")
    assert "unknown" not in " ".join(words(its))


def test_the_dense_arm_has_its_seeds(tmp_path):
    its = evidence(FOUND, FOUND.records[0], tmp_path)
    assert its.runs == 3
    assert words(its)[0].endswith("one of 3 seeds.")


def test_a_confirmations_verdict_is_told_with_what_it_says_of_the_placement(prose):
    raw = json.loads((PROSE / "confirm" / "verdict.json").read_text())
    its = evidence(prose, prose.winner, PROSE)
    assert {claim["verdict"] for claim in raw["claims"]} == {"refuted"}
    assert its.verdict == "The claim is refuted at every size and match"
    assert its.claim == "attention better than dense, attention better than ffn and attention better than both"
    of_winner = at_equal_width(raw, "winner")
    assert len(its.comparisons) == len(of_winner) == 2
    for said, one in zip(its.comparisons, of_winner, strict=True):
        assert said.startswith(f"{one['size']}: {one['text']}")
        assert one["verdict"] in said
        assert f"n = {one['n']}" in said
    assert len(its.ladder) == len(raw["ladder"])


def at_equal_width(raw, arm):
    """The comparisons of an arm as it was searched: without rebalance."""
    return [one for one in raw["comparisons"] if arm in (one["a"], one["b"]) and "width" in one["matches"]]


def test_an_arm_is_told_by_the_comparisons_on_either_side(prose):
    raw = json.loads((PROSE / "confirm" / "verdict.json").read_text())
    its = evidence(prose, prose.arms["ffn"], PROSE)
    assert len(its.comparisons) == len(at_equal_width(raw, "ffn")) > 0
    dense = evidence(prose, prose.arms["dense"], PROSE)
    assert len(dense.comparisons) == len([one for one in raw["comparisons"] if "dense" in (one["a"], one["b"])]) == 8


def test_a_wider_ffn_has_what_was_said_at_the_match_that_made_it_wider(prose):
    wide = prose.space.candidate({**prose.winner.params, "rebalance": "params"})
    record = ended(job(wide, "trial-99"), 2.2)
    assert record.model.placement == prose.winner.model.placement
    its = evidence(prose, record, PROSE)
    assert [one.split(" is ")[0] for one in its.comparisons] == [
        f"{size}: winner better than dense at equal params and flops" for size in ("d64", "d96")
    ]


@pytest.mark.parametrize("changed", [{"factor_activation": "silu"}, {"init": "lpa"}, {"d_ff": 2056}, {"n_heads": 6}])
def test_another_model_of_the_same_placement_has_no_sentence(prose, changed):
    record = prose.winner.change(target=prose.winner.target.change(**changed))
    its = evidence(prose, record, PROSE)
    assert (its.comparisons, its.swept) == ((), ())
    assert "It compares no arm that is this model." in words(its)


def test_a_search_with_another_proxy_has_none_of_its_sentences(prose):
    raw = override(read_yaml(PROSE / "space.yaml"), ["proxy.model.n_heads=2"])
    found = Results(parse_space(raw, "space.yaml"), prose.records, prose.seeds)
    assert evidence(found, prose.winner, PROSE).comparisons == ()


def test_the_rates_of_the_sweeps_stand_beside_the_exported_one(prose):
    raw = json.loads((PROSE / "confirm" / "verdict.json").read_text())
    swept = {
        (one["size"], one["arm"]): one["lr"] for one in raw["arms"] if one["control"] is None and "width" in one["matches"]
    }
    its = evidence(prose, prose.winner, PROSE)
    assert [(one.size, one.lr, one.dense_lr) for one in its.swept] == [
        (size, swept[size, "winner"], swept[size, "dense"]) for size in ("d64", "d96")
    ]
    said = " ".join(words(its))
    assert "0.0067 (dense 0.0082) at d64, 0.0064 (dense 0.0076) at d96. Exported is the search's, 0.008, for both" in said
    assert "0.0082 at d64, 0.0076 at d96. Exported is the search's, 0.008: a" in " ".join(
        words(evidence(prose, prose.arms["dense"], PROSE))
    )


def test_what_was_chosen_by_its_loss_is_said_to_be_with_how_many_there_were(prose):
    with gzip.open(PROSE / "records.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    able = [row for row in rows if row["status"] == "complete" and row["feasible"] and not row["run"].startswith("noise")]
    lowest = min(able, key=lambda row: row["loss_nats"])["run"]
    for record in (prose.winner, prose.pick(lowest)):
        assert words(evidence(prose, record, PROSE))[0].endswith(f"; one run, chosen among {len(able)}, which flatters it.")
    chosen = {prose.winner.run, lowest}
    for record in prose.complete:
        if record.run not in chosen or record.arm is not None:
            assert evidence(prose, record, PROSE).chosen_among is None


def test_a_placement_that_was_not_confirmed_is_said_to_be_none(prose):
    placements = {one["placement"] for one in json.loads((PROSE / "confirm" / "verdict.json").read_text())["arms"]}
    other = next(one for one in prose.complete if one.model.placement.text not in placements)
    assert "It compares no arm that is this model." in words(evidence(prose, other, PROSE))


def test_a_torn_verdict_is_said_and_does_not_stop_the_export(prose, tmp_path):
    shutil.copytree(PROSE / "confirm", tmp_path / "confirm")
    (tmp_path / "confirm" / "verdict.json").write_text("{")
    path = export(prose, prose.winner, tmp_path).path
    assert "cannot be read" in path.read_text()
    its = json.loads((path.parent / "prediction.json").read_text())["evidence"]
    assert (its["verdict"], its["comparisons"]) == (None, [])


def test_the_evidence_stands_in_the_files_head_and_in_the_file_beside_it(prose, tmp_path):
    shutil.copytree(PROSE / "confirm", tmp_path / "confirm")
    path = export(prose, prose.winner, tmp_path).path
    head = " ".join(line.strip("# ") for line in path.read_text().split("\nmodel:")[0].splitlines())
    its = evidence(prose, prose.winner, tmp_path)
    for sentence in words(its):
        assert " ".join(sentence.split()) in head
    found = json.loads((path.parent / "prediction.json").read_text())["evidence"]
    assert (found["verdict"], found["delta_nats"], tuple(found["ladder"])) == (its.verdict, its.delta_nats, its.ladder)
