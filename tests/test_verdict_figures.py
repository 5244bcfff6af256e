import math
from dataclasses import replace

import numpy as np
import pytest
from lpanas.search.conclude import conclude
from lpanas.search.confirmation import ComparisonResult
from lpanas.search.forest import (
    CONTROLS,
    VERDICTS,
    comparison_rows,
    control_rows,
    forest_figure,
    percent_ticks,
    short,
    span,
)
from lpanas.search.ladder_figures import effect_figures, effect_rows, rank_figures, rank_rows
from lpanas.search.page import COLOURS, looks
from lpanas.search.variants import variants
from lpanas.search.verdict_figures import cost_figures, cost_rows, rate_figures, rate_rows
from made_up import Losses, play, protocol_space
from scipy import stats

LADDER = ("confirm.sizes=[{name: small, tokens: 128}, {name: large}]", "confirm.matches=[width, params, flops]")
SPACE = protocol_space(*LADDER, "confirm.beside=[ffn equivalent to both]")
LOSSES = Losses(
    arms={"dense": 2.0, "attention": 1.9, "ffn": 2.1, "both": 2.15},
    sizes={"large": {"dense": 1.5, "attention": 1.6, "ffn": 1.45, "both": 1.8}},
    noise=0.004,
    diverges=lambda arm, factor, seed: arm == "both" and factor > 1.5,
)


def concluded(space, records):
    return conclude(space, variants(space, {}), records)


@pytest.fixture(scope="module")
def records():
    return play(SPACE, LOSSES)


@pytest.fixture(scope="module")
def found(records):
    return concluded(SPACE, records)


def decided(records, size, arm, d_ff):
    """Of the seeds that decide, in order."""
    its = [r for r in records if (r.params["size"], r.params["arm"], r.params.get("control")) == (size, arm, None)]
    its = [r for r in its if r.model.d_ff == d_ff]
    first = SPACE.seed + 1000 + SPACE.confirm.seeds.sweep
    return {r.seed: r.test_loss_nats for r in its if r.seed >= first}


# forest


def test_a_comparison_is_a_row_with_what_was_found_of_it(found):
    rows = comparison_rows(found)
    assert len(rows) == len(found.comparisons)
    for row in rows.to_dict("records"):
        (one,) = [
            one
            for one in found.comparisons
            if one.text == row["label"]
            and row["group"].removesuffix(" (beside)") == f"{one.size}, equal {' and '.join(one.matches)}"
            and (one.family == "beside") == row["group"].endswith(" (beside)")
        ]
        assert (row["kind"], row["n"], row["mean"], row["ppl_percent"]) == (one.verdict, one.n, one.mean_nats, one.ppl_percent)
        assert ((row["t_low"], row["t_high"]), (row["looks_low"], row["looks_high"])) == (one.t_nats, one.repeated_nats)


def test_groups_are_together_and_each_row_and_each_group_has_a_line_of_its_own(found):
    backwards = replace(found, comparisons=(*found.comparisons[::2], *found.comparisons[1::2]))
    for rows in (comparison_rows(found), comparison_rows(backwards)):
        runs = [group for n, group in enumerate(rows["group"]) if n == 0 or rows["group"][n - 1] != group]
        assert len(runs) == rows["group"].nunique()
        lines = [*rows["y"], *(rows.groupby("group")["y"].min() - 1)]
        assert sorted(lines) == list(range(len(rows) + len(runs)))


def comparison(n, mean, **changes):
    """Of a mean and an interval around it."""
    ends = None if mean is None else (mean - 0.01, mean + 0.01)
    nothing = dict.fromkeys(ComparisonResult.__dataclass_fields__)
    fields = {"family": "claim", "size": "s", "matches": ("width",), "a": "attention", "b": "dense", "n": n}
    fields |= {"text": "attention better than dense", "verdict": "inconclusive", "mean_nats": mean, "t_nats": ends}
    percent = None if mean is None else 100 * math.expm1(mean)
    return ComparisonResult(**nothing | fields | {"repeated_nats": ends, "ppl_percent": percent} | changes)


def marks(figure):
    """(name, x, y) of every mean."""
    return [
        (trace.name, x, y)
        for trace in figure.data
        if trace.mode == "markers" and trace.hovertemplate
        for x, y in zip(trace.x, trace.y, strict=True)
    ]


def test_a_comparison_without_two_seeds_is_named_without_a_mark(found):
    its = replace(found, comparisons=(comparison(5, -0.02), comparison(1, None, b="ffn", text="attention better than ffn")))
    figure = forest_figure(comparison_rows(its), VERDICTS, 0.01)
    assert [x for _, x, _ in marks(figure)] == [-0.02]
    texts = [note.text for note in figure.layout.annotations]
    assert any("attention better than ffn" in text and "no interval yet" in text for text in texts)
    assert "n 1" in texts


def test_a_verdict_is_told_by_colour_symbol_and_word(found):
    verdicts = ("confirmed", "refuted", "inconclusive")
    its = replace(found, comparisons=tuple(comparison(5, 0.01 * n, verdict=one) for n, one in enumerate(verdicts)))
    figure = forest_figure(comparison_rows(its), VERDICTS, 0.01)
    means = [trace for trace in figure.data if trace.hovertemplate]
    assert {trace.name for trace in means} == set(verdicts)
    assert len({trace.marker.symbol for trace in means}) == len({trace.marker.color for trace in means}) == 3
    for verdict in verdicts:
        assert any(verdict in note.text for note in figure.layout.annotations)


def test_the_figure_grows_with_its_rows(found):
    heights = []
    for count in (1, 6, 12, 24):
        its = replace(found, comparisons=tuple(comparison(5, 0.01) for _ in range(count)))
        figure = forest_figure(comparison_rows(its), VERDICTS, 0.01)
        heights.append(figure.layout.height)
        low, high = figure.layout.yaxis.range[1], figure.layout.yaxis.range[0]
        assert all(low < y < high for _, _, y in marks(figure))
        assert (figure.layout.height - figure.layout.margin.t - figure.layout.margin.b) / (high - low) > 40
    assert heights == sorted(set(heights))


def test_the_axis_shows_zero_what_matters_every_mean_and_the_intervals(found):
    low, high = span(comparison_rows(found), 0.01)
    assert low < -0.01 < 0.01 < high
    for one in found.comparisons:
        assert low <= one.mean_nats <= high
        assert low <= one.t_nats[0] < one.t_nats[1] <= high


def test_one_interval_that_says_nothing_does_not_hide_the_others(found):
    wild = comparison(2, -0.02, t_nats=(-9.0, 9.0), repeated_nats=(-900.0, 900.0))
    rows = comparison_rows(replace(found, comparisons=(comparison(5, -0.03), wild)))
    low, high = span(rows, 0.01)
    assert -0.2 < low < -0.03 < 0.02 < high < 0.2
    figure = forest_figure(rows, VERDICTS, 0.01)
    drawn = [x for trace in figure.data if trace.mode == "lines" for x in trace.x if x is not None and not math.isnan(x)]
    assert min(drawn) == low
    assert max(drawn) == high
    arrows = {
        trace.marker.symbol: len(trace.x) for trace in figure.data if "triangle" in str(trace.marker.symbol) and len(trace.x)
    }
    assert arrows == {"triangle-left": 1, "triangle-right": 1}


def test_nothing_known_is_drawn_too(found):
    for its in (replace(found, comparisons=()), replace(found, comparisons=(comparison(0, None),))):
        assert not marks(forest_figure(comparison_rows(its), VERDICTS, 0.01))


@pytest.mark.parametrize("ends", [(-0.02, 0.02), (-0.5, 0.1), (-3.0, 8.0), (-1e-4, 3e-4), (-0.13, 0.014)])
def test_the_upper_axis_has_round_changes_of_perplexity_where_they_belong(ends):
    low, high = (100 * (math.exp(end) - 1) for end in ends)
    ticks = percent_ticks(*ends)
    assert 0.0 in ticks
    assert 3 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)
    assert np.ptp(np.diff(ticks)) == pytest.approx(0, abs=1e-9 * high)
    figure = forest_figure(comparison_rows_of(ends), VERDICTS, 0.001)
    for nats, text in zip(figure.layout.xaxis2.tickvals, figure.layout.xaxis2.ticktext, strict=True):
        assert 100 * (math.exp(nats) - 1) == pytest.approx(float(text), rel=1e-4, abs=1e-9)
    assert figure.layout.xaxis2.range == figure.layout.xaxis.range


def comparison_rows_of(ends):
    class One:
        comparisons = (comparison(5, sum(ends) / 2, t_nats=ends, repeated_nats=None),)

    return comparison_rows(One)


def test_a_control_is_a_row_beside_the_effect(found):
    rows = control_rows(found)
    assert list(rows["mean"]) == [one.mean_nats for one in found.controls]
    assert list(rows["label"]) == [one.says for one in found.controls]
    assert [kind == "effect" for kind in rows["kind"]] == [one.control is None for one in found.controls]
    assert len(marks(forest_figure(rows, CONTROLS, 0.01))) == len(found.controls)


def test_a_long_name_keeps_both_ends_and_its_width():
    assert short("attention") == "attention"
    cut = short("a" * 30 + "z" * 30, 11)
    assert len(cut) == 11
    assert cut.startswith("aaaaa")
    assert cut.endswith("zzzzz")


def test_arms_of_any_names_have_looks_of_their_own():
    names = [*COLOURS, "winner", *(f"p{n}" for n in range(7))]
    assert len({looks(names)[name] for name in names}) == len(names)
    assert {name: colour for name, (colour, _) in looks(["winner"]).items() if name in COLOURS} == COLOURS


# learning rates


def test_every_run_of_the_sweeps_is_a_dot_and_every_rate_has_its_mean(found, records):
    rows = rate_rows(found)
    runs = rows[rows["seed"] >= 0]
    sweep = [r for r in records if r.seed < SPACE.seed + 1000 + SPACE.confirm.seeds.sweep]
    drawn = {(row["size"], row["arm"], row["control"], row["lr"], row["loss_nats"]) for row in runs.to_dict("records")}
    for r in sweep:
        if r.status == "complete":
            where = (r.params["size"], r.params["arm"], r.params.get("control", ""), r.recipe.optim.lr, r.loss_nats)
            assert where in drawn
    for row in rows[rows["seed"] == -1].to_dict("records"):
        its = runs[(runs["size"] == row["size"]) & (runs["panel"] == row["panel"]) & (runs["name"] == row["name"])]
        its = its[its["lr"] == row["lr"]]["loss_nats"]
        assert len(its) == SPACE.confirm.seeds.sweep
        assert math.isnan(row["loss_nats"]) if its.isna().any() else row["loss_nats"] == pytest.approx(its.mean())


def test_the_rate_that_is_marked_is_where_a_parabola_through_the_means_is_lowest(found):
    checked = 0
    for _, its in rate_rows(found).groupby(["size", "panel", "name"]):
        means, (ring,) = its[its["seed"] == -1].dropna(), its[its["seed"] == -2].to_dict("records")
        if len(means) == 3 and means["loss_nats"].argmin() == 1:
            curve = np.polyfit(np.log10(means["lr"]), means["loss_nats"], 2)
            assert math.log10(ring["lr"]) == pytest.approx(-curve[1] / curve[0] / 2, abs=3e-3)
            assert ring["loss_nats"] == pytest.approx(np.polyval(curve, math.log10(ring["lr"])))
            checked += 1
    assert checked > 5


def test_a_panel_has_every_arm_of_its_match_and_arms_that_are_alike_at_two_matches_are_drawn_once(found):
    panels = {key: set(its["arm"]) for key, its in rate_rows(found).groupby(["size", "panel"])}
    assert set(panels) == {
        (size, panel) for size in ("small", "large") for panel in ("equal width", "equal params and flops", "controls")
    }
    for (_, panel), its in panels.items():
        assert its == ({"dense", "attention"} if panel == "controls" else {"dense", "attention", "ffn", "both"})


def test_runs_that_diverged_are_crosses_at_the_top_edge(found):
    lost = 0
    for figure in rate_figures(found):
        low, high = figure.layout.yaxis.range
        crosses = [trace for trace in figure.data if trace.marker.symbol == "x-thin"]
        lost += sum(len(trace.x) for trace in crosses)
        ended = [y for trace in figure.data if trace not in crosses for y in trace.y if not math.isnan(y)]
        assert low < min(ended)
        assert all(max(ended) < y < high for trace in crosses for y in trace.y)
    assert lost == 2 * 2 * SPACE.confirm.seeds.sweep  # sizes, models; one rate


# costs


def test_an_arm_lies_at_its_share_of_dense_with_the_interval_of_its_seeds(found, records):
    rows = cost_rows(found, "flops_per_token")
    dense = {one.size: one.flops_per_token for one in found.arms if one.arm == "dense" and one.control is None}
    assert len(rows) == sum(one.control is None for one in found.arms)
    for row in rows.to_dict("records"):
        (one,) = [
            one
            for one in found.arms
            if (one.size, one.arm, f"equal {' and '.join(one.matches)}") == (row["size"], row["arm"], row["matches"])
            and one.control is None
        ]
        losses = list(decided(records, row["size"], row["arm"], one.d_ff).values())
        assert row["share"] == one.flops_per_token / dense[row["size"]]
        low, high = stats.t.interval(0.95, len(losses) - 1, np.mean(losses), stats.sem(losses))
        assert [row["mean"], row["low"], row["high"]] == pytest.approx([np.mean(losses), low, high])
        assert row["n"] == len(losses)
    assert set(cost_rows(found, "body_params").query("arm == 'dense'")["share"]) == {1.0}


def test_a_panel_of_costs_draws_every_model(found):
    figures = cost_figures(found)
    assert len(figures) == 2 * 2
    rows = cost_rows(found, "flops_per_token").query("size == 'small'")
    drawn = {(x, y) for trace in figures[0].data for x, y in zip(trace.x, trace.y, strict=True)}
    assert drawn == set(zip(rows["share"], rows["mean"], strict=True))


# the ladder


def test_an_effect_at_a_size_is_the_mean_of_its_paired_differences(found, records):
    rows = effect_rows(found).query("matches == 'equal width'")
    assert len(rows) == 3 * 2
    for row in rows.to_dict("records"):
        a, b = (decided(records, row["size"], arm, 96) for arm in (row["a"], row["b"]))
        x = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
        ends = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        assert [row["mean"], row["low"], row["high"], row["n"]] == pytest.approx([np.mean(x), *ends, len(x)])


def test_the_effects_have_a_panel_a_match_and_a_point_a_size(found):
    figures = effect_figures(found)
    assert [figure.layout.title.text for figure in figures] == ["equal width", "equal params and flops"]
    for figure in figures:
        assert [len(trace.x) for trace in figure.data] == [2, 2, 2]
        assert all(list(map(round, trace.x)) == [0, 1] for trace in figure.data)


def test_arms_are_ranked_by_their_mean_loss_at_each_size(found):
    ranks = {key: list(its.sort_values("rank")["arm"]) for key, its in rank_rows(found).groupby(["matches", "size"])}
    for match in ("equal width", "equal params and flops"):
        assert ranks[match, "small"] == ["attention", "dense", "ffn", "both"]
        assert ranks[match, "large"] == ["ffn", "dense", "attention", "both"]
    lines = {trace.text[0].partition("<")[0]: tuple(trace.y) for trace in rank_figures(found)[0].data}
    assert lines == {"attention": (1, 3), "dense": (2, 2), "ffn": (3, 1), "both": (4, 4)}


def test_only_arms_with_losses_at_every_size_are_ranked(found):
    lost = [one for one in found.arms if (one.size, one.arm, one.control) == ("large", "ffn", None)]
    arms = tuple(replace(one, mean_nats=None) if one in lost else one for one in found.arms)
    rows = rank_rows(replace(found, arms=arms))
    assert set(rows["arm"]) == {"dense", "attention", "both"}
    assert set(rows["rank"]) == {1, 2, 3}


@pytest.mark.parametrize("count", [0, 5])
def test_before_anything_is_known_there_is_nothing_to_draw(count, records):
    early = concluded(SPACE, records[:count])
    assert cost_figures(early) == effect_figures(early) == rank_figures(early) == []
    assert sum(len(its["lr"].unique()) for _, its in rate_rows(early).groupby("size")) == count // SPACE.confirm.seeds.sweep
    assert all(figure.data for figure in rate_figures(early))
