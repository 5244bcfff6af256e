"""Where low rank sits: a rank, or dense, for each (layer, projection)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import groupby
from typing import Self

from .config import nearest

ATTENTION = ("q", "k", "v", "o")
FFN = ("gate", "up", "down")
PROJECTIONS = ATTENTION + FFN
GROUPS = {"attention": ATTENTION, "ffn": FFN, "both": PROJECTIONS}

Rank = Fraction | None
"""A rank as a fraction of min(d_in, d_out), in (0, 1]; None is dense."""


@cache  # a study of thousands of records repeats the same few
def parse_rank(text: str | float) -> Rank:
    """`dense`, `1/4` or `0.25`. Raises ValueError."""
    if text == "dense":
        return None
    try:
        rank = Fraction(str(text)).limit_denominator(4096)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected 'dense' or a fraction such as 1/4, found '{text}'") from None
    if not 0 < rank <= 1:
        raise ValueError(f"the rank {text} is not between 0 and full rank (1)")
    return rank


def rank_text(rank: Rank) -> str:
    """The text that parse_rank reads back."""
    return "dense" if rank is None else str(rank)


def parse_projections(text: str) -> tuple[str, ...]:
    """`q,k` or a group's name (attention, ffn, both) as projections. Raises ValueError."""
    names: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        if word not in GROUPS and word not in PROJECTIONS:
            raise ValueError(f"unknown projection '{word}', {nearest(word, [*PROJECTIONS, *GROUPS])}")
        names += GROUPS.get(word, (word,))
    if len(set(names)) < len(names):
        raise ValueError(f"'{text}' names a projection twice")
    return tuple(name for name in PROJECTIONS if name in names)


@cache  # a search resolves the same few ranks thousands of times
def resolve_rank(rank: Fraction, d_in: int, d_out: int, multiple: int) -> int:
    """The fraction of min(d_in, d_out) as a rank: the nearest multiple of `multiple`, at least one of them."""
    full = min(d_in, d_out)
    return min(full, max(1, round(rank * full / multiple)) * multiple)


@dataclass(frozen=True)
class Placement:
    """A rank, or dense, for each (layer, projection).

    Its text form lists runs of equal layers: `0-3 q,k,v,o=1/4; 4-11 dense`. It parses back to the same placement.
    """

    layers: tuple[tuple[Rank, ...], ...]
    """(n_layers, 7): a row a layer, in the order of PROJECTIONS."""

    @classmethod
    def from_bands(cls, n_layers: int, bands: Sequence[Mapping[str, Rank]]) -> Self:
        """Equal bands of depth, first to last, each with the ranks of its projections; what is not named is dense.

        Raises ValueError for more bands than layers.
        """
        if len(bands) > n_layers:
            raise ValueError(f"{len(bands)} bands of depth in {n_layers} layers")
        rows = [tuple(band.get(name) for name in PROJECTIONS) for band in bands]
        return cls(tuple(rows[layer * len(rows) // n_layers] for layer in range(n_layers)))

    @classmethod
    def parse(cls, text: str, n_layers: int) -> Self:
        """Read the text form. Layers may be left out where they are all meant: `attention=1/6 gate,up=1/2`.

        Raises ValueError: an unknown projection, a rank above full rank, layers named twice, left out or not there.
        """
        rows: dict[int, tuple[Rank, ...]] = {}
        for part in (part.strip() for part in text.split(";")):
            match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?\s+)?(\S.*)", part)
            if not match:
                raise ValueError(f"expected '0-3 q,k=1/4; 4-11 dense', found '{text}'")
            first = int(match[1] or 0)
            last = int(match[2] or first) if match[1] else n_layers - 1
            if not first <= last < n_layers:
                raise ValueError(f"layers {first}-{last} are not among 0-{n_layers - 1}")
            for layer in range(first, last + 1):
                if layer in rows:
                    raise ValueError(f"layer {layer} is named twice in '{text}'")
                rows[layer] = _parse_row(match[3])
        missing = [layer for layer in range(n_layers) if layer not in rows]
        if missing:
            raise ValueError(f"layer {missing[0]} of {n_layers} is missing in '{text}'")
        return cls(tuple(rows[layer] for layer in range(n_layers)))

    @cached_property
    def alike(self) -> tuple[tuple[int, int], ...]:
        """(first layer, layers) of every run of layers with the same ranks."""
        runs = [[layer for layer, _ in run] for _, run in groupby(enumerate(self.layers), key=lambda item: item[1])]
        return tuple((run[0], len(run)) for run in runs)

    @cached_property
    def text(self) -> str:
        """The canonical text: equal placements have equal texts."""
        parts = []
        for first, count in self.alike:
            span = f"{first}-{first + count - 1}" if count > 1 else str(first)
            parts.append(f"{span} {_row_text(self.layers[first])}")
        return "; ".join(parts)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the canonical text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def sublayers(self) -> str:
        """The sublayers in which any projection is low-rank: attention, ffn, both, or none of them: dense."""
        used = {name for row in self.layers for name, rank in zip(PROJECTIONS, row, strict=True) if rank is not None}
        in_attention, in_ffn = used & set(ATTENTION), used & set(FFN)
        if in_attention and in_ffn:
            return "both"
        return "attention" if in_attention else "ffn" if in_ffn else "dense"

    def without(self, projection: str) -> Self:
        """The same placement with one projection dense in every layer."""
        place = PROJECTIONS.index(projection)
        return type(self)(tuple((*row[:place], None, *row[place + 1 :]) for row in self.layers))

    def rank(self, layer: int, projection: str) -> Rank:
        """The fraction at one place, or None for dense."""
        return self.layers[layer][PROJECTIONS.index(projection)]


@cache  # a study of thousands of records repeats the same rows, layer after layer
def _parse_row(text: str) -> tuple[Rank, ...]:
    ranks: dict[str, Rank] = {}
    if text != "dense":
        for word in text.split():
            names, equals, rank = word.partition("=")
            if not equals:
                raise ValueError(f"expected 'dense' or projections=rank, found '{word}'")
            for name in parse_projections(names):
                if name in ranks:
                    raise ValueError(f"'{text}' names {name} twice")
                ranks[name] = parse_rank(rank)
    return tuple(ranks.get(name) for name in PROJECTIONS)


def _row_text(row: tuple[Rank, ...]) -> str:
    by_rank: dict[Rank, list[str]] = {}
    for name, rank in zip(PROJECTIONS, row, strict=True):
        if rank is not None:
            by_rank.setdefault(rank, []).append(name)
    return " ".join(f"{','.join(names)}={rank_text(rank)}" for rank, names in by_rank.items()) or "dense"
