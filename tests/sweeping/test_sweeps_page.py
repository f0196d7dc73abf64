"""Every script of docs/sweeps.md runs, and says what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def test_there_is_one_for_each_path():
    words = " ".join(SCRIPTS)
    assert "hydra/launcher=joblib" in words
    assert "hydra/sweeper=optuna" in words
    assert SCRIPTS[0].count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_it_runs(number: int, tmp_path: Path):
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    script = re.sub(r"^pip install .*$", "", SCRIPTS[number], flags=re.MULTILINE)  # the test's environment has it
    script = re.sub(r"^python ", f"{sys.executable} ", script, flags=re.MULTILINE)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["bash", "-ec", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^sweep: .*\nreport: (.*)\nbest: .*$", done.stdout, re.MULTILINE) or re.findall(
        r"^report: (sweeps/.*)$", done.stdout, re.MULTILINE
    )
    assert (tmp_path / told[-1]).is_file()
    if "1e39" in script:
        assert "\nstatus 4\n" in done.stdout
        assert re.search(r"^  failed: train.learning_rate=1e\+39: error\[numerics\] .*; log: \S+$", done.stdout, re.M)
    else:
        assert "failed" not in done.stdout + done.stderr
