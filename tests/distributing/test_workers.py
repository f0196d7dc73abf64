"""Several processes on loopback make one run: the result of one worker, saved and ended together whatever befalls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from finetune.reading.weights import read_index, read_tensors

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are in no package that is installed
from benchmarks.ports import free_ports

pytestmark = pytest.mark.slow

GOLDEN = ROOT / "tests" / "goldens" / "conv_ref"
WORDS = ["recipe=vgg_2class", f"source.path={GOLDEN}", "cut=fc7:0", "data.kind=synthetic", "head.classes=3"]
WORDS += ["source.feeds={keep_prob: 1.0}", "stop_gradient=false", "train.batch_size=8", "eval.probe=false"]
WORDS += ["cache.mode=off", "train.steps=12", "eval.every_steps=5", "checkpoint.every_steps=4", "checkpoint.keep=99"]
WORDS += ["train.log_every_steps=1", "train.clip_norm=1.0"]
FINETUNE = [sys.executable, "-m", "finetune"]
SLOWEST = 200.0  # seconds


class Worker:
    """One of the processes, and what it has said so far."""

    def __init__(self, command: Sequence[str], place: Path, address: str):
        self.said_at, self.address = place, address
        with place.open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self.said_at.read_text(encoding="utf-8")

    def until(self, pattern: str) -> None:
        end = time.monotonic() + SLOWEST
        while not re.search(pattern, self.said, re.MULTILINE):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def status(self) -> int:
        return self.process.wait(SLOWEST)


@contextmanager
def workers(
    run: Path,
    count: int,
    *more: str,
    each: Sequence[Sequence[str]] = (),
    begins: Sequence[Sequence[str]] = (),
    hosts: Sequence[str] = ("127.0.0.1",) * 4,
) -> Iterator[list[Worker]]:
    """The chief first; ended with all that they are, whatever happens. `begins` are what their commands begin with."""
    addresses = [f"{host}:{port}" for host, port in zip(hosts, free_ports(count), strict=False)]
    started = []
    try:
        for number in range(count):
            words = [*WORDS, *more, *(each[number] if each else ()), f"run.dir={run}"]
            words += [f"run.workers=[{','.join(addresses)}]", f"run.worker={number}"] if count > 1 else []
            place = run.with_name(f"{run.name}-{number}-{time.monotonic_ns()}.said")
            started.append(Worker([*(begins[number] if begins else FINETUNE), *words], place, addresses[number]))
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()


def trained(run: Path, count: int, *more: str) -> Path:
    with workers(run, count, *more) as team:
        statuses = [one.status() for one in team]
        assert statuses == [0] * count, [one.said for one in team]
    return run


def variables(run: Path, prefix: str = "model/model") -> dict[str, np.ndarray]:
    held = read_tensors(str(run / prefix), sorted(read_index(str(run / prefix))))
    return {name: value for name, value in held.items() if value.dtype.kind == "f"}


def furthest(first: Path, second: Path) -> float:
    ours, theirs = variables(first), variables(second)
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def logged(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("alone") / "run", 1)


@pytest.mark.parametrize("count", [2, 4])
def test_the_result_is_that_of_one_worker_but_for_rounding(count: int, alone: Path, tmp_path: Path):
    run = trained(tmp_path / "run", count)
    assert furthest(run, alone) < 1e-6
    entries = [(one["step"], one["phase"]) for one in logged(run)]
    assert entries == [(one["step"], one["phase"]) for one in logged(alone)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["run"]


def test_a_proxy_is_for_the_way_out_and_not_between_them(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """gRPC takes it also from one worker to another, and waits there for ever."""
    (nobody,) = free_ports(1)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert furthest(trained(tmp_path / "run", 2), alone) < 1e-6


def test_126_one_goes_on_where_two_were_and_two_where_one_was(alone: Path, tmp_path: Path):
    for before, after in ((1, 2), (2, 1)):
        run = tmp_path / f"{before}-{after}"
        trained(run, before, "train.steps=8")
        with workers(run, after) as team:
            assert [one.status() for one in team] == [0] * after
            assert "goes on after step 8" in team[0].said
            assert f"workers {before} then, {after} now" in team[0].said
        assert furthest(run, alone) < 1e-6


@pytest.mark.parametrize("asked", [0, 1])
def test_121_a_signal_to_any_of_them_has_all_save_one_step_and_end_with_75(asked: int, alone: Path, tmp_path: Path):
    run = tmp_path / "run"
    with workers(run, 2, "train.steps=100000", "eval.every_steps=100000", "checkpoint.every_steps=null") as team:
        team[0].until(r"train \| step +3 ")
        team[asked].process.send_signal(signal.SIGTERM)
        assert [one.status() for one in team] == [75, 75], [one.said for one in team]
        (saved,) = re.findall(r"^saved step (\d+)$", team[0].said, re.MULTILINE)
    last = max(int(str(one["step"])) for one in logged(run))
    assert int(saved) == last
    assert (run / "checkpoints" / f"model-{saved}.index").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_119_120_a_worker_that_is_gone_or_frozen_is_noticed_and_nothing_is_lost(number: signal.Signals, tmp_path: Path):
    run = tmp_path / "run"
    with workers(run, 2, "train.steps=100000", "eval.every_steps=100000", "checkpoint.every_steps=null") as team:
        team[0].until(r"train \| step +3 ")
        os.kill(team[1].process.pid, number)
        began = time.monotonic()
        assert team[0].status() == 75, team[0].said
        assert time.monotonic() - began < 30
        assert "interrupted by the loss of " in team[0].said
        (saved,) = re.findall(r"^saved step (\d+)$", team[0].said, re.MULTILINE)
    assert int(saved) == max(int(str(one["step"])) for one in logged(run))


@pytest.mark.parametrize(
    ("other", "named"),
    [(["train.learning_rate=0.5"], "train.learning_rate"), (["data.holdout=0.3"], "data.holdout")],
)
def test_123_a_worker_that_is_about_something_else_is_refused_by_name(other: list[str], named: str, tmp_path: Path):
    with workers(tmp_path / "run", 2, each=[[], other]) as team:
        assert [one.status() for one in team] == [2, 2], [one.said for one in team]
        for one in team:
            assert f"has another value of {named} than the chief" in one.said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path):
    with workers(tmp_path / "run", 2, "train.batch_size=7") as team:
        assert [one.status() for one in team] == [2, 2]
        assert "error[recipe] train.batch_size: 7 examples cannot be shared equally by 2 replicas" in team[0].said


def test_a_run_of_one_is_the_same_bits_whoever_is_said_to_be_alone(alone: Path, tmp_path: Path):
    run = trained(tmp_path / "run", 1, "distribute=none")
    assert furthest(run, alone) == 0.0


def test_the_sixty_seconds_of_the_page_are_what_it_says(tmp_path: Path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "workers.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=SLOWEST,
    )
    assert done.returncode == 0, done.stderr
    assert "distribute: 2 workers, 2 replicas (127.0.0.1:20101, 127.0.0.1:20102, by run.workers)" in done.stdout
    assert (tmp_path / "runs" / "vgg_2class" / "model" / "model.index").exists()
