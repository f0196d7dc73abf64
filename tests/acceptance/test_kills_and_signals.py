"""What is promised of runs that are killed and asked to end: each case by its number."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.compose import compose
from finetune.interruption import AGAIN
from finetune.results.report import Report
from tests.acceptance.test_saving_and_resuming import ALL_OF_IT, half
from tests.running.test_training import everything, logged, start

# A run that dies leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LAST = 41
EVERY_STEP = ["train.steps=41", "checkpoint.every_steps=1", "checkpoint.keep=50", "train.log_every_steps=1"]
STEPS = [*range(1, 21), *random.Random(0).choices(range(1, LAST), k=20)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_101_whatever_the_step_and_the_seed_the_bits_are_the_same(tmp_path: Path, seed: int):
    composed = compose([*ALL_OF_IT, *EVERY_STEP, f"run.seed={seed}"])
    assert start(composed, tmp_path / "whole") == 0
    undisturbed, told = everything(tmp_path / "whole"), logged(tmp_path / "whole")
    del undisturbed["best/model.index"]  # nobody knows any more what it was after each step
    for step in dict.fromkeys(STEPS):
        folder = half(tmp_path / "whole", tmp_path / str(step), step)
        assert start(composed, folder) == 0
        ours = everything(folder)
        assert (step, [name for name in undisturbed if ours.get(name) != undisturbed[name]]) == (step, [])
        assert (step, logged(folder)) == (step, told)
        shutil.rmtree(folder)


class Killed(BaseException):
    """In place of SIGKILL: nothing that the run does catches it."""


@contextlib.contextmanager
def killed_when_it_tells(number: int) -> Iterator[None]:
    """Kills what runs within where it tells of numbers for the so-manyth time."""
    left, tell = [number], Report.scalars

    def scalars(*words: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        tell(*words)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Report, "scalars", scalars)
        yield


@pytest.mark.slow
def test_103_thirty_kills_within_one_save_interval_cost_no_step_and_count_none_twice(tmp_path: Path):
    composed = compose([*ALL_OF_IT, "train.log_every_steps=1", "checkpoint.every_steps=5"])
    assert start(composed, tmp_path / "whole") == 0
    folder = tmp_path / "killed"
    for number in range(30):
        # An evaluation at 0, a step and an evaluation each; where the first phase ends, after step 2, there is a save.
        with killed_when_it_tells(1 + number % 5):
            pytest.fail(f"it is not killed, and ends with {start(composed, folder)}")
        assert not list(folder.glob("checkpoints/*.index"))
    assert start(composed, folder) == 0
    assert everything(folder) == everything(tmp_path / "whole")
    assert logged(folder) == logged(tmp_path / "whole")
    assert [entry["step"] for entry in logged(folder) if entry["phase"] == "train"] == [*range(1, 8)]


# Finetune on a disk that takes half a minute for one of its files.
SLOW = """
import os, signal, sys, time
replace = os.replace

def slowly(source, target):
    if os.fspath(target).endswith("model-3.index"):
        print("under way", flush=True)
        time.sleep(30)
    replace(source, target)

os.replace = slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in what they start in the background
from finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_112_a_second_signal_ends_a_save_under_way_at_once_and_the_one_before_is_whole(tmp_path: Path):
    composed = compose(ALL_OF_IT)
    assert start(composed, tmp_path / "whole") == 0
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SLOW, *ALL_OF_IT, f"run.dir={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(line == "under way\n" for line in process.stdout)
            process.send_signal(signal.SIGTERM)
            time.sleep(AGAIN * 1.5)
            assert process.poll() is None  # the save goes on
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 128 + signal.SIGINT
        finally:
            process.kill()
    assert not (folder / "checkpoints/model-3.index").exists()
    assert (folder / "checkpoints/model-2.index").exists()
    assert "saved step 3" not in (folder / "train.log").read_text()
    again = subprocess.run(
        [sys.executable, "-m", "finetune", *ALL_OF_IT, f"run.dir={folder}"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "goes on after step 2," in again.stdout
    assert everything(folder) == everything(tmp_path / "whole")
    assert logged(folder) == logged(tmp_path / "whole")


def test_138_what_is_wrong_with_recipe_and_data_is_said_at_once_and_before_tensorflow(tmp_path: Path):
    words = ["recipe=vgg_2class", "train.optimizer=adm", "train.learning_rate=-1", "data.path=nowhere"]
    words += [f"run.dir={tmp_path / 'run'}"]
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune", *words], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < 30
    assert said.returncode == 2
    lines = [line for line in said.stderr.splitlines() if not line.startswith("import time:")]
    assert len(lines) == 3
    for line, part in zip(lines, ["train.optimizer", "train.learning_rate", "data.path"], strict=True):
        assert part in line
    assert "tensorflow" not in {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
    assert not (tmp_path / "run").exists()
