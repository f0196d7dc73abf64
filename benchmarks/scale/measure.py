"""One thing measured, in a process of its own so that its memory is known.

    python -m benchmarks.scale.measure WHAT '{"name": value, …}'

prints what was found as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.caching.key import key_of
from finetune.caching.store import Layout, open_store
from finetune.examples import duplicates, scanning
from finetune.examples.data import Examples, hold_out
from finetune.examples.fields import Rows
from finetune.examples.record_index import Keeping
from finetune.examples.tasks import make_task, with_targets
from finetune.examples.tfrecords import read_records
from finetune.graph import Graph
from finetune.recipe import Data, Head
from finetune.surgery.backbone import Backbone

HELD_OUT = 0.2


def read(data: str, index: str, worker: int = 0, workers: int = 1) -> Examples:
    """The examples of some shards, with an index that is kept."""
    keeping = Keeping(Path(index), 1e15, worker, workers)
    return read_records(data, {"x": []}, ["labels"], [], "data.path", keeping)


def index(**words: Any) -> dict[str, float]:
    """The reading of shards where there is no index, and how many of them this process read."""
    read_here, scan = [], scanning.scan

    def counted(path: str, *more: Any) -> scanning.Found:
        read_here.append(path)
        return scan(path, *more)

    scanning.scan = counted
    seconds, examples = timed(lambda: read(**words))
    return {"seconds": seconds, "examples": len(examples), "shards": len(read_here)}


def start(data: str, index: str) -> dict[str, float]:
    """All that a later start does with the examples before TensorFlow, and with their digests after it; memory too."""
    before = resident()
    reading, examples = timed(lambda: read(data, index))
    count = len(examples)
    splitting, (training, held_out) = timed(partial(_sides, examples))
    del examples
    digests, _ = timed(lambda: (training.digest(), held_out.digest()))
    alike, _ = timed(lambda: duplicates.warnings(training, held_out, ["labels"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    keys, _ = timed(lambda: [_key(side) for side in (training, held_out)])
    memory = {"resident": resident() - before, "peak": peak}
    told = {"reading": reading, "splitting": splitting, "digests": digests, "alike": alike, "keys": keys}
    return {"examples": count, **told, **memory}


def _sides(examples: Examples) -> tuple[Examples, Examples]:
    task = make_task("head", Head(), "cut:0", "labels", examples)
    return hold_out(with_targets(examples, [task]), HELD_OUT)


def _key(examples: Examples) -> str:
    return key_of(Backbone(Graph({}), {}, {}), {}, {}, Data(preprocess="none"), examples.hashes, {})


def rows(data: str, index: str, count: int, batch: int) -> dict[str, float]:
    """The reading of rows from anywhere in the shards, batch by batch."""
    found = (read(data, index).arrays or {})["x"]
    assert isinstance(found, Rows)
    draw = np.random.default_rng(0)
    places = draw.integers(0, len(found), count).reshape(-1, batch)
    seconds, _ = timed(lambda: [found.read(part) for part in places])
    return {"seconds": seconds, "rows": places.size}


def order(examples: int, batch: int, steps: int) -> dict[str, float]:
    """Which examples a step takes, of a data set of any size."""
    import tensorflow as tf

    from finetune.examples.batches import order as ordered

    compute = tf.function(lambda step: ordered(step, batch, examples, 7), autograph=False)
    compute(tf.constant(0, tf.int64))
    numbers = [tf.constant(step * 1000, tf.int64) for step in range(1, steps + 1)]
    seconds, _ = timed(lambda: [compute(step).numpy() for step in numbers])
    return {"seconds": seconds, "steps": steps}


def store(folder: str, rows: int, width: int) -> dict[str, float]:
    """Rows of floats written into a store and synced, and read back in any order."""
    layout = Layout(rows, 32, {"x": (width,)}, {"x": np.dtype(np.float32)})
    opened = open_store(Path(folder), "scale", layout, {}, 1e15)
    content = np.random.default_rng(0).standard_normal((32, width), np.float32)

    def write() -> None:
        for chunk in opened.claimed():
            opened.write(chunk, {"x": content})
        opened.sync()

    writing, _ = timed(write)
    places = np.random.default_rng(1).integers(0, rows, (100, 32))
    kept = opened.arrays()["x"]
    reading, _ = timed(lambda: [np.asarray(kept[part]) for part in places])
    opened.close()
    return {"writing": writing, "bytes": layout.bytes, "reading": reading, "rows_read": places.size}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it gives)."""
    began = time.monotonic()
    found = work()
    return time.monotonic() - began, found


def resident() -> int:
    """The bytes of memory that this process has now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


WHAT: dict[str, Callable[..., dict[str, float]]] = {one.__name__: one for one in (index, start, rows, order, store)}

if __name__ == "__main__":
    print(json.dumps(WHAT[sys.argv[1]](**json.loads(sys.argv[2]))))
