"""Saves and restores a run: whole or absent, never half.

A checkpoint is written aside, synced, and only then renamed into place, its manifest first and its `.index` last: a
reader that finds an index finds a whole checkpoint, and what a manifest lists is all that may ever be deleted. The
`checkpoint` file is for plain TensorFlow, and is written anew with each save; it holds relative names only, so that a
folder can be moved or copied.

Format: tensor bundle V2, as `tf.train.Saver` writes it; state: `CheckpointState`,
tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.results import manifests
from finetune.results.bundles import SECOND, FrozenShard, Pieces, save_bundle
from finetune.results.manifests import Manifest

STATE = "checkpoint"
# What file systems say that cannot sync a folder, as some in user space and over a network: names are their own affair.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class State:
    """What the `checkpoint` file of a folder says to plain TensorFlow.

    `names` are the checkpoints that do not stay for good, oldest first; `times` are when they were saved, in seconds
    since 1970; `preserved` is when the period of the last one kept for good began.
    """

    latest: str
    names: tuple[str, ...]
    times: tuple[float, ...]
    preserved: float | None = None


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest `keep`, and one for each `every_hours`."""

    keep: int = 5
    every_hours: float | None = None


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


def is_aside(name: str, of: str | None = None) -> bool:
    """Whether something of this name has not come to its place, which is `of` if that is given.

    >>> is_aside(".writing-recipe.yaml.4711"), is_aside("recipe.yaml"), is_aside(".writing-best.4711", "model")
    (True, False, False)
    """
    return re.fullmatch(rf"\.writing-{'.+' if of is None else re.escape(of)}\.\d+", name) is not None


def tidy(folder: Path, of: str | None = None) -> None:
    """Removes what processes that were killed left half written, or of that what was to be `of`.

    No other may be writing there.
    """
    for left in list(folder.iterdir()) if folder.is_dir() else ():
        if is_aside(left.name, of):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def cannot_be_written(path: Path, error: Exception) -> UserError:
    """What to say where a file cannot be written."""
    # TensorFlow puts the op and a temporary name before what the system says.
    said = getattr(error, "strerror", None) or str(getattr(error, "message", error)).rpartition("; ")[2]
    reason = said.partition(" [Op:")[0]
    todo = "free some space; the same command goes on from the last save"
    return UserError("storage", str(path), f"cannot be written: {reason}", todo)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power, where its file system knows how to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Makes all that is in a folder survive a loss of power, but not yet its name."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def write(
    folder: Path,
    name: str,
    tensors: Mapping[str, Any],
    pieces: Pieces,
    frozen: FrozenShard | None = None,
    announce: Callable[[Mapping[str, str]], None] | None = None,
) -> None:
    """Writes one checkpoint of a folder, whole or not at all.

    Args:
      tensors: values by name.
      pieces: for slices of partitioned variables, name -> (key in the checkpoint, the Saver's text for the slice);
        every other tensor is saved under its own name.
      frozen: what it holds beside them, which other checkpoints hold too.
      announce: is given the digests of the files by name, when they are made and before they come to their places.
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
        files = sorted(aside.iterdir(), key=lambda f: f.suffix == ".index")
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if announce is not None:
            announce(_digests(files, frozen))
        for file in files:
            os.replace(file, folder / file.name)
        sync_folder(folder)
        if frozen is not None:
            frozen.lies_at(folder / name)
    except (tf.errors.OpError, OSError) as error:
        raise cannot_be_written(folder / name, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _digests(files: Sequence[Path], frozen: FrozenShard | None) -> dict[str, str]:
    """By name; what is frozen was read for it once, when it was written."""
    known = {file.name: frozen.digest for file in files if frozen is not None and file.name.endswith(SECOND)}
    return {file.name: known.get(file.name) or manifests.digest_of(file) for file in files}


def save(
    folder: Path,
    name: str,
    tensors: Mapping[str, Any],
    pieces: Pieces,
    retention: Retention,
    now: float,
    frozen: FrozenShard | None = None,
) -> None:
    """Writes a checkpoint, makes it the newest, and deletes those that `retention` lets go.

    With them goes what kills have left: checkpoints that were let go and are still there, and those without an index,
    which came or went half.
    """
    listed = manifests.all_in(folder, name.rpartition("-")[0])
    number = max([0, *(one.number for one in listed)]) + 1
    period = max((one.period for one in listed), default=now)
    # Of a step that is saved again, the files may be others than before.
    before = {file: digest for one in listed if one.name == name for file, digest in one.files.items()}

    def announce(files: Mapping[str, str]) -> None:
        _list(folder, Manifest(name, number, now, period, {**before, **files}))

    write(folder, name, tensors, pieces, frozen, announce)
    passing = [one for one in listed if one.name != name and not one.for_good]
    whole = [one for one in passing if (folder / f"{one.name}.index").exists()]
    names, times = (*(one.name for one in whole), name), (*(one.saved for one in whole), now)
    state, let_go = retire(State(name, names, times, period), retention)
    for one in whole:
        if one.name not in (*state.names, *let_go):
            _list(folder, replace(one, for_good=True, period=state.preserved or period))
    write_state(folder, state)
    _delete(folder, [one for one in passing if one not in whole or one.name in let_go])


def clear(folder: Path, stem: str) -> None:
    """Removes what a loss of power has brought back of checkpoints that had gone: those without an index."""
    gone = [one for one in manifests.all_in(folder, stem) if not (folder / f"{one.name}.index").exists()]
    _delete(folder, gone)


def _list(folder: Path, manifest: Manifest) -> None:
    write_text(folder / f"{manifest.name}{manifests.ENDING}", manifest.text())


def _delete(folder: Path, gone: Sequence[Manifest]) -> None:
    """Removes checkpoints: the index first, without which the rest is none, and the manifest when the rest is gone."""
    for one in gone:
        for file in sorted(one.files, key=lambda name: not name.endswith(".index")):
            (folder / file).unlink(missing_ok=True)
    if gone:
        sync_folder(folder)
    for one in gone:
        (folder / f"{one.name}{manifests.ENDING}").unlink(missing_ok=True)


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
    from finetune.reading.weights import files_of, read_index, read_tensors

    damaged = []
    for step, name in candidates(folder, stem):
        try:
            held = read_index(str(folder / name))
            wanted = sorted({*held, *keys.values()} - {*without})
            values = read_tensors(str(folder / name), wanted)
            # What is not read costs nothing: neither the time to read it, nor this checkpoint where it is damaged.
            manifests.check(folder, name, files_of(str(folder / name), held, wanted))
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
