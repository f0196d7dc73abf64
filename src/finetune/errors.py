"""Errors that a user can cause, in at most five lines."""

from __future__ import annotations

from collections.abc import Iterable

# The exit status is part of the contract with schedulers: 2 and 3 must never be requeued.
STATUS = {
    "recipe": 2,  # the recipe or the command line
    "data": 2,  # the examples it points to
    "source": 3,  # the pair it starts from
    "numerics": 4,  # NaN or Inf
    "storage": 5,  # a disk that is full, read-only or failing
    "machine": 75,  # a device that failed, or a worker that did not come: the same command goes on, maybe elsewhere
}

MAX_LINES = 5
LONGEST = 1000  # characters of one line: a name in a file may have a million


class UserError(Exception):
    """What is so, where, and what to do about it.

    `code` is a key of `STATUS`; `where` is a recipe key or a file; `more` are further lines, cut off
    after the fifth so that the message is read.

    >>> print(UserError("recipe", "cut", "no tensor 'fc_7:0'", "did you mean fc7:0?"))
    error[recipe] cut: no tensor 'fc_7:0'; did you mean fc7:0?
    """

    def __init__(self, code: str, where: str, what: str, todo: str = "", *more: str):
        self.code, self.where, self.what, self.todo, self.more = code, where, what, todo, more
        self.status = STATUS[code]
        first = f"error[{code}] {where}: {what}" + (f"; {todo}" if todo else "")
        super().__init__("\n".join(printable(_shortened(line)) for line in (first, *more)[:MAX_LINES]))


def refuse(faults: Iterable[UserError]) -> None:
    """Raises all that was found as one error, if anything was.

    >>> empty = UserError("recipe", "cut", "is empty", "write cut=…")
    >>> negative = UserError("recipe", "run.seed", "-1 is not 0 or more")
    >>> refuse([empty, negative])
    Traceback (most recent call last):
    finetune.errors.UserError: error[recipe] cut: is empty; write cut=…
      run.seed: -1 is not 0 or more
    """
    found = list(faults)
    if not found:
        return
    first, *others = found
    lines = [
        *first.more,
        *(f"  {fault.where}: {fault.what}" + (f"; {fault.todo}" * bool(fault.todo)) for fault in others),
    ]
    if len(lines) > (most := MAX_LINES - 1):
        lines = [*lines[: most - 1], f"  and {len(lines) - most + 1} more"]
    raise UserError(first.code, first.where, first.what, first.todo, *lines)


def printable(text: str) -> str:
    r"""`text` on one line and harmless to a terminal, whatever a file put into it.

    >>> printable("bad\nname\x1b[31m")
    'bad\\nname\\x1b[31m'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shortened(line: str) -> str:
    """A line without its middle, if it is very long: what it begins with and what to do are read."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def shortlist(items: list[str], limit: int = 3) -> str:
    """The first few of `items`, and how many there are.

    >>> shortlist(["a", "b", "c", "d"])
    'a, b, c … (4 in all)'
    """
    if len(items) <= limit:
        return ", ".join(items)
    return f"{', '.join(items[:limit])} … ({len(items)} in all)"
