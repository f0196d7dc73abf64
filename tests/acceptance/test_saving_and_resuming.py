"""What is promised of saves, of going on from them, and of jobs that are ended: each case by its number."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.compose import Composed, compose
from finetune.errors import UserError
from finetune.results.lock import LOCK
from finetune.running import patience
from tests.running.test_training import ALL, HEAD, WORDS, everything, logged, start

ALL_OF_IT = [*WORDS, f"phases=[{HEAD},{ALL}]", "stop_gradient=false", "train.ema=0.5", "train.accumulate=2"]


@pytest.fixture(scope="module")
def composed() -> Composed:
    return compose(ALL_OF_IT)


@pytest.fixture(scope="module")
def whole(composed: Composed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(composed, folder) == 0
    return folder


def half(whole: Path, folder: Path, step: int = 4) -> Path:
    """The same run as it was after a step, when its process was killed."""
    shutil.copytree(whole, folder)
    for file in (folder / "checkpoints").iterdir():
        number = file.name.partition("-")[2].partition(".")[0]
        if number.isdigit() and int(number) > step:
            file.unlink()
    for pair in ("model", "best"):
        shutil.rmtree(folder / pair, ignore_errors=True)
    record = folder / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def assert_ends_as(whole: Path, folder: Path) -> None:
    ours, undisturbed = everything(folder), everything(whole)
    assert ours["model/model.index"] == undisturbed["model/model.index"]
    assert ours["checkpoints/model-7.index"] == undisturbed["checkpoints/model-7.index"]
    assert logged(folder) == logged(whole)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_83_a_step_is_said_to_be_saved_after_its_files_and_their_folder_are_synced(tmp_path):
    command = ["strace", "-f", "-y", "-qq", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write"]
    words = [*WORDS, "train.steps=2", f"run.dir={tmp_path / 'run'}"]
    command += ["-o", str(tmp_path / "calls"), sys.executable, "-m", "finetune", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    calls = (tmp_path / "calls").read_text(errors="replace").splitlines()
    folder = str(tmp_path / "run" / "checkpoints")

    def first(pattern: str, after: int = 0) -> int:
        return next(n for n, call in enumerate(calls) if n >= after and re.search(pattern, call))

    for step in (1, 2):
        said = first(rf'write\(1<.*"saved step {step}\b')
        index = first(rf'rename.*"{re.escape(folder)}/model-{step}\.index"')
        data = first(rf'rename.*"{re.escape(folder)}/model-{step}\.data')
        data_synced, index_synced = (first(rf"fsync\(.*/model-{step}\.{part}") for part in ("data", "index"))
        whole = first(rf"fsync\(\d+<{re.escape(folder)}>", after=index)
        listed = first(rf'rename.*"{re.escape(folder)}/model-{step}\.manifest"')
        assert max(data_synced, index_synced) < listed < data < index < whole < said


def test_85_files_that_may_not_grow_cost_no_save_that_there_was(whole, composed, tmp_path, monkeypatch):
    """As under `ulimit -f`, which ends programs that do not heed its signal."""
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    folder = half(whole, tmp_path / "run")
    before = {name: content for name, content in digests(folder).items() if name.startswith("checkpoints/model-")}
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "checkpoints" / "model-4.data-00000-of-00001").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, most))
    try:
        with pytest.raises(UserError, match="cannot be written: File too large"):
            start(composed, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert {
        name: content for name, content in digests(folder).items() if name.startswith("checkpoints/model-")
    } == before
    assert start(composed, folder) == 0
    assert_ends_as(whole, folder)


def test_90_what_killed_writers_left_is_removed_at_the_start_and_nothing_else(whole, composed, tmp_path):
    folder = half(whole, tmp_path / "run")
    orphans = [folder / "checkpoints" / ".writing-model-5.4711", folder / ".writing-best.4711"]
    for orphan in orphans:
        orphan.mkdir()
        (orphan / "model-5.index").touch()
    (folder / ".writing-run.json.4711").touch()
    kept = [folder / "checkpoints" / "model-5.index.bak", folder / "notes.txt", folder / ".writing-mine"]
    for file in kept:
        file.write_text("mine")
    assert start(composed, folder) == 0
    assert [path for path in folder.rglob(".writing-*")] == [folder / ".writing-mine"]
    assert all(file.read_text() == "mine" for file in kept)
    assert_ends_as(whole, folder)


def test_90_a_run_killed_before_it_had_a_recipe_is_begun_again(whole, composed, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.lock").touch()
    (folder / ".writing-recipe.yaml.4711").touch()
    assert start(composed, folder) == 0
    assert not list(folder.rglob(".writing-*"))
    assert_ends_as(whole, folder)


def test_91_a_second_process_in_a_run_folder_ends_at_once_with_2(tmp_path):
    command = [sys.executable, "-m", "finetune", "recipe=vgg_2class", "run.dir=run", "train.steps=100000"]
    command += ["train.epochs=null", "cache.mode=off"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "run" / LOCK).exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert second.returncode == 2
            assert f"'run' is in use by process {first.pid} on " in second.stderr
        finally:
            first.kill()


def test_92_a_copy_goes_on_and_the_original_stays_as_it_is(whole, composed, tmp_path):
    original = half(whole, tmp_path / "original")
    before = digests(original)
    shutil.copytree(original, tmp_path / "copy")
    assert start(composed, tmp_path / "copy") == 0
    assert digests(original) == before
    assert_ends_as(whole, tmp_path / "copy")


def test_93_a_folder_that_was_moved_goes_on(whole, composed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = half(whole, tmp_path / "run").rename(tmp_path / "elsewhere" / "other")
    assert start(composed, moved) == 0
    assert_ends_as(whole, moved)


def test_94_what_was_saved_last_is_told_by_its_step_and_not_by_the_clock(whole, composed, tmp_path):
    folder = half(whole, tmp_path / "run")
    for number, file in enumerate(sorted((folder / "checkpoints").iterdir())):
        os.utime(file, (10**9 - number * 10**6,) * 2)
    assert start(composed, folder) == 0
    assert "goes on after step 4" in (folder / "train.log").read_text()
    assert_ends_as(whole, folder)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_95_one_bit_in_the_newest_checkpoint_costs_a_warning_and_a_step(whole, composed, tmp_path, place, capsys):
    folder = half(whole, tmp_path / "run")
    data = next((folder / "checkpoints").glob("model-4.data-00000-of-*"))
    content = bytearray(data.read_bytes())
    content[int(len(content) * place)] ^= 4
    data.write_bytes(content)
    assert start(composed, folder) == 0
    said = capsys.readouterr().out
    assert "goes on after step 3" in said
    assert "warning: a newer checkpoint is damaged and passed over: " in said
    assert "model-4" in said
    assert_ends_as(whole, folder)


def test_96_where_all_are_damaged_nothing_begins_anew_by_itself(whole, composed, tmp_path):
    folder = half(whole, tmp_path / "run")
    for index in (folder / "checkpoints").glob("*.index"):
        index.write_bytes(index.read_bytes()[:-7])
    before = digests(folder)
    with pytest.raises(UserError, match="none of the 4 checkpoints can be read; remove the run folder") as refused:
        start(composed, folder)
    assert refused.value.status == 5
    assert digests(folder) == before


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00garbage", b'model_checkpoint_path: "../../elsewhere"\n'])
def test_97_a_state_file_that_says_nothing_is_no_loss(whole, composed, tmp_path, content):
    folder = half(whole, tmp_path / "run")
    state = folder / "checkpoints" / "checkpoint"
    state.unlink()
    if content is not None:
        state.write_bytes(content)
    assert start(composed, folder) == 0
    assert "goes on after step 4" in (folder / "train.log").read_text()
    assert_ends_as(whole, folder)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_99_files_may_be_read_by_whom_the_umask_lets(composed, tmp_path, mask):
    before = os.umask(mask)
    try:
        assert start(composed, tmp_path / "run") == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        assert (path, path.stat().st_mode & 0o777) == (path, (0o777 if path.is_dir() else 0o666) & ~mask)


def test_100_what_a_later_finetune_wrote_is_refused_with_its_version(whole, composed, tmp_path):
    folder = half(whole, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["format"] += 1
    record["versions"]["finetune"] = "9.8"
    (folder / "run.json").write_text(json.dumps(record))
    before = digests(folder)
    with pytest.raises(UserError, match=r"was written by finetune 9\.8, in a format that .* does not know"):
        start(composed, folder)
    assert digests(folder) == before


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_101_whatever_the_step_it_went_on_from_the_bits_are_the_same(whole, composed, tmp_path, step):
    folder = half(whole, tmp_path / "run", step)
    assert start(composed, folder) == 0
    assert_ends_as(whole, folder)


def test_107_data_that_changed_is_named(whole, composed, tmp_path, monkeypatch):
    folder = half(whole, tmp_path / "run")
    record = folder / "run.json"
    text = record.read_text()
    at = text.index('"training": "') + len('"training": "')
    record.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    with pytest.raises(UserError, match="training changed since this run began"):
        start(composed, folder)


def test_108_a_finished_run_says_so_and_writes_nothing(whole, composed, capsys):
    before = digests(whole)
    assert start(composed, whole) == 0
    assert capsys.readouterr().out.startswith("finished: ")
    assert digests(whole) == before


def test_108_a_page_that_a_kill_came_before_is_made_then(whole, composed, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert start(composed, tmp_path / "run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert digests(tmp_path / "run") == digests(whole)


def test_110_after_kills_no_step_is_told_of_twice(whole, composed, tmp_path):
    folder = half(whole, tmp_path / "run")  # whose log goes on beyond its newest checkpoint
    assert start(composed, folder) == 0
    steps = [entry["step"] for entry in logged(folder) if entry["phase"] == "eval"]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("after", [0.05, 0.5, 1.5, 3.0])
def test_114_a_signal_before_the_first_step_leaves_nothing_half_done(tmp_path, after):
    command = [sys.executable, "-m", "finetune", "recipe=vgg_2class", "run.dir=run", "train.steps=100000"]
    command += ["train.epochs=null"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    # Until Python has begun, the signal is the system's.
    assert process.returncode in (75, -signal.SIGTERM), err
    if process.returncode == 75:
        assert err == "interrupted by SIGTERM; the same command goes on\n"
    again = subprocess.run(
        [*command[:-2], "train.steps=2", "train.epochs=null"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr


def test_118_after_a_kill_the_next_start_says_so(tmp_path):
    command = [sys.executable, "-m", "finetune", *WORDS, "train.steps=100000", f"run.dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("saved step 2"))
        process.kill()  # as the kernel does where memory is out
    again = [word.replace("100000", "5") for word in command]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"process {process.pid} on ")
    first, second, *_ = done.stdout.splitlines()
    assert first.endswith("was ended from outside: killed, out of memory, or without power")
    assert "goes on after step" in second


@pytest.mark.parametrize("name", ["run[lr=0.1]", "größer als", "a*b?", "-run", "it's"])
def test_140_a_run_folder_may_be_called_anything(whole, composed, tmp_path, name):
    folder = half(whole, tmp_path / name)
    beside = tmp_path / "runl"  # what a pattern would take run[lr=0.1] for
    beside.mkdir()
    (beside / "model-1.index").write_text("mine")
    assert start(composed, folder) == 0
    assert (beside / "model-1.index").read_text() == "mine"
    assert_ends_as(whole, folder)
