"""A run is saved whole or not at all, and nothing is deleted that it did not write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from finetune.results import checkpoints, manifests
from finetune.results.checkpoints import (
    Retention,
    State,
    candidates,
    load_newest,
    retire,
    save,
    write_state,
)
from tests.graphs import refusal

HOUR = 3600.0


def stay(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


# ---- the state file


def state_in(folder: Path) -> State:
    """What the `checkpoint` file says, as TensorFlow reads it."""
    proto = pytest.importorskip("tensorflow.python.training.checkpoint_state_pb2")
    read = text_format.Parse((folder / "checkpoint").read_text(encoding="utf-8"), proto.CheckpointState())
    times = tuple(read.all_model_checkpoint_timestamps)
    preserved = read.last_preserved_timestamp or None
    return State(read.model_checkpoint_path, tuple(read.all_model_checkpoint_paths), times, preserved)


def test_tensorflow_reads_a_state_as_it_was_written(tmp_path):
    state = State("m-2", ("m-1", "m-2"), (1.5, 2.5), 1.0)
    write_state(tmp_path, state)
    assert state_in(tmp_path) == state
    write_state(tmp_path, State("größe-1", ("größe-1",), (3.0,)))
    assert state_in(tmp_path) == State("größe-1", ("größe-1",), (3.0,))
    assert names(tmp_path) == ["checkpoint"]


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    checkpoints.write_text(tmp_path / "f", "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    error = refusal(checkpoints.write_text, tmp_path / "f", "new")
    assert (error.where, error.what) == (str(tmp_path / "f"), "cannot be written: No space left on device")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


# ---- which are kept


def kept_after(times: list[float], retention: Retention) -> tuple[list[int], list[int]]:
    """(the numbers of the checkpoints in the list, those kept for good) after one save at each of the times."""
    state, alive = State("", (), (), times[0]), []
    for i, time in enumerate(times):
        alive.append(str(i))
        state = State(str(i), (*state.names, str(i)), (*state.times, time), state.preserved)
        state, let_go = retire(state, retention)
        alive = [name for name in alive if name not in let_go]
    return [int(n) for n in state.names], [int(n) for n in alive if n not in state.names]


def test_the_newest_are_kept():
    assert kept_after([0.0, 1, 2, 3, 4, 5], Retention(keep=3)) == ([3, 4, 5], [])
    assert kept_after([0.0, 1], Retention(keep=3)) == ([0, 1], [])
    assert kept_after([0.0, 1, 2], Retention(keep=1)) == ([2], [])


def test_one_in_each_period_is_kept_for_good():
    quarters = [i * HOUR / 4 for i in range(21)]  # five hours
    recent, for_good = kept_after(quarters, Retention(keep=2, every_hours=1))
    assert recent == [19, 20]
    assert for_good == [5, 9, 13, 17]


def test_retention_is_that_of_the_saver():
    """As `tf.train.Saver`: one that leaves the list stays if it is younger than the next time, which then goes on."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = np.cumsum(rng.uniform(0.0, 0.9 * HOUR, 40)).tolist()
        keep, hours = int(rng.integers(1, 6)), 1.0
        last, stays, following = [], [], times[0] + hours * HOUR
        for i, time in enumerate(times):
            last.append((i, time))
            if len(last) > keep:
                old, when = last.pop(0)
                if when > following:
                    following += hours * HOUR
                    stays.append(old)
        assert kept_after(times, Retention(keep, hours)) == ([i for i, _ in last], stays)


def test_hours_in_which_nothing_was_saved_are_not_made_up_for():
    times = [0.0, *(9.2 * HOUR + 600 * i for i in range(6))]
    assert kept_after(times, Retention(keep=1, every_hours=1)) == ([6], [1])


def test_without_hours_none_is_kept_for_good():
    assert kept_after([0.0, 9 * HOUR, 18 * HOUR], Retention(keep=1)) == ([2], [])


def test_the_state_that_was_given_stays_as_it_was():
    state = State("b", ("a", "b"), (0.0, 1.0), 0.0)
    assert retire(state, Retention(keep=1)) == (State("b", ("b",), (1.0,), 0.0), ["a"])
    assert state.names == ("a", "b")


# ---- which there are


def test_checkpoints_are_found_by_their_index_newest_first(tmp_path):
    stay(tmp_path, "m-9.index", "m-10.index", "m-10.data-00000-of-00001", "m-100.data-00000-of-00001")
    stay(tmp_path, "m.index", "mm-3.index", "m-x.index", "m-5.index.bak", "checkpoint", ".writing-m-7.1")
    assert candidates(tmp_path, "m") == [(10, "m-10"), (9, "m-9")]
    assert candidates(tmp_path / "none", "m") == []


def test_a_stem_is_no_pattern(tmp_path):
    stay(tmp_path, "m[1]-3.index", "m1-4.index", "m.-5.index", "mx-6.index")
    assert candidates(tmp_path, "m[1]") == [(3, "m[1]-3")]
    assert candidates(tmp_path, "m.") == [(5, "m.-5")]


# ---- saving and loading; these need TensorFlow

TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "upper": np.zeros((1, 3), np.float32),
    "lower": np.ones((1, 3), np.float32),
}
PIECES = {"upper": ("whole", "2 3 0,1:-"), "lower": ("whole", "2 3 1,1:-")}
KEYS = {"w": "w", "global_step": "global_step", "lower": "whole"}


def saved(folder: Path, step: int, keep: int = 2, stem: str = "m", now: float | None = None) -> None:
    pytest.importorskip("tensorflow")
    time = float(step) if now is None else now
    save(folder, f"{stem}-{step}", {**TENSORS, "global_step": np.int64(step)}, PIECES, Retention(keep), time)


def test_what_was_saved_is_loaded(tmp_path):
    saved(tmp_path, 3)
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert (found.step, found.damaged, found.values["global_step"]) == (3, [], 3)
    assert np.array_equal(found.values["w"], TENSORS["w"])
    assert np.array_equal(found.values["lower"], [[0, 0, 0], [1, 1, 1]])  # `State.restore` takes its piece
    assert names(tmp_path) == ["checkpoint", "m-3.data-00000-of-00001", "m-3.index", "m-3.manifest"]


def test_old_ones_go_and_what_is_not_ours_stays(tmp_path):
    foreign = ["m-1.meta", "m-1.txt", "m-1.data-x", "m-10.index", "m-1.index.bak", "notes", "mm-1.index", "n-1.index"]
    stay(tmp_path, *foreign)
    for step in (1, 2, 3):
        saved(tmp_path, step)
    ours = [f"m-{step}{ending}" for step in (2, 3) for ending in (".data-00000-of-00001", ".index", ".manifest")]
    assert names(tmp_path) == sorted([*foreign, *ours, "checkpoint"])
    state = state_in(tmp_path)
    assert (state.latest, state.names, state.times, state.preserved) == ("m-3", ("m-2", "m-3"), (2.0, 3.0), 1.0)


@pytest.mark.parametrize("path", ["m-1", "../m-1", "/m-1"])
def test_checkpoints_that_no_manifest_lists_are_never_deleted(tmp_path, path):
    stay(tmp_path, "m-1.index", "m-1.data-00000-of-00001")
    (tmp_path / "checkpoint").write_text(f'all_model_checkpoint_paths: "{path}"\n')
    for step in (2, 3, 4):
        saved(tmp_path, step, keep=1)
    assert [name for _, name in candidates(tmp_path, "m")] == ["m-4", "m-1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"files": {}}',
        '{"number": 1, "saved": 1.0, "period": 1.0, "for_good": false, "files": ["m-1.index"]}',
        '{"number": 1, "saved": 1.0, "period": 1.0, "for_good": false, "files": {"m-2.index": ""}}',
        '{"number": 1, "saved": 1.0, "period": 1.0, "for_good": false, "files": {"m-1.index": "", "../notes": ""}}',
        '{"number": 1, "saved": Infinity, "period": 1.0, "for_good": false, "files": {"m-1.index": ""}}',
        "[" * 100000,
        '{"number": 1e999, "saved": 1.0, "period": 1.0, "for_good": false, "files": {"m-1.index": ""}}',
    ],
)
def test_what_a_manifest_says_of_the_files_of_others_is_passed_over(tmp_path, text):
    folder = tmp_path / "run"
    folder.mkdir()
    stay(tmp_path, "notes")
    stay(folder, "m-1.index")
    (folder / "m-1.manifest").write_text(text)
    saved(folder, 2, keep=1)
    saved(folder, 3, keep=1)
    assert (tmp_path / "notes").exists()
    assert [name for _, name in candidates(folder, "m")] == ["m-3", "m-1"]


def test_a_state_that_is_lost_is_made_again_of_the_manifests(tmp_path):
    for step in (1, 2):
        saved(tmp_path, step)
    (tmp_path / "checkpoint").unlink()
    saved(tmp_path, 3)
    assert state_in(tmp_path) == State("m-3", ("m-2", "m-3"), (2.0, 3.0), 1.0)
    assert [name for _, name in candidates(tmp_path, "m")] == ["m-3", "m-2"]


@pytest.mark.parametrize("loses", [False, True])
def test_what_stays_for_good_does_so_whatever_becomes_of_the_state(tmp_path, loses):
    for hour in range(6):
        if loses:
            (tmp_path / "checkpoint").unlink(missing_ok=True)
        save(tmp_path, f"m-{hour}", TENSORS, PIECES, Retention(1, 2.5), hour * HOUR)
    for step in (6, 7):  # the recipe does not ask for it any longer
        saved(tmp_path, step, keep=1, now=5 * HOUR + step)
    assert [name for _, name in candidates(tmp_path, "m")] == ["m-7", "m-3"]


def test_the_newest_is_the_one_saved_last_though_the_clock_went_back(tmp_path):
    for step, now in ((1, 3000.0), (2, 1000.0), (3, 2000.0)):
        saved(tmp_path, step, keep=2, now=now)
    assert [name for _, name in candidates(tmp_path, "m")] == ["m-3", "m-2"]


class Killed(BaseException):
    """In place of SIGKILL."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ends this at the call of such a number that changes a name, and every later one."""
    left = [number]

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return real(*words, **more)

        return call

    monkeypatch.setattr(checkpoints.os, "replace", guarded(os.replace))
    monkeypatch.setattr(Path, "unlink", guarded(Path.unlink))


@pytest.mark.parametrize("number", range(1, 16))
def test_wherever_it_is_killed_nothing_is_lost_and_nothing_is_left(tmp_path, monkeypatch, number):
    tf = pytest.importorskip("tensorflow")
    for step in (1, 2):
        saved(tmp_path, step, keep=2)
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        with contextlib.suppress(Killed):
            for step in (3, 4):
                saved(tmp_path, step, keep=2)
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert not found.damaged
    assert load_checkpoint_step(tf.train.latest_checkpoint(str(tmp_path))) in (found.step, found.step - 1)
    for step in (5, 6):
        saved(tmp_path, step, keep=2)
    checkpoints.tidy(tmp_path)
    ours = [f"m-{step}{ending}" for step in (5, 6) for ending in (".data-00000-of-00001", ".index", ".manifest")]
    assert names(tmp_path) == sorted([*ours, "checkpoint"])


def load_checkpoint_step(prefix: str) -> int:
    tf = pytest.importorskip("tensorflow")
    return int(tf.train.load_checkpoint(prefix).get_tensor("global_step"))


def test_a_file_that_is_not_what_its_manifest_says_is_damaged(tmp_path):
    """Such as one of another save, which is whole by itself."""
    for step in (1, 2):
        saved(tmp_path, step)
    for ending in (".index", ".data-00000-of-00001"):
        (tmp_path / f"m-2{ending}").write_bytes((tmp_path / f"m-1{ending}").read_bytes())
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert found.step == 1
    assert "m-2" in found.damaged[0]
    assert "this is not the file that was saved" in found.damaged[0]


def test_a_checkpoint_without_a_manifest_is_read_by_its_own_checksums(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "m-1.manifest").unlink()
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert (found.step, found.damaged) == (1, [])


def test_a_manifest_has_the_digests_that_sha256sum_prints(tmp_path):
    saved(tmp_path, 1)
    listed = manifests.read(tmp_path, "m-1")
    assert listed is not None
    assert listed.files == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("m-1.data-00000-of-00001", "m-1.index")
    }


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_a_folder_is_no_fault(tmp_path, monkeypatch, code):
    real = os.fsync

    def sync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", sync)
    if code == errno.EIO:
        assert refusal(checkpoints.write_text, tmp_path / "f", "new").status == 5
    else:
        checkpoints.write_text(tmp_path / "f", "new")
        assert (tmp_path / "f").read_text() == "new"


def test_the_same_step_again_is_one_checkpoint(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 1, now=9.0)
    assert state_in(tmp_path) == State("m-1", ("m-1",), (9.0,), 1.0)


@pytest.mark.parametrize("name", ["lr=[0.1,x]", "a b", "größe", "what?*"])
def test_folders_and_checkpoints_may_be_called_anything(tmp_path, name):
    (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        saved(tmp_path / name, step, keep=1, stem=name)
    found = load_newest(tmp_path / name, name, KEYS)
    assert found is not None
    assert found.step == 3
    assert len(names(tmp_path / name)) == 4


def test_tensorflow_finds_the_newest_even_in_a_folder_that_was_moved(tmp_path):
    tf = pytest.importorskip("tensorflow")
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run", 7)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert tf.train.latest_checkpoint(str(tmp_path / "moved")) == str(tmp_path / "moved" / "m-7")


def test_a_damaged_newest_one_is_passed_over_and_named(tmp_path):
    for step in (1, 2):
        saved(tmp_path, step)
    (tmp_path / "m-2.data-00000-of-00001").write_bytes(b"")
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert found.step == 1
    assert len(found.damaged) == 1
    assert "m-2" in found.damaged[0]


def test_only_damaged_ones_are_an_error(tmp_path):
    stay(tmp_path, "m-1.index", "m-2.index")
    error = refusal(load_newest, tmp_path, "m", KEYS)
    assert (error.code, error.where, error.status) == ("storage", str(tmp_path), 5)
    assert error.what == "none of the 2 checkpoints can be read"
    assert error.todo == "remove the run folder to start anew"
    assert len(str(error).splitlines()) == 2


def test_none_is_no_error(tmp_path):
    assert load_newest(tmp_path, "m", KEYS) is None


def test_a_disk_that_is_full_is_an_error_and_leaves_what_was_there(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    error = refusal(saved, tmp_path, 2)
    assert (error.where, error.status) == (str(tmp_path / "m-2.manifest"), 5)
    assert error.what == "cannot be written: No space left on device"
    assert re.match("free some space", error.todo)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.parametrize("function", ["mkdir", "open"])
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path, monkeypatch, function):
    saved(tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, function, fail)
    error = refusal(saved, tmp_path, 2)
    assert error.status == 5
    assert error.what == "cannot be written: Read-only file system"


def test_a_manifest_that_a_loss_of_power_has_brought_back_goes(tmp_path: Path):
    manifest = manifests.Manifest("model-4", 1, 0.0, 0.0, {"model-4.index": "", "model-4.data-00000-of-00001": ""})
    (tmp_path / "model-4.manifest").write_text(manifest.text())
    (tmp_path / "model-5.manifest").write_text("{}")  # lists nothing, so it is somebody else's
    checkpoints.clear(tmp_path, "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model-5.manifest"]
