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


def took(first: float, *later: float, ready: float = 10.0) -> dict[str, Any]:
    return {"ready": ready, "first": first, "later": list(later), "memory": 3e9}


RESULTS = {
    "batch": 16,
    "operations": 3.1e10,
    "versions": {"finetune": "0.1.0"},
    "machine": "2 cores",
    "date": "2026-11-23",
    "times": {
        "limits": [{"gflops": 120.0, "gigabytes": 10.0, "images": 3000.0}],
        "vgg16 frozen": [
            {"examples": 64, "finetune": took(5.0, 0.005), "tutorial": took(10.0, 10.0), "hub": took(90.0, 0.5)},
            # slower for both
            {"examples": 64, "finetune": took(10.0, 0.01), "tutorial": took(24.0, 20.0)},
        ],
        "vgg16 prefix": [{"finetune": took(9.0, 7.0, 8.0), "keras": took(20.0, 21.0, 28.0)}],
        "vgg16 full": [
            {"finetune": {"later": [4.0, 6.0], "memory": 2e9}, "keras": took(9.0, 5.0, 9.0)},
            {"finetune": {"later": [4.0], "memory": 2e9}, "decoded": {"later": [3.0], "memory": 2e9}},
        ],
        "lstm full": [{"finetune": took(1.0, 0.2), "keras": took(1.0, 0.3)}],
        "job": [{"whole": 40.0, "images": 128}],
        "once": [
            {
                "import": 5.0,
                "ready": 9.0,
                "refused": 0.3,
                "saving": 2.05,
                "quiet": 2.0,
                "resumed": {"100": 9.0, "100000": 9.1},
            }
        ],
    },
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.speed import table

    return table


def test_a_ratio_is_between_parts_that_were_measured_in_turns(table: Any):
    found = table.compared(RESULTS)
    assert found["first epoch"] == {"tutorial": [2.0, 2.4], "hub": [18.0]}
    assert found["later epochs"] == {"tutorial": [2000.0, 2000.0], "hub": [100.0]}
    assert found["full step"] == {"keras": [1.25, 1.5]}
    # The other's start and epochs, of twice as many images: 10 + 2 × (17 + 19 × 15).
    assert found["20 epochs"]["tutorial"] == [pytest.approx(614 / 40)]


def test_the_table_has_seconds_of_ours_and_ratios_with_their_range(table: Any):
    shown = table.table(RESULTS)
    assert "| later epochs | 0.0075 s | 2,000 × (2,000 to 2,000) |" in shown
    assert "| full step | 4 s |  | 1.38 × (1.25 to 1.5) |" in shown
    assert "| 20 epochs, 128 images | 40 s | 15.3 × |" in shown
    assert "| LSTM over 24 steps, all layers | 0.2 s |  | 1.5 × |" in shown
    assert "already takes 0.750 times as long" in shown
    assert "| 0.05 s longer, 0.01% of the default interval" in shown


def test_it_is_known_whether_all_is_measured(table: Any):
    assert table.is_complete(RESULTS)
    times = {name: found for name, found in RESULTS["times"].items() if name != "vgg16 prefix"}
    assert not table.is_complete({**RESULTS, "times": times})


def test_a_bar_that_is_not_met_says_so(table: Any):
    lines = "\n".join(table.bars(table.compared(RESULTS)))
    assert "| first epoch, the tutorial's script | 1.15 × | 2.2 × |" in lines
    assert "| 20 epochs, the tutorial's script | 20 × | 15.3 × (not met) |" in lines


def test_the_network_is_vgg_16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.speed.workload import NETS

    layers = [layer for layer in NETS["vgg16"].layers if layer.shape]
    assert len(layers) == 15  # and fc8, which the cut leaves out
    # Simonyan and Zisserman 2015: 138 million parameters with fc8, 15.5 billion products with it.
    assert sum(math.prod(layer.shape) + layer.shape[-1] for layer in layers) == 134_260_544
    assert NETS["vgg16"].operations() == pytest.approx(30.9e9, rel=0.01)


def test_commands_compute_in_turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.watched import Watched, in_turns

    code = """
import time
for number in range(9):
    while time.process_time() < 0.2 * number: pass
    print("part", number)
"""
    each = [Watched([sys.executable, "-c", code]) for _ in range(2)]
    in_turns(each, "^part", 3)
    for one in each:
        assert [line for _, line in one.lines][:3] == ["part 0", "part 1", "part 2"]
        assert len(one.lines) < 9  # it was stopped, and killed in the end
        assert one.lines[2][0] - one.lines[0][0] < 2.0  # the other's time is not counted


def test_a_step_takes_time_even_if_two_lines_are_heard_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.watched import Watched, of_a_step

    heard = [(1.0, "train | step   10 | loss 0.7"), (2.0, "train | step 20"), (2.0, "train | step 30"), (2.5, "done")]
    assert of_a_step(Watched(["it"], lines=[*heard, (3.0, "train | step 40")])) == [1 / 20, 1 / 10]


def test_a_command_that_fails_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.watched import watched

    with pytest.raises(RuntimeError, match="no such thing"):
        watched([sys.executable, "-c", "raise SystemExit('no such thing')"], {})
    assert watched([sys.executable, "-c", "print('all well')"], {}).lines[0][1] == "all well"


def test_the_page_has_what_was_measured(table: Any):
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.table(results) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert not results["small"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_contender_trains(tmp_path: Path):
    out = tmp_path / "speed.json"
    few = ["--small", "--images", "32", "--job-images", "48", "--repeats", "1", "--out", str(out)]
    parts = ["vgg16", "norms", "lstm", "job", "once"]  # the demo's net has no layer that is not in these
    words = [str(tmp_path / "work"), *few, *(word for part in parts for word in ("--only", part))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    times = json.loads(out.read_text())["times"]
    assert {"vgg16 frozen", "vgg16 prefix", "vgg16 full", "norms full", "lstm frozen", "job", "once"} <= times.keys()
    assert {"tutorial", "keras", "by_hand", "hub", "finetune"} <= times["vgg16 frozen"][0].keys()
