"""The same in plain TensorFlow, as programs of TensorFlow 1 do it: a session, and a `Saver` every few steps.

    python -m benchmarks.torture.plain FOLDER [STEPS EVERY SECONDS]

Its examples are a function of the step, so that a run that goes on could end with the same bits. It keeps two
checkpoints, goes on from `tf.train.latest_checkpoint`, and writes nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


def main(folder: Path, steps: int = 8, every: int = 2, seconds: float = 0.0) -> None:
    """Trains, or goes on; a step takes so many `seconds` more than it would."""
    tf1.disable_eager_execution()
    tf1.set_random_seed(0)
    x, labels = tf1.placeholder(tf.float32, [None, 64]), tf1.placeholder(tf.int64, [None])
    hidden = tf.nn.relu(x @ tf1.get_variable("w", [64, 128]) + tf1.get_variable("b", [128]))
    logits = hidden @ tf1.get_variable("v", [128, 2])
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    made = tf1.train.get_or_create_global_step()
    train = tf1.train.AdamOptimizer(0.01).minimize(loss, global_step=made)
    saver, begin = tf1.train.Saver(max_to_keep=2), tf1.global_variables_initializer()
    folder.mkdir(parents=True, exist_ok=True)
    with tf1.Session() as session:
        if newest := tf.train.latest_checkpoint(str(folder)):
            saver.restore(session, newest)
            known = tf.train.get_checkpoint_state(str(folder))  # of which it deletes those that are too many
            saver.recover_last_checkpoints(known.all_model_checkpoint_paths)
            print(f"goes on after step {session.run(made)}", flush=True)
        else:
            session.run(begin)
            print("begins at step 0", flush=True)
        for step in range(session.run(made), steps):
            draw = np.random.default_rng(step)
            session.run(train, {x: draw.normal(size=(16, 64)), labels: draw.integers(0, 2, 16)})
            time.sleep(seconds)
            if (step + 1) % every == 0:
                saver.save(session, str(folder / "model"), global_step=made)
                print(f"saved step {step + 1}", flush=True)


if __name__ == "__main__":
    place, *how = sys.argv[1:]
    main(Path(place), *[int(word) for word in how[:2]], *[float(word) for word in how[2:]])
