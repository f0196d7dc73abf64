"""Every recipe that ships: its header is complete, it composes, it runs, and it reaches what it claims."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import packaged, recipe_files
from finetune.check import check
from finetune.compose import compose
from finetune.run import run

RECIPES = sorted(packaged.recipes().glob("*.yaml"))
EXPECTED = re.compile(
    r"Expected: held-out (?P<metric>[\w/]+) (?P<mean>[\d.]+) "
    r"\(mean of seeds 0 to 4; (?P<least>[\d.]+) to (?P<most>[\d.]+)\); untrained head (?P<untrained>[\d.]+)"
)


def header(recipe: Path) -> str:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comment = [line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]]
    return " ".join(comment)


def test_every_recipe_file_is_tested():
    """Those that the tests below are given, those that lie in the folder, and those that `list` shows are the same."""
    tested = {recipe.stem for recipe in RECIPES}
    assert len(tested) == len(list(packaged.recipes().rglob("*.y*ml"))) > 0
    assert tested == set(recipe_files.known())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_is_one_screen_and_begins_with_its_command_and_its_number(recipe: Path):
    assert len(recipe.read_text(encoding="utf-8").splitlines()) <= 60
    assert f"python -m finetune recipe={recipe.stem}" in header(recipe)
    assert EXPECTED.search(header(recipe))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_composes(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check(compose([f"recipe={recipe.stem}"]).recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_runs_shrunk(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    composed = compose([f"recipe={recipe.stem}", "train.steps=3", "train.batch_size=8", "run.dir=run"])
    assert run(composed.recipe, composed.yaml, []) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["step"]) == ("finished", 3)
    assert (tmp_path / "run" / "model" / "model.index").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # five runs, on a machine that does other things too
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_reaches_what_its_header_says(recipe: Path, tmp_path: Path):
    said = EXPECTED.search(header(recipe)).groupdict()  # type: ignore[union-attr]
    metric = said.pop("metric")
    claim = {name: float(value) for name, value in said.items()}
    reached, untrained = [], []
    for seed in range(5):
        words = [f"recipe={recipe.stem}", f"run.seed={seed}", f"run.dir={seed}"]
        subprocess.run([sys.executable, "-m", "finetune", *words], cwd=tmp_path, check=True, capture_output=True)
        lines = [json.loads(line) for line in (tmp_path / str(seed) / "metrics.jsonl").read_text().splitlines()]
        evaluations = [line for line in lines if line["phase"] == "eval"]
        untrained.append(evaluations[0][metric])
        reached.append(evaluations[-1][metric])
    # Another processor rounds otherwise: one held-out example more or less.
    assert sum(reached) / 5 == pytest.approx(claim["mean"], abs=0.01)
    assert min(reached) == pytest.approx(claim["least"], abs=0.02)
    assert max(reached) == pytest.approx(claim["most"], abs=0.02)
    assert sum(untrained) / 5 == pytest.approx(claim["untrained"], abs=0.02)
