"""A schedule of phases that unfreezes a backbone from the cut downwards, made from the layers of its graph."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.errors import UserError
from finetune.inspecting.layers import Diagram

HIGHEST, LOWEST = 1e-3, 1e-5  # learning rates of the first phase, a new head alone, and of the last


@dataclass(frozen=True)
class Stage:
    """One phase: it ends with the step `last`, None for the end of the run.

    `patterns` are the regexes of what learns beside the head: none of the backbone if there are none, and all of it if
    they are None.
    """

    name: str
    patterns: tuple[str, ...] | None
    learning_rate: float
    last: int | None


def unfreezing(diagram: Diagram, count: int, steps: int) -> list[Stage]:
    """`count` phases of equal length over so many steps: the head, then more and more layers, at last all of them.

    Raises:
      UserError: fewer than two phases, or more than the layers give.
    """
    layers = [[fate.variable.name for fate in box.fates] for box in diagram.boxes]
    layers = [names for box, names in zip(diagram.boxes, layers, strict=True) if _learns(box.fates)]
    if not 2 <= count <= len(layers) + 1:
        what = f"{count} phases, and the cut has {len(layers)} layers with weights below it"
        raise UserError("recipe", "--phases", what, f"write a number from 2 to {len(layers) + 1}")
    stages = []
    for number in range(count):
        frozen = len(layers) - round(len(layers) * number / (count - 1))
        below = {name for names in layers[:frozen] for name in names}
        patterns = _patterns([name for names in layers[frozen:] for name in names], below)
        stages.append(
            Stage(
                name="head" if number == 0 else "all" if not frozen else f"from {_title(layers[frozen])}",
                patterns=None if number and not frozen else patterns,
                learning_rate=HIGHEST * (LOWEST / HIGHEST) ** (number / (count - 1)),
                last=None if number == count - 1 else round(steps * (number + 1) / count),
            )
        )
    return stages


def _learns(fates: Iterable) -> bool:
    return any(fate.variable.trainable for fate in fates)


def _title(names: Sequence[str]) -> str:
    return names[0].rpartition("/")[0] or names[0]


def _patterns(names: Sequence[str], frozen: set[str]) -> tuple[str, ...]:
    """The fewest regexes that match all names and nothing frozen: scopes, as wide as they can be."""
    return tuple(dict.fromkeys(_pattern(name, frozen) for name in names))


def _pattern(name: str, frozen: set[str]) -> str:
    words = name.split("/")
    for length in range(1, len(words)):
        scope = "/".join(words[:length]) + "/"
        if not any(other.startswith(scope) for other in frozen):
            return f"{re.escape(scope)}.*"
    return re.escape(name)


def as_yaml(stages: Sequence[Stage]) -> str:
    """The phases as a recipe has them."""
    lines = ["phases:  # the optimizer starts anew where other variables learn"]
    for stage in stages:
        lines.append(f"  - name: {json.dumps(stage.name)}")
        if stage.last is not None:
            lines.append(f"    until: {{step: {stage.last}}}  # or {{epoch: …}}, or {{plateau: …}} evaluations")
        lines.append(f"    stop_gradient: {json.dumps(stage.patterns == ())}")
        if stage.patterns:
            lines.append("    learn:")
            lines += [f"      - [{json.dumps(pattern)}, 1]" for pattern in stage.patterns]
            lines.append('      - [".*", 0]')
        lines.append(f"    learning_rate: {stage.learning_rate:.2g}")
    return "\n".join(lines) + "\n"
