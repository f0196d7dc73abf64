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


def test_of_equals_the_better_evaluation_comes_first_and_what_was_pruned_last(made: Make, tmp_path: Path):
    best = [{"metric": "loss", "step": 3, "value": value, "pair": None} for value in (0.5, 0.25)]
    runs = [made("a", 0.5, best=best[0]), made("b", 0.5, best=best[1]), made("c", 0.0, status="pruned", step=4)]
    page = comparison.page(runs, tmp_path)
    assert order(page) == ["b", "a", "c"]
    assert ">4,\u00a0pruned</td>" in page


def test_numbers_that_differ_have_a_figure_and_curves_are_called_by_them(made: Make, tmp_path: Path):
    rates = ("0.1", "0.01", "0.0012345678901234")
    page = comparison.page([made(f"r{n}", 0.5, rate=rate) for n, rate in enumerate(rates)], tmp_path)
    assert "<figcaption>accuracy by train.learning_rate</figcaption>" in page
    assert "train.learning_rate (log)</text>" in page
    assert ">0.001235</text>" in page  # with the name of the key it would be too long
    assert '<span title="0.0012345678901234">0.001235</span>' in page
    same = comparison.page([made("s0", 0.5), made("s1", 0.5)], tmp_path)
    assert "accuracy by" not in same


def test_what_is_to_stand_beneath_the_table_does_with_a_title_of_its_own(made: Make, tmp_path: Path):
    file = comparison.write([made("a", 0.5).path], tmp_path / "out.html", "said < beneath", title="Mine")
    page = file.read_text()
    assert "<title>Mine</title>" in page
    assert "<p>1 run. Sorted by accuracy, the best first.</p>" in page
    assert page.index("</table>") < page.index("said &lt; beneath")
    assert "<h1>0 runs</h1>" in comparison.page([], tmp_path)


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
