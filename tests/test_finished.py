"""A finished run, as its verbs find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune import evaluating, extracting, predicting
from finetune.__main__ import main
from finetune.calibrating.setting import BY_ITSELF, Choice, Setting
from finetune.finished import engine_of


class Started(Exception):
    """TensorFlow would start now."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["recipe=vgg_2class", "train.steps=2", f"run.dir={folder}", "eval.probe=false"]) == 0
    return folder


def test_a_run_without_a_record_of_its_engine_has_tensorflows(tmp_path: Path):
    assert engine_of(tmp_path) == BY_ITSELF
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    assert engine_of(tmp_path) == BY_ITSELF


def test_every_verb_starts_tensorflow_as_the_run_had_it(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    record = json.loads((run / "run.json").read_text())
    setting = Setting(onednn=True, threads=3)
    (run / "run.json").write_text(json.dumps({**record, "engine": setting.record()}))
    seen = []

    def note(engine: Choice) -> Any:
        seen.append(engine.setting)
        raise Started

    for room in (evaluating, extracting, predicting):
        monkeypatch.setattr(room, "start_tensorflow", note)
    pictures = str(next(Path(predicting.__file__).parent.glob("demo/dress_coat/dress")))
    out = str(tmp_path / "features.npz")
    with pytest.raises(Started):
        evaluating.evaluate([str(run)])
    with pytest.raises(Started):
        extracting.extract([str(run), "--out", out])
    with pytest.raises(Started):
        predicting.predict([str(run), pictures])
    with pytest.raises(Started):
        extracting.extract(["recipe=vgg_2class", "--out", out, "engine.onednn=false"])
    assert seen == [setting] * 3 + [Setting(onednn=False)]
