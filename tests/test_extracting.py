"""The verb `extract`: the bits that a TensorFlow-1 session gives for the same examples, in two kinds of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.__main__ import main
from finetune.errors import UserError
from finetune.packaged import asset
from finetune.results import feature_files

tf1 = tf.compat.v1
SHORT = ["train.steps=6", "train.epochs=null", "train.batch_size=8", "eval.probe=false"]


def by_session(meta: Path, prefix: Path, files: list[str], tensor: str) -> np.ndarray:
    """Features of images as the tutorial's lines compute them, in the batches that `extract` takes."""
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        tf1.train.import_meta_graph(str(meta)).restore(session, str(prefix))
        images = session.run([tf.io.decode_png(tf.io.read_file(file), 1) for file in files])
        fed = np.float32(images) / np.float32(255)
        batches = [fed[i : i + 32] for i in range(0, len(fed), 32)]
        parts = [session.run(tensor, {"images:0": batch, "keep_prob:0": 1.0}) for batch in batches]
    return np.concatenate(parts)


def test_the_features_of_a_source_are_those_of_a_session(tmp_path: Path, capsys):
    out = tmp_path / "f.npz"
    assert main(["extract", "recipe=vgg_2class", "--out", str(out)]) == 0
    assert "fc7: float32 (600, 1, 1, 256)" in capsys.readouterr().out
    with np.load(out) as found:
        held_out, ids = found["held_out"], found["id"].tolist()
        meta = Path(asset("demo/small_vgg/model.ckpt-1125.meta"))
        for part in (~held_out, held_out):
            files = [file for file, there in zip(ids, part, strict=True) if there]
            np.testing.assert_array_equal(found["fc7"][part], by_session(meta, meta.with_suffix(""), files, "fc7:0"))
        assert found["head/label"].tolist() == [Path(file).parent.name for file in ids]
        assert [["coat", "dress"][i] for i in found["head"]] == found["head/label"].tolist()
        assert (len(set(ids)), int(held_out.sum())) == (600, 126)
    assert [file.name for file in tmp_path.iterdir()] == ["f.npz"]


def test_the_features_of_a_run_are_those_of_its_pair_in_shards(tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "f.tfrecord"
    assert main(["recipe=vgg_2class_full", *SHORT, f"run.dir={run}"]) == 0
    assert main(["extract", str(run), "--out", str(out), "--shards", "3", "eval.batch_size=32"]) == 0
    shards = sorted(tmp_path.glob("f-*"))
    assert [file.name for file in shards] == [f"f-{n:05d}-of-00003.tfrecord" for n in range(3)]
    rows = [tf.train.Example.FromString(r.numpy()).features.feature for r in tf.data.TFRecordDataset(shards)]
    files = [row["id"].bytes_list.value[0].decode() for row in rows]
    features = np.float32([row["fc7"].float_list.value for row in rows])
    assert list(rows[0]["fc7/shape"].int64_list.value) == [1, 1, 256]
    count = sum(not row["held_out"].int64_list.value[0] for row in rows)
    meta = run / "model/model.meta"
    ours = [by_session(meta, meta.with_suffix(""), part, "fc7:0") for part in (files[:count], files[count:])]
    np.testing.assert_array_equal(features, np.concatenate(ours).reshape(600, 256))
    source = Path(asset("demo/small_vgg/model.ckpt-1125.meta"))
    assert not np.array_equal(features[:32], by_session(source, source.with_suffix(""), files[:32], "fc7:0")[:, 0, 0])


COLUMNS = {"id": np.array(["a", "b"], object)}


def add(path: Path, *widths: int) -> None:
    with feature_files.open_sink(path, COLUMNS) as sink:
        for place, width in enumerate(widths):
            if width < 0:
                raise KeyboardInterrupt
            sink.add(np.array([place]), {"x:0": np.ones((1, width), np.float32)})


def test_several_cuts_are_several_arrays(tmp_path: Path):
    words = ["extract", "recipe=vgg_2class", "--cut", "fc6", "--cut", "pool3:0", "--out", str(tmp_path / "f.npz")]
    assert main(words) == 0
    with np.load(tmp_path / "f.npz") as found:
        meta = Path(asset("demo/small_vgg/model.ckpt-1125.meta"))
        for tensor in ("fc6", "pool3"):
            expected = by_session(meta, meta.with_suffix(""), found["id"].tolist()[:32], f"{tensor}:0")
            np.testing.assert_array_equal(found[tensor][:32], expected)
        assert "fc7" not in found


@pytest.mark.parametrize("name", ["f.npz", "f.tfrecord"])
def test_what_is_killed_leaves_no_file(tmp_path: Path, name: str):
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path / name, 3, -1)
    assert list(tmp_path.iterdir()) == []
    add(tmp_path / name, 3, 3)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_features_of_different_lengths_go_into_records_only(tmp_path: Path):
    with pytest.raises(UserError, match=r"lengths differ; write .*f\.tfrecord"):
        add(tmp_path / "f.npz", 3, 4)
    assert list(tmp_path.iterdir()) == []
    add(tmp_path / "f.tfrecord", 3, 4)
    rows = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset([str(tmp_path / "f.tfrecord")])]
    assert [len(row.features.feature["x"].float_list.value) for row in rows] == [3, 4]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe=vgg_2class"], "the following arguments are required: --out"),
        (["--out", "f.npz"], "takes a run folder or recipe=NAME, one of the two"),
        (["runs/x", "recipe=vgg_2class", "--out", "f.npz"], "takes a run folder or recipe=NAME, one of the two"),
        (["recipe=vgg_2class", "--out", "f.csv"], "'f.csv' does not end in .npz or .tfrecord"),
        (["recipe=vgg_2class", "--out", "f.npz", "--shards", "2"], "a .npz is one file"),
        (["recipe=vgg_2class", "cut=fc9", "--out", "f.npz"], "did you mean"),
        (["recipe=vgg_2class", "--cut", "fc9", "--out", "f.npz"], "the graph has no tensor 'fc9:0'; did you mean"),
        (["runs/x", "--out", "f.npz"], "runs/x: this folder is not there"),
    ],
)
def test_what_is_wrong_is_one_line(workdir: Path, words: list[str], said: str, capsys):
    assert main(["extract", *words]) != 0
    assert said in capsys.readouterr().err
    assert list(workdir.iterdir()) == []


def test_a_file_that_is_there_is_not_touched(workdir: Path, capsys):
    (workdir / "f.npz").write_text("mine")
    assert main(["extract", "recipe=vgg_2class", "--out", "f.npz"]) == 2
    assert "'f.npz' is there already" in capsys.readouterr().err
    assert (workdir / "f.npz").read_text() == "mine"
