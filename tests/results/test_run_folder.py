"""A run folder is continued by the recipe that began it, and by no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.calibrating.machine import this_machine
from finetune.results import run_folder
from finetune.results.run_folder import (
    add_to_record,
    check_same,
    claim,
    conditions,
    other_conditions,
    record_for_people,
)
from tests.graphs import refusal

BEGUN = "cut: fc7:0\ntrain: {steps: 10, schedule: SCHEDULE}\nhead: {kind: linear}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(BEGUN.replace("SCHEDULE", "cosine"))
    return tmp_path


def test_the_same_recipe_goes_on(folder: Path):
    assert not claim(folder, BEGUN.replace("SCHEDULE", "cosine")).changed


def test_106_another_number_of_steps_is_another_run_where_the_rate_depends_on_it(folder: Path):
    longer = BEGUN.replace("10", "20")
    error = refusal(claim, folder, longer.replace("SCHEDULE", "cosine"))
    assert "train.steps: 10 there, 20 now" in str(error)
    (folder / "recipe.yaml").write_text(BEGUN.replace("SCHEDULE", "constant"))
    assert claim(folder, longer.replace("SCHEDULE", "constant")).changed


PHASES = """
phases:
  - {name: head, until: {epoch: 4}}
  - {name: all, UNTIL schedule: SCHEDULE}
"""


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential", "step"])
def test_the_rate_of_a_phase_may_depend_on_the_number_of_steps_too(tmp_path: Path, schedule: str):
    begun = BEGUN.replace("SCHEDULE", "constant") + PHASES.replace("SCHEDULE", schedule)
    for until, is_harmless in (("", False), ("until: {plateau: 3},", False), ("until: {step: 8},", True)):
        asked = begun.replace("UNTIL", until)
        (tmp_path / "recipe.yaml").write_text(asked)
        longer = asked.replace("steps: 10", "steps: 20")
        if is_harmless:
            assert claim(tmp_path, longer).changed
        else:
            assert "train.steps: 10 there, 20 now" in str(refusal(claim, tmp_path, longer))


def test_phases_with_rates_of_their_own_do_not_depend_on_the_schedule_of_the_rest(tmp_path: Path):
    begun = BEGUN.replace("SCHEDULE", "cosine") + PHASES.replace("SCHEDULE", "constant").replace("UNTIL", "")
    (tmp_path / "recipe.yaml").write_text(begun)
    assert claim(tmp_path, begun.replace("steps: 10", "steps: 20")).changed
    all_but_one = begun.replace(" schedule: constant", "")
    (tmp_path / "recipe.yaml").write_text(all_but_one)
    refusal(claim, tmp_path, all_but_one.replace("steps: 10", "steps: 20"))


@pytest.mark.parametrize(
    "begun",
    [
        BEGUN.replace("SCHEDULE", "plateau"),
        BEGUN.replace("SCHEDULE", "constant") + PHASES.replace("SCHEDULE", "plateau").replace("UNTIL", ""),
        BEGUN.replace("SCHEDULE", "constant")
        + PHASES.replace("SCHEDULE", "constant").replace("UNTIL", "until: {plateau: 2},"),
    ],
)
def test_how_often_is_evaluated_is_not_harmless_where_a_plateau_decides(tmp_path: Path, begun: str):
    (tmp_path / "recipe.yaml").write_text(begun + "eval: {every_steps: 2}\n")
    error = refusal(claim, tmp_path, begun + "eval: {every_steps: 3}\n")
    assert "eval.every_steps: 2 there, 3 now" in str(error)


def test_with_early_stopping_it_is_for_no_step_is_another_one(tmp_path: Path):
    begun = BEGUN.replace("SCHEDULE", "constant").replace("steps: 10", "steps: 10, stop_early: 2")
    (tmp_path / "recipe.yaml").write_text(begun + "eval: {every_steps: 2}\n")
    assert claim(tmp_path, begun + "eval: {every_steps: 3}\n").changed


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b"\xff\xfe", b""])
def test_a_record_that_cannot_be_read_is_no_empty_record(folder: Path, content: bytes):
    (folder / "run.json").write_bytes(content)
    error = refusal(claim, folder, BEGUN.replace("SCHEDULE", "cosine"))
    assert str(error) == (
        f"error[storage] {folder / 'run.json'}: is no record of a run; put it back, or remove it to go on without "
        "what it knows"
    )
    assert record_for_people(folder) == {}
    refusal(add_to_record, folder, {"step": 1})
    assert (folder / "run.json").read_bytes() == content


def test_a_stored_recipe_that_is_no_text_is_named(folder: Path):
    (folder / "recipe.yaml").write_bytes(b"cut: \xff\n")
    error = refusal(claim, folder, BEGUN.replace("SCHEDULE", "cosine"))
    assert str(error).startswith(f"error[recipe] {folder / 'recipe.yaml'}: is no UTF-8 text; put it back")


def test_a_key_that_the_run_did_not_know_had_its_default(folder: Path):
    (folder / "recipe.yaml").write_text("cut: fc7:0\n")
    assert not claim(folder, "cut: fc7:0\nhead: {kind: linear}\n").changed
    assert "head.kind: 'linear' there, 'mlp' now" in str(refusal(claim, folder, "cut: fc7:0\nhead: {kind: mlp}\n"))


def test_106_a_change_that_is_allowed_by_name_goes_on(folder: Path):
    changed = BEGUN.replace("SCHEDULE", "linear").replace("kind: linear", "kind: mlp")
    assert "with run.allow_change=[head.kind,train.schedule]" in str(refusal(claim, folder, changed))
    assert "1 keys differ" in str(refusal(claim, folder, changed, ["train.schedule"]))
    assert claim(folder, changed, ["train.schedule", "head"]).changed
    refusal(claim, folder, changed, ["train.schedule", "hea"])


def test_files_that_changed_are_named_and_may_be_allowed():
    record = {"digests": {"data.path": {"a.jpg": "1"}}}
    check_same(record, {"data.path": {"a.jpg": "1"}})
    error = refusal(check_same, record, {"data.path": {"a.jpg": "2"}})
    assert str(error).startswith("error[data] data.path: a.jpg changed since this run began")
    check_same(record, {"data.path": {"a.jpg": "2"}}, ["data.path"])


def test_105_other_conditions_are_told_of():
    began = {"conditions": {"tensorflow": "2.20.0", "processor": "A", "cores": 2}}
    assert other_conditions(began, began["conditions"]) == []
    assert other_conditions({}, began["conditions"]) == []
    assert other_conditions(began, {**began["conditions"], "numpy": "2.0.0"}) == []  # an older run did not say
    (line,) = other_conditions(began, {"tensorflow": "2.21.0", "processor": "A", "cores": 4})
    assert line.endswith(": tensorflow 2.20.0 then, 2.21.0 now; cores 2 then, 4 now")


def test_what_bits_depend_on_is_written_down(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    began = {"conditions": json.loads(json.dumps(conditions()))}
    assert {"keras", "numpy", "GPU"} < began["conditions"].keys()
    assert other_conditions(began, conditions()) == []
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(
        run_folder, "this_machine", lambda: replace(this_machine(), gpus=("NVIDIA A100", "NVIDIA A100"))
    )
    (line,) = other_conditions(began, conditions())
    for change in (
        "GPU none then, NVIDIA A100, NVIDIA A100 now",
        "TF_NUM_INTRAOP_THREADS 1 then, unset now",
        "OMP_NUM_THREADS unset then, 3 now",
    ):
        assert change in line
