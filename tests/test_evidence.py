"""What an exported file says that it rests on, against the study's own records and verdict."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lpanas.search.evidence import evidence, words
from lpanas.search.export import export
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
    of_winner = [one for one in raw["comparisons"] if "winner" in (one["a"], one["b"])]
    assert len(its.comparisons) == len(of_winner) == 4
    for said, one in zip(its.comparisons, of_winner, strict=True):
        assert said.startswith(f"{one['size']}: {one['text']}")
        assert one["verdict"] in said
        assert f"n = {one['n']}" in said
    assert len(its.ladder) == len(raw["ladder"])


def test_an_arm_is_told_by_the_comparisons_on_either_side(prose):
    raw = json.loads((PROSE / "confirm" / "verdict.json").read_text())
    its = evidence(prose, prose.arms["ffn"], PROSE)
    assert len(its.comparisons) == len([one for one in raw["comparisons"] if "ffn" in (one["a"], one["b"])]) > 0


def test_a_placement_that_was_not_confirmed_is_said_to_be_none(prose):
    placements = {one["placement"] for one in json.loads((PROSE / "confirm" / "verdict.json").read_text())["arms"]}
    other = next(one for one in prose.complete if one.model.placement.text not in placements)
    assert "It compares no arm of this placement." in words(evidence(prose, other, PROSE))


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
