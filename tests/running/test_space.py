"""A disk that has no room for what a run will write is told of before the first step."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.compose import compose
from finetune.errors import UserError
from finetune.running import space
from finetune.running.space import files_at, free_at
from tests.running.test_training import WORDS, start

Usage = namedtuple("Usage", "total used free")
PAIR = 1_000_000  # bytes, about: more than the golden's


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 0, free))


def test_85_too_little_space_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with_free(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"a checkpoint and the pair take .* and 0.001 MB may be written there") as said:
        start(compose(WORDS), tmp_path / "deep" / "run")
    assert said.value.status == 5
    assert not list(tmp_path.iterdir())


def test_85_too_little_space_for_all_checkpoints_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with_free(monkeypatch, PAIR)
    assert start(compose([*WORDS, "checkpoint.keep=100000"]), tmp_path / "run") == 0
    assert "warning: 100000 checkpoints and the pair take" in capsys.readouterr().out
    assert start(compose([*WORDS, "checkpoint.keep=1"]), tmp_path / "other") == 0
    assert "warning" not in capsys.readouterr().out


def test_so_is_a_disk_that_takes_no_more_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.statvfs

    def statvfs(place: Path) -> SimpleNamespace:
        found = real(place)
        return SimpleNamespace(f_files=1000, f_favail=7, f_frsize=found.f_frsize, f_bavail=found.f_bavail)

    monkeypatch.setattr(space.os, "statvfs", statvfs)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 0, 10**12))
    with pytest.raises(UserError, match=r"a run leaves some 40 files, and 7 may be made there \(df -i\)") as said:
        start(compose(WORDS), tmp_path / "run")
    assert said.value.status == 5
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_does_not_count_files_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(space.os, "statvfs", lambda place: SimpleNamespace(f_files=0, f_favail=0))
    assert files_at(tmp_path / "not" / "there") is None


def test_what_is_free_is_asked_of_the_nearest_folder_that_is_there(tmp_path: Path):
    assert free_at(tmp_path / "not" / "there") > 0
    (tmp_path / "file").touch()
    assert free_at(tmp_path / "file" / "below") == 0
