"""Whether an exported model computes what the pair computes, found out by a process that knows neither of us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError, shortlist
from finetune.examples import preprocess
from finetune.examples.synthetic import random_rows
from finetune.exports.serving import IMAGES, Serving

COUNT = 8  # examples; where the pair takes a fixed number at once, so many
SCRIPT = Path(__file__).with_name("reload.py")


@dataclass(frozen=True)
class Probe:
    """Examples as people feed them, by name, and as the pair takes them, by tensor."""

    raw: Mapping[str, np.ndarray]
    prepared: Mapping[str, np.ndarray]


def probe(serving: Serving, fixed_size: bool) -> Probe:
    """Examples drawn from what the inputs take; images of another size than the pair's, unless that is fixed.

    They are drawn and not real: the data of a run need not be there any more, and a copy of it has no place in a model.
    """
    count = serving.batch_size or COUNT
    how, source = serving.card.images, serving.source
    if how is None:
        drawn = random_rows(source, np.random.default_rng(0))
        raw = {field: np.resize(rows, (count, *rows.shape[1:])) for field, rows in drawn.items()}
        return Probe(raw, {source.inputs[field]: rows for field, rows in raw.items()})
    size = how.size if fixed_size else tuple(n + n // 4 + 1 for n in how.size)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, how.channels))
    images = pixels.astype(np.float32)
    ((tensor, (dtype, _)),) = ((source.inputs[f], kind) for f, kind in serving.kinds.items())
    words = how.size, how.preprocess, tf.as_dtype(dtype), how.crop
    each = [preprocess.prepare(tf.constant(i), *words).numpy() for i in images]
    return Probe({IMAGES: images}, {tensor: np.stack(each)})


def difference(
    serving: Serving, examples: Probe, model: Path, folder: Path, to: str, card: Mapping[str, Any]
) -> tuple[float, int]:
    """(largest difference of what the heads give, number of examples).

    Args:
      model: the folder of the pair.
      folder: that of the exported model, `to` its format, `card` what is said of it.

    Raises:
      UserError: the exported model cannot be loaded or run, or the pair does not even agree with itself.
    """
    outputs = {n: t for n, t in serving.outputs.items() if n.rpartition("/")[2] != "logits"}
    count = len(next(iter(examples.prepared.values())))
    with tempfile.TemporaryDirectory() as aside:
        stored = {f"raw/{name}": rows for name, rows in examples.raw.items()}
        stored |= {f"prepared/{tensor}": rows for tensor, rows in examples.prepared.items()}
        texts = {name: rows.astype("S") if rows.dtype == object else rows for name, rows in stored.items()}
        file = Path(aside) / "examples.npz"
        np.savez(file, **texts)  # pyright: ignore[reportArgumentType]
        job = {
            "examples": str(file),
            "model": str(model.absolute()),
            "folder": str(folder.absolute()),
            "format": to,
            "card": card,
            "outputs": outputs,
            "portion": serving.batch_size,
        }
        answer = _asked(job, aside)
    if "error" in answer:
        raise _unusable(to, card, " ".join(str(answer["error"]).split()))
    if not answer["steady"]:
        what = "the pair gives other numbers each time it is run: it draws at random, as dropout without a switch does"
        raise UserError("source", str(model), what, "train with source.dropout=false, then export")
    return max(answer["off"].values(), default=0.0), count


def _unusable(to: str, card: Mapping[str, Any], reason: str) -> UserError:
    what = f"the exported model does not run, so nothing is left of it: {reason[:200]}"
    if "select_tf_ops" in card:
        lacking = shortlist(card["select_tf_ops"])
        what = f"TensorFlow Lite has no {lacking}, and its extension 'select TensorFlow ops' does not run them here"
    return UserError("source", f"--to {to}", what, "another format may take this model, onnx or savedmodel")


def _asked(job: Mapping[str, Any], folder: str) -> dict[str, Any]:
    # On the processor alone: there the same arithmetic gives the same bits.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    # The text and not the file: beside the file lie rooms with names of packages.
    command = [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8")]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
        return {"error": f"the process that loads it ended with status {done.returncode}: {last}"}
