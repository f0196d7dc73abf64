"""What a run keeps is written beside the training, and is what there was when it was asked to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from finetune.caching import store
from finetune.compose import compose
from finetune.errors import UserError
from finetune.interruption import Interrupted, Interruption
from finetune.results import checkpoints, export, report
from finetune.running import keeping, patience
from tests.running.test_training import ALL, HEAD, WORDS, everything, start

ALL_OF_IT = [*WORDS, f"phases=[{HEAD},{ALL}]", "stop_gradient=false", "train.ema=0.5", "eval.keep_best=true"]


def slow(real: Callable[..., Any]) -> Callable[..., Any]:
    def wait(*words: Any) -> Any:
        time.sleep(0.2)
        return real(*words)

    return wait


def test_what_is_written_late_is_what_there_was(tmp_path, monkeypatch):
    composed = compose(ALL_OF_IT)
    assert start(composed, tmp_path / "quick") == 0
    monkeypatch.setattr(checkpoints, "save", slow(checkpoints.save))
    monkeypatch.setattr(export, "write_pair", slow(export.write_pair))
    assert start(composed, tmp_path / "slow") == 0
    quick, late = everything(tmp_path / "quick"), everything(tmp_path / "slow")
    assert {"checkpoints/model-1.index", "checkpoints/model-7.index", "best/model.index"} <= quick.keys()
    assert quick == late


def test_a_step_is_said_to_be_saved_when_it_is(tmp_path, monkeypatch, capsys):
    said: list[bool] = []

    def first(real: Callable[..., Any]) -> Callable[..., Any]:
        def save(folder: Any, name: str, *words: Any) -> Any:
            said.append(f"saved step {name.rpartition('-')[2]}\n" in capsys.readouterr().out)
            return real(folder, name, *words)

        return save

    monkeypatch.setattr(checkpoints, "save", first(checkpoints.save))
    assert start(compose(WORDS), tmp_path / "run") == 0
    assert said == [False] * 7
    assert (tmp_path / "run" / "train.log").read_text().count("saved step") == 7


def full_for(names: set[str], times: int) -> Callable[..., Any]:
    """A disk that does not take these, so many times in all."""
    left, real = [times], checkpoints.save

    def save(folder: Any, name: str, *words: Any) -> Any:
        if name in names and left[0]:
            left[0] -= 1
            raise UserError("storage", str(folder / name), "cannot be written: No space left on device", "free some")
        return real(folder, name, *words)

    return save


def test_84_a_disk_that_is_full_for_a_while_costs_no_step(tmp_path, monkeypatch, capsys):
    composed = compose(ALL_OF_IT)
    assert start(composed, tmp_path / "whole") == 0
    capsys.readouterr()
    monkeypatch.setattr(checkpoints, "save", full_for({"model-3", "model-4"}, 2))
    assert start(composed, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert said.count("is not saved: ") == 1
    assert "warning: step 3 is not saved: " in said
    assert "model-3: cannot be written: No space left on device; the run goes on and tries again" in said
    assert said.count("storage: the disk takes it again") == 1
    ours, undisturbed = everything(tmp_path / "run"), everything(tmp_path / "whole")
    lacking = {"checkpoints/model-3.index", "checkpoints/model-4.index"}  # what is newer has taken their place
    assert ours == {name: values for name, values in undisturbed.items() if name not in lacking}


def test_84_what_is_held_is_tried_again_while_nothing_newer_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "AGAIN", 0.0)
    monkeypatch.setattr(report.Report, "advance", lambda tell, loss: time.sleep(0.1))  # slower than the disk
    monkeypatch.setattr(checkpoints, "save", full_for({"model-3"}, 1))
    assert start(compose([*WORDS, "checkpoint.every_steps=3", "checkpoint.keep=20"]), tmp_path / "run") == 0
    assert (tmp_path / "run/checkpoints/model-3.index").exists()
    assert "saved step 3" in (tmp_path / "run/train.log").read_text()


def test_84_at_the_end_the_run_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(checkpoints, "save", full_for({"model-7"}, 5))
    assert start(compose(WORDS), tmp_path / "run") == 0
    assert "saved step 7" in (tmp_path / "run/train.log").read_text()


def test_84_a_disk_that_stays_full_ends_the_run_and_what_was_saved_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    real = checkpoints.save
    composed = compose(ALL_OF_IT)
    monkeypatch.setattr(checkpoints, "save", full_for({f"model-{n}" for n in range(3, 8)}, 10**6))
    with pytest.raises(UserError, match="model-7: cannot be written: No space left on device"):
        start(composed, tmp_path / "run")
    monkeypatch.setattr(checkpoints, "save", real)
    kept = [step for step, _ in checkpoints.candidates(tmp_path / "run" / "checkpoints", "model")]
    assert kept == [2, 1]
    assert "saved step 3" not in (tmp_path / "run" / "train.log").read_text()
    assert start(composed, tmp_path / "run") == 0
    assert start(composed, tmp_path / "whole") == 0
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_what_no_phase_changes_is_the_sources_and_not_read_again(tmp_path, monkeypatch):
    composed = compose([*WORDS, "train.steps=2"])
    assert start(composed, tmp_path / "run") == 0
    read: list[Any] = []
    real = checkpoints.load_newest

    def load(*words: Any) -> Any:
        found = real(*words)
        read.append(found and found.values)
        return found

    monkeypatch.setattr(checkpoints, "load_newest", load)
    assert start(compose([*WORDS, "train.steps=4"]), tmp_path / "run") == 0
    assert {n for n in read[0] if not n.startswith(("optimizer/", "monitor/"))} >= {"head/kernel", "head/bias"}
    assert not {n for n in read[0] if n.startswith(("conv1", "fc6", "fc7"))}
    assert np.isfinite(read[0]["head/kernel"]).all()


def never(names: set[str], of: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """A disk that takes none of these."""

    def write(folder: Any, *words: Any) -> Any:
        name = folder.name if of == "pair" else words[0]
        if name in names:
            raise UserError("storage", str(folder), "cannot be written: No space left on device", "free some")
        return real(folder, *words)

    return write


def asked_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Interruption:
    """Somebody asks the run to end after a step."""
    interruption, left, real = Interruption(), [step], report.Report.advance

    def advance(tell: Any, loss: float) -> None:
        real(tell, loss)
        left[0] -= 1
        if not left[0]:
            interruption.by = "SIGTERM"

    monkeypatch.setattr(report.Report, "advance", advance)
    return interruption


def test_88_a_fault_beside_the_training_is_raised_within_a_step(tmp_path, monkeypatch):
    made = []

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    def advance(*_: Any) -> None:
        made.append(len(made))
        time.sleep(0.2)

    monkeypatch.setattr(checkpoints, "save", fail)
    monkeypatch.setattr(report.Report, "advance", advance)
    composed = compose([*WORDS, "checkpoint.every_steps=2", "train.steps=12", "eval.keep_best=false"])
    monkeypatch.setattr(keeping, "check_sound", lambda *_: None if len(made) < 4 else pytest.fail("saved again"))
    with pytest.raises(RuntimeError, match="a bug"):
        start(composed, tmp_path / "run")
    assert len(made) == 3


WORSE = [*ALL_OF_IT, "train.learning_rate=5.0"]  # the best evaluation is not the last one


ADAPTED = [*WORDS, "stop_gradient=false", "lora={match: ['fc[67]/weights'], rank: 2}", "train.ema=0.5"]


@pytest.mark.parametrize("words", [WORSE, [*ADAPTED, "train.learning_rate=0.3", "eval.metric=accuracy"]])
def test_a_best_pair_that_the_disk_does_not_take_is_owed_by_the_checkpoints(tmp_path, monkeypatch, words):
    composed = compose(words)
    assert start(composed, tmp_path / "whole") == 0
    best = json.loads((tmp_path / "whole/best/model.json").read_text())["evaluated"]["step"]
    assert best <= 5
    save = checkpoints.save

    def killed(folder: Any, name: str, *words: Any) -> Any:
        if name == "model-6":
            raise KeyboardInterrupt
        return save(folder, name, *words)

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_pair", never({"best"}, "pair", export.write_pair))
        patch.setattr(checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            start(composed, tmp_path / "run")
    assert not (tmp_path / "run/best").exists()
    assert "saved step 5" in (tmp_path / "run/train.log").read_text()
    assert start(composed, tmp_path / "run") == 0
    ours, undisturbed = everything(tmp_path / "run"), everything(tmp_path / "whole")
    for name in ("best/model.index", "model/model.index", "checkpoints/model-6.index", "checkpoints/model-7.index"):
        assert ours[name] == undisturbed[name]
    for name in ("model.json", "labels.txt"):
        assert (tmp_path / "run/best" / name).read_bytes() == (tmp_path / "whole/best" / name).read_bytes()


def test_a_run_that_is_asked_to_end_does_not_wait_for_the_best_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(patience, "PATIENCE", 5.0)
    composed = compose(WORSE)
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_pair", never({"best"}, "pair", export.write_pair))
        with pytest.raises(Interrupted):
            start(composed, tmp_path / "run", asked_after(4, patch))
    assert "saved step 4" in (tmp_path / "run/train.log").read_text()
    assert start(composed, tmp_path / "run") == 0
    assert start(composed, tmp_path / "whole") == 0
    ours, undisturbed = everything(tmp_path / "run"), everything(tmp_path / "whole")
    assert ours["best/model.index"] == undisturbed["best/model.index"]


@pytest.mark.parametrize("step", [4, 7])
def test_a_run_that_is_asked_to_end_and_cannot_save_says_so_before_a_scheduler_kills_it(tmp_path, monkeypatch, step):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(keeping, "LEAVE", 0.1)
    monkeypatch.setattr(checkpoints, "save", never({f"model-{step}"}, "checkpoint", checkpoints.save))
    began = time.monotonic()
    with pytest.raises(UserError, match="cannot be written: No space left on device") as refused:
        start(compose(WORDS), tmp_path / "run", asked_after(step, monkeypatch))
    assert refused.value.status == 5
    assert time.monotonic() - began < 60


def test_a_run_that_is_asked_to_end_ends_with_75_once_the_disk_takes_its_save(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(checkpoints, "save", full_for({"model-4"}, 3))
    with pytest.raises(Interrupted):
        start(compose(WORDS), tmp_path / "run", asked_after(4, monkeypatch))
    assert "saved step 4" in (tmp_path / "run/train.log").read_text()


FEW = ["graph.svg", "run.json", "evaluation.json", "predictions.csv"]


def test_a_disk_that_is_full_where_a_phase_turns_or_at_the_end_is_waited_for(tmp_path, monkeypatch, capsys):
    composed = compose([*WORDS, f"phases=[{HEAD},{ALL}]", "stop_gradient=false", "cache.mode=off"])
    assert start(composed, tmp_path / "whole") == 0
    capsys.readouterr()
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    refused: list[str] = []
    made: list[float] = []
    bytes_of, pair, advance = checkpoints.write_bytes, export.write_pair, report.Report.advance

    def refuse(path: Any) -> None:
        if made and refused.count(path.name) < 2:
            refused.append(path.name)
            raise checkpoints.cannot_be_written(path, OSError(28, "No space left on device"))

    def write_bytes(path: Any, content: bytes) -> None:
        if path.name in FEW:
            refuse(path)
        bytes_of(path, content)

    def write_pair(folder: Any, *words: Any) -> None:
        if folder.name == "model":
            refuse(folder)
        pair(folder, *words)

    monkeypatch.setattr(checkpoints, "write_bytes", write_bytes)
    monkeypatch.setattr(export, "write_pair", write_pair)
    monkeypatch.setattr(report.Report, "advance", lambda tell, loss: made.append(loss) or advance(tell, loss))
    assert start(composed, tmp_path / "run") == 0
    assert sorted(refused) == sorted([*FEW, "model"] * 2)
    said = capsys.readouterr().out
    assert "graph.svg: cannot be written: No space left on device; the run waits, and tries again" in said
    assert said.count("the run waits, and tries again") == said.count("storage: the disk takes it again") == 4
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    for name in ("graph.svg", "evaluation.json", "predictions.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_features_that_the_disk_does_not_take_where_a_phase_begins_are_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(patience, "PATIENCE", 30.0)
    left, write, close = [3], store.Store.write, store.Store.close
    closed: list[str] = []

    def full(self: Any, *words: Any) -> None:
        if saved and left[0]:
            left[0] -= 1
            raise UserError("storage", str(self.folder), "the features cannot be kept: No space left on device")
        write(self, *words)

    saved: list[str] = []
    save = checkpoints.save
    monkeypatch.setattr(
        checkpoints, "save", lambda folder, name, *words: saved.append(name) or save(folder, name, *words)
    )
    monkeypatch.setattr(store.Store, "write", full)
    monkeypatch.setattr(store.Store, "close", lambda self: closed.append(self.folder.name) or close(self))
    phases = "phases=[{name: one, until: {step: 2}, stop_gradient: false}, {name: two, stop_gradient: true}]"
    composed = compose([*WORDS, phases, f"cache.dir={tmp_path / 'cache'}", "cache.mode=on"])
    assert start(composed, tmp_path / "run") == 0
    assert left == [0]
    assert len(closed) == 3 + 2  # each that failed, and the two that were filled
    assert "the run waits, and tries again" in capsys.readouterr().out
