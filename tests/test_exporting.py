"""The verb `export` as far as it goes without TensorFlow: which run, which format, where to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from finetune import exporting
from finetune.__main__ import main
from finetune.errors import UserError
from finetune.finished import find_model
from finetune.results.card import Images, read_card

CARD = {
    "inputs": {"images": "images:0"},
    "preprocess": "unit",
    "image_size": [28, 20],
    "channels": 1,
    "feeds": {"keep_prob:0": 1.0},
    "heads": {"head": {"loss": "softmax", "classes": ["a", "b"], "outputs": {"probabilities": "head/probabilities:0"}}},
}


@pytest.fixture
def run(workdir: Path) -> Path:
    """A run folder with a card, and no pair beside it."""
    folder = Path("runs/mine")
    (folder / "model").mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "finished"}')
    (folder / "model" / "model.json").write_text(json.dumps(CARD))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["export", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_usage_errors_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "write export RUN --to pair|savedmodel|frozen|tflite|onnx" in refused(capsys)
    assert "--to" in refused(capsys, str(run))
    assert "no format 'tflit'; did you mean tflite?" in refused(capsys, str(run), "--to", "tflit")
    assert "unrecognized arguments: --bst" in refused(capsys, str(run), "--to", "pair", "--bst")


def test_144_a_run_that_is_not_there_or_not_finished(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "this folder is not there" in refused(capsys, "runs/yours", "--to", "pair")
    assert "this folder holds no run" in refused(capsys, "runs", "--to", "pair")
    assert "kept no best model; leave --best out" in refused(capsys, str(run), "--to", "pair", "--best")
    (run / "model" / "model.json").rename(run / "model.json.aside")
    assert "is not finished" in refused(capsys, str(run), "--to", "pair")


def test_145_the_place(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "--out" in refused(capsys, str(run), "--to", "frozen", "--out", "runs")
    assert "write --out" in refused(capsys, str(run), "--to", "frozen", "--out", "vgg.pb")
    assert exporting._place(run / "model", "onnx", None) == run / "export" / "onnx"
    assert exporting._place(run / "best", "onnx", None) == run / "export" / "best-onnx"


def test_the_model_of_a_run_and_its_best(run: Path):
    assert find_model(run, False) == run / "model"
    assert find_model(run / "model", False) == run / "model"
    (run / "best").mkdir()
    (run / "best" / "model.json").write_text(json.dumps(CARD))
    assert find_model(run, True) == run / "best"


def test_a_missing_extra_is_named(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(capsys, str(run), "--to", "onnx")
    assert error.endswith("needs tf2onnx, onnx, onnxruntime, which are not installed; pip install 'finetune[onnx]'\n")


def test_the_card_names_outputs_after_heads_where_there_are_several(run: Path):
    card = read_card(run / "model")
    assert card.images == Images((28, 20), 1, "unit")
    assert card.outputs() == {"probabilities": "head/probabilities:0"}
    two = {"loss": "squared", "classes": [], "outputs": {"values": "size/values:0"}}
    content = {**CARD, "preprocess": None, "heads": {**CARD["heads"], "size": two}}
    (run / "model" / "model.json").write_text(json.dumps(content))
    card = read_card(run / "model")
    assert card.images is None
    assert card.outputs() == {"head/probabilities": "head/probabilities:0", "size/values": "size/values:0"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"inputs": {}, "preprocess": "unit", "image_size": null}'])
def test_a_card_that_is_none(run: Path, content: str):
    (run / "model" / "model.json").write_text(content)
    with pytest.raises(UserError, match="this is no card of a finished pair"):
        read_card(run / "model")
