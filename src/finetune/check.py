"""Whether the values of a recipe make sense, as far as that shows without TensorFlow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from finetune.errors import UserError
from finetune.learning.schedules import DECAYS
from finetune.names import did_you_mean
from finetune.recipe import Phase, Recipe, Until

DATA_KINDS = ("images", "arrays", "synthetic")
HEAD_KINDS = ("linear",)
LOSSES = ("softmax", "sigmoid", "squared", "absolute", "huber")  # finetune.engine.losses says what they are
PRESETS = ("none", "unit", "inception", "vgg", "caffe", "torch")  # finetune.learning.preprocess says what they do
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
    _filled("source.path", recipe.source.path)
    _filled("cut", recipe.cut)
    _one_of("source.weights", recipe.source.weights, WEIGHTS)
    _trust(recipe.source.trust)
    _rename(recipe.source.rename)
    _allow_missing(recipe.source.allow_missing)
    _scope(recipe.head.name)
    _stop_gradient("stop_gradient", recipe.stop_gradient)
    _learn("learn", recipe.learn)

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
    _number("train.log_every_steps", recipe.train.log_every_steps, least=1)
    for number, phase in enumerate(recipe.phases):
        _phase(f"phases[{number}]", phase, [before.name for before in recipe.phases[:number]])
        _until(f"phases[{number}].until", phase.until, is_last=number == len(recipe.phases) - 1)
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


def _phase(where: str, phase: Phase, before: list[str]) -> None:
    _filled(f"{where}.name", phase.name)
    if phase.name in before:
        raise UserError("recipe", f"{where}.name", f"there is a phase '{phase.name}' before", "name it otherwise")
    if phase.stop_gradient is not None:
        _stop_gradient(f"{where}.stop_gradient", phase.stop_gradient)
    _learn(f"{where}.learn", phase.learn or [])
    _number(f"{where}.learning_rate", phase.learning_rate, above=0)
    _number(f"{where}.warmup_steps", phase.warmup_steps, least=0)
    _one_of(f"{where}.schedule", phase.schedule or "constant", DECAYS)
    _one_of(f"{where}.optimizer", phase.optimizer or "adam", OPTIMIZERS)


def _until(where: str, until: Until, is_last: bool) -> None:
    ends = [until.step, until.epoch, until.plateau]
    if is_last and ends != [None] * 3:
        raise UserError("recipe", where, "the last phase goes on to the end of the run", "use train.steps for it")
    if not is_last and ends == [None] * 3:
        raise UserError(
            "recipe", where, "nothing ends this phase", "add e.g. until: {epoch: 2}, {step: 100}, {plateau: 3}"
        )
    if until.step is not None and until.epoch is not None:
        raise UserError("recipe", where, "both step and epoch are given", "take one back")
    _number(f"{where}.step", until.step, least=1)
    _number(f"{where}.epoch", until.epoch, above=0)
    _number(f"{where}.plateau", until.plateau, least=1)
    _filled(f"{where}.metric", until.metric)


def _stop_gradient(where: str, value: Any) -> None:
    tensors = isinstance(value, list) and all(isinstance(tensor, str) for tensor in value)
    if not (isinstance(value, bool) or tensors):
        what = f"{value!r} is not true, false or a list of tensors"
        raise UserError("recipe", where, what, "e.g. [pool4:0]")


def _learn(key: str, rules: list[Any]) -> None:
    for number, rule in enumerate(rules):
        where = f"{key}[{number}]"
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
