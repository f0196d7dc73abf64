"""What a user can do wrong: a line or a few on stderr, a status that is not 0, no traceback, and no file written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune import packaged
from finetune.__main__ import main

DEMO = Path(packaged.asset("demo"))
RECIPE = ["recipe=vgg_2class", "train.steps=2"]


def pair(folder: Path, *suffixes: str) -> Path:
    """Some members of the demo's pair."""
    folder.mkdir()
    for file in (DEMO / "small_vgg").iterdir():
        if file.name.endswith(suffixes):
            shutil.copy(file, folder / file.name)
    return folder


def images(folder: Path, **classes: int) -> Path:
    """Class folders with so many of the demo's images."""
    files = sorted(DEMO.glob("*_*/*/*.png"))
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for file in files[:count]:
            shutil.copy(file, folder / name)
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str], status: int) -> str:
    """Runs a command that has to be refused; gives what it says."""
    before = sorted(Path().rglob("*"))
    assert main(words) == status
    said = capsys.readouterr().err
    assert 1 <= len(said.splitlines()) <= 5
    assert "Traceback" not in said
    assert said.startswith("error[")
    assert sorted(Path().rglob("*")) == before
    return said


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["recipe=vgg_2clas"], 2, ["vgg_2clas", "did you mean vgg_2class"]),
        ([*RECIPE, "trian.steps=3"], 2, ["trian.steps", "did you mean train.steps?"]),
        ([*RECIPE, "train.steps=abc"], 2, ["train.steps", "'abc'", "whole number"]),
        ([*RECIPE, "train.optimizer=adm"], 2, ["train.optimizer", "did you mean adam"]),
        ([*RECIPE, "data.preprocess=unt"], 2, ["data.preprocess", "did you mean unit?"]),
        ([*RECIPE, "source.path=nowhere/vgg.ckpt"], 3, ["source.path", "there is no folder 'nowhere'"]),
        ([*RECIPE, "cut=fc_7"], 3, ["cut", "no tensor 'fc_7:0'", "did you mean fc7:0"]),
        ([*RECIPE, "cut=fc7:3"], 3, ["cut", "no 'fc7:3'", "did you mean fc7:0?"]),
        ([*RECIPE, "cut=images"], 3, ["cut", "no variable below the cut"]),
        ([*RECIPE, "stop_gradient=[pool9]"], 3, ["stop_gradient", "pool9:0", "did you mean pool"]),
        ([*RECIPE, "source.inputs.images=imags"], 3, ["source.inputs.images", "did you mean images:0"]),
        ([*RECIPE, "source.feeds.keep_prb=1"], 3, ["source.feeds.keep_prb", "did you mean keep_prob:0"]),
        ([*RECIPE, "source.feeds.keep_prob=abc"], 2, ["source.feeds.keep_prob", "'abc' is no float32"]),
        ([*RECIPE, "head.classes=3"], 2, ["head.classes", "the recipe says 3, the data has 2: coat, dress"]),
        ([*RECIPE, "head.name=conv1"], 2, ["head.name", "conv1/weights"]),
        ([*RECIPE, 'learn=[["conv9/.*",1]]', "stop_gradient=false"], 2, ["learn", "matches none of the 14"]),
        ([*RECIPE, 'learn=[["conv5/.*",1]]'], 2, ["learn", "no gradient reaches conv5/weights"]),
        ([*RECIPE, 'learn=[["conv5/.*",1]]', "stop_gradient=false"], 2, ["learn", "no rule covers conv1/weights"]),
        ([*RECIPE, "data.path=nowhere"], 2, ["data.path", "there is no folder 'nowhere'"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value[-1][:6] != "recipe" else None,
)
def test_134_a_wrong_word_is_named_with_the_nearest_right_one(workdir, capsys, words, status, says):
    said = refused(words, capsys, status)
    assert [part for part in says if part not in said] == []


def test_136_a_missing_source_is_named(workdir: Path, capsys):
    (workdir / "mine.yaml").write_text("cut: fc7\ndata: {path: images, preprocess: unit}\ntrain: {steps: 1}\n")
    assert "source.path" in refused(["recipe=mine.yaml"], capsys, 2)


def test_a_placeholder_that_nothing_feeds_is_named_with_its_likely_value(workdir: Path, capsys):
    source, data = DEMO / "small_vgg", next(DEMO.glob("*_*/dress")).parent
    (workdir / "mine.yaml").write_text(
        f"source: {{path: '{source}'}}\ncut: fc7\ndata: {{path: '{data}', preprocess: unit}}\ntrain: {{steps: 1}}\n"
    )
    said = refused(["recipe=mine.yaml"], capsys, 3)
    assert "'keep_prob:0' (float, scalar)" in said
    assert "add source.feeds.keep_prob: 1.0" in said


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((".meta", ".index"), ".data-00000-of-00001"),
        ((".meta", ".data-00000-of-00001"), ".index"),
        ((".index", "001"), ".meta"),
    ],
)
def test_a_pair_with_a_missing_member_names_it(workdir: Path, capsys, there, missing):
    said = refused([*RECIPE, f"source.path={pair(workdir / 'pair', *there)}"], capsys, 3)
    assert f"{missing} is missing" in said or f"no model.ckpt-1125{missing}" in said or f"no {missing}" in said


def test_131_an_empty_class_folder_is_named(workdir: Path, capsys):
    folder = images(workdir / "images", cat=3, dog=0)
    assert "images/dog: the class folder is empty" in refused([*RECIPE, f"data.path={folder}"], capsys, 2)


def test_130_unreadable_images_are_named_all_at_once(workdir: Path, capsys):
    folder = images(workdir / "images", cat=3, dog=3)
    (folder / "cat" / "page.png").write_text("<html>")
    (folder / "dog" / "empty.jpg").touch()
    said = refused([*RECIPE, f"data.path={folder}"], capsys, 2)
    assert "cat/page.png" in said
    assert "dog/empty.jpg" in said


def test_130_a_label_out_of_range_is_named_with_its_row(workdir: Path, capsys):
    np.savez(workdir / "data.npz", images=np.zeros((9, 28, 28, 1), np.float32), labels=np.arange(9) % 3)
    said = refused(
        [*RECIPE, "data.kind=arrays", "data.preprocess=none", "data.path=data.npz", "head.classes=2"], capsys, 2
    )
    assert "label 2 in row 2 is not within 0..1" in said


def test_106_the_run_folder_of_another_recipe_is_not_touched(workdir: Path, capsys):
    run = workdir / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("cut: pool5:0\n")
    assert "the run of another recipe" in refused([*RECIPE, "run.dir=run"], capsys, 2)


def test_a_folder_that_is_no_run_is_not_touched(workdir: Path, capsys):
    (workdir / "thesis").mkdir()
    (workdir / "thesis" / "chapter1.tex").touch()
    assert "holds chapter1.tex and is no run folder" in refused([*RECIPE, "run.dir=thesis"], capsys, 2)
