from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from finetune.examples.tasks import Task
from finetune.judging import findings
from finetune.judging.evaluate import Evaluation, metrics

RANDOM = np.random.default_rng(8)
LABELS = RANDOM.integers(0, 2, 60)
SHARES = RANDOM.dirichlet(np.ones(2), 60).astype(np.float32)
KIND = Evaluation(Task("kind", "c:0", "kind", "softmax", ("a", "b, c"), 2), LABELS, SHARES, SHARES[:, 0])
HOT = (RANDOM.random((60, 3)) < 0.4).astype(np.float32)
TAGS = Evaluation(
    Task("tags", "c:0", "tags", "sigmoid", ("x", "y", "z"), 3),
    HOT,
    RANDOM.random((60, 3)).astype(np.float32),
    HOT[:, 0],
)
SIZES = RANDOM.normal(size=(60, 1)).astype(np.float32)
SIZE = Evaluation(Task("size", "c:0", "size", "huber", (), 1), SIZES, SIZES + 0.5, SIZES[:, 0] ** 2)
LOGGED = {"untrained head": {"accuracy": 0.25, "step": 0}, "linear probe": {"accuracy": 0.95}}


def judged(*found: Evaluation, names=(), earlier=None):
    return findings.judge({e.task.name: e for e in found}, names, 0, earlier or {})


def test_values_are_those_that_are_logged_and_lie_within_their_intervals():
    for found in (KIND, TAGS, SIZE):
        head = judged(found)[found.task.name]
        assert {n: m["value"] for n, m in head["metrics"].items()} == metrics({found.task.name: found})
        assert all(m["low"] <= m["value"] <= m["high"] for m in head["metrics"].values())
        assert head["main"] == list(head["metrics"])[1]


def test_a_head_of_two_classes_has_tables_and_one_curve():
    head = judged(KIND)["kind"]
    assert np.sum(head["confusion"]) == 60
    assert np.trace(head["confusion"]) / 60 == head["metrics"]["accuracy"]["value"]
    assert [row["support"] for row in head["by_class"]] == np.bincount(LABELS).tolist()
    assert list(head["curves"]) == ["b, c"]
    assert head["pairs"] is None


def test_each_of_any_number_of_classes_has_a_curve():
    head = judged(TAGS)["tags"]
    assert list(head["curves"]) == ["x", "y", "z"]
    assert head["confusion"] is None
    assert [row["support"] for row in head["by_class"]] == HOT.sum(axis=0).tolist()


def test_numbers_have_pairs_and_no_classes():
    head = judged(SIZE)["size"]
    assert np.allclose([said - there for there, said in head["pairs"][0]], 0.5)
    assert head["by_class"] is None
    assert head["baselines"]["mean"]["rmse"] == pytest.approx(SIZES.std(), rel=1e-5)


def test_the_sentence_has_what_it_is_compared_with():
    right = Evaluation(KIND.task, LABELS, np.eye(2, dtype=np.float32)[LABELS], SHARES[:, 0])
    told = findings.sentence(judged(right, earlier=LOGGED), 60, 9)
    majority = np.bincount(LABELS).max() / 60
    assert told == (
        "accuracy 1.000 (0.940 to 1.000, 95 %) on 60 held-out examples "
        f"(majority class {majority:.3f}, untrained head 0.250, linear probe 0.950)"
    )
    assert findings.sentence({}, 0, 9) == "trained for 9 steps; nothing was held out to evaluate on"


def test_several_heads_have_names_and_their_own_baselines():
    logged = {"untrained head": {"kind/accuracy": 0.25, "size/mae": 3.0, "loss": 1.0}}
    heads = judged(KIND, SIZE, names=["kappa", "rmse", "accuracy"], earlier=logged)
    assert heads["kind"]["main"] == "kappa"
    assert heads["kind"]["baselines"]["untrained head"] == {"accuracy": 0.25}
    assert "untrained head" not in heads["size"]["baselines"]
    told = findings.sentence(heads, 60, 9)
    assert told.startswith("kind: kappa ")
    assert "; size: rmse 0.500 (0.500 to 0.500, 95 %) (mean " in told
    assert set(findings.intervals(heads)) >= {"kind/kappa", "kind/loss", "size/rmse"}


def test_there_is_a_hint_where_a_linear_probe_is_better_by_more_than_chance():
    (hint,) = findings.hints(judged(KIND, earlier=LOGGED))
    assert hint.startswith("hint: kind: accuracy ")
    assert "worse than the linear probe's 0.950" in hint
    near = {"linear probe": {"accuracy": metrics({"kind": KIND})["accuracy"] + 0.01}}
    assert findings.hints(judged(KIND, earlier=near)) == []
    # Of errors the lower one is the better.
    assert findings.hints(judged(SIZE, earlier={"linear probe": {"mae": 0.9}})) == []
    assert len(findings.hints(judged(SIZE, earlier={"linear probe": {"mae": 0.1}}))) == 1


def test_the_files_can_be_read_by_programs(tmp_path: Path):
    evaluations = {"kind": KIND, "tags": TAGS, "size": SIZE}
    names = [f"{i}.png" for i in range(60)]
    findings.write(tmp_path, findings.content(7, judged(KIND, TAGS, SIZE), names), evaluations, names)
    content = json.loads((tmp_path / findings.EVALUATION).read_text(encoding="utf-8"))
    assert (content["step"], content["examples"], list(content["heads"])) == (7, 60, ["kind", "tags", "size"])
    with (tmp_path / findings.PREDICTIONS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == names
    assert [row["kind/label"] for row in rows] == [KIND.task.classes[i] for i in LABELS]
    share = np.mean([row["kind/label"] == row["kind/prediction"] for row in rows])
    assert share == metrics({"kind": KIND})["accuracy"]
    assert float(rows[0]["size/loss"]) == pytest.approx(SIZE.losses[0], rel=1e-5)
    assert len(rows[0]["tags/probability"].split()) == 3


def test_one_head_needs_no_name_in_the_table():
    header, first, *_ = findings.table({"kind": KIND}, [str(i) for i in range(60)]).splitlines()
    assert header == "id,label,prediction,probability,loss"
    assert first.startswith("0,")


def test_outputs_that_are_no_numbers_are_said_to_be_unknown(tmp_path: Path):
    broken = Evaluation(KIND.task, LABELS, np.full((60, 2), np.nan, np.float32), np.full(60, np.nan, np.float32))
    heads = judged(broken)
    findings.write(tmp_path, findings.content(7, heads, ["x"] * 60), {"kind": broken}, ["x"] * 60)
    head = json.loads((tmp_path / findings.EVALUATION).read_text())["heads"]["kind"]
    assert head["metrics"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert head["confusion"] is None
    assert "accuracy nan" in findings.sentence(heads, 60, 9)


def test_one_held_out_example_is_enough():
    one = Evaluation(KIND.task, LABELS[:1], SHARES[:1], SHARES[:1, 0])
    head = judged(one)["kind"]
    assert head["metrics"]["loss"]["low"] is None
    assert head["metrics"]["accuracy"]["high"] - head["metrics"]["accuracy"]["low"] > 0.7
    assert head["curves"] == {"b, c": None}
