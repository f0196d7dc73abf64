"""A run folder is continued by the recipe that began it, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.results.run_folder import check_same, claim, other_conditions
from tests.graphs import refusal

BEGUN = "cut: fc7:0\ntrain: {steps: 10, schedule: SCHEDULE}\nhead: {kind: linear}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(BEGUN.replace("SCHEDULE", "cosine"))
    return tmp_path


def test_the_same_recipe_goes_on(folder: Path):
    assert not claim(folder, BEGUN.replace("SCHEDULE", "cosine")).changed


def test_another_number_of_steps_is_another_run_where_the_rate_depends_on_it(folder: Path):
    longer = BEGUN.replace("10", "20")
    error = refusal(claim, folder, longer.replace("SCHEDULE", "cosine"))
    assert "train.steps: 10 there, 20 now" in str(error)
    (folder / "recipe.yaml").write_text(BEGUN.replace("SCHEDULE", "constant"))
    assert claim(folder, longer.replace("SCHEDULE", "constant")).changed


def test_a_key_that_the_run_did_not_know_had_its_default(folder: Path):
    (folder / "recipe.yaml").write_text("cut: fc7:0\n")
    assert not claim(folder, "cut: fc7:0\nhead: {kind: linear}\n").changed
    assert "head.kind: 'linear' there, 'mlp' now" in str(refusal(claim, folder, "cut: fc7:0\nhead: {kind: mlp}\n"))


def test_a_change_that_is_allowed_by_name_goes_on(folder: Path):
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


def test_other_conditions_are_told_of():
    began = {"conditions": {"tensorflow": "2.20.0", "processor": "A", "cores": 2}}
    assert other_conditions(began, began["conditions"]) == []
    assert other_conditions({}, began["conditions"]) == []
    (line,) = other_conditions(began, {"tensorflow": "2.21.0", "processor": "A", "cores": 4})
    assert line.endswith(": tensorflow 2.20.0 then, 2.21.0 now; cores 2 then, 4 now")
