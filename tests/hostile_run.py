"""A run folder of a real run, with names in it that would be programs in a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finetune.__main__ import main
from finetune.packaged import asset

CLASSES = ("<script>alert(1)<", 'b&amp;"c')
FILE = "x'><img src=x onerror=alert(2)>.png"


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps; those who change it take a copy."""
    folder = tmp_path_factory.mktemp("page")
    for there, name in zip(("coat", "dress"), CLASSES, strict=True):
        (folder / "data" / name).mkdir(parents=True)
        for number, file in enumerate(sorted(Path(asset(f"demo/dress_coat/{there}")).glob("*.png"))[:20]):
            shutil.copy(file, folder / "data" / name / f"{number}{FILE}")
    words = ["recipe=vgg_2class", f"data.path={folder / 'data'}", "train.steps=4", "train.batch_size=8"]
    assert main([*words, "train.log_every_steps=2", "eval.every_steps=2", f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def run_folder(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the run folder without its models."""
    ignored = shutil.ignore_patterns("model", "best", "checkpoints", "tensorboard", "report.html", "examples.json")
    return Path(shutil.copytree(whole_run, tmp_path / "run", ignore=ignored))
