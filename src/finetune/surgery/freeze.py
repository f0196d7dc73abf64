"""Which variables learn, at what multiple of the rate, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.graph import Graph, data_inputs
from finetune.names import input_ref, node_of
from finetune.reading.variables import Update, Variable
from finetune.surgery.cut import find_tensor

THE_REST = (".*", 0.0)  # a rule that freezes what those before it leave
UNREACHED = "frozen: no gradient reaches it"


@dataclass(frozen=True)
class Fate:
    """What becomes of one variable of the source: `rate` 0 means frozen, and `why` says by what.

    `rule` is the regex that decided; if the variable then cannot learn, that is an error. `barriers` are the tensors
    at which its gradient ends.
    """

    variable: Variable
    rate: float
    why: str
    rule: str | None = None
    barriers: tuple[str, ...] = ()


def barriers(graph: Graph, cuts: Sequence[str], stop_gradient: bool | list[str]) -> list[str]:
    """The tensors through which no gradient passes: True means the cuts, False none.

    Raises:
      UserError: a tensor that the graph does not have.
    """
    if isinstance(stop_gradient, bool):
        return list(cuts) if stop_gradient else []
    return [find_tensor(graph, tensor, "stop_gradient") for tensor in stop_gradient]


def behind(below: Graph, cuts: Sequence[str], stops: Sequence[str]) -> set[str]:
    """The nodes that a gradient from the cuts can reach when it passes through none of `stops`."""
    closed = _refs(stops)
    return {name for cut in cuts if cut not in closed for name in _upwards(below, cut, closed)}


def blocked(below: Graph, stops: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each node, the barriers at which a gradient on its way there ends: the nearest one on every way."""
    found: dict[str, tuple[str, ...]] = {}
    for stop in stops:
        for name in _upwards(below, stop, _refs(stops)) if node_of(stop) in below.nodes else ():
            found[name] = (*found.get(name, ()), stop)
    return found


def _refs(stops: Sequence[str]) -> set[str]:
    return {ref for stop in stops for ref in (stop, input_ref(stop))}


def _upwards(below: Graph, at: str, closed: set[str]) -> set[str]:
    """The nodes that a gradient from a tensor can reach."""
    reached: set[str] = set()
    stack = [node_of(at)]
    while stack:
        name = stack.pop()
        if name not in reached:
            reached.add(name)
            stack.extend(node_of(ref) for ref in carrying(below.nodes[name]) if ref not in closed)
    return reached


def carrying(node: Any) -> list[str]:
    """The inputs through which a gradient may go on: no order, and no predicate of a branch."""
    inputs = data_inputs(node)
    return inputs[:1] if node.op in ("Switch", "RefSwitch") else inputs


def decide(
    variables: Iterable[Variable],
    learn: Sequence[Sequence[Any]],
    reached: set[str],
    updates: Sequence[Update],
    live: set[str],
    ends: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> list[Fate]:
    """The fate of every variable below the cut.

    Args:
      learn: ordered (regex, rate) pairs; the first that matches a whole name counts. Empty: all that can learn do.
      reached: the nodes that a gradient reaches.
      updates: the source's own assignments to its variables.
      live: those of the updated variables whose layer a gradient reaches.
      ends: the barriers at which the gradient of a variable ends, by name.

    Raises:
      UserError: a rule that matches nothing, a rule that a barrier defeats, a variable that no rule covers.
    """
    variables = list(variables)
    updated = {u.variable for u in updates}
    rules = [(str(pattern), float(rate)) for pattern, rate in learn]
    matched: list[list[Fate]] = [[] for _ in rules]
    fates, uncovered = [], []
    for variable in variables:
        place = next((i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, variable.name)), None)
        rule = None if place is None else rules[place]
        can = variable.name in live if variable.name in updated else variable.trainable and variable.name in reached
        if rule is None and rules and can and variable.trainable:
            uncovered.append(variable.name)
        fate = _fate(variable, rule, bool(rules), can, variable.name in updated, ends.get(variable.name, ()))
        fates.append(fate)
        if place is not None:
            matched[place].append(fate)
    for (pattern, rate), decided in zip(rules, matched, strict=True):
        _check_rule(pattern, rate, decided, variables)
    if uncovered:
        raise UserError(
            "recipe",
            "learn",
            f"no rule covers {shortlist(uncovered)}",
            "end learn with ['.*', 0] to freeze the rest, or ['.*', 1] to train it",
        )
    return fates


def _fate(
    variable: Variable,
    rule: tuple[str, float] | None,
    has_rules: bool,
    can: bool,
    is_updated: bool,
    ends: tuple[str, ...],
) -> Fate:
    if not can:
        if (variable.trainable or is_updated) and ends:
            return Fate(variable, 0.0, f"frozen: no gradient passes the barrier {shortlist(list(ends))}", barriers=ends)
        if variable.trainable or is_updated:
            return Fate(variable, 0.0, UNREACHED)
        return Fate(variable, 0.0, "frozen: the source does not train it")
    if rule is None:
        rate = 0.0 if has_rules else 1.0
        return Fate(variable, rate, "frozen: no rule names it" if has_rules else "learns")
    pattern, rate = rule
    return Fate(variable, rate, f"{'learns' if rate else 'frozen'}: rule {pattern!r}", rule=pattern)


def _check_rule(pattern: str, rate: float, fates: list[Fate], variables: list[Variable]) -> None:
    if not any(re.fullmatch(pattern, v.name) for v in variables):
        example = variables[0].name if variables else "none"
        raise UserError(
            "recipe",
            "learn",
            f"the rule {pattern!r} matches none of the {len(variables)} variables below the cut",
            f"a rule matches a whole name, such as {example}",
        )
    if rate and fates and not any(f.rate for f in fates):
        names = shortlist([f.variable.name for f in fates])
        ends = list(dict.fromkeys(barrier for f in fates for barrier in f.barriers))
        past = f" past the barrier {shortlist(ends)}" if ends else ""
        raise UserError(
            "recipe",
            "learn",
            f"{pattern!r} asks for rate {rate:g}, but no gradient reaches {names}{past}",
            "set stop_gradient to false, or to a tensor below them",
        )


def live_updates(whole: Graph, below: Graph, updates: Iterable[Update], reached: set[str]) -> set[str]:
    """The updated variables whose layer a gradient reaches.

    A layer is found from its update: the nodes below the cut that the assigned value is made of. Constants and
    placeholders are not among them, for layers share them.
    """
    computed = {n for n in reached if not below.nodes[n].op.startswith(("Const", "Placeholder"))}
    return {u.variable for u in updates if computed & attached(whole, below, u)}


def attached(whole: Graph, below: Graph, update: Update) -> set[str]:
    """The nodes below the cut that an assigned value is made of, the nearest ones."""
    found: set[str] = set()
    seen: set[str] = set()
    stack = [node_of(r) for r in whole.nodes[update.node].input]
    while stack:
        name = stack.pop()
        if name in below.nodes:
            found.add(name)
        elif name not in seen:
            seen.add(name)
            stack.extend(node_of(r) for r in whole.nodes[name].input)
    return found
