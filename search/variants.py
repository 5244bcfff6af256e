"""The arms of a confirmation as models: at each size, matched with the dense arm, and with the controls' changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from typing import Any

from pydantic import ValidationError

from ..lpa.config import UserError, first_mistake
from ..lpa.cost import Rebalance, body_params, flops_per_token, rebalance
from ..lpa.model_config import ModelConfig
from ..lpa.placement import Placement
from ..lpa.train_config import TrainConfig
from .budget import ARMS, Listed
from .protocol import WITHIN, Control, Match, Size, missed
from .record import Recipe, Record, trained
from .space import Space, rank_key

WARMUP = 0.05
"""Of the steps, in the control of a proxy that has no warm-up (assumption: the presets' share)."""
MEASURES: dict[str, Callable[[ModelConfig], int]] = {"params": body_params, "flops": flops_per_token}
STEP_SECONDS: Match = "step_seconds"
RULES: dict[str, Rebalance] = {"width": "none", "params": "params", "flops": "flops"}


@dataclass(frozen=True, eq=False)
class Variant:
    """An arm at a match and a size, or a control's version of it."""

    size: str
    arm: str
    match: Match
    control: Control | None
    model: ModelConfig
    """What is trained."""
    target: ModelConfig
    """The same at the space's target."""
    recipe: Recipe
    """How, at the proxy's own learning rate."""

    @property
    def name(self) -> str:
        """In words, within its size."""
        warmup = self.recipe.optim.warmup_share
        words = {
            "scaled": "attention scaled by 1/√3",
            "init": "authors' initialisation" if self.model.init == "lpa" else "matched initialisation",
            "warmup": f"warm-up of {warmup:.0%}" if warmup else "no warm-up",
        }
        return f"{self.arm}, {words[self.control]}" if self.control else f"{self.arm} at equal {self.match}"

    @property
    def tokens(self) -> int:
        """Training tokens of a run, in whole steps."""
        step = self.recipe.batch_size * self.model.context
        return -(-self.recipe.tokens // step) * step

    def at(self, factor: float) -> Recipe:
        """How it is trained at so many times the proxy's learning rate."""
        optim = self.recipe.optim
        return self.recipe.change(optim=optim.change(lr=optim.lr * factor))

    def trained(self, factor: float) -> str:
        """What is trained at so many times the proxy's learning rate, as text."""
        if factor not in self._texts:
            self._texts[factor] = trained(self.model, self.at(factor))
        return self._texts[factor]

    @cached_property
    def _texts(self) -> dict[float, str]:
        return {}


Widths = Mapping[str, int]
"""By arm: the FFN's width at which the target's step takes as long as the dense one's, as it was measured."""


def placements(space: Space) -> dict[str, Listed]:
    """The arms by name; without the winner when nobody has said what it is."""
    named = {name: _arm(space, name) for name in ARMS} | space.confirm.placements
    return {name: named[name] for name in space.confirm.arms if name in named}


def as_listed(space: Space, record: Record) -> Listed:
    """A candidate's placement in the words in which one asks for it."""
    if record.listed is not None:
        return record.listed
    if record.arm is not None:
        return _arm(space, record.arm)
    params, bands = record.params, range(space.vary.bands)
    ranks = {group: tuple(params[rank_key(group, band, len(bands))] for band in bands) for group in space.vary.ranks}
    rules = {name: params[name] for name in ("rebalance", "factor_activation")}
    return Listed.parse({"ranks": ranks, **rules}, record.run)


def _arm(space: Space, name: str) -> Listed:
    ranks = {"attention": (space.arms.attention,), "ffn": (space.arms.ffn,)}
    return Listed(ranks={group: its for group, its in ranks.items() if name in (group, "both")})


def low_rank_targets(space: Space) -> dict[str, ModelConfig]:
    """The target with the placement of each low-rank arm, as wide as the dense one. Raises UserError."""
    found = dict[str, ModelConfig]()
    for arm, listed in placements(space).items():
        try:
            placed = _placed(space.target.model, listed)
        except ValidationError as error:
            raise UserError(f"confirm: {arm} at the target: {first_mistake(ModelConfig, error)}") from None
        except ValueError as error:
            raise UserError(f"confirm: {arm} at the target: {error}") from None
        if placed.placement.sublayers != "dense":
            found[arm] = placed
    return found


def guesses(space: Space) -> Mapping[str, int]:
    """Widths that stand in for the measured ones when a protocol is looked at beforehand: those of equal FLOPs. Nothing where
    the protocol asks for none. Raises UserError."""
    if STEP_SECONDS not in space.confirm.matches:
        return {}
    return {arm: rebalance(placed, "flops").d_ff for arm, placed in low_rank_targets(space).items()}


def variants(space: Space, widths: Widths) -> list[Variant]:
    """All that is trained: a size after the other, the controls of each at its end. Raises UserError for a size that cannot
    be, or is no larger than the one before it, an arm that cannot be matched, and a comparison of two arms that are one
    model."""
    found = list[Variant]()
    _check_ladder(space)
    for size in sizes(space):
        config = sized(space, size)
        for match in space.confirm.matches:
            for arm, listed in placements(space).items():
                found.append(_variant(space, size.name, config, arm, listed, match, widths))
        here = [one for one in found if one.size == size.name]
        _check_differ(space, here)
        found += _controls(space, here)
    return found


def _check_ladder(space: Space) -> None:
    """Raises UserError for sizes that do not grow, by the training FLOPs of a dense run."""
    configs = [(size.name, sized(space, size)) for size in sizes(space)]
    flops = [(name, one.steps * one.batch_tokens * flops_per_token(one.model)) for name, one in configs]
    for (small, least), (large, most) in pairwise(flops):
        if most <= least:
            raise UserError(
                f"confirm.sizes: smallest first, but a run of '{large}' has {most:.3g} training FLOPs and one of '{small}' "
                f"{least:.3g}"
            )


def _check_differ(space: Space, of: Sequence[Variant]) -> None:
    """Raises UserError for a part of the claim that compares the same ranks, as seeds would never settle it."""
    arms = {(one.arm, one.match): one for one in of}
    for match, one in product(space.confirm.matches, space.confirm.versus("claim")):
        a, b = arms.get((one.a, match)), arms.get((one.b, match))
        if a and b and _resolved(a.model) == _resolved(b.model):
            ranks = a.model.ranks_text or "dense"
            raise UserError(f"confirm.claim: '{one.text}' at equal {match} and size '{a.size}': both are one model, {ranks}")


def _resolved(model: ModelConfig) -> tuple[object, ...]:
    """What is built, whatever fractions it was asked for by."""
    ranks = tuple(model.rank(layer, name) for layer in range(model.n_layers) for name in model.projections)
    return model.d_ff, ranks, model.factor_activation if any(ranks) else None


def sizes(space: Space) -> Sequence[Size]:
    """The ladder, or the proxy alone."""
    return space.confirm.sizes or (Size(name="proxy"),)


def sized(space: Space, size: Size) -> TrainConfig:
    """The training of the dense arm at a size. Raises UserError."""
    proxy = space.proxy
    where = f"confirm.sizes '{size.name}'"
    base = proxy.optim.lr_base_width or proxy.model.d_model
    if "placement" in size.model:
        raise UserError(f"{where}: model.placement: the arms fill it in, found '{size.model['placement']}'")
    try:
        model = proxy.model.change(**size.model | {"placement": "dense"})
    except ValidationError as error:
        raise UserError(f"{where}: model.{first_mistake(ModelConfig, error)}") from None
    try:
        batch = size.batch_size or proxy.batch_size
        micro = size.microbatch or (proxy.microbatch if size.batch_size is None else None)
        return proxy.change(
            model=model,
            tokens=size.tokens or proxy.tokens,
            batch_size=batch,
            microbatch=micro,
            optim=proxy.optim.change(lr_base_width=base),
        )
    except ValidationError as error:
        raise UserError(f"{where}: {first_mistake(TrainConfig, error)}") from None


def _variant(space: Space, size: str, config: TrainConfig, arm: str, listed: Listed, match: Match, widths: Widths) -> Variant:
    where = "the target"
    try:
        target = _target(space.target.model, arm, listed, match, widths)
        where = f"size '{size}'"
        share = target.d_ff / space.target.model.d_ff
        model = matched(_placed(config.model, listed), match, share)
    except ValidationError as error:
        raise UserError(f"confirm: {arm} at equal {match} and {where}: {first_mistake(ModelConfig, error)}") from None
    except ValueError as error:
        raise UserError(f"confirm: {arm} at equal {match} and {where}: {error}") from None
    recipe = Recipe(optim=config.optim, tokens=config.tokens, batch_size=config.batch_size, microbatch=config.microbatch)
    return Variant(size, arm, match, None, model, target, recipe)


def _placed(dense: ModelConfig, listed: Listed) -> ModelConfig:
    """A shape with a placement. Raises ValueError."""
    placement = Placement.from_bands(dense.n_layers, listed.bands)
    if placement.sublayers == "dense":
        return dense
    return dense.change(placement=placement, factor_activation=listed.factor_activation)


def _target(dense: ModelConfig, arm: str, listed: Listed, match: Match, widths: Widths) -> ModelConfig:
    placed = _placed(dense, listed)
    if match != "step_seconds":
        return rebalance(placed, RULES[match])
    return placed.change(d_ff=widths[arm]) if placed.placement.sublayers != "dense" else placed


def matched(placed: ModelConfig, match: Match, share: float = 1.0) -> ModelConfig:
    """A low-rank model that costs what its dense twin does: with the nearest width of the FFN. Raises ValueError when no width
    comes within WITHIN of it.

    share: the target's width over the dense one's. Equal step_seconds carries it here, and so means that a step of the *target*
    takes as long as the dense one's, on the device where it was measured; a proxy's own step may take longer or shorter. The
    share is met to half a column of the FFN. Raises ValueError, too, when the model cannot be so narrow.
    """
    if match == "width" or placed.placement.sublayers == "dense":
        return placed
    if match == "step_seconds":
        return _carried(placed, share)
    measure = MEASURES[match]
    budget, best = measure(placed.dense()), rebalance(placed.change(ffn_multiple=1), RULES[match])
    near = [best, *_wider(best)]
    best = min(near, key=lambda model: abs(measure(model) - budget))
    off = measure(best) / budget - 1
    if abs(off) > WITHIN:
        raise ValueError(missed(best.d_ff, off, match))
    return best


def _carried(placed: ModelConfig, share: float) -> ModelConfig:
    """The model with so many times its width. Raises ValueError."""
    d_ff = round(placed.d_ff * share)
    try:
        return placed.change(d_ff=d_ff)
    except ValidationError as error:
        raise ValueError(f"{share:.3f} x d_ff {placed.d_ff}, as at the target: {first_mistake(ModelConfig, error)}") from None


def _wider(model: ModelConfig) -> list[ModelConfig]:
    """The model with the next column of the FFN, where its ranks save something there."""
    wide = model.wide(model.d_ff + 1)
    return [] if wide is None else [wide]


def _controls(space: Space, of: Sequence[Variant]) -> list[Variant]:
    """The controls of a size, at the first match."""
    first = {one.arm: one for one in of if one.match == space.confirm.matches[0]}
    found = list[Variant]()
    for control in space.confirm.controls:
        if control == "scaled" and first["dense"].model.init != "matched":
            continue  # it would differ in all other weights, too
        for arm in ("dense",) if control == "scaled" else ("dense", "attention"):
            one = first[arm]
            changes: dict[str, Any] = {"control": control}
            if control == "warmup":
                warmup = 0.0 if one.recipe.optim.warmup_share else WARMUP
                changes["recipe"] = one.recipe.change(optim=one.recipe.optim.change(warmup_share=warmup))
            else:
                init = "scaled" if control == "scaled" else "matched" if one.model.init == "lpa" else "lpa"
                changes |= {"model": one.model.change(init=init), "target": one.target.change(init=init)}
            found.append(replace(one, **changes))
    return found
