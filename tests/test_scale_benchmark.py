"""The page about many examples: its tables are what was measured and what follows, and the benchmark runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.examples.tfrecords import read_records

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.scale import table

    return table


def test_the_page_has_what_was_measured_and_what_follows(table: Any):
    results, page = json.loads(table.RESULTS.read_text(encoding="utf-8")), table.PAGE.read_text(encoding="utf-8")
    for name, shown in (("scale", table.table(results)), ("scale plan", table.planned(results))):
        assert page.partition(f"<!-- {name}: begin -->\n")[2].partition(f"<!-- {name}: end -->\n")[0] == shown


def test_what_follows_is_the_product_of_what_was_measured(table: Any):
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    (index,) = results["measured"]["index"]
    share = 100_000_000 / 256 * index["seconds"] / index["examples"]
    assert f"| {table.told(share)} |" in table.planned(results).splitlines()[2]
    twice = json.loads(json.dumps(results))
    twice["measured"]["index"][0]["seconds"] *= 2
    assert f"| {table.told(2 * share)} |" in table.planned(twice).splitlines()[2]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.00234, "2.3 ms"), (5.0, "5.0 s"), (100.0, "100 s"), (5000.0, "83 min"), (50_000.0, "14 h"), (4e5, "4.6 days")],
)
def test_times_for_people(table: Any, seconds: float, said: str):
    assert table.told(seconds) == said


def test_sizes_for_people(table: Any):
    assert [table.sized(size) for size in (800, 33e6, 3.5e9, 1.64e12)] == ["800 bytes", "33 MB", "3.5 GB", "1.6 TB"]


def test_shards_are_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.scale.sources import shards

    shards(tmp_path / "data", 25, 10, 32)
    found = read_records(str(tmp_path / "data"), {"x": []}, ["labels"], [], "data.path")
    assert [source.partition("@")[0][6:11] for source in found.sources] == ["00000"] * 10 + ["00001"] * 10 + [
        "00002"
    ] * 5
    assert found.columns["labels"].tolist() == (np.arange(25) % 10).tolist()
    assert len(set(found.hashes)) == 25


@pytest.mark.slow
def test_it_runs(tmp_path: Path):
    out = tmp_path / "scale.json"
    words = [str(tmp_path), "--examples", "500", "--pictures", "64", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *words], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = json.loads(out.read_text(encoding="utf-8"))["measured"]
    assert found["start"][0]["examples"] == 500
    assert "| first start, small records, work shared |" in done.stdout
