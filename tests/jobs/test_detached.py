"""A process of this machine that is a job: it is known by its script, and asked by a signal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from finetune.jobs import detached
from finetune.jobs.job_folder import Job, events, mark_cancelled
from finetune.jobs.states import State

WAITS = """
trap 'echo "2026-01-01 00:00:00 job: ended with 75" >> {0}; exit 75' USR1
echo "2026-01-01 00:00:00 job: started on here, process $$" >> {0}
while :; do sleep 0.05; done
"""


def waited(is_there) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_runs_until_it_is_asked(tmp_path: Path):
    (tmp_path / "job.sh").write_text(WAITS.format(tmp_path / "events-0.txt"))
    job = Job(tmp_path, "local", detached.hand_over(tmp_path), os.uname().nodename, (tmp_path / "run",))
    assert (detached.states(job) or {})[0].waits or events(tmp_path, 0).starts
    waited(lambda: events(tmp_path, 0).starts)
    assert detached.states(job) == {0: State(runs=True, why=job.host)}
    assert os.getsid(int(job.id)) != os.getsid(0)
    detached.cancel(job, [0])
    waited(lambda: events(tmp_path, 0).status == 75)
    waited(lambda: detached.states(job) == {0: State()})


def test_a_task_that_is_cancelled_waits_no_more_and_the_others_do(tmp_path: Path):
    (tmp_path / "job.sh").write_text(WAITS.format(tmp_path / "events-0.txt"))
    runs = tuple(tmp_path / f"run-{task}" for task in range(3))
    job = Job(tmp_path, "local", detached.hand_over(tmp_path), os.uname().nodename, runs)
    waited(lambda: events(tmp_path, 0).starts)
    mark_cancelled(job, [1])
    detached.cancel(job, [1])
    assert detached.states(job) == {0: State(runs=True, why=job.host), 1: State(), 2: State(waits=True)}
    mark_cancelled(job, [0, 1, 2])
    detached.cancel(job, [0, 1, 2])
    waited(lambda: detached.states(job) == {0: State(), 1: State(), 2: State()})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are asked for by ps")
def test_a_script_that_takes_the_place_of_its_shell_is_there(tmp_path: Path, monkeypatch):
    seen = [b"", b"", b"bash\0" + os.fsencode(tmp_path / "job.sh") + b"\0"]
    monkeypatch.setattr(Path, "read_bytes", lambda _: seen.pop(0))
    assert detached.states(Job(tmp_path, "local", "7", os.uname().nodename, (tmp_path,))) == {0: State(waits=True)}


def test_a_process_of_the_same_number_is_another(tmp_path: Path):
    here = Job(tmp_path, "local", str(os.getpid()), os.uname().nodename, (tmp_path / "run",))
    assert detached.states(here) == {0: State()}
    assert detached.states(Job(tmp_path, "local", "1", "elsewhere", ())) is None
