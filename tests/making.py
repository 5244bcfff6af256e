"""A space, jobs and records so small that a test can follow them by hand."""

import signal
from collections.abc import Callable

from lpanas.lpa.config import override, parse_yaml
from lpanas.search.candidate import Candidate
from lpanas.search.presets import parse_space
from lpanas.search.record import Job, Measured, Record
from lpanas.search.space import Space

Call = Callable[..., tuple[int, str, str]]
"""The command line: words -> exit code, standard output, standard error."""

TINY = """
name: tiny
proxy:
  model: {vocab_size: 264, d_model: 16, d_ff: 48, n_heads: 2, n_layers: 2, context: 16, rank_multiple: 2}
  optim: {lr: 1e-2}
  tokens: 640
  batch_size: 4
  evals: 2
  device: cpu
target:
  model: {vocab_size: 264, d_model: 64, d_ff: 192, n_heads: 2, n_layers: 4, context: 32, rank_multiple: 4, ffn_multiple: 4}
  microbatch: 4
  batch_size: 8
vary:
  ranks: {attention: [dense, 1/4], ffn: [dense, 1/2, 1/4]}
arms: {attention: 1/4, ffn: 1/2}
search: {trials: 6, noise_seeds: 2, workers: 1}
"""


def hear_interrupts() -> None:
    """A child of a background job would ignore Ctrl-C, and one under nohup the end of its terminal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def tiny_space(*settings: str) -> Space:
    return parse_space(override(parse_yaml(TINY, "tiny.yaml"), settings), "tiny.yaml")


def point(attention: str = "dense", ffn: str = "dense", rebalance: str = "none") -> dict[str, str]:
    return {"rank attention": attention, "rank ffn": ffn, "rebalance": rebalance, "factor_activation": "none"}


BANDED = {
    "rank attention band 0": "1/4",
    "rank attention band 1": "dense",
    "rank ffn band 0": "dense",
    "rank ffn band 1": "1/2",
    "rebalance": "none",
    "factor_activation": "none",
}
"""A point of the tiny space with two bands of depth."""


def job(candidate: Candidate, run: str = "trial-0", arm: str | None = None, seed: int = 0) -> Job:
    return Job(
        run=run,
        arm=arm,
        params=candidate.params,
        seed=seed,
        model=candidate.proxy,
        target=candidate.target,
        costs=candidate.costs,
        feasible=candidate.feasible,
    )


def ended(job: Job, loss: float | None = None, status: str | None = None, reason: str = "") -> Record:
    """The record of a job: complete with a loss, failed without one."""
    fields = {name: getattr(job, name) for name in Job.model_fields}
    measured = Measured(device="cpu", started=1e9, seconds=2.0, train_seconds=1.0, peak_memory_bytes=10**8)
    complete = loss is not None
    return Record(
        **fields,
        status=status or ("complete" if complete else "failed"),
        reason=reason,
        loss_nats=loss,
        bits_per_byte=loss,
        tokens=640 if complete else 0,
        curve=((320, loss + 1), (640, loss)) if loss is not None else (),
        measured=measured if complete else None,
    )


def record(number: int, loss: float | None, flops: int, arm: str | None = None, **changes: object) -> Record:
    """A record of a tiny space whose cost is made up."""
    made = ended(job(tiny_space().candidate(point("1/4")), f"trial-{number}", arm), loss)
    return made.change(costs={"flops_per_token": flops, "params": flops, "memory_bytes": flops}, **changes)


def arm_records(space: Space, *losses: float | None) -> list[Record]:
    """Records of the first reference arms, dense first."""
    names = ("dense", "attention", "ffn", "both")
    return [ended(job(space.arm(names[n]), f"trial-{n}", names[n]), loss) for n, loss in enumerate(losses)]


def same(record: Record) -> Record:
    """A record without what may differ between two runs of one seed."""
    return record.change(measured=None)


def plain(records):
    return list(map(same, records))


def stop_at(done):
    def watch(state):
        if state.done >= done:
            raise KeyboardInterrupt

    return watch
