"""The verb `evaluate`: the numbers of the run again, to the bit, and those of other examples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finetune.__main__ import main
from finetune.packaged import asset

SHORT = ["train.steps=6", "train.epochs=null", "train.batch_size=8", "eval.every_steps=3", "eval.probe=false"]
LORA = ["recipe=vgg_2class_lora", "train.ema=0.5"]


def trained(folder: Path, *words: str) -> Path:
    assert main([*words, *SHORT, f"run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("evaluated") / "run", "recipe=vgg_2class")


@pytest.mark.parametrize(
    "words",
    [["recipe=vgg_2class"], LORA, ["recipe=two_heads"], ["recipe=vgg_2class_phases"]],
)
def test_the_numbers_of_the_run_come_again(words: list[str], tmp_path: Path, capsys):
    folder = trained(tmp_path / "run", *words)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--json", "--out", str(tmp_path / "again")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "evaluation.json").read_text())
    for name in ("evaluation.json", "predictions.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_people_get_tables(run: Path, capsys):
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    accuracy = json.loads((run / "run.json").read_text())["metrics"]["accuracy"]
    assert out.splitlines()[0] == f"{run}/model, step 6, on 126 held-out examples"
    assert f"  accuracy  {accuracy:.4g}  " in out
    assert "is \\ taken for  coat  dress" in out


def test_the_best_pair_is_another(run: Path, capsys):
    best = json.loads((run / "run.json").read_text())["best"]
    assert main(["evaluate", str(run), "--best", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == best["step"]
    assert found["heads"]["head"]["metrics"]["loss"]["value"] == best["value"]


def test_all_of_other_examples_are_looked_at_by_the_classes_of_the_run(run: Path, tmp_path: Path, capsys):
    """Here there is one class only, the second one."""
    shutil.copytree(asset("demo/dress_coat/dress"), tmp_path / "new/dress")
    assert main(["evaluate", str(run), str(tmp_path / "new"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    head = found["heads"]["head"]
    assert found["examples"] == len(list((tmp_path / "new/dress").iterdir()))
    assert head["classes"] == ["coat", "dress"]
    assert [row["support"] for row in head["by_class"]] == [0, found["examples"]]
    assert list(head["baselines"]) == ["majority class"]  # the others were measured on other examples


def test_other_metrics_of_the_same_model(run: Path, capsys):
    assert main(["evaluate", str(run), "--json", "eval.metrics=[balanced_accuracy]"]) == 0
    assert list(json.loads(capsys.readouterr().out)["heads"]["head"]["metrics"]) == ["loss", "balanced_accuracy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "train.steps=9"], "train.steps=9: is part of how the model was made; only keys of data. and eval."),
        (["RUN/nowhere"], "is not there; name a run folder"),
        (["RUN", "nowhere"], "nowhere"),
        (["RUN", "eval.metrics=[acuracy]"], "'acuracy' is no metric of head.loss=softmax"),
        (["RUN", "data.classes=[dress,coat]"], "its classes are dress, coat, and head tells coat, dress apart"),
        (["RUN/model"], "holds no recipe.yaml; name the run folder"),
    ],
)
def test_what_is_wrong_is_one_line(run: Path, words: list[str], said: str, capsys):
    assert main(["evaluate", *(word.replace("RUN", str(run)) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_is_not_finished_cannot_be_evaluated(run_folder: Path, capsys):
    assert main(["evaluate", str(run_folder)]) == 2
    assert "this run is not finished" in capsys.readouterr().err
