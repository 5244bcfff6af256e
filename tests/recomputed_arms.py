"""What has come of each arm of a confirmation, from the records, by numpy and scipy."""

import math

import numpy as np
from scipy import stats


class Arm:
    """What has come of an arm, or a control, as one model."""

    def __init__(self, space, variant, matches, records):
        self.variant, self.matches, self.protocol = variant, matches, space.confirm
        base, seed, protocol = variant.recipe.optim.lr, space.seed + space.confirm.seeds.offset, space.confirm
        its = [one for one in records if self.trained(one)]
        by = {(round(one.recipe.optim.lr / base, 5), one.seed): one for one in its}
        assert len(by) == len(its)
        sweep = range(seed, seed + protocol.seeds.sweep)
        self.tried = {
            factor: [by[factor, one] for one in sweep]
            for factor in sorted({factor for factor, _ in by})
            if all((factor, one) in by for one in sweep)
        }
        best = self.best()
        self.edge = best in (min(self.tried, default=None), max(self.tried, default=None))
        self.factor = best if best is None or self.edge else self.lowest(best)
        self.lr = None if self.factor is None else base * self.factor
        count = range(2 * protocol.seeds.most + 1)
        self.deciding = {seed + protocol.seeds.sweep + n: None for n in count}
        self.deciding = {one: by.get((self.factor, one)) for one in self.deciding}
        self.losses = {one: test(record) for one, record in self.deciding.items() if test(record) is not None}

    def trained(self, record):
        recipe, its = self.variant.recipe, record.recipe
        alike = (recipe.tokens, recipe.batch_size, recipe.optim.warmup_share)
        return record.model == self.variant.model and alike == (its.tokens, its.batch_size, its.optim.warmup_share)

    def mean(self, factor):
        runs = [one for one in self.tried[factor] if one.status != "failed"]
        if not runs or any(one.status == "diverged" for one in runs):
            return math.inf
        return float(np.mean([one.loss_nats for one in runs]))

    def best(self):
        factors = self.protocol.lr_factors
        if not set(factors) <= set(self.tried):
            return None
        best = min(self.tried, key=self.mean)
        beyond = {min(self.tried): sum(one < factors[0] for one in self.tried)}
        beyond |= {max(self.tried): sum(one > factors[-1] for one in self.tried)}
        ended = beyond.get(best, self.protocol.lr_extend) == self.protocol.lr_extend
        return best if ended and math.isfinite(self.mean(best)) else None

    def lowest(self, best):
        """Of the parabola by least squares, between the best rate's neighbours."""
        rates = list(self.tried)
        place = rates.index(best)
        low, high = rates[place - 1], rates[place + 1]
        near = [factor for factor in rates[max(0, place - 2) : place + 3] if math.isfinite(self.mean(factor))]
        if not {low, high} <= set(near):
            return best
        bend, slope, _ = np.polyfit(np.log2(near), [self.mean(factor) for factor in near], 2)
        if bend < 1e-9:
            return best
        found = min(max(2 ** (-slope / bend / 2), low), high)
        return round(found, 2 - math.floor(math.log10(found)))

    def seeds(self, status):
        return " ".join(str(one) for one, its in self.deciding.items() if its is not None and its.status == status) or None


def test(record):
    """Test loss; none of a run that failed, or has not ended."""
    if record is not None and record.status == "diverged":
        return math.log(record.model.vocab_size)
    return None if record is None else record.test_loss_nats


def paired(a, b):
    """Differences over the seeds before the first that has not ended, and how many of them failed."""
    differences, left_out = [], 0
    for seed in a.deciding:
        if a.deciding[seed] is None or b.deciding[seed] is None:
            break
        both = a.losses.get(seed), b.losses.get(seed)
        left_out += None in both
        differences += [] if None in both else [both[0] - both[1]]
    return np.array(differences), left_out


def percent(nats):
    return None if nats is None else 100 * (math.exp(nats) - 1)


def t_ends(x):
    return tuple(map(float, stats.ttest_1samp(x, 0).confidence_interval(0.95))) if len(x) > 1 else None
