"""Every key that a recipe may set, what it takes, and what to write instead of a wrong one."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from typing import Any, Optional

from finetune.errors import UserError
from finetune.recipe import Recipe

_IN_WORDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
_NOT_OURS = ("defaults", "hydra")  # Hydra's own keys at the top of a file


def _kinds(group: Any = Recipe, prefix: str = "") -> dict[str, Any]:
    kinds = {}
    for name, kind in typing.get_type_hints(group).items():
        kinds[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            kinds |= _kinds(kind, f"{prefix}{name}.")
    return kinds


KINDS = _kinds()  # every dotted key with its annotation, groups included
OPEN = tuple(key for key, kind in KINDS.items() if typing.get_origin(kind) is dict)  # these take any key inside


def is_text(key: str) -> bool:
    """Whether a key takes text.

    >>> is_text("cut"), is_text("data.eval_path"), is_text("train.steps")
    (True, True, False)
    """
    return KINDS.get(key) in (str, Optional[str])


def refuse_unknown(key: str, file: str = "") -> None:
    """Lets only known keys pass, and what is in an open mapping such as `source.feeds`.

    Raises:
      UserError: with the nearest known key.
    """
    if key not in KINDS and not key.startswith(tuple(f"{group}." for group in OPEN)):
        raise UserError("recipe", file or key, f"unknown key {key}" if file else "unknown key", instead_of(key))


def instead_of(key: str) -> str:
    """What to write for an unknown key.

    >>> instead_of("seed"), instead_of("trian.steps")
    ('did you mean run.seed?', 'did you mean train.steps?')
    """
    same_word = [known for known in KINDS if known.rpartition(".")[2] == key.rpartition(".")[2]]
    alike = same_word or difflib.get_close_matches(key, KINDS, n=1, cutoff=0.5)
    if alike:
        return f"did you mean {' or '.join(alike)}?"
    return f"known are {', '.join(known for known in KINDS if '.' not in known)}"


def ours(content: dict[Any, Any]) -> dict[Any, Any]:
    """A recipe file without what is meant for Hydra."""
    return {key: value for key, value in content.items() if key not in _NOT_OURS}


def refuse_unknown_in(content: dict[Any, Any], file: str, prefix: str = "") -> None:
    """Lets a recipe file pass if its keys are known and its groups are groups.

    Raises:
      UserError: naming the file and the key.
    """
    for name, value in content.items():
        key = f"{prefix}{name}"
        refuse_unknown(key, file)
        if dataclasses.is_dataclass(KINDS.get(key)):
            if not isinstance(value, dict):
                raise UserError("recipe", file, f"{key}: {shown(value)} is not {wanted(key)}")
            refuse_unknown_in(value, file, f"{key}.")


def wanted(key: str) -> str:
    """What the value of a key has to be, in words; nothing if the schema does not say.

    >>> wanted("train.steps"), wanted("data.image_size"), wanted("data.image_size[0]"), wanted("train")
    ('a whole number', 'a list', 'a whole number', 'a group of keys such as train.steps')
    """
    kind = KINDS.get(key.partition("[")[0])
    if dataclasses.is_dataclass(kind):
        return f"a group of keys such as {key}.{dataclasses.fields(kind)[0].name}"
    if typing.get_origin(kind) is typing.Union:  # Optional[…]
        kind = typing.get_args(kind)[0]
    if "[" in key and typing.get_origin(kind) is list:
        kind = typing.get_args(kind)[0]
    return _IN_WORDS.get(typing.get_origin(kind) or kind, "")


def shown(value: Any) -> str:
    """A value as a recipe writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)
