"""A contender that really computes, in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from finetune.calibrating.contest import Failed
from finetune.calibrating.process import Process
from finetune.calibrating.setting import Setting

DEMO = [
    "recipe=vgg_2class",
    "stop_gradient=false",
    "train.steps=100",
    "train.batch_size=4",
    "data.augment.preset=light",
]


def test_it_computes_what_it_is_told_to_in_the_setting_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    contender = Process(Setting(onednn=True, threads=1), DEMO)
    try:
        assert contender.ready.onednn
        assert contender.ready.work.steps == 100
        for times in (contender.ready.times, contender.turn(), contender.turn()):
            assert min(times.forward, times.step) > 0
    finally:
        contender.close()
    assert list(tmp_path.iterdir()) == []  # it leaves nothing


def test_what_stops_one_is_said_in_a_line(tmp_path: Path):
    with pytest.raises(Failed, match=r"^exit status 1: error\[recipe\] cut: "):
        Process(Setting(), [*DEMO, "cut="])
    with pytest.raises(Failed, match=r"no answer in 0\.1 seconds"):
        Process(Setting(), DEMO, seconds=0.1)


def test_one_that_is_killed_is_missed(monkeypatch: pytest.MonkeyPatch):
    told = 'import sys, time; print(\'{"onednn": false, "gpus": 0, "work": {"forwards": 1, "steps": 1}, '
    told += '"times": {"forward": 1, "step": 1}}\', flush=True); sys.stdin.readline(); sys.exit(139)'
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen([command[0], "-c", told], **more))
    contender = Process(Setting(), [])
    with pytest.raises(Failed, match=r"^exit status 139$"):
        contender.turn()
    contender.close()
