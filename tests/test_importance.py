from itertools import product
from random import Random

import numpy as np
import pytest
from lpanas.search.importance import Design

LEVELS = {"a": ["x", "y", "z"], "b": ["x", "y"], "c": ["p", "q", "r", "s"]}
ADDED = {"a": {"x": 0.3, "y": -0.1, "z": 0.7}, "b": {"x": 0.0, "y": 0.25}, "c": {"p": 1.0, "q": 1.0, "r": 0.5, "s": -2.0}}
GRID = [dict(zip(LEVELS, point, strict=True)) for point in product(*LEVELS.values())]


def added(points):
    return np.array([2.5 + sum(ADDED[name][level] for name, level in point.items()) for point in points])


def drawn(n, seed=0):
    random = Random(seed)
    return [{name: random.choice(levels) for name, levels in LEVELS.items()} for _ in range(n)]


def same(one, other):
    for field in ("by_level", "spread", "share"):
        for name in LEVELS:
            np.testing.assert_allclose(getattr(one, field)[name], getattr(other, field)[name], atol=1e-9, err_msg=field)
    assert one.r2 == pytest.approx(other.r2, nan_ok=True)


@pytest.mark.parametrize("points", [GRID, drawn(16, 2), drawn(40, 1)], ids=["grid", "16", "40"])
def test_additive_effects_are_recovered_exactly_as_deviations_from_their_mean(points):
    found = Design(LEVELS, points).effects(added(points))
    for name, its in ADDED.items():
        deviations = np.array([its[level] - sum(its.values()) / len(its) for level in LEVELS[name]])
        np.testing.assert_allclose(found.by_level[name], deviations, atol=1e-12)
        assert found.spread[name] == pytest.approx(np.sqrt(np.mean(deviations**2)))
    assert found.r2 == pytest.approx(1)


def test_shares_are_those_of_the_fitted_models_variance_over_the_full_grid():
    points = drawn(30)
    noisy = added(points) + np.random.default_rng(0).normal(0, 0.5, len(points))
    found = Design(LEVELS, points).effects(noisy)
    effect = {name: dict(zip(levels, found.by_level[name], strict=True)) for name, levels in LEVELS.items()}
    whole = np.var([sum(effect[name][level] for name, level in point.items()) for point in GRID])
    for name, levels in LEVELS.items():  # what is left when the mean over all others is taken at each level
        means = [np.mean([sum(effect[k][v] for k, v in point.items()) for point in GRID if point[name] == at]) for at in levels]
        assert found.share[name] == pytest.approx(np.var(means) / whole)
    assert sum(found.share.values()) == pytest.approx(1)
    assert 0 < found.r2 < 1


def test_on_a_balanced_grid_the_effects_are_the_means_of_the_levels_and_r2_is_one_less_the_rest():
    y = np.random.default_rng(1).normal(size=len(GRID))
    found = Design(LEVELS, GRID).effects(y)
    fitted = np.full(len(y), y.mean())
    for name, levels in LEVELS.items():
        for place, level in enumerate(levels):
            has = np.array([point[name] == level for point in GRID])
            assert found.by_level[name][place] == pytest.approx(y[has].mean() - y.mean())
            fitted[has] += y[has].mean() - y.mean()
    assert found.r2 == pytest.approx(1 - np.sum((y - fitted) ** 2) / np.sum((y - y.mean()) ** 2))


def test_a_constant_and_the_order_of_the_points_change_nothing_and_a_factor_scales():
    points = drawn(30)
    y = added(points) + np.random.default_rng(0).normal(0, 0.5, len(points))
    design, order = Design(LEVELS, points), np.random.default_rng(2).permutation(len(points))
    other = Design(LEVELS, [points[place] for place in order])
    first, chance = design.effects(y), design.chance(y)
    same(design.effects(y + 7), first)
    same(other.effects(y[order]), first)
    for changed, factor in ((design.chance(y + 7), 1), (other.chance(y[order]), 1), (design.chance(10 * y), 10)):
        assert changed == pytest.approx({name: factor * mark for name, mark in chance.items()})
    scaled = design.effects(10 * y)
    assert scaled.spread == pytest.approx({name: 10 * its for name, its in first.spread.items()})
    assert scaled.share == pytest.approx(first.share)
    assert scaled.r2 == pytest.approx(first.r2)


def test_a_level_that_was_never_seen_has_no_number_and_changes_no_other():
    points = drawn(40)
    found = Design({**LEVELS, "a": ["w", *LEVELS["a"]]}, points).effects(added(points))
    known = Design(LEVELS, points).effects(added(points))
    assert np.isnan(found.by_level["a"][0])
    np.testing.assert_allclose(found.by_level["a"][1:], known.by_level["a"], atol=1e-12)
    assert found.spread == pytest.approx(known.spread)


@pytest.mark.parametrize("also", [{"x": "x", "y": "y"}, {"x": "y", "y": "x"}])
def test_two_choices_that_vary_together_only_have_no_number_and_the_third_keeps_its_own(also):
    points = [point | {"b": also[point["a"]]} for point in GRID if point["a"] != "z"]
    design = Design(LEVELS, points)
    found = design.effects(added(points))
    assert design.known == ["c"]
    assert np.isnan([*found.by_level["a"], *found.by_level["b"], found.spread["a"], found.share["b"]]).all()
    np.testing.assert_allclose(found.by_level["c"], np.array([1.0, 1.0, 0.5, -2.0]) - 0.125)
    assert found.share["c"] == 1
    assert list(design.chance(added(points))) == ["c"]


def test_a_choice_with_one_level_seen_is_not_known():
    points = [point | {"b": "y"} for point in GRID]
    assert Design(LEVELS, points).known == ["a", "c"]


@pytest.mark.parametrize(("points", "least"), [([], 3), (GRID[:1], 3), (GRID, 9), (GRID[:4], 6)])
def test_the_model_asks_for_two_points_more_than_the_levels_seen_have_coefficients(points, least):
    assert Design(LEVELS, points).least == least


def test_no_points_and_equal_numbers_are_no_mistake():
    assert np.isnan(Design(LEVELS, []).effects(np.array([])).spread["a"])
    found = Design(LEVELS, GRID).effects(np.full(len(GRID), 0.1))
    assert set(found.spread.values()) == set(Design(LEVELS, GRID).chance(np.full(len(GRID), 0.1)).values()) == {0.0}
    assert np.isnan([found.r2, *found.share.values()]).all()


def test_the_mark_of_chance_is_that_of_many_fits_of_another_coding_to_dealt_out_numbers():
    random, points = np.random.default_rng(5), drawn(25)
    y = random.normal(3, 0.1, len(points)) + [0.2 * (point["a"] == "x") for point in points]
    dummies = [[1.0, *(point[name] == level for name, its in LEVELS.items() for level in its[1:])] for point in points]
    dealt = random.permuted(np.tile(y, (4000, 1)), axis=1)
    ends, spreads = np.cumsum([1, *(len(its) - 1 for its in LEVELS.values())]), {}
    coefficients = np.linalg.lstsq(np.array(dummies, float), dealt.T)[0]
    for number, name in enumerate(LEVELS):
        own = coefficients[ends[number] : ends[number + 1]]
        spreads[name] = np.quantile(np.std(np.vstack([np.zeros(4000), own]), axis=0), 0.95)
    assert Design(LEVELS, points).chance(y) == pytest.approx(spreads, rel=0.1)


def test_pure_noise_passes_its_mark_of_chance_about_once_in_twenty():
    random, points = np.random.default_rng(3), drawn(25)
    design = Design(LEVELS, points)
    passed = dict.fromkeys(LEVELS, 0)
    for number in range(200):
        y = random.normal(3, 0.1, len(points))
        spread, mark = design.effects(y).spread, design.chance(y, number)
        for name in LEVELS:
            passed[name] += spread[name] > mark[name]
    assert all(2 <= count <= 20 for count in passed.values()), passed  # 10 expected; binomial, beyond 3 in 1000 each


def test_a_large_effect_passes_its_mark_and_one_without_any_beside_it_seldom():
    random, points = np.random.default_rng(4), drawn(25)
    design = Design(LEVELS, points)
    large = np.array([{"x": 0.0, "y": 0.5, "z": 1.0}[point["a"]] for point in points])
    passed = dict.fromkeys(LEVELS, 0)
    for number in range(100):
        y = large + random.normal(0, 0.1, len(points))
        spread, mark = design.effects(y).spread, design.chance(y, number)
        for name in LEVELS:
            passed[name] += spread[name] > mark[name]
    assert passed["a"] == 100
    assert max(passed["b"], passed["c"]) <= 5
