import numpy as np
import pytest
from lpanas.search.gain import DRAWN, MOST, NEIGHBOURS, POOL, by_gain, features, near, pool
from lpanas.search.propose import Proposer
from lpanas.search.record import Known
from making import arm_records, ended, job, point, tiny_space

FREE = "vary.ranks={q: [dense, 1/4, 1/8], k: [dense, 1/4, 1/8], v: [dense, 1/4, 1/8], ffn: [dense, 1/2, 1/4]}"
LARGE = (FREE, "vary.bands=2")
END = 640


def known(records):
    return [Known(record, dict(record.curve), ended=True) for record in records]


def trained(space, points, loss):
    return [
        ended(job(space.candidate(params), f"trial-{number}"), loss(space.candidate(params)))
        for number, params in enumerate(points)
    ]


def test_a_rank_is_0_when_dense_and_1_when_lowest_and_grows_as_the_rank_falls():
    space = tiny_space("vary.ranks={attention: [1/8, dense, 1/16, 1/4], ffn: [dense, 1/4]}", "proxy.model.rank_multiple=1")
    found = features(space, [point(rank, "1/4") for rank in ("dense", "1/4", "1/8", "1/16")])
    assert found.shape == (4, 2)
    assert found[:, 0].tolist() == pytest.approx([0, 2 / 4, 3 / 4, 1])
    assert found[:, 1].tolist() == [1] * 4


def test_every_feature_of_every_point_lies_in_0_to_1_and_different_points_differ():
    space = tiny_space("vary.bands=2", "vary.rebalance=[none, params, flops]", "vary.factor_activation=[none, silu]")
    points = list(space.points(None))
    found = features(space, points)
    assert ((found >= 0) & (found <= 1)).all()
    assert len(np.unique(found, axis=0)) == space.size == len(points)


def test_a_choice_that_is_no_rank_has_an_indicator_for_each_and_one_without_choice_has_no_feature():
    space = tiny_space("vary.rebalance=[none, params, flops]")
    found = features(space, [point(rebalance=rule) for rule in ("none", "params", "flops")])
    assert found.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_a_candidate_that_is_clearly_better_comes_first_and_every_new_one_once():
    """The loss grows with the attention's rank alone, so low rank there is better at both objectives."""
    space = tiny_space(FREE)
    points = list(space.points(None))
    random = np.random.default_rng(0)
    order = random.permutation(len(points))

    def loss(candidate):
        return 3 + sum(candidate.params[f"rank {name}"] != "1/8" for name in "qkv")

    tried = trained(space, [points[n] for n in order[:30]], loss)
    new = [space.candidate(points[n]) for n in order[30:]]
    found = list(by_gain(space, new, known(tried), END, 0, share=1))
    assert len(found) == len(new)
    assert all(sum(one is other for other in found) == 1 for one in new)
    best = min(loss(candidate) for candidate in new)
    assert loss(found[0]) == best
    assert all(loss(candidate) <= best + 1 for candidate in found[:5])


def test_nothing_is_said_when_no_run_has_come_to_the_rung_or_nothing_is_new():
    space = tiny_space()
    arms = known(arm_records(space, 3.0, 3.1, 3.2, 3.3))
    new = [space.candidate(point("1/4", "1/4"))]
    assert list(by_gain(space, new, arms, 160, 0, share=1)) == []
    assert list(by_gain(space, [], arms, END, 0, share=1)) == []
    assert list(by_gain(space, new, arms, END, 0, share=1)) == new


def test_half_of_the_candidates_come_before_the_others_and_each_part_by_gain():
    space = tiny_space(FREE)
    points = list(space.points(None))
    tried = known(trained(space, points[::5], lambda candidate: 3 + candidate.costs["params"] / 1e5))
    new = [space.candidate(params) for n, params in enumerate(points) if n % 5]
    place = {one.trained: n for n, one in enumerate(by_gain(space, new, tried, END, 0, share=1))}
    for seed in (0, 1):
        ranks = [place[one.trained] for one in by_gain(space, new, tried, END, seed)]
        falls = [n for n in range(1, len(ranks)) if ranks[n] < ranks[n - 1]]
        assert len(falls) == 1
        assert 0.3 < falls[0] / len(ranks) < 0.7


def test_what_has_less_left_to_train_comes_before_what_would_gain_as_much_with_more():
    space = tiny_space(FREE)
    points = list(space.points(None))
    tried = trained(space, points[:20], lambda candidate: 3 + candidate.costs["params"] / 1e6)
    new = [space.candidate(params) for params in points[20:]]
    last = [one.trained for one in by_gain(space, new, known(tried), END, 0, share=1)][10]
    shares = [{last: left} for left in (1.0, 0.5, 1e-9)]
    ranks = [[one.trained for one in by_gain(space, new, known(tried), END, 0, share, share=1)].index(last) for share in shares]
    assert ranks[0] == 10 >= ranks[1] >= ranks[2] == 0


def test_more_runs_than_the_model_takes_are_thinned():
    space = tiny_space(*LARGE)
    points = pool(space)[: MOST // 2]
    records = trained(space, points, lambda candidate: 3.0)
    many = [record.change(run=f"trial-{n}-{m}") for m in range(3) for n, record in enumerate(records)]
    assert len(many) > MOST
    new = [space.candidate(params) for params in near(space, known(records), END)]
    assert len(list(by_gain(space, new, known(many), END, 0))) == len(new)


def test_a_small_space_is_looked_at_whole():
    space = tiny_space(FREE)
    assert space.size == 81 <= POOL
    assert sorted(map(str, pool(space))) == sorted(map(str, space.points(None)))


def test_of_a_large_space_the_pool_has_neighbours_of_the_front_and_is_the_same_for_the_same_history():
    space = tiny_space(*LARGE)
    assert space.size == 6561 > POOL
    front = dict.fromkeys(space.choices, "dense") | {"rebalance": "none", "factor_activation": "none"}
    worse = {name: choices[-1] for name, choices in space.choices.items()}
    records = trained(space, [front, worse], lambda candidate: 3.0 if candidate.params == front else 9.0)
    dear = [records[0], records[1].change(costs=dict.fromkeys(records[1].costs, 10**15))]
    beyond = near(space, known(dear), END)
    neighbours = {str(front | {name: choice}) for name in space.choices for choice in space.choices[name]} - {str(front)}
    assert {str(one) for one in beyond} == neighbours
    assert all(one[name] in choices for one in pool(space) for name, choices in space.choices.items())
    assert len(pool(space)) > 10 * DRAWN
    assert pool(tiny_space(*LARGE)) == pool(space)
    assert near(tiny_space(*LARGE), known(dear), END) == beyond
    assert near(space, known(dear), 160) == []


def test_a_long_front_brings_each_neighbour_once():
    space = tiny_space(*LARGE)
    some = pool(space)[:40]
    records = trained(space, some, lambda candidate: 1e6 / candidate.costs["flops_per_token"])
    found = [str(one) for one in near(space, known(records), END)]
    assert len(found) == len(set(found)) > NEIGHBOURS


def test_the_search_comes_to_the_best_points_of_a_loss_that_is_a_sum_over_the_ranks():
    """A fifth of the space is trained."""
    space = tiny_space(FREE, "objectives=[loss_nats]")
    weights = {"rank q": 0.3, "rank k": -0.2, "rank v": 0.1, "rank ffn": 0.4}

    def loss(candidate):
        values = {name: candidate.params[name] != "dense" for name in weights}
        return 3 + sum(weights[name] * value for name, value in values.items())

    proposer, records = Proposer(space), []
    for number in range(16):
        proposal = proposer.propose(known(records))
        records.append(ended(job(proposal.candidate, f"trial-{number}"), loss(proposal.candidate)))
        proposer.count(records[-1])
    least = min(loss(space.candidate(params)) for params in space.points(None))
    assert min(record.loss_nats for record in records) == least
