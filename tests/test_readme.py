"""What the README says is so: its links lead somewhere, its recipe is the recipe, its Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_recipe_shown_is_the_recipe_shipped():
    recipe = (ROOT / "recipes" / "vgg_2class.yaml").read_text(encoding="utf-8")
    shown = next(block for block in blocks("yaml") if "source:" in block)
    settings = [line for line in recipe.splitlines() if line and not line.startswith("#")]
    assert [line for line in shown.splitlines() if line] == settings


def test_the_number_shown_is_the_number_in_the_recipe():
    recipe = (ROOT / "recipes" / "vgg_2class.yaml").read_text(encoding="utf-8")
    expected = re.search(r"accuracy ([\d.]+) \(mean of seeds 0 to 4; ([\d.]+) to ([\d.]+)\)", recipe)
    assert expected
    assert f"{expected[1]} ({expected[2]} to {expected[3]})" in README


def test_the_python_shown_runs(tmp_path: Path):
    words = ["recipe=vgg_2class", "train.steps=2", "run.dir=runs/vgg_2class"]
    subprocess.run([sys.executable, "-m", "finetune", *words], cwd=tmp_path, check=True, capture_output=True)
    (shown,) = blocks("python")
    script = shown + "    print(session.run(probabilities, {images: [[[[0.0]] * 28] * 28]}).shape)\n"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "(1, 2)", result.stderr
