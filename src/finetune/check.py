"""Whether the values of a recipe make sense, as far as that shows without TensorFlow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from finetune.errors import UserError
from finetune.learning.schedules import DECAYS
from finetune.names import did_you_mean
from finetune.recipe import Recipe, Train

DATA_KINDS = ("images", "arrays", "synthetic")
HEAD_KINDS = ("linear",)
LOSSES = ("softmax", "sigmoid", "squared", "absolute", "huber")  # finetune.engine.losses says what they are
PRESETS = ("none", "unit", "inception", "vgg", "caffe", "torch")  # finetune.learning.preprocess says what they do
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")  # finetune.engine.precision says what they do
POOLS = ("avg", "max", "flatten")
WEIGHTS = ("saved", "averages")
# Written down because asking Keras takes seconds; a test compares them.
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
    "sgd",
)

_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")  # what tf.name_scope takes


def check(recipe: Recipe) -> None:
    """Refuses the first value that cannot be meant.

    Raises:
      UserError: naming the key, the value and what is allowed.
    """
    _one_of("head.kind", recipe.head.kind, HEAD_KINDS)
    _one_of("head.pool", recipe.head.pool, POOLS)
    _one_of("head.loss", recipe.head.loss, LOSSES)
    _one_of("data.kind", recipe.data.kind, DATA_KINDS)
    _one_of("data.preprocess", recipe.data.preprocess, PRESETS)
    _one_of("train.optimizer", recipe.train.optimizer, OPTIMIZERS)
    _one_of("train.schedule", recipe.train.schedule, DECAYS)
    _one_of("train.precision", recipe.train.precision, PRECISIONS)
    _filled("source.path", recipe.source.path)
    _filled("cut", recipe.cut)
    _one_of("source.weights", recipe.source.weights, WEIGHTS)
    _trust(recipe.source.trust)
    _rename(recipe.source.rename)
    _allow_missing(recipe.source.allow_missing)
    _scope(recipe.head.name)
    _stop_gradient(recipe.stop_gradient)
    _learn(recipe.learn)

    _number("head.classes", recipe.head.classes, least=2)
    if recipe.data.kind != "synthetic" and not recipe.data.path:
        raise UserError("recipe", "data.path", f"not given, and data.kind is {recipe.data.kind}", "add data.path=…")
    _share("data.holdout", recipe.data.holdout)
    _image_size(recipe.data.image_size)

    _length(recipe.train.steps, recipe.train.epochs)
    _number("train.batch_size", recipe.train.batch_size, least=1)
    _number("train.learning_rate", recipe.train.learning_rate, above=0)
    _number("train.warmup_steps", recipe.train.warmup_steps, least=0)
    _number("train.clip_norm", recipe.train.clip_norm, above=0)
    _decay(recipe.train)
    _accumulate(recipe.train)
    _share("train.ema", 0.0 if recipe.train.ema is None else recipe.train.ema)
    _number("train.log_every_steps", recipe.train.log_every_steps, least=1)
    _number("eval.every_steps", recipe.eval.every_steps, least=1)
    _number("eval.batch_size", recipe.eval.batch_size, least=1)
    _number("checkpoint.every_steps", recipe.checkpoint.every_steps, least=1)
    _number("checkpoint.every_minutes", recipe.checkpoint.every_minutes, above=0)
    _number("checkpoint.keep", recipe.checkpoint.keep, least=1)
    _number("checkpoint.keep_every_hours", recipe.checkpoint.keep_every_hours, above=0)
    _number("run.seed", recipe.run.seed, least=0)


def _length(steps: int | None, epochs: float | None) -> None:
    where = "train.steps, train.epochs"
    if steps is None and epochs is None:
        raise UserError("recipe", where, "neither is given", "add one of them, e.g. train.steps=200")
    if steps is not None and epochs is not None:
        what = f"both are given ({steps} and {epochs:g})"
        raise UserError("recipe", where, what, "take one back: train.steps=null or train.epochs=null")
    _number("train.steps", steps, least=0)
    _number("train.epochs", epochs, least=0)


def _decay(train: Train) -> None:
    """What only some schedules read is refused with the others, or it would be passed over in silence."""
    _share("train.schedule_end", train.schedule_end)
    if train.schedule_end and train.schedule in ("constant", "step"):
        what = f"{train.schedule_end}, but the schedule {train.schedule} has no end to fall to"
        raise UserError("recipe", "train.schedule_end", what, "use train.schedule=cosine, linear or exponential")
    if train.schedule == "exponential" and not train.schedule_end:
        what = "0, which an exponential never reaches"
        raise UserError("recipe", "train.schedule_end", what, "e.g. train.schedule_end=0.01")
    if bool(train.decay_steps) != (train.schedule == "step"):
        what = f"{train.decay_steps}, and train.schedule is {train.schedule}"
        raise UserError("recipe", "train.decay_steps", what, "e.g. train.schedule=step train.decay_steps=[60,90]")
    for at in train.decay_steps:
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not (0 < at < 1 or (at >= 1 and at % 1 == 0)):
            what = f"{at!r} is neither a whole step nor a share between 0 and 1"
            raise UserError("recipe", "train.decay_steps", what, "e.g. [60, 90], or [0.6, 0.9] of all steps")
    _number("train.decay_rate", train.decay_rate, above=0)


def _accumulate(train: Train) -> None:
    _number("train.accumulate", train.accumulate, least=1)
    if train.batch_size % train.accumulate:
        what = f"a batch of {train.batch_size} has no {train.accumulate} equal portions"
        raise UserError("recipe", "train.accumulate", what, "it has to divide train.batch_size")


def _number(key: str, value: float | None, *, least: float | None = None, above: float | None = None) -> None:
    """None passes: a key that needs a value has no None in the schema."""
    if value is None:
        return
    if least is not None and not (math.isfinite(value) and value >= least):
        raise UserError("recipe", key, f"{value} is not {least} or more")
    if above is not None and not (math.isfinite(value) and value > above):
        raise UserError("recipe", key, f"{value} is not greater than {above}")


def _share(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError("recipe", key, f"{value} is no share from 0 up to, not including, 1", f"e.g. {key}=0.2")


def _one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        what = f"'{value}' is not one of {', '.join(allowed)}"
        raise UserError("recipe", key, what, did_you_mean(value.lower(), allowed))


def _filled(key: str, value: str) -> None:
    if not value.strip():
        raise UserError("recipe", key, "is empty", f"write {key}=…")


def _scope(name: str) -> None:
    if not _SCOPE.fullmatch(name):
        what = f"'{name}' cannot be the scope of TensorFlow variables"
        raise UserError("recipe", "head.name", what, "use letters, digits, _ . - /, with a letter, digit or dot first")


def _trust(value: Any) -> None:
    ops = isinstance(value, list) and all(isinstance(op, str) for op in value)
    if not (isinstance(value, bool) or ops):
        raise UserError("recipe", "source.trust", f"{value!r} is not true, false or a list of ops", "e.g. [DecodePng]")


def _stop_gradient(value: Any) -> None:
    tensors = isinstance(value, list) and all(isinstance(tensor, str) for tensor in value)
    if not (isinstance(value, bool) or tensors):
        what = f"{value!r} is not true, false or a list of tensors"
        raise UserError("recipe", "stop_gradient", what, "e.g. [pool4:0]")


def _learn(rules: list[Any]) -> None:
    for number, rule in enumerate(rules):
        where = f"learn[{number}]"
        if not (isinstance(rule, list) and len(rule) == 2 and isinstance(rule[0], str)):
            raise UserError("recipe", where, f"{rule!r} is no pair of a regex and a rate", 'e.g. ["conv5/.*", 0.1]')
        pattern, rate = rule
        _regex(where, pattern)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not (math.isfinite(rate) and rate >= 0):
            what = f"the rate {rate!r} is no number of 0 or more"
            raise UserError("recipe", where, what, "it multiplies train.learning_rate")


def _rename(rules: list[Any]) -> None:
    for number, rule in enumerate(rules):
        where = f"source.rename[{number}]"
        if not (isinstance(rule, list) and len(rule) == 2 and all(isinstance(part, str) for part in rule)):
            what = f"{rule!r} is no pair of a regex and a replacement"
            raise UserError("recipe", where, what, """e.g. ["^model/", ""]""")
        _regex(where, rule[0])
        try:
            # The empty alternative matches, so that the replacement is read.
            re.sub(f"{rule[0]}|", rule[1], "")
        except (re.error, IndexError) as error:
            raise UserError("recipe", where, f"'{rule[1]}' is no replacement for '{rule[0]}': {error}") from None


def _allow_missing(patterns: list[str]) -> None:
    for number, pattern in enumerate(patterns):
        _regex(f"source.allow_missing[{number}]", pattern)


def _regex(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError("recipe", where, f"'{pattern}' is no regular expression: {error}") from None


def _image_size(size: list[int] | None) -> None:
    if size is not None and not (len(size) == 2 and all(side >= 1 for side in size)):
        what = f"{size} is not [height, width] in whole pixels"
        raise UserError("recipe", "data.image_size", what, "e.g. [224, 224]")
