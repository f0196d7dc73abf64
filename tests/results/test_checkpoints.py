"""A run is saved whole or not at all, and nothing is deleted that it did not write."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from finetune.results import checkpoints
from finetune.results.checkpoints import (
    Retention,
    State,
    candidates,
    load_newest,
    read_state,
    retire,
    save,
    write_state,
)
from tests.graphs import golden, refusal

HOUR = 3600.0


def stay(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


# ---- the state file


def test_a_state_is_read_as_it_was_written(tmp_path):
    state = State("m-2", ("m-1", "m-2"), (1.5, 2.5), 1.0)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    write_state(tmp_path, State("größe-1", ("größe-1",), (3.0,)))
    assert read_state(tmp_path) == State("größe-1", ("größe-1",), (3.0,))
    assert names(tmp_path) == ["checkpoint"]


def test_a_folder_without_a_state_has_an_empty_one(tmp_path):
    assert read_state(tmp_path) == read_state(tmp_path / "none") == State()
    (tmp_path / "checkpoint").mkdir()
    assert read_state(tmp_path) == State()


def test_what_a_saver_of_tensorflow_wrote_is_read():
    state = read_state(golden("conv_ref").folder)
    assert (state.latest, state.names) == ("model", ("model",))


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"garbage",
        b"",
        b"model_checkpoint_path: \n",
        b'all_model_checkpoint_timestamps: yesterday\nlast_preserved_timestamp: "never"\n',
        b"\0" * 100,
    ],
)
def test_a_garbage_state_file_is_passed_over(tmp_path, text):
    (tmp_path / "checkpoint").write_bytes(text)
    assert read_state(tmp_path) == State()


def test_times_that_are_no_times_are_forgotten_and_names_are_not(tmp_path):
    lines = ['model_checkpoint_path: "m-2"', 'all_model_checkpoint_paths: "m-1"', 'all_model_checkpoint_paths: "m-2"']
    for times in (["1.0"], ["1.0", "inf"], ["1.0", "nan"], ["x", "y"]):
        more = [f"all_model_checkpoint_timestamps: {time}" for time in times]
        (tmp_path / "checkpoint").write_text("\n".join([*lines, *more, "last_preserved_timestamp: inf", ""]))
        assert read_state(tmp_path) == State("m-2", ("m-1", "m-2"), (0.0, 0.0))


@pytest.mark.parametrize("path", ["/home/author/m-1", "../m-1", "sub/m-1", "..", ".", "", "a\\\\b", "\\056\\056"])
def test_a_state_that_leads_out_of_its_folder_is_never_followed(tmp_path, path):
    text = f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\nall_model_checkpoint_paths: "m-2"\n'
    (tmp_path / "checkpoint").write_text(text)
    assert read_state(tmp_path) == State(None, ("m-2",), (0.0,))


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    checkpoints.write_text(tmp_path / "f", "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    error = refusal(checkpoints.write_text, tmp_path / "f", "new")
    assert (error.where, error.what) == (str(tmp_path / "f"), "cannot be written: No space left on device")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


# ---- which are kept


def kept_after(times: list[float], retention: Retention) -> tuple[list[int], list[int]]:
    """(the numbers of the checkpoints in the list, those kept for good) after one save at each of the times."""
    state, alive = State(preserved=times[0]), []
    for i, time in enumerate(times):
        alive.append(str(i))
        state = State(str(i), (*state.names, str(i)), (*state.times, time), state.preserved)
        state, let_go = retire(state, retention)
        alive = [name for name in alive if name not in let_go]
    return [int(n) for n in state.names], [int(n) for n in alive if n not in state.names]


def test_the_newest_are_kept():
    assert kept_after([0.0, 1, 2, 3, 4, 5], Retention(keep=3)) == ([3, 4, 5], [])
    assert kept_after([0.0, 1], Retention(keep=3)) == ([0, 1], [])
    assert kept_after([0.0, 1, 2], Retention(keep=1)) == ([2], [])


def test_one_in_each_period_is_kept_for_good():
    quarters = [i * HOUR / 4 for i in range(21)]  # five hours
    recent, for_good = kept_after(quarters, Retention(keep=2, every_hours=1))
    assert recent == [19, 20]
    assert for_good == [5, 9, 13, 17]


def test_retention_is_that_of_the_saver():
    """As `tf.train.Saver`: one that leaves the list stays if it is younger than the next time, which then goes on."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = np.cumsum(rng.uniform(0.0, 0.9 * HOUR, 40)).tolist()
        keep, hours = int(rng.integers(1, 6)), 1.0
        last, stays, following = [], [], times[0] + hours * HOUR
        for i, time in enumerate(times):
            last.append((i, time))
            if len(last) > keep:
                old, when = last.pop(0)
                if when > following:
                    following += hours * HOUR
                    stays.append(old)
        assert kept_after(times, Retention(keep, hours)) == ([i for i, _ in last], stays)


def test_hours_in_which_nothing_was_saved_are_not_made_up_for():
    times = [0.0, *(9.2 * HOUR + 600 * i for i in range(6))]
    assert kept_after(times, Retention(keep=1, every_hours=1)) == ([6], [1])


def test_without_hours_none_is_kept_for_good():
    assert kept_after([0.0, 9 * HOUR, 18 * HOUR], Retention(keep=1)) == ([2], [])


def test_the_state_that_was_given_stays_as_it_was():
    state = State("b", ("a", "b"), (0.0, 1.0), 0.0)
    assert retire(state, Retention(keep=1)) == (State("b", ("b",), (1.0,), 0.0), ["a"])
    assert state.names == ("a", "b")


# ---- which there are


def test_checkpoints_are_found_by_their_index_newest_first(tmp_path):
    stay(tmp_path, "m-9.index", "m-10.index", "m-10.data-00000-of-00001", "m-100.data-00000-of-00001")
    stay(tmp_path, "m.index", "mm-3.index", "m-x.index", "m-5.index.bak", "checkpoint", ".writing-m-7.1")
    assert candidates(tmp_path, "m") == [(10, "m-10"), (9, "m-9")]
    assert candidates(tmp_path / "none", "m") == []


def test_a_stem_is_no_pattern(tmp_path):
    stay(tmp_path, "m[1]-3.index", "m1-4.index", "m.-5.index", "mx-6.index")
    assert candidates(tmp_path, "m[1]") == [(3, "m[1]-3")]
    assert candidates(tmp_path, "m.") == [(5, "m.-5")]


# ---- saving and loading; these need TensorFlow

TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "upper": np.zeros((1, 3), np.float32),
    "lower": np.ones((1, 3), np.float32),
}
PIECES = {"upper": ("whole", "2 3 0,1:-"), "lower": ("whole", "2 3 1,1:-")}
KEYS = {"w": "w", "global_step": "global_step", "lower": "whole"}


def saved(folder: Path, step: int, keep: int = 2, stem: str = "m", now: float | None = None) -> None:
    pytest.importorskip("tensorflow")
    time = float(step) if now is None else now
    save(folder, f"{stem}-{step}", {**TENSORS, "global_step": np.int64(step)}, PIECES, Retention(keep), time)


def test_what_was_saved_is_loaded(tmp_path):
    saved(tmp_path, 3)
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert (found.step, found.damaged, found.values["global_step"]) == (3, [], 3)
    assert np.array_equal(found.values["w"], TENSORS["w"])
    assert np.array_equal(found.values["lower"], [[0, 0, 0], [1, 1, 1]])  # `State.restore` takes its piece
    assert names(tmp_path) == ["checkpoint", "m-3.data-00000-of-00001", "m-3.index"]


def test_old_ones_go_and_what_is_not_ours_stays(tmp_path):
    foreign = ["m-1.meta", "m-1.txt", "m-1.data-x", "m-10.index", "m-1.index.bak", "notes", "mm-1.index", "n-1.index"]
    stay(tmp_path, *foreign)
    for step in (1, 2, 3):
        saved(tmp_path, step)
    ours = [f"m-{step}{ending}" for step in (2, 3) for ending in (".data-00000-of-00001", ".index")]
    assert names(tmp_path) == sorted([*foreign, *ours, "checkpoint"])
    state = read_state(tmp_path)
    assert (state.latest, state.names, state.times, state.preserved) == ("m-3", ("m-2", "m-3"), (2.0, 3.0), 1.0)


def test_checkpoints_that_the_state_does_not_name_are_never_deleted(tmp_path):
    stay(tmp_path, "m-1.index", "m-1.data-00000-of-00001")
    (tmp_path / "checkpoint").write_text('all_model_checkpoint_paths: "../m-1"\nall_model_checkpoint_paths: "/m-1"\n')
    for step in (2, 3, 4):
        saved(tmp_path, step, keep=1)
    assert [name for _, name in candidates(tmp_path, "m")] == ["m-4", "m-1"]


def test_the_same_step_again_is_one_checkpoint(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 1, now=9.0)
    assert read_state(tmp_path) == State("m-1", ("m-1",), (9.0,), 1.0)


@pytest.mark.parametrize("name", ["lr=[0.1,x]", "a b", "größe", "what?*"])
def test_folders_and_checkpoints_may_be_called_anything(tmp_path, name):
    (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        saved(tmp_path / name, step, keep=1, stem=name)
    found = load_newest(tmp_path / name, name, KEYS)
    assert found is not None
    assert found.step == 3
    assert len(names(tmp_path / name)) == 3


def test_tensorflow_finds_the_newest_even_in_a_folder_that_was_moved(tmp_path):
    tf = pytest.importorskip("tensorflow")
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run", 7)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert tf.train.latest_checkpoint(str(tmp_path / "moved")) == str(tmp_path / "moved" / "m-7")


def test_a_damaged_newest_one_is_passed_over_and_named(tmp_path):
    for step in (1, 2):
        saved(tmp_path, step)
    (tmp_path / "m-2.data-00000-of-00001").write_bytes(b"")
    found = load_newest(tmp_path, "m", KEYS)
    assert found is not None
    assert found.step == 1
    assert len(found.damaged) == 1
    assert "m-2" in found.damaged[0]


def test_only_damaged_ones_are_an_error(tmp_path):
    stay(tmp_path, "m-1.index", "m-2.index")
    error = refusal(load_newest, tmp_path, "m", KEYS)
    assert (error.code, error.where, error.status) == ("storage", str(tmp_path), 5)
    assert error.what == "none of the 2 checkpoints can be read"
    assert error.todo == "remove the run folder to start anew"
    assert len(str(error).splitlines()) == 2


def test_none_is_no_error(tmp_path):
    assert load_newest(tmp_path, "m", KEYS) is None


def test_a_disk_that_is_full_is_an_error_and_leaves_what_was_there(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    error = refusal(saved, tmp_path, 2)
    assert (error.where, error.status) == (str(tmp_path / "m-2"), 5)
    assert error.what == "cannot be written: No space left on device"
    assert re.match("free some space", error.todo)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.parametrize("function", ["mkdir", "open"])
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path, monkeypatch, function):
    saved(tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, function, fail)
    error = refusal(saved, tmp_path, 2)
    assert error.status == 5
    assert error.what == "cannot be written: Read-only file system"
