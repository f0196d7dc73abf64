"""The story of a sweep: each trial a run of its own, failures seen, the rest made, and one place to look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.__main__ import main
from finetune.compose import compose
from finetune.sweeping import asked, sweep
from finetune.sweeping.trials import Outcome, Place, Trial
from tests.sweeping.made import leave, value

RATES = ["-m", "recipe=vgg_2class", "train.learning_rate=0.1,0.01,0.001"]
Ran = Callable[[Callable[..., Outcome]], list[Trial]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Puts a function in the place of a trial's process; gives the trials that it was called with."""

    def put(run: Callable[..., Outcome]) -> list[Trial]:
        seen: list[Trial] = []

        def instead(trial: Trial, place: Place, *more: Any) -> Outcome:
            seen.append(trial)
            return run(trial)

        monkeypatch.setattr(sweep, "run_trial", instead)
        return seen

    return put


def good(trial: Trial) -> Outcome:
    leave(trial, accuracy=1 - float(value(trial, "train.learning_rate")))
    return Outcome(trial.number, 0)


def bad_at(rate: str, error: str = "error[numerics] loss: is NaN at step 1", status: int = 4) -> Callable[..., Outcome]:
    def run(trial: Trial) -> Outcome:
        return Outcome(trial.number, status, error) if value(trial, "train.learning_rate") == rate else good(trial)

    return run


def test_each_trial_is_the_run_of_its_own_words_and_nothing_of_hydra_is_left(workdir: Path, trained: Ran):
    argv = list(sys.argv)
    Path("other.yaml").write_text("defaults: [vgg_2class]\n")
    seen = trained(lambda trial: Outcome(trial.number, 0))
    words = ["recipe=vgg_2class,./other.yaml", "--multirun", "train.steps=3,4", "data.path=/a=b", "cut=fc7:0"]
    assert main(words) == 0
    composed = [compose(list(trial.words)) for trial in seen]  # as a command of its own
    assert [(one.recipe.name, one.recipe.train.steps) for one in composed] == [
        ("vgg_2class", 3),
        ("vgg_2class", 4),
        ("other", 3),
        ("other", 4),
    ]
    assert {(one.recipe.data.path, one.recipe.cut) for one in composed} == {("/a=b", "fc7:0")}
    assert [one.recipe.run.dir for one in composed] == [str(trial.folder) for trial in seen]
    assert len({trial.folder for trial in seen}) == 4
    assert [trial.own for trial in seen][1] == ("recipe=vgg_2class", "train.steps=4")
    assert sorted(os.listdir()) == ["other.yaml", "sweeps"]
    assert sys.argv == argv


def test_nothing_starts_if_one_trial_is_wrong(workdir: Path, trained: Ran, capsys):
    seen = trained(good)
    assert main(["-m", "recipe=vgg_2class", "train.learning_rate=0.1,0"]) == 2
    assert capsys.readouterr().err == "error[recipe] train.learning_rate: 0.0 is not greater than 0\n"
    assert seen == []
    assert os.listdir() == []


def test_a_failed_trial_is_seen_and_the_others_are_made(workdir: Path, trained: Ran, capsys):
    seen = trained(bad_at("0.1"))
    assert main(RATES) == 4
    assert len(seen) == 3
    out, err = capsys.readouterr()
    assert err == "failed: trial 1: error[numerics] loss: is NaN at step 1\n"
    (place,) = Path("sweeps").iterdir()
    log = place / "logs" / f"{seen[0].folder.name}.log"
    counted, failed, report, best = out.splitlines()[-4:]
    assert counted == "sweep: 3 trials: 2 done, 1 failed"
    assert failed == f"  failed: train.learning_rate=0.1: error[numerics] loss: is NaN at step 1; log: {log}"
    assert report == f"report: {place}/index.html"
    assert best == f"best: {seen[2].folder}: accuracy 0.999 (0.499 to 1.000, 95 %); train.learning_rate=0.001"
    assert (place / "best").resolve() == seen[2].folder.resolve()
    page = (place / "index.html").read_text()
    assert "is NaN at step 1" in page
    assert f'href="../../runs/{seen[2].folder.name}/report.html"' in page
    assert page.index(seen[2].folder.name) < page.index(seen[1].folder.name)
    found = json.loads((place / "sweep.json").read_text())
    assert found["best"] == str(seen[2].folder)
    assert [trial["status"] for trial in found["trials"]] == ["failed", "done", "done"]
    assert found["trials"][0]["error"] == "error[numerics] loss: is NaN at step 1"


def test_the_status_is_that_of_the_first_failure(workdir: Path, trained: Ran):
    statuses = iter([0, 137, 4])
    trained(lambda trial: Outcome(trial.number, next(statuses)))
    assert main(RATES) == 137


def test_the_same_command_makes_what_is_missing_and_says_what_is_there(workdir: Path, trained: Ran, capsys):
    trained(bad_at("0.01", "ended by SIGKILL: from outside, or out of memory", 137))
    assert main(RATES) == 137
    capsys.readouterr()
    seen = trained(good)
    assert main(RATES) == 0
    assert [value(trial, "train.learning_rate") for trial in seen] == ["0.01"]
    out = capsys.readouterr().out
    assert out.count("finished: runs/vgg_2class-") == 2
    assert "sweep: 3 trials: 3 done\n" in out
    assert main(RATES) == 0
    assert len(seen) == 1
    assert len(list(Path("sweeps").iterdir())) == 1


def test_what_is_there_is_found_without_tensorflow(workdir: Path, trained: Ran):
    trained(good)
    assert main(RATES) == 0
    command = [sys.executable, "-X", "importtime", "-m", "finetune", *RATES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: ") == 3
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in modules
    assert not [name for name in modules if name.startswith(("tensorflow.python", "keras"))]  # protos are not it


def test_a_trial_that_was_asked_to_end_ends_the_sweep(workdir: Path, trained: Ran, capsys):
    seen = trained(lambda trial: Outcome(trial.number, 75))
    assert main(RATES) == 75
    assert len(seen) == 1
    out, err = capsys.readouterr()
    assert err == "a trial was asked to end, and so the sweep ends; the same command goes on\n"
    assert "best:" not in out


def test_a_sweep_without_a_result_says_so(workdir: Path, trained: Ran, capsys):
    trained(lambda trial: Outcome(trial.number, 4, "error[numerics] loss: is NaN"))
    assert main(RATES) == 4
    assert capsys.readouterr().out.endswith("best: none, for no trial has come to its end with a result\n")


def test_where_it_lies_is_a_function_of_the_command(workdir: Path, trained: Ran):
    trained(good)
    for words in (RATES, [*RATES, "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"]):
        assert main(words) == 0
    assert len(list(Path("sweeps").iterdir())) == 1
    assert main([*RATES, "hydra.sweep.dir=mine"]) == 0
    assert Path("mine/index.html").is_file()
    assert asked.sweep_dir(["a", "b"], ["recipe=a,b"]) == "sweeps/a+b"
    assert asked.sweep_dir(["a"], ["train.steps=1,2"]) != asked.sweep_dir(["a"], ["train.steps=1,2"], "optuna")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run.dir=here", "run.seed=0,1"], "run.dir: 2 trials of this sweep have the folder 'here'; leave it out, or "),
        (
            ["run.dir=gs://b/${run.seed}", "run.seed=0,1"],
            "run.dir: 'gs://b/0' is not on this machine, and",
        ),
        (["hydra/sweeper=optun"], "hydra/sweeper: 'optun' is not one of basic, optuna; did you mean optuna?"),
        (["hydra/sweeper=ax"], "hydra/sweeper: 'ax' is not one of basic, optuna; write hydra/sweeper=optuna"),
        (["hydra/launcher=nope"], "Could not find 'hydra/launcher/nope'"),
        (["hydra.sweeper.n_trials=3"], "hydra.sweeper.n_trials: is nothing that this sweep has; there are hydra."),
        (["run.seed=interval(0,9)"], "run.seed: 'interval(0,9)' is a range to search; add hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: there is nothing to search; write several values"),
        (["hydra/sweeper=optuna", "run.seed=0,1", "hydra.sweeper.n_trials=0"], "'0' is no whole number above 0"),
        (["hydra/sweeper=optuna", "run.seed=0,1", "hydra.sweeper.n_trial=9"], "hydra.sweeper.n_trial: is nothing"),
        (["hydra/sweeper=optuna", "run.seed=0,1", "hydra/launcher=joblib"], "starts its trials itself; leave it out"),
        (["hydra/sweeper=optuna", "cut=interval(0,1)"], "and this takes text; write values: a,b,c"),
        (["hydra/sweeper=optuna", "run.seed=interval(9,1)"], "run.seed: 'interval(9,1)' holds nothing"),
        (["hydra/sweeper=optuna", "train.learning_rate=tag(log,interval(0,1))"], "holds nothing; e.g. tag(log,"),
        (["hydra/sweeper=optuna", "train.learning_rate=interval(-1,1)"], "-1.0 is not greater than 0"),
        (["hydra/sweeper=optuna", "train.optimizer=adam,adan"], "train.optimizer: "),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(workdir: Path, trained: Ran, words, message, capsys):
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    seen = trained(good)
    assert main(["-m", "recipe=vgg_2class", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert seen == []


@pytest.mark.parametrize(
    ("word", "package"), [("hydra/sweeper=optuna", "optuna"), ("hydra/launcher=joblib", "hydra-joblib-launcher")]
)
def test_a_missing_package_is_named(workdir: Path, monkeypatch: pytest.MonkeyPatch, word, package, capsys):
    monkeypatch.setattr(asked, "_is_installed", lambda name: False)
    assert main(["-m", "recipe=vgg_2class", "run.seed=0,1", word]) == 2
    message = f"error[recipe] {word}: {package} is not installed; pip install 'finetune[sweep]'\n"
    assert capsys.readouterr().err == message
