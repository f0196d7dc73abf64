"""Our own files are found in a checkout, in an editable install and in a wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from finetune import packaged

ROOT = Path(__file__).resolve().parents[1]


def test_a_checkout_keeps_its_folders_at_the_top():
    assert packaged.configs() == ROOT / "configs"
    assert packaged.recipes() == ROOT / "recipes"


def test_a_wheel_has_them_inside_the_package(tmp_path, monkeypatch):
    (tmp_path / "finetune" / "recipes").mkdir(parents=True)
    monkeypatch.setattr(packaged, "_PACKAGE", tmp_path / "finetune")
    assert packaged.recipes() == tmp_path / "finetune" / "recipes"


def test_an_asset_is_a_folder_a_file_or_the_prefix_of_a_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "_PACKAGE", tmp_path)
    (tmp_path / "demo" / "small_vgg").mkdir(parents=True)
    (tmp_path / "demo" / "small_vgg" / "model.meta").touch()
    for name in ("demo/small_vgg", "demo/small_vgg/model.meta", "demo/small_vgg/model"):
        assert packaged.asset(name) == str(tmp_path / name)


def test_an_unknown_asset_is_refused_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "_PACKAGE", tmp_path)
    (tmp_path / "demo" / "small_vgg").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no asset 'demo/smal_vgg'; did you mean demo/small_vgg\?"):
        packaged.asset("demo/smal_vgg")


def test_the_wheel_carries_what_a_run_needs(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (path,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(path).namelist()
    for part in ("finetune/__main__.py", "finetune/configs/finetune.yaml", "finetune/recipes/vgg_2class.yaml"):
        assert part in names
    assert any(name.startswith("finetune/demo/small_vgg/") and name.endswith(".index") for name in names)
    # Nothing lands beside the package.
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"finetune"}
