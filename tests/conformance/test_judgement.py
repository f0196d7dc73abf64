"""A run says how good its model is, and compared with what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.packaged import asset
from finetune.recipe import Data, Eval, Head, Recipe, Run, Source, Train
from finetune.run import run


def made(folder: Path, **evaluation: object) -> Recipe:
    return Recipe(
        name="judged",
        source=Source(path=str(asset("demo/small_vgg")), feeds={"keep_prob": 1.0}),
        cut="fc7:0",
        head=Head(classes=3),
        data=Data(kind="synthetic", preprocess="none"),
        train=Train(steps=4, batch_size=8),
        eval=Eval(**evaluation),  # type: ignore[arg-type]
        run=Run(dir=str(folder)),
    )


def test_the_result_has_an_interval_baselines_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run"
    assert run(made(folder, metrics=["kappa", "accuracy"], old_head="fc8"), "name: x\n", []) == 0
    said = capsys.readouterr().out
    record = json.loads((folder / "run.json").read_text())
    found = json.loads((folder / "evaluation.json").read_text())
    head = found["heads"]["head"]
    assert {n: m["value"] for n, m in head["metrics"].items()} == record["metrics"]
    assert list(record["metrics"]) == ["loss", "kappa", "accuracy"]
    assert list(head["baselines"]) == ["majority class", "untrained head", "linear probe"]
    assert record["result"].startswith("kappa ")
    assert "probe | step      0 | kappa" in said
    # The probe may run as many examples forward as the training does.
    assert "examples 32" in said
    # What is frozen does not drift, to the last bit.
    moved = found["old_head"]
    assert (moved["tensor"], moved["difference"], moved["divergence"], moved["agreement"]) == ("fc8:0", 0.0, 0.0, 1.0)
    lines = (folder / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + found["examples"] == 1 + record["data"]["held_out"]


def test_a_probe_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run"
    assert run(made(folder, probe=False), "name: x\n", []) == 0
    assert "probe |" not in capsys.readouterr().out
    head = json.loads((folder / "evaluation.json").read_text())["heads"]["head"]
    assert list(head["baselines"]) == ["majority class", "untrained head"]
