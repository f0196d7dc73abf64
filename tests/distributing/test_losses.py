"""One that never comes, a cut network, a chief that is killed in a save: noticed in time, and not a bit is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.distributing.test_workers import FINETUNE, trained, workers
from tests.running.test_training import everything, logged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def assert_same(ours: Path, undisturbed: Path) -> None:
    """All that the undisturbed run has, bit by bit; where it was disturbed there may be one more checkpoint."""
    expected, found = everything(undisturbed), everything(ours)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert logged(ours) == logged(undisturbed)


def test_124_a_worker_that_never_comes_is_named_within_a_minute(tmp_path: Path):
    run = tmp_path / "run"
    with workers(run, 3, begins=[FINETUNE, FINETUNE, ["true"]]) as team:
        team[0].until(r"^waiting for worker 2 \(127.0.0.1:\d+\)$")
        began = time.monotonic()
        assert [one.status() for one in team[:2]] == [75, 75]
        assert time.monotonic() - began < 50  # of the minute a few seconds went by before
        for one in team[:2]:
            said = re.findall(r"^error\[machine\] .*", one.said, re.MULTILINE)
            assert [line.partition(" has not come ")[0] for line in said] == [
                f"error[machine] run.workers: worker 2 ({team[2].address})"
            ]
    assert not run.exists()


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_124_who_waits_hears_a_signal_and_leaves_nothing(asked: int, number: signal.Signals, tmp_path: Path):
    run = tmp_path / "run"
    begins = [["true"], ["true"]]
    begins[asked] = FINETUNE
    with workers(run, 2, begins=begins) as team:
        team[asked].until("^waiting for ")
        began = time.monotonic()
        team[asked].process.send_signal(number)
        assert team[asked].status() == 75, team[asked].said
        assert time.monotonic() - began < 10  # a second or two, and the end of an interpreter on a busy machine
        assert f"interrupted by {number.name}; the same command goes on" in team[asked].said
    assert not run.exists()


# Finetune that waits for TensorFlow for five seconds, and a worker that meets the others and then is gone.
HASTY = """
import sys
import finetune.distributing.joining as joining
joining.WAIT = 5.0
from finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
GONE = """
import re, sys
from finetune.distributing.cluster import Cluster
from finetune.distributing.meeting import meet
(workers,) = re.findall(r"run.workers=\\[(.*?)\\]", " ".join(sys.argv))
meet(Cluster(tuple(workers.split(",")), 1, "run.workers"), 100.0)
"""


def test_a_worker_that_is_killed_between_the_meeting_and_the_joining_is_named(tmp_path: Path):
    begins = [[sys.executable, "-c", HASTY], [sys.executable, "-c", GONE]]
    with workers(tmp_path / "run", 2, begins=begins) as team:
        assert team[1].status() == 0, team[1].said
        met = time.monotonic()
        assert team[0].status() == 75, team[0].said
        assert time.monotonic() - met < 40
        assert f"run.workers: worker 1 ({team[1].address}) did not join the workers that had met" in team[0].said
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class Networks:
    """Two machines with a network of their own each, and a bridge between; `enters` are commands that run in them."""

    hosts: tuple[str, str]
    enters: tuple[list[str], list[str]]
    between: list[str]

    def cut(self) -> None:
        """From here on nothing arrives, and nobody is told: neither machine loses its own end of the cable."""
        subprocess.run([*self.between, "ip", "link", "set", "bridge", "down"], check=True)

    def mend(self) -> None:
        subprocess.run([*self.between, "ip", "link", "set", "bridge", "up"], check=True)


@contextmanager
def networks() -> Iterator[Networks]:
    """By namespaces of the kernel's, for which it takes no rights where it gives them to anybody."""
    if not all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        pytest.skip("unshare, nsenter and ip are needed for networks of our own")
    with ExitStack() as ends:

        def opened(*before: str, more: str = "") -> list[str]:
            command = [*before, "unshare", *more.split(), "--net", "sh", "-c", "echo open; exec sleep 3600"]
            process = ends.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            ends.callback(process.kill)
            assert process.stdout is not None
            if process.stdout.readline() != b"open\n":
                pytest.skip("this kernel gives us no network of our own")
            return ["nsenter", "--target", str(process.pid), "--user", "--net", "--preserve-credentials"]

        between = opened(more="--map-root-user")
        both = opened(*between), opened(*between)
        hosts = "10.77.0.1", "10.77.0.2"

        def ip(where: list[str], words: str) -> None:
            subprocess.run([*where, "ip", *words.split()], check=True)

        ip(between, "link add bridge type bridge")
        ip(between, "link set bridge up")
        for number, (host, enter) in enumerate(zip(hosts, both, strict=True)):
            ip(between, f"link add cable{number} type veth peer name inner{number}")
            ip(between, f"link set cable{number} master bridge up")
            ip(between, f"link set inner{number} netns {enter[2]}")
            ip(enter, "link set lo up")
            ip(enter, f"addr add {host}/24 dev inner{number}")
            ip(enter, f"link set inner{number} up")
        yield Networks(hosts, both, between)


def test_122_a_network_that_is_cut_is_noticed_and_the_run_goes_on_with_the_same_bits(tmp_path: Path):
    words = ["train.steps=600", "eval.every_steps=100", "checkpoint.every_steps=200", "train.log_every_steps=5"]
    whole = trained(tmp_path / "whole", 2, *words)
    run = tmp_path / "run"
    with networks() as net:
        begins = [[*enter, *FINETUNE] for enter in net.enters]
        with workers(run, 2, *words, begins=begins, hosts=net.hosts) as team:
            team[0].until(r"train \| step +20 ")
            net.cut()
            began = time.monotonic()
            assert [one.status() for one in team] == [75, 75], [one.said for one in team]
            assert time.monotonic() - began < 30
            assert "interrupted by the loss of " in team[0].said
            assert "interrupted by the loss of " in team[1].said
            (saved,) = re.findall(r"^saved step (\d+)$", team[0].said, re.MULTILINE)
        net.mend()
        with workers(run, 2, *words, begins=begins, hosts=net.hosts) as team:
            assert [one.status() for one in team] == [0, 0], [one.said for one in team]
            assert f"goes on after step {saved}" in team[0].said
    assert_same(run, whole)


# Finetune that is killed where it would give a file its name.
KILLED = """
import os, signal, sys
replace = os.replace

def killed(source, target):
    if os.fspath(target).endswith("FILE"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = killed
from finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("undisturbed") / "run", 2)


@pytest.mark.parametrize("file", ["model-8.data-00000-of-00001", "model-8.manifest", "model-8.index"])
def test_125_a_chief_that_is_killed_in_a_save_costs_that_save_alone(file: str, undisturbed: Path, tmp_path: Path):
    run = tmp_path / "run"
    killed = [sys.executable, "-c", KILLED.replace("FILE", file)]
    with workers(run, 2, begins=[killed, FINETUNE]) as team:
        assert team[0].status() == -signal.SIGKILL, team[0].said
        began = time.monotonic()
        assert team[1].status() == 75, team[1].said
        assert time.monotonic() - began < 30
    assert not (run / "checkpoints" / "model-8.index").exists()
    with workers(run, 2) as team:
        assert [one.status() for one in team] == [0, 0], [one.said for one in team]
        assert "goes on after step 4" in team[0].said
    assert_same(run, undisturbed)
