"""What a reader of an exported config should mind: what does not hold of its target, as sentences."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..lpa.model_config import ModelConfig
from ..lpa.shards import META
from ..lpa.sources import DataConfig
from ..lpa.tokenizer import BYTE_VOCAB
from ..lpa.train_config import TrainConfig
from .space import Space

USED = 0.5
"""Of a model's vocabulary: a tokenizer with less of it leaves most rows untrained (assumption)."""


def caveats(space: Space, config: TrainConfig, shape: str | None, has_ladder: bool) -> list[str]:
    """Of a training at a target. space: with that target; shape: its name, None for the space's own; has_ladder: whether the
    evidence tells of sizes."""
    return [*_ladder(shape, has_ladder), *_limits(space, config.model, shape), *_vocabulary(config)]


def _ladder(shape: str | None, has_ladder: bool) -> Iterator[str]:
    if shape and has_ladder:
        yield f"The target that the ladder speaks of is the space's, not {shape}."


def _limits(space: Space, model: ModelConfig, shape: str | None) -> Iterator[str]:
    """Of a named shape those limits alone that are relative: the others were meant for the space's target."""
    broken = [name for name in space.broken(space.costs(model)) if not shape or "dense" in space.limits[name]]
    if broken:
        where = f" at {shape}" if shape else ""
        yield f"Above the limits of the space{where}: {', '.join(broken)}."


def _vocabulary(config: TrainConfig) -> Iterator[str]:
    tokens, model = vocabulary(config.data), config.model
    if tokens is None or tokens >= USED * model.vocab_size:
        return
    unused = (model.vocab_size - tokens) * model.d_model * (1 if model.tie_embeddings else 2)
    yield (
        f"The data's tokenizer has {tokens:,} tokens, the model's vocab_size is {model.vocab_size:,}: {unused:,} of the "
        "parameters in embedding and head are of tokens that never occur, though `tokens` and the costs count them. Another "
        "tokenizer in `data`, or a smaller model.vocab_size, would mend that."
    )


def vocabulary(data: DataConfig) -> int | None:
    """Tokens that a source may have, where that is quickly said; None for files that cannot be read."""
    try:
        if data.source == "shards":
            return int(_object(Path(data.shards or "").expanduser() / META).get("vocab_size", BYTE_VOCAB))
        if data.tokenizer in ("bytes", "bpe"):
            return data.vocab_size or BYTE_VOCAB
        return _of_tokenizer(_object(Path(data.tokenizer).expanduser()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise TypeError(path)
    return found


def _of_tokenizer(rules: dict[str, Any]) -> int:
    """One more than the largest id; a Unigram's vocabulary is a list."""
    known = rules["model"]["vocab"]
    ids = range(len(known)) if isinstance(known, list) else known.values()
    return max([*ids, *(one["id"] for one in rules.get("added_tokens", []))]) + 1
