"""Makes the goldens: tiny TensorFlow-1 pairs, and what a TensorFlow-1 session answers for each.

    python scripts/make_goldens.py

A golden whose folder is there already is left alone: its answers are what tests hold the engine to. To make one
again, remove its folder first; tests/goldens/README.md says when that may be done. Everything is seeded: made again
with the same TensorFlow on the same machine the answers come out the same. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from golden_graphs import GOLDENS, Golden, width_of

tf1 = tf.compat.v1

ROOT = Path(__file__).resolve().parent.parent
SEED = 11
OLD_CLASSES = 10
CLASSES = 3
GLOBAL_STEP = 12345
OLD_STEPS = 3  # training before the pair is saved
STEPS = 3  # training that the answers record
RATE = 0.1

Arrays = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the goldens that are not there yet.")
    there = ROOT / "tests" / "goldens"
    parser.add_argument("--out", type=Path, default=there, metavar="FOLDER", help="default: tests/goldens")
    out = parser.parse_args().out

    tf1.logging.set_verbosity(tf1.logging.ERROR)  # much of this is deprecated, which is the point
    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
    tf1.disable_control_flow_v2()
    tf.config.experimental.enable_op_determinism()

    for name, golden in GOLDENS.items():
        folder = out / name
        if folder.exists():
            print(f"{name}: kept")
            continue
        # A golden that fails its checks leaves nothing behind that the next call would keep.
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            made = Path(scratch) / name
            make(golden, made, np.random.default_rng([SEED, *name.encode()]))
            made.rename(folder)
        print(f"{name}: {size(folder):,} bytes", flush=True)
    (out / "README.md").write_text(readme(out), encoding="utf-8")
    print(f"all: {size(out):,} bytes")


def make(golden: Golden, folder: Path, rng: np.random.Generator) -> None:
    """Write one golden: the pair, golden.json and answers.npz."""
    old_batches = [golden.batch(rng, step) for step in range(1, OLD_STEPS + 1)]
    with tf.Graph().as_default() as graph, session() as sess:
        tf1.set_random_seed(SEED)
        train_op, saver = build_source(golden)
        sess.run(tf1.global_variables_initializer())
        for arrays in old_batches if golden.optimizer else []:
            labels = rng.integers(0, OLD_CLASSES, len(next(iter(arrays.values()))))
            sess.run(train_op, {**fed(golden, arrays), **train_feeds(golden), "labels:0": labels})
        save_pair(golden, sess, saver, folder)

        width = width_of(graph.get_tensor_by_name(golden.cut))
        given = given_arrays(golden, rng, width)
        answers = answer(golden, sess, saver, str(folder / golden.prefix), given)
    check_answers(golden, answers)
    check_pair(golden, folder, given, answers)

    about = {
        "description": golden.description,
        "prefix": golden.prefix,
        "cut": golden.cut,
        "features_4d": answers["features"].ndim == 4,
        "inputs": golden.inputs,
        "eval_feeds": golden.eval_feeds,
        "train_feeds": train_feeds(golden),
        "trainable": of_source(answers, "gradient/"),
        "keys": {variable: key_of(golden, variable) for variable in of_source(answers, "after/")},
    }
    (folder / "golden.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    arrays: dict[str, Any] = {**given, **answers}
    np.savez_compressed(folder / "answers.npz", **arrays)
    check_files(folder)


def session() -> Any:
    # One thread and no GPU: sums are taken in one order.
    one = {"intra_op_parallelism_threads": 1, "inter_op_parallelism_threads": 1}
    return tf1.Session(config=tf1.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True, **one))


def train_feeds(golden: Golden) -> Mapping[str, Any]:
    return golden.train_feeds or golden.eval_feeds


def fed(golden: Golden, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {tensor: arrays[field] for field, tensor in golden.inputs.items()}


# ---- the pair


def build_source(golden: Golden) -> tuple[Any, Any]:
    """The whole source in the default graph: up to the cut, an old head, Adam on it, a `Saver`."""
    scope = tf1.get_variable_scope()
    with tf1.variable_scope(scope, use_resource=golden.resource, auxiliary_name_scope=False):
        golden.build()
        below = tf1.global_variables()
        labels = tf1.placeholder(tf.int64, [None], name="labels")
        features = flat(tf1.get_default_graph().get_tensor_by_name(golden.cut))
        kernel = tf1.get_variable("fc8/kernel", [width_of(features), OLD_CLASSES])
        bias = tf1.get_variable("fc8/bias", [OLD_CLASSES], initializer=tf1.zeros_initializer())
        logits = tf1.nn.bias_add(tf1.matmul(features, kernel), bias, name="fc8")
        tf1.nn.softmax(logits, name="probabilities")
        train_op = None
        if golden.optimizer:
            losses = tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf1.reduce_mean(losses, name="loss")
            tf1.summary.scalar("losses/total", loss)
            start = tf1.constant_initializer(GLOBAL_STEP - OLD_STEPS)
            step = tf1.get_variable("global_step", [], tf.int64, start, trainable=False)
            tf1.add_to_collection(tf1.GraphKeys.GLOBAL_STEP, step)
            with tf1.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
                train_op = tf1.train.AdamOptimizer(0.003).minimize(loss, global_step=step)
    version = tf1.train.SaverDef.V1 if golden.v1 else tf1.train.SaverDef.V2
    chosen = {golden.keys[v.op.name]: v for v in below} if golden.keys else None
    return train_op, tf1.train.Saver(chosen, write_version=version)


def save_pair(golden: Golden, sess: Any, saver: Any, folder: Path) -> None:
    folder.mkdir(parents=True)
    prefix = folder / golden.prefix
    # Saver.save orders the attributes of a node by chance and writes the time of day into `checkpoint`;
    # these two files are written here instead, so that making a golden again changes little.
    saver.save(sess, str(prefix), write_meta_graph=False, write_state=False)
    meta = saver.export_meta_graph().SerializeToString(deterministic=True)
    prefix.with_name(f"{prefix.name}.meta").write_bytes(meta)
    state = f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
    (folder / "checkpoint").write_text(state, encoding="utf-8")


# ---- the answers


def given_arrays(golden: Golden, rng: np.random.Generator, width: int) -> Arrays:
    """What the answers are the answers to: the batch, its labels, and a head with its weights."""
    arrays = golden.batch(rng, 0)
    examples = len(next(iter(arrays.values())))
    return {
        **{f"input/{name}": array for name, array in arrays.items()},
        "labels": rng.permutation(np.arange(examples) % CLASSES).astype(np.int32),
        "head/kernel": rng.normal(0.0, width**-0.5, [width, CLASSES]).astype(np.float32),
        "head/bias": rng.normal(0.0, 0.1, [CLASSES]).astype(np.float32),
    }


def flat(features: tf.Tensor) -> tf.Tensor:
    """The features of an example as one vector: averaged over space or time, where the cut has them."""
    if features.shape.rank == 4:
        one_by_one = features.shape[1:3].as_list() == [1, 1]
        return tf1.squeeze(features, [1, 2]) if one_by_one else tf1.reduce_mean(features, axis=[1, 2])
    if features.shape.rank == 3:
        return tf1.reduce_mean(features, axis=1)
    assert features.shape.rank == 2, features.shape
    return features


def answer(golden: Golden, sess: Any, saver: Any, prefix: str, given: Mapping[str, np.ndarray]) -> Arrays:
    """Graft the head onto the source in the default graph and ask the session everything."""
    graph = tf1.get_default_graph()
    features = graph.get_tensor_by_name(golden.cut)
    nodes = ancestors(features.op)
    below = [v for v in tf1.global_variables() if v.op in nodes]
    with tf1.variable_scope("head", use_resource=False):
        kernel = tf1.get_variable("kernel", initializer=given["head/kernel"])
        bias = tf1.get_variable("bias", initializer=given["head/bias"])
        features_2d = flat(features)
        logits = tf1.matmul(features_2d, kernel) + bias
        losses = tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=given["labels"], logits=logits)
        loss = tf1.reduce_mean(losses)
    learning = [v for v in tf1.trainable_variables() if v in below or v in (kernel, bias)]
    gradients = [tf1.convert_to_tensor(g) for g in tf1.gradients(loss, learning)]

    forward = {"features": features, "features_2d": features_2d, "logits": logits, "loss": loss}
    backward = {f"gradient/{v.op.name}": g for v, g in zip(learning, gradients, strict=True)}
    values = {f"after/{v.op.name}": v.read_value() for v in [*below, kernel, bias]}
    # Every gradient is there before any variable moves: a reference variable is read where it lies.
    with tf1.control_dependencies(gradients):
        sgd = [tf1.assign_sub(v, RATE * g) for v, g in zip(learning, gradients, strict=True)]
    updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
    with tf1.control_dependencies([*gradients, *updates]):
        sgd_and_updates = [tf1.assign_sub(v, RATE * g) for v, g in zip(learning, gradients, strict=True)]

    def in_mode(feeds: Mapping[str, Any], step: list[Any]) -> Arrays:
        feed = {**{tensor: given[f"input/{field}"] for field, tensor in golden.inputs.items()}, **feeds}
        restart(sess, saver, prefix, kernel, bias)
        answers = sess.run({**forward, **backward}, feed)
        restart(sess, saver, prefix, kernel, bias)
        for _ in range(STEPS):
            sess.run([v.op for v in step], feed)
        return {**answers, **sess.run(values)}

    answers = in_mode(golden.eval_feeds, sgd)
    if train_feeds(golden) != golden.eval_feeds:
        answers |= {f"train/{name}": a for name, a in in_mode(train_feeds(golden), sgd_and_updates).items()}
    return answers


def restart(sess: Any, saver: Any, prefix: str, kernel: Any, bias: Any) -> None:
    sess.run([kernel.initializer, bias.initializer])
    saver.restore(sess, prefix)


def ancestors(op: Any) -> set[Any]:
    """The ops that an op needs, itself included."""
    found, stack = {op}, [op]
    while stack:
        needed = stack.pop()
        more = {*(t.op for t in needed.inputs), *needed.control_inputs} - found
        found |= more
        stack.extend(more)
    return found


def of_source(answers: Arrays, kind: str) -> list[str]:
    """The variables of the source, not of the head, for which there are answers of a kind."""
    names = [name.removeprefix(kind) for name in answers if name.startswith(kind)]
    return [name for name in names if not name.startswith("head/")]


def key_of(golden: Golden, variable: str) -> str:
    """The key of a variable in the checkpoint; the pieces of a partitioned variable share one."""
    whole, _, piece = variable.rpartition("/")
    return whole if piece.startswith("part_") else golden.keys.get(variable, variable)


# ---- what is claimed


def check_answers(golden: Golden, answers: Arrays) -> None:
    """Answers that a wrong engine could give by doing nothing are no use: each must be worth comparing."""
    for name, array in answers.items():
        assert np.all(np.isfinite(array)), name
        if "gradient/" in name:
            if name.rpartition("gradient/")[2] in golden.idle:
                assert not np.any(array), name
            else:
                assert np.abs(array).max() > 1e-4, f"{name}: nothing but rounding"
    assert np.mean(answers["features_2d"].std(axis=0) > 0) > 0.5, "most features are the same for every example"
    if "train/loss" in answers:
        assert np.abs(answers["train/features"] - answers["features"]).max() > 0.01, "the modes do not differ"


def check_pair(golden: Golden, folder: Path, given: Mapping[str, np.ndarray], answers: Arrays) -> None:
    """What the folder holds is what `golden` says, and read back it gives the same answers."""
    prefix = str(folder / golden.prefix)
    assert tf1.train.latest_checkpoint(str(folder)) == prefix
    assert Path(f"{prefix}.index").exists() != golden.v1
    with tf.Graph().as_default() as graph, session() as sess:
        saver = tf1.train.import_meta_graph(f"{prefix}.meta")
        below = ancestors(graph.get_tensor_by_name(golden.cut).op)
        found = {op.type for op in below} | {op.device for op in below}
        updates = {op.type for op in tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)}
        assert found | updates >= set(golden.holds), set(golden.holds) - found - updates
        assert not found & {"If", "While", "StatelessIf", "StatelessWhile"}, "control flow of version 2"
        assert ("VarHandleOp" in found) == golden.resource, found
        everywhere = {op.type for op in graph.get_operations()}
        assert bool(everywhere & {"ApplyAdam", "ResourceApplyAdam"}) == golden.optimizer
        again = answer(golden, sess, saver, prefix, given)
    assert again.keys() == answers.keys(), again.keys() ^ answers.keys()
    for name, array in answers.items():
        assert np.array_equal(again[name], array), f"{name}: the pair read back gives another answer"

    reader = tf.train.load_checkpoint(prefix)
    if golden.optimizer and not golden.keys:
        assert reader.get_tensor("global_step") == GLOBAL_STEP
    for variable, array in ((v, answers[f"after/{v}"]) for v in of_source(answers, "after/")):
        before = reader.get_tensor(key_of(golden, variable))
        if "/moving_" in variable:
            assert np.abs(before - ("variance" in variable)).mean() > 0.02, f"{variable} is as at the beginning"
            assert np.array_equal(before, array), f"{variable} moved in evaluation"
            assert not np.array_equal(before, answers[f"train/after/{variable}"]), f"{variable} stood still in training"
        elif before.shape == array.shape:  # the piece of a partitioned variable has another
            assert np.array_equal(before, array) == (variable in golden.idle), variable


def check_files(folder: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in (ROOT, folder.resolve(), Path.home(), Path.cwd(), Path(tf.__file__).parent):
            assert str(place).encode() not in content or place == Path("/"), f"{path} names {place}"
    assert size(folder) < 200_000, f"{folder}: {size(folder):,} bytes"


# ---- what is said about them


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def row(name: str, folder: Path) -> str:
    about = json.loads((folder / name / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / name / "answers.npz") as answers:
        shape = list(answers["features"].shape)
        modes = "both" if "train/loss" in answers else "evaluation"
    return f"| `{name}` | {about['description']} | `{about['cut']}` | {shape} | {modes} |"


def readme(out: Path) -> str:
    rows = "\n".join(row(name, out) for name in GOLDENS)
    return README.format(rows=rows, count=len(GOLDENS), version=tf.__version__)


README = """\
# Goldens

A golden is a tiny source with a trait that real ones have, and the answers that a TensorFlow-1 session gives for it.
The answers are the truth that the engine is held to: features, gradients and three steps of training.
Each pair is written by `tf.compat.v1` in a plain graph and session, with V1 control flow, a `Saver`, an old head of ten
classes (`fc8`) above the cut and, in all but `shared`, Adam on it: gradient nodes, slots, and a `global_step` of 12345.

| golden | trait | cut | features | modes |
|---|---|---|---|---|
{rows}

## What a folder holds

The pair: `model.meta`, `model.index`, `model.data-00000-of-00001` and `checkpoint`; in `v1_checkpoint`
`model.ckpt.meta`, `model.ckpt` and `checkpoint`.

`golden.json`

| key | is |
|---|---|
| `description` | the trait |
| `prefix` | the name of the checkpoint in the folder |
| `cut` | the cut tensor |
| `features_4d` | whether the features at the cut have four dimensions |
| `inputs` | field of the batch -> tensor |
| `eval_feeds`, `train_feeds` | mode feeds: tensor -> value; the same where no answer depends on the mode |
| `trainable` | the trainable variables below the cut |
| `keys` | each variable below the cut, moving statistics included -> its key in the checkpoint |

`answers.npz`

| key | is |
|---|---|
| `input/FIELD`, `labels` | the batch |
| `head/kernel` [k, 3], `head/bias` [3] | the head |
| `features` | the cut under `eval_feeds` |
| `features_2d` | the same as [n, k]: a 1x1 map squeezed, a larger one averaged, time averaged (padding included) |
| `logits`, `loss` | `features_2d @ head/kernel + head/bias`; mean sparse softmax cross-entropy |
| `gradient/VARIABLE` | the gradient of the loss, for each trainable variable below the cut and for the head; dense |
| `after/VARIABLE` | the value after three steps on this batch, for every variable below the cut and for the head |
| `train/…` | the six above again under `train_feeds`; only where these differ from `eval_feeds` |

A step is `variable -= 0.1 * gradient`, for all trainable variables below the cut and the head, with all gradients taken
before any variable moves. Under `train_feeds` each step also runs the update ops once, before it.

In `cond_data` the batch takes the true branch: the variables of the other one have a gradient of zero.

## Making them

    python scripts/make_goldens.py

makes those whose folder is missing, and this page. The graphs are in `scripts/golden_graphs.py`. The script checks what
it says: it reads each pair back with `import_meta_graph` and requires the same answers bit for bit, requires the ops
that the trait is about below the cut, gradients that are not zero, statistics that have left 0 and 1 and move only
in training, and no path of the machine in any file. Everything is seeded: made twice on one machine the answers, the
weights and the graphs are equal; only the contexts of conds and loops list their names in another order each time.
Another processor or TensorFlow may round differently, so tests compare with a tolerance.

These were made with TensorFlow {version} on a CPU.

## When a golden may be made again

- A new kind is added: it gets a new folder; the others stay as they are.
- A golden is wrong, that is, it does not have its trait or its answers are not what TensorFlow 1 computes: its folder
  is removed and made again in a change of its own, which says what was wrong.
- While nothing depends on a golden yet, freely.

Never because a test fails.
"""


if __name__ == "__main__":
    main()
