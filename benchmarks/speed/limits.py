"""What the machine can do at most: multiply matrices, move memory, decode images.

python -m benchmarks.speed.limits FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.speed.workload import files


def best(work: Callable[[], Any], times: int = 5) -> float:
    """The shortest of several times, in seconds."""
    work()
    found = []
    for _ in range(times):
        began = time.monotonic()
        work()
        found.append(time.monotonic() - began)
    return min(found)


def main() -> None:
    import tensorflow as tf

    side = 2048
    a = tf.random.normal([side, side])
    product = tf.function(lambda: tf.reduce_sum(a @ a))
    block = np.ones(2**28, np.uint8)
    contents = [Path(path).read_bytes() for path in files(Path(sys.argv[1]))[0]]

    def decode() -> None:
        data = tf.data.Dataset.from_tensor_slices(contents)
        for _ in data.map(lambda c: tf.image.decode_jpeg(c, 3), num_parallel_calls=tf.data.AUTOTUNE):
            pass

    found = {
        "gflops": 2 * side**3 / best(lambda: product().numpy()) / 1e9,
        "gigabytes": 2 * block.nbytes / best(lambda: block.copy()) / 1e9,
        "images": len(contents) / best(decode),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
