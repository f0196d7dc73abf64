"""Saves and restores a run: whole or absent, never half.

A checkpoint is written aside, synced, and only then renamed into place, its `.index` last: a reader that finds an
index finds a whole checkpoint. The `checkpoint` file holds relative names only, so that a folder can be moved or
copied, and names every file that may ever be deleted.

Format: tensor bundle V2, as `tf.train.Saver` writes it; state: `CheckpointState`,
tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.results.bundles import FrozenShard, Pieces, save_bundle

STATE = "checkpoint"


@dataclass(frozen=True)
class State:
    """What the `checkpoint` file of a folder says.

    `names` are the checkpoints that may be deleted, oldest first; `times` are when they were saved, in seconds
    since 1970; `preserved` is when the period of the last one kept for good began.
    """

    latest: str | None = None
    names: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    preserved: float | None = None


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest `keep`, and one for each `every_hours`."""

    keep: int = 5
    every_hours: float | None = None


def read_state(folder: Path) -> State:
    """The state of a folder; an empty one if it has none that can be read."""
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return State()
    entries: dict[str, list[str]] = {}
    for match in re.finditer(r'^(\w+): "?((?:[^"\\\n]|\\.)*)"?$', text, re.MULTILINE):
        entries.setdefault(match[1], []).append(match[2])
    names = tuple(n for n in entries.get("all_model_checkpoint_paths", []) if _is_plain(n))
    latest = entries.get("model_checkpoint_path", [None])[0]
    read = [_time(text) for text in entries.get("all_model_checkpoint_timestamps", [])]
    times = tuple(time for time in read if time is not None)
    if len(times) != len(names):
        times = (0.0,) * len(names)
    preserved = _time(entries.get("last_preserved_timestamp", [""])[0])
    return State(latest if latest and _is_plain(latest) else None, names, times, preserved)


def _time(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def _is_plain(name: str) -> bool:
    """Whether a name means a file in its own folder and nothing else."""
    return bool(name) and "/" not in name and "\\" not in name and name not in (".", "..")


def write_state(folder: Path, state: State) -> None:
    """Replaces the `checkpoint` file of a folder at once."""
    lines = [f'model_checkpoint_path: "{state.latest}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in state.names]
    lines += [f"all_model_checkpoint_timestamps: {time!r}" for time in state.times]
    lines += [f"last_preserved_timestamp: {state.preserved!r}"] if state.preserved is not None else []
    write_text(folder / STATE, "\n".join(lines) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file aside, syncs it and renames it into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file aside, syncs it and renames it into place."""
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise cannot_be_written(path, error) from error


def aside_of(path: Path) -> Path:
    """Where something is written before it comes to its place."""
    return path.with_name(f".writing-{path.name}.{os.getpid()}")


def is_aside(name: str) -> bool:
    """Whether something of this name has not come to its place.

    >>> is_aside(".writing-recipe.yaml.4711"), is_aside("recipe.yaml")
    (True, False)
    """
    return re.fullmatch(r"\.writing-.+\.\d+", name) is not None


def tidy(folder: Path) -> None:
    """Removes what processes that were killed left half written. No other may be writing there."""
    for left in folder.iterdir() if folder.is_dir() else ():
        if is_aside(left.name):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def cannot_be_written(path: Path, error: Exception) -> UserError:
    """What to say where a file cannot be written."""
    # TensorFlow puts the op and a temporary name before what the system says.
    said = getattr(error, "strerror", None) or str(getattr(error, "message", error)).rpartition("; ")[2]
    reason = said.partition(" [Op:")[0]
    todo = "free some space; the same command goes on from the last save"
    return UserError("storage", str(path), f"cannot be written: {reason}", todo)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(
    folder: Path, name: str, tensors: Mapping[str, Any], pieces: Pieces, frozen: FrozenShard | None = None
) -> None:
    """Writes one checkpoint of a folder, whole or not at all.

    Args:
      tensors: values by name.
      pieces: for slices of partitioned variables, name -> (key in the checkpoint, the Saver's text for the slice);
        every other tensor is saved under its own name.
      frozen: what it holds beside them, which other checkpoints hold too.
    """
    import tensorflow as tf

    aside = aside_of(folder / name)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_bundle(aside / name, tensors, pieces)
        if frozen is not None:
            frozen.add_to(aside / name)
        # The index last: it is what makes the others a checkpoint.
        for file in sorted(aside.iterdir(), key=lambda f: f.suffix == ".index"):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(file, folder / file.name)
        sync_folder(folder)
        if frozen is not None:
            frozen.lies_at(folder / name)
    except (tf.errors.OpError, OSError) as error:
        raise cannot_be_written(folder / name, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save(
    folder: Path,
    name: str,
    tensors: Mapping[str, Any],
    pieces: Pieces,
    retention: Retention,
    now: float,
    frozen: FrozenShard | None = None,
) -> None:
    """Writes a checkpoint, makes it the newest, and deletes those that `retention` lets go."""
    write(folder, name, tensors, pieces, frozen)
    state = read_state(folder)
    others = [(n, t) for n, t in zip(state.names, state.times, strict=True) if n != name]
    state = replace(
        state,
        latest=name,
        names=(*(n for n, _ in others), name),
        times=(*(t for _, t in others), now),
        preserved=now if state.preserved is None else state.preserved,
    )
    state, let_go = retire(state, retention)
    write_state(folder, state)
    for gone in let_go:
        for file in _members(folder, gone):
            file.unlink(missing_ok=True)


def retire(state: State, retention: Retention) -> tuple[State, list[str]]:
    """The state without the checkpoints that are too many, and the names of those to delete.

    The first one after each period of `every_hours` is kept for good instead; it leaves the list and is never
    deleted. Periods are counted from the first save, as `keep_checkpoint_every_n_hours` of `tf.train.Saver` counts
    them; those in which nothing was saved, because the job waited for a machine, are not made up for.

    >>> state = State("d", ("a", "b", "c", "d"), (0.0, 4000.0, 7000.0, 9000.0), preserved=0.0)
    >>> retire(state, Retention(keep=2, every_hours=1))[1]
    ['a']
    """
    names, times, preserved = list(state.names), list(state.times), state.preserved
    period = (retention.every_hours or 0.0) * 3600
    let_go = []
    while len(names) > retention.keep:
        name, time = names.pop(0), times.pop(0)
        if period and preserved is not None and time > preserved + period:
            preserved += (math.ceil((time - preserved) / period) - 1) * period
        else:
            let_go.append(name)
    return replace(state, names=tuple(names), times=tuple(times), preserved=preserved), let_go


def _members(folder: Path, name: str) -> list[Path]:
    """The files of one checkpoint, the index first: once it is gone, the rest is no checkpoint any more."""
    member = re.compile(re.escape(name) + r"\.(index|data-\d{5}-of-\d{5})")
    return sorted((f for f in folder.iterdir() if member.fullmatch(f.name)), key=lambda f: f.suffix != ".index")


def candidates(folder: Path, stem: str) -> list[tuple[int, str]]:
    """(step, name) of every checkpoint in a folder, newest first, whatever the state file says."""
    if not folder.is_dir():
        return []
    found = [re.fullmatch(re.escape(stem) + r"-(\d+)\.index", f.name) for f in folder.iterdir()]
    return sorted(((int(m[1]), m[0].removesuffix(".index")) for m in found if m), reverse=True)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that could be read, and the newer ones that could not."""

    step: int
    values: Mapping[str, np.ndarray]
    damaged: list[str] = field(default_factory=list)


def load_newest(folder: Path, stem: str, keys: Mapping[str, str], without: Collection[str] = ()) -> Loaded | None:
    """The newest whole checkpoint of a folder; None if there never was one.

    Args:
      keys: tensors that have to be there: name -> key in the checkpoint. All others come under their own keys.
      without: keys that nobody asks for; their values are not read.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    from finetune.reading.weights import read_index, read_tensors

    damaged = []
    for step, name in candidates(folder, stem):
        try:
            held = read_index(str(folder / name))
            values = read_tensors(str(folder / name), sorted({*held, *keys.values()} - {*without}))
        except UserError as error:
            damaged.append(str(error).splitlines()[0])
            continue
        return Loaded(step, {**values, **{n: values[k] for n, k in keys.items()}}, damaged)
    if damaged:
        raise UserError(
            "storage",
            str(folder),
            f"none of the {len(damaged)} checkpoints can be read",
            "remove the run folder to start anew",
            damaged[0],
        )
    return None
