"""The verb `predict`: what the run said of its held-out examples, said again of files without labels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.__main__ import main
from finetune.packaged import asset

SHORT = ["train.steps=6", "train.epochs=null", "train.batch_size=8", "eval.every_steps=3", "eval.probe=false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicted")
    for name in ("vgg_2class", "two_heads", "regression", "date_language"):
        assert main([f"recipe={name}", *SHORT, f"run.dir={folder / name}"]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_held_out_images_get_the_answers_that_the_run_gave_them(runs: Path, tmp_path: Path):
    told = table(runs / "vgg_2class/predictions.csv")
    files = [row["id"] for row in told]
    assert main(["predict", str(runs / "vgg_2class"), *files, "--csv", "--out", str(tmp_path / "again.csv")]) == 0
    again = table(tmp_path / "again.csv")
    assert again == [{name: row[name] for name in ("id", "prediction", "probability")} for row in told]


@pytest.mark.parametrize(
    ("name", "data"),
    [("two_heads", "outfits.npz"), ("regression", "outfits.npz"), ("date_language", "dates/languages.npz")],
)
def test_rows_of_any_kind_need_no_labels(runs: Path, name: str, data: str, tmp_path: Path):
    told = {row["id"]: row for row in table(runs / name / "predictions.csv")}
    with np.load(asset(f"demo/{data}")) as content:
        inputs = {key: content[key] for key in content if key not in ("garments", "ink", "labels", "language")}
    np.savez(tmp_path / "rows.npz", **inputs)
    words = [str(runs / name), str(tmp_path / "rows.npz"), "--csv", "--out", str(tmp_path / "out.csv")]
    assert main(["predict", *words]) == 0
    again = {row["id"]: row for row in table(tmp_path / "out.csv")}
    assert told.keys() < again.keys()
    for line, row in told.items():
        for column in again[line]:
            ours, theirs = again[line][column], row[column]
            if column.endswith("probability") or (column.endswith("prediction") and theirs[0].isdigit()):
                numbers = [[float(number) for number in text.split()] for text in (ours, theirs)]
                np.testing.assert_allclose(*numbers, rtol=2e-3, atol=2e-6)  # numbers are told with four digits
            else:
                assert ours == theirs


def test_people_get_a_line_and_programs_an_object(runs: Path, capsys):
    file = str(Path(asset("demo/dress_coat/dress/t10k-00029.png")))
    assert main(["predict", str(runs / "vgg_2class"), file]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{file}  ")
    assert {"coat", "dress"} < set(line.replace(",", "").split())
    assert main(["predict", str(runs / "vgg_2class"), file, "--json", "--top", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["id"] == file
    assert list(found["probabilities"]) == [found["prediction"]]
    assert f"{found['prediction']} {found['probabilities'][found['prediction']]:.3f}" in line


def test_an_image_that_is_none_is_named_and_the_rest_goes_on(runs: Path, tmp_path: Path, capsys):
    for file in sorted(Path(asset("demo/dress_coat/coat")).glob("*.png"))[:40]:
        shutil.copy(file, tmp_path)
    (tmp_path / "broken").mkdir()
    bad = sorted(tmp_path.glob("*.png"))[20]
    bad.write_text("no image")
    (tmp_path / "broken/other.jpg").write_bytes(b"")
    assert main(["predict", str(runs / "vgg_2class"), str(tmp_path), "--csv"]) == 2
    said = capsys.readouterr()
    named = sorted(line.partition(" (")[0] for line in said.err.splitlines())
    assert named == sorted(f"not read: {file}" for file in (bad, tmp_path / "broken/other.jpg"))
    ids = [line.split(",")[0] for line in said.out.splitlines()[1:]]
    assert ids == [str(file) for file in sorted(tmp_path.rglob("*.*g")) if file != bad and file.suffix == ".png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUNS/vgg_2class"], "the following arguments are required: PATH"),
        (["RUNS/vgg_2class", "nowhere"], "nowhere: there is no such file or folder"),
        (["RUNS/vgg_2class", "RUNS"], "this folder has no .png"),
        (["RUNS/vgg_2class", "x.png", "--json", "--csv"], "not allowed with"),
        (["RUNS/vgg_2class", "x.png", "--top", "0"], "--top: 0 is not 1 or more"),
        (["RUNS/vgg_2class", "x.png", "--out", "RUNS/vgg_2class/run.json"], "is there already"),
        (["RUNS/two_heads", "a.npz", "b.npz"], "2 are given, and data.kind=arrays reads one"),
        (["RUNS/two_heads", "a.npz"], "there is no file"),
        (["RUNS", "x.png"], "holds no run"),
    ],
)
def test_what_is_wrong_is_one_line(runs: Path, words: list[str], said: str, capsys):
    assert main(["predict", *(word.replace("RUNS", str(runs)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) <= 2
