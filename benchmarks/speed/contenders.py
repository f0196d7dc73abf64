"""How others do it: each trains on the same images with the same weights, and tells how long its parts took.

    python -m benchmarks.speed.contenders NAME FOLDER [--what frozen|prefix|full] [--epochs 2] [--small]

A line of JSON: the seconds to the first batch, of each epoch and of each step, and the most memory in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.speed.workload import MEAN, SMALL, Net, files, weights

BATCH, RATE = 16, 1e-4
LEARNS = {"frozen": (), "prefix": ("conv5", "fc6", "fc7"), "full": ("conv", "fc")}  # by the beginning of the name


class Clock:
    """Takes the times: of each step, and of each epoch."""

    def __init__(self) -> None:
        self.ready: float | None = None
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self.last = time.monotonic()

    def started(self) -> None:
        self.last = time.monotonic()

    def step(self) -> None:
        now = time.monotonic()
        self.steps.append(now - self.last)
        self.last = now
        self.ready = self.ready or now - BEGAN

    def epoch(self) -> None:
        self.epochs.append(sum(self.steps) - sum(self.epochs))


def batches(count: int, seed: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)
    yield from (order[start : start + BATCH] for start in range(0, count, BATCH))


def tutorial(folder: Path, what: str, epochs: int, net: Net, clock: Clock) -> None:
    """The classic script: import the graph, stop the gradient at fc7, feed each batch."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    tf1.disable_eager_execution()
    paths, labels = files(folder)
    saver = tf1.train.import_meta_graph(str(folder / "pair" / "vgg.meta"))
    graph = tf1.get_default_graph()
    images, fc7 = (graph.get_tensor_by_name(f"{name}:0") for name in ("images", "fc7"))
    features = tf.stop_gradient(fc7) if what == "frozen" else fc7
    logits = features @ tf.Variable(tf.zeros([net.dense, 2])) + tf.Variable(tf.zeros([2]))
    targets = tf1.placeholder(tf.int64, [None])
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))
    learning = [v for v in tf1.trainable_variables() if v.name.startswith(("Variable", *LEARNS[what]))]
    train = tf1.train.GradientDescentOptimizer(RATE).minimize(loss, var_list=learning)
    encoded = tf1.placeholder(tf.string, [])
    decoded = tf.image.decode_jpeg(encoded, 3)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        saver.restore(session, str(folder / "pair" / "vgg"))
        clock.started()
        for epoch in range(epochs):
            for chosen in batches(len(paths), epoch):
                rows = [session.run(decoded, {encoded: Path(paths[i]).read_bytes()}) for i in chosen]
                session.run([train, loss], {images: np.stack(rows).astype(np.float32) - MEAN, targets: labels[chosen]})
                clock.step()
            clock.epoch()


def hub(folder: Path, what: str, epochs: int, net: Net, clock: Clock) -> None:
    """TF-Hub's old `retrain.py`: the features of each image in a text file, then a head that is fed from them."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    tf1.disable_eager_execution()
    assert what == "frozen"
    paths, labels = files(folder)
    saver = tf1.train.import_meta_graph(str(folder / "pair" / "vgg.meta"))
    graph = tf1.get_default_graph()
    images, fc7 = (graph.get_tensor_by_name(f"{name}:0") for name in ("images", "fc7"))
    features, targets = tf1.placeholder(tf.float32, [None, net.dense]), tf1.placeholder(tf.int64, [None])
    logits = features @ tf.Variable(tf.zeros([net.dense, 2])) + tf.Variable(tf.zeros([2]))
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))
    learning = [v for v in tf1.trainable_variables() if v.name.startswith("Variable")]
    train = tf1.train.GradientDescentOptimizer(RATE).minimize(loss, var_list=learning)
    encoded = tf1.placeholder(tf.string, [])
    decoded = tf.expand_dims(tf.cast(tf.image.decode_jpeg(encoded, 3), tf.float32) - tf.constant(MEAN), 0)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        saver.restore(session, str(folder / "pair" / "vgg"))
        clock.started()
        for path in paths:
            found = session.run(fc7, {images: session.run(decoded, {encoded: Path(path).read_bytes()})})
            Path(f"{path}.txt").write_text(",".join(str(value) for value in found[0]), encoding="utf-8")
        for epoch in range(epochs):
            for chosen in batches(len(paths), epoch):
                texts = [Path(f"{paths[i]}.txt").read_text(encoding="utf-8") for i in chosen]
                rows = [[float(value) for value in text.split(",")] for text in texts]
                session.run([train, loss], {features: rows, targets: labels[chosen]})
                clock.step()
            clock.epoch()
    for path in paths:
        Path(f"{path}.txt").unlink()


def keras_fit(folder: Path, what: str, epochs: int, net: Net, clock: Clock) -> None:
    """The guide's way: layers with `trainable = False`, and `fit` on a `tf.data` pipeline."""
    import keras

    layers: list[Any] = [keras.Input([net.side, net.side, 3])]
    for name, shape in net.layers():
        if not shape:
            layers.append(keras.layers.MaxPooling2D(2, padding="same", name=name))
        elif name.startswith("conv"):
            layers.append(keras.layers.Conv2D(shape[-1], 3, padding="same", activation="relu", name=name))
        else:
            layers += [keras.layers.Flatten()] * (name == "fc6")
            layers.append(keras.layers.Dense(shape[-1], activation="relu", name=name))
    layers.append(keras.layers.Dense(2, name="head"))
    model = keras.Sequential(layers)
    values = weights(folder)
    for layer in model.layers:
        if f"{layer.name}/weights" in values:
            layer.set_weights([values[f"{layer.name}/weights"], values[f"{layer.name}/biases"]])
            layer.trainable = layer.name.startswith(LEARNS[what]) if LEARNS[what] else False
    del values
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss)
    data = pipeline(folder)

    class Times(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            clock.started()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            clock.step()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.epoch()

    model.fit(data, epochs=epochs, verbose=0, callbacks=[Times()])


def pipeline(folder: Path) -> Any:
    """The images as `tf.data` has them."""
    import tensorflow as tf

    paths, labels = files(folder)

    def read(path: Any, label: Any) -> Any:
        return tf.cast(tf.image.decode_jpeg(tf.io.read_file(path), 3), tf.float32) - tf.constant(MEAN), label

    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths), seed=0)
    return data.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def by_hand(folder: Path, what: str, epochs: int, net: Net, clock: Clock) -> None:
    """A training loop in TensorFlow 2 as people write it: variables, a tape, one `tf.function`."""
    import tensorflow as tf

    values = {name: tf.Variable(value) for name, value in weights(folder).items()}
    head = [tf.Variable(tf.zeros([net.dense, 2])), tf.Variable(tf.zeros([2]))]
    learning = [v for n, v in values.items() if LEARNS[what] and n.startswith(LEARNS[what])] + head

    def forward(h: Any) -> Any:
        for name, shape in net.layers():
            if not shape:
                h = tf.nn.max_pool2d(h, 2, 2, "SAME")
                continue
            w, b = values[f"{name}/weights"], values[f"{name}/biases"]
            h = tf.reshape(h, [-1, shape[0]]) if name == "fc6" else h
            h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(h, w, 1, "SAME") if name.startswith("conv") else h @ w, b))
        return h @ head[0] + head[1]

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(learning)
            found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=forward(images))
            loss = tf.reduce_mean(found)
        for variable, gradient in zip(learning, tape.gradient(loss, learning), strict=True):
            variable.assign_sub(RATE * gradient)
        return loss

    data = pipeline(folder)
    clock.started()
    for _ in range(epochs):
        for batch in data:
            float(step(*batch))
            clock.step()
        clock.epoch()


def pytorch(folder: Path, what: str, epochs: int, net: Net, clock: Clock) -> None:
    """The tutorial of PyTorch: parameters without `requires_grad`, and a plain loop."""
    import torch
    from PIL import Image
    from torch import nn

    modules: list[Any] = []
    values = weights(folder)
    for name, shape in net.layers():
        if not shape:
            modules.append(nn.MaxPool2d(2))
            continue
        is_map = name.startswith("conv")
        layer = nn.Conv2d(shape[2], shape[3], 3, padding=1) if is_map else nn.Linear(*shape)
        kernel = values.pop(f"{name}/weights")
        with torch.no_grad():
            # Rows of fc6 come in another order, which takes as long.
            layer.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1) if is_map else kernel.T))
            layer.bias.copy_(torch.from_numpy(values.pop(f"{name}/biases")))
        for parameter in layer.parameters():
            parameter.requires_grad = bool(LEARNS[what]) and name.startswith(LEARNS[what])
        modules += [nn.Flatten()] * (name == "fc6") + [layer, nn.ReLU()]
    model = nn.Sequential(*modules, nn.Linear(net.dense, 2))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    paths, labels = files(folder)

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, place: int) -> Any:
            pixels = np.asarray(Image.open(paths[place]), np.float32) - np.float32(MEAN)
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(labels[place])

    clock.started()
    for _ in range(epochs):
        for images, targets in torch.utils.data.DataLoader(Images(), BATCH, shuffle=True):
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss)
            clock.step()
        clock.epoch()


CONTENDERS: dict[str, Callable[[Path, str, int, Net, Clock], None]] = {
    "tutorial": tutorial,
    "hub": hub,
    "keras": keras_fit,
    "by_hand": by_hand,
    "pytorch": pytorch,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", choices=LEARNS, default="frozen")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    clock = Clock()
    CONTENDERS[args.name](args.folder, args.what, args.epochs, SMALL if args.small else Net(), clock)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"ready": clock.ready, "epochs": clock.epochs, "steps": clock.steps, "memory": memory}
    print(json.dumps({**found, "whole": time.monotonic() - BEGAN}), flush=True)


if __name__ == "__main__":
    main()
