"""The benchmarks: their tables are what was measured, what they claim holds, and they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text(encoding="utf-8"))
ROWS = sorted({(run["set"], run["method"]) for run in MEASURED["runs"]})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.accuracy import table

    return table


def test_the_table_in_the_docs_is_what_was_measured(table: Any):
    shown = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").partition("<!-- accuracy: begin -->\n")[2]
    assert shown.partition("<!-- accuracy: end -->\n")[0] == table.table(MEASURED)


def test_every_set_and_method_was_run_with_five_seeds_and_one_budget():
    assert len(ROWS) == 8
    assert len(MEASURED["runs"]) == len({(run["set"], run["method"], run["seed"]) for run in MEASURED["runs"]}) == 40
    assert {run["seed"] for run in MEASURED["runs"]} == set(range(5))
    assert {run["steps"] for run in MEASURED["runs"]} == {300}
    assert max(run["features_differ_by"] for run in MEASURED["runs"]) < 1e-4


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_ours_is_not_worse_than_keras(name: str, method: str, table: Any):
    """The mean of the paired differences is not below zero by more than half its 95 % interval."""
    runs = [run for run in MEASURED["runs"] if (run["set"], run["method"]) == (name, method)]
    differences = np.array([run["finetune"] - run["keras"] for run in runs])
    assert differences.mean() >= -table.half_width(differences)


def test_the_interval_is_students(table: Any):
    # Mean 3, standard error 0.7071; t at 4 degrees of freedom is 2.7764.
    assert table.difference(np.arange(1.0, 6.0)) == "+3.0000 ± 1.9632"


def test_keras_is_told_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.accuracy import ours
    from benchmarks.accuracy.sets import digits
    from benchmarks.accuracy.with_keras import Part, parts

    split = digits(tmp_path, 0)
    assert (len(split.labels), len(split.held_out_labels)) == (200, 1597)
    assert np.bincount(split.labels).tolist() == [20] * 10
    told = {m: parts(ours.composed(m, split, 0, tmp_path, []).recipe) for m in ("probe", "full", "phases", "lora")}
    assert told == {
        "probe": [Part(300, 1e-2, True)],
        "full": [Part(300, 1e-3, False)],
        "phases": [Part(100, 1e-2, True), Part(200, 3e-4, False)],
        "lora": [Part(300, 1e-3, False)],
    }


@pytest.mark.slow
def test_the_accuracies_can_be_measured_again(tmp_path: Path):
    words = ["--sets", "digits", "--seeds", "1", "--out", str(tmp_path / "accuracy.json"), "train.steps=20"]
    command = [sys.executable, "-m", "benchmarks.accuracy", *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    runs = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))["runs"]
    assert [run["method"] for run in runs] == ["probe", "full", "phases", "lora"]
    for run in runs:
        assert run["steps"] == 20
        (measured,) = [m for m in MEASURED["runs"] if all(m[key] == run[key] for key in ("set", "seed", "method"))]
        assert run["learn"] == measured["learn"] or run["method"] == "phases"  # still in the first


def test_what_several_workers_cost_stands_on_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.workers import table

    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.table(results) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
