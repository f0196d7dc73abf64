"""What a run tells first is there whenever it was killed while it told it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.compose import compose
from finetune.results import run_folder
from finetune.running import patience
from tests.acceptance.test_saving_and_resuming import half
from tests.running.test_training import WORDS, start

SHORT = [*WORDS, "train.steps=2"]

# A run that dies leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def killed(*words: object, **_: object) -> None:
    raise KeyboardInterrupt


def has_graph_and_hparams(run: Path) -> bool:
    """Whether TensorBoard has what it is told once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return bool(events.Tags()["graph"]) and bool(events.PluginTagToContent("hparams"))


@pytest.mark.parametrize("place", ["picture", "look_before"])
def test_a_run_that_is_killed_while_it_begins_has_its_picture_and_its_graph_all_the_same(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    composed, run = compose(SHORT), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(f"finetune.running.beginning.{place}", killed)
        with pytest.raises(KeyboardInterrupt):
            start(composed, run)
    assert (run / "checkpoints" / "model.meta").exists()
    assert start(composed, run) == 0
    assert (run / "graph.svg").exists()
    assert has_graph_and_hparams(run)


def test_a_record_that_is_gone_is_told_of(tmp_path: Path, capsys):
    composed, run = compose(SHORT), tmp_path / "run"
    assert start(composed, run) == 0
    again = half(run, tmp_path / "again", 1)
    (again / "run.json").unlink()
    capsys.readouterr()
    assert start(composed, again) == 0
    said = capsys.readouterr().out
    assert "warning: run.json is gone: source, data and machine are compared with nothing" in said
    assert "warning" not in said.replace("warning: run.json", "")


def test_a_disk_that_is_full_for_a_moment_where_a_run_begins_is_waited_for(tmp_path, monkeypatch, capsys):
    refusals, write = [0], run_folder.write_record

    def full_at_first(path, record):
        refusals[0] += 1
        if refusals[0] == 1:
            raise OSError(28, "No space left on device", str(path / "run.json"))
        write(path, record)

    monkeypatch.setattr(run_folder, "write_record", full_at_first)
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    assert start(compose(SHORT), tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "run.json: cannot be written: No space left on device; the run waits, and tries again" in said
