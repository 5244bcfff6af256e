"""How sure a sum of pieces is: against sums that are measured again and again with computed noise."""

import random
from statistics import NormalDist, median, quantiles, stdev

import pytest
from lpanas.lpa import step_error
from lpanas.lpa.piece_time import PieceTime
from lpanas.lpa.pieces import pieces
from lpanas.lpa.step_table import StepTable, under
from test_pieces import shaped
from test_step_table import training

DENSE, THIN = shaped(), shaped(placement="0-2 q,k=1/4")
BATCH = 6


def measured(stream, noise, n):
    """A table whose pieces are each timed n times, with normal noise of this share."""
    truth = {piece.key: 1.0 + number for number, piece in enumerate(pieces(DENSE, 192) | pieces(THIN, 192))}
    found = {}
    for key, seconds in truth.items():
        times = [seconds * stream.gauss(1.0, noise) for _ in range(n)]
        low, middle, high = quantiles(times, n=4)
        found[key] = PieceTime(first=median(times), more=median(times), n=n, spread=(high - low) / middle)
    return StepTable(under=under(training(shaped())), pieces=found)


@pytest.mark.parametrize(("noise", "n"), [(0.05, 40), (0.2, 100)])
def test_half_of_an_interval_is_what_sums_and_ratios_vary_by_when_all_is_measured_again(noise, n):
    stream, tables = random.Random(0), []
    tables = [measured(stream, noise, n) for _ in range(150)]
    steps, ratios = [], []
    for table in tables:
        dense, thin = (table.step_seconds(model, 192, BATCH) for model in (DENSE, THIN))
        steps.append(dense)
        ratios.append(thin / dense)
    wide = NormalDist().inv_cdf(0.975)
    for values, foretold in (
        (steps, step_error.half(tables[0], DENSE, DENSE, BATCH)),
        (ratios, median(step_error.half_of_ratio(table, THIN, DENSE, BATCH) for table in tables)),
    ):
        assert foretold == pytest.approx(wide * stdev(values) / median(values), rel=0.25)
    assert step_error.spread(tables[0], DENSE, BATCH) == pytest.approx(1.349 * noise, rel=0.2)


def test_the_dense_steps_ratio_to_itself_is_sure_and_where_the_host_counts_nothing_is_said():
    table = measured(random.Random(0), 0.1, 20)
    assert step_error.half_of_ratio(table, DENSE, DENSE, BATCH) == 0.0
    slow = table.change(pieces={key: one.change(host_first=9e9) for key, one in table.pieces.items()})
    assert step_error.half(slow, DENSE, DENSE, BATCH) is None
    assert step_error.half_of_ratio(slow, THIN, DENSE, BATCH) is None
