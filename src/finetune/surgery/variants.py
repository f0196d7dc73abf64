"""A source made ready for training and for evaluation: what of it learns, and a backbone for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.errors import UserError
from finetune.recipe import Lora
from finetune.surgery import freeze
from finetune.surgery.adapters import Adapter, find_adapters
from finetune.surgery.backbone import Backbone, default_feeds, make_backbone, mode_feeds
from finetune.surgery.distance import distances
from finetune.surgery.freeze import Fate
from finetune.surgery.source import Source


@dataclass(frozen=True)
class Variants:
    """The two graphs of a source, for training and for evaluation, and what learns in the first.

    `barriers` are the tensors through which no gradient passes, `fates` has one entry for each variable below the
    cut, and `feeds` are the recipe's with those that a frozen part needs. `adapters` are for frozen variables that
    learn through others.
    """

    barriers: Sequence[str]
    fates: Sequence[Fate]
    feeds: Mapping[str, Any]
    training: Backbone
    evaluation: Backbone
    adapters: tuple[Adapter, ...] = ()

    def moving(self) -> set[str]:
        """The variables that training may change."""
        return {*self.rates(), *(u.variable for u in self.training.updates)}

    def rates(self) -> dict[str, float]:
        """The multiple of the learning rate of each variable that has a gradient."""
        updated = {u.variable for u in self.training.updates}
        # Statistics have none even where a branch that is switched off would have updated them.
        learning = {f.variable.name: f.rate for f in self.fates if f.rate and f.variable.trainable}
        learning = {name: rate for name, rate in learning.items() if name not in updated}
        # A variable that only the graph of the evaluation reads has no gradient, and nothing to learn from.
        return {name: rate for name, rate in learning.items() if name in self.training.graph.nodes}


def make_variants(
    source: Source,
    stop_gradient: bool | list[str],
    learn: Sequence[Sequence[Any]],
    learn_decay: float | None = None,
    lora: Lora | None = None,
) -> Variants:
    """Decides what learns, and makes a graph for each mode.

    Args:
      learn_decay: what is left of the rate at each layer farther from the cut.
      lora: what learns through small matrices; all else that no rule names is then frozen.

    Raises:
      UserError: rules that do not fit the source, feeds that do not fit their tensors.
    """
    barriers = freeze.barriers(source.below, source.cuts, stop_gradient)
    reached = freeze.behind(source.below, source.cuts, barriers)
    live = freeze.live_updates(source.whole, source.below, source.updates, reached)
    lora = lora or Lora()
    rules = [*learn, freeze.THE_REST] if lora.match else learn
    ends = freeze.blocked(source.below, barriers)
    fates = freeze.decide(source.variables, rules, reached, source.updates, live, ends)
    adapters = find_adapters(source.below, fates, source.shapes, reached, lora)
    if adapters:
        unsaid = {freeze.THE_REST[0]} - {pattern for pattern, _ in learn}
        fates = [_as_read(f, adapters, unsaid) for f in fates]
    if learn_decay is not None:
        fates, adapters = _slower(source, fates, adapters, learn_decay)
    learning = {f.variable.name for f in fates if f.rate}
    feeds = {**source.feeds, **default_feeds(source.below, source.feeds, learns=bool(learning))}
    updates = [u for u in source.updates if u.variable in learning]
    parts = (source.whole, source.cuts, source.inputs)
    training = make_backbone(*parts, mode_feeds(feeds, "train"), updates, source.tables)
    if idle := [a.variable for a in adapters if a.variable not in training.graph.nodes]:
        what = f"'{idle[0]}' is only in a branch that the feeds switch off in training"
        raise UserError("recipe", "lora.match", what, "leave it out, or look at source.feeds")
    return Variants(
        barriers,
        fates,
        feeds,
        training=training,
        evaluation=make_backbone(*parts, mode_feeds(feeds, "eval"), tables=source.tables),
        adapters=adapters,
    )


def _as_read(fate: Fate, adapters: Sequence[Adapter], unsaid: Collection[str]) -> Fate:
    """The fate as people read it: what learns through others, and what is frozen by a rule that nobody wrote."""
    rule = None if fate.rule in unsaid else fate.rule
    beside = next((a for a in adapters if a.variable == fate.variable.name), None)
    if beside is not None:
        return replace(fate, rule=rule, why=f"frozen: lora of rank {beside.rank} learns in its place")
    return replace(fate, rule=rule, why="frozen: no rule names it") if fate.rule in unsaid else fate


def _slower(
    source: Source, fates: Sequence[Fate], adapters: Sequence[Adapter], decay: float
) -> tuple[list[Fate], tuple[Adapter, ...]]:
    """Fates and adapters with the rate that their distance from the cut leaves them.

    Statistics, which have no rate of learning, stay as they are.
    """
    if not adapters and not any(f.rate for f in fates):
        what = f"{decay:g} is asked for, but no variable of the source learns"
        raise UserError("recipe", "learn_decay", what, "set stop_gradient to false, or take it back")
    steps = distances(source.below, source.cut, list(source.inputs.values()), fates, source.shapes)
    slower = [
        replace(f, rate=f.rate * decay ** steps[f.variable.name]) if f.variable.trainable and f.rate else f
        for f in fates
    ]
    return slower, tuple(replace(a, rate=decay ** steps[a.variable]) for a in adapters)
