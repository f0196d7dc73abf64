"""The same model, trained by Keras `fit` from the same weights as the same recipe says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.accuracy.sets import Split
from finetune.recipe import Recipe
from scripts.make_demo import CONV_WIDTHS, FC_WIDTH


@dataclass(frozen=True)
class Part:
    """So many steps, with the backbone frozen or not."""

    steps: int
    learning_rate: float
    frozen: bool


def parts(recipe: Recipe) -> list[Part]:
    """The phases of a recipe, or all of it."""
    train = recipe.train
    assert (train.optimizer, train.schedule, train.steps is None) == ("adam", "cosine", False)
    total, begun, found = int(train.steps or 0), 0, []
    for phase in recipe.phases:
        end = min(phase.until.step or total, total)
        rate = phase.learning_rate or train.learning_rate
        found.append(Part(end - begun, rate, bool(phase.stop_gradient)))
        begun = end
    return [part for part in found if part.steps] or [Part(total, train.learning_rate, bool(recipe.stop_gradient))]


def backbone(recipe: Recipe) -> Any:
    """The VGG up to fc7, flattened, with the pair's weights."""
    fed = recipe.source.feeds["keep_prob"]
    keep_prob = fed["train"] if isinstance(fed, Mapping) else fed
    layers = [keras.Input([28, 28, 1])]
    for block, width in enumerate(CONV_WIDTHS, start=1):
        layers += [_convolution(f"conv{block}", 3, width), keras.layers.MaxPool2D(2, 2, "same")]
    layers += [_convolution("fc6", 1, FC_WIDTH), keras.layers.Dropout(1 - keep_prob)]
    model = keras.Sequential([*layers, _convolution("fc7", 1, FC_WIDTH), keras.layers.Flatten()])
    saved = tf.train.load_checkpoint(recipe.source.path)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([saved.get_tensor(f"{layer.name}/{kind}") for kind in ("weights", "biases")])
    return model


def _convolution(name: str, size: int, width: int) -> Any:
    return keras.layers.Conv2D(width, size, padding="same", activation="relu", name=name)


def source_features(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """What a TensorFlow-1 session has at the cut of the whole pair: the truth that both sides are held to."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        prefix = str(tf.train.latest_checkpoint(recipe.source.path))
        v1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        feeds = {graph.get_tensor_by_name("images:0"): images, graph.get_tensor_by_name("keep_prob:0"): 1.0}
        return session.run(recipe.cut, feeds).reshape(len(images), -1)


def features_differ_by(recipe: Recipe, images: np.ndarray) -> float:
    """The largest |Δ| between features of the source and of the Keras model before training."""
    return float(np.abs(source_features(recipe, images) - backbone(recipe).predict(images, verbose=0)).max())


def fit(recipe: Recipe, split: Split) -> tuple[float, int, int]:
    """Held-out accuracy after the last step, how many numbers learn in the end, and the number of steps."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(recipe.run.seed)
    body = backbone(recipe)
    model = keras.Sequential([body, keras.layers.Dense(len(np.unique(split.labels)))])
    model.build([None, 28, 28, 1])
    done = 0
    for part in parts(recipe):
        body.trainable = not part.frozen
        if recipe.lora.match:
            _add_lora(body, recipe)
        rate = keras.optimizers.schedules.CosineDecay(part.learning_rate, part.steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        per_epoch = len(split.labels) // recipe.train.batch_size
        epochs, rest = divmod(part.steps, per_epoch)
        data = {"x": split.images, "y": split.labels, "batch_size": recipe.train.batch_size, "verbose": 0}
        if epochs:
            model.fit(**data, epochs=epochs)
        if rest:
            model.fit(**data, steps_per_epoch=rest)
        done += int(model.optimizer.iterations)
    said = model.predict(split.held_out_images, batch_size=500, verbose=0).argmax(axis=1)
    return (
        float((said == split.held_out_labels).mean()),
        sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        done,
    )


def _add_lora(body: Any, recipe: Recipe) -> None:
    """Leaves only the small matrices to learn; Keras itself would train the biases of these layers too."""
    for layer in body.layers:
        if any(re.fullmatch(pattern, f"{layer.name}/weights") for pattern in recipe.lora.match):
            layer.enable_lora(recipe.lora.rank, lora_alpha=recipe.lora.alpha)
            layer.bias.trainable = False
        else:
            layer.trainable = False
