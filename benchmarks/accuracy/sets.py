"""The two sets: few examples to train on, drawn anew for each seed, and many that are held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.make_demo import CLASSES, FILES, UNSEEN, read

TRAINING = 200  # examples, as many of each class


@dataclass(frozen=True)
class Split:
    """Images float32 [n, 28, 28, 1] in 0..1 and labels int64 [n], to train on and held out."""

    images: np.ndarray
    labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray


def garments(folder: Path, seed: int) -> Split:
    """Dresses and coats of Fashion-MNIST, which the source has not seen; all 2,000 of its test files are held out."""
    train, test = (_unseen(*read(folder, part)) for part in ("train", "t10k"))
    chosen = _drawn(train[1], seed)
    return Split(train[0][chosen], train[1][chosen], *test)


def digits(folder: Path, seed: int) -> Split:
    """scikit-learn's handwritten digits, 8×8, made 28×28 by linear interpolation; those not drawn are held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    places = np.linspace(0, 7, 28)[:, np.newaxis]
    weights = np.maximum(0, 1 - np.abs(places - np.arange(8)))
    images = (weights @ (images.reshape(-1, 8, 8) / 16) @ weights.T).astype(np.float32)[..., np.newaxis]
    chosen = _drawn(labels, seed)
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Split(images[chosen], labels[chosen], images[rest], labels[rest])


SETS: dict[str, Callable[[Path, int], Split]] = {"garments": garments, "digits": digits}


def missing(folder: Path) -> list[str]:
    """The files of Fashion-MNIST that a folder lacks."""
    return [name for name in FILES if not (folder / name).is_file()]


def _unseen(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    which = np.isin(labels, [CLASSES.index(name) for name in UNSEEN])
    names = np.array([UNSEEN.index(name) if name in UNSEEN else -1 for name in CLASSES])
    return images[which].astype(np.float32) / 255, names[labels[which]]


def _drawn(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of `TRAINING` examples in random order."""
    draw, classes = np.random.default_rng(seed), np.unique(labels)
    each = TRAINING // len(classes)
    return draw.permutation(
        np.concatenate([draw.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes])
    )
