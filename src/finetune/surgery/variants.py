"""A source made ready for training and for evaluation: what of it learns, and a backbone for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.surgery import freeze
from finetune.surgery.backbone import Backbone, default_feeds, make_backbone, mode_feeds
from finetune.surgery.freeze import Fate
from finetune.surgery.source import Source


@dataclass(frozen=True)
class Variants:
    """The two graphs of a source, for training and for evaluation, and what learns in the first.

    `barriers` are the tensors through which no gradient passes, `fates` has one entry for each variable below the
    cut, and `feeds` are the recipe's with those that a frozen part needs.
    """

    barriers: Sequence[str]
    fates: Sequence[Fate]
    feeds: Mapping[str, Any]
    training: Backbone
    evaluation: Backbone

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


def make_variants(source: Source, stop_gradient: bool | list[str], learn: Sequence[Sequence[Any]]) -> Variants:
    """Decides what learns, and makes a graph for each mode.

    Raises:
      UserError: rules that do not fit the source, feeds that do not fit their tensors.
    """
    barriers = freeze.barriers(source.below, source.cut, stop_gradient)
    reached = freeze.behind(source.below, source.cut, barriers)
    live = freeze.live_updates(source.whole, source.below, source.updates, reached)
    fates = freeze.decide(
        source.variables, learn, reached, source.updates, live, freeze.blocked(source.below, barriers)
    )
    learning = {f.variable.name for f in fates if f.rate}
    feeds = {**source.feeds, **default_feeds(source.below, source.feeds, learns=bool(learning))}
    updates = [u for u in source.updates if u.variable in learning]
    parts = (source.whole, source.cut, source.inputs)
    return Variants(
        barriers,
        fates,
        feeds,
        training=make_backbone(*parts, mode_feeds(feeds, "train"), updates, source.tables),
        evaluation=make_backbone(*parts, mode_feeds(feeds, "eval"), tables=source.tables),
    )
