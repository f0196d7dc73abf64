"""The work that all contenders are given: networks with random weights as pairs, and examples of two classes.

python -m benchmarks.speed.workload FOLDER NET EXAMPLES [--small]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import write_pair

CLASSES = ("cats", "dogs")
MEAN = (123.68, 116.779, 103.939)  # taken off each channel, as VGG's authors did


@dataclass(frozen=True)
class Layer:
    """A layer, with the shape of its kernel.

    Kinds: `conv`, 3 × 3 with biases and relu; `normed`, the same with batch normalisation for biases; `pool`, the
    largest of 2 × 2; `mean`, over the map; `dense`, with biases and relu; `lstm`, whose last state counts.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Net:
    """A network: the shape of an example, its layers, and how many examples a batch has."""

    example: tuple[int, ...]
    layers: tuple[Layer, ...]
    batch: int
    jpeg: bool = False  # the examples are JPEG files, and not arrays

    @property
    def width(self) -> int:
        """Of the features."""
        last = self.layers[-1].shape or next(layer.shape for layer in reversed(self.layers) if layer.shape)
        return last[-1] // 4 if self.layers[-1].kind == "lstm" else last[-1]

    def operations(self) -> float:
        """Of one example on its way to the features: two for each product of a weight and a value."""
        total, places = 0.0, int(np.prod(self.example[:-1]))
        for layer in self.layers:
            if layer.kind == "pool":
                side = -(-round(places**0.5) // 2)
                places = side * side
            elif layer.kind in ("mean", "dense"):
                places = 1
            total += 2.0 * float(np.prod(layer.shape)) * places if layer.shape else 0.0
        return total


def maps(example: tuple[int, int, int], blocks: str, kind: str = "conv") -> list[Layer]:
    """Convolutions of these widths, a slash being a pooling: "64 64 / 128"."""
    found: list[Layer] = []
    channels, block, number = example[-1], 1, 1
    for word in blocks.split():
        if word == "/":
            found.append(Layer(f"pool{block}", "pool"))
            block, number = block + 1, 1
        else:
            found.append(Layer(f"conv{block}_{number}", kind, (3, 3, channels, int(word))))
            channels, number = int(word), number + 1
    return found


def vgg(example: tuple[int, int, int], blocks: str, dense: int, batch: int, jpeg: bool = False) -> Net:
    """Convolutions and two dense layers (Simonyan and Zisserman 2015)."""
    layers = maps(example, blocks)
    side = example[0]
    for _ in range(blocks.count("/")):
        side = -(-side // 2)
    last = next(layer.shape[-1] for layer in reversed(layers) if layer.shape)
    layers += [Layer("fc6", "dense", (side * side * last, dense)), Layer("fc7", "dense", (dense, dense))]
    return Net(example, tuple(layers), batch, jpeg)


VGG_16 = "64 64 / 128 128 / 256 256 256 / 512 512 512 / 512 512 512 /"
NETS = {
    "vgg16": vgg((224, 224, 3), VGG_16, 4096, 16, jpeg=True),
    "demo": vgg((28, 28, 1), "16 / 32 / 48 / 64 / 128 /", 256, 32),  # as large as the VGG that comes with finetune
    "norms": Net((32, 32, 3), (*maps((32, 32, 3), "32 32 / 64 64 / 128 128", "normed"), Layer("mean", "mean")), 32),
    "lstm": Net((24, 32), (Layer("lstm", "lstm", (32 + 128, 4 * 128)),), 32),
}
EXAMPLES = 2560  # of the nets whose examples are arrays
SMALL_EXAMPLES = 96
SMALL = {  # the same, to see that everything runs
    "vgg16": vgg((32, 32, 3), "8 / 16 / 16 /", 32, 16, jpeg=True),
    "demo": vgg((28, 28, 1), "4 / 4 /", 8, 32),
    "norms": Net((8, 8, 3), (*maps((8, 8, 3), "4 / 4", "normed"), Layer("mean", "mean")), 32),
    "lstm": Net((5, 4), (Layer("lstm", "lstm", (4 + 8, 4 * 8)),), 32),
}


def make(folder: Path, net: Net, examples: int) -> None:
    """Writes FOLDER/model, the pair, and the examples, FOLDER/images or FOLDER/arrays, if they are not there."""
    if (folder / "arrays").exists() and len(arrays(folder)[1]) != examples:  # another number was asked for before
        for made in ("images", "arrays"):
            shutil.rmtree(folder / made, ignore_errors=True)
    if net.jpeg and not (folder / "images").exists():
        _make_images(folder / "images.part", net.example[0], examples)
        (folder / "images.part").rename(folder / "images")
    if not (folder / "arrays").exists():
        _make_arrays(folder, net, examples)
    if not (folder / "model").exists():
        write_pair(folder / "model", lambda variable: _build(net, variable))


def _make_images(folder: Path, side: int, count: int) -> None:
    import tensorflow as tf

    draw = np.random.default_rng(0)
    for number in range(count):
        # Smooth, as photographs are: noise would take longer to decode.
        coarse = draw.integers(0, 256, (8, 8, 3)).astype(np.float32)
        image = tf.cast(tf.image.resize(coarse, [side, side], "bicubic"), tf.uint8)
        place = folder / CLASSES[number % 2] / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tf.io.encode_jpeg(image, quality=90).numpy())


def _make_arrays(folder: Path, net: Net, count: int) -> None:
    """Numbers; of JPEG files what they are decoded to, for a run that need not decode."""
    if net.jpeg:
        import tensorflow as tf

        paths, labels = files(folder)
        images = np.stack([tf.image.decode_jpeg(Path(path).read_bytes(), 3).numpy() for path in paths])
        rows = images.astype(np.float32) - np.float32(MEAN)
    else:
        rows = np.random.default_rng(0).standard_normal((count, *net.example), np.float32)
        labels = np.arange(count) % len(CLASSES)
    place = folder / "arrays.part"
    place.mkdir(parents=True)
    np.save(place / "x.npy", rows)
    np.save(place / "labels.npy", labels)
    place.rename(folder / "arrays")


def _build(net: Net, variable: Callable[..., Any]) -> None:
    import tensorflow as tf

    tf1 = tf.compat.v1
    h: Any = tf1.placeholder(tf.float32, [None, *net.example], "x")
    keep = tf1.placeholder_with_default(tf.constant(1.0), [], "keep_prob")
    for layer in net.layers:
        name, shape, gain = layer.name, layer.shape, 2**0.5
        if layer.kind == "pool":
            h = tf.nn.max_pool2d(h, 2, 2, "SAME", name=name)
        elif layer.kind == "mean":
            h = tf.reduce_mean(h, [1, 2], name=name)
        elif layer.kind == "lstm":
            h = lstm(h, variable(f"{name}/kernel", shape), variable(f"{name}/biases", shape[-1:], 0.0))
        elif layer.kind == "normed":
            h = tf.nn.conv2d(h, variable(f"{name}/weights", shape, gain), 1, "SAME")
            given = [variable(f"{name}/{p}", shape[-1:], value, learns) for p, (value, learns) in NORM.items()]
            h = tf.nn.relu(tf1.nn.fused_batch_norm(h, *given, epsilon=1e-3, is_training=False)[0], name=name)
        elif layer.kind == "conv":
            w, b = variable(f"{name}/weights", shape, gain), variable(f"{name}/biases", shape[-1:], 0.0)
            h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(h, w, 1, "SAME"), b), name=name)
        else:
            h = tf.nn.dropout(h, rate=1 - keep) if name == "fc7" else tf.reshape(h, [-1, shape[0]])
            w, b = variable(f"{name}/weights", shape, gain), variable(f"{name}/biases", shape[-1:], 0.0)
            h = tf.nn.relu(tf1.nn.xw_plus_b(h, w, b), name=name)
    tf.identity(h, "features")


# The parts of a norm: with what they are filled, and whether they may learn; the statistics stay as they are.
NORM = {"scale": (1.0, True), "offset": (0.0, True), "mean": (0.0, False), "variance": (1.0, False)}


def lstm(inputs: Any, kernel: Any, bias: Any) -> Any:
    """The last state over [n, time, width] (Hochreiter and Schmidhuber 1997), in a loop, as graphs of TF 1 have it."""
    import tensorflow as tf

    steps = tf.TensorArray(tf.float32, inputs.shape[1]).unstack(tf.transpose(inputs, [1, 0, 2]))
    zeros = tf.zeros([tf.shape(inputs)[0], kernel.shape[1] // 4])

    def step(time: Any, memory: Any, state: Any) -> tuple[Any, Any, Any]:
        gates = tf.nn.bias_add(tf.concat([steps.read(time), state], 1) @ kernel, bias)
        take, keep, new, give = tf.split(gates, 4, axis=1)
        memory = tf.sigmoid(keep) * memory + tf.sigmoid(take) * tf.tanh(new)
        return time + 1, memory, tf.sigmoid(give) * tf.tanh(memory)

    return tf.while_loop(lambda time, *_: time < inputs.shape[1], step, (0, zeros, zeros))[2]


def files(folder: Path) -> tuple[list[str], np.ndarray]:
    """The images in one order, and their labels."""
    found = sorted((folder / "images").rglob("*.jpg"), key=lambda place: place.name)
    return [str(place) for place in found], np.array([CLASSES.index(place.parent.name) for place in found])


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The examples that are numbers, and their labels."""
    return np.load(folder / "arrays" / "x.npy"), np.load(folder / "arrays" / "labels.npy")


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The values of the pair, by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "model" / "model"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("examples", type=int)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    make(args.folder, (SMALL if args.small else NETS)[args.net], args.examples)
