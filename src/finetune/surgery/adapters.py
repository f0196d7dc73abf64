"""Which frozen matrices of the source are to learn through two small ones beside them: LoRA, as far as the graph tells.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": W stays, and W + alpha / rank · A B takes its
place. The graph stays as it is too: variables are arguments of what is compiled from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.errors import UserError, shortlist
from finetune.graph import Graph, consumers
from finetune.names import did_you_mean, node_of
from finetune.reading.variables import PASS_ON, REF_TO_VALUE
from finetune.recipe import Lora
from finetune.surgery.freeze import Fate, carrying

# What applies a matrix -> its rank; a Conv2D kernel [height, width, in, out] is the matrix [height * width * in, out].
APPLIES = {"MatMul": 2, "BatchMatMul": 2, "BatchMatMulV2": 2, "Conv2D": 4}
_HANDED_ON = {*PASS_ON, *REF_TO_VALUE, "Reshape", "Transpose"}
_SIZES = {"Shape", "VariableShape", "Rank", "Size"}


@dataclass(frozen=True)
class Adapter:
    """The two small matrices beside one variable: `a` [rows, rank] and `b` [rank, columns], of its dtype.

    Their product times `scale` is added to the variable; `rate` is their multiple of the learning rate.
    """

    variable: str
    shape: tuple[int, ...]
    dtype: int
    rank: int
    scale: float
    rate: float = 1.0

    @property
    def a(self) -> str:
        """The name of the first matrix, which has a row for each input."""
        return f"lora/{self.variable}/a"

    @property
    def b(self) -> str:
        """The name of the second matrix, which has a column for each output."""
        return f"lora/{self.variable}/b"

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shapes of both by name."""
        return {self.a: (math.prod(self.shape[:-1]), self.rank), self.b: (self.rank, self.shape[-1])}


def find_adapters(
    below: Graph, fates: Sequence[Fate], shapes: Mapping[str, tuple[int, ...]], reached: set[str], lora: Lora
) -> tuple[Adapter, ...]:
    """One for each variable that a pattern of `lora.match` matches.

    Args:
      below: what the cut needs.
      fates: of every variable in it; shapes: of these variables.
      reached: the nodes that a gradient reaches.

    Raises:
      UserError: a pattern that matches nothing; a variable that is no matrix of a MatMul or Conv2D, that learns by
        itself, or that no gradient reaches.
    """
    chosen: dict[str, Fate] = {}
    for number, pattern in enumerate(lora.match):
        where = f"lora.match[{number}]"
        matched = [f for f in fates if re.fullmatch(pattern, f.variable.name)]
        if not matched:
            names = [f.variable.name for f in fates]
            what = f"'{pattern}' matches none of the {len(names)} variables below the cut"
            raise UserError("recipe", where, what, did_you_mean(pattern, names) or "a pattern matches a whole name")
        _check_reached(where, pattern, matched, reached)
        for fate in matched:
            _check(where, below, fate, shapes[fate.variable.name], lora.rank)
            chosen[fate.variable.name] = fate
    found = [
        Adapter(name, tuple(shapes[name]), fate.variable.dtype, lora.rank, lora.alpha / lora.rank)
        for name, fate in chosen.items()
    ]
    if taken := [name for adapter in found for name in adapter.shapes if name in below.nodes]:
        todo = "train that pair without lora; its own matrices are variables like others"
        raise UserError("recipe", "lora", f"the source has '{taken[0]}' below the cut", todo)
    return tuple(found)


def _check_reached(where: str, pattern: str, matched: Sequence[Fate], reached: set[str]) -> None:
    missed = [f for f in matched if f.variable.name not in reached]
    if missed:
        ends = list(dict.fromkeys(barrier for f in missed for barrier in f.barriers))
        past = f" past the barrier {shortlist(ends)}" if ends else ""
        what = (
            f"'{pattern}' asks for lora, but no gradient reaches {shortlist([f.variable.name for f in missed])}{past}"
        )
        raise UserError("recipe", where, what, "set stop_gradient to false, or to a tensor below them")


def _check(where: str, below: Graph, fate: Fate, shape: tuple[int, ...], rank: int) -> None:
    name = fate.variable.name
    size = "×".join(map(str, shape)) or "scalar"
    ops = _applied_by(below, name)
    if {APPLIES.get(op) for op in ops} != {len(shape)}:
        what = f"'{name}' ({size}) is no matrix of a MatMul and no kernel of a Conv2D: {shortlist(ops)} reads it"
        raise UserError("recipe", where, what, "match only those, e.g. '.*/(weights|kernel)'")
    if rank > min(math.prod(shape[:-1]), shape[-1]):
        raise UserError(
            "recipe", "lora.rank", f"{rank} is more than '{name}' ({size}) has", "a rank is small: 4, 8, 16"
        )
    if fate.rate:
        what = f"'{name}' learns by itself: rule {fate.rule!r} of learn gives it rate {fate.rate:g}"
        raise UserError("recipe", where, what, f"give it rate 0: put ['{re.escape(name)}', 0] first in learn")


def _applied_by(below: Graph, name: str) -> list[str]:
    """The ops that a variable's value comes to first, through those that pass it on."""
    readers = consumers(below.nodes)
    found: dict[str, None] = {}
    seen, stack = {name}, [name]
    while stack:
        source = stack.pop()
        for reader in readers.get(source, ()):
            node = below.nodes[reader]
            if source not in map(node_of, carrying(node)) or node.op in _SIZES or reader in seen:
                continue
            if node.op in _HANDED_ON:
                seen.add(reader)
                stack.append(reader)
            else:
                found[node.op] = None
    return sorted(found)
