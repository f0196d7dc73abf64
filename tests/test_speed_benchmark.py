"""The speed benchmark: medians, ratios and bars are what was measured, and every contender runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def took(first: float, later: float, start: float = 10.0) -> dict[str, Any]:
    return {"epochs": [first, later], "steps": [first, later], "whole": start + first + later, "memory": 3e9}


RESULTS = {
    "images": 64,
    "batch": 16,
    "operations": 3.1e10,
    "versions": {"finetune": "0.1.0"},
    "machine": "2 cores",
    "date": "2026-11-23",
    "times": {
        "limits": [{"gflops": 120.0, "gigabytes": 10.0, "images": 3000.0}],
        "tutorial frozen": [took(12.0, 10.0), took(14.0, 10.0), took(100.0, 11.0)],
        "keras prefix": [took(20.0, 21.0)],
        "keras full": [took(9.0, 5.0)],
        "finetune frozen": [{"first": 7.0, "later": 0.005, "whole": 20.0, "memory": 3e9}],
        "finetune prefix": [{"first": 10.0, "later": 7.0, "memory": 3e9}],
        "finetune full": [{"steps": [4.0, 4.0, 6.0], "memory": 2e9}],
        "once": [{"import": 5.0, "ready": 9.0, "refused": 0.3, "saving": 2.05, "resumed": {"100": 9.0, "100000": 9.1}}],
    },
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.speed import table

    return table


def test_the_table_has_medians_and_ratios_to_ours(table: Any):
    found = table.seconds(RESULTS)
    assert found["first epoch"] == {"tutorial": 14.0, "finetune": 7.0}
    assert found["later epochs"] == {"tutorial": 10.0, "finetune": 0.005}
    assert found["20 epochs"] == {"tutorial": 10 + 14 + 19 * 10, "finetune": 20.0}
    assert found["full step"] == {"keras": 5.0, "finetune": 4.0}  # the first step compiles
    shown = table.table(RESULTS)
    assert "| later epochs | 0.005 s | 2e+03 × |" in shown
    assert "| full step | 4 s |  | 1.25 × |" in shown


def test_a_bar_that_is_not_met_says_so(table: Any):
    lines = "\n".join(table.bars(table.seconds(RESULTS)))
    assert "| first epoch, the tutorial's script | 1.15 × | 2 × |" in lines
    assert "| 20 epochs, the tutorial's script | 20 × | 10.7 × (not met) |" in lines


def test_the_network_is_vgg_16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.speed.workload import Net

    layers = Net().layers()
    assert sum(bool(shape) for _, shape in layers) == 15  # and fc8, which the cut leaves out
    # Simonyan and Zisserman 2015: 138 million parameters with fc8, 15.5 billion products with it.
    assert sum(math.prod(shape) + shape[-1] for _, shape in layers if shape) == 134_260_544
    assert Net().operations() == pytest.approx(30.9e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_contender_trains(tmp_path: Path):
    out = tmp_path / "speed.json"
    words = [str(tmp_path / "work"), "--small", "--images", "32", "--repeats", "1", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    times = json.loads(out.read_text())["times"]
    assert {"tutorial frozen", "keras prefix", "by_hand full", "hub frozen", "finetune frozen"} <= times.keys()
