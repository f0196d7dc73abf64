"""A run folder is one process's at a time, and a process that ends, however it does, leaves no lock behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.results.lock import LOCK, alone_in

HOLD = """
import sys, time
from pathlib import Path
from finetune.results.lock import alone_in
with alone_in(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(100)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_cannot_be_removed_does_not_hide_what_ends_a_run(tmp_path, monkeypatch):
    def refused(path, missing_ok=False):
        raise OSError(28, "No space left on device", str(path))

    def broken() -> None:
        with alone_in(tmp_path / "run", wait=False, tell=print):
            monkeypatch.setattr(Path, "unlink", refused)
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        broken()


def test_a_second_process_is_refused_and_told_whose_the_folder_is(tmp_path: Path):
    with holder(tmp_path / "run") as process:
        try:
            with pytest.raises(UserError) as refused, alone_in(tmp_path / "run", wait=False):
                pass
            said = str(refused.value)
            assert f"'{tmp_path / 'run'}' is in use by process {process.pid} on " in said
            assert "run.wait=true" in said
            assert refused.value.status == 2
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            told: list[str] = []
            with alone_in(tmp_path / "run", wait=False, tell=told.append):
                assert (tmp_path / "run" / LOCK).exists()
            (line,) = told
            assert line.startswith(f"process {process.pid} on ")
            assert line.endswith(" was ended from outside: killed, out of memory, or without power")
            with alone_in(tmp_path / "run", wait=False, tell=told.append):
                assert len(told) == 1
        finally:
            process.kill()


def test_one_that_waits_is_told_once_and_then_has_it(tmp_path: Path):
    said: list[str] = []
    with holder(tmp_path) as process:
        looked = 0

        def check() -> None:
            nonlocal looked
            looked += 1
            if looked == 3:
                process.kill()

        with alone_in(tmp_path, wait=True, tell=said.append, check=check):
            assert looked >= 3
    assert len(said) == 2
    assert said[0].startswith(f"waiting for {tmp_path}, which is in use by process {process.pid}")


def test_one_that_waits_has_its_turn_where_the_other_removes_what_it_made_for_nothing(tmp_path: Path):
    folder, held = tmp_path / "runs" / "run", threading.Event()
    said: list[str] = []

    def first() -> None:
        with alone_in(folder, wait=False):
            held.set()
            while not said:
                time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(first)
        held.wait()
        with alone_in(folder, wait=True, tell=said.append, check=ended.result):
            assert (folder / LOCK).exists()
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_removed_before_the_lock_is_in_it_is_made_again(tmp_path: Path, monkeypatch):
    folder, real, left = tmp_path / "run", Path.open, [1]

    def opened(path: Path, *words: Any, **more: Any) -> Any:
        if path.name == LOCK and left:
            left.pop()
            path.parent.rmdir()
        return real(path, *words, **more)

    monkeypatch.setattr(Path, "open", opened)
    with alone_in(folder, wait=False):
        assert (folder / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_what_was_made_for_nothing_is_removed_and_nothing_else(tmp_path: Path):
    with alone_in(tmp_path / "a" / "b" / "run", wait=False):
        pass
    assert not list(tmp_path.iterdir())
    with alone_in(tmp_path / "run", wait=False):
        (tmp_path / "run" / "recipe.yaml").touch()
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    (tmp_path / "empty").mkdir()
    with alone_in(tmp_path / "empty", wait=False):
        pass
    assert not list((tmp_path / "empty").iterdir())


def test_a_file_that_was_removed_before_it_was_locked_counts_for_nothing(tmp_path: Path, monkeypatch):
    real, left = fcntl.flock, [1]

    def flock(file, how):
        if left:
            left.pop()
            (tmp_path / LOCK).unlink()
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path, wait=False):
        assert (tmp_path / LOCK).exists()
        with pytest.raises(UserError), alone_in(tmp_path, wait=False):
            pass


def test_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    said: list[str] = []
    with alone_in(tmp_path, wait=False, tell=said.append):
        pass
    assert said == [
        f"warning: the file system of {tmp_path} has no locks: see to it that no other process uses this folder"
    ]


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory") as said, alone_in(tmp_path / "file" / "run", wait=False):
        pass
    assert said.value.code == "storage"
