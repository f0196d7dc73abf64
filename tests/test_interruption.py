"""A run that is asked to end saves, ends with 75, and goes on; one that is asked again ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.interruption import AGAIN, SIGNALS, Interrupted, Interruption, heeding_signals, is_again
from tests.test_run import everything, finetune, logged

LONG = ["recipe=vgg_2class", "run.dir=run", "eval.every_steps=50", "train.log_every_steps=10", "cache.mode=off"]


@pytest.fixture
def by_default() -> Iterator[None]:
    """Signals as a process has them that a shell starts in its foreground; tests may be run by nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_where_nothing_is_under_way_it_ends_at_once():
    def asked() -> None:
        with heeding_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Interrupted, match="SIGTERM"):
        asked()


def test_what_follows_does_not_disturb_the_end_that_the_first_one_has_begun(by_default: None):
    def asked(ended: list[str]) -> None:
        with heeding_signals():
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                ended.append("well")

    ended: list[str] = []
    with pytest.raises(Interrupted, match="SIGUSR1"):
        asked(ended)
    assert ended == ["well"]


def test_one_run_after_another_in_a_process_begins_with_a_request_that_the_one_before_has_left():
    interruption = Interruption()
    interruption.wait()
    interruption.ask(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        interruption.begin()


@pytest.mark.parametrize("number", SIGNALS)
def test_113_where_something_is_it_waits_for_a_good_place(number: signal.Signals, by_default: None):
    with heeding_signals() as interruption:
        interruption.wait()
        interruption.check()
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert interruption.by == number.name
        with pytest.raises(Interrupted, match=number.name):
            interruption.check()


def test_113_a_storm_of_signals_is_one_request(by_default: None):
    with heeding_signals() as interruption:
        interruption.wait()
        for _ in range(200):
            for number in SIGNALS:
                os.kill(os.getpid(), number)
        time.sleep(0.1)
        assert interruption.by


def test_what_was_ignored_stays_ignored_and_what_was_there_before_comes_back():
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda n, _: heard.append(n))
    try:
        with heeding_signals() as interruption:
            interruption.wait()
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not interruption.by
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])


def test_in_another_thread_there_are_no_signals():
    found: list[Interruption] = []

    def work() -> None:
        with heeding_signals() as interruption:
            found.append(interruption)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].by == ""


# What holds the interpreter's main thread for minutes, and lets others run, as TensorFlow does.
BUSY = """
import hashlib
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in what they start in the background
from finetune.interruption import heeding_signals
with heeding_signals() as interruption:
    interruption.wait()
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_112_the_same_again_or_a_person_ends_it_in_the_middle_of_a_long_call(again: signal.Signals):
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            time.sleep(AGAIN / 4)
            process.send_signal(signal.SIGTERM)  # the same request
            time.sleep(AGAIN)
            assert process.poll() is None
            process.send_signal(signal.SIGUSR1)  # the next step of a scheduler, which kills by itself
            time.sleep(AGAIN / 2)
            assert process.poll() is None
            process.send_signal(again)
            assert process.wait(timeout=10) == 128 + again
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "after", "asked", "ends"),
    [
        ("SIGTERM", 60, [], False),
        ("SIGTERM", 60, ["SIGUSR1"], False),  # Slurm: the time is over, and a save may be under way
        ("SIGTERM", 60, ["SIGUSR1", "SIGTERM"], True),
        ("SIGHUP", 60, ["SIGINT"], False),  # a terminal that is closed after Ctrl-C
        ("SIGINT", 60, ["SIGTERM"], True),
        ("SIGINT", 60, ["SIGINT"], True),
        ("SIGINT", AGAIN / 2, ["SIGINT", "SIGTERM"], False),
    ],
)
def test_who_asks_again(number: str, after: float, asked: list[str], ends: bool):
    before = {int(signal.Signals[name]): 0.0 for name in asked}
    assert is_again(signal.Signals[number], after, before) is ends


def _asked_to_end(folder: Path, at: str, number: signal.Signals, *words: str) -> tuple[int, str, str]:
    """What a run says and leaves that is sent a signal as soon as its log has a line like this."""
    command = [sys.executable, "-m", "finetune", *LONG, *words]
    log = folder / "run" / "train.log"
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not (log.exists() and at in log.read_text()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err
        finally:
            process.kill()


def test_111_113_a_run_that_is_asked_to_end_saves_and_goes_on_bit_identical(tmp_path: Path):
    for place in ("asked", "whole"):
        (tmp_path / place).mkdir()
    words = ["train.steps=120", "train.epochs=null"]
    status, out, err = _asked_to_end(tmp_path / "asked", "train | step     20", signal.SIGUSR1, *words)
    assert (status, err) == (75, "interrupted by SIGUSR1; the same command goes on\n")
    last = out.splitlines()[-1]
    assert last.startswith("saved step ")
    log = (tmp_path / "asked" / "run" / "train.log").read_text().splitlines()
    assert [line[20:] for line in log[-2:]] == [last, "interrupted by SIGUSR1; the same command goes on"]
    step = int(last.split()[-1])
    assert 20 <= step < 120
    again = finetune(*LONG, *words, cwd=tmp_path / "asked")
    assert again.returncode == 0, again.stderr
    assert f"goes on after step {step}," in again.stdout.splitlines()[0]
    assert finetune(*LONG, *words, cwd=tmp_path / "whole").returncode == 0
    for prefix in ("checkpoints/model-120", "model/model"):
        ours, undisturbed = (everything(tmp_path / place / "run" / prefix) for place in ("asked", "whole"))
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in undisturbed.items()
        }
    assert logged(tmp_path / "asked" / "run") == logged(tmp_path / "whole" / "run")


def test_a_sweep_that_is_asked_to_end_starts_no_other_job(tmp_path: Path):
    words = ["--multirun", "train.steps=100000", "train.epochs=null", "run.seed=1,2", "run.dir=run/${run.seed}"]
    (tmp_path / "run").mkdir()
    log = tmp_path / "run" / "train.log"
    log.symlink_to(tmp_path / "run" / "1" / "train.log")
    status, out, err = _asked_to_end(tmp_path, "train | step     20", signal.SIGTERM, *words)
    assert status == 75
    assert "interrupted by SIGTERM" in err
    assert "run/2" not in out
    assert not (tmp_path / "run" / "2").exists()
