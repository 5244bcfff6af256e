import itertools
import math
from pathlib import Path

import pytest
from compared import EMPTY, FAILED, NO_DENSE, OTHER_LR, OTHER_TARGET, SPACE, A, B, keep, stored, study, written
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.search.compare import Comparison, Study, labels, read_studies
from lpanas.search.compare_rows import front_rows, hypervolumes, pairs, reference, study_rows, winner_rows
from lpanas.search.compare_words import cautions, differences, headline, volumes
from lpanas.search.results import Results
from making import ended, job, point, record, tiny_space

RESOLVABLE = 4.30265 * math.sqrt(2) * 0.02  # t(0.975, 2) from a printed table, of the losses 3.00, 3.02 and 3.04


def compare(*studies):
    return Comparison(studies)


def keys(found):
    return [one.key for one in found]


def test_a_study_is_called_by_the_shortest_end_of_its_path_that_tells_it_from_the_others():
    assert labels([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert labels([Path("/x/a/run"), Path("/x/b/run"), Path("/x/c")]) == ["a/run", "b/run", "x/c"]
    assert labels([Path("/1/a/run"), Path("/2/a/run")]) == ["1/a/run", "2/a/run"]
    assert labels([Path("/run"), Path("/a/run")]) == ["/run", "a/run"]


CHANGES = {
    "proxy.optim.lr=2e-2": ["optim.lr"],
    "proxy.tokens=1280": ["tokens"],
    "proxy.batch_size=8": ["batch_size"],
    "proxy.model.d_ff=40": ["model.d_ff"],
    "proxy.model.n_heads=1": ["model.n_heads", "model.n_kv_heads", "model.head_dim"],
    "proxy.data.valid_tokens=100": ["data.valid_tokens"],
    "proxy.data={source: text, text: [a.txt, b.txt]}": ["data.source", "data.text"],
    "proxy.model.init=lpa": ["model.init"],
    "seed=3": [],
    "proxy.tokens=639": [],  # the same steps
    "proxy.evals=3": [],
    "proxy.log_every=1": [],
    "proxy.optim.lr_base_width=16": [],  # the model's own
    "proxy.model.n_kv_heads=2": [],
    "proxy.model.rank_multiple=1": [],
    "search.trials=9": [],
    "vary.rebalance=[params]": [],
    "target.model.d_ff=256": [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_losses_compare_when_nothing_that_decides_a_loss_differs(change):
    compared = compare(A, study("b", [(3.0, 0.5)], tiny_space(change)))
    assert keys(compared.trainings) == CHANGES[change]
    assert compared.comparable == (not CHANGES[change])


def test_what_differs_is_said_with_the_value_of_each_study():
    compared = compare(A, study("b", [(3.0, 0.5)], tiny_space("proxy.tokens=1280", "target.microbatch=2")))
    assert differences(compared) == ["proxy: tokens: 640 in a, 1,280 in b", "target: microbatch: 4 in a, 2 in b"]


def test_tokens_are_the_same_by_their_hash_wherever_they_come_from():
    elsewhere = tiny_space("proxy.data={source: text, text: [a.txt]}")
    here, there = study("a", [], content="1"), study("b", [], elsewhere, content="1")
    assert compare(here, there).comparable
    assert keys(compare(here, study("b", [], elsewhere)).trainings) == ["data.source", "data.text"]
    assert compare(here, study("b", [])).comparable
    (text,) = compare(here, study("b", [], content="2")).trainings
    assert text.values == ("1", "2")
    assert not compare(here, study("b", [], content="2"), study("c", [])).comparable


def test_it_is_said_when_only_the_spaces_tell_that_the_text_is_the_same():
    told = "That the text is the same is taken from the spaces"
    assert any(line.startswith(told) for line in cautions(compare(A, B)))
    known = [study(name, [(3.0, 0.5)], content="1") for name in "ab"]
    assert cautions(compare(*known)) == []


def test_a_front_is_drawn_by_its_losses_or_by_what_they_are_above_dense():
    rows = front_rows(compare(A, B), "flops_per_token")
    drawn = [(row.study, row.run, row.what, row.value) for row in rows.itertuples()]
    # by hand: 3.2 at 0.6 is dominated by 3.1 at 0.5; scaled to its front, b's ends sum to 1 each and dense is dominated
    assert drawn == [
        ("a", "trial-0", "front", 3.0),
        ("a", "trial-1", "winner", 3.1),
        ("a", "trial-2", "front", 3.3),
        ("b", "trial-1", "winner", 2.9),
        ("b", "trial-2", "front", 3.18),
        ("b", "trial-0", "dense", 3.0),
    ]
    assert rows["share"].tolist() == pytest.approx([1.0, 0.5, 0.4, 0.8, 0.45, 1.0], abs=1e-4)
    other = Study("b", Path("b"), Results(OTHER_LR, B.found.records, B.found.seeds))
    apart = front_rows(compare(A, other), "flops_per_token")
    assert apart["value"].tolist() == pytest.approx([0.0, 0.1, 0.3, -0.1, 0.18, 0.0])


def test_a_line_joins_what_is_not_dominated_in_the_two_objectives_that_are_drawn():
    space = tiny_space("objectives=[loss_nats, flops_per_token, params]")
    costs = [(3.0, 100, 50), (3.1, 90, 60), (3.2, 95, 20), (3.3, 80, 70), (3.4, 80, 10), (3.4, 80, 10)]
    records = [
        record(n, loss, 1).change(costs={"flops_per_token": flops, "params": params, "memory_bytes": 1})
        for n, (loss, flops, params) in enumerate(costs)
    ]
    found = Study("a", Path("a"), Results(space, records, []))
    for cost in ("flops_per_token", "params"):
        rows = front_rows(compare(found, found), cost).iloc[: len(found.found.front)]
        places = list(zip(rows["share"], rows["value"], strict=True))
        brute = [not any(x <= one[0] and y <= one[1] and (x, y) != one for x, y in places) for one in places]
        assert rows["is_step"].tolist() == brute
        assert not all(brute)
        assert any(brute)


def test_the_rows_of_studies_say_what_they_are_and_how_far_they_came():
    lost = record(9, None, 5, status="diverged", reason="nan")
    first, second = study_rows(compare(study("a", [(3.1, 0.5)], more=[lost]), EMPTY))
    assert first == {
        "study": "a", "folder": "a", "space": "tiny", "complete": 2, "planned": 6, "tokens": 4 * 640,
        "resolvable_nats": pytest.approx(RESOLVABLE, rel=1e-5), "seeds": 3, "dense_loss_nats": 3.0, "best_loss_nats": 3.0,
        "front": 2, "hypervolume": pytest.approx(0.11 * 0.05 + 0.01 * 0.5, rel=1e-3),
    }  # fmt: skip
    assert (second["complete"], second["resolvable_nats"], second["dense_loss_nats"], second["front"]) == (0, None, None, 0)


def test_the_rows_of_winners_have_the_costs_that_all_studies_minimise():
    params = tiny_space("objectives=[loss_nats, params, flops_per_token]")
    first, second = winner_rows(compare(A, study("b", [(3.0, 0.5)], params)))
    assert first == {
        "study": "a", "run": "trial-1", "placement": A.found.winner.placement, "loss_nats": 3.1,
        "delta_nats": pytest.approx(0.1), "against_dense": "tied", "flops_per_token_share": pytest.approx(0.5, abs=1e-4),
    }  # fmt: skip
    assert set(second) == set(first)
    assert set(winner_rows(compare(A, EMPTY))[1].values()) == {"none", None}


def test_studies_without_a_cost_in_common_are_drawn_against_each_of_theirs():
    compared = compare(A, study("b", [(3.0, 0.5)], tiny_space("objectives=[loss_nats, params]")))
    assert compared.costs == ["flops_per_token", "params"]
    assert any("minimise no cost together" in line for line in cautions(compared))
    assert reference(compared) is None


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (3.1 + 0.99 * RESOLVABLE, "tied"),
        (3.1 - 0.99 * RESOLVABLE, "tied"),
        (3.1 + 1.01 * RESOLVABLE, "a is lower"),
        (3.1 - 1.01 * RESOLVABLE, "b is lower"),
    ],
)
def test_winners_are_tied_when_they_differ_by_no_more_than_the_larger_resolvable_difference(loss, told):
    quiet = Study("b", Path("b"), Results(SPACE, [record(1, loss, 5)], []))
    assert pairs(compare(A, quiet))[0].told == "unknown"  # its noise is not known
    small = study("b", [(loss, 0.0001)], noise=(3.0001, 3.0002))
    won = Results(SPACE, [its.change(feasible=its.run == "trial-1") for its in small.found.records], small.found.seeds)
    (pair,) = pairs(compare(A, Study("b", Path("b"), won)))
    assert (pair.difference_nats, pair.told) == (pytest.approx(3.1 - loss), told)
    assert pair.resolvable_nats == pytest.approx(RESOLVABLE, rel=1e-5)


def test_two_deltas_are_told_apart_when_they_differ_by_more_than_the_noise_of_four_runs():
    other = Study("b", Path("b"), Results(OTHER_LR, B.found.records, B.found.seeds))
    (pair,) = pairs(compare(A, other))
    assert pair.resolvable_nats == pytest.approx(math.sqrt(2) * RESOLVABLE, rel=1e-5)
    assert (pair.difference_nats, pair.told) == (pytest.approx(0.2), "b is lower")


def test_every_two_of_the_studies_are_a_pair():
    found = pairs(compare(A, B, EMPTY, NO_DENSE))
    assert [(one.a, one.b) for one in found] == list(itertools.combinations(["a", "b", "none", "no dense"], 2))
    assert [one.told for one in found if "none" in (one.a, one.b)] == ["unknown"] * 3


def enclosed(points, corner):
    """By cells between all coordinates: those above some point and below the corner."""
    axes = [sorted({point[axis] for point in points} | {end}) for axis, end in enumerate(corner)]
    total = 0.0
    for cell in itertools.product(*(itertools.pairwise(axis) for axis in axes)):
        low, high = [edge[0] for edge in cell], [edge[1] for edge in cell]
        inside = all(above <= end for above, end in zip(high, corner, strict=True))
        if inside and any(all(p <= q for p, q in zip(point, low, strict=True)) for point in points):
            total += math.prod(above - below for below, above in cell)
    return total


def test_hypervolumes_are_what_the_fronts_enclose_up_to_one_corner():
    compared = compare(A, B)
    corner = reference(compared)
    points = [[(its.loss_nats, one.found.relative(its, "flops_per_token")) for its in one.found.front] for one in (A, B)]
    every = [*points[0], *points[1]]
    for axis, name in enumerate(("loss_nats", "flops_per_token")):
        values = [point[axis] for point in every]
        assert corner[name] == pytest.approx(max(values) + 0.1 * (max(values) - min(values)))
    assert hypervolumes(compared) == pytest.approx([enclosed(front, tuple(corner.values())) for front in points])
    assert volumes(compared).startswith(f"Hypervolume: what a front encloses up to {corner['loss_nats']:.4f} loss_nats")


def test_a_loss_worse_than_guessing_does_not_stretch_the_hypervolumes():
    assert reference(compare(A, study("b", [(1e6, 0.01)])))["loss_nats"] == pytest.approx(math.log(264))


@pytest.mark.parametrize(
    "other",
    [OTHER_LR, OTHER_TARGET, tiny_space("objectives=[loss_nats, params]"), tiny_space("objectives=[loss_nats]")],
    ids=["losses", "targets", "objectives", "one objective"],
)
def test_there_are_no_hypervolumes_of_different_things(other):
    compared = compare(A, study("b", [(3.0, 0.5)], other))
    assert hypervolumes(compared) == [None, None]
    assert volumes(compared).startswith("No hypervolumes")


WHETHER = "whether single runs tell it from these is not known: "


def test_the_headline_names_the_lowest_winner_and_those_that_are_tied_with_it():
    near = study("near", [(3.05, 0.5), (3.4, 0.45)])  # its winner is 0.05 below a's
    far = study("far", [(2.9, 0.8)])  # b's winner at 2.9 is this one's
    assert "do not tell the winners apart; the lowest is that of near (trial-1: 3.0500 nats" in headline(compare(A, near))
    assert headline(compare(A, far)).endswith("single runs tell it from the others")
    assert headline(compare(A, far, B)).endswith("not told from it by single runs: b")
    unmeasured = study("c", [(3.0, 0.5)], noise=None)
    assert headline(compare(B, unmeasured)).endswith("nats, 0.800 x dense in flops_per_token); " + WHETHER + "c")
    assert headline(compare(A, far, B, unmeasured)).endswith("not told from it by single runs: b; " + WHETHER + "c")
    assert headline(compare(A, EMPTY)).startswith("Only a has a winner")
    assert headline(compare(EMPTY, FAILED)).startswith("None of these studies has a winner")
    apart = Study("b", Path("b"), Results(OTHER_LR, A.found.records, A.found.seeds))
    assert "(trial-1: +0.1000 nats against its own dense arm, 0.500 x dense in flops_per_token)" in headline(compare(A, apart))


def test_what_a_study_is_missing_is_said():
    said = " ".join(cautions(compare(A, EMPTY, FAILED, NO_DENSE)))
    for words in ("none has no winner", "failed has no winner", "no dense has no dense arm", "The noise of no dense"):
        assert words in said
    apart = compare(A, Study("no dense", Path(), Results(OTHER_LR, NO_DENSE.found.records, [])))
    assert any(line.endswith("so nothing of it can be held against the others") for line in cautions(apart))
    assert set(front_rows(apart, "flops_per_token")["study"]) == {"a"}


def test_other_seeds_and_other_targets_are_said():
    said = cautions(compare(A, study("b", [(3.0, 0.5)], tiny_space("seed=4", "target.model.d_ff=256"))))
    assert "The seeds differ (0 in a, 4 in b), which moves losses by their noise" in said
    assert "Costs are shares of each study's own dense target, and the targets differ: d_ff" in said
    said = cautions(compare(A, study("b", [(3.0, 0.5)], tiny_space("target.activation_checkpointing=true"))))
    assert "Costs are shares of each study's own dense target, and the targets differ: activation_checkpointing" in said


def test_folders_are_read_with_the_hash_of_their_tokens_where_there_is_a_storage(tmp_path, tables):
    places = [stored(tmp_path / "x" / "run", A.found, "1", tables), written(tmp_path / "y" / "run", B.found)]
    compared = read_studies(places)
    assert [one.label for one in compared.studies] == ["x/run", "y/run"]
    assert [one.content for one in compared.studies] == ["1", None]
    assert [one.found.records for one in compared.studies] == [A.found.records, B.found.records]
    other = stored(tmp_path / "z", B.found, "2", tables)
    assert keys(read_studies([places[0], other]).trainings) == ["data (hash of the tokens)"]


def test_a_storage_that_holds_several_studies_gives_each_by_its_folders_name(tmp_path, url):
    for name, one, content in (("a", A, "1"), ("b", B, "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "space.yaml").write_text(dump_yaml(SPACE), encoding="utf-8")
        keep(one.found, content, url, name)
    compared = read_studies([tmp_path / "a", tmp_path / "b"], url)
    assert [one.found.records for one in compared.studies] == [A.found.records, B.found.records]
    assert [one.content for one in compared.studies] == ["1", "2"]


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path):
    one, other = written(tmp_path / "x" / "run", A.found), written(tmp_path / "y" / "run", B.found)
    (tmp_path / "link").symlink_to(one)
    cases = [
        ([one, tmp_path / "x" / ".." / "x" / "run"], None, "stands twice"),
        ([one, tmp_path / "link"], None, "stands twice"),
        ([one, other], "sqlite:///none.db", "are one study, 'run'"),
        ([one], None, "expected 2 to 8 studies"),
        ([tmp_path / str(n) for n in range(9)], None, "expected 2 to 8 studies to compare, found 9"),
        ([one, tmp_path / "nowhere"], None, "holds no study"),
    ]
    for folders, url, words in cases:
        with pytest.raises(UserError, match=words):
            read_studies(folders, url)


def test_two_thousand_candidates_a_study_are_compared():
    known = job(SPACE.candidate(point("1/4")))
    many = [
        ended(known.change(run=f"trial-{n}", costs={**known.costs, "flops_per_token": 10**6 + n}), 3 - n / 1e4 + (n * 37 % 50))
        for n in range(2000)
    ]
    compared = compare(Study("a", Path("a"), Results(SPACE, many, [])), B)
    assert len(front_rows(compared, "flops_per_token")) > 40
    assert study_rows(compared)[0]["complete"] == 2000
