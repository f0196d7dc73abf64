"""The wheel: everything that a run needs is in it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_in_an_empty_environment_trains_from_an_empty_folder(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    folder = tmp_path / "work"
    folder.mkdir()
    result = subprocess.run(
        [python, "-m", "finetune", "recipe=vgg_2class"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "result: accuracy" in result.stdout
    assert (folder / "runs/vgg_2class/model/model.meta").exists()
