"""A search: what is tried next depends on nothing but the seed and what came out, and pruned is not failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.__main__ import main
from finetune.compose import compose
from finetune.interruption import GoesOn
from finetune.sweeping import sweep
from finetune.sweeping.trials import Outcome, Place, Trial
from tests.sweeping.made import leave, value

optuna = pytest.importorskip("optuna")

RATE = "train.learning_rate"
SEARCH = ["-m", "hydra/sweeper=optuna", "recipe=vgg_2class", f"{RATE}=tag(log,interval(1e-4,1))", "run.seed=0,1"]
Ran = Callable[[Callable[..., Outcome]], list[Trial]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Puts a function in the place of a trial's process; gives the trials that it was called with."""

    def put(run: Callable[..., Outcome]) -> list[Trial]:
        seen: list[Trial] = []

        def instead(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
            seen.append(trial)
            return run(trial, place, goes_on)

        monkeypatch.setattr(sweep, "run_trial", instead)
        return seen

    return put


def accuracy(trial: Trial) -> float:
    """The best rate is 0.1."""
    return max(0.0, 1 - abs(float(value(trial, RATE)) - 0.1))


def good(trial: Trial, place: Place, goes_on: GoesOn, recipe_yaml: str = "") -> Outcome:
    leave(trial, accuracy(trial), recipe_yaml=recipe_yaml)
    return Outcome(trial.number, 0)


def tried(trials: list[Trial]) -> list[tuple[int, tuple[str, ...]]]:
    return [(trial.number, trial.own) for trial in trials]


def states() -> list[str]:
    (file,) = Path("sweeps").glob("*/study.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    return [trial.state.name for trial in optuna.load_study(study_name="sweep", storage=storage).trials]


def test_it_finds_what_is_good_and_says_which(workdir: Path, trained: Ran, capsys):
    seen = trained(good)
    assert main([*SEARCH, "hydra.sweeper.n_trials=16"]) == 0
    assert len(seen) == 16
    assert all(1e-4 <= float(value(trial, RATE)) <= 1 for trial in seen)
    assert {value(trial, "run.seed") for trial in seen} == {"0", "1"}
    best = max(seen, key=accuracy)
    assert abs(float(value(best, RATE)) - 0.1) < 0.05
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"best: {best.folder}: accuracy {accuracy(best):.3f} (")
    assert states() == ["COMPLETE"] * 16


def test_one_that_is_interrupted_anywhere_tries_what_it_would_have_tried(workdir: Path, trained: Ran, monkeypatch):
    (workdir / "whole").mkdir()
    (workdir / "cut").mkdir()
    monkeypatch.chdir("whole")
    undisturbed = trained(good)
    assert main([*SEARCH, "hydra.sweeper.n_trials=11"]) == 0
    monkeypatch.chdir("../cut")
    cuts = {0, 3, 4, 10}

    def cut(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        if trial.number in cuts:
            cuts.remove(trial.number)
            return Outcome(trial.number, 75)
        return good(trial, place, goes_on)

    seen = trained(cut)
    for left in (3, 2, 1, 0):
        assert main([*SEARCH, "hydra.sweeper.n_trials=11"]) == 75
        assert len(cuts) == left
    assert main([*SEARCH, "hydra.sweeper.n_trials=11"]) == 0
    assert dict(tried(seen)) == dict(tried(undisturbed))
    assert len(seen) == 11 + 4


def test_more_trials_go_on_with_the_same_study(workdir: Path, trained: Ran, capsys):
    first = trained(good)
    assert main([*SEARCH, "hydra.sweeper.n_trials=2"]) == 0
    more = trained(good)
    assert main([*SEARCH, "hydra.sweeper.n_trials=3"]) == 0
    assert [trial.number for trial in first + more] == [0, 1, 2]
    assert capsys.readouterr().out.count("finished: ") == 2


def test_what_a_killed_process_left_is_mended_and_gone_on_with(workdir: Path, trained: Ran):
    def killed(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        if trial.number == 2:
            raise KeyboardInterrupt
        return good(trial, place, goes_on)

    seen = trained(killed)
    assert main([*SEARCH, "hydra.sweeper.n_trials=4"]) == 130
    (file,) = Path("sweeps").glob("*/study.journal")
    with file.open("a") as journal:  # power was lost, and Optuna's own lock is still there
        journal.write('{"op_code":4,"worker_id":"')
    Path(f"{file}.lock").symlink_to(file)
    again = trained(good)
    assert main([*SEARCH, "hydra.sweeper.n_trials=4"]) == 0
    assert tried(again)[0] == tried(seen)[2]
    assert states() == ["COMPLETE"] * 4


def test_numbers_that_fail_are_found_out_and_other_failures_tried_again(workdir: Path, trained: Ran, capsys):
    statuses = {0: 4, 1: 137}

    def fails(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        if status := statuses.get(trial.number):
            return Outcome(trial.number, status, "error[numerics] loss: is NaN" if status == 4 else "ended by SIGKILL")
        return good(trial, place, goes_on)

    trained(fails)
    assert main([*SEARCH, "hydra.sweeper.n_trials=3"]) == 4
    assert states() == ["FAIL", "RUNNING", "COMPLETE"]
    assert "sweep: 3 trials: 1 done, 2 failed\n" in capsys.readouterr().out
    statuses.clear()
    seen = trained(fails)
    assert main([*SEARCH, "hydra.sweeper.n_trials=3"]) == 4
    assert [trial.number for trial in seen] == [1]
    assert "sweep: 3 trials: 2 done, 1 failed\n" in capsys.readouterr().out


def test_the_worse_half_is_pruned_and_is_no_failure(workdir: Path, trained: Ran, capsys):
    given_up = []

    def run(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        found = {"accuracy": accuracy(trial), "loss": 1.0}
        on = [goes_on(step, found) for step in (5, 10, 10, 15)]  # one that went back evaluates a step twice
        if not all(on):
            given_up.append(trial)
        leave(trial, accuracy(trial), "finished" if all(on) else "pruned", step=15)
        return Outcome(trial.number, 0)

    seen = trained(run)
    assert main([*SEARCH, "hydra.sweeper.n_trials=12"]) == 0
    assert given_up
    assert min(trial.number for trial in given_up) >= 5  # the first ones are what there is to compare with
    out = capsys.readouterr().out
    done = len(seen) - len(given_up)
    assert f"sweep: 12 trials: {done} done, {len(given_up)} pruned\n" in out
    assert states().count("PRUNED") == len(given_up)
    (place,) = Path("sweeps").iterdir()
    assert (place / "index.html").read_text().count("15,\u00a0pruned</td>") == len(given_up)
    entries = json.loads((place / "sweep.json").read_text())["trials"]
    assert [e["status"] for e in entries].count("pruned") == len(given_up)
    again = trained(run)
    assert main([*SEARCH, "hydra.sweeper.n_trials=12"]) == 0
    assert again == []
    assert capsys.readouterr().out.count("pruned at step 15: runs/") == len(given_up)


def test_less_is_better_where_it_is(workdir: Path, trained: Ran):
    def run(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        leave(trial, float(value(trial, RATE)))
        file = trial.folder / "evaluation.json"
        file.write_text(file.read_text().replace("accuracy", "brier"))
        return Outcome(trial.number, 0)

    seen = trained(run)
    assert main([*SEARCH, "hydra.sweeper.n_trials=3", "eval.metrics=[brier]"]) == 0
    (place,) = Path("sweeps").iterdir()
    best = min(seen, key=lambda trial: float(value(trial, RATE)))
    assert (place / "best").resolve() == best.folder.resolve()


def test_several_at_once_each_try_something_of_their_own(workdir: Path, trained: Ran):
    text = compose(["recipe=vgg_2class"]).yaml  # Hydra has one state in all threads
    seen = trained(lambda trial, place, goes_on: good(trial, place, goes_on, text))
    assert main([*SEARCH, "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=3"]) == 0
    assert sorted(trial.number for trial in seen) == list(range(8))
    assert len({trial.folder for trial in seen}) == 8


def test_a_recipe_that_has_changed_is_no_part_of_the_same_search(workdir: Path, trained: Ran, capsys):
    trained(good)
    recipe = Path("mine.yaml")
    recipe.write_text("defaults: [vgg_2class]\n")
    words: list[Any] = [word.replace("vgg_2class", "mine.yaml") for word in SEARCH]
    assert main([*words, "hydra.sweeper.n_trials=1"]) == 0
    recipe.write_text("defaults: [vgg_2class]\ntrain: {batch_size: 16}\n")
    assert main([*words, "hydra.sweeper.n_trials=2"]) == 2
    assert "the recipe has changed since this search began; remove that folder" in capsys.readouterr().err


def test_without_a_result_there_is_nothing_to_search_by(workdir: Path, trained: Ran, capsys):
    def run(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
        leave(trial)
        (trial.folder / "evaluation.json").unlink()
        (trial.folder / "metrics.jsonl").write_text("")
        return Outcome(trial.number, 0)

    trained(run)
    assert main([*SEARCH, "hydra.sweeper.n_trials=1"]) == 2
    assert "the run has no accuracy to search by; are examples held out?" in capsys.readouterr().out
