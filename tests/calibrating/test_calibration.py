"""Where the choice comes from, with contenders whose times are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.calibrating import calibration
from finetune.calibrating.calibration import choose
from finetune.calibrating.contest import Failed, Ready, Times
from finetune.calibrating.machine import Machine
from finetune.calibrating.setting import ONEDNN, THREADS, Choice, Setting
from finetune.calibrating.work import Work
from finetune.compose import compose
from finetune.plan import make_plan

ALL = "stop_gradient=false"


class Fake:
    """oneDNN takes 0.7 of the time, XLA 0.8; what is asked for is noted."""

    asked: list[Setting]

    def __init__(self, setting: Setting, words: Sequence[str]):
        assert Path(words[0].removeprefix("recipe=")).read_text().startswith("name: vgg_2class")
        type(self).asked.append(setting)
        self.ready = Ready(bool(setting.onednn), 0, Work(1000, 1000), self._times(setting))

    def _times(self, setting: Setting) -> Times:
        by = (0.7 if setting.onednn else 1.0) * (0.8 if setting.xla else 1.0)
        return Times(by, by)

    def turn(self) -> Times:
        return self.ready.times

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Setting]:
    """A process in which TensorFlow has not started, on a machine of its own; gives what is measured."""
    Fake.asked = []
    monkeypatch.setattr(calibration, "Process", Fake)
    monkeypatch.setattr(calibration, "_pays", lambda *words: True)
    monkeypatch.setattr(calibration, "this_machine", lambda: Machine("A CPU", "f", 4, 2, None, ()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    for name in (ONEDNN, *THREADS):
        monkeypatch.delenv(name, raising=False)
    return Fake.asked


def chosen(*words: str, record: dict[str, Any] | None = None, **more: Any) -> Choice:
    composed = compose(["recipe=vgg_2class", *words])
    return choose(composed.recipe, make_plan(composed.recipe), composed.yaml, record or {}, **more)


def test_it_is_measured_once_and_remembered(asked: list[Setting]):
    first = chosen(ALL)
    assert first.setting == Setting(onednn=True, xla=True)
    assert asked == [Setting(), Setting(True), Setting(True, 2), Setting(True, None, True)]
    again = chosen(ALL)
    assert (again.setting, again.said[0]) == (first.setting, "engine: oneDNN on, XLA, as measured (remembered)")
    assert len(asked) == 4


def test_what_another_run_measured_meanwhile_is_taken(asked: list[Setting], monkeypatch: pytest.MonkeyPatch):
    first, recall, recalled = chosen(ALL), calibration.recall, []

    def late(*words: Any) -> Any:
        recalled.append(words)
        return recall(*words) if len(recalled) > 1 else (None, "")

    monkeypatch.setattr(calibration, "recall", late)
    assert chosen(ALL).setting == first.setting
    assert (len(recalled), len(asked)) == (2, 4)


@pytest.mark.parametrize(
    "word", ["train.batch_size=16", "stop_gradient=[conv3]", "train.precision=mixed_bfloat16", "cut=fc6"]
)
def test_another_job_is_measured_anew(asked: list[Setting], word: str):
    chosen(ALL)
    before = len(asked)
    chosen(*([ALL] if not word.startswith("stop") else []), word)
    assert len(asked) > before


def test_another_machine_is_measured_anew(asked: list[Setting], monkeypatch: pytest.MonkeyPatch):
    chosen(ALL)
    monkeypatch.setattr(calibration, "this_machine", lambda: Machine("A CPU", "g", 4, 2, None, ()))
    before = len(asked)
    chosen(ALL)
    assert len(asked) > before


def test_a_run_that_goes_on_computes_as_it_began(asked: list[Setting]):
    recorded = Setting(onednn=False, threads=3)
    choice = chosen(ALL, record={"engine": recorded.record()})
    assert (choice.setting, choice.said) == (recorded, ("engine: oneDNN off, 3 threads, as this run began",))
    assert chosen(ALL, record={"status": "running"}).setting == Setting()  # older than this choice
    assert asked == []


def test_what_the_recipe_or_the_environment_says_is_not_tried(asked: list[Setting], monkeypatch: pytest.MonkeyPatch):
    assert chosen(ALL, "engine.onednn=false", "engine.threads=4").setting == Setting(False, 4, True)
    assert {(setting.onednn, setting.threads) for setting in asked} == {(False, 4)}
    asked.clear()
    assert chosen(ALL, "train.xla=false").setting == Setting(onednn=True)
    assert not any(setting.xla for setting in asked)
    asked.clear()
    monkeypatch.setenv(ONEDNN, "0")
    monkeypatch.setenv(THREADS[0], "1")
    assert chosen(ALL).setting == Setting(xla=True)
    assert asked == [Setting(), Setting(xla=True)]


def test_the_default_is_taken_where_it_is_asked_for(asked: list[Setting]):
    choice = chosen(ALL, "engine.mode=default", "engine.onednn=true")
    assert (choice.setting, choice.said) == (Setting(True), ("engine: oneDNN on, as the recipe has it",))
    assert asked == []


def test_a_short_job_and_a_part_of_one_are_not_measured(asked: list[Setting], monkeypatch: pytest.MonkeyPatch):
    assert chosen(ALL, may_measure=False).setting == Setting()
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    said = "engine: TensorFlow's defaults (the job is too short to measure others)"
    assert chosen("recipe=vgg_2class_full").said == (said,)
    assert asked == []


def test_a_long_job_pays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    machine = Machine("", "", 2, 2, None, ())
    for steps, pays in (("2000", False), ("20000000", True)):
        recipe = compose(["recipe=vgg_2class", ALL, f"train.steps={steps}"]).recipe
        assert calibration._pays(recipe, make_plan(recipe), machine) is pays


def test_with_a_gpu_only_xla_is_tried(asked: list[Setting], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "this_machine", lambda: Machine("A CPU", "f", 4, 2, None, ("A GPU",)))
    assert chosen(ALL).setting == Setting(xla=True)
    assert asked == [Setting(), Setting(xla=True)]


def test_xla_is_not_tried_where_steps_differ_in_shape_or_in_what_learns(asked: list[Setting]):
    chosen(ALL, "phases=[{name: a, until: {step: 30}}, {name: b, learning_rate: 1e-4}]")
    assert asked
    assert not any(setting.xla for setting in asked)
    asked.clear()
    chosen()  # nothing of the source learns: there is only the forward pass
    assert asked
    assert not any(setting.xla for setting in asked)


def test_a_machine_on_which_nothing_runs_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    def fails(setting: Setting, words: Sequence[str]) -> Fake:
        raise Failed("exit status 1")

    monkeypatch.setattr(calibration, "Process", fails)
    choice = chosen(ALL)
    assert (choice.setting, choice.said) == (
        Setting(),
        ("engine: TensorFlow's defaults (not measured: exit status 1)",),
    )


def test_what_it_was_told_after_tensorflow_had_started_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorflow", os)
    choice = chosen(ALL, record={"engine": {"onednn": True}})
    assert choice.said[1] == f"engine: too late for {ONEDNN}=1: TensorFlow runs already"


def test_choosing_imports_no_tensorflow():
    script = "import finetune.run, finetune.calibrating.calibration as c, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_damaged_memory_costs_a_word(tmp_path: Path, asked: list[Setting]):
    path = tmp_path / "finetune" / "engines.json"
    path.parent.mkdir()
    path.write_text("{")
    assert chosen(ALL).said[0] == f"engine: {path} cannot be read and is passed over"
    assert len(json.loads(path.read_text())) == 1
