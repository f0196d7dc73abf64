"""Whether the disk has room for what a run will write: asked before the first step, not found out hours later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.errors import UserError
from finetune.learning.state import State

FILES = 40  # that a run leaves, with one checkpoint


def free_at(place: Path) -> int:
    """The bytes that may be written at a place, which need not be there yet; none where nothing may."""
    place = _nearest(place)
    return shutil.disk_usage(place).free if place.is_dir() and os.access(place, os.W_OK) else 0


def files_at(place: Path) -> int | None:
    """How many files may still be made at a place; None where that has no limit, or the system does not say."""
    found = os.statvfs(_nearest(place))
    return found.f_favail if found.f_files else None


def _nearest(place: Path) -> Path:
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def check_space(state: State, place: Path, keep: int, pairs: int, resumes: bool) -> list[str]:
    """What people are warned of: there is no room for all checkpoints that the recipe keeps.

    Args:
      keep: how many checkpoints.
      pairs: how many pairs are written beside them.
      resumes: whether there are some already, with what is frozen.

    Raises:
      UserError: there is none for one of them, or not for the pairs, or not for so many files.
    """
    frozen, changing = _size(state.frozen), _size(state.everything(0)) - _size(state.frozen)
    # What is frozen is on the disk once, for all checkpoints together.
    least = changing + (0 if resumes else frozen) + pairs * _size(state.variables())
    free = free_at(place)
    if least > free:
        what = f"a checkpoint and the pair take {said(least)}, and {said(free)} may be written there"
        raise UserError("storage", str(place), what, "free some space, or name another run.dir")
    files = files_at(place)
    if files is not None and files < FILES:
        what = f"a run leaves some {FILES} files, and {files} may be made there (df -i)"
        raise UserError("storage", str(place), what, "remove some files, or name another run.dir")
    most = least + (keep - 1) * changing
    if most > free:
        what = f"{keep} checkpoints and the pair take {said(most)}, and {said(free)} are free"
        return [f"warning: {what}: free some space, or keep fewer by checkpoint.keep"]
    return []


def said(size: int) -> str:
    """A size for people.

    >>> said(1_230_000), said(45_600_000_000)
    ('1.23 MB', '45.6 GB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _size(tensors: Mapping[str, Any]) -> int:
    """Bytes."""
    return sum(_bytes(tensor) for tensor in tensors.values())


def _bytes(tensor: Any) -> int:
    kind = tf.as_dtype(tensor.dtype)
    count = 1
    for n in tensor.shape:
        count *= int(n)
    return count * kind.size if kind != tf.string else 0
