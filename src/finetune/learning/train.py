"""One step, and the loop around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import explained
from finetune.errors import shortlist
from finetune.learning.accumulation import in_portions
from finetune.learning.averages import decay_at, follow
from finetune.learning.state import State

Step = Callable[[int, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
# (the number of the step before, of the last step, what is behind each other of their batches) -> what each step gives
Stride = Callable[[int, int, Mapping[str, Any], Mapping[str, Any]], Sequence[Mapping[str, Any]]]


class NonFinite(Exception):
    """A step that was not made, for its loss, a gradient or an update is not finite; `what` says which.

    `made` is what the steps before it gave that were made in the same call.
    """

    def __init__(self, step: int, what: str, made: Sequence[Mapping[str, Any]] = ()):
        super().__init__(f"step {step}: {what}")
        self.step, self.what, self.made = step, what, made


def check_finite(state: State, step: int) -> None:
    """Raises `NonFinite` where finite gradients have made weights or slots that are not, by a rate that is too high."""
    if bad := state.nonfinite():
        raise NonFinite(step, f"no longer finite is {shortlist(bad)}")


def seed_of(run_seed: int, step: int) -> Any:
    """The seed of everything random in a step: int32 [2]."""
    return _folded(tf.constant([run_seed & 0x7FFFFFFF, run_seed >> 31]), tf.convert_to_tensor(step))


@tf.function(reduce_retracing=True)
def _folded(seed: Any, step: Any) -> Any:
    return tf.random.experimental.stateless_fold_in(seed, step)  # several ops, at every step


def make_step(
    program: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    state: State,
    seed: int,
    share: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
) -> Step:
    """(step, inputs, targets) -> losses, `loss` the one that is lessened, and `gradient_norm`; changes the state.

    Where something is not finite it raises `NonFinite` and changes nothing.

    `share` gives the share of the learning rate that a step takes. Gradients that together measure more than
    `clip_norm` are made that much smaller (Pascanu et al. 2013, "On the difficulty of training recurrent neural
    networks"). `accumulate` portions of the batch are computed one after the other; `ema` is the decay of the averages.

    The program should be `apart` (see `as_function`): inside the one call that makes a step its last bits are then
    those of a TensorFlow 1 session.
    """
    with_care = _with_care(program, state, seed, share, clip_norm, accumulate, ema)
    if accumulate > 1:
        return with_care
    attempt = tf.function(make_attempt(program, state, seed, clip_norm), reduce_retracing=True, autograph=False)

    def step(number: int, inputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Mapping[str, Any]:
        with explained():
            is_made, told = attempt(tf.constant(number), inputs, targets, *_in_step(number, share, ema))
        if not is_made:
            return with_care(number, inputs, targets)
        return {name: float(value) if is_loss(name) else value for name, value in told.items()}

    return step


def make_attempt(
    program: Callable[[Mapping[str, Any]], Mapping[str, Any]], state: State, seed: int, clip_norm: float | None
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """(number, inputs, targets, share of the rate, decay of averages) -> whether the step is made, and what it gives.

    It changes nothing where something is not finite. To be called inside a `tf.function`.
    """
    update, _ = make_update(state, clip_norm)

    def attempt(number: Any, inputs: Any, targets: Any, part: Any, decay: Any) -> tuple[Any, dict[str, Any]]:
        outputs = program(state.arguments(inputs, targets, seed_of(seed, number)))
        changes, is_finite = changes_in(outputs), tf.math.is_finite(outputs["loss"])
        is_made, norm = tf.cond(is_finite, lambda: update(changes, part, decay), lambda: (is_finite, tf.constant(0.0)))
        losses = {name: tensor for name, tensor in outputs.items() if is_loss(name)}
        scale = {} if state.scale is None else {"loss_scale": state.scale.factor.read_value()}
        return is_made, {**losses, "gradient_norm": norm, **scale}

    return attempt


def _in_step(number: int, share: Callable[[int], float] | None, ema: float | None) -> tuple[Any, Any]:
    """The share of the rate and the decay of the averages in a step, None where there is none."""
    part = None if share is None else tf.constant(share(number), tf.float32)
    return part, None if ema is None else tf.constant(decay_at(ema, number), tf.float32)


def _with_care(
    program: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    state: State,
    seed: int,
    share: Callable[[int], float] | None,
    clip_norm: float | None,
    accumulate: int,
    ema: float | None,
) -> Step:
    """A step in parts, which finds out what is not finite."""
    compute = program if accumulate == 1 else in_portions(program, accumulate)
    update, apply = make_update(state, clip_norm)

    def step(number: int, inputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Mapping[str, Any]:
        with explained():
            outputs = compute(state.arguments(inputs, targets, seed_of(seed, number)))
        losses = {n: float(t) for n, t in outputs.items() if is_loss(n)}
        changes = changes_in(outputs)
        loss = losses["loss"]
        if not np.isfinite(loss):
            raise NonFinite(number, f"the loss is {loss}")
        part, decay = _in_step(number, share, ema)
        is_made, norm = update(changes, part, decay)
        if not is_made:
            bad = [n for n, t in changes.items() if t.dtype.is_floating and not np.isfinite(t.numpy()).all()]
            if bad or clip_norm is not None:  # else only the norm was too large, and nothing is wrong
                what = shortlist(bad) or "the norm of the gradients"
                raise NonFinite(number, f"the loss is {loss:.4g}, but not finite is {what}")
            norm = apply(changes, part, decay, norm)
        scale = {} if state.scale is None else {"loss_scale": state.scale.factor.read_value()}
        return {**losses, "gradient_norm": norm, **scale}

    return step


def is_loss(name: str) -> bool:
    """Whether this is what a step is to lessen, or a part of it."""
    return name == "loss" or name.endswith("/loss")


def changes_in(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The gradients and the updates of the source's own in what a step computes."""
    return {name: tensor for name, tensor in outputs.items() if name.startswith(("gradient/", "update/"))}


def make_update(state: State, clip_norm: float | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(update, apply): what makes the changes of one step if all of them are finite, and what makes them anyhow.

    Both take the changes, the share of the learning rate and the decay of the averages, None where there is none, and
    `apply` the norm of the gradients. `update` gives whether it has made them, and the norm; `apply` gives the norm.

    With a loss scale, gradients that overflow are no fault: the step is left out, the scale falls, and all is well.
    """

    @tf.function(reduce_retracing=True)
    def update(changes: Mapping[str, Any], part: Any, decay: Any) -> tuple[Any, Any]:
        if state.scale is not None:
            return tf.constant(True), apply(changes, part, decay, None)
        # The norm is needed anyhow, and takes one pass and no memory. A NaN or an Inf among the summands is in the sum.
        norm = tf.linalg.global_norm(list(_of(changes, "gradient/").values()))
        updates = [t for t in _of(changes, "update/").values() if t.dtype.is_floating]
        is_finite = tf.math.is_finite(tf.add_n([norm, *(tf.reduce_sum(tf.cast(t, norm.dtype)) for t in updates)]))
        return is_finite, tf.cond(is_finite, lambda: apply(changes, part, decay, norm), lambda: norm)

    def take(gradients: Mapping[str, Any], updates: Mapping[str, Any], decay: Any, norm: Any) -> None:
        if clip_norm is not None:
            clipped, _ = tf.clip_by_global_norm(list(gradients.values()), clip_norm, use_norm=norm)
            gradients = dict(zip(gradients, clipped, strict=True))
        state.groups.apply(gradients)
        for name, value in updates.items():
            state.live[name].assign(value)
        if decay is not None:
            follow(state.averages, state.live, decay)

    @tf.function(reduce_retracing=True)
    def apply(outputs: Mapping[str, Any], part: Any, decay: Any, norm: Any) -> Any:
        gradients, updates = _of(outputs, "gradient/"), _of(outputs, "update/")
        if part is not None:  # of a step that is left out too, for the rate is part of what is saved
            state.groups.slow_down(part)
        if state.scale is None:
            take(gradients, updates, decay, norm)
            return norm
        gradients = {name: gradient / state.scale.factor for name, gradient in gradients.items()}
        norm = tf.linalg.global_norm(list(gradients.values()))
        is_finite = tf.math.is_finite(norm)
        if is_finite:
            take(gradients, updates, decay, norm)
        state.scale.learn(is_finite)
        return norm

    return update, apply


def _of(outputs: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): tensor for name, tensor in outputs.items() if name.startswith(kind)}


@dataclass(frozen=True)
class Clock:
    """After which steps something is done: every so many steps, every so many minutes."""

    every_steps: int | None = None
    every_minutes: float | None = None
    agreed: Callable[[bool], bool] = bool  # whether it is time for all, if it is for this worker

    def due(self, step: int, since: float, now: float) -> bool:
        """Whether it is time, `since` being when it was last done (seconds)."""
        by_steps = self.every_steps is not None and step % self.every_steps == 0
        return by_steps or self.agreed(self.every_minutes is not None and now - since >= self.every_minutes * 60)


@dataclass(frozen=True)
class Actions:
    """What is done beside the steps: each is called with the number of the step just made.

    `evaluate` tells whether that was to be the last one, `leaves` whether the training is to end here and go on later.
    """

    log: Callable[[int, Mapping[str, float]], None]
    evaluate: Callable[[int], bool]
    save: Callable[[int], None]
    advance: Callable[[float], None]
    leaves: Callable[[], bool] = lambda: False


def strides(start: int, stop: int, longest: int, at: Sequence[int | None]) -> Sequence[int]:
    """The last step of each stride on the way: at most `longest` steps, none beyond a multiple of a number in `at`.

    Between two of those they are about as long as each other, for a short one costs as much in Python as a long one.

    >>> strides(0, 12, 4, [10, None])
    [4, 7, 10, 12]
    >>> strides(0, 12, 1, [10, None])  # of a run of millions of steps this takes no memory
    range(1, 13)
    """
    if longest == 1:
        return range(start + 1, stop + 1)
    found = []
    while start < stop:
        way = min([stop, *(start - start % every + every for every in at if every is not None)]) - start
        start += math.ceil(way / math.ceil(way / longest))
        found.append(start)
    return found


def loop(
    take: Stride,
    batches: Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Any]],
    ends: Sequence[int],
    start: int,
    actions: Actions,
    log_every: int,
    evaluation: Clock,
    checkpoints: Clock,
) -> int:
    """Makes the steps after `start`, or fewer if an evaluation says so; gives the number of the last one.

    It is always saved, and evaluated unless it only `leaves`. Between two `ends` steps are made at a stride, of one
    batch that has all their examples; whatever is done beside the steps is done after a stride.
    """
    saved = logged_at = time.monotonic()
    logged = before = start
    for last in ends:
        inputs, targets, indices = next(batches)
        failed = None
        try:
            made = take(before, last, inputs, targets)
        except NonFinite as bad:
            made, failed = bad.made, bad
        now = time.monotonic()
        for number, losses in enumerate(made, before + 1):
            actions.advance(float(losses["loss"]))
            if number % log_every == 0 or number == ends[-1]:
                rate = (last - logged) * (len(indices) // (last - before)) / max(now - logged_at, 1e-9)
                # Only here does anything wait for a step to end. Norms may overflow, and JSON has no infinity.
                found = {name: float(value) for name, value in losses.items()}
                finite = {name: value for name, value in found.items() if np.isfinite(value)}
                actions.log(number, {**finite, "examples_per_second": rate})
        if failed is not None:
            raise failed
        if last // log_every > logged // log_every:
            logged, logged_at = last, now
        before = last
        # The evaluation sees the state that is saved right after it.
        is_last = last == ends[-1]
        if is_last or evaluation.due(last, now, now):
            is_last = actions.evaluate(last) or is_last
        leaves = actions.leaves()
        if is_last or leaves or checkpoints.due(last, saved, now):
            actions.save(last)
            saved = time.monotonic()
        if is_last or leaves:
            return last
        logged_at += time.monotonic() - now  # only steps count in the rate
    return start
