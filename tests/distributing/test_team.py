"""A team of one is nobody else; several replicas give the mean of what each makes of its rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from finetune.distributing.team import ALONE, LEAVE
from finetune.examples.batches import training_batches
from finetune.examples.data import from_arrays

REPLICAS = """
import numpy as np
import tensorflow as tf

from finetune.distributing.team import LEAVE, SAVE, Team

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
team = Team(strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
assert (team.replicas, team.workers, team.share) == (2, 1, (0, 1))


def program(arguments):
    rows = arguments["input/x"]
    return {
        "loss": tf.reduce_mean(rows) + arguments["variable/w"],
        "gradient/w": tf.reduce_sum(tf.random.stateless_uniform([1], arguments["seed"])),
        "rows": tf.shape(rows)[0],
    }


given = {"input/x": tf.constant([[1.0], [2.0], [3.0], [6.0]]), "variable/w": tf.Variable(1.0), "seed": (1, 2)}
across = team.across(program)
for step in (lambda: across(given), tf.function(lambda: across(given), autograph=False)):
    found = step()
    assert float(found["loss"]) == 4.0, found
    assert int(found["rows"]) == 2
each = [tf.random.stateless_uniform([1], tf.random.experimental.stateless_fold_in((1, 2), n))[0] for n in (0, 1)]
np.testing.assert_allclose(float(found["gradient/w"]), np.mean(each), rtol=1e-6)

assert not team.wish(SAVE, True)  # it is agreed on by the next step
across(given)
assert team.wish(SAVE, True)
assert not team.wish(LEAVE, False)
across(given)
assert not team.wish(SAVE, False)
assert team.told(lambda: 3) == 3
print("all is well")
"""


def test_replicas_share_the_rows_and_give_means():
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip() == "all is well", done.stderr


def test_alone_nothing_is_asked_of_anybody():
    def program(arguments):
        return arguments

    assert ALONE.across(program) is program
    assert ALONE.is_chief
    assert ALONE.wish(LEAVE, True)
    assert not ALONE.wish(LEAVE, False)
    assert ALONE.gathered({"a": 1}) == [{"a": 1}]
    assert ALONE.lost(ValueError("is down")) == ""


@pytest.mark.parametrize("ends", [None, [2, 5]])
def test_the_shares_of_all_workers_are_the_batch(ends: list[int] | None):
    examples = from_arrays({"x": np.arange(40)}, {"label": np.arange(40) % 2}, "rows")

    def load(index):
        return {"x": index}

    whole = list(training_batches(examples, load, 0, 5, 8, 3, ends=ends))
    shares = [list(training_batches(examples, load, 0, 5, 8, 3, ends=ends, share=(n, 2))) for n in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        steps = len(batch[2]) // 8
        both = [np.reshape(part[2], [steps, 4]) for part in (first, second)]
        assert np.concatenate(both, 1).ravel().tolist() == batch[2].numpy().tolist()
