"""The workers of a run: each computes its share of a batch, and all of them make the same step.

A model is a pure function of variables and examples, so this is all there is to it: the function of a whole batch is
the mean of the functions of its parts. Variables and optimizers are those of one worker, in each of them; as what
changes them has the same bits in all, they stay the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.distributing.cluster import Cluster
from finetune.errors import UserError
from finetune.interruption import Interrupted
from finetune.learning.accumulation import ROWS

Program = Callable[[Mapping[str, Any]], Mapping[str, Any]]

LEAVE, SAVE = 0, 1  # what one worker may wish for, and then all do
_WISHES = 2


class Team:
    """All who train together, as seen by one of them; by itself it is a team of one.

    Args:
      cluster: the workers; None for this one alone.
      strategy: what TensorFlow computes with on all their devices; None for one device of one worker.
    """

    def __init__(self, cluster: Cluster | None = None, strategy: Any = None):
        self.cluster, self._strategy = cluster, strategy
        self.workers = len(cluster.workers) if cluster else 1
        self.index = cluster.index if cluster else 0
        self.replicas = strategy.num_replicas_in_sync if strategy is not None else 1
        self._local = self.replicas // self.workers
        self._sums: dict[Any, Any] = {}
        if strategy is not None:
            self._wished = tf.Variable(tf.zeros([_WISHES]), trainable=False)
            self._agreed = tf.Variable(tf.zeros([_WISHES]), trainable=False)

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes."""
        return self.index == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of each batch this worker reads, and of how many."""
        return self.index, self.workers

    def across(self, program: Program) -> Program:
        """A program that takes the rows of this worker, and gives what `program` would of the rows of all.

        What it gives in floats are means; each replica draws its own random numbers. What any worker wishes is agreed
        on by the way.
        """
        if self.replicas == 1:
            return program
        strategy = self._strategy

        def of_a_replica(arguments: Mapping[str, Any], wished: Any) -> dict[str, Any]:
            context = tf.distribute.get_replica_context()
            number = tf.cast(context.replica_id_in_sync_group, tf.int32)
            place = number - self.index * self._local
            mine = dict(arguments)
            for name, rows in arguments.items():
                if name.startswith(ROWS):
                    size = tf.shape(rows)[0] // self._local
                    mine[name] = rows[place * size : (place + 1) * size]
            mine["seed"] = tf.random.experimental.stateless_fold_in(arguments["seed"], number)
            outputs = program(mine)
            # Each is made here, for a reduction asks for a device.
            floats = {name: tf.identity(tensor) for name, tensor in outputs.items() if tensor.dtype.is_floating}
            return {**outputs, **context.all_reduce("MEAN", {**floats, _WISHED: tf.identity(wished)})}

        @tf.function(autograph=False, reduce_retracing=True)
        def together(arguments: Mapping[str, Any]) -> dict[str, Any]:
            each = strategy.run(of_a_replica, (dict(arguments), self._wished.read_value()))
            found = {name: strategy.experimental_local_results(values)[0] for name, values in each.items()}
            self._agreed.assign(found.pop(_WISHED))
            return found

        return together

    def wish(self, what: int, wished: bool) -> bool:
        """Whether all are to do something at this step, since one of them has wished for it before this step."""
        if self.replicas == 1:
            return wished
        is_agreed = bool(self._agreed.numpy()[what] > 0)
        self._wished.scatter_nd_update([[what]], [float(wished and not is_agreed)])
        return is_agreed

    def told(self, compute: Callable[[], Any]) -> Any:
        """What the chief computes, or why it does not; the others wait for it. It has to be of what JSON can hold.

        Raises:
          Interrupted: the chief was asked to end, or a worker no longer answers.
          UserError: the chief's.
        """
        if self.workers == 1:
            return compute()
        message: dict[str, Any] = {}
        failure: BaseException | None = None
        if self.is_chief:
            try:
                message = {"found": compute()}
            except Interrupted as by:
                message, failure = {"interrupted": str(by)}, by
            except UserError as error:
                message = {"error": [error.code, error.where, error.what, error.todo, *error.more]}
                failure = error
        text = json.dumps(message).encode() if self.is_chief else b""
        size = int(self._sum(np.array([len(text)], np.int32))[0])
        room = 1 << max(10, (size - 1).bit_length())  # few sizes, for each is a program of its own
        said = self._sum(np.frombuffer(text.ljust(room, b"\0") if self.is_chief else bytes(room), np.uint8))
        if failure is not None:
            raise failure
        message = json.loads(said.astype(np.uint8).tobytes()[:size])
        if "interrupted" in message:
            raise Interrupted(message["interrupted"])
        if "error" in message:
            code, where, what, *more = message["error"]
            raise UserError(code, where, what, *more)
        return message["found"]

    def gathered(self, mine: Any) -> list[Any]:
        """What each worker says, in their order; of what JSON can hold."""
        if self.workers == 1:
            return [mine]
        text = json.dumps(mine).encode()
        sizes = self._sum(np.eye(self.workers, dtype=np.int32)[self.index] * len(text))
        room = 1 << int(max(sizes) - 1).bit_length()
        table = np.zeros((self.workers, room), np.uint8)
        table[self.index, : len(text)] = np.frombuffer(text, np.uint8)
        rows = self._sum(table).astype(np.uint8)
        return [json.loads(row.tobytes()[:size]) for row, size in zip(rows, sizes, strict=True)]

    def lost(self, error: BaseException | None) -> str:
        """What to say of a worker that no longer answers; nothing if the error is another one."""
        text = str(error)
        if self.workers == 1 or not isinstance(error, tf.errors.OpError):
            return ""
        if not re.search(r"[Cc]ollective ops is aborted|Coordination|heartbeat|[Cc]onnection reset|is down", text):
            return ""
        named = re.search(r"/job:(\w+)(?:/replica:0)?/task:(\d+)", text)
        other = int(named[2]) if named and self.cluster else -1
        if self.cluster is None or not 0 <= other < self.workers or other == self.index:
            return "the loss of a worker, which no longer answers"
        return f"the loss of worker {other} ({self.cluster.workers[other]}), which no longer answers"

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Of what each worker gives."""
        key = values.shape
        if key not in self._sums:

            def of_a_replica(given: Any) -> Any:
                context = tf.distribute.get_replica_context()
                is_first = tf.cast(context.replica_id_in_sync_group, tf.int32) == self.index * self._local
                return context.all_reduce("SUM", tf.where(is_first, given, tf.zeros_like(given)))

            def together(given: Any) -> Any:
                results = self._strategy.run(of_a_replica, (given,))
                return self._strategy.experimental_local_results(results)[0]

            self._sums[key] = tf.function(together, autograph=False)
        try:
            return self._sums[key](tf.constant(values, tf.int32)).numpy()
        except tf.errors.OpError as error:
            if lost := self.lost(error):
                raise Interrupted(lost) from error
            raise


_WISHED = "wished"

ALONE = Team()
