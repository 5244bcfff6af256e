"""The comparisons of a confirmation judged anew: by scipy, by all signs, by closed testing.

The levels of the looks (t_levels) are our own; they have tests of their own.
"""

import math
from functools import cache
from itertools import combinations, product

import numpy as np
from lpanas.search.sequential import t_levels
from lpanas.search.variants import variants
from page_tables import value
from recomputed_arms import Arm, paired, percent, t_ends
from scipy import stats

LEAST, MOST = 1e-6, 0.3
"""Where a p with looks is written."""


def flips(x, bound, side):
    x = (x - bound) * (1 if side == "less" else -1)
    sums = np.array(list(product((1, -1), repeat=len(x)))) @ x
    return float(np.mean(sums <= x.sum() + 1e-12))


def t_p(x, bound, side):
    return float(stats.ttest_1samp(x, bound, alternative=side).pvalue)


SHOWN = {  # what confirms, what refutes: bounds in parts of what matters
    "better": ([(0, "less")], [(-1, "greater")]),
    "no worse": ([(1, "less")], [(1, "greater")]),
    "equivalent": ([(1, "less"), (-1, "greater")], [(1, "greater"), (-1, "less")]),
}


class Judged:
    """Comparisons, from records."""

    def __init__(self, space, records, widths):
        assert space.confirm.test == "t"
        self.space, self.protocol, self.records = space, space.confirm, records
        self.looks = tuple(sorted({*range(*self._looks()), self.protocol.seeds.most}))
        self.matters = math.log(1 + self.protocol.matters_ppl_percent / 100)
        groups = {}
        for one in variants(space, widths):
            key = (one.size, one.arm, one.control, one.model.model_dump_json(), one.recipe.model_dump_json())
            groups.setdefault(key, []).append(one)
        self.arms = [Arm(space, its[0], [one.match for one in its], records) for its in groups.values()]
        self.x = {}
        self.sizes = list(dict.fromkeys(one.variant.size for one in self.arms))

    def _looks(self):
        seeds = self.protocol.seeds
        return seeds.first, seeds.most, seeds.every

    def arm(self, size, name, match):
        its = [one for one in self.arms if (one.variant.size, one.variant.arm) == (size, name) and one.variant.control is None]
        return next((one for one in its if match in one.matches), None)

    def contests(self, size, family):
        found = {}
        for match, versus in product(self.protocol.matches, self.protocol.versus(family)):
            a, b = self.arm(size, versus.a, match), self.arm(size, versus.b, match)
            if a and b:
                found.setdefault((versus, a, b), []).append(match)
        return found

    def p_at_looks(self, x, bound, side):
        return [t_p(x[:n], bound * self.matters, side) for n in self.looks if n <= len(x)]

    def crosses(self, x, shown, alpha):
        at = self.p_at_looks(x, *shown)
        return any(p <= level for p, level in zip(at, levels(self.looks, alpha), strict=False))

    def rejected(self, xs, holds):
        """Holm's steps."""
        found, open_ = set(), set(range(len(xs)))
        while new := {n for n in open_ if holds(xs[n], self.protocol.alpha / len(open_), n)}:
            found, open_ = found | new, open_ - new
        return found

    def settled(self, xs, ways):
        """Those that are confirmed, and those that are refuted."""
        confirmed = self.rejected(xs, lambda x, alpha, n: all(self.crosses(x, one, alpha) for one in ways[n][0]))
        return confirmed, self.rejected(
            xs, lambda x, alpha, n: any(self.crosses(x, one, alpha / len(ways[n][1])) for one in ways[n][1])
        )

    def counted(self, contests, ways):
        """The differences that each is judged by: up to the look at which it was settled, others or not."""
        there = [paired(a, b) for _, a, b in contests]
        going = {n for n, (_, a, b) in enumerate(contests) if None not in (a.factor, b.factor)}
        going = {n for n in going if there[n][1] <= self.protocol.seeds.most}
        ends = [None] * len(there)
        for look in self.looks:
            if any(len(there[n][0]) < look for n in going):
                break
            ends = [look if n in going else end for n, end in enumerate(ends)]
            going -= set().union(*self.settled([x[: end or 0] for (x, _), end in zip(there, ends, strict=True)], ways))
        found = [x[:end] for (x, _), end in zip(there, ends, strict=True)]
        self.x |= dict(zip(contests, found, strict=True))
        return found

    def judged(self, size, family, shown):
        contests = self.contests(size, family)
        ways = [SHOWN[versus.direction] for versus, _, _ in contests]
        xs = self.counted(contests, ways)
        confirmed, refuted = self.settled(xs, ways)
        much = self.rejected(xs, lambda x, alpha, n: ways[n] is SHOWN["better"] and self.crosses(x, (-1, "less"), alpha))
        mine = [row for row in shown if (row["size"], row["family"]) == (size, family)]
        assert len(mine) == len(xs)
        p = [[value(row[name]) for row in mine] for name in ("p with looks", "p refuting")]
        rows = []
        for n, ((versus, a, b), matches) in enumerate(contests.items()):
            x, left_out = xs[n], paired(a, b)[1]
            verdict = "confirmed" if n in confirmed else "refuted" if n in refuted else "inconclusive"
            more, less = (much, refuted) if versus.direction == "better" else (refuted, confirmed)
            open_ = [self.protocol.alpha / max(len(xs) - len(its), 1) for its in (confirmed, refuted)]
            settled = verdict != "inconclusive" or len(x) < 2
            rows.append(
                {
                    "comparison": versus.text,
                    "size": size,
                    "match": ", ".join(matches),
                    "family": family,
                    "verdict": verdict,
                    "effect": "as much as matters" if n in more else "less than matters" if n in less else "unknown",
                    "n": len(x),
                    "left out": left_out,
                    **self.estimated(x, ways[n][0]),
                    "p with looks": self.tried(x, ways[n][0], all, 1),
                    "p refuting": self.tried(x, ways[n][1], any, len(ways[n][1])),
                    "p with Holm": close(holm(p[0])[n]),
                    "refuting with Holm": close(holm(p[1])[n]),
                    "more seeds": None if settled else self.more(x, ways[n], open_),
                }
            )
        return rows

    def estimated(self, x, confirms):
        known, ends = len(x) > 1, t_ends(x)
        at = [(bound * self.matters, side) for bound, side in confirms]
        boot = None
        if len(x) > 2:
            drawn = stats.bootstrap((x,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0))
            boot = tuple(map(float, drawn.confidence_interval))
        return {
            "mean (loss_nats)": float(x.mean()) if known else None,
            "std": float(x.std(ddof=1)) if known else None,
            "95 % t": ends,
            "95 % bootstrap": boot,
            "with looks": self.repeated(x),
            "perplexity %": percent(x.mean()) if known else None,
            "95 % t, %": tuple(map(percent, ends)) if ends else None,
            "t p": max(t_p(x, *one) for one in at) if known else None,
            "sign-flip p": max(flips(x, *one) for one in at) if known else None,
        }

    def repeated(self, x):
        reached = [n for n in self.looks if n <= len(x)]
        if not reached:
            return None
        x = x[: reached[-1]]
        level = levels(self.looks, self.protocol.alpha)[len(reached) - 1]
        half = stats.t.isf(level, len(x) - 1) * stats.sem(x)
        return float(x.mean() - half), float(x.mean() + half)

    def tried(self, x, ways, of, share):
        """Of a p: at a little more the looks reject, at a little less they do not."""

        def rejects(alpha):
            return of(self.crosses(x, one, alpha) for one in ways)

        def holds(p):
            if p == 1:
                return not rejects(MOST)
            above = rejects(min(p / share * 1.006, MOST))
            return above and (p / share <= LEAST * 1.006 or not rejects(p / share * 0.994))

        return holds

    def more(self, x, ways, alphas):
        mean, std, seeds = x.mean(), x.std(ddof=1), self.protocol.seeds.most

        def power(shown, n, alpha):
            bound, side = shown
            at = dict(zip(self.looks, levels(self.looks, alpha), strict=True))
            effect = (bound * self.matters - mean) * (1 if side == "less" else -1)
            return stats.nct.sf(stats.t.isf(at.get(n, at[seeds]), n - 1), n - 1, effect / std * math.sqrt(n))

        for n in (*(look for look in self.looks if look > len(x)), *range(max(seeds, len(x)) + 1, 201)):
            confirm = [power(one, n, alphas[0]) for one in ways[0]]
            refute = max(power(one, n, alphas[1] / len(ways[1])) for one in ways[1])
            if max(sum(confirm) - len(confirm) + 1, refute) >= self.protocol.power:
                return n - len(x)
        return None

    def claim(self, rows, size, match):
        its = [row for row in rows if (row["size"], row["family"]) == (size, "claim") and match in row["match"].split(", ")]
        by = {
            name: [row["comparison"] for row in its if row["verdict"] == name]
            for name in ("refuted", "inconclusive", "confirmed")
        }
        verdict = "refuted" if by["refuted"] else "inconclusive" if by["inconclusive"] else "confirmed"
        why = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in by.items() if texts)
        return {"size": size, "match": match, "verdict": verdict, "why": why}


@cache
def levels(looks, alpha):
    return t_levels(looks, alpha)


def holm(p):
    """By closed testing: of each the largest Bonferroni p of all families that it is in."""
    families = [its for count in range(1, len(p) + 1) for its in combinations(range(len(p)), count)]
    bonferroni = {its: min(1.0, len(its) * min(p[n] for n in its)) for its in families}
    return [max(found for its, found in bonferroni.items() if n in its) for n in range(len(p))]


def close(wanted):
    """Of what follows from printed numbers."""
    return lambda found: math.isclose(found, wanted, rel_tol=0.011)
