"""The wire between a sweep and a trial: what goes up, what comes down, and what a cut does."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import pytest

from finetune.sweeping.wire import NAME, held, wire

ASKING = """
import os, sys
from finetune.sweeping.wire import held
goes_on = held(os.environ)
assert not [name for name in os.environ if name.startswith("FINETUNE_WIRE")]
for step in range(1, 10):
    if not goes_on(step, {"loss": 1 / step, "accuracy": float("nan")}):
        sys.exit(step)
"""
WAITING = """
import os, time
from finetune.sweeping.wire import held
held(os.environ)
print("ready", flush=True)
time.sleep(60)
"""


def start(program: str, end: object) -> subprocess.Popen[bytes]:
    number = end.fileno()  # type: ignore[attr-defined]
    environment = {**os.environ, NAME: str(number)}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment, pass_fds=[number], stdout=subprocess.PIPE)


def test_numbers_go_up_and_the_answer_comes_down():
    seen = []

    def goes_on(step, found):
        seen.append((step, found["loss"]))
        assert math.isnan(found["accuracy"])
        return step < 3

    with wire(goes_on) as end, start(ASKING, end) as process:
        assert process.wait(30) == 3
    assert seen == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_trial_whose_sweep_is_gone_is_asked_to_end():
    with wire() as end:
        process = start(WAITING, end)
        end.close()
        assert process.stdout is not None
        process.stdout.readline()
        assert process.poll() is None
    with process:  # the other end is closed now, as the system does it when a process has gone
        assert process.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("told", ["", "none", "99999"])
def test_a_process_that_is_no_trial_has_no_wire(told: str):
    assert held({NAME: told}) is None
    assert held({}) is None
