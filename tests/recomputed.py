"""Every number of a confirmation's page from its records, and whether the page says it."""

import gzip
import math
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from lpanas.lpa.cost import body_params, flops_per_token
from lpanas.lpa.model import build
from lpanas.search.presets import load_space
from lpanas.search.record import Record
from lpanas.search.variants import sized, sizes
from page_tables import UNKNOWN, right, tables
from recomputed_arms import paired, percent, t_ends
from recomputed_claims import Judged
from scipy import stats
from torch import device


def check(page, space, records, widths=None):
    """Asserts that every cell of every table of a page is what the records say."""
    found, wanted = tables(page), Recomputed(space, records, widths or {}).tables(tables(page))
    assert set(found) == set(wanted)
    for name, rows in wanted.items():
        assert len(found[name]) == len(rows), name
        for got, row in zip(found[name], rows, strict=True):
            assert set(got) == set(row), name
            for column, cell in row.items():
                assert right(column, got[column], cell), (name, column, got, cell)


def read(folder):
    """The space and the records of a confirmation's folder."""
    packed = folder / "records.jsonl.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / "records.jsonl").read_bytes()
    return load_space(str(folder / "space.yaml"), []), [
        Record.parse_json(line, folder.name) for line in text.decode().splitlines()
    ]


class Recomputed(Judged):
    """A page's tables."""

    def tables(self, shown):
        """shown: the page's own, as a p with looks is tried, not computed."""
        judged = {
            (size, family): self.judged(size, family, shown["comparisons"])
            for size in self.sizes
            for family in ("claim", "beside")
        }
        self.dense = {size.name: sized(self.space, size).model for size in sizes(self.space)}
        self.claims = {size: judged[size, "claim"] for size in self.sizes}
        rows = [row for its in judged.values() for row in its]
        found = {
            "comparisons": rows,
            "claims": [self.claim(rows, size, match) for size in self.sizes for match in self.protocol.matches],
            "rates": [self.rate(arm, factor) for arm in self.arms for factor in arm.tried],
            "arms": [self.arm_row(arm) for arm in self.arms],
            "sizes": [self.size(one) for one in sizes(self.space)],
        }
        if "ladder" in shown or len(self.sizes) > 1:
            steps = list(pairwise(self.sizes))
            found["ladder"] = [self.step(*step, its) for step in steps for its in self.alike(*step)]
            found["moved"] = [row for step in steps for its in self.alike(*step) for row in self.moved(*step, its)]
        if "controls" in shown or self.protocol.controls:
            found["controls"] = [self.control(row) for row in shown["controls"]]
            assert len(found["controls"]) == len(self.sizes) * sum(
                {"scaled": 2, "init": 3, "warmup": 1}.get(one) for one in self.protocol.controls
            ) + len(self.sizes)
        return found

    def named(self, arm):
        name = arm.variant.name if arm.variant.control else arm.variant.arm
        return {"size": arm.variant.size, "arm": name, "match": ", ".join(arm.matches)}

    def rate(self, arm, factor):
        mean = arm.mean(factor)
        each = [f"{one.loss_nats:.5f}" if one.status == "complete" else UNKNOWN for one in arm.tried[factor]]
        return self.named(arm) | {
            "lr": arm.variant.recipe.optim.lr * factor,
            "of the proxy's": factor,
            "mean (loss_nats)": mean if math.isfinite(mean) else None,
            "each seed": " ".join(each),
        }

    def arm_row(self, arm):
        model, x = arm.variant.model, np.array(list(arm.losses.values()))
        body, flops, dense = body_params(model), flops_per_token(model), self.dense[arm.variant.size]
        edge = f"{arm.lr:.6g} at the edge" if arm.lr is not None and arm.edge else arm.lr
        return self.named(arm) | {
            "ranks": model.ranks_text or None,
            "d_ff": model.d_ff,
            "body params": body,
            "body / dense": body / body_params(dense),
            "flops_per_token": flops,
            "flops / dense": flops / flops_per_token(dense),
            "lr": edge,
            "n": len(x),
            "mean (loss_nats)": float(x.mean()) if len(x) else None,
            "std": float(x.std(ddof=1)) if len(x) > 1 else None,
            "diverged": arm.seeds("diverged"),
            "failed": arm.seeds("failed"),
        }

    def size(self, size):
        config = sized(self.space, size)
        model = config.model
        step = config.batch_size * model.context
        return {
            "size": size.name,
            **{name: getattr(model, name) for name in ("d_model", "d_ff", "n_layers")},
            "params": sum(one.numel() for one in build(model, device("cpu"), seed=0).parameters()),
            "flops_per_token": flops_per_token(model),
            "tokens a run": math.ceil(config.tokens / step) * step,
        }

    # controls and the ladder

    def control(self, row):
        a, b = (next(one for one in self.arms if (one.variant.size, one.variant.name) == (row["size"], row[x])) for x in "AB")
        x = paired(a, b)[0]
        known = len(x) > 1
        control = a.variant.control or b.variant.control
        return row | {
            "control": control,
            "n": len(x),
            "mean (loss_nats)": float(x.mean()) if known else None,
            "95 % t": t_ends(x),
            "perplexity %": percent(x.mean()) if known else None,
        }

    def alike(self, small, large):
        groups = {}
        for match in self.protocol.matches:
            key = tuple(one for one in self.arms if match in one.matches and one.variant.size in (small, large))
            groups.setdefault(tuple(one for one in key if one.variant.control is None), []).append(match)
        return list(groups.values())

    def step(self, small, large, matches):
        names = dict.fromkeys(one.variant.arm for one in self.arms)
        both = {name: [self.arm(size, name, matches[0]) for size in (small, large)] for name in names}
        both = {name: its for name, its in both.items() if all(any(one.deciding.values()) for one in its)}
        losses = []
        for place in (0, 1):
            its = [arms[place] for arms in both.values()]
            seeds = [seed for seed in (its[0].losses if its else ()) if all(seed in one.losses for one in its)]
            losses.append(np.array([[one.losses[seed] for seed in seeds] for one in its]).reshape(len(its), len(seeds)))
        known = min(one.shape[1] for one in losses) > 1 and len(both) > 1
        orders = list(zip(*(self.orders(one) for one in losses), strict=True)) if known else []
        same, turned = sum(a * b > 0 for a, b in orders), sum(a * b < 0 for a, b in orders)
        return {
            "from": small,
            "to": large,
            "match": ", ".join(matches),
            "arms": ", ".join(both) or None,
            "seeds": ", ".join(str(one.shape[1]) for one in losses),
            "rank correlation": float(stats.spearmanr(*(one.mean(axis=1) for one in losses)).statistic) if known else None,
            "95 %": self.drawn(*losses) if known and min(one.shape[1] for one in losses) > 2 else None,
            "pairs the same": same,
            "reversed": turned,
            "not sure": math.comb(len(both), 2) - same - turned,
        }

    def orders(self, losses):
        pairs = list(combinations(losses, 2))
        level = 0.05 / (4 * len(pairs))
        tails = [[stats.ttest_rel(a, b, alternative=side).pvalue for side in ("less", "greater")] for a, b in pairs]
        return [int(less <= level) - int(greater <= level) for less, greater in tails]

    def drawn(self, *losses):
        rng = np.random.default_rng(0)
        means = []
        for x in losses:
            n, centre = x.shape[1], x.mean(axis=1)
            picked = np.stack([x[:, its].mean(axis=1) for its in rng.integers(n, size=(5000, n))])
            means.append(pd.DataFrame(centre + (picked - centre) * math.sqrt(n / (n - 1))).rank(axis=1))
        return tuple(means[0].corrwith(means[1], axis=1).quantile([0.025, 0.975]))

    def moved(self, small, large, matches):
        for versus in self.protocol.versus("claim"):
            xs = [
                self.x[versus, *(self.arm(size, name, matches[0]) for name in (versus.a, versus.b))] for size in (small, large)
            ]
            known = min(map(len, xs)) > 1
            welch = stats.ttest_ind(xs[1], xs[0], equal_var=False).confidence_interval(0.95) if known else None
            verdicts = [
                next(
                    row["verdict"]
                    for row in self.claims[size]
                    if row["comparison"] == versus.text and matches[0] in row["match"].split(", ")
                )
                for size in (small, large)
            ]
            yield {
                "from": small,
                "to": large,
                "match": ", ".join(matches),
                "comparison": versus.text,
                **{
                    f"{which} {what}": cell
                    for which, x, verdict in zip(("first", "second"), xs, verdicts, strict=True)
                    for what, cell in (
                        ("mean (loss_nats)" if which == "first" else "mean", float(x.mean()) if len(x) > 1 else None),
                        ("verdict", verdict),
                    )
                },
                "change": float(xs[1].mean() - xs[0].mean()) if known else None,
                "95 % (Welch)": (float(welch.low), float(welch.high)) if known else None,
            }
