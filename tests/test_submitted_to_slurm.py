"""Jobs under a real Slurm, which is started on loopback: whatever it does to them, they end as undisturbed runs do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.jobs import job_folder
from finetune.jobs.cluster_words import Cluster
from finetune.jobs.job_script import Order, script
from tests.distributing.test_workers import furthest
from tests.test_submitting import assert_same, checkout, command, mine, spoil, waited

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the scripts are in no package that is installed
from scripts.slurm_on_loopback import missing, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm: {missing()}"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a Slurm of four CPUs, in which examples are slow to read."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as environment:  # a socket's path is short
        yield {**environment, "SLOW": "0.03"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the recipe that is submitted below, trained without a job."""
    work = mine(tmp_path_factory.mktemp("undisturbed") / "work")
    command("recipe=mine.yaml", cwd=work, environment=dict(os.environ))
    return work / "runs/mine"


class Submitted:
    """A job of `mine.yaml`, submitted in a folder of its own."""

    def __init__(self, work: Path, environment: dict[str, str], *words: str):
        self.work, self.environment = mine(work), environment
        self.out = self.asked("recipe=mine.yaml", "cluster=slurm", *words)
        self.id = self.out.split()[1]
        self.run = self.work / "runs/mine"
        self.folder = self.work / "runs/mine.job/1"

    def asked(self, *words: str) -> str:
        """What `submit` says."""
        return command("submit", *words, cwd=self.work, environment=self.environment)

    def slurm(self, *words: str) -> str:
        """What a command of Slurm's says."""
        answer = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return answer.stdout

    def text(self, name: str) -> str:
        """A file of the job, or of its run; empty as long as it is not there."""
        places = [place / name for place in (self.folder, self.run)]
        return "".join(place.read_text() for place in places if place.exists())

    def reaches(self, step: int) -> None:
        """Waits until a step is logged."""
        waited(lambda: f"train | step {step:>6} " in self.text("train.log"), 300)

    def starts(self) -> int:
        """How often it has begun."""
        return self.text("events-0.txt").count("started on")

    def is_done(self) -> bool:
        """Whether it has come to the end of the run."""
        return "ended with 0" in self.text("events-0.txt")


def test_a_job_whose_time_is_too_short_goes_on_until_it_is_done(slurm, undisturbed: Path, tmp_path: Path):
    # Slurm asks 10 to 40 seconds after the start, and the examples alone take three quarters of a minute.
    slower, words = {**slurm, "SLOW": "0.1"}, ["cluster.time=1", "cluster.notice=20", "cluster.cpus=1"]
    job = Submitted(tmp_path / "my work", slower, *words)
    assert job.out == f"job: {job.id} (slurm)\nrun: {job.run}\n"
    waited(job.is_done, 500)
    assert job.starts() > 1
    assert f"{job.id}: done, requeued {job.starts() - 1} time" in job.asked("--status", "runs/mine")
    assert "interrupted by SIGUSR1" in job.asked("--logs", "runs/mine")
    assert_same(job.run, undisturbed)


def test_a_job_that_is_preempted_and_one_that_is_signalled_go_on(slurm, undisturbed: Path, tmp_path: Path):
    job = Submitted(tmp_path / "work", {**slurm, "SLOW": "0.015"})
    job.reaches(3)
    # What takes its place wants the whole node.
    job.slurm("sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1")
    waited(lambda: job.starts() == 2)
    saved = [line for line in job.text("train.log").splitlines() if "saved step" in line]
    assert saved  # by the preempted one, for the second has not begun yet
    waited(lambda: job.text("train.log").count("resume: ") == 1)
    job.reaches(12)
    job.slurm("scancel", "--signal=USR1", "--batch", job.id)
    waited(lambda: job.starts() == 3)
    waited(job.is_done, 300)
    assert "begins again: scontrol requeue" in job.text("events-0.txt")
    assert_same(job.run, undisturbed)


def test_two_workers_of_a_job_are_asked_and_go_on_together_to_the_result_of_one(
    slurm, undisturbed: Path, tmp_path: Path
):
    job = Submitted(tmp_path / "work", {**slurm, "SLOW": "0.01"}, "cluster.tasks=2", "cluster.cpus=1")
    job.reaches(5)
    job.slurm("scancel", "--signal=USR1", "--batch", job.id)
    waited(job.is_done, 400)
    assert job.starts() == 2
    assert job.text("train.log").count("distribute: 2 workers, 2 replicas (") == 2
    assert "by Slurm" in job.text("train.log")
    assert furthest(job.run, undisturbed) < 1e-5  # Adam divides by small numbers, which makes more of rounding


# The first start is asked to end; the second finds the disk full; the third is done.
SEVERAL = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
open(f"{os.path.dirname(__file__)}/{start}-{os.environ['SLURM_PROCID']}", "w").close()
while start == 0 and not asked:
    time.sleep(0.1)
time.sleep(int(os.environ["SLURM_PROCID"]))  # one is ready later than the other
sys.exit([75, 5, 0][start])
"""


def test_each_of_several_processes_is_asked_and_a_full_disk_holds_the_job(slurm, tmp_path: Path):
    job = tmp_path / "job"
    (job / "code").mkdir(parents=True)
    (job / "code/__main__.py").write_text(SEVERAL)
    text = script(Order(job, "several", 1, False, tmp_path, []), Cluster(tasks=2, cpus=1, notice=10))
    (job / "job.sh").write_text(text)

    def asked(*words: str) -> str:
        return subprocess.run(words, env=slurm, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    number = asked("sbatch", "--parsable", str(job / "job.sh"))
    waited(lambda: {path.name for path in (job / "code").glob("0-*")} == {"0-0", "0-1"})
    asked("scancel", "--signal=USR1", "--batch", number)
    # Slurm has several words for it, of which all have this.
    waited(lambda: "held" in asked("squeue", "--noheader", f"--jobs={number}", "--format=%r").lower())
    assert job_folder.events(job, 0).starts == 2
    asked("scontrol", "release", number)
    waited(lambda: job_folder.events(job, 0).status == 0)
    assert {path.name for path in (job / "code").glob("2-*")} == {"2-0", "2-1"}


def test_a_cancelled_job_has_saved_and_does_not_come_back(slurm, undisturbed: Path, tmp_path: Path):
    job = Submitted(tmp_path / "work", slurm)
    job.reaches(2)
    assert ": running on " in job.asked("--status", "runs/mine")
    job.asked("--cancel", "runs/mine")
    waited(lambda: "ended with 75\n" in job.text("events-0.txt"))
    waited(lambda: job.slurm("squeue", "--noheader", f"--jobs={job.id}").strip() == "")
    assert f"{job.id}: cancelled, step " in job.asked("--status", "runs/mine")
    # Submitted again it goes on; plain scancel takes it out as well.
    again = job.asked("recipe=mine.yaml", "cluster=slurm").split()[1]
    events = job.folder.with_name("2") / "events-0.txt"
    waited(lambda: job.text("train.log").count("resume: ") == 1)
    job.slurm("scancel", again)
    waited(lambda: "ended with 75\n" in events.read_text())
    waited(lambda: job.slurm("squeue", "--noheader", f"--jobs={again}").strip() == "")
    assert events.read_text().count("started on") == 1


def test_a_sweep_is_an_array_and_runs_what_was_submitted(slurm, undisturbed: Path, tmp_path: Path):
    environment = {**checkout(tmp_path / "checkout"), "SLURM_CONF": slurm["SLURM_CONF"]}
    work = mine(tmp_path / "work")
    recipe = work / "mine.yaml"
    recipe.write_text(recipe.read_text().replace("run: {dir: runs/mine}\n", ""))
    words = ["recipe=mine.yaml", "train.learning_rate=1e-3,1e30,2e-3"]
    held = ["cluster.setup=until [ -e spoilt ]; do sleep 0.1; done", "cluster.at_once=2"]
    out = command("submit", "-m", *words, "cluster=slurm", *held, cwd=work, environment=environment)
    assert "\nruns: 3, " in out
    asked = {"cwd": work, "environment": {**os.environ, "SLURM_CONF": slurm["SLURM_CONF"]}}
    place = str(next((work / "runs").glob("*.job")))
    spoil(tmp_path / "checkout", work)
    (work / "spoilt").touch()

    def lines() -> list[str]:
        return command("submit", "--status", place, **asked).splitlines()

    waited(lambda: not any("running" in line or "pending" in line for line in lines()), 300)
    first, second, third = lines()
    assert ": done, step 60 saved: " in first
    assert ": failed with status 4 (see submit --logs)" in second
    assert ": done, step 60 saved: " in third
    assert "error[numerics]" in command("submit", "--logs", place, **asked)
    assert_same(Path(first.rpartition(": ")[2]), undisturbed)


def test_a_run_of_a_sweep_is_cancelled_and_the_others_go_on(slurm, tmp_path: Path):
    work = mine(tmp_path / "work")
    recipe = work / "mine.yaml"
    recipe.write_text(recipe.read_text().replace("run: {dir: runs/mine}\n", ""))
    words = ["recipe=mine.yaml", "train.learning_rate=1e-3,2e-3,3e-3", "cluster=slurm", "cluster.at_once=1"]

    def asked(*words: str) -> str:
        return command("submit", *words, cwd=work, environment=slurm)

    asked("-m", *words)
    (place,) = (work / "runs").glob("*.job")
    first, second, third = (line.rpartition(": ")[2] for line in asked("--status", str(place)).splitlines())

    def events(task: int) -> str:
        path = place / f"1/events-{task}.txt"
        return path.read_text() if path.exists() else ""

    def is_under_way(run: str) -> bool:
        log = Path(run) / "train.log"
        return log.exists() and "train | step      2 " in log.read_text()

    # What waits goes at once; what runs saves, and what waits behind it begins and is not asked.
    assert "cancelled: job " in asked("--cancel", third)
    waited(lambda: is_under_way(first))
    assert "_0: running on " in asked("--status", first)
    asked("--cancel", first)
    waited(lambda: "ended with 75\n" in events(0))
    waited(lambda: is_under_way(second))
    states = [line.split(": ")[1].split(",")[0] for line in asked("--status", str(place)).splitlines()]
    assert (states[0], states[1].split(" on ")[0], states[2]) == ("cancelled", "running", "cancelled")
    assert (events(1).count("started on"), events(1).count("ended with"), events(2)) == (1, 0, "")
    asked("--cancel", second)
    waited(lambda: "ended with 75\n" in events(1))
