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
    for number in (faults.FULL, *faults.FAILING):
        shutil.rmtree(watch.root / "run", ignore_errors=True)
        assert os.strerror(number) in write(watch, at=3, how=str(number)).stderr


CALLS = """
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
with open("file", "wb", buffering=0) as file, open(sys.executable, "rb") as other:
    os.writev(file.fileno(), [b"a", b"b"])
    os.pwrite(file.fileno(), b"c", 0)
    os.pwritev(file.fileno(), [b"d"], 0)
    os.sendfile(file.fileno(), other.fileno(), 0, 10)
    os.copy_file_range(other.fileno(), file.fileno(), 10)
    os.ftruncate(file.fileno(), 1)
    os.posix_fallocate(file.fileno(), 0, 10)
    os.fchmod(file.fileno(), 0o600)
os.truncate("file", 0)
os.chmod("file", 0o644)
os.link("file", "second")
os.symlink("file", "third")
os.close(libc.creat(b"fourth", 0o644))
os.rename("fourth", "fifth")
os.remove("fifth")
libc.remove(b"third")
os.mkdir("folder")
os.rmdir("folder")
"""


def test_every_kind_of_call_counts_and_fails(watch: Any, faults: Any):
    run = watch.root / "run"
    run.mkdir()
    command = [sys.executable, "-c", CALLS, str(run)]
    environment = watch.environment()
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    made = [line.split()[1] for line in watch.calls()]
    assert len(made) == len(CALLED)  # with or without 64, at, 2
    assert [(name, called) for name, called in zip(CALLED, made, strict=True) if not called.startswith(name)] == []
    for at in range(1, len(made) + 1):
        shutil.rmtree(run)
        run.mkdir()
        failed = subprocess.run(command, env=watch.environment(at, str(faults.FULL)), capture_output=True, check=False)
        assert (at, failed.returncode) == (at, 1 if made[at - 1] != "remove" else 0)


CALLED = ["open", "writev", "pwrite", "pwritev", "sendfile", "copy_file_range", "ftruncate", "posix_fallocate"]
CALLED += ["fchmod", "truncate", "chmod", "link", "symlink", "creat", "rename", "unlink", "remove", "mkdir", "rmdir"]


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
def test_an_outcome_is_what_the_same_command_says(faults: Any, status: int, said: str, saved: int, outcome: str):
    from benchmarks.torture.lives import Ended
    from benchmarks.torture.torture import Verdict

    assert Verdict(Ended(status, said)).outcome(saved) == outcome
    assert Verdict(Ended(0, BEGUN), wrong=("x is lacking",)).outcome(0) == "other"
    assert Verdict(Ended(0, BEGUN), more=("x is there too",)).outcome(0) == "litter"


def test_who_is_ended_before_it_begins_has_lost_nothing(faults: Any):
    from benchmarks.torture.lives import Ended

    assert not Ended(-10, "interrupted by SIGUSR2; the same command goes on\n").has_lost(4)
    assert not Ended(-9, "").has_lost(4)


def test_a_status_that_no_run_may_have_and_a_traceback_are_faults(faults: Any):
    from benchmarks.torture.lives import Ended

    allowed = frozenset({0, 5, 75, -15})
    assert [status for status in (0, 5, 75, 70, -15, -6, 1) if Ended(status, "").is_fault(allowed)] == [70, -6, 1]
    assert Ended(5, "Traceback (most recent call last):").is_fault(allowed)
    assert not Ended(-15, "Traceback (most recent call last):").is_fault(allowed)  # before there was anything to say


def test_files_of_others_are_there_by_content_and_inode(faults: Any, tmp_path: Path):
    from benchmarks.torture.decoys import Decoys

    decoys = Decoys(tmp_path)
    decoys.put()
    assert len(decoys) > 1000
    assert decoys.gone() == []
    run = tmp_path / "run"
    content = (run / "notes-3.txt").read_text()
    (run / "notes-3.txt").unlink()
    (run / "other").write_text(content)
    (run / "other").rename(run / "notes-3.txt")
    (run / "checkpoints/model-4.data").write_text("")
    (run / "tensorboard/model-5.file").unlink()
    (tmp_path / "run2/checkpoints/model-6.index").unlink()
    gone = {"run/notes-3.txt", "run/checkpoints/model-4.data", "run/tensorboard/model-5.file"}
    assert set(decoys.gone()) == gone | {"run2/checkpoints/model-6.index"}


def folder_of(place: Path, latest: int, listed: tuple[int, ...], there: tuple[int, ...]) -> Path:
    """A run folder with checkpoints that are texts."""
    (place / "checkpoints").mkdir(parents=True)
    (place / "run.json").write_text(json.dumps({"step": 8, "started": str(place)}))
    names = "".join(f'all_model_checkpoint_paths: "model-{step}"\n' for step in listed)
    (place / "checkpoints/checkpoint").write_text(f'model_checkpoint_path: "model-{latest}"\n{names}')
    for step in there:
        (place / f"checkpoints/model-{step}.meta").write_bytes(b"")
    return place


def test_what_a_run_leaves_is_compared(faults: Any, tmp_path: Path):
    from benchmarks.torture.remains import differences, litter, remains

    whole = remains(folder_of(tmp_path / "whole", 8, (6, 8), (6, 8)))
    asked = remains(folder_of(tmp_path / "asked", 8, (7, 8), (7, 8)))
    assert (differences(asked, whole, 8), litter(tmp_path / "asked", asked, whole)) == ([], [])
    folder_of(tmp_path / "other", 6, (4, 6), (4, 5, 6))
    (tmp_path / "other/run.json").write_text('{"step": 6}')
    (tmp_path / "other/.writing-run.json.1").touch()
    (tmp_path / "other/mine").touch()
    found = remains(tmp_path / "other", {"mine"})
    assert differences(found, whole, 8) == [
        "checkpoints/checkpoint has another content",
        "checkpoints/model-8.meta is lacking",
        "run.json has another content",
    ]
    assert litter(tmp_path / "other", found, whole) == [
        ".writing-run.json.1 is there too",
        "checkpoints/model-5.meta is there, and no state file lists it",
    ]


def test_the_table_says_how_often_runs_were_struck(faults: Any):
    from benchmarks.torture import table

    struck = {"strikes": 62, "training": 50, "most": 40, "seconds": 1.25}
    side = {"calls": 7, "outcomes": {"random": {"same": 2}, "term": {"litter": 1, "bug": 1}}}
    side["strikes"] = {"random": {**struck, "called": "kills"}, "term": {**struck, "called": "SIGTERMs"}}
    said = table.table({"sides": {"finetune": side}, "versions": {}, "machine": "one", "date": "today"})
    assert "| 2 of 2 the same bits; 62 kills in 2 runs, 50 of them in training, up to 40 of one |" in said
    assert "| 1 of 2 the same bits, 1 of them with files left over, 1 ended as no run should; 62 SIGTERMs in 2" in said
    assert "ended within 1.2 s |" in said


def test_the_page_has_what_came_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.torture import table

    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.table(results) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")


# What plain TensorFlow may come to, which syncs nothing, and ends where the disk is full.
MAY = {"finetune": {"same"}, "plain": {"same", "lost", "refused", "litter", "other", "ended"}}


def tortured(side: str, folder: Path, **size: int) -> Any:
    """A run of one side, the short one unless something else is asked for."""
    from benchmarks.torture.jobs import SHORT, jobs
    from benchmarks.torture.torture import Torture

    return Torture(jobs(folder, SHORT | size)[side], folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", MAY)
def test_79_82_wherever_a_run_is_ended_the_same_command_ends_with_the_same_bits(faults: Any, tmp_path: Path, side: str):
    torture = tortured(side, tmp_path)
    moments = list(torture.moments(tmp_path / "contents"))
    assert len(moments) > 50
    outcomes = []
    for number in sorted(random.Random(1).sample(range(len(moments)), 4)):
        for fault, tree in moments[number].trees.items():
            verdict = torture.judge(tree, tmp_path / "contents")
            outcomes.append((number, fault, verdict.outcome(moments[number].saved), verdict.wrong, verdict.more))
    assert [outcome for outcome in outcomes if outcome[2] not in MAY[side]] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", MAY)
def test_84_85_a_disk_that_takes_nothing_ends_no_run_for_good(faults: Any, tmp_path: Path, side: str):
    torture = tortured(side, tmp_path)
    at = torture.calls // 2
    found = {"full": torture.full(at), "failing": torture.failing(at), "stays": torture.stays_full(at)}
    assert {row: outcome for row, outcome in found.items() if outcome not in MAY[side]} == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strike", ["random", "term", "storm"])
@pytest.mark.parametrize("side", MAY)
def test_80_111_113_struck_again_and_again_a_run_ends_with_the_same_bits_and_files_of_others_stay(
    faults: Any, tmp_path: Path, side: str, strike: str
):
    from benchmarks.torture.lives import STRIKES

    torture = tortured(side, tmp_path, last=300, turn=20, evaluated=100)
    hunt = torture.hunt(STRIKES[strike], 3, random.Random(1))
    assert hunt.outcome in MAY[side]
    assert hunt.strikes == 3 or 0 in hunt.statuses
