"""What a search has found, in a few sentences: for its page and for a terminal."""

from collections import Counter

from ..lpa import step_error
from ..lpa.model_config import ModelConfig
from ..lpa.pieces import pieces
from ..lpa.step_table import StepTable, Under
from .budget import ARMS
from .candidate import STEP_SECONDS
from .record import Record
from .results import Results
from .space import Space

WORDS = (
    "A placement such as 0-5 gate,up,down=1/4 says: in layers 0 to 5 these projections have 1/4 of full rank; what is not "
    "named is dense. d_ff: the width of the FFN. Knee: the best balance on the front, the smallest sum of the objectives, each "
    "scaled to [0, 1] over it. Costs are those of the target, losses those of the proxy."
)


def searched(space: Space) -> str:
    """What may vary, what is trained, whose cost counts."""
    ranks = "; ".join(f"{group}: {', '.join(choices)}" for group, choices in space.vary.ranks.items())
    bands = f" in each of {space.vary.bands} bands of depth" if space.vary.bands > 1 else ""
    rest = [(name, getattr(space.vary, name)) for name in ("rebalance", "factor_activation")]
    more = "".join(f", {name} {' or '.join(its)}" for name, its in rest if len(its) > 1)
    proxy, target, dense = space.proxy, space.target.model, space.dense_costs
    return (
        f"Searched: {space.size:,} points, ranks of {ranks}{bands}{more}. "
        f"Proxy: {_shape(proxy.model)}, {proxy.tokens:,} tokens of {proxy.data.name}. "
        f"Target: {_shape(target)}, {dense['params']:,} params when dense. {step_times(space)}".rstrip()
    )


def step_times(space: Space) -> str:
    """What step_seconds are the sum of, how sure that is, and on what it was measured; nothing where they are no cost. A
    confirmation's table, and that of a study that an older version has begun, may lack pieces of any model."""
    if space.step_times is None:
        return ""
    its, dense = space.step_times.under, space.dense_costs.get(STEP_SECONDS)
    has_dense = not space.step_times.lacks(pieces(space.target.model, space.target.model.d_ff))
    sure, noisy = (told(space, space.step_times) if has_dense else "" for told in (_sure, _noisy))
    whole = f" (dense: {dense:.4g} s{sure})" if dense is not None else ""
    return (
        f"step_seconds: a step of {space.target.batch_size} x {its.context} tokens of the target{whole}, the sum of its "
        f"pieces; {len(space.step_times.pieces)} different ones were measured on {measured_on(its)}: microbatch "
        f"{its.microbatch}, {its.precision}, kernels {its.kernels}, {_versions(its)}."
        f"{noisy}{_host_bound(space, space.step_times)}"
    )


def measured_on(its: Under) -> str:
    """The device, in words."""
    threads = f", {its.threads} thread{'s' * (its.threads > 1)}" if its.threads else ""
    return f"{its.device}{threads}"


def _versions(its: Under) -> str:
    named = (("torch", its.torch), ("Triton", its.triton), ("CUDA", its.cuda), ("driver", its.driver))
    return ", ".join(f"{name} {version}" for name, version in named if version)


def _sure(space: Space, table: StepTable) -> str:
    """Behind the dense step's seconds: half of their interval, and of the arms' ratios to them. Raises KeyError."""
    dense, batch = space.target.model, space.target.batch_size
    own = step_error.half(table, dense, dense, batch)
    if own is None:
        return ""
    found = list[float]()
    for target in _timed_arms(space, table).values():
        found += filter(None, [step_error.half_of_ratio(table, target, dense, batch)])
    ratio = f", the arms' ratios to it ± {100 * max(found):.1f} % or less" if found else ""
    return f" ± {100 * own:.1f} %{ratio}: 95 % by the pieces' repetitions alone"


def _timed_arms(space: Space, table: StepTable) -> dict[str, ModelConfig]:
    """The targets of the arms whose pieces a table has all: a confirmation's has those of its own arms alone."""
    targets = {name: space.arm(name).target for name in ARMS}
    return {name: its for name, its in targets.items() if not table.lacks(pieces(its, space.target.model.d_ff))}


def _noisy(space: Space, table: StepTable) -> str:
    """A warning, where a piece's repetitions differed much. Raises KeyError."""
    found = step_error.spread(table, space.target.model, space.target.batch_size)
    if found <= step_error.NOISY:
        return ""
    return (
        f" The machine was noisy: the quartiles of a piece's repetitions lie {100 * found:.0f} % of its time apart on average."
    )


def _host_bound(space: Space, table: StepTable) -> str:
    """The arms in which the GPU waits for the host; nothing where it does in none."""
    dense, found = space.target.model, list[str]()
    for name, target in _timed_arms(space, table).items():
        device, host = table.sums(target, dense.d_ff, space.target.batch_size)
        found += [f"{name} ({host:.3g} s against {device:.3g})"] if host > device else []
    its = "The host takes longer to start the kernels than the GPU to compute them, and its seconds count, in"
    return f" {its} {', '.join(found)}." if found else ""


def _shape(model: ModelConfig) -> str:
    return f"d_model {model.d_model}, {model.n_layers} layers, context {model.context}"


def summary(found: Results) -> list[str]:
    """The winner, in a sentence, and the arms, in another."""
    return [winner(found), *filter(None, [_arms(found)])]


def winner(found: Results) -> str:
    """Which it is, what it loses and costs, and what cannot be told from it."""
    best = found.winner
    if best is None:
        return "No candidate within the limits has a loss: there is no winner."
    tied = len(found.tied(best))
    told = "" if found.noise is None else f"; {_count(tied, 'other candidate')} cannot be told from it by loss"
    return (
        f"The winner, {found.winner_words}, is {best.run} ({best.placement}; d_ff {best.target.d_ff}): "
        f"{best.loss_nats:.4f} nats{_against(found, best)}, {costs(found, best)}{told}."
    )


def _arms(found: Results) -> str:
    """The arms against the dense one, in the order in which they are run."""
    arms = [found.arms[name] for name in ARMS if name in found.arms]
    told = [f"{one.arm} {_arm(found, one)}" for one in arms]
    return f"Of the reference arms: {'; '.join(told)}." if told else ""


def _arm(found: Results, record: Record) -> str:
    if record.loss_nats is None:
        return record.status
    if record.arm == "dense":
        return f"{record.loss_nats:.4f} nats"
    return f"{record.loss_nats:.4f} nats{_against(found, record)}, {costs(found, record)}"


def costs(found: Results, record: Record) -> str:
    """Each cost as a share of the dense target's."""
    return ", ".join(f"{found.relative(record, name):.3f} x dense in {name}" for name in found.costs)


def _against(found: Results, record: Record) -> str:
    delta, word = found.delta(record), found.against_dense(record)
    if delta is None or record.arm == "dense":
        return ""
    return f" ({delta:+.4f} against dense: {word})" if word != "unknown" else f" ({delta:+.4f} against dense)"


def belief(found: Results) -> str:
    """How far single runs of the proxy can be believed."""
    noise = found.noise
    if noise is None:
        return "The noise of this proxy was not measured: fewer than two seeds of the dense arm have ended well."
    return (
        f"The smallest difference that single runs of this proxy resolve is {noise.resolvable_nats:.3f} nats "
        f"(t(0.975, {noise.n - 1}) sqrt(2) x the standard deviation {noise.std_nats:.4f} of {noise.n} seeds of the dense arm); "
        f"what lies closer together is tied.{_nothing_told(found)}"
    )


def _nothing_told(found: Results) -> str:
    """That a search has told no candidate from another by its loss, if it has not."""
    losses = [one.loss_nats for one in found.complete if one.loss_nats is not None]
    if found.noise is None or len(losses) < 2 or max(losses) - min(losses) > found.noise.resolvable_nats:
        return ""
    return " That is all of them here: this search tells no candidate from another by its loss. More tokens or seeds would."


def ended(found: Results) -> str:
    """How many runs there were, and how they ended."""
    counts = Counter(str(record.status) for record in found.records)
    again = sum(record.continues is not None for record in found.records)
    words = {"complete": "trained to the end", "pruned": "stopped at a rung", "diverged": "diverged", "failed": "failed"}
    told = [f"{counts[status]:,} {word}" for status, word in words.items() if counts[status] or status == "complete"]
    told += [f"{again:,} of those that were stopped taken up again"] if again else []
    seeds = f"; {_count(len(found.seeds), 'further seed')} of the dense arm" if found.seeds else ""
    runs = _count(len(found.records), "run")
    return f"{runs} of candidates: {', '.join(told)}{seeds}; {found.tokens:,} training tokens in all."


def early(found: Results) -> str:
    """Why a search that has found no other candidate to train has fewer than its trials; nothing where it has them all."""
    space, runs = found.space, len(found.records)
    if runs >= space.search.trials:
        return ""
    limits = ", ".join(f"{name} at most {limit}" for name, limit in space.limits.items())
    within = f"keeps to the limits ({limits}) and " if limits else ""
    return f"It ended at {runs:,} of {space.search.trials:,} trials: no candidate is left that {within}was not trained."


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
