"""What is frozen is written once, and each checkpoint is whole all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.results import bundles, checkpoints, manifests
from finetune.results.bundles import FrozenShard
from finetune.results.checkpoints import Retention, load_newest

KEPT = {"a": np.arange(1000, dtype=np.float32), "deep/b": np.int64(7)}
SHARD = ".data-00001-of-00002"


def shard() -> FrozenShard:
    return FrozenShard(KEPT)


def changing(step: int) -> dict[str, Any]:
    return {"w": np.full(3, step, np.float32), "global_step": np.int64(step)}


def saved(folder: Path, step: int, frozen: FrozenShard | None, keep: int = 5) -> None:
    checkpoints.save(folder, f"m-{step}", changing(step), {}, Retention(keep), float(step), frozen)


def holds(folder: Path, step: int) -> bool:
    """Whether plain TensorFlow finds all of it, and no more."""
    reader = tf.train.load_checkpoint(str(folder / f"m-{step}"))
    expected = {**KEPT, **changing(step)}
    same = [np.array_equal(reader.get_tensor(name), value) for name, value in expected.items()]
    return all(same) and reader.get_variable_to_shape_map().keys() == expected.keys()


def inode(folder: Path, step: int) -> int:
    return (folder / f"m-{step}{SHARD}").stat().st_ino


def test_what_is_frozen_is_on_the_disk_once(tmp_path):
    frozen = shard()
    for step in (1, 2, 3):
        saved(tmp_path, step, frozen)
    assert all(holds(tmp_path, step) for step in (1, 2, 3))
    assert inode(tmp_path, 1) == inode(tmp_path, 2) == inode(tmp_path, 3)


def test_what_is_frozen_is_read_once_for_its_digest(tmp_path, monkeypatch):
    read: list[str] = []
    real = manifests.digest_of

    def watched(file: Path) -> str:
        read.append(file.name)
        return real(file)

    monkeypatch.setattr(manifests, "digest_of", watched)
    monkeypatch.setattr(bundles, "digest_of", watched)
    frozen = shard()
    for step in (1, 2, 3):
        saved(tmp_path, step, frozen)
    assert [name for name in read if name.endswith(SHARD) or ".second" in name] == ["m-1.second.data-00000-of-00001"]
    for step in (1, 2, 3):
        listed = manifests.read(tmp_path, f"m-{step}")
        assert listed is not None
        assert len(listed.files) == 3
        assert all(real(tmp_path / name) == digest for name, digest in listed.files.items())


def test_the_files_of_a_step_that_is_saved_again_are_all_listed(tmp_path):
    saved(tmp_path, 1, shard())
    saved(tmp_path, 1, None)  # which has one data file, of another name
    saved(tmp_path, 2, None, keep=1)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "checkpoint", "m-2.data-00000-of-00001", "m-2.index", "m-2.manifest",
    ]  # fmt: skip


def test_each_checkpoint_outlives_the_others(tmp_path):
    frozen = shard()
    for step in (1, 2, 3):
        saved(tmp_path, step, frozen, keep=1)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "checkpoint", "m-3.data-00000-of-00002", f"m-3{SHARD}", "m-3.index", "m-3.manifest",
    ]  # fmt: skip
    assert holds(tmp_path, 3)


def test_it_is_written_anew_where_it_is_not_what_it_was(tmp_path):
    frozen = shard()
    saved(tmp_path, 1, frozen)
    (tmp_path / f"m-1{SHARD}").unlink()
    saved(tmp_path, 2, frozen)
    with (tmp_path / f"m-2{SHARD}").open("ab") as file:
        file.write(b"more")
    saved(tmp_path, 3, frozen)
    assert holds(tmp_path, 2)
    assert holds(tmp_path, 3)
    assert inode(tmp_path, 2) != inode(tmp_path, 3)


def test_a_file_system_without_links_gets_it_each_time(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bundles.os, "link", fail)
    frozen = shard()
    for step in (1, 2):
        saved(tmp_path, step, frozen)
    assert all(holds(tmp_path, step) for step in (1, 2))
    assert inode(tmp_path, 1) != inode(tmp_path, 2)


def test_another_process_goes_on_with_files_of_its_own(tmp_path):
    saved(tmp_path, 1, shard())
    saved(tmp_path, 2, shard())
    assert all(holds(tmp_path, step) for step in (1, 2))


class Killed(BaseException):
    """As if the process ended there: nothing that follows happens."""


def _counted(name: str, calls: list[str], number: int) -> Any:
    real = getattr(os, name)

    def call(*words: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) >= number:
            raise Killed
        return real(*words, **more)

    return call


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ends at a call that changes files, and does none of those after it, not even what tidies up."""
    calls: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "link", "fsync", "mkdir", "unlink", "rmdir"):
            patched.setattr(os, name, _counted(name, calls, number))
        with pytest.raises(Killed) if number < 1000 else patched.context():
            yield calls


def test_killed_at_any_call_it_leaves_the_old_checkpoint_or_the_new_one(tmp_path, monkeypatch):
    frozen = shard()
    first = tmp_path / "whole"
    first.mkdir()
    saved(first, 1, frozen)
    with killed_at(1000, monkeypatch) as calls:
        saved(first, 2, frozen, keep=1)
    assert calls.count("link") == 1
    assert len(calls) > 10
    seen = set()
    for number in range(1, len(calls) + 1):
        folder, frozen = tmp_path / str(number), shard()
        folder.mkdir()
        saved(folder, 1, frozen)
        with killed_at(number, monkeypatch):
            saved(folder, 2, frozen, keep=1)
        newest = load_newest(folder, "m", {"a": "a"})
        assert newest is not None
        assert not newest.damaged
        assert holds(folder, newest.step)
        seen.add(newest.step)
        saved(folder, 3, frozen, keep=1)  # by a process that goes on
        assert holds(folder, 3)
        left = {f.name for f in folder.iterdir() if not checkpoints.is_aside(f.name)}
        assert left == {"checkpoint", "m-3.data-00000-of-00002", f"m-3{SHARD}", "m-3.index", "m-3.manifest"}
    assert seen == {1, 2}


def test_what_nobody_asks_for_is_not_read(tmp_path):
    frozen = shard()
    saved(tmp_path, 1, frozen)
    data = tmp_path / f"m-1{SHARD}"
    data.write_bytes(data.read_bytes()[:-8] + b"\xff" * 8)
    found = load_newest(tmp_path, "m", {"w": "w"}, {*KEPT})
    assert found is not None
    assert found.values.keys() == {"w", "global_step"}
