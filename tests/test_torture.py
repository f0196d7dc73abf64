"""The torture itself: its faults are those of machines, and a run of finetune comes through them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.torture import faults

    return faults


WRITES = """
import os, sys
place = sys.argv[1]

def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

def write(name, text, synced):
    with open(os.path.join(place, name), "w") as file:
        file.write(text)
    if synced:
        sync(os.path.join(place, name))

os.mkdir(place)
sync(os.path.dirname(place))
write("whole", "first", True)
write("empty", "lost", False)
sync(place)
write("whole", "second", False)
write("unnamed", "gone", True)
os.rename(os.path.join(place, "empty"), os.path.join(place, "renamed"))
"""


@pytest.fixture
def watch(faults: Any, tmp_path: Path) -> Any:
    (tmp_path / "disk").mkdir()
    return faults.Watch(faults.shim(tmp_path / "made"), tmp_path / "disk", tmp_path / "calls", tmp_path / "kept")


def write(watch: Any, **fault: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITES, str(watch.root / "run")]
    return subprocess.run(command, env=watch.environment(**fault), capture_output=True, text=True, check=False)


def texts(there: Mapping[str, Path]) -> dict[str, str]:
    return {path: place.read_text() for path, place in there.items() if not place.is_dir()}


def test_a_disk_without_power_has_what_was_synced(watch: Any):
    assert write(watch).returncode == 0
    assert texts(watch.now()) == {"run/whole": "second", "run/renamed": "lost", "run/unnamed": "gone"}
    assert texts(watch.without_power(names_survive=False)) == {"run/whole": "first", "run/empty": ""}


def test_or_all_names_and_the_contents_that_were_synced(watch: Any):
    assert write(watch).returncode == 0
    left = {"run/whole": "first", "run/renamed": "", "run/unnamed": "gone"}
    assert texts(watch.without_power(names_survive=True)) == left


def test_what_is_kept_of_a_disk_is_laid_out_again(faults: Any, watch: Any, tmp_path: Path):
    from benchmarks.torture.trees import keep, lay

    assert write(watch).returncode == 0
    now, tree = texts(watch.now()), keep(watch.now(), tmp_path / "pool")
    (watch.root / "run" / "more").touch()
    lay(tree, watch.root, tmp_path / "pool")
    assert texts(watch.now()) == now


def test_a_process_stops_before_each_call(watch: Any):
    command = [sys.executable, "-c", WRITES, str(watch.root / "run")]
    found = []
    with subprocess.Popen(command, env=watch.environment(1, many=100)) as process:
        while os.WIFSTOPPED(status := os.waitpid(process.pid, os.WUNTRACED)[1]):
            found.append(sorted(texts(watch.now())))
            process.send_signal(signal.SIGCONT)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert len(found) == len(watch.calls())
    assert [line.split()[1] for line in watch.calls()[:2]] == ["mkdir", "fsync"]
    assert found[0] == []
    assert found[-1] == ["run/empty", "run/unnamed", "run/whole"]  # the last call gives one of them another name


def test_or_that_call_fails(watch: Any, faults: Any):
    assert "No space left on device" in write(watch, at=3, how=str(faults.FULL)).stderr


BEGUN = "resume: run goes on after step 4, from checkpoints/model-4\nsaved step 6\n"


@pytest.mark.parametrize(
    ("status", "said", "saved", "outcome"),
    [
        (0, BEGUN, 4, "same"),
        (0, BEGUN, 6, "lost"),
        (0, "init: run begins at step 0 with the weights of model\n", 2, "lost"),
        (0, "finished: run has reached step 8\n", 8, "same"),
        (2, BEGUN, 4, "refused"),
    ],
)
def test_an_outcome_is_what_the_same_command_says(
    monkeypatch: pytest.MonkeyPatch, status: int, said: str, saved: int, outcome: str
):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.torture.__main__ import Ended, Verdict

    assert Verdict(Ended(status, said), is_same=True).outcome(saved) == outcome
    assert Verdict(Ended(0, BEGUN), is_same=False).outcome(0) == "other"


def test_who_is_ended_before_it_begins_has_lost_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.torture.__main__ import Ended

    assert not Ended(-10, "interrupted by SIGUSR2; the same command goes on\n").has_lost(4)
    assert not Ended(-9, "").has_lost(4)


def test_the_page_has_what_came_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.torture import table

    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.table(results) in table.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_ends_with_the_same_bits_wherever_it_was_ended(faults: Any, tmp_path: Path):
    from benchmarks.torture.__main__ import Torture, sides

    torture = Torture(sides(tmp_path / "everything.yaml")["finetune"], tmp_path / "finetune")
    draw = random.Random(1)
    moments = list(torture.moments(tmp_path / "contents"))
    assert len(moments) > 100
    for number in sorted(draw.sample(range(len(moments)), 6)):
        for fault, tree in moments[number].trees.items():
            outcome = torture.judge(tree, tmp_path / "contents").outcome(moments[number].saved)
            assert (number, fault, outcome) == (number, fault, "same")
    assert torture.full(draw.randrange(1, torture.calls)) == "same"
    assert torture.killed_at_random(30, draw) == "same"
    assert torture.stormed(draw) == "same"
