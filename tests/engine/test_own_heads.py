"""Heads and losses of the user's own, from a recipe to the pair that plain TensorFlow restores."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.engine.own_heads import own_head, own_objective
from finetune.errors import UserError
from finetune.packaged import asset

tf1 = tf.compat.v1

CODE = '''
import tensorflow as tf

def attention(width, outputs, hidden):
    """Weighs the places of a map before it takes their mean."""
    shapes = {"score/kernel": (width, 1), "kernel": (width, outputs), "bias": (outputs,)}

    def logits(features, variables, drop):
        places = tf.reshape(features, [-1, features.shape[1] * features.shape[2], width])
        scores = tf.tensordot(places, variables["score/kernel"], 1)
        pooled = tf.reduce_sum(tf.nn.softmax(scores, axis=1) * places, axis=1)
        return tf.matmul(drop(pooled), variables["kernel"]) + variables["bias"]

    return shapes, logits

def hinge(logits, targets):
    sides = tf.cast(targets, tf.float32) * 2 - 1
    return tf.nn.relu(1 - sides * (logits[:, 1] - logits[:, 0]))

def misspelt(width, outputs, hidden):
    return {"kernel": (width, outputs)}, lambda features, variables, drop: tf.matmul(features, variables["kernal"])

def narrow(width, outputs, hidden):
    return {"kernel": (width, 1)}, lambda features, variables, drop: tf.matmul(features, variables["kernel"])

def nothing(width, outputs, hidden):
    return None

def total(logits, targets):
    return tf.reduce_sum(logits)
'''
SHORT = ["recipe=vgg_2class", "train.steps=6", "train.batch_size=8", "eval.every_steps=3"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current folder."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_head_and_a_loss_of_ones_own_are_trained_and_written_back(mine: str, tmp_path: Path):
    words = [*SHORT, "cut=pool4:0", f"head.kind={mine}:attention", "head.pool=none", f"head.objective={mine}:hinge"]
    assert main([*words, "head.dropout=0.2", "run.dir=run"]) == 0
    log = (tmp_path / "run/train.log").read_text()
    assert "head/score/kernel" in log

    rows = list(csv.DictReader((tmp_path / "run/predictions.csv").read_text().splitlines()))[:5]
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        saver = tf1.train.import_meta_graph(str(tmp_path / "run/model/model.meta"))
        saver.restore(session, str(tmp_path / "run/model/model"))
        folder = asset("demo/dress_coat")
        files = [tf.io.read_file(str(Path(folder) / row["id"])) for row in rows]
        images = tf.stack([tf.cast(tf.io.decode_png(file, 1), tf.float32) / 255 for file in files])
        found = session.run("head/probabilities:0", {"images:0": session.run(images)})
    said = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found.max(axis=1), said, rtol=1e-5)


def test_such_a_run_resumes_with_the_same_bits(mine: str, tmp_path: Path):
    words = [*SHORT, f"head.kind={mine}.attention", "head.pool=none", "cut=pool4:0", "head.dropout=0.2"]
    assert main([*words, "run.dir=whole"]) == 0
    assert main([*words, "train.steps=3", "run.dir=halves"]) == 0
    assert main([*words, "run.dir=halves"]) == 0
    whole, halves = ((tmp_path / f / "model/model.data-00000-of-00001").read_bytes() for f in ("whole", "halves"))
    assert whole == halves


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["head.kind=MINE:misspelt"], "KeyError: 'kernal' (MINE.py, line "),
        (["head.kind=MINE:narrow"], "its logits are float32 (None, 1); return float32 [batch, 2]"),
        (["head.kind=MINE:nothing"], "it returns a NoneType; return the shapes"),
        (["head.kind=MINE:atention"], "has no function 'atention'; did you mean attention?"),
        (["head.kind=MIEN:attention"], "there is no module 'MIEN'"),
        (["head.objective=MINE:total"], "its losses are float32 (); return float32 [batch], one for each example"),
        (["head.objective=hinge"], "'hinge' names no function; write module:function"),
        (["head.objective=MINE:hinge", "head.focal=2"], "head.focal: is part of our losses"),
        (["head.pool=none"], "head.pool: 'none' is not one of"),
        (["head.kind=lineal"], "head.kind: 'lineal' is not one of"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(mine: str, words: list[str], said: str, tmp_path: Path, capsys):
    assert main([*SHORT, *(word.replace("MINE", mine) for word in words), "run.dir=run"]) == 2
    error = capsys.readouterr().err
    assert said.replace("MINE", mine) in error
    assert len(error.splitlines()) <= 5
    assert not (tmp_path / "run").exists()


def test_targets_are_classes_or_rows_of_numbers(mine: str):
    losses = own_objective(f"{mine}:hinge", "head.objective")(
        tf.constant([[0.0, 3.0], [0.5, 0.0]]), tf.constant([1, 1])
    )
    np.testing.assert_allclose(losses, [0.0, 1.5])


def test_the_shapes_are_those_that_it_gives(mine: str):
    shapes, _ = own_head(f"{mine}:attention", "head.kind", 7, 3, [])
    assert shapes == {"score/kernel": (7, 1), "kernel": (7, 3), "bias": (3,)}
    with pytest.raises(UserError, match="returns a NoneType"):
        own_head(f"{mine}:nothing", "head.kind", 7, 3, [])
