"""The goldens as tests use them: what a folder holds, the engine on it, and a live TensorFlow-1 session on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine.compile import Graft, as_function, forward_program
from finetune.engine.graft import Model, graft
from finetune.recipe import Head
from finetune.surgery.backbone import make_backbone
from finetune.surgery.source import Source, read_source, read_values
from finetune.surgery.variants import make_variants
from tests.graphs import softmax_of

tf1 = tf.compat.v1

FOLDER = Path(__file__).resolve().parents[1] / "goldens"
CLASSES = 3
# Stored answers were made with deterministic ops, whose sparse softmax cross-entropy rounds in another way, and
# perhaps on another processor.
STORED = 1e-6

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Golden:
    """One golden; tests/goldens/README.md says what its files hold. A phase is "train" or "eval"."""

    folder: Path
    prefix: Path
    cut: str
    inputs: Mapping[str, str]  # field -> tensor
    feeds: Mapping[str, Mapping[str, Any]]  # phase -> tensor -> value
    trainable: tuple[str, ...]
    keys: Mapping[str, str]  # variable below the cut -> its key in the checkpoint

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def answers(self) -> Arrays:
        with np.load(self.folder / "answers.npz") as stored:
            return dict(stored)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases for which there are answers."""
        return ("eval", "train") if "train/loss" in self.answers else ("eval",)

    def answer(self, phase: str, key: str) -> np.ndarray:
        return self.answers[f"train/{key}" if phase == "train" else key]

    @property
    def statistics(self) -> set[str]:
        """The variables that only updates change."""
        return self.keys.keys() - set(self.trainable)

    @property
    def batch(self) -> Arrays:
        return {field: self.answers[f"input/{field}"] for field in self.inputs}

    @property
    def labels(self) -> np.ndarray:
        return self.answers["labels"].astype(np.int64)

    @property
    def head(self) -> Arrays:
        return {name: self.answers[name] for name in ("head/kernel", "head/bias")}

    def fed(self, phase: str) -> dict[str, Any]:
        """The batch and the mode feeds as a session takes them."""
        return {**{tensor: self.batch[field] for field, tensor in self.inputs.items()}, **self.feeds[phase]}


def read_golden(folder: Path) -> Golden:
    about = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return Golden(
        folder=folder,
        prefix=folder / about["prefix"],
        cut=about["cut"],
        inputs=about["inputs"],
        feeds={"train": about["train_feeds"], "eval": about["eval_feeds"]},
        trainable=tuple(about["trainable"]),
        keys=about["keys"],
    )


GOLDENS = {path.parent.name: read_golden(path.parent) for path in sorted(FOLDER.glob("*/golden.json"))}

every_golden = pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())


# ---- comparing


def same_bits(ours: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
    """Both have the same names, and under each the same bytes."""
    assert ours.keys() == truth.keys()
    differing = {name: _difference(ours[name], truth[name]) for name in ours}
    assert {name: what for name, what in differing.items() if what} == {}


def _difference(ours: Any, truth: Any) -> str:
    ours, truth = np.asarray(ours), np.asarray(truth)
    if (ours.dtype, ours.shape) != (truth.dtype, truth.shape):
        return f"{ours.dtype}{ours.shape}, not {truth.dtype}{truth.shape}"
    if ours.tobytes() == truth.tobytes():
        return ""
    return f"off by {np.max(np.abs(ours - truth)):.1e} where the largest is {np.max(np.abs(truth)):.1e}"


def close(ours: Mapping[str, Any], truth: Mapping[str, Any], tolerance: float = STORED) -> None:
    """Every number is the same up to `tolerance` of itself, or of the largest: sums that cancel keep the error."""
    assert ours.keys() == truth.keys()
    largest = max(float(np.max(np.abs(array))) for array in truth.values())
    for name, array in truth.items():
        np.testing.assert_allclose(ours[name], array, rtol=tolerance, atol=tolerance * largest, err_msg=name)


# ---- the engine


def source_of(golden: Golden, at: str | None = None, **changes: Any) -> Source:
    """The source as a recipe would name it; `changes` replace `path`, `inputs` and `feeds`."""
    both = {t: {"train": golden.feeds["train"][t], "eval": value} for t, value in golden.feeds["eval"].items()}
    words = {"path": str(golden.folder), "inputs": golden.inputs, "feeds": both, **changes}
    return read_source(at=at or golden.cut, **words)


def model_of(source: Source, stop_gradient: bool | list[str] = False, learn: Sequence[Any] = (), **head: Any) -> Model:
    """The grafted model, made as a run makes it."""
    words = Head(**head)
    tasks = [softmax_of(CLASSES, source.cut, words.name)]
    return graft(make_variants(source, stop_gradient, learn), {words.name: words}, tasks)


def arguments(
    values: Mapping[str, Any], batch: Mapping[str, Any], labels: Any = (), seed: Any = (0, 0)
) -> dict[str, Any]:
    """The arguments of a compiled program."""
    return {
        **{f"variable/{name}": value for name, value in values.items()},
        **{f"input/{field}": array for field, array in batch.items()},
        "target/head": np.asarray(labels, np.int64),
        "seed": np.asarray(seed, np.int32),
    }


def arrays(tensors: Mapping[str, Any]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


# The least head there is, for programs of which only the features are wanted.
_NO_HEAD = Graft("head", {}, flatten=lambda features: features, apply=lambda features, variables: tf.zeros([1, 1]))


def features_of(source: Source, feeds: Mapping[str, Any]) -> Callable[..., np.ndarray]:
    """The features at the cut under some mode feeds, as a function of the batch and of a seed."""
    backbone = make_backbone(source.whole, source.cut, source.inputs, feeds)
    program = as_function(forward_program(backbone, [_NO_HEAD]), ["features"])
    values = {name: tf.constant(value) for name, value in read_values(source).items()}

    def features(batch: Mapping[str, Any], seed: Sequence[int] = (0, 0)) -> np.ndarray:
        return arrays(program(arguments(values, batch, seed=seed)))["features"]

    return features


# ---- the session


@dataclass(frozen=True)
class Live:
    """A TensorFlow-1 session on the whole graph of a golden, as it was before anybody cut it."""

    graph: Any
    session: Any
    restore: Callable[[], None]

    def ask(self, tensors: Mapping[str, Any], feeds: Mapping[Any, Any]) -> Arrays:
        """Values at the restored weights: some graphs assign variables when they are run."""
        self.restore()
        return self.session.run(dict(tensors), dict(feeds))


@contextmanager
def live(golden: Golden) -> Iterator[Live]:
    """Imports and restores as old programs do; the graph is the default one as long as the session lasts."""
    version_2 = tf1.control_flow_v2_enabled()
    tf1.disable_control_flow_v2()
    try:
        # Some goldens pin nodes to a GPU.
        config = tf1.ConfigProto(allow_soft_placement=True)
        with tf.Graph().as_default() as graph, tf1.Session(config=config) as session:
            saver = tf1.train.import_meta_graph(f"{golden.prefix}.meta")
            yield Live(graph, session, lambda: saver.restore(session, str(golden.prefix)))
    finally:
        if version_2:
            tf1.enable_control_flow_v2()


@dataclass(frozen=True)
class LiveHead:
    """The golden's head on a live graph, written here a second time."""

    tensors: Mapping[str, Any]  # features, logits, loss
    variables: Mapping[str, Any]  # below the cut and of the head, those that learn
    feeds: Mapping[Any, Any]  # labels and weights

    def gradients(self, barriers: Sequence[Any] = ()) -> dict[str, Any]:
        """Of every variable that has one."""
        found = tf1.gradients(self.tensors["loss"], list(self.variables.values()), stop_gradients=barriers)
        pairs = zip(self.variables, found, strict=True)
        return {f"gradient/{name}": tf.convert_to_tensor(g) for name, g in pairs if g is not None}


def with_head(golden: Golden, graph: Any) -> LiveHead:
    features = graph.get_tensor_by_name(golden.cut)
    labels = tf1.placeholder(tf.int64, [None])
    head = {name: tf1.placeholder(tf.float32, value.shape) for name, value in golden.head.items()}
    logits = tf1.nn.bias_add(tf1.matmul(flat(features), head["head/kernel"]), head["head/bias"])
    loss = tf1.reduce_mean(tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    below = {v.op.name: v for v in tf1.trainable_variables() if v.op.name in golden.trainable}
    feeds = {labels: golden.labels, **{head[name]: value for name, value in golden.head.items()}}
    return LiveHead({"features": features, "logits": logits, "loss": loss}, {**below, **head}, feeds)


def flat(features: Any) -> Any:
    """One vector for each example, as tests/goldens/README.md says."""
    if features.shape.rank == 4:
        small = features.shape[1:3].as_list() == [1, 1]
        return tf1.squeeze(features, [1, 2]) if small else tf1.reduce_mean(features, axis=[1, 2])
    return tf1.reduce_mean(features, axis=1) if features.shape.rank == 3 else features
