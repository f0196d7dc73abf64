"""Makes the demo that ships in the package: a small TensorFlow-1 pair and two classes that it has never seen.

    python scripts/make_demo.py --data /usr/share/datasets/fashion-mnist --out src/finetune/demo

The data is Fashion-MNIST (MIT licence). On Debian and Ubuntu `apt-get install dataset-fashion-mnist` installs the
four `*-ubyte.gz` files into /usr/share/datasets/fashion-mnist; on other systems the same four files in any folder do.

The pair is what a TensorFlow-1 program leaves: a graph with placeholders, reference variables, dropout, an optimizer
with slots, summaries, and a Saver. Written anew on one machine it comes out the same byte for byte; another processor
may round differently. Takes about a minute and a half on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
UNSEEN = ("dress", "coat")  # a linear model tells most of them apart, but not all
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)
UNSEEN_FOLDER = "_".join(UNSEEN)
FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

CONV_WIDTHS = (16, 32, 48, 64, 128)
FC_WIDTH = 256
EPOCHS = 3
BATCH = 128
LEARNING_RATE = 1e-3
KEEP_PROB = 0.8
SEED = 7
IMAGES_PER_CLASS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo pair and the demo images from Fashion-MNIST.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the *-ubyte.gz files are")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is empty or not there")
    args = parser.parse_args()
    if missing := [name for name in FILES if not (args.data / name).is_file()]:
        parser.error(f"{args.data} lacks {', '.join(missing)}; apt-get install dataset-fashion-mnist brings them")
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty; remove it first, so that nothing of an older demo stays behind")

    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
    tf.config.experimental.enable_op_determinism()

    train, test = read(args.data, "train"), read(args.data, "t10k")
    accuracy = make_pair(args.out / "small_vgg", only_seen(*train), only_seen(*test))
    write_images(args.out / UNSEEN_FOLDER, *test)
    (args.out / "LICENSE").write_text(LICENSE, encoding="utf-8")
    (args.out / "README.md").write_text(readme(args.data, args.out, accuracy), encoding="utf-8")
    print(f"{args.out}: {size(args.out):,} bytes")


# ---- data


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28, 1] and labels uint8 [n] of one part of Fashion-MNIST."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1), np.frombuffer(labels, np.uint8, offset=8)


def only_seen(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The examples of the classes in `SEEN`, in [0, 1], labelled by position in `SEEN`."""
    position = np.array([SEEN.index(name) if name in SEEN else -1 for name in CLASSES])
    new = position[labels]
    return images[new >= 0].astype(np.float32) / 255, new[new >= 0]


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The first `IMAGES_PER_CLASS` images of each unseen class; the file name holds the index in the t10k file."""
    with tf.Graph().as_default(), session() as sess:
        image = tf1.placeholder(tf.uint8, [28, 28, 1])
        png = tf.io.encode_png(image, compression=9)
        for name in UNSEEN:
            (folder / name).mkdir(parents=True)
            for index in np.flatnonzero(labels == CLASSES.index(name))[:IMAGES_PER_CLASS]:
                (folder / name / f"t10k-{index:05d}.png").write_bytes(sess.run(png, {image: images[index]}))


# ---- the pair


def layer(x: tf.Tensor, name: str, kernel: int, width: int) -> tf.Tensor:
    """A convolution with biases; its variables are `name`/weights and `name`/biases.

    No scope is opened: a scope `fc7` would take the name, and the output that is called so would become `fc7_1`.
    """
    weights = tf1.get_variable(
        f"{name}/weights",
        [kernel, kernel, x.shape[-1], width],
        initializer=tf1.variance_scaling_initializer(2.0),
        use_resource=False,
    )
    biases = tf1.get_variable(f"{name}/biases", [width], initializer=tf1.zeros_initializer(), use_resource=False)
    product = tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding="SAME", name=f"{name}/Conv2D")
    return tf1.nn.bias_add(product, biases, name=f"{name}/BiasAdd")


def small_vgg(images: tf.Tensor, keep_prob: tf.Tensor) -> tf.Tensor:
    """Logits of a VGG with one convolution a block; like slim's, its dense layers are 1x1 convolutions."""
    x = images
    for block, width in enumerate(CONV_WIDTHS, start=1):
        x = tf1.nn.relu(layer(x, f"conv{block}", 3, width), name=f"conv{block}")
        x = tf1.nn.max_pool(x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name=f"pool{block}")
    for name in ("fc6", "fc7"):
        x = tf1.nn.relu(layer(x, name, 1, FC_WIDTH), name=name)
        x = tf1.nn.dropout(x, keep_prob=keep_prob, name=f"{name}/dropout")
    return tf1.squeeze(layer(x, "fc8", 1, len(SEEN)), [1, 2], name="fc8")


def make_pair(folder: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Train, save the pair into `folder`, and return the accuracy on `test`."""
    with tf.Graph().as_default(), session() as sess:
        tf1.set_random_seed(SEED)
        images = tf1.placeholder(tf.float32, [None, 28, 28, 1], name="images")
        labels = tf1.placeholder(tf.int64, [None], name="labels")
        keep_prob = tf1.placeholder(tf.float32, [], name="keep_prob")
        logits = small_vgg(images, keep_prob)
        tf1.nn.softmax(logits, name="probabilities")
        correct = tf1.cast(tf1.equal(tf1.argmax(logits, 1), labels), tf.float32)
        accuracy = tf1.reduce_mean(correct, name="accuracy")
        loss = tf1.losses.sparse_softmax_cross_entropy(labels, logits)
        step = tf1.train.get_or_create_global_step()
        train_op = tf1.train.AdamOptimizer(LEARNING_RATE).minimize(loss, global_step=step)
        tf1.summary.scalar("loss", loss)
        tf1.summary.scalar("accuracy", accuracy)
        tf1.summary.merge_all()
        saver = tf1.train.Saver(max_to_keep=5)

        sess.run(tf1.global_variables_initializer())
        test_accuracy = 0.0
        for epoch in range(1, EPOCHS + 1):
            for x, y in batches(*train, np.random.default_rng([SEED, epoch]).permutation(len(train[1]))):
                sess.run(train_op, {images: x, labels: y, keep_prob: KEEP_PROB})
            right = [sess.run(correct, {images: x, labels: y, keep_prob: 1.0}) for x, y in batches(*test)]
            test_accuracy = float(np.concatenate(right).mean())
            print(f"epoch {epoch}: test accuracy {test_accuracy:.4f}", flush=True)

        folder.mkdir(parents=True)
        # Saver.save orders the attributes of a node by chance and writes the time of day into `checkpoint`;
        # these two files are written here instead, so that making the demo again changes nothing.
        prefix = Path(
            saver.save(sess, str(folder / "model.ckpt"), global_step=step, write_meta_graph=False, write_state=False)
        )
        meta = saver.export_meta_graph().SerializeToString(deterministic=True)
        prefix.with_name(f"{prefix.name}.meta").write_bytes(meta)
        state = f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
        (folder / "checkpoint").write_text(state, encoding="utf-8")
    return test_accuracy


def batches(x: np.ndarray, y: np.ndarray, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = np.arange(len(y)) if order is None else order
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield x[chosen], y[chosen]


def session() -> Any:
    # A GPU's convolutions round differently from one model of GPU to the next.
    return tf1.Session(config=tf1.ConfigProto(device_count={"GPU": 0}))


# ---- what is said about it


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digests(paths: list[Path]) -> str:
    return "\n".join(f"    {hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in paths)


def readme(data: Path, out: Path, accuracy: float) -> str:
    pair = sorted((out / "small_vgg").glob("model.ckpt-*"))
    shapes = tf.train.load_checkpoint(str(pair[0].with_suffix(""))).get_variable_to_shape_map()
    weights = sum(int(np.prod(shape)) for name, shape in shapes.items() if name.endswith(("/weights", "/biases")))
    return f"""# The demo

A trained TensorFlow-1 model and two classes of images that it has never seen.

- `small_vgg/` ({size(out / "small_vgg"):,} bytes) is a pair: a VGG with {weights:,} weights in five convolutions
  and three dense layers, which tells eight classes of Fashion-MNIST apart:
  {", ".join(SEEN)}.
  It is trained for {EPOCHS} epochs on the 48,000 training images of these classes and reaches an accuracy of
  **{accuracy:.4f}** on their 8,000 test images.
  Input: `images:0`, [n, 28, 28, 1], uint8 divided by 255. Mode feed: `keep_prob:0`, 1.0 outside training.
  Features: `fc7:0`, [n, 1, 1, {FC_WIDTH}]. Output: `fc8:0`, [n, {len(SEEN)}], logits in the order above.
- `{UNSEEN_FOLDER}/` ({size(out / UNSEEN_FOLDER):,} bytes) holds images of the other two classes, 28x28, 8-bit
  grayscale: the first {IMAGES_PER_CLASS} of each class in the file t10k, as `t10k-INDEX.png`, where INDEX counts
  from 0 in that file. A linear head on frozen `fc7:0` tells 0.92 of them apart, one on the raw pixels 0.93 (480 to
  train on, 120 to test, mean of five splits): the demo shows the way, not what transfer gains.
- `LICENSE` is the licence of Fashion-MNIST: the images are taken from it and the pair is trained on it.
- `outfits.npz`, pictures of several garments, `dates/`, a recurrent pair and its examples, and `sounds/`, a pair that
  hears waveforms and synthesised vowels, are written by `scripts/make_outfits.py`, `scripts/make_dates.py` and
  `scripts/make_sounds.py`, which say what they are. Nothing in the last two is taken from elsewhere.

All of this is written by

    python scripts/make_demo.py --data /usr/share/datasets/fashion-mnist --out src/finetune/demo

where that folder is the one of the Debian package `dataset-fashion-mnist`; last on {datetime.date.today()}
with TensorFlow {tf.__version__} on a CPU.

The pair (sha256):

{digests(pair)}

The files it is made from (sha256):

{digests([data / name for name in FILES])}
"""


LICENSE = """\
The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


if __name__ == "__main__":
    main()
