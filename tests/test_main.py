"""The command line: verbs, help, exit status, and what is said on stderr."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from finetune import __version__
from finetune.__main__ import VERBS, main
from finetune.errors import UserError
from finetune.interruption import Interrupted


def command(*words: str, options: tuple[str, ...] = (), cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *options, "-m", "finetune", *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["train", "--help"], ["recipe=vgg_2class", "-h"]])
def test_help_is_for_people(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for part in ("usage: python -m finetune", "recipe=NAME", "examples:", "  list ", "exit status"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_each_verb_has_help_of_its_own(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: python -m finetune {verb} " in out
    assert out.partition("examples:")[2].count(f"\n  python -m finetune {verb}") == 3
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("words", [["inspect"], ["export"], ["report"], ["evaluate"], ["list", "a", "b"]])
def test_wrong_words_after_a_verb_are_one_line(words, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error[recipe] {words[0]}: ")
    assert f"; write {words[0]} " in err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"finetune {__version__}\n"


def test_list_says_what_each_recipe_does(workdir, capsys):
    Path("recipes").mkdir()
    Path("recipes/mine.yaml").write_text("# My own.\n")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    lines = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert lines["mine"] == "My own."
    assert lines["vgg_2class"].startswith("Cut a VGG at fc7")
    assert len({line.index(lines[line.split()[0]]) for line in out.splitlines()}) == 1  # in one column


@pytest.mark.parametrize("verb", [[], ["train"]])
def test_training_starts_with_the_composed_recipe(workdir, started, verb):
    assert main([*verb, "recipe=vgg_2class", "train.steps=3"]) == 0
    assert [recipe.train.steps for recipe in started] == [3]
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "recipe: not given; add recipe=NAME"),
        (["train"], "recipe: not given; add recipe=NAME"),
        (
            ["lst"],
            f"lst: no such verb; the verbs are {', '.join(VERBS)}; did you mean list?",
        ),
        (["list", "x"], "x: this folder is not there; name a folder of runs, e.g. runs"),
        (["vgg_2class"], "did you mean recipe=vgg_2class?"),
        (["recipe=vgg_2class", "--train.steps=3"], "--train.steps=3: no such option; did you mean train.steps=3?"),
        (["recipe=vgg_2class", "--cfg"], "argument --cfg/-c: expected one argument"),
        (["recipe=vgg_2class", "--cfg", "jo"], "invalid choice: 'jo'"),
        (["recipe=vgg_2class", "--resolve"], "--resolve: goes with --cfg"),
        (["recipe=vgg_2class", "--cfg", "job", "-m"], "--cfg: prints one recipe"),
        (["recipe=vgg_2class", "train.batch_size=0"], "train.batch_size: 0 is not 1 or more"),
    ],
)
def test_a_usage_error_is_a_line_and_status_2(workdir, started, capsys, words, message):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) <= 5
    assert started == []


def test_the_status_of_the_run_is_the_status_of_the_command(workdir, training):
    training(lambda *_: 75)
    assert main(["recipe=vgg_2class"]) == 75


def test_an_error_that_the_run_explains(workdir, training, capsys):
    def run(*_):
        raise UserError("storage", "runs", "the disk is full")

    training(run)
    assert main(["recipe=vgg_2class"]) == 5
    assert capsys.readouterr().err == "error[storage] runs: the disk is full\n"


def test_a_bug_is_one_line_and_its_traceback_lies_in_the_log_of_the_run(workdir, training, capsys):
    training(lambda *_: 1 // 0)
    Path("here").mkdir()
    Path("here/recipe.yaml").touch()
    assert main(["recipe=vgg_2class", "run.dir=here"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("error[bug] ZeroDivisionError: integer division or modulo by zero; please report it")
    assert "here/train.log" in err
    assert len(err.splitlines()) == 1
    assert "Traceback" in Path("here/train.log").read_text()


ENDINGS = {
    "error[data] data.path: is gone": (UserError("data", "data.path", "is gone", "", "  and more"), 2),
    "error[storage] x: No space left on device; see to it": (OSError(errno.ENOSPC, "No space left on device", "x"), 5),
    "interrupted by SIGTERM; the same command goes on": (Interrupted("SIGTERM"), 75),
    "error[bug] KeyError: 'x'; please report it": (KeyError("x"), 70),
}


@pytest.mark.parametrize("line", ENDINGS)
def test_what_ends_a_run_is_in_its_log_with_the_traceback(line, workdir, training, capsys):
    raised, status = ENDINGS[line]

    def run(*_):
        raise raised

    training(run)
    Path("here").mkdir()
    Path("here/recipe.yaml").touch()
    Path("here/train.log").write_text("2026-01-01 00:00:00 saved step 7\n")
    assert main(["recipe=vgg_2class", "run.dir=here"]) == status
    log = Path("here/train.log").read_text().splitlines()
    assert log[0].endswith("saved step 7")
    assert log[1][20:].startswith(line)
    assert datetime.strptime(log[1][:19], "%Y-%m-%d %H:%M:%S")
    assert ("Traceback (most recent call last):" in log) == (status != 75)
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("case", ["no folder", "not ours", "in use", "dry run", "another run's", "not writable"])
def test_a_folder_that_is_no_run_of_ours_gets_no_log(case, workdir, training, capsys):
    where = "run.dir" if case == "another run's" else "data.path"

    def run(*_, **__):
        raise UserError("recipe", where, "is gone")

    training(run)
    if case != "no folder":
        Path("here").mkdir()
    if case not in ("no folder", "not ours"):
        Path("here/recipe.yaml").touch()
    if case == "in use":
        Path("here/run.lock").touch()
    if case == "not writable":
        Path("here/train.log").mkdir()
    before = sorted(Path().rglob("*"))
    assert main(["recipe=vgg_2class", "run.dir=here", *["--dry-run"] * (case == "dry run")]) == 2
    assert sorted(Path().rglob("*")) == before
    assert capsys.readouterr().err == f"error[recipe] {where}: is gone\n"


def test_without_a_run_folder_the_traceback_is_shown_on_request(workdir, training, capsys, monkeypatch):
    training(lambda *_: 1 // 0)
    assert main(["recipe=vgg_2class"]) == 70
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("FINETUNE_DEBUG", "1")
    assert main(["recipe=vgg_2class"]) == 70
    assert "Traceback" in capsys.readouterr().err
    assert os.listdir() == []


def test_ctrl_c_is_one_line(workdir, training, capsys):
    def run(*_):
        raise KeyboardInterrupt

    training(run)
    assert main(["recipe=vgg_2class"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_cfg_prints_the_recipe_and_starts_nothing(workdir, started, capsys):
    assert main(["recipe=vgg_2class", "--cfg", "job", "train.steps=3"]) == 0
    out = capsys.readouterr().out
    assert "steps: 3\n" in out
    assert "${packaged:demo/small_vgg}" in out
    assert started == []
    assert os.listdir() == []


def test_138_a_wrong_recipe_is_refused_without_importing_tensorflow(tmp_path):
    done = command("recipe=vgg_2class", "trian.steps=3", options=("-X", "importtime"), cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line for line in lines if not line.startswith("import time:")] == [
        "error[recipe] trian.steps: unknown key; did you mean train.steps?"
    ]
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    assert "hydra" in modules
    assert not modules & {"tensorflow", "keras", "numpy"}


def test_nothing_at_all_is_a_usage_error(tmp_path):
    done = command(cwd=tmp_path)
    assert done.returncode == 2
    assert "example: python -m finetune recipe=vgg_2class" in done.stderr
    assert done.stdout == ""


def test_help_needs_no_hydra(tmp_path):
    done = command("--help", options=("-X", "importtime"), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Train a new head")
    assert "hydra" not in done.stderr


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES", "EFBIG", "ESTALE", "ETIMEDOUT"])
def test_a_disk_that_refuses_is_no_bug(name, workdir, training, capsys):
    number = getattr(errno, name)

    def full(recipe, yaml, overrides):
        raise OSError(number, os.strerror(number), "runs/x/train.log")

    training(full)
    assert main(["recipe=vgg_2class"]) == 5
    assert capsys.readouterr().err == (
        f"error[storage] runs/x/train.log: {os.strerror(number)}; see to it, then give the same command again\n"
    )
