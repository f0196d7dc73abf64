"""What `list` says of recipes and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.__main__ import main


def test_runs_stand_with_their_result_below_the_recipes(workdir: Path, run_folder: Path, capsys):
    (workdir / "runs").mkdir()
    run_folder.rename(workdir / "runs/first")
    record = json.loads((workdir / "runs/first/run.json").read_text())
    assert main(["list"]) == 0
    recipes, runs = capsys.readouterr().out.split("\n\n")
    assert "vgg_2class" in recipes
    _, line = runs.splitlines()
    assert line.startswith("runs/first  finished  4 ")
    assert f"accuracy {record['metrics']['accuracy']:.3f} (" in line
    assert record["started"][:10] in line


def test_programs_get_numbers(run_folder: Path, capsys):
    assert main(["list", str(run_folder), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    record = json.loads((run_folder / "run.json").read_text())
    assert (run["run"], run["status"], run["step"]) == (str(run_folder), "finished", 4)
    assert run["value"] == record["metrics"]["accuracy"]
    assert run["interval"] == record["intervals"]["accuracy"]


@pytest.mark.parametrize(("text", "status"), [("{", "unknown"), ('{"status": "running"}', "unfinished")])
def test_a_run_that_is_not_finished_or_broken_is_listed_with_the_others(run_folder: Path, text, status, capsys):
    sweep = run_folder.parent / "sweep/lr=1"
    sweep.mkdir(parents=True)
    (sweep / "recipe.yaml").write_text((run_folder / "recipe.yaml").read_text())
    (sweep / "run.json").write_text(text)
    assert main(["list", str(run_folder.parent), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["run"]: run["status"] for run in runs} == {str(run_folder): "finished", str(sweep): status}
    assert main(["list", str(run_folder.parent)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_an_empty_folder_holds_no_run(tmp_path: Path, capsys):
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path} holds no run\n"
