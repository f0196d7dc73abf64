"""The commands of docs/cluster.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from finetune.jobs.cluster_words import settled
from tests.test_submitted_to_slurm import missing, running

PAGE = (Path(__file__).resolve().parents[1] / "docs/cluster.md").read_text(encoding="utf-8")


def blocks(section: str, language: str = "sh") -> list[str]:
    """The blocks of a section of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def given(commands: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """What they print, one after the other."""
    python = f"{Path(sys.executable).parent}:{folder}"
    environment = {**(environment or os.environ), "PATH": f"{python}:{os.environ['PATH']}"}
    command = ["bash", "-euc", commands]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def test_on_a_laptop_and_then_nothing_is_left_to_submit(tmp_path: Path):
    (laptop,), (local,) = blocks("On a laptop"), blocks("In a process that stays")
    assert "result: accuracy " in given(laptop, tmp_path)
    assert given(local.splitlines()[0], tmp_path).startswith("finished: ")


def test_in_a_process_that_stays(tmp_path: Path):
    (commands,) = blocks("In a process that stays")
    out = given(commands, tmp_path)
    assert "result: accuracy " in out
    assert out.splitlines()[-1].endswith(f": done, step 200 saved: {tmp_path}/runs/vgg_2class")


def test_in_kubernetes(tmp_path: Path):
    (tmp_path / "kubectl").write_text("#!/bin/bash\ncat $3 > applied.yaml\n")
    (tmp_path / "kubectl").chmod(0o755)
    (commands,) = blocks("Kubernetes")
    assert ": not begun, as far as its files say: " in given(commands, tmp_path)
    assert yaml.safe_load((tmp_path / "applied.yaml").read_text())["kind"] == "Job"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=f"no Slurm: {missing()}")
def test_in_slurm(tmp_path: Path):
    single, sweep, told = blocks("Slurm")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as environment:
        out = given(single, tmp_path, environment)
        assert "result: accuracy " in out
        assert out.splitlines()[-1].endswith(f": done, step 200 saved: {tmp_path}/runs/vgg_2class")
        out = given(f"{sweep}{sweep.strip()} --logs -f\n{sweep.strip()} --status\n", tmp_path, environment)
        assert [line.split(": ")[1] for line in out.splitlines()[-2:]] == ["done, step 200 saved"] * 2
    runs = sorted((tmp_path / "runs").iterdir())
    assert given(told, tmp_path).count("accuracy 0.")
    assert sorted((tmp_path / "runs").iterdir()) == runs


def test_a_file_of_ones_own(workdir: Path):
    (text,) = blocks("What a cluster is called", "yaml")
    Path("clusters").mkdir()
    Path("clusters/mine.yaml").write_text(text)
    cluster = settled(["cluster=mine"])
    assert (cluster.time, cluster.gpus, cluster.setup) == ("4:00:00", "1", ["module load cuda"])
