"""How others do it: each trains on the same examples with the same weights, and says when a part of it is done.

    python -m benchmarks.speed.contenders NAME FOLDER NET [--what frozen|prefix|full] [--epochs 1000] [--small]

It says `ready` when it is about to begin, and then `epoch N` after each epoch, or, where all learns in images, `step N`
after each step.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.speed.workload import MEAN, NETS, NORM, SMALL, Net, arrays, files, lstm, weights

RATE = 1e-8  # so small that no weights run away, however many steps are made
# By the beginning of the name. The statistics of norms stay as they are.
LEARNS = {"frozen": (), "prefix": ("conv5", "fc6", "fc7"), "full": ("conv", "fc", "lstm")}


@dataclass(frozen=True)
class Task:
    """What a contender is given."""

    folder: Path
    net: Net
    what: str
    epochs: int
    each_step: bool  # is told

    def learns(self, name: str) -> bool:
        return name.startswith(LEARNS[self.what]) and not name.endswith(("/mean", "/variance"))

    def ready(self) -> None:
        print("ready", flush=True)

    def step(self, number: int) -> None:
        if self.each_step:
            print("step", number, flush=True)

    def epoch(self, number: int) -> None:
        if not self.each_step:
            print("epoch", number, flush=True)


def batches(count: int, size: int, epochs: int, task: Task) -> Iterator[np.ndarray]:
    """The places of each batch; what is done with one is a step."""
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(count)
        for number, start in enumerate(range(0, count, size)):
            yield order[start : start + size]
            task.step(number)
        task.epoch(epoch)


def _imported(task: Task) -> tuple[Any, Any, Any]:
    """The pair in the graph of the process, the saver of its variables, its input and its features."""
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    saver = tf.compat.v1.train.import_meta_graph(str(task.folder / "model" / "model.meta"))
    graph = tf.compat.v1.get_default_graph()
    return saver, graph.get_tensor_by_name("x:0"), graph.get_tensor_by_name("features:0")


def _new_head(features: Any, task: Task) -> tuple[Any, Any, Any]:
    """The targets, the loss and the step of a new head with what learns below it."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    below = tf1.global_variables()
    targets = tf1.placeholder(tf.int64, [None])
    head = tf.Variable(tf.zeros([task.net.width, 2])), tf.Variable(tf.zeros([2]))
    logits = features @ head[0] + head[1]
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))
    learning = [*head, *(v for v in below if task.learns(v.op.name))]
    return targets, loss, tf1.train.GradientDescentOptimizer(RATE).minimize(loss, var_list=learning)


def tutorial(task: Task) -> None:
    """The classic script: import the graph, stop the gradient at the features, feed each batch."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    saver, x, features = _imported(task)
    targets, loss, train = _new_head(tf.stop_gradient(features) if task.what == "frozen" else features, task)
    encoded = tf1.placeholder(tf.string, [])
    decoded = tf.image.decode_jpeg(encoded, 3)
    given, labels = files(task.folder) if task.net.jpeg else arrays(task.folder)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        saver.restore(session, str(task.folder / "model" / "model"))
        task.ready()
        for chosen in batches(len(given), task.net.batch, task.epochs, task):
            if task.net.jpeg:
                images = [session.run(decoded, {encoded: Path(given[i]).read_bytes()}) for i in chosen]
                rows = np.stack(images).astype(np.float32) - MEAN
            else:
                rows = given[chosen]
            session.run([train, loss], {x: rows, targets: labels[chosen]})


def hub(task: Task) -> None:
    """TF-Hub's old `retrain.py`: the features of each image in a text file, then a head that is fed from them."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    saver, x, below = _imported(task)
    features = tf1.placeholder(tf.float32, [None, task.net.width])
    targets, loss, train = _new_head(features, task)
    encoded = tf1.placeholder(tf.string, [])
    decoded = tf.expand_dims(tf.cast(tf.image.decode_jpeg(encoded, 3), tf.float32) - tf.constant(MEAN), 0)
    paths, labels = files(task.folder)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        saver.restore(session, str(task.folder / "model" / "model"))
        task.ready()
        for path in paths:
            found = session.run(below, {x: session.run(decoded, {encoded: Path(path).read_bytes()})})
            Path(f"{path}.txt").write_text(",".join(str(value) for value in found[0]), encoding="utf-8")
        for chosen in batches(len(paths), task.net.batch, task.epochs, task):
            texts = [Path(f"{paths[i]}.txt").read_text(encoding="utf-8") for i in chosen]
            rows = [[float(value) for value in text.split(",")] for text in texts]
            session.run([train, loss], {features: rows, targets: labels[chosen]})


def keras_fit(task: Task) -> None:
    """The guide's way: layers with `trainable = False`, and `fit` on a `tf.data` pipeline."""
    import keras

    inputs = keras.Input(task.net.example)
    values, h, is_map = weights(task.folder), inputs, True
    for layer in task.net.layers:
        parts = _keras_layers(layer, keras)
        if layer.kind == "dense" and is_map:
            h, is_map = keras.layers.Flatten()(h), False
        for part, names in parts:
            h = part(h, training=False) if isinstance(part, keras.layers.BatchNormalization) else part(h)
            part.trainable = bool(names) and task.learns(f"{layer.name}/{names[0]}")
            if layer.kind == "lstm":
                kernel, bias = (values[f"{layer.name}/{name}"] for name in names)
                part.set_weights([*np.split(kernel, [task.net.example[-1]]), bias])
            elif names:
                part.set_weights([values[f"{layer.name}/{name}"] for name in names])
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(h))
    del values
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss)

    class Told(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            task.ready()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            task.step(batch)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            task.epoch(epoch)

    data, steps = pipeline(task)
    model.fit(data, epochs=task.epochs, steps_per_epoch=steps, verbose=0, callbacks=[Told()])


def _keras_layers(layer: Any, keras: Any) -> list[tuple[Any, list[str]]]:
    """What a layer is made of in Keras, each with the names of its weights; norms with the statistics they have."""
    if layer.kind == "pool":
        return [(keras.layers.MaxPooling2D(2, padding="same"), [])]
    if layer.kind == "mean":
        return [(keras.layers.GlobalAveragePooling2D(), [])]
    if layer.kind == "lstm":
        return [(keras.layers.LSTM(layer.shape[-1] // 4), ["kernel", "biases"])]
    if layer.kind == "dense":
        return [(keras.layers.Dense(layer.shape[-1], activation="relu"), ["weights", "biases"])]
    if layer.kind == "conv":
        return [(keras.layers.Conv2D(layer.shape[-1], 3, padding="same", activation="relu"), ["weights", "biases"])]
    convolution = keras.layers.Conv2D(layer.shape[-1], 3, padding="same", use_bias=False)
    return [(convolution, ["weights"]), (keras.layers.BatchNormalization(), list(NORM)), (keras.layers.ReLU(), [])]


def pipeline(task: Task) -> tuple[Any, int]:
    """The examples as `tf.data` has them, and the number of steps in an epoch.

    They are repeated, which helps the others: at its end a pipeline waits for the thread that tunes it, twice as long
    each time, and of so short an epoch that would be most.
    """
    import tensorflow as tf

    def read(path: Any, label: Any) -> Any:
        return tf.cast(tf.image.decode_jpeg(tf.io.read_file(path), 3), tf.float32) - tf.constant(MEAN), label

    given, labels = files(task.folder) if task.net.jpeg else arrays(task.folder)
    data = tf.data.Dataset.from_tensor_slices((given, labels)).shuffle(len(given), seed=0)
    if task.net.jpeg:
        data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return data.repeat().batch(task.net.batch).prefetch(tf.data.AUTOTUNE), -(-len(given) // task.net.batch)


def by_hand(task: Task) -> None:
    """A training loop in TensorFlow 2 as people write it: variables, a tape, one `tf.function`."""
    import tensorflow as tf

    values = {name: tf.Variable(value) for name, value in weights(task.folder).items()}
    head = [tf.Variable(tf.zeros([task.net.width, 2])), tf.Variable(tf.zeros([2]))]
    learning = [v for n, v in values.items() if task.learns(n)] + head

    def forward(h: Any) -> Any:
        for layer in task.net.layers:
            name, kind = layer.name, layer.kind
            if kind == "pool":
                h = tf.nn.max_pool2d(h, 2, 2, "SAME")
            elif kind == "mean":
                h = tf.reduce_mean(h, [1, 2])
            elif kind == "lstm":
                h = lstm(h, values[f"{name}/kernel"], values[f"{name}/biases"])
            elif kind == "dense":
                h = tf.reshape(h, [-1, layer.shape[0]])
                h = tf.nn.relu(tf.nn.bias_add(h @ values[f"{name}/weights"], values[f"{name}/biases"]))
            else:
                h = tf.nn.conv2d(h, values[f"{name}/weights"], 1, "SAME")
                if kind == "conv":
                    h = tf.nn.relu(tf.nn.bias_add(h, values[f"{name}/biases"]))
                else:
                    norm = [values[f"{name}/{part}"] for part in NORM]
                    h = tf.compat.v1.nn.fused_batch_norm(h, *norm, epsilon=1e-3, is_training=False)[0]
                    h = tf.nn.relu(h)
        return h @ head[0] + head[1]

    @tf.function
    def step(rows: Any, labels: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(learning)
            found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=forward(rows))
            loss = tf.reduce_mean(found)
        for variable, gradient in zip(learning, tape.gradient(loss, learning), strict=True):
            variable.assign_sub(RATE * gradient)
        return loss

    data, steps = pipeline(task)
    task.ready()
    for number, batch in enumerate(itertools.islice(data, task.epochs * steps)):
        float(step(*batch))
        task.step(number % steps)
        if number % steps == steps - 1:
            task.epoch(number // steps)


def pytorch(task: Task) -> None:
    """The tutorial of PyTorch: parameters without `requires_grad`, and a plain loop."""
    import torch
    from PIL import Image
    from torch import nn

    class LastState(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = nn.LSTM(task.net.example[-1], layer.shape[-1] // 4, batch_first=True)

        def forward(self, rows: Any) -> Any:
            return self.layer(rows)[1][0][0]

    modules: list[Any] = []
    values = weights(task.folder)
    for layer in task.net.layers:
        own, is_map = _torch_layers(layer, nn, LastState), layer.kind in ("conv", "normed")
        for parameter in (p for module in own for p in module.parameters()):
            parameter.requires_grad = task.learns(layer.name)
        if layer.kind in ("conv", "normed", "dense"):  # an LSTM's own are as fast
            with torch.no_grad():
                kernel = values.pop(f"{layer.name}/weights")
                # Rows of the first dense layer come in another order, which takes as long.
                own[0].weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1) if is_map else kernel.T))
                if layer.kind != "normed":
                    own[0].bias.copy_(torch.from_numpy(values.pop(f"{layer.name}/biases")))
        modules += [nn.Flatten()] * (layer.kind == "dense") + own
    model = nn.Sequential(*modules, nn.Linear(task.net.width, 2))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    given, labels = files(task.folder) if task.net.jpeg else arrays(task.folder)

    class Examples(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(given)

        def __getitem__(self, place: int) -> Any:
            if not task.net.jpeg:
                return torch.from_numpy(given[place].transpose(2, 0, 1).copy() if given.ndim == 4 else given[place]), (
                    int(labels[place])
                )
            pixels = np.asarray(Image.open(given[place]), np.float32) - np.float32(MEAN)
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(labels[place])

    task.ready()
    for epoch in range(task.epochs):
        loader = torch.utils.data.DataLoader(Examples(), task.net.batch, shuffle=True)
        for number, (rows, targets) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(rows), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss)
            task.step(number)
        task.epoch(epoch)


def _torch_layers(layer: Any, nn: Any, last_state: Any) -> list[Any]:
    if layer.kind == "pool":
        return [nn.MaxPool2d(2, ceil_mode=True)]
    if layer.kind == "mean":
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if layer.kind == "lstm":
        return [last_state(layer)]
    if layer.kind == "dense":
        return [nn.Linear(*layer.shape), nn.ReLU()]
    if layer.kind == "conv":
        return [nn.Conv2d(layer.shape[2], layer.shape[3], 3, padding=1), nn.ReLU()]
    return [
        nn.Conv2d(layer.shape[2], layer.shape[3], 3, padding=1, bias=False),
        nn.BatchNorm2d(layer.shape[3], eps=1e-3),
        nn.ReLU(),
    ]


CONTENDERS: dict[str, Callable[[Task], None]] = {
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
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--what", choices=LEARNS, default="frozen")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    net = (SMALL if args.small else NETS)[args.net]
    CONTENDERS[args.name](Task(args.folder, net, args.what, args.epochs, net.jpeg and args.what == "full"))


if __name__ == "__main__":
    main()
