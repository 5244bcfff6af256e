"""llama-130m dense against other programs, in tokens a second: a stage of tests/benchmarks/gpu.py.

Each is measured beside one that never changes, our own loop without a compiler, in turn, and is alone with it on the device;
what is compared is how many times as fast as that one each is.
"""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import roofline
from contenders import Asked, Contender, Make, compiled_alike, in_turn, interval, ours, toy, training
from kernel_times import attention_kernels, kernel_seconds, parts
from lpanas.lpa.cost import flops_per_token
from lpanas.lpa.kernels import KernelsName
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.equal_time import Ratio
from lpanas.search.presets import named_shape
from others import MODES, Build, hugging_face, litgpt, other
from staged import Rows

PLAIN = "ours, plain"
COMPILED: tuple[KernelsName, ...] = ("regions", "blocks", "model")
OTHERS: dict[str, Build] = {"Hugging Face": hugging_face, "litgpt": litgpt}

Row = dict[str, Any]


class Entrant(NamedTuple):
    """Who takes part."""

    name: str
    cuda_graph: bool
    make: Make

    @property
    def is_ours(self) -> bool:
        """Whether it is none of the peers."""
        return self.name.startswith("ours")


def peers(asked: Asked) -> Rows:
    """First who takes part, then a row each, then ours over the best peer."""
    model = toy() if asked.toy else named_shape("llama-130m", {"context": 1024}, "peers")
    limits = roofline.ceilings(asked.device, asked.toy)
    entrants = planned(model, asked)
    first = {
        "shape": "toy" if asked.toy else "llama-130m",
        "model": model.model_dump(mode="json"),
        "matmul_flops_per_second": limits.flops_per_second,
    }
    first |= {"entrants": [[one.name, one.cuda_graph] for one in entrants]}
    yield first | {"not_installed": [who for who in OTHERS if not is_installed(who)]}
    plain = ours(training(model, batch(asked), asked, kernels="plain"), asked)
    rows = [first]
    for entrant in entrants:
        with compiled_alike():
            row = beside(plain, entrant, asked)
        if "failed" not in row:
            row |= shares(row["tokens_per_second"], model, limits)
        rows.append(row)
        yield row
    yield against_peers(rows)


def batch(asked: Asked) -> int:
    """Sequences a step."""
    return 2 if asked.toy else 16


def is_installed(who: str) -> bool:
    """Whether another program is there."""
    return find_spec({"Hugging Face": "transformers"}.get(who, who)) is not None


def planned(model: ModelConfig, asked: Asked) -> list[Entrant]:
    """What says most comes first: a stage has a limit, and max-autotune takes minutes."""
    config = training(model, batch(asked), asked)
    there = {who: build for who, build in OTHERS.items() if is_installed(who)}

    def mine(kernels: KernelsName, graph: bool) -> Entrant:
        name = f"ours, {kernels}{', CUDA graph' if graph else ''}"
        return Entrant(name, graph, partial(ours, config.change(kernels=kernels, cuda_graph=graph), asked))

    def theirs(who: str, graph: bool, mode: str | None, config: TrainConfig = config) -> Entrant:
        return Entrant(f"{who}, {mode or 'compiled'}", graph, partial(other, there[who], mode, config, asked))

    if asked.toy:
        return [mine("plain", False), *(theirs(who, False, None) for who in there)]
    usual = {graph: modes[0] for graph, modes in MODES.items()}
    most = {graph: modes[1] for graph, modes in MODES.items()}
    both = (False, True)
    found = [one for graph in both for one in (mine("regions", graph), *(theirs(who, graph, usual[graph]) for who in there))]
    found += [mine(kernels, graph) for kernels in COMPILED[1:] for graph in both]
    found += [theirs(who, graph, most[graph]) for who in there for graph in both]
    return [*found, mine("plain", False), mine("plain", True)]


def beside(plain: Contender, entrant: Entrant, asked: Asked) -> Row:
    """What is told of one. plain: what it is measured beside."""
    row: Row = {"name": entrant.name, "cuda_graph": entrant.cuda_graph}
    makers: dict[str, Make] = {"beside": lambda: Contender(plain.step, plain.tokens), "one": entrant.make}
    found = in_turn(makers, asked)
    if failed := found["one"].failed or found["beside"].failed:
        return row | {"failed": failed}
    one, ratio = found["one"], Ratio.of(list(zip(found["one"].taken, found["beside"].taken, strict=True)))
    row |= {"tokens_per_second": one.tokens / one.seconds, "over_plain": ratio.value} | interval(ratio)
    kernels = kernel_seconds(one.step, asked.device)
    row |= {"attention_kernels": attention_kernels(kernels), "seconds": one.seconds, "parts": parts(kernels, one.seconds)}
    return row | {"timed": ratio.pairs, "first_six_steps_seconds": one.first_seconds, "clocks": one.clocks}


def shares(speed: float, model: ModelConfig, limits: roofline.Device) -> Row:
    """Of the rate of large products: what causal attention needs, and with the scores counted in full, as flops_per_token has
    them. speed: tokens a second."""
    times = speed / limits.flops_per_second
    return {
        "share_of_matmul_rate": roofline.causal_flops_per_token(model) * times,
        "share_with_full_scores": flops_per_token(model) * times,
    }


def against_peers(rows: Sequence[Row]) -> Row:
    """The best of ours over the best peer, from the rows of the stage: of all, without CUDA graphs on either side, and with
    them."""
    return {
        name: over_peers(rows, graphs)
        for name, graphs in {"all": (False, True), "without_cuda_graphs": (False,), "with_cuda_graphs": (True,)}.items()
    }


def over_peers(rows: Sequence[Row], graphs: Sequence[bool]) -> Row:
    """value: None with the reason, `why`, where a peer was not measured, or a side is empty; among_measured: whoever ran."""
    kind = [name for name, graph in rows[0]["entrants"] if graph in graphs]
    speeds = {row["name"]: row["over_plain"] for row in rows if row.get("name") in kind and "failed" not in row}
    failed = {row["name"] for row in rows if row.get("name") in kind and "failed" in row}
    theirs = [name for name in kind if not name.startswith("ours")]
    missing = [f"{name}: {'failed' if name in failed else 'not measured'}" for name in theirs if name not in speeds]
    sides = [[speed for name, speed in speeds.items() if name.startswith("ours") == mine] for mine in (True, False)]
    among = max(sides[0]) / max(sides[1]) if all(sides) else None
    if among is None and not missing:
        missing = ["none of ours was measured" if theirs else "there is no peer"]
    return {"value": None if missing else among, "among_measured": among, "why": "; ".join(missing)}
