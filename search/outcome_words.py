"""What exported configs came to, in words."""

from collections.abc import Sequence
from pathlib import Path

from .outcomes import Compared, Outcome
from .statistics import ppl_percent


def sentences(found: Sequence[Outcome], place: Path) -> list[str]:
    """Of each config against its dense twin and against its proxy, what cannot be compared, and what to do next."""
    said = [line for one in found for line in (*_against_dense(one, found), *_against_proxy(one), *_others(one))]
    if not any(one.trainings for one in found):
        return [*said, f"None has been trained: lpanas train {place / found[0].name}"]
    return said


def _against_dense(one: Outcome, found: Sequence[Outcome]) -> list[str]:
    dense = found[-1]
    if one is dense or not one.trainings:
        return []
    if one.compared is not None:
        return [f"{one.name} against {dense.name}: {_difference(one.compared)}"]
    why = "the twin has not been trained" if not dense.trainings else "no two with the same seed, text and tokens"
    return [f"{one.name} against {dense.name}: nothing to compare, {why}"]


def _difference(its: Compared) -> str:
    mean, pairs = its.mean_nats, len(its.differences_nats)
    text = f"{mean:+.4f} nats, perplexity {ppl_percent(mean):+.2f} %, after {its.tokens:,} tokens"
    if its.interval is not None:
        low, high = its.interval.ppl_percent
        text += f"; {pairs} seeds, 95 % (t) {low:+.2f} to {high:+.2f} %"
    else:
        text += f"; {'one seed: how much of it is chance is not known' if pairs == 1 else f'{pairs} seeds that do not differ'}"
    if its.speed is not None:
        text += f"; x {its.speed:.3f} its tokens a second"
    return text


def _against_proxy(one: Outcome) -> list[str]:
    if one.proxy is None or not (losses := [training.last[1] for training in one.trainings if training.last]):
        return []
    loss, tokens = one.proxy
    last = f"{min(losses):.4f}" if min(losses) == max(losses) else f"{min(losses):.4f} to {max(losses):.4f}"
    return [f"{one.name}: {last} nats where its proxy had {loss:.4f} after {tokens:,} tokens"]


def _others(one: Outcome) -> list[str]:
    return [f"{folder}: left out, its model is not that of {one.name}" for folder in one.others]
