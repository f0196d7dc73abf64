"""The growth benchmark: a law is fitted to what was measured, and each axis runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.growth import table

    return table


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_is_found_beside_a_fixed_cost_and_noise(table: Any, exponent: float):
    sizes = [1e3, 1e4, 1e5, 1e6]
    noise = [1.02, 0.99, 1.01, 0.98]
    law = table.fitted(sizes, [(7 + 3e-2 * n**exponent) * off for n, off in zip(sizes, noise, strict=True)])
    assert abs(law.exponent - exponent) <= 0.1
    assert math.isclose(law.at(1e6), 7 + 3e-2 * 1e6**exponent, rel_tol=0.1)


def test_what_only_trembles_does_not_grow(table: Any):
    law = table.fitted([1, 10, 100], [5.0, 5.2, 4.9])
    assert (law.fixed, law.factor) == (5.0, 0.0)


def test_the_table_has_the_medians_and_the_law(table: Any):
    points = [
        {"size": n, "runs": [{"seconds": s, "memory": 1e9} for s in (n / 100, n / 100, 50.0 * n)]}
        for n in (100, 1000, 10000)
    ]
    results = {"axes": {"rows": {"measured": "a step", "points": points}}, "versions": {"finetune": "1"}}
    shown = table.table({**results, "machine": "2 cores", "date": "today"})
    assert (
        "| rows: a step | 100, 1,000, 10,000 | 1, 10, 100 | 0.01 s · n^1.00 | 1.00, 1.00, 1.00 GB | no growth |"
        in shown
    )


def test_the_page_has_what_was_measured(table: Any):
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.table(results) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert (table.PICTURE.exists(), results["small"]) == (True, False)


@pytest.mark.slow
def test_each_axis_runs(tmp_path: Path):
    pytest.importorskip("matplotlib")
    words = ["--small", "--repeats", "1", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-m", "benchmarks.growth", str(tmp_path / "work"), *words]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=1200)
    axes = json.loads((tmp_path / "out.json").read_text())["axes"]
    assert all(run["seconds"] > 0 for axis in axes.values() for point in axis["points"] for run in point["runs"])
    assert len(axes) == 5
