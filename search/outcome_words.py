"""What exported configs came to, in words."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .outcomes import Compared, Outcome, Proxy, Training
from .statistics import ppl_percent


def sentences(found: Sequence[Outcome], place: Path) -> list[str]:
    """Of each config against its dense twin and against its proxy, what cannot be compared, and what to do next."""
    each = (_against_dense, _unpaired, _against_proxy, _others, _mistakes)
    said = [line for one in found for words in each for line in words(one, found)]
    good = [one.name for one in found if not one.mistakes]
    if good and not any(one.trainings for one in found):
        said.append(f"None has been trained: lpanas train {place / good[0]}")
    return said


def _against_dense(one: Outcome, found: Sequence[Outcome]) -> list[str]:
    dense = found[-1]
    if one is dense or not one.trainings:
        return []
    if one.compared is not None:
        repeated = ", ".join(map(str, one.repeated))
        left_out = (
            [f"{one.name}: one pair a seed is compared, the one that has come furthest; not {repeated}"] if repeated else []
        )
        return [f"{one.name} against {dense.name}: {_difference(one.compared)}", *left_out]
    untrained = "its config cannot be read" if dense.mistakes else "the twin has not been trained"
    why = "no two with the same seed, text and tokens" if dense.trainings else untrained
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
    if its.unlike is not None:
        own, twin = (", then ".join(one) or "what its log does not say" for one in its.unlike)
        known = f"; ran on {own}, the twin on {twin}: speeds are not compared"
        text += known if any(its.unlike) else "; speeds are not compared: the logs do not say what they were measured on"
    return text


def _unpaired(one: Outcome, found: Sequence[Outcome]) -> list[str]:
    """What is left out of a comparison, and why."""
    twin, said = found[-1].name, list[str]()
    for its in one.unpaired:
        seed, folder = its.training.config.seed, its.training.folder
        verb = "differs" if len(its.keys) == 1 else "differ"
        why = f"{_and(its.keys)} {verb} from the twin's" if its.keys else f"{twin} has not been trained with it"
        said.append(f"{one.name} seed {seed}: left out, {why} ({folder})")
    return said


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _against_proxy(one: Outcome, _: Sequence[Outcome]) -> list[str]:
    if one.proxy is None:
        return []
    ended = [training for training in one.trainings if training.last]
    its = [training for training in ended if one.proxy.has_tokens_of(training)]
    others = ", ".join(str(training.folder) for training in ended if training not in its)
    told = [_beside_proxy(one.name, its, one.proxy)] if its else []
    if others:
        told.append(f"{one.name}: not compared with its proxy, whose text or tokens are not known to be the same: {others}")
    return told


def _beside_proxy(name: str, its: Sequence[Training], proxy: Proxy) -> str:
    losses = [training.last[1] for training in its if training.last]
    last = f"{min(losses):.4f}" if min(losses) == max(losses) else f"{min(losses):.4f} to {max(losses):.4f}"
    text = f"{name}: {last} nats where its proxy had {proxy.loss_nats:.4f} after {proxy.tokens:,} tokens"
    context, valid = {one.config.model.context for one in its}, {one.config.data.valid_tokens for one in its}
    unlike = [f"a context of {_list(context)}, its {proxy.context}"] if context != {proxy.context} else []
    if proxy.data is not None and valid != {proxy.data.valid_tokens}:
        unlike.append(f"up to {_list(valid)} tokens of validation, its {proxy.data.valid_tokens:,}")
    return f"{text} (roughly: {'; '.join(unlike)})" if unlike else text


def _list(counts: Iterable[int]) -> str:
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _others(one: Outcome, _: Sequence[Outcome]) -> list[str]:
    return [f"{folder}: left out, its model is not that of {one.name}" for folder in one.others]


def _mistakes(one: Outcome, _: Sequence[Outcome]) -> list[str]:
    return [f"{one.name}: left out: {line}" for line in one.mistakes]
