"""Sweeps from the command line, with trials that train: what they share, what ends them, and how they go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.results.run_folder import read_record
from finetune.sweeping.trials import Place, Trial, run_trial
from tests.test_run import everything

GRID = ["--multirun", "recipe=vgg_2class", "train.steps=30"]


def finetune(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune", *words]
    given = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=280, check=False)


def rows(logs: Sequence[Path]) -> list[str]:
    """What the logs say of the rows that are kept, in order."""
    return re.findall(r"^cache: \d+ rows (.*?):", "\n".join(log.read_text() for log in logs), re.MULTILINE)


def test_the_second_trial_computes_nothing_and_a_third_that_fails_is_seen(tmp_path: Path):
    words = [*GRID, "train.learning_rate=1e-2,1e-3,1e39"]
    done = finetune(*words, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 4
    (place,) = (tmp_path / "sweeps").iterdir()
    trials = json.loads((place / "sweep.json").read_text())["trials"]
    first, second, third = (tmp_path / trial["log"] for trial in trials)
    assert rows([first]) == ["to train on are computed", "held out are computed"]
    assert rows([second]) == rows([third]) == ["to train on were there", "held out were there"]
    assert [trial["status"] for trial in trials] == ["done", "done", "failed"]
    assert trials[2]["error"].startswith("error[numerics] ")
    assert done.stderr.startswith(f"failed: trial 3: {trials[2]['error']}")
    assert re.search(r"^best: runs/\S+: accuracy 0\.\d+ \(0\.\d+ to \d\.\d+, 95 %\); train.learning", done.stdout, re.M)
    # Each trial is the run that its own words make, to the bit.
    alone = finetune(*trials[1]["words"], "run.dir=alone", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "other"))
    assert alone.returncode == 0, alone.stderr
    ours, other = (everything(tmp_path / folder / "model" / "model") for folder in (trials[1]["run"], "alone"))
    assert {name: array.tobytes() for name, array in ours.items()} == {n: a.tobytes() for n, a in other.items()}


def test_a_trial_that_is_given_up_is_saved_marked_and_can_go_on(workdir: Path):
    words = ("recipe=vgg_2class", "train.steps=12", "eval.every_steps=3", "run.dir=run")
    trial = Trial(0, words, (), Path("run"))
    (workdir / "scratch").mkdir()
    place, seen = Place(workdir / "sweep", workdir / "scratch"), []

    def goes_on(step: int, found: dict[str, float]) -> bool:
        seen.append((step, sorted(found)))
        return step < 6

    assert run_trial(trial, place, goes_on).status == 0
    assert seen == [(3, ["accuracy", "loss"]), (6, ["accuracy", "loss"])]
    record = read_record(Path("run"))
    assert (record["status"], record["step"]) == ("pruned", 6)
    assert record["result"] == "pruned at step 6 of 12, where the median of other runs was better"
    assert record["result"] in Path("run/report.html").read_text()
    assert not Path("run/model").exists()
    assert "pruned" in finetune("list", ".", cwd=workdir).stdout
    alone = finetune(*words, cwd=workdir)  # without a sweep it is a run as any other
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.splitlines()[0].startswith("resume: run goes on after step 6")
    assert read_record(Path("run"))["status"] == "finished"


def test_a_sweep_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path):
    words = ["--multirun", "recipe=vgg_2class", "train.steps=800", "run.seed=0,1", "run.dir=runs/${run.seed}"]
    words += ["cache.mode=off", "eval.every_steps=200"]
    log = tmp_path / "runs" / "0" / "train.log"
    with subprocess.Popen([sys.executable, "-m", "finetune", *words], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        until(lambda: log.exists() and "train | step     20" in log.read_text(), process)
        process.send_signal(signal.SIGKILL)
    until(lambda: "saved step" in log.read_text())  # the trial has noticed that nobody waits for it
    (saved,) = re.findall(r"saved step (\d+)", log.read_text())
    assert int(saved) < 800
    again = finetune(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"resume: runs/0 goes on after step {saved}," in again.stdout
    assert "sweep: 2 trials: 2 done\n" in again.stdout


def until(is_so, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_trials_at_once_share_the_fill(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [*GRID, "run.seed=0,1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "data.holdout=0.5"]
    done = finetune(*words, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "sweep: 4 trials: 4 done\n" in done.stdout
    (place,) = (tmp_path / "sweeps").iterdir()
    logs = sorted((place / "logs").iterdir(), key=lambda log: log.stat().st_mtime)
    assert len(logs) == 4
    assert set(rows(logs[2:])) == {"to train on were there", "held out were there"}
    assert len(list((tmp_path / "cache/finetune/features").iterdir())) == 2  # of all four


@pytest.mark.slow
def test_a_signal_is_passed_on_to_all_trials_at_once(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["--multirun", "recipe=vgg_2class", "train.steps=100000", "run.seed=0,1,2", "run.dir=runs/${run.seed}"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "cache.mode=off", "eval.every_steps=200"]
    logs = [tmp_path / "runs" / str(seed) / "train.log" for seed in (0, 1)]
    command = [sys.executable, "-m", "finetune", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: all(log.exists() and "train | step     20" in log.read_text() for log in logs))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "interrupted by SIGINT; the same command goes on" in err
    assert all("saved step" in log.read_text() for log in logs)
    assert not (tmp_path / "runs" / "2").exists()


@pytest.mark.slow
def test_a_search_trains_prunes_and_goes_on(tmp_path: Path):
    pytest.importorskip("optuna")
    words = ["--multirun", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "recipe=vgg_2class", "train.steps=56"]
    words += ["train.learning_rate=tag(log,interval(1e-5,1))"]
    done = finetune(*words, "hydra.sweeper.n_trials=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    more = finetune(*words, "hydra.sweeper.n_trials=9", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("\nfinished: ") + more.stdout.count("\npruned at step ") in (6, 7)
    (place,) = (tmp_path / "sweeps").iterdir()
    trials = json.loads((place / "sweep.json").read_text())["trials"]
    assert {trial["status"] for trial in trials} == {"done", "pruned"}
    for trial in trials:
        assert read_record(tmp_path / trial["run"])["status"] == {"done": "finished"}.get(trial["status"], "pruned")
