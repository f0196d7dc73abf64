"""Settling variables with a checkpoint: which tensor each of them starts from; nothing is ever half loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.graph import DTYPES, Graph
from finetune.names import did_you_mean
from finetune.protos import DataType
from finetune.reading import initial, renaming
from finetune.reading.index import Entry
from finetune.reading.slices import piece_shape_of
from finetune.reading.variables import AVERAGE, Variable

_MOST_VALUES = 2**31  # of one variable that starts anew
_SAME_MODEL = "are .meta and checkpoint of the same model?"


@dataclass(frozen=True)
class Wishes:
    """What a recipe says about a source's checkpoint; finetune.recipe says what the words mean."""

    rename: Sequence[Sequence[str]] = ()
    averages: bool = False
    allow_missing: Sequence[str] = ()


AS_SAVED = Wishes()


@dataclass(frozen=True)
class Settled:
    """Where every variable below the cut starts.

    `keys` are the keys of those that the checkpoint has. `averaged` are those of them that start from their moving
    averages. `missing` are the others, each with the constant of its own initialiser, None if it has none.
    """

    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    averaged: frozenset[str]
    missing: Mapping[str, np.ndarray | None]


def settle(
    meta: Any,
    whole: Graph,
    variables: Sequence[Variable],
    entries: Mapping[str, Entry],
    prefix: str,
    wishes: Wishes,
) -> Settled:
    """Finds every variable in the checkpoint, or what it starts from instead.

    Raises:
      UserError: there is no variable; the checkpoint lacks one that it may not lack, or has it in another shape or
        dtype; a rule that matches nothing; averages where there are none.
    """
    if not variables:
        raise UserError("source", "cut", "there is no variable below the cut", "choose a cut further up")
    keys = renaming.renamed(variables, wishes.rename)
    averages = averages_of(variables, keys, entries) if wishes.averages else {}
    if wishes.averages and not averages:
        what = f"there is no moving average of any of the {len(variables)} variables below the cut in {prefix}"
        raise UserError("source", "source.weights", what, "source.weights=saved takes the variables themselves")
    keys |= averages
    found = {v.name: keys[v.name] for v in variables if keys[v.name] in entries}
    missing = [v for v in variables if v.name not in found]
    allowed = _allowed(variables, wishes.allow_missing)
    refused = [v for v in missing if v.name not in allowed]
    if refused:
        raise _lacking(refused, variables, keys, entries, prefix, wishes)
    shapes = {
        v.name: _stored(v, found[v.name], entries, prefix) if v.name in found else _declared(v) for v in variables
    }
    stated = initial.constants(meta, whole, missing)
    return Settled(found, shapes, frozenset(averages), {v.name: stated.get(v.name) for v in missing})


def _allowed(variables: Sequence[Variable], patterns: Sequence[str]) -> set[str]:
    allowed: set[str] = set()
    for pattern in patterns:
        named = {v.name for v in variables if re.fullmatch(pattern, v.name)}
        if not named:
            what = f"the rule {pattern!r} matches none of the {len(variables)} variables below the cut"
            example = f"a rule matches a whole name, such as {variables[0].name}"
            raise UserError("recipe", "source.allow_missing", what, example)
        allowed |= named
    return allowed


def averages_of(variables: Sequence[Variable], keys: Mapping[str, str], entries: Mapping[str, Entry]) -> dict[str, str]:
    """Variable -> the key of its moving average.

    An `ExponentialMovingAverage` puts its name behind the variable's, and the scope that it was called in before it.
    """
    shadows: dict[str, list[str]] = {}
    for key in entries:
        if AVERAGE.search(key):
            shadows.setdefault(AVERAGE.sub("", key), []).append(key)
    scoped = [of for of in shadows if of not in entries]  # otherwise it is the average of that other variable
    found = {}
    for variable in variables:
        key = keys[variable.name]
        near = shadows.get(key) or [s for of in scoped if of.endswith(f"/{key}") for s in shadows[of]]
        fitting = [s for s in near if renaming.is_like(variable, entries[s])]
        if len(fitting) == 1 or (fitting and key in shadows):
            found[variable.name] = fitting[0]
    return found


def _lacking(
    missing: Sequence[Variable],
    variables: Sequence[Variable],
    keys: Mapping[str, str],
    entries: Mapping[str, Entry],
    prefix: str,
    wishes: Wishes,
) -> UserError:
    """The error for variables that the checkpoint lacks, with what would find the most of them."""
    absent = [keys[v.name] for v in missing]
    what = f"the checkpoint lacks {shortlist(absent)}: {len(missing)} of {len(variables)} variables below the cut"
    averages = averages_of(variables, keys, entries)
    rules = renaming.propose(variables, keys, entries)
    if averages.keys() >= {v.name for v in missing} and not wishes.averages:
        count = renaming.count_found(variables, {**keys, **averages}, entries)
        todo = f"source.weights=averages would find {count} of {len(variables)}"
    elif rules:
        count = renaming.count_found(variables, renaming.applied(keys, rules), entries)
        todo = f"{renaming.as_override([*wishes.rename, *rules])} would find {count} of {len(variables)}"
    else:
        todo = did_you_mean(absent[0], entries) or "is this the checkpoint of this graph?"
    more = [f"  all of them: python -m finetune inspect {prefix}.meta --json"] if len(missing) > 3 else []
    return UserError("source", prefix, what, todo, "  or let them start anew, by name: source.allow_missing=[…]", *more)


def _declared(variable: Variable) -> tuple[int, ...]:
    """The shape of a variable that starts anew."""
    sizes = [n for n in variable.shape or () if n is not None]
    if variable.shape is None or len(sizes) < len(variable.shape) or math.prod(sizes) >= _MOST_VALUES:
        what = f"'{variable.name}' cannot start anew: the graph says that its shape is {shown(variable.shape)}"
        raise UserError("source", "source.allow_missing", what, "choose a cut below it")
    if variable.dtype not in DTYPES:
        kind = DataType.Name(variable.dtype)[3:].lower()
        raise UserError("source", "source.allow_missing", f"'{variable.name}' cannot start anew: it is {kind}")
    return tuple(sizes)


def _stored(variable: Variable, key: str, entries: Mapping[str, Entry], prefix: str) -> tuple[int, ...]:
    """The shape of a variable in the checkpoint, which has to be of the shape and dtype that the graph says."""
    entry = entries[key]
    name = f"variable '{variable.name}'"
    there = "in the checkpoint" if key == variable.name else f"in the checkpoint, as '{key}'"
    whole = variable.piece.split(" ")[:-1]
    if variable.piece and whole != [str(n) for n in entry.shape]:
        what = f"{name} is a piece of {'×'.join(whole)} in the graph, {shown(entry.shape)} {there}"
        raise UserError("source", prefix, what, _SAME_MODEL)
    shape = piece_shape_of(variable.piece, entry.shape) if variable.piece else entry.shape
    if not renaming.fits(variable.shape, shape):
        what = f"{name} is {shown(variable.shape)} in the graph, {shown(shape)} {there}"
        raise UserError("source", prefix, what, _SAME_MODEL)
    if entry.dtype != variable.dtype:
        kinds = [DataType.Name(d)[3:].lower() for d in (variable.dtype, entry.dtype)]
        raise UserError("source", prefix, f"{name} is {kinds[0]} in the graph, {kinds[1]} {there}", _SAME_MODEL)
    return tuple(shape)


def shown(shape: Sequence[int | None] | None) -> str:
    """A shape in an error message."""
    if shape is None:
        return "unknown"
    return "×".join("?" if n is None else str(n) for n in shape) or "a scalar"
