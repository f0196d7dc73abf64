"""What an example looks like to people: a small picture of it, or its values in a few words."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.examples import preprocess
from finetune.examples.data import Examples
from finetune.examples.fields import as_rows

SIDE = 112  # pixels of the longer side, at most
_LEAST = 8  # pixels of the shorter side of what counts as an image
_VALUES = 12  # of one field, in words
_LETTERS = 160
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")  # what such files begin with


def glimpses(examples: Examples, places: Sequence[int]) -> dict[int, dict[str, str]]:
    """Some examples by their places, each {"image": a data URI} or {"text": words}; nothing of what cannot be read."""
    found = {}
    for place in places:
        if examples.arrays is None:
            shown = _file(examples.sources[place])
        else:
            rows = {name: as_rows(field).read(np.array([place]))[0] for name, field in examples.arrays.items()}
            shown = next((image for row in rows.values() if (image := _image(row))), None) or {"text": _words(rows)}
        if shown:
            found[place] = shown
    return found


def _image(row: Any) -> dict[str, str] | None:
    """A row as a picture, if its shape or its bytes are those of one."""
    if isinstance(row, bytes):
        return _encoded(row) if row.startswith(_PICTURES) else None
    array = np.asarray(row)
    if array.dtype.kind not in "uifb" or array.ndim not in (2, 3) or min(array.shape[:2]) < _LEAST:
        return None
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        return None
    return _picture(_eight_bits(array.reshape(*array.shape[:2], -1)[..., :3]))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Values as those of pixels: as they are, from 0 to 1, or stretched from the least to the largest."""
    if array.dtype == np.uint8:
        return array
    values = np.nan_to_num(array.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        values = (values - low) / ((high - low) or 1.0)
    elif high > 1:
        values = values / 255.0
    return np.round(values * 255).astype(np.uint8)


def _file(name: str) -> dict[str, str] | None:
    try:
        return _encoded(tf.io.read_file(name).numpy())
    except tf.errors.OpError:  # it has gone since it was evaluated
        return None


def _encoded(content: bytes) -> dict[str, str] | None:
    try:
        return _picture(preprocess.decode(tf.constant(content), 3).numpy())
    except tf.errors.OpError:
        return None


def _picture(image: np.ndarray) -> dict[str, str]:
    """A small image keeps its pixels, for it is what the model has to work with; a large one is made small."""
    if max(image.shape[:2]) <= SIDE:
        return _uri("png", tf.io.encode_png(image).numpy())
    share = SIDE / max(image.shape[:2])
    size = [max(1, round(side * share)) for side in image.shape[:2]]
    smaller = tf.image.resize(image, size, tf.image.ResizeMethod.AREA)
    return _uri("jpeg", tf.io.encode_jpeg(tf.cast(tf.round(smaller), tf.uint8), quality=88).numpy())


def _uri(kind: str, content: bytes) -> dict[str, str]:
    return {"image": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}


def _words(rows: dict[str, Any]) -> str:
    said = [_told(row) if len(rows) == 1 else f"{name}: {_told(row)}" for name, row in rows.items()]
    text = "; ".join(said)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _told(row: Any) -> str:
    values = np.asarray(row).ravel().tolist()
    shown = [f"{v:.4g}" if isinstance(v, float) else _text(v) for v in values[:_VALUES]]
    return " ".join(shown) + (f" … ({len(values)} values)" if len(values) > _VALUES else "")


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
