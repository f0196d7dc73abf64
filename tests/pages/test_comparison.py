from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.pages import comparison
from finetune.results.run_files import RunFiles, read

Make = Callable[..., RunFiles]


@pytest.fixture
def made(run_folder: Path, tmp_path: Path) -> Make:
    """A real run's copy with another recipe and another result."""

    def make(name: str, value: float, rate: str = "0.001", main: str = "accuracy", **record: Any) -> RunFiles:
        folder = Path(shutil.copytree(run_folder, tmp_path / "runs" / name))
        recipe = (folder / "recipe.yaml").read_text()
        (folder / "recipe.yaml").write_text(recipe.replace("learning_rate: 0.001", f"learning_rate: {rate}"))
        found = json.loads((folder / "evaluation.json").read_text())
        head = found["heads"]["head"]
        head["metrics"][main] = {**head["metrics"]["accuracy"], "value": value}
        head["main"] = main
        (folder / "evaluation.json").write_text(json.dumps(found))
        content = {**json.loads((folder / "run.json").read_text()), **record}
        (folder / "run.json").write_text(json.dumps(content))
        return read(folder)

    return make


def order(page: str) -> list[str]:
    return re.findall(r'<th scope="row">(?:<a[^>]*>)?(\w+)', page)


def test_the_best_comes_first_and_what_differs_has_a_column(made: Make, tmp_path: Path):
    runs = [made("worse", 0.25), made("best", 0.75, rate="0.01"), made("middle", 0.5)]
    page = comparison.page(runs, tmp_path)
    assert order(page) == ["best", "middle", "worse"]
    assert comparison.differing(runs) == ["train.learning_rate"]
    assert "<code>train.learning_rate</code></th>" in page
    assert ">0.01</td>" in page
    assert "accuracy\u00a0↑</th>" in page
    assert ">0.750 (" in page
    assert page.count('class="name s') == 3  # the curves of all in one figure


def test_less_of_a_loss_is_better_and_no_number_is_last(made: Make, tmp_path: Path):
    runs = [made("a", 0.75, main="brier"), made("b", 0.25, main="brier"), made("c", float("nan"), main="brier")]
    assert order(comparison.page(runs, tmp_path)) == ["b", "a", "c"]


def test_runs_of_several_metrics_have_one_column(made: Make, tmp_path: Path):
    page = comparison.page([made("a", 0.25), made("b", 0.5, main="kappa"), made("c", 0.75)], tmp_path)
    assert order(page) == ["c", "a", "b"]
    assert "Sorted by accuracy, kappa, the best first." in page
    assert ">result</th>" in page


def test_a_run_without_an_end_shows_its_newest_evaluation(made: Make, tmp_path: Path):
    whole, killed = made("whole", 0.0), made("killed", 0.99, status="running", step=0)
    newest = killed.of_phase("eval")[-1]
    assert comparison.results(killed) == {"accuracy": {"value": newest["accuracy"], "low": None, "high": None}}
    assert f">{newest['step']} so far</td>" in comparison.page([whole, killed], tmp_path)


def test_pages_of_runs_are_found_from_where_the_page_lies(made: Make, tmp_path: Path):
    runs = [made("with", 0.5), made("without", 0.25)]
    (runs[0].path / "report.html").write_text("")
    page = comparison.page(runs, tmp_path / "elsewhere")
    assert re.findall('href="([^"]*)"', page) == ["../runs/with/report.html"]


def test_equal_recipes_differ_in_nothing_and_a_lacking_key_has_its_default(made: Make, tmp_path: Path):
    runs = [made("a", 0.5), made("b", 0.25)]
    text = (runs[1].path / "recipe.yaml").read_text()
    assert "  accumulate: 1\n" in text
    (runs[1].path / "recipe.yaml").write_text(text.replace("  accumulate: 1\n", ""))
    again = [runs[0], read(runs[1].path)]
    assert comparison.differing(again) == []
    assert comparison.page(again, tmp_path) == comparison.page(again[::-1], tmp_path)
