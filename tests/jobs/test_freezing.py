"""What a job takes along: recipe, code, and the modules that the recipe names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import __version__, packaged
from finetune.compose import anchored, compose
from finetune.jobs.freezing import freeze, own_modules


def frozen(folder: Path, *words: str) -> Path:
    composed = anchored(compose(["recipe=vgg_2class", *words]))
    folder.mkdir()
    freeze(folder, [(composed.recipe, composed.yaml)], Path.cwd())
    return folder


def started(folder: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a job's code says; nothing but what lies in its folder is looked into."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "code"), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, folder / "code", *words]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_modules_are_followed_as_far_as_they_lie_in_the_folder(workdir: Path):
    Path("mine.py").write_text("import numpy\nfrom helpers import more\nimport package.part\n")
    Path("helpers.py").write_text("def more(): import last\n")
    Path("last.py").write_text("import mine\n")
    Path("unused.py").write_text("")
    Path("package").mkdir()
    Path("package/__init__.py").write_text("from . import part\nimport beside\n")
    Path("beside.py").write_text("this is no Python\n")
    found = own_modules(["mine:function", "os.path:join"], workdir)
    assert [path.name for path in found] == ["beside.py", "helpers.py", "last.py", "mine.py", "package"]


def test_the_frozen_copy_prints_the_recipe_that_was_submitted(workdir: Path):
    folder = frozen(workdir / "job", "train.steps=7")
    result = started(folder, f"recipe={folder / 'frozen-0.yaml'}", "--cfg", "job", cwd=workdir)
    assert result.stderr == ""
    assert "  steps: 7\n" in result.stdout
    assert f"  dir: {workdir}/runs/vgg_2class-" in result.stdout
    assert "name: vgg_2class\n" in result.stdout


def test_modules_are_taken_from_the_job_and_not_from_the_current_folder(workdir: Path):
    Path("mine.py").write_text("def rows():\n    raise ValueError('as it was')\n")
    folder = frozen(workdir / "job", "data.kind=python", "data.path=mine:rows", "data.preprocess=none")
    Path("mine.py").write_text("def rows():\n    raise ValueError('as it is now')\n")
    result = started(folder, f"recipe={folder / 'frozen-0.yaml'}", cwd=workdir)
    assert result.returncode == 2
    assert "ValueError: as it was (mine.py, line 2)" in result.stderr


def test_the_assets_are_copied_for_recipes_that_name_them(workdir: Path):
    Path("images").mkdir()
    with_them = frozen(workdir / "with")
    without = frozen(workdir / "without", "source.path=x", "data.path=images")
    assert (with_them / "code/finetune/demo/small_vgg").is_dir()
    assert not (without / "code/finetune/demo").exists()
    assert (without / "code/finetune/configs/finetune.yaml").is_file()


def test_an_installed_package_is_not_copied_but_compared(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packaged, "is_checkout", lambda: False)
    folder = frozen(workdir / "job")
    assert [path.name for path in (folder / "code").iterdir()] == ["__main__.py"]
    (folder / "code/finetune.py").write_text("__version__ = '9'\n")
    result = started(folder)
    assert result.returncode == 2
    said = f"error[recipe] finetune: is 9 here, and the job was submitted with {__version__}; submit it again\n"
    assert result.stderr == said
