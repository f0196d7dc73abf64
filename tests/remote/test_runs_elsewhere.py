"""Whole runs whose source, data and folder lie in a bucket, on machines that have nothing else in common."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_ports
from finetune import packaged
from tests.remote.cloud import Cloud, cloud

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = ["recipe=vgg_2class", "checkpoint.every_steps=50", "eval.every_steps=50"]
ELSEWHERE = [
    *WORDS,
    "source.path=gs://bucket/pairs/vgg",
    "data.path=gs://bucket/images",
    "run.dir=gs://bucket/runs/one",
]


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Cloud]:
    with cloud(tmp_path) as found:
        found.add(Path(packaged.asset("demo/small_vgg")), "pairs/vgg")
        found.add(Path(packaged.asset("demo/dress_coat")), "images")
        yield found


class Job:
    """A run on a machine of its own, as far as its disk is concerned."""

    def __init__(self, bucket: Cloud, machine: Path, *words: str):
        machine.mkdir(exist_ok=True)
        environment = {**os.environ, **bucket.environment, "XDG_CACHE_HOME": str(machine)}
        command = [sys.executable, "-m", "finetune", *words]
        self.process = subprocess.Popen(
            command, env=environment, cwd=machine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def until(self, pattern: str) -> None:
        end = time.monotonic() + 300
        while not re.search(pattern, self.said, re.MULTILINE):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def ended(self) -> int:
        self._thread.join(300)
        with suppress(OSError):
            self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same run, of which everything lies on one disk, and that nobody disturbs."""
    folder = tmp_path_factory.mktemp("here")
    command = [sys.executable, "-m", "finetune", *WORDS, "run.dir=run"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    return folder / "run"


def logged(text: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in text.splitlines()]
    return [
        {key: value for key, value in entry.items() if key not in ("time", "examples_per_second")} for entry in entries
    ]


def check_same(bucket: Cloud, here: Path) -> None:
    """The pair has the same bits, and the log the same numbers; nothing else is in the folder there."""
    names = {name.removeprefix("runs/one/") for name in bucket.objects if name.startswith("runs/one/")}
    files = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    without = {name for name in names if name and not name.endswith("/") and not name.startswith("tensorboard/")}
    assert without == {name for name in files if not name.startswith("tensorboard/")} | {"sent.json"}
    for name in files:
        if name.startswith(("model/model.data", "best/model.data")):
            assert bucket.objects[f"runs/one/{name}"] == (here / name).read_bytes(), name
    metrics = bucket.objects["runs/one/metrics.jsonl"].decode()
    assert logged(metrics) == logged((here / "metrics.jsonl").read_text())


def test_a_run_that_is_killed_goes_on_elsewhere(bucket: Cloud, here: Path, tmp_path: Path):
    first = Job(bucket, tmp_path / "a", *ELSEWHERE)
    first.until("saved step 50$")
    first.process.send_signal(signal.SIGKILL)
    first.ended()
    second = Job(bucket, tmp_path / "b", *ELSEWHERE)
    assert second.ended() == 0, second.said
    assert "was ended from outside" in second.said
    assert re.search(r"goes on after step (50|100|150)", second.said), second.said
    check_same(bucket, here)
    again = Job(bucket, tmp_path / "c", *ELSEWHERE)
    assert again.ended() == 0, again.said
    assert "finished: " in again.said


def test_a_run_that_is_asked_to_end_saves_there_and_lets_go(bucket: Cloud, here: Path, tmp_path: Path):
    first = Job(bucket, tmp_path / "a", *ELSEWHERE, "train.steps=100000")
    first.until("saved step 50$")
    first.process.send_signal(signal.SIGTERM)
    assert first.ended() == 75, first.said
    saved = int(re.findall(r"^saved step (\d+)$", first.said, re.MULTILINE)[-1])
    assert f"runs/one/checkpoints/model-{saved}.index" in bucket.objects
    assert "runs/one/run.lock" not in bucket.objects
    second = Job(bucket, tmp_path / "b", *ELSEWHERE, "train.steps=100000")
    second.until(f"goes on after step {saved}")
    second.process.send_signal(signal.SIGTERM)
    assert second.ended() == 75, second.said


def test_a_bucket_that_takes_nothing_for_a_while_is_waited_for(bucket: Cloud, here: Path, tmp_path: Path):
    job = Job(bucket, tmp_path / "a", *ELSEWHERE)
    job.until("saved step 50$")
    bucket.refuses = re.compile("^WRITE ")
    job.until("is not saved: gs://bucket/runs/one: cannot be written: .*403")
    bucket.refuses = re.compile("(?!)")
    assert job.ended() == 0, job.said
    assert "storage: the disk takes it again" in job.said
    check_same(bucket, here)


def test_two_workers_on_two_machines_share_nothing_but_the_bucket(bucket: Cloud, tmp_path: Path):
    first, second = free_ports(2)
    workers = f"run.workers=[127.0.0.1:{first},127.0.0.1:{second}]"
    jobs = [Job(bucket, tmp_path / name, *ELSEWHERE, workers, f"run.worker={n}") for n, name in enumerate("ab")]
    assert [job.ended() for job in jobs] == [0, 0], jobs[0].said + jobs[1].said
    assert "saved step 200" in jobs[0].said
    assert "runs/one/model/model.index" in bucket.objects


def test_the_verbs_take_a_run_from_there(bucket: Cloud, tmp_path: Path):
    job = Job(bucket, tmp_path / "a", *ELSEWHERE)
    assert job.ended() == 0, job.said
    for words, said in [
        (["list", "gs://bucket/runs"], "one"),
        (["evaluate", "gs://bucket/runs/one"], "accuracy"),
        (["predict", "gs://bucket/runs/one", "gs://bucket/images/coat"], "coat"),
        (["export", "gs://bucket/runs/one", "--to", "savedmodel", "--out", "out"], "out"),
        (["report", "gs://bucket/runs/one", "--out", "page.html"], "page.html"),
        (["inspect", "gs://bucket/runs/one/model"], "fc7:0"),
    ]:
        found = Job(bucket, tmp_path / "b", *words)
        assert found.ended() == 0, found.said
        assert said in found.said, found.said
    plain = f"import tensorflow as tf; print(tf.train.latest_checkpoint('{ELSEWHERE[-1][8:]}/model'))"
    plain += "; tf.compat.v1.disable_eager_execution(); saver = tf.compat.v1.train.import_meta_graph(PAIR + '.meta')"
    plain += "; session = tf.compat.v1.Session(); saver.restore(session, PAIR); print(session.run('head/bias:0').shape)"
    plain = plain.replace("PAIR", "'gs://bucket/runs/one/model/model'")
    environment = {**os.environ, **bucket.environment}
    read = subprocess.run([sys.executable, "-c", plain], env=environment, capture_output=True, text=True, check=True)
    assert read.stdout.splitlines() == ["gs://bucket/runs/one/model/model", "(2,)"]
    refused = Job(bucket, tmp_path / "b", "export", "gs://bucket/runs/one", "--to", "savedmodel")
    assert refused.ended() == 2
    assert "--out: not given, and the run is not on this machine; add --out FOLDER" in refused.said


def test_the_sixty_seconds_of_the_page(bucket: Cloud, tmp_path: Path):
    page = (Path(__file__).resolve().parents[2] / "docs/buckets.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.strip().splitlines():
        job = Job(bucket, tmp_path / "a", *line.split()[3:])
        assert job.ended() == 0, job.said
    assert (tmp_path / "a/one.html").stat().st_size > 10_000


def test_a_job_that_stays_on_this_machine_leaves_its_run_there(bucket: Cloud, here: Path, tmp_path: Path):
    submitted = Job(bucket, tmp_path / "a", "submit", *ELSEWHERE, "cluster=local")
    assert submitted.ended() == 0, submitted.said
    end = time.monotonic() + 300
    while b'"finished"' not in bucket.objects.get("runs/one/run.json", b"") or "runs/one/run.lock" in bucket.objects:
        assert time.monotonic() < end
        time.sleep(0.5)
    check_same(bucket, here)
    told = Job(bucket, tmp_path / "a", "submit", "--logs", *ELSEWHERE)
    assert told.ended() == 0, told.said
    assert "run.dir: gs://bucket/runs/one has all of it" in told.said
