"""Damaged copies of pairs: goldens that a test may harm, and random mutants of bytes and of messages."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.inspecting.inspect import inspect
from finetune.showing import table
from finetune.surgery.source import Source, read_source
from finetune.surgery.variants import make_variants
from tests.graphs import NAMES, golden

_NUMBERS = [-1, 0, 1, 2, 7, 254, 255, 2**16, 2**28, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)]
_FLOATS = [0.0, 0.5, float("nan"), float("inf"), -1e300]
_BYTES = [b"", b"\0", b"\xff\xfe", b"a" * 1000]
_TEXTS = ["", "/", "x:0", "^x", "x:99999", "\0", "\x1b[31m", "x" * 5000, "NoOp", "Const", "ReadFile", "Switch", "Enter"]


def copied(name: str, to: Path) -> Path:
    """A copy of a golden that may be harmed."""
    shutil.copytree(golden(name).folder, to)
    return to


def settled(path: Path, name: str) -> Source:
    """The pair at a path, read as a golden is."""
    about = golden(name)
    return read_source(str(path), about.cut, about.inputs, about.feeds["eval"])


def survive(count: int, seed: int, folder: Path, mutate: Callable[[random.Random, Any], bytes]) -> tuple[int, int]:
    """Reads mutants of every golden's graph in all ways that need no TensorFlow; gives how many passed, and failed.

    Anything but a `UserError` of a few lines gets out of here.
    """
    rng = random.Random(seed)
    passed = failed = 0
    for number in range(count):
        name = rng.choice(NAMES)
        if not (folder / name).exists():
            copied(name, folder / name)
        (meta,) = (folder / name).glob("*.meta")
        meta.write_bytes(mutate(rng, golden(name).meta))
        try:
            make_variants(settled(folder / name, name), rng.random() < 0.5, [[".*", 1]])
            passed += 1
            said = []
        except UserError as error:
            said = str(error).splitlines()
            failed += 1
        assert len(said) <= 5, number
        assert all(len(line) < 1100 for line in said), number
        with contextlib.suppress(UserError):
            table(inspect(str(folder / name)))
    return passed, failed


def bytes_changed(rng: random.Random, message: Any) -> bytes:
    """The bytes of a message with a few of them flipped, cut out, doubled or put in."""
    data = bytearray(message.SerializeToString())
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.choice([1, 2, 10, 100, 1000])]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 20]))
        else:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.choice([5, 50, 500])]
    return bytes(data)


def fields_changed(rng: random.Random, message: Any) -> bytes:
    """The bytes of a message with a few fields, anywhere inside it, removed, doubled or set to something else."""
    copy = type(message)()
    copy.CopyFrom(message)
    names = [node.name for node in rng.choices(message.graph_def.node, k=6)]
    for _ in range(rng.choice([1, 1, 2, 4, 10])):
        inner = copy
        for _ in range(rng.choice([2, 3, 4, 5, 6, 8, 10])):
            parts = list(_parts(rng, inner))
            if not parts:
                break
            inner = rng.choice(parts)
        with contextlib.suppress(ValueError, TypeError):  # a text that is no UTF-8, a number that is too large
            _change(rng, inner, [*_TEXTS, *names])
    return copy.SerializeToString()


def _parts(rng: random.Random, message: Any) -> Iterator[Any]:
    """The messages inside a message, one of each field."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            keys = sorted(value)
            if keys and field.message_type.fields_by_name["value"].message_type is not None:
                yield value[rng.choice(keys)]
        elif hasattr(value, "add"):
            yield value[rng.randrange(len(value))]
        else:
            yield value


def _change(rng: random.Random, message: Any, texts: list[str]) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        keys = sorted(value)
        if keys:
            del value[rng.choice(keys)]
    elif hasattr(value, "append"):
        if len(value) and rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        elif len(value):
            value.append(value[rng.randrange(len(value))])
        elif field.message_type is None:
            value.append(_scalar(rng, field, texts))
        else:
            value.add()
    elif field.message_type is None:
        setattr(message, field.name, _scalar(rng, field, texts))
    elif message.HasField(field.name):
        message.ClearField(field.name)
    else:
        value.SetInParent()


def _scalar(rng: random.Random, field: Any, texts: list[str]) -> Any:
    kinds = {
        field.CPPTYPE_ENUM: [rng.randrange(130), 1, 7, 20, 21],
        field.CPPTYPE_DOUBLE: _FLOATS,
        field.CPPTYPE_FLOAT: _FLOATS,
        field.CPPTYPE_BOOL: [False, True],
        field.CPPTYPE_STRING: _BYTES if field.type == field.TYPE_BYTES else texts,
    }
    return rng.choice(kinds.get(field.cpp_type, _NUMBERS))
