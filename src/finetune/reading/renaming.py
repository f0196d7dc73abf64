"""Rules that take a variable's key in the graph to its key in the checkpoint: obeyed, or proposed.

Names part when code is moved into another scope, when a checkpoint is saved by another class, or when a library
renames its layers. What is left in common tells the rule.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from finetune.errors import UserError
from finetune.names import did_you_mean
from finetune.reading.index import Entry
from finetune.reading.variables import SLOT, Variable

Rule = tuple[str, str]

_ASKED = 24  # missing variables that are compared with the checkpoint
_COMPARED = 200  # tensors that each of them is compared with
_TRIED = 60  # of the rules that some of them speak for
_MOST_RULES = 3
_SPECIAL = re.compile(r"([.^$*+?{}\[\]\\|()])")


def renamed(variables: Sequence[Variable], rules: Iterable[Sequence[str]]) -> dict[str, str]:
    """Variable -> key in the checkpoint: the graph's own key after each rule in turn, as `re.sub` does it.

    Raises:
      UserError: a rule that matches no variable.
    """
    keys = {v.name: v.key for v in variables}
    for pattern, replacement in rules:
        if not any(re.search(pattern, key) for key in keys.values()):
            what = f"the rule {pattern!r} matches none of the {len(keys)} variables below the cut"
            example = did_you_mean(pattern, keys.values()) or f"one of them is {next(iter(keys.values()), 'none')}"
            raise UserError("recipe", "source.rename", what, example)
        keys = {name: re.sub(pattern, replacement, key) for name, key in keys.items()}
    return keys


def propose(variables: Sequence[Variable], keys: Mapping[str, str], entries: Mapping[str, Entry]) -> list[Rule]:
    """The few rules with which the checkpoint would have most of the variables; none if they would not find half.

    A variable is found if an entry has its key, dtype and shape. Every rule takes the variables that are found
    without it into account: it must not lose them.
    """
    rules: list[Rule] = []
    now, count = dict(keys), count_found(variables, keys, entries)
    before = count
    while len(rules) < _MOST_RULES and count < len(variables):
        tried = [(_score(variables, now, more, entries), more) for more in _guesses(variables, now, entries)]
        # Of those that find as many the shortest, for it has left the most of the names alone.
        best, more = max(tried, key=lambda item: (item[0], -len(item[1]), -_length(item[1])), default=(count, ()))
        if best <= count:
            break
        rules += more
        now, count = applied(now, more), best
    return rules if count - before >= (len(variables) - before) / 2 else []


def count_found(variables: Iterable[Variable], keys: Mapping[str, str], entries: Mapping[str, Entry]) -> int:
    """How many of the variables the checkpoint has under these keys, no tensor counted twice."""
    there = {(keys[v.name], v.piece) for v in variables if is_like(v, entries.get(keys[v.name]))}
    return len(there)


def as_override(rules: Iterable[Sequence[str]]) -> str:
    r"""The rules as a word of the command line, in a shell's quotes. Hydra takes a backslash as it stands.

    >>> print(as_override([(r"^model\.1/", "")]))
    'source.rename=[["^model\.1/",""]]'
    """
    quoted = [",".join('"' + part.replace('"', '\\"') + '"' for part in rule) for rule in rules]
    return shlex.quote(f"source.rename=[{','.join(f'[{rule}]' for rule in quoted)}]")


def is_like(variable: Variable, entry: Entry | None) -> bool:
    if entry is None or entry.dtype != variable.dtype:
        return False
    if variable.piece:
        return variable.piece.split(" ")[:-1] == [str(n) for n in entry.shape]
    return fits(variable.shape, entry.shape)


def fits(declared: Sequence[int | None] | None, shape: Sequence[int]) -> bool:
    """Whether a shape is one of those that the graph leaves open."""
    if declared is None:
        return True
    return len(declared) == len(shape) and all(d is None or d == s for d, s in zip(declared, shape, strict=True))


def applied(keys: Mapping[str, str], rules: Iterable[Rule]) -> dict[str, str]:
    changed = dict(keys)
    for pattern, replacement in rules:
        changed = {name: re.sub(pattern, replacement, key) for name, key in changed.items()}
    return changed


def _score(
    variables: Sequence[Variable], keys: Mapping[str, str], rules: Iterable[Rule], entries: Mapping[str, Entry]
) -> int:
    return count_found(variables, applied(keys, rules), entries)


def _guesses(
    variables: Sequence[Variable], keys: Mapping[str, str], entries: Mapping[str, Entry]
) -> list[tuple[Rule, ...]]:
    """The rules that take a missing variable to some entry of its kind, those that most variables ask for first."""
    missing = [v for v in variables if not is_like(v, entries.get(keys[v.name]))]
    missing = missing[:: max(1, len(missing) // _ASKED)]
    by_kind: dict[tuple[int, int], list[str]] = defaultdict(list)
    for key, entry in entries.items():
        if not SLOT.search(key):
            by_kind[entry.dtype, len(entry.shape)].append(key)
    votes: Counter[tuple[Rule, ...]] = Counter()
    for variable in missing:
        ranks = [len(variable.shape)] if variable.shape is not None else sorted({rank for _, rank in by_kind})
        alike = [key for rank in ranks for key in by_kind[variable.dtype, rank] if is_like(variable, entries[key])]
        # Each variable has one vote for a rule, however many entries would do.
        near = _nearest(keys[variable.name], alike)
        votes.update({rules for key in near for rules in _between(keys[variable.name], key)})
    return [rules for rules, _ in votes.most_common(_TRIED)]


def _nearest(key: str, others: Sequence[str]) -> list[str]:
    """Those that have most words in common with a key at the end, at the start, or anywhere."""
    words = key.split("/")
    scores = []
    for other in others:
        path = other.split("/")
        scores.append((_common(words[::-1], path[::-1]), _common(words, path), len({*words} & {*path})))
    best = [max(column) for column in zip(*scores, strict=True)]
    pairs = zip(others, scores, strict=True)
    return [o for o, score in pairs if any(s == b > 0 for s, b in zip(score, best, strict=True))][:_COMPARED]


def _length(rules: Iterable[Rule]) -> int:
    return sum(len(part) for rule in rules for part in rule)


def _between(key: str, other: str) -> Iterator[tuple[Rule, ...]]:
    """Rules that make `other` of `key`, by what their paths have in common at the end, at the start, or inside."""
    ours, theirs = key.split("/"), other.split("/")
    tail = _common(ours[::-1], theirs[::-1])
    head = _common(ours, theirs)
    if tail:
        mine, its = ours[: len(ours) - tail], theirs[: len(theirs) - tail]
        yield from ((rule,) for rule in _at_start(mine, its))
        if not mine and tail > 1:  # perhaps only of the variables of one scope
            yield from ((rule,) for rule in _at_start(ours[:1], [*its, ours[0]]))
    if head and head < max(len(ours), len(theirs)):
        yield (_at_end(ours[head:], theirs[head:]),)
    if not head and not tail:
        for start in range(1, len(theirs) - len(ours)):
            if theirs[start : start + len(ours)] == ours:
                before, after = theirs[:start], theirs[start + len(ours) :]
                yield (("^", _literal("/".join([*before, ""]))), ("$", _literal("/".join(["", *after]))))


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many words two paths begin with together."""
    count = 0
    for ours_now, theirs_now in zip(ours, theirs, strict=False):
        if ours_now != theirs_now:
            break
        count += 1
    return count


def _at_start(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Rule]:
    to = _literal("".join(f"{word}/" for word in theirs))
    yield "^" + _escaped("".join(f"{word}/" for word in ours)), to
    if len(ours) > 1:  # the words behind the first may be another for each layer
        yield "^" + _escaped(ours[0]) + "/[^/]+" * (len(ours) - 1) + "/", to


def _at_end(ours: Sequence[str], theirs: Sequence[str]) -> Rule:
    return _escaped("".join(f"/{word}" for word in ours)) + "$", _literal("".join(f"/{word}" for word in theirs))


def _escaped(text: str) -> str:
    # `re.escape` also writes a backslash before signs that need none, and people read these rules.
    return _SPECIAL.sub(r"\\\1", text)


def _literal(replacement: str) -> str:
    return replacement.replace("\\", "\\\\")
