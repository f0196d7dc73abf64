"""Several heads on several cuts, and the old task kept: trained together, resumed to the bit, written as one pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.reading.weights import read_index, read_tensors

tf1 = tf.compat.v1

RECIPE = """
source:
  path: ${packaged:demo/small_vgg}
  feeds: {keep_prob: {train: 0.5, eval: 1.0}}
cut: fc7
stop_gradient: ['pool4:0']
heads:
  kind: {kind: mlp, hidden: [6], dropout: 0.3, labels: kind, label_smoothing: 0.1, class_weights: balanced}
  size: {cut: 'conv5:0', kind: conv, hidden: [5], loss: huber, labels: size, weight: 0.5}
  parts: {cut: 'fc6', loss: sigmoid, labels: parts, focal: 2.0}
distill: {tensor: 'fc8:0', weight: 0.3}
data: {kind: arrays, path: data.npz, preprocess: none}
train: {steps: 6, batch_size: 8}
eval: {every_steps: 3}
checkpoint: {every_steps: 3}
cache: {mode: require}
"""
NEW = {"kind/kernel", "size/hidden_1/kernel", "parts/bias"}
COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and two runs of six steps: one at once, one in two halves."""
    folder = tmp_path_factory.mktemp("heads")
    draw = np.random.default_rng(5)
    columns = {"kind": np.arange(COUNT) % 3, "size": draw.random((COUNT, 2)), "parts": draw.integers(0, 2, (COUNT, 3))}
    np.savez(folder / "data.npz", images=draw.random((COUNT, 28, 28, 1), np.float32), **columns)
    (folder / "heads.yaml").write_text(RECIPE)
    words = [f"recipe={folder / 'heads.yaml'}", f"data.path={folder / 'data.npz'}"]
    assert main([*words, f"run.dir={folder / 'whole'}"]) == 0
    assert main([*words, f"run.dir={folder / 'halves'}", "train.steps=3"]) == 0
    assert main([*words, f"run.dir={folder / 'halves'}"]) == 0
    return folder


def held(prefix: Path) -> dict[str, np.ndarray]:
    return read_tensors(str(prefix), sorted(read_index(str(prefix))))


def test_two_halves_are_one_whole(folder: Path):
    whole, halves = (held(folder / run / "checkpoints/model-6") for run in ("whole", "halves"))
    assert whole.keys() == halves.keys() >= NEW
    assert [name for name in whole if not np.array_equal(whole[name], halves[name])] == []


def test_all_of_it_learns_and_nothing_below_the_barrier(folder: Path):
    record = json.loads((folder / "whole/run.json").read_text())
    start, end = (held(folder / "whole" / name) for name in ("checkpoints/model-3", "checkpoints/model-6"))
    moved = {name for name, row in record["variables"].items() if not np.array_equal(start[name], end[name])}
    assert moved == {name for name, row in record["variables"].items() if row["rate"]}
    assert {*NEW, "conv5/weights", "fc6/weights", "fc7/weights", "fc8/weights"} <= moved
    assert not {"conv1/weights", "conv4/weights"} & moved


def test_every_loss_is_reported_and_they_add_up(folder: Path):
    lines = [json.loads(line) for line in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if line["phase"] == "train"]
    assert last["loss"] == pytest.approx(sum(last[f"{head}/loss"] for head in ("kind", "size", "parts", "old")))
    found = [line for line in lines if line["phase"] == "eval"][-1]
    assert found["loss"] == pytest.approx(found["kind/loss"] + 0.5 * found["size/loss"] + found["parts/loss"])
    assert {"kind/accuracy", "size/mae", "parts/f1_micro"} <= found.keys()


def test_plain_tensorflow_has_every_head_and_the_old_one(folder: Path):
    with np.load(folder / "data.npz") as data:
        images = data["images"][:8]
    with tf1.Session(graph=tf.Graph()) as session:
        saver = tf1.train.import_meta_graph(str(folder / "whole/model/model.meta"))
        saver.restore(session, tf1.train.latest_checkpoint(str(folder / "whole/model")))
        card = json.loads((folder / "whole/model/model.json").read_text())
        outputs = {head: about["outputs"] for head, about in card["heads"].items()}
        named = {head: found[next(k for k in found if k != "logits")] for head, found in outputs.items()}
        assert named == {"kind": "kind/probabilities:0", "size": "size/values:0", "parts": "parts/probabilities:0"}
        found = session.run({**named, "old": "fc8:0", "fc7": "fc7:0"}, {"images:0": images})
    weights = held(folder / "whole/model/model")
    assert {head: values.shape for head, values in found.items() if head in named} == {
        "kind": (8, 3),
        "size": (8, 2),
        "parts": (8, 3),
    }
    np.testing.assert_allclose(found["kind"].sum(axis=1), 1, rtol=1e-5)
    hidden = np.maximum(
        found["fc7"].reshape(8, -1) @ weights["kind/hidden_1/kernel"] + weights["kind/hidden_1/bias"], 0
    )
    logits = hidden @ weights["kind/kernel"] + weights["kind/bias"]
    assert np.array_equal(found["kind"].argmax(axis=1), logits.argmax(axis=1))  # no dropout unless it is fed


def test_the_labels_of_each_head_lie_beside_the_pair(folder: Path):
    beside = {path.name for path in (folder / "whole/model").iterdir()}
    assert {"labels.kind.txt", "labels.parts.txt"} <= beside
    assert not {"labels.txt", "labels.size.txt"} & beside


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["head.kind=mlp"], "head: given together with heads; move it into heads"),
        (["heads.kind.cut=fc9"], "heads.kind.cut: the graph has no tensor 'fc9:0'; did you mean fc"),
        (["heads.kind.labels=kinds"], "has no array 'kinds'; did you mean kind?"),
        (["heads.size.kind=linear"], "heads.size.hidden: a linear head has no hidden layers"),
        (["heads.size.focal=1"], "heads.size.focal: means nothing for huber"),
        (["heads.parts.kind=conv", "heads.parts.hidden=[3]", "heads.parts.cut=fc8_flat"], "fc8_flat"),
        (["stop_gradient=true"], "distill.tensor: nothing that the old logits depend on learns"),
        (["heads.kind.colour=red"], "colour"),
    ],
)
def test_what_does_not_fit_is_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    given = [f"recipe={folder / 'heads.yaml'}", f"data.path={folder / 'data.npz'}", f"run.dir={folder / 'no'}", *words]
    assert main(given) in (2, 3)
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) <= 5
    assert not (folder / "no").exists()
