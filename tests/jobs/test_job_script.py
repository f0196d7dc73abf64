"""What a job's script does with exit statuses and signals, with programs in the place of the run and of Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.jobs import job_folder
from finetune.jobs.cluster_words import Cluster
from finetune.jobs.job_script import Order, script

# A run: writes that it began, waits until it is asked to end, if it is to wait, and ends with the next status.
RUN = """
import os, signal, sys, time
here = os.path.dirname(os.path.abspath(__file__))
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))
statuses = open(os.path.join(here, "statuses")).read().split()
with open(os.path.join(here, "begun"), "a") as file:
    file.write(f"{sys.argv[1:]} {os.getcwd()}\\n")
status = statuses[len(open(os.path.join(here, "begun")).readlines()) - 1]
while status.startswith("wait") and not asked:
    time.sleep(0.01)
time.sleep(0.1 if asked else 0)
sys.exit(int(status.removeprefix("wait")))
"""

SQUEUE = """#!/bin/bash
cat "$STATE"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$ASKED"
"""


def order(folder: Path, **changed: object) -> Order:
    here = folder / "a folder"
    here.mkdir(exist_ok=True)
    values = {"folder": folder / "job 1", "name": "x", "tasks": 1, "is_sweep": False, "here": here, "command": ["a"]}
    return Order(**{**values, **changed})  # type: ignore[arg-type]


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    """Makes a job whose run ends with these statuses, one after the other."""

    def make(cluster: Cluster, *statuses: str, **changed: object) -> Path:
        what = order(tmp_path, **changed)
        code = what.folder / "code"
        code.mkdir(parents=True)
        (code / "__main__.py").write_text(RUN)
        (code / "statuses").write_text(" ".join(statuses))
        (what.folder / "job.sh").write_text(script(what, cluster))
        return what.folder

    return make


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands in name only, for a job that is RUNNING; gives the file of what scontrol was asked."""
    (tmp_path / "bin").mkdir()
    for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin/sleep").write_text("#!/bin/bash\n")  # the script waits for Slurm to end it
    (tmp_path / "bin/sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "state").write_text("RUNNING\n")
    return tmp_path / "asked"


def begun(folder: Path) -> list[str]:
    file = folder / "code/begun"
    return file.read_text().splitlines() if file.exists() else []


def run(folder: Path, *words: str) -> int:
    return subprocess.run(["bash", folder / "job.sh", *words], capture_output=True, timeout=60, check=False).returncode


def asked(folder: Path, number: signal.Signals, after: Callable[[], object] = lambda: None) -> int:
    """The exit status of a script that is sent a signal once its run has begun."""
    with subprocess.Popen(["bash", folder / "job.sh"], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not begun(folder):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        after()
        process.send_signal(number)
        return process.wait(timeout=60)


def events(folder: Path) -> list[str]:
    return [line[25:] for line in job_folder.events_of(folder, 0).read_text().splitlines()]


@pytest.mark.parametrize("status", [0, 2, 3, 4, 70])
@pytest.mark.parametrize("kind", ["slurm", "local", "kubernetes"])
def test_what_is_no_request_to_come_again_is_the_end(job, slurm: Path, kind: str, status: int):
    folder = job(Cluster(kind=kind, python=sys.executable), str(status), "0")
    assert run(folder) == status
    here = folder.parent / "a folder"
    assert begun(folder) == [f"['recipe={folder}/frozen-0.yaml'] {here}"]
    assert events(folder)[1:] == [f"ended with {status}"]
    assert not slurm.exists()


def test_slurm_is_asked_to_put_a_running_job_back_when_it_has_saved(job, slurm: Path):
    assert run(job(Cluster(), "75")) == 75
    assert slurm.read_text() == "requeue 7\n"


def test_a_job_of_an_array_is_named_by_its_array(job, slurm: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    folder = job(Cluster(at_once=2), "75", tasks=3, is_sweep=True)
    assert run(folder) == 75
    assert slurm.read_text() == "requeue 5_2\n"
    assert "recipe=" + str(folder / "frozen-2.yaml") in begun(folder)[0]
    assert "#SBATCH --array=0-2%2\n" in (folder / "job.sh").read_text()


def test_on_a_full_disk_the_job_is_held_until_there_is_room(job, slurm: Path):
    assert run(job(Cluster(), "5")) == 5
    assert slurm.read_text() == "requeuehold 7\n"


@pytest.mark.parametrize("state", ["COMPLETING", ""])
def test_a_job_that_slurm_ends_itself_is_not_put_back(job, slurm: Path, state: str):
    (slurm.parent / "state").write_text(state)
    folder = job(Cluster(), "75")
    assert run(folder) == 75
    assert not slurm.exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_who_asks_the_script_asks_the_run(job, slurm: Path, number: signal.Signals):
    folder = job(Cluster(), "wait75")
    assert asked(folder, number) == 75
    assert slurm.read_text() == "requeue 7\n"
    assert events(folder)[1] == "ended with 75, begins again: scontrol requeue"


def test_a_run_that_saves_is_not_asked_again(job, slurm: Path):
    folder = job(Cluster(), "0")
    (folder / "code/__main__.py").write_text(
        "import os, signal, time\n"
        "heard = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))\n"
        "for number in (signal.SIGUSR1, signal.SIGTERM):\n"
        "    os.kill(os.getppid(), number)\n"
        "    time.sleep(0.5)\n"
        "raise SystemExit(len(heard))\n"
    )
    assert run(folder) == 1


def test_a_cancelled_job_saves_and_does_not_begin_again(job, slurm: Path):
    folder = job(Cluster(), "wait75")
    assert asked(folder, signal.SIGUSR1, (folder / "cancelled").touch) == 75
    assert not slurm.exists()
    assert run(folder) == 0
    assert len(begun(folder)) == 1


def test_a_task_that_is_cancelled_by_itself_does_not_begin_again(job, slurm: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    folder = job(Cluster(), "wait75", "75", tasks=3, is_sweep=True)
    assert asked(folder, signal.SIGUSR1, (folder / "cancelled-2").touch) == 75
    assert not slurm.exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert run(folder) == 75
    assert slurm.read_text() == "requeue 5_1\n"


def test_a_run_that_is_asked_before_it_can_hear_begins_again(job, slurm: Path):
    folder = job(Cluster(), "75")
    (folder / "code/__main__.py").write_text(
        "import os, signal\nos.kill(os.getppid(), signal.SIGUSR1)\nsignal.pause()\n"
    )
    assert run(folder) == 75
    assert slurm.read_text() == "requeue 7\n"


def test_on_this_machine_it_begins_again_until_it_is_done(job):
    folder = job(Cluster(kind="local"), "75", "75", "0")
    assert run(folder) == 0
    told = job_folder.events(folder, 0)
    assert (told.starts, told.status, len(begun(folder))) == (3, 0, 3)


def test_on_this_machine_term_is_for_good(job):
    assert asked(job(Cluster(kind="local"), "wait75", "0"), signal.SIGTERM) == 75


def test_on_this_machine_a_sweep_goes_through_its_tasks(job):
    folder = job(Cluster(kind="local", at_once=2), "3", "3", "3", tasks=3, is_sweep=True)
    run(folder)
    assert sorted(line.split("frozen-")[1][0] for line in begun(folder)) == ["0", "1", "2"]
    assert [job_folder.events(folder, task).status for task in range(3)] == [3, 3, 3]


def test_on_this_machine_a_task_that_is_cancelled_is_passed_over(job):
    folder = job(Cluster(kind="local"), "0", "0", tasks=3, is_sweep=True)
    (folder / "cancelled-1").touch()
    run(folder)
    assert sorted(line.split("frozen-")[1][0] for line in begun(folder)) == ["0", "2"]
    assert "cancelled before it began" in job_folder.events_of(folder, 1).read_text()


def test_several_processes_are_started_by_srun_and_keep_each_other_alive(tmp_path: Path):
    text = script(order(tmp_path), Cluster(nodes=2, tasks=4, cpus=3, gpus="2", mem="8G", time="60"))
    for line in ("nodes=2", "ntasks=4", "cpus-per-task=3", "gres=gpu:2", "mem=8G", "time=60", "signal=B:USR1@120"):
        assert f"#SBATCH --{line}\n" in text
    assert "srun --kill-on-bad-exit=0 --cpus-per-task=3 " in text


def test_a_word_of_several_lines_stays_a_comment(tmp_path: Path):
    text = script(order(tmp_path, command=["data.path=a\nrm b"]), Cluster())
    assert "\nrm b" not in text
    assert r"data.path=a\nrm b" in text


def test_lines_of_ones_own_are_where_they_belong(tmp_path: Path):
    cluster = Cluster(lines=["--constraint=a100", "#SBATCH --exclusive"], setup=["module load cuda"])
    text = script(order(tmp_path), cluster)
    head, _, body = text.partition("\ntask=")
    assert "#SBATCH --constraint=a100\n#SBATCH --exclusive\n" in head
    assert body.index("module load cuda") < body.index("export PYTHONSAFEPATH")
    assert f'#SBATCH "--chdir={tmp_path}/a folder"\n' in head
