"""The torture itself: its faults are those of machines, and a run of finetune comes through them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
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


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_disk_without_power_has_what_was_synced(watch: Any):
    assert write(watch).returncode == 0
    assert contents(watch.root) == {"run/whole": "second", "run/renamed": "lost", "run/unnamed": "gone"}
    watch.lose_power(names_survive=False)
    assert contents(watch.root) == {"run/whole": "first", "run/empty": ""}


def test_or_all_names_and_the_contents_that_were_synced(watch: Any):
    assert write(watch).returncode == 0
    watch.lose_power(names_survive=True)
    assert contents(watch.root) == {"run/whole": "first", "run/renamed": "", "run/unnamed": "gone"}


def test_a_process_ends_at_its_call_or_that_fails(watch: Any, faults: Any):
    assert write(watch).returncode == 0
    calls = watch.calls()
    assert [line.split()[1] for line in calls[:2]] == ["mkdir", "fsync"]
    for at in range(1, len(calls) + 1):
        shutil.rmtree(watch.root / "run")
        assert write(watch, at=at).returncode == -9
        assert len(watch.calls()) == at
        (watch.root / "run").mkdir(exist_ok=True)
    shutil.rmtree(watch.root / "run")
    full = write(watch, at=3, how=str(faults.FULL))
    assert "No space left on device" in full.stderr


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
    for at in sorted(draw.sample(range(1, torture.calls + 1), 6)):
        assert (at, torture.killed(at)) == (at, "same")
        assert (at, torture.without_power(at, names_survive=bool(at % 2))) == (at, "same")
    assert torture.full(draw.randrange(1, torture.calls)) == "same"
    assert torture.killed_at_random(30, draw) == "same"
    assert torture.stormed(draw) == "same"
