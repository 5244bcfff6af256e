from itertools import product
from random import Random

import numpy as np
import pytest
from lpanas.search.importance import Design
from scipy.stats import f

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


def dummies(points, levels=LEVELS, without=None):
    """Another coding: the constant, and a column a level but the first."""
    own = {name: its[1:] for name, its in levels.items() if name != without}
    return np.array([[1.0, *(point[name] == level for name, its in own.items() for level in its)] for point in points], float)


def left(x, y):
    return y - x @ np.linalg.lstsq(x, y)[0]


def marks_by_fits(points, levels, y, names, shuffles):
    """Of many fits to the fit without the choice and what that leaves, dealt out."""
    random, full, start, marks = np.random.default_rng(5), dummies(points, levels), 1, {}
    for name, its in levels.items():
        if name in names:
            residuals = left(dummies(points, levels, name), y)
            dealt = (y - residuals + random.permuted(np.tile(residuals, (shuffles, 1)), axis=1)).T
            own = np.linalg.lstsq(full, dealt)[0][start : start + len(its) - 1]
            spread = np.std(np.vstack([np.zeros(shuffles), own]), axis=0)
            ratio = np.quantile(spread / np.linalg.norm(left(full, dealt), axis=0), 0.95)
            marks[name] = ratio * np.linalg.norm(left(full, y))
        start += len(its) - 1
    return marks


def test_the_mark_of_chance_is_that_of_many_fits_to_the_fit_without_the_choice_and_what_it_leaves_dealt_out():
    points = drawn(25)
    y = np.random.default_rng(5).normal(3, 0.1, len(points)) + [0.2 * (point["a"] == "x") for point in points]
    assert Design(LEVELS, points).chance(y) == pytest.approx(marks_by_fits(points, LEVELS, y, LEVELS, 4000), rel=0.1)


def twins(choices, n):
    """Points of many choices of four levels, the first two of them always alike, and numbers with an effect of the last."""
    levels, random = {f"c{number}": ["p", "q", "r", "s"] for number in range(choices)}, Random(n)
    points = [{name: random.choice(its) for name, its in levels.items()} for _ in range(n)]
    points = [point | {"c1": point["c0"]} for point in points]
    y = np.random.default_rng(n).normal(size=n) + [2.0 * (point[f"c{choices - 1}"] == "q") for point in points]
    return levels, points, y


@pytest.mark.parametrize(("choices", "n"), [(30, 150), (30, 91), (112, 400)], ids=["150", "91", "in single precision"])
def test_many_choices_have_least_squares_effects_the_matrices_rank_and_the_marks_of_many_fits(choices, n):
    levels, points, y = twins(choices, n)
    full, design = dummies(points, levels), Design(levels, points)
    assert design.rank == np.linalg.matrix_rank(full) - 1 == 3 * (choices - 1)
    assert (design.least, design.enough) == (design.rank + 3, True)
    assert design.known == list(levels)[2:]
    fitted, found = np.linalg.lstsq(full, y)[0], design.effects(y)
    for place, name in enumerate(design.known, 2):
        its = np.array([0.0, *fitted[1 + 3 * place : 4 + 3 * place]])
        np.testing.assert_allclose(found.by_level[name], its - its.mean(), atol=1e-8)
    assert found.r2 == pytest.approx(1 - np.sum(left(full, y) ** 2) / np.sum((y - y.mean()) ** 2))
    names = ["c2", f"c{choices - 1}"]
    assert design.chance(y, names=names) == pytest.approx(marks_by_fits(points, levels, y, names, 1000), rel=0.15)


def test_too_few_points_for_many_choices_tell_nothing_and_the_model_asks_for_all_that_the_levels_may_need():
    levels, points, _ = twins(30, 60)
    design = Design(levels, points)
    assert design.rank == np.linalg.matrix_rank(dummies(points, levels)) - 1 == 59
    assert (design.known, design.enough, design.least) == ([], False, 93)


def test_choices_that_are_not_told_apart_ask_for_the_points_of_one_and_change_no_other():
    levels, points = LEVELS | dict.fromkeys("def", LEVELS["c"]), drawn(14, 1)
    y = np.random.default_rng(0).normal(size=14)
    design, alone = Design(levels, [point | dict.fromkeys("def", point["c"]) for point in points]), Design(LEVELS, points)
    assert (design.rank, design.least, design.known) == (alone.rank, alone.least, ["a", "b"]) == (6, 9, ["a", "b"])
    for name in design.known:  # of 15 contrasts, more than points
        np.testing.assert_allclose(design.effects(y).by_level[name], alone.effects(y).by_level[name], atol=1e-12)
    assert design.effects(y).r2 == pytest.approx(alone.effects(y).r2)


def test_on_a_balanced_grid_with_normal_noise_the_mark_is_the_f_tests():
    points, n = GRID * 2, 2 * len(GRID)
    y = added(points) + np.random.default_rng(6).normal(0, 0.1, n)
    freedom = n - dummies(points).shape[1]
    variance = np.sum(left(dummies(points), y) ** 2) / freedom
    marks = {}  # n spread^2 is the choice's sum of squares
    for name, levels in LEVELS.items():
        marks[name] = np.sqrt((len(levels) - 1) * f.ppf(0.95, len(levels) - 1, freedom) * variance / n)
    assert Design(LEVELS, points).chance(y) == pytest.approx(marks, rel=0.1)


def even(n, random, loss):
    points = [{name: random.choice(levels) for name, levels in LEVELS.items()} for _ in range(n)]
    return points, [loss(point) for point in points]


def least(n, random, loss):
    """The first of those, as many as the model asks for."""
    points, y = even(n, random, loss)
    count = next(count for count in range(n) if count >= Design(LEVELS, points[:count]).least)
    return points[:count], y[:count]


def uneven(n, random, loss):
    points = [{name: random.choices(its, [6, 3, 1, 1][: len(its)])[0] for name, its in LEVELS.items()} for _ in range(n)]
    return points, [loss(point) for point in points]


def searched(n, random, loss):
    """Each but the first 12 is one of the best quarter with one choice drawn anew."""
    points, y = even(12, random, loss)
    while len(points) < n:
        parent = points[random.choice(sorted(range(len(y)), key=y.__getitem__)[: len(y) // 4])]
        name = random.choice(list(LEVELS))
        points.append({**parent, name: random.choice(LEVELS[name])})
        y.append(loss(points[-1]))
    return points, y


def passed(draw, effects, studies, seed):
    """In how many of the studies, of 30 points with noise of 0.1, each choice is above its mark."""
    random, noise, above = Random(seed), np.random.default_rng(seed), dict.fromkeys(LEVELS, 0)
    for number in range(studies):
        points, y = draw(30, random, lambda point: sum(effects.get(at, 0) for at in point.items()) + noise.normal(3, 0.1))
        design = Design(LEVELS, points)
        spread, mark = design.effects(np.array(y)).spread, design.chance(np.array(y), number)
        for name in mark:
            above[name] += spread[name] > mark[name]
    return above


STRONG = {("a", "y"): 0.5, ("a", "z"): 1.0}


@pytest.mark.parametrize("effects", [{}, STRONG], ids=["nothing", "strong"])
@pytest.mark.parametrize("draw", [even, least, uneven, searched])
def test_a_choice_without_effect_passes_its_mark_about_once_in_twenty_whatever_another_does_and_however_points_were_drawn(
    draw, effects
):
    above = passed(draw, effects, 200, 7)
    idle = [count for name, count in above.items() if (name, "z") not in effects]
    assert all(2 <= count < 0.09 * 200 for count in idle), above  # 10 expected; binomial, beyond 1 in 100 each


def test_a_weaker_choice_beside_a_strong_one_is_told():
    above = passed(even, {**STRONG, ("b", "y"): 0.2}, 100, 8)
    assert above["a"] == 100
    assert above["b"] >= 95  # when the losses themselves were dealt out: 0


def test_without_noise_what_does_something_passes_its_mark_and_the_rest_is_no_rounding():
    points = drawn(30)
    y = added(points) - [ADDED["b"][point["b"]] for point in points]
    spread, mark = Design(LEVELS, points).effects(y).spread, Design(LEVELS, points).chance(y)
    assert [spread[name] > mark[name] for name in LEVELS] == [True, False, True]
