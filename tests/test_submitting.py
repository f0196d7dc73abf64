"""Submitting: what is refused, what is frozen, and what is told of it; with programs in the place of Slurm's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from finetune import packaged
from finetune.__main__ import main
from finetune.jobs import sbatch
from finetune.sweeping.asked import asked
from tests.test_run import everything, logged

SUBMIT = ["submit", "recipe=vgg_2class"]

SBATCH = """#!/bin/bash
echo "$@" >> "$FAKE/sbatch.txt"
if grep -q partition=nope "${@: -1}"; then
    echo "sbatch: error: invalid partition specified: nope" >&2
    echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
    exit 1
fi
echo "46;somewhere"
"""
SQUEUE = '#!/bin/bash\ncat "$FAKE/queue"\n'
SCANCEL = '#!/bin/bash\necho "$@" >> "$FAKE/scancel.txt"\n'


@pytest.fixture
def slurm(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs with the names of Slurm's; gives the folder in which they note what they were asked."""
    fake = workdir / "fake"
    fake.mkdir()
    (fake / "queue").write_text("")
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    return fake


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["submit", *words]) == status
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == (status != 0)
    return captured.err if status else captured.out


def test_a_job_is_submitted_in_two_lines_and_one_folder(slurm: Path, workdir: Path, capsys):
    out = said(capsys, "recipe=vgg_2class", "train.steps=7", "run.dir=runs/seven", "cluster=slurm", "cluster.time=60")
    assert out == f"job: 46 (slurm)\nrun: {workdir}/runs/seven\n"
    folder = workdir / "runs/seven.job/1"
    assert (slurm / "sbatch.txt").read_text() == f"--parsable {folder}/job.sh\n"
    assert sorted(path.name for path in folder.iterdir()) == ["code", "frozen-0.yaml", "job.json", "job.sh"]
    recipe = yaml.safe_load((folder / "frozen-0.yaml").read_text())
    assert recipe["source"]["path"] == "${packaged:demo/small_vgg}"
    assert (recipe["train"]["steps"], recipe["run"]["dir"]) == (7, f"{workdir}/runs/seven")
    assert "cluster" not in recipe
    assert not (workdir / "runs/seven").exists()


def test_where_it_is_computed_is_no_part_of_the_run(slurm: Path, workdir: Path, capsys):
    first = said(capsys, "recipe=vgg_2class", "train.steps=7", "cluster=slurm")
    second = said(capsys, "recipe=vgg_2class", "train.steps=7", "cluster=slurm", "cluster.time=90", "cluster.mem=9G")
    assert first == second
    (place,) = (workdir / "runs").iterdir()
    assert [(place / n / "frozen-0.yaml").read_text() for n in "12"] == [(place / "1/frozen-0.yaml").read_text()] * 2


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["recipe=vgg_2class", "cut=nope"], 3, "error[source] cut: the graph has no tensor 'nope:0'"),
        (["recipe=vgg_2class", "train.stpes=3"], 2, "error[recipe] train.stpes: unknown key"),
        (["recipe=vgg_2class", "data.path=none"], 2, "error[data] "),
    ],
)
def test_a_bad_recipe_is_refused_as_it_is_in_training_and_nothing_is_submitted(
    slurm: Path, workdir: Path, words: Sequence[str], status: int, message: str, capsys
):
    assert main([*words, "run.dir=run"]) == status
    in_training = capsys.readouterr().err
    assert said(capsys, *words, "run.dir=run", "cluster=slurm", status=status) == in_training
    assert message in in_training
    assert [path.name for path in workdir.iterdir()] == ["fake"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=vgg_2class"], "error[recipe] cluster: not given; add cluster=slurm"),
        (["cluster=slurm"], "error[recipe] recipe: not given"),
        (["--status"], "error[recipe] --status: of which run?"),
        (["--status", "runs/x"], "runs/x' was not submitted"),
        (["--status", "--cancel", "runs/x"], "error[recipe] submit: one thing at a time"),
        (["--status", "--follow", "runs/x"], "error[recipe] --follow: goes with --logs"),
        (["--nope", "recipe=vgg_2class"], "error[recipe] submit: unrecognized arguments: --nope"),
        (["recipe=vgg_2class", "cluster=slurm", "train.steps=1,2"], "train.steps: '1,2' is several values"),
        (
            ["-m", "recipe=vgg_2class", "cluster=slurm", "train.ema=interval(0,0.9)", "hydra/sweeper=optuna"],
            "--multirun: chooses values",
        ),
        (
            ["-m", "recipe=vgg_2class", "cluster=slurm", "run.seed=1,2", "run.dir=x"],
            "2 trials of this sweep have the folder 'x'",
        ),
        (["recipe=vgg_2class", "cluster=kubernetes", "cluster.image=x"], "cluster.volumes: '"),
    ],
)
def test_wrong_words_are_refused(workdir: Path, words: Sequence[str], message: str, capsys):
    assert main(["submit", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(workdir.iterdir()) == []


def test_without_sbatch_it_says_so_and_leaves_nothing(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("PATH", str(workdir))
    assert "cluster: there is no sbatch on this machine" in said(capsys, *SUBMIT[1:], "cluster=slurm", status=2)
    assert list(workdir.iterdir()) == []


def test_what_slurm_refuses_is_told_in_its_words_and_leaves_nothing(slurm: Path, workdir: Path, capsys):
    err = said(capsys, *SUBMIT[1:], "cluster=slurm", "cluster.partition=nope", status=2)
    assert err.startswith("error[recipe] cluster: Slurm refuses the job: invalid partition specified: nope; Batch job")
    assert list((workdir / "runs").iterdir()) == []


def test_the_script_can_be_seen_before(slurm: Path, workdir: Path, capsys):
    out = said(capsys, *SUBMIT[1:], "cluster=slurm", "--dry-run")
    assert out.startswith("#!/bin/bash\n#SBATCH --job-name=vgg_2class\n")
    assert [path.name for path in workdir.iterdir()] == ["fake"]


def test_a_run_that_is_finished_is_not_submitted(slurm: Path, workdir: Path, whole_run: Path, capsys):
    recipe = yaml.safe_load((whole_run / "recipe.yaml").read_text())
    Path("same.yaml").write_text(yaml.safe_dump({**recipe, "run": {**recipe["run"], "dir": str(whole_run)}}))
    assert said(capsys, "recipe=same.yaml", "cluster=slurm").startswith(f"finished: {whole_run} (step 4): ")
    assert not (slurm / "sbatch.txt").exists()


@pytest.mark.parametrize(
    ("queue", "events", "standing"),
    [
        ("N/A|PENDING|Priority|\n", "", "pending (Priority)"),
        ("N/A|RUNNING|None|node1\n", "started on node1, process 7\n", "running on node1"),
        ("N/A|PENDING|BeginTime|\n", "started\nended with 75, begins again: x\n", "pending (BeginTime)"),
        ("N/A|RUNNING|None|n\n", "started\nended with 75, begins again: x\nstarted\n", "running on n, requeued 1 time"),
        ("N/A|FAILED|NonZeroExitCode|n\n", "started\nended with 3\n", "failed with status 3 (see submit --logs)"),
        ("", "started\n", "failed: it was ended from outside"),
        ("", "", "gone before it began"),
    ],
)
def test_status_is_what_the_queue_the_script_and_the_run_say(
    slurm: Path, workdir: Path, queue: str, events: str, standing: str, capsys
):
    said(capsys, *SUBMIT[1:], "cluster=slurm")
    (slurm / "queue").write_text(queue)
    lines = "".join(f"2026-01-01 00:00:00 job: {line}\n" for line in events.splitlines())
    (workdir / "runs/vgg_2class.job/1/events-0.txt").write_text(lines)
    assert said(capsys, "--status", "runs/vgg_2class") == f"46: {standing}: {workdir}/runs/vgg_2class\n"
    assert said(capsys, "--status", "recipe=vgg_2class") == f"46: {standing}: {workdir}/runs/vgg_2class\n"


def test_a_job_that_is_there_is_not_submitted_again_but_one_that_is_over_is(slurm: Path, workdir: Path, capsys):
    said(capsys, *SUBMIT[1:], "cluster=slurm")
    (slurm / "queue").write_text("N/A|PENDING|Priority|\n")
    assert "job 46 is there for it already" in said(capsys, *SUBMIT[1:], "cluster=slurm", status=2)
    (slurm / "queue").write_text("")
    said(capsys, *SUBMIT[1:], "cluster=slurm")
    assert sorted(path.name for path in (workdir / "runs/vgg_2class.job").iterdir()) == ["1", "2"]


def test_cancelling_takes_out_what_waits_and_asks_what_runs(slurm: Path, workdir: Path, capsys):
    words = ["-m", *SUBMIT[1:], "train.learning_rate=1e-2,1e-3,1e-4", "cluster=slurm"]
    said(capsys, *words)
    (slurm / "queue").write_text("0|COMPLETED|None|n\n1|RUNNING|None|n\n2|PENDING|JobArrayTaskLimit|\n")
    assert said(capsys, *words, "--cancel").startswith("cancelled: job 46; ")
    assert (slurm / "scancel.txt").read_text() == "46_2\n--signal=USR1 --batch 46_1\n"
    (folder,) = (workdir / "runs").glob("*.job/1")
    assert (folder / "cancelled").exists()
    assert [line.split(": ")[1] for line in said(capsys, *words, "--status").splitlines()] == [
        "cancelled",
        "asked to save and to end",
        "pending (JobArrayTaskLimit)",
    ]


def test_a_sweep_is_an_array_of_the_runs_that_multirun_makes(slurm: Path, workdir: Path, started: list, capsys):
    words = ["recipe=vgg_2class", "train.learning_rate=1e-2,1e-3", "run.seed=3"]
    out = said(capsys, "-m", *words, "cluster=slurm", "cluster.at_once=1")
    folders = [job.composed.recipe.run.dir for job in asked(words).jobs]
    (job,) = (workdir / "runs").glob("*.job")
    assert out == f"job: 46 (slurm)\nruns: 2, see submit --status {job.with_suffix('')}\n"
    assert json.loads((job / "1/job.json").read_text())["runs"] == [f"{workdir}/{folder}" for folder in folders]
    rates = [yaml.safe_load((job / f"1/frozen-{n}.yaml").read_text())["train"]["learning_rate"] for n in (0, 1)]
    assert rates == [0.01, 0.001]
    assert "#SBATCH --array=0-1%1\n" in (job / "1/job.sh").read_text()


SWEPT = ["recipe=vgg_2class", "train.learning_rate=1e-2,1e-3,1e-4"]
QUEUE = "0|COMPLETED|None|n\n1|RUNNING|None|n\n2|PENDING|JobArrayTaskLimit|\n"


@pytest.fixture
def array(slurm: Path, workdir: Path, started: list, capsys) -> Sequence[Path]:
    """The runs of a sweep that is an array of Slurm's: the first is over, the second runs, the third waits."""
    said(capsys, "-m", *SWEPT, "cluster=slurm")
    (slurm / "queue").write_text(QUEUE)
    return [workdir / str(job.composed.recipe.run.dir) for job in asked(SWEPT).jobs]


def job_of(array: Sequence[Path]) -> Path:
    (folder,) = array[0].parent.glob("*.job")
    return folder / "1"


def test_a_run_of_a_sweep_has_its_task_of_the_array(array: Sequence[Path], tmp_path: Path, monkeypatch, capsys):
    (job_of(array) / "output-1.log").write_text("one\n")
    (job_of(array) / "output-2.log").write_text("two\n")
    line = f"46_1: running on n: {array[1]}\n"
    assert said(capsys, "--status", str(array[1])) == line
    assert said(capsys, "--status", "recipe=vgg_2class", "train.learning_rate=0.001") == line
    assert said(capsys, "--status", str(array[2])) == f"46_2: pending (JobArrayTaskLimit): {array[2]}\n"
    assert said(capsys, "--logs", str(array[1])) == "one\n"
    # From elsewhere too, and by the link that a sweep has to its best.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("best").symlink_to(array[1])
    assert said(capsys, "--status", str(array[1])) == said(capsys, "--status", "best") == line


def test_a_run_of_a_sweep_is_cancelled_by_itself(array: Sequence[Path], slurm: Path, capsys):
    assert said(capsys, "--cancel", str(array[0])) == "job 46_0 is over already\n"
    assert not (slurm / "scancel.txt").exists()
    assert said(capsys, "--cancel", str(array[1])).startswith("cancelled: job 46_1; ")
    assert said(capsys, "--cancel", str(array[2])).startswith("cancelled: job 46_2; ")
    assert (slurm / "scancel.txt").read_text() == "--signal=USR1 --batch 46_1\n46_2\n"
    assert sorted(path.name for path in job_of(array).glob("cancelled*")) == ["cancelled-1", "cancelled-2"]
    (slurm / "queue").write_text("1|RUNNING|None|n\n")
    states = [line.split(": ")[1] for line in said(capsys, "-m", *SWEPT, "--status").splitlines()]
    assert states == ["gone before it began", "asked to save and to end", "cancelled"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a process that is left to itself
def test_a_signal_that_slurm_repeats_is_not_waited_for(array: Sequence[Path], slurm: Path, monkeypatch, capsys):
    monkeypatch.setattr(sbatch, "_ONCE", 0.2)
    (slurm / "scancel").write_text(f"{SCANCEL}exec sleep 20\n")
    began = time.monotonic()
    assert said(capsys, "--cancel", str(array[1])).startswith("cancelled: job 46_1; ")
    assert time.monotonic() - began < 10
    assert (slurm / "scancel.txt").read_text() == "--signal=USR1 --batch 46_1\n"


def test_a_run_of_a_sweep_is_submitted_by_itself_once_its_task_is_over(array: Sequence[Path], slurm: Path, capsys):
    alone = ["recipe=vgg_2class", "train.learning_rate=0.001", "cluster=slurm"]
    assert "job 46_1 is there for it already" in said(capsys, *alone, status=2)
    (slurm / "queue").write_text("")
    said(capsys, *alone)
    (slurm / "queue").write_text("N/A|PENDING|Priority|\n")
    assert said(capsys, "--status", str(array[1])) == f"46: pending (Priority): {array[1]}\n"
    (slurm / "queue").write_text(QUEUE)
    assert said(capsys, "--status", str(array[2])).startswith("46_2: pending")


def test_the_runs_of_a_sweep_may_lie_elsewhere_and_others_jobs_be_damaged(slurm: Path, workdir: Path, capsys):
    said(capsys, "-m", "recipe=vgg_2class", "run.seed=1,2", "run.dir=here/${run.seed}", "cluster=slurm")
    (workdir / "here/2.job/1").mkdir(parents=True)
    (workdir / "runs/other.job/1").mkdir(parents=True)
    (workdir / "runs/other.job/1/job.json").write_text("{")
    assert said(capsys, "--status", "here/2") == f"46_1: gone before it began: {workdir}/here/2\n"
    assert "job.json: cannot be read" in said(capsys, "--status", "runs/other", status=2)


def test_kubernetes_has_a_sweep_as_a_whole(workdir: Path, capsys):
    words = ["recipe=vgg_2class", "run.seed=1,2"]
    said(capsys, "-m", *words, "cluster=kubernetes", "cluster.image=x", f"cluster.volumes={{work: {workdir}}}")
    (_, second) = asked(words).jobs
    run = str(second.composed.recipe.run.dir)
    assert f"_1: not begun, as far as its files say: {workdir}/{run}\n" in said(capsys, "--status", run)
    (job,) = (workdir / "runs").glob("*.job")
    err = said(capsys, "--cancel", run, status=2)
    assert err.endswith(f"is one of 2 runs of a job that kubectl deletes as a whole; name {job} for all of them\n")
    assert said(capsys, "--cancel", str(job)) == f"kubectl delete -f {job}/1/job.yaml\n"


def test_what_is_over_is_not_cancelled(slurm: Path, workdir: Path, capsys):
    said(capsys, *SUBMIT[1:], "cluster=slurm")
    (slurm / "queue").write_text("N/A|COMPLETED|None|n\n")
    assert said(capsys, "--cancel", "runs/vgg_2class") == "job 46 is over already\n"
    assert not (slurm / "scancel.txt").exists()


def test_a_finished_run_that_is_to_train_for_longer_waits_again(slurm: Path, workdir: Path, whole_run: Path, capsys):
    run = shutil.copytree(whole_run, workdir / "longer")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["train"]["steps"], recipe["run"]["dir"] = 6, str(run)
    Path("longer.yaml").write_text(yaml.safe_dump(recipe))
    said(capsys, "recipe=longer.yaml", "cluster=slurm")
    (slurm / "queue").write_text("N/A|PENDING|Priority|\n")
    assert said(capsys, "--status", "longer") == f"46: pending (Priority), step 4 saved: {run}\n"
    (slurm / "queue").write_text("N/A|COMPLETED|None|n\n")
    (run.with_name("longer.job") / "1/events-0.txt").write_text(
        "2026-01-01 00:00:00 job: started on n, process 1\n2026-01-01 00:00:00 job: ended with 0\n"
    )
    assert said(capsys, "--status", "longer") == f"46: done, step 4 saved: {run}\n"


def test_logs_are_what_the_job_has_printed(slurm: Path, workdir: Path, capsys):
    said(capsys, *SUBMIT[1:], "cluster=slurm")
    assert said(capsys, "--logs", "runs/vgg_2class") == "nothing was printed yet\n"
    (workdir / "runs/vgg_2class.job/1/output-0.log").write_text("one\ntwo\nhal")
    assert said(capsys, "--logs", "-f", "runs/vgg_2class") == "one\ntwo\n"


def test_a_manifest_is_written_and_needs_no_kubectl(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    words = [*SUBMIT[1:], "cluster=kubernetes", "cluster.image=x", f"cluster.volumes={{work: {workdir}}}"]
    folder = workdir / "runs/vgg_2class.job/1"
    out = said(capsys, *words)
    assert out == f"kubectl apply -f {folder}/job.yaml\nrun: {workdir}/runs/vgg_2class\n"
    assert yaml.safe_load((folder / "job.yaml").read_text())["kind"] == "Job"
    assert said(capsys, "--status", "runs/vgg_2class").startswith("vgg-2class-")
    assert said(capsys, "--cancel", "runs/vgg_2class") == f"kubectl delete -f {folder}/job.yaml\n"


# The whole path, on this machine

ROWS = """
import os
import time
import numpy as np

class Rows:
    def __init__(self):
        self.images = np.random.default_rng(0).random((48, 28, 28, 1), dtype=np.float32)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return {"images": self.images[number], "labels": ["a", "b"][number % 2]}

def rows():
    return Rows()
"""
MINE = """
defaults: [vgg_2class, _self_]
stop_gradient: false
data: {kind: python, path: 'mine:rows', preprocess: none}
train: {steps: 60, batch_size: 8, log_every_steps: 1}
eval: {every_steps: 13, keep_best: false}
cache: {mode: 'off'}
checkpoint: {every_steps: 10, keep: 20}
engine: {mode: default}
run: {dir: runs/mine}
"""


def checkout(folder: Path) -> dict[str, str]:
    """A checkout that a test may spoil; gives the environment in which it is the one in use."""
    package = Path(packaged.__file__).parent
    shutil.copytree(package, folder / "src/finetune", ignore=shutil.ignore_patterns("__pycache__"))
    for place in (packaged.configs(), packaged.recipes()):
        shutil.copytree(place, folder / place.name)
    return {**os.environ, "PYTHONPATH": str(folder / "src")}


def spoil(folder: Path, work: Path) -> None:
    """What somebody may do to recipe and code while a job waits."""
    (folder / "src/finetune/__init__.py").write_text("raise SystemExit('edited')\n")
    (work / "mine.py").write_text("raise SystemExit('edited')\n")
    (work / "mine.yaml").write_text("cut: edited\n")


def command(*words: str, cwd: Path, environment: dict[str, str]) -> str:
    line = [sys.executable, "-m", "finetune", *words]
    result = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def waited(is_there: Callable[[], object], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def mine(folder: Path) -> Path:
    """A folder to work in, with a recipe and a module of its own."""
    folder.mkdir()
    (folder / "mine.py").write_text(ROWS)
    (folder / "mine.yaml").write_text(MINE)
    return folder


def assert_same(run: Path, other: Path, steps: int = 60) -> None:
    """That two runs have the same pairs, checkpoints and numbers, to the bit."""
    every = [f"checkpoints/model-{step}" for step in range(10, steps + 1, 10)]
    for prefix in [*every, "model/model"]:
        one, two = (
            # One that was saved by a run that was asked to end in an evaluation says that it owes it.
            {
                n: v.tobytes()
                for n, v in everything(place / prefix).items()
                if not n.startswith(("course/", "finetune/"))
            }
            for place in (run, other)
        )
        assert one == two, prefix
    assert logged(run) == logged(other)


def test_edits_after_submitting_are_of_no_consequence_and_a_killed_run_begins_again(tmp_path: Path):
    environment = checkout(tmp_path / "checkout")
    work, undisturbed = mine(tmp_path / "my work"), mine(tmp_path / "undisturbed")
    command("recipe=mine.yaml", cwd=undisturbed, environment=environment)
    # The setup holds it back until everything is spoilt.
    held = ["cluster.setup=until [ -e spoilt ]; do sleep 0.1; done"]
    slow = {**environment, "SLOW": "0.005"}
    out = command("submit", "recipe=mine.yaml", "cluster=local", *held, cwd=work, environment=slow)
    assert out.endswith(f"\nrun: {work}/runs/mine\n")
    spoil(tmp_path / "checkout", work)
    (work / "spoilt").touch()
    run = work / "runs/mine"
    log = run / "train.log"
    waited(lambda: log.exists() and "saved step 10" in log.read_text())
    os.kill(json.loads((run / "run.lock").read_text())["pid"], 15)
    job = work / "runs/mine.job/1"
    waited(lambda: "ended with 0" in (job / "events-0.txt").read_text())
    assert "ended with 75, begins again" in (job / "events-0.txt").read_text()
    assert_same(run, undisturbed / "runs/mine")
    whole = dict(os.environ)
    assert f"done, requeued 1 time, step 60 saved: {run}" in command(
        "submit", "--status", "runs/mine", cwd=work, environment=whole
    )
    assert "result: accuracy " in command("submit", "--logs", "runs/mine", cwd=work, environment=whole)


def test_a_cancelled_job_saves_and_goes_on_when_it_is_submitted_again(tmp_path: Path):
    work, environment = mine(tmp_path / "work"), {**os.environ, "SLOW": "0.05"}
    command("submit", "recipe=mine.yaml", "cluster=local", cwd=work, environment=environment)
    log = work / "runs/mine/train.log"
    waited(lambda: log.exists() and "train | step      2" in log.read_text())
    assert "running on " in command("submit", "--status", "runs/mine", cwd=work, environment=environment)
    command("submit", "--cancel", "runs/mine", cwd=work, environment=environment)
    events = work / "runs/mine.job/1/events-0.txt"
    waited(lambda: "ended with 75\n" in events.read_text())
    assert "begins again" not in events.read_text()
    told = command("submit", "--status", "runs/mine", cwd=work, environment=environment)
    assert ": cancelled, step " in told
    words = ["recipe=mine.yaml", "cluster=local", "--dry-run"]
    assert "runs/mine.job/2" in command("submit", *words, cwd=work, environment=environment)
