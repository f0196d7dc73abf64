"""The verb `report`: which runs, and where its page goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.__main__ import main

RECIPE = "name: {}\ncut: fc7:0\ntrain: {{steps: 4, learning_rate: {}}}\nrun: {{dir: runs/{}}}\n"


@pytest.fixture
def runs(workdir: Path) -> Path:
    """Two runs that have just begun."""
    for name, rate in (("a", 0.1), ("b", 0.2)):
        folder = Path("runs", name)
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(RECIPE.format(name, rate, name))
        (folder / "metrics.jsonl").write_text(f'{{"step": 0, "phase": "eval", "loss": 1.0, "accuracy": {rate}}}\n')
    return Path("runs")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_one_run_has_its_page_in_its_folder_or_where_it_is_wanted(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert said(capsys, "runs/a") == "report: runs/a/report.html\n"
    assert "Not finished: step 0 of 4" in Path("runs/a/report.html").read_text()
    assert said(capsys, "runs/a", "--out", "new/a.html") == "report: new/a.html\n"
    assert Path("new/a.html").read_bytes() == Path("runs/a/report.html").read_bytes()


def test_several_runs_have_one_page(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert said(capsys, "runs") == "report: runs/report.html\n"
    whole = Path("runs/report.html").read_text()
    assert "<h1>2 runs</h1>" in whole
    assert whole.index(">b</th>") < whole.index(">a</th>")
    Path("runs/report.html").unlink()
    assert said(capsys, "runs/b", "runs/a", "runs/a") == "report: runs/report.html\n"
    assert Path("runs/report.html").read_text() == whole
    assert said(capsys, "runs", "--out", "all.html") == "report: all.html\n"


def test_a_folder_with_one_run_is_still_a_folder_of_runs(runs: Path, capsys: pytest.CaptureFixture[str]):
    (runs / "b" / "recipe.yaml").unlink()
    said(capsys, "runs")
    assert "<h1>1 run</h1>" in Path("runs/report.html").read_text()


def test_usage_errors_are_one_line(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert "write report RUN [RUN …] [--out FILE.html]" in refused(capsys)
    assert "runs/c: is not there; name a run folder" in refused(capsys, "runs/a", "runs/c")
    assert "runs/a/recipe.yaml: is a file" in refused(capsys, "runs/a/recipe.yaml")
    Path("empty").mkdir()
    assert "empty: holds no run" in refused(capsys, "empty")
    assert "'x.pdf' does not end in .html" in refused(capsys, "runs/a", "--out", "x.pdf")
    Path("x.html").mkdir()
    assert "'x.html' is a folder" in refused(capsys, "runs/a", "--out", "x.html")
    (runs / "a" / "recipe.yaml").write_text("a: [")
    assert "runs/a/recipe.yaml:1" in refused_in_two(capsys, "runs/a")


def refused_in_two(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", *words]) == 2
    return capsys.readouterr().err


def test_a_report_needs_no_tensorflow(runs: Path):
    words = "import sys; from finetune.__main__ import main; main(['report', 'runs']); main(['report', 'runs/a'])"
    check = "; sys.exit('tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", words + check], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
