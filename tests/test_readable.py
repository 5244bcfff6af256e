import math
import random

import pytest
from lpanas.search.readable import readable
from making import tiny_space

SPACE = tiny_space()


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([3.0], 3.0),
        ([3.0, 3.1, 1e6], 3.1),  # guessing is at ln 264
        ([3.0, math.log(264) + 0.01], 3.0),
        ([3.0, 3.1, 3.2, 3.3, 3.4, 3.6], 3.6),
        ([3.0, 3.1, 3.2, 3.3, 3.4, 5.0], 3.4),  # quartiles 3.125 and 3.375
        ([3.0, 3.0, 3.0, 3.0, 3.0, 3.1], 3.1),
        ([7.0, 1e6], 1e6),
    ],
)
def test_an_axis_of_losses_ends_before_those_above_guessing_and_those_far_out(losses, end):
    assert readable(losses, SPACE) == end


def test_an_axis_ends_at_the_largest_loss_that_is_neither_far_out_nor_above_guessing():
    chance = random.Random(0)
    usual = [chance.gauss(3, 0.1) for _ in range(100)]
    assert readable(usual, SPACE) == max(usual)
    assert readable([*usual, 5.0, math.log(264) + 1e-9, 1e9], SPACE) == max(usual)
    assert readable([2.0, 2.0, 2.0, 2.0, 5.0], SPACE) == 5.0
    assert readable([7.0, 8.0], SPACE) == 8.0
