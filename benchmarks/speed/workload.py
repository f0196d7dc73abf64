"""The work that all contenders are given: a VGG-16 with random weights as a pair, and JPEG images of two classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("cats", "dogs")
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 is a pooling
MEAN = (123.68, 116.779, 103.939)  # taken off each channel, as VGG's authors did


@dataclass(frozen=True)
class Net:
    """The network: the widths of its convolutions and of its two dense layers, and the side of its images."""

    convolutions: tuple[int, ...] = VGG16
    dense: int = 4096
    side: int = 224

    def layers(self) -> list[tuple[str, tuple[int, ...]]]:
        """The name of each layer and the shape of its kernel; a pooling has none."""
        found: list[tuple[str, tuple[int, ...]]] = []
        channels, block, number, side = 3, 1, 1, self.side
        for width in self.convolutions:
            if width:
                found.append((f"conv{block}_{number}", (3, 3, channels, width)))
                channels, number = width, number + 1
            else:
                found.append((f"pool{block}", ()))
                block, number, side = block + 1, 1, side // 2
        found.append(("fc6", (side * side * channels, self.dense)))
        found.append(("fc7", (self.dense, self.dense)))
        return found

    def operations(self) -> float:
        """Of one image on its way to fc7: two for each product of a weight and a value."""
        total, side = 0.0, self.side
        for name, shape in self.layers():
            side = side // 2 if name.startswith("pool") else side
            total += 2.0 * float(np.prod(shape)) * (side * side if name.startswith("conv") else 1) if shape else 0.0
        return total


SMALL = Net((8, 0, 16, 0, 16, 0), 32, 32)  # the same, to see that everything runs


def make(folder: Path, net: Net, images: int) -> None:
    """Writes FOLDER/pair and FOLDER/images, if they are not there."""
    if not (folder / "images").exists():
        _make_images(folder / "images.part", net.side, images)
        (folder / "images.part").rename(folder / "images")
    if not (folder / "pair").exists():
        _make_pair(folder / "pair.part", net)
        (folder / "pair.part").rename(folder / "pair")


def _make_images(folder: Path, side: int, images: int) -> None:
    import tensorflow as tf

    draw = np.random.default_rng(0)
    for number in range(images):
        # Smooth, as photographs are: noise would take longer to decode.
        coarse = draw.integers(0, 256, (8, 8, 3)).astype(np.float32)
        image = tf.cast(tf.image.resize(coarse, [side, side], "bicubic"), tf.uint8)
        place = folder / CLASSES[number % 2] / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tf.io.encode_jpeg(image, quality=90).numpy())


def _make_pair(folder: Path, net: Net) -> None:
    import tensorflow as tf

    tf1 = tf.compat.v1
    draw = np.random.default_rng(1)
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, net.side, net.side, 3], "images")
        keep = tf1.placeholder_with_default(tf.constant(1.0), [], "keep_prob")
        values: dict[Any, np.ndarray] = {}

        def variable(name: str, shape: tuple[int, ...], scale: float) -> Any:
            made = tf1.get_variable(name, shape, use_resource=False, initializer=tf1.zeros_initializer())
            values[made] = (draw.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)
            return made

        h: Any = x
        for name, shape in net.layers():
            if not shape:
                h = tf.nn.max_pool2d(h, 2, 2, "SAME", name=name)
                continue
            w = variable(f"{name}/weights", shape, (2 / np.prod(shape[:-1])) ** 0.5)
            b = variable(f"{name}/biases", shape[-1:], 0.0)
            if name.startswith("conv"):
                h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(h, w, 1, "SAME"), b), name=name)
            else:
                h = tf.reshape(h, [-1, shape[0]]) if name == "fc6" else h
                h = tf.nn.relu(tf1.nn.xw_plus_b(h, w, b), name=f"{name}/relu")
                h = tf1.nn.dropout(h, keep, name=f"{name}/dropout") if name == "fc6" else tf.identity(h, name)
        for made, value in values.items():
            made.load(value, session)
        folder.mkdir(parents=True)
        tf1.train.Saver().save(session, str(folder / "vgg"))


def files(folder: Path) -> tuple[list[str], np.ndarray]:
    """The images in one order, and their labels."""
    found = sorted((folder / "images").rglob("*.jpg"), key=lambda place: place.name)
    return [str(place) for place in found], np.array([CLASSES.index(place.parent.name) for place in found])


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The values of the pair, by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "pair" / "vgg"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
