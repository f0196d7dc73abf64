"""One export: written aside, compared with the pair in a process of its own, and only then synced into place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.errors import UserError
from finetune.exports import frozen_pb, onnx, savedmodel, tflite
from finetune.exports.parity import difference, probe
from finetune.exports.serving import Serving, read_serving
from finetune.results import checkpoints, export
from finetune.results.card import CARD, Card
from finetune.start import without_chatter

WRITERS = {"savedmodel": savedmodel.write, "frozen": frozen_pb.write, "tflite": tflite.write, "onnx": onnx.write}
# The most that a probability may be off. The first two hold the same ops as the pair, the others have kernels of
# their own, which add up in another order.
TOLERANCES = {"pair": 0.0, "savedmodel": 1e-6, "frozen": 1e-6, "tflite": 1e-4, "onnx": 1e-4}
BATCHES_OF_ONE = ("tflite",)
_SAID = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)]


def convert(model: Path, card: Card, to: str, place: Path) -> list[str]:
    """Writes the folder `place`; gives the lines that say what is in it.

    Raises:
      UserError: the model does not fit the format, or would compute something else there; then nothing is left.
    """
    serving = read_serving(model, card)
    aside = checkpoints.aside_of(place)
    try:
        with _storage(place):
            export.mend(place)
            checkpoints.tidy(place.parent, place.name)
            aside.parent.mkdir(parents=True, exist_ok=True)
            described = _written(serving, model, to, aside)
        examples = probe(serving, fixed_size=to in BATCHES_OF_ONE)
        off, count = difference(serving, examples, model, aside, to, described)
        if not off <= TOLERANCES[to]:
            what = f"the exported model is off by {off:.2g} on {count} examples, {TOLERANCES[to]:g} is the most"
            raise UserError("numerics", f"--to {to}", what, "nothing is left of it; please report this")
        with _storage(place):
            checkpoints.sync_all(aside)
            export.take_place(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [
        *_told(described, card, place),
        f"parity: max |Δ| {off:.2g} on {count} examples, in a process without finetune",
    ]


@contextmanager
def _storage(place: Path) -> Iterator[None]:
    """Says of what the disk does not take that this is so; other errors of TensorFlow are no matter of the disk."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError) and not any(said in error.message for said in _SAID):
            raise
        refused = checkpoints.cannot_be_written(place, error)
        raise UserError("storage", refused.where, refused.what, "free some space, or write elsewhere: --out") from error


def _written(serving: Serving, model: Path, to: str, folder: Path) -> dict[str, Any]:
    """What is said of the export, which then lies in `folder`."""
    if to == "pair":
        shutil.copytree(model, folder)
        return {"format": to}
    if to != "savedmodel":  # whose builder makes its own folder
        folder.mkdir()
    with without_chatter():
        described = {"format": to, **WRITERS[to](serving, folder), **_meaning(serving.card)}
    beside = folder / savedmodel.BESIDE if to == "savedmodel" else folder
    beside.mkdir(exist_ok=True)
    (beside / CARD).write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for labels in sorted(model.glob("labels*.txt")):
        shutil.copy(labels, beside / labels.name)
    return described


def _meaning(card: Card) -> dict[str, Any]:
    """What no program can see in the graph: which images it takes, and which class an output stands for."""
    images = {} if card.images is None else {"images": f"0 to 255; {_inside(card)}"}
    return {**images, "heads": {name: {"loss": h.loss, "classes": list(h.classes)} for name, h in card.heads.items()}}


def _inside(card: Card) -> str:
    how = card.images
    assert how is not None
    middle = "" if how.crop is None else f"cut to {how.crop:.3g} of their sides, "
    return f"{middle}resized to {how.size[0]}×{how.size[1]} and scaled ('{how.preprocess}') inside"


def _told(described: Mapping[str, Any], card: Card, place: Path) -> list[str]:
    lines = [f"{described['format']}: {place / described.get('file', '')}"]
    for end in ("inputs", "outputs"):
        for name, about in described.get(end, {}).items():
            shape = about["shape"]
            sizes = "unknown shape" if shape is None else "×".join("?" if n is None else str(n) for n in shape)
            why = f"  {described['images']}" if end == "inputs" and card.images else ""
            lines.append(f"{end[:-1]}: {name}  {about['dtype']}  {sizes}{why}")
    if "serving_bytes" in described.get("signatures", ()):
        lines.append("input: image_bytes  string  ?  PNG, JPEG, GIF or BMP, in the signature serving_bytes")
    if "run_first" in described:
        lines.append(f"tables: run {described['run_first']} once before anything else, it fills the lookup tables")
    if "select_tf_ops" in described:
        lines.append(f"needs: the extension 'select TensorFlow ops', for {', '.join(described['select_tf_ops'])}")
    return lines
