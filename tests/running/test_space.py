"""A disk that has no room for what a run will write is told of before the first step."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from finetune.compose import compose
from finetune.errors import UserError
from finetune.running.space import free_at
from tests.running.test_training import WORDS, start

Usage = namedtuple("Usage", "total used free")
PAIR = 1_000_000  # bytes, about: more than the golden's


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 0, free))


def test_it_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with_free(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"a checkpoint and the pair take .* and 0.001 MB may be written there") as said:
        start(compose(WORDS), tmp_path / "deep" / "run")
    assert said.value.status == 5
    assert not list(tmp_path.iterdir())


def test_too_little_for_all_checkpoints_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with_free(monkeypatch, PAIR)
    assert start(compose([*WORDS, "checkpoint.keep=100000"]), tmp_path / "run") == 0
    assert "warning: 100000 checkpoints and the pair take" in capsys.readouterr().out
    assert start(compose([*WORDS, "checkpoint.keep=1"]), tmp_path / "other") == 0
    assert "warning" not in capsys.readouterr().out


def test_what_is_free_is_asked_of_the_nearest_folder_that_is_there(tmp_path: Path):
    assert free_at(tmp_path / "not" / "there") > 0
    (tmp_path / "file").touch()
    assert free_at(tmp_path / "file" / "below") == 0
