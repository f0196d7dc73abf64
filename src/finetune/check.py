"""Whether the values of a recipe make sense, as far as that shows without TensorFlow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from finetune.augmenting.augment_keys import settle
from finetune.distributing.cluster import MODES
from finetune.errors import UserError, refuse
from finetune.keys import KINDS, instead_of
from finetune.learning.monitor import GOALS, goal_of
from finetune.learning.schedules import DECAYS
from finetune.names import did_you_mean
from finetune.own_functions import is_path
from finetune.recipe import Data, Head, Phase, Recipe, Train, Until, named_heads

DATA_KINDS = ("images", "arrays", "tfrecord", "csv", "tfds", "python", "synthetic")
NAMED_KINDS = ("tfrecord", "csv", "tfds", "python")  # those that data.columns is for
BALANCES = ("none", "sampling")
HEAD_KINDS = ("linear", "mlp", "conv")
LOSSES = ("softmax", "sigmoid", "squared", "absolute", "huber")  # finetune.engine.losses says what they are
PRESETS = ("none", "unit", "inception", "vgg", "caffe", "torch")  # finetune.examples.preprocess says what they do
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")  # finetune.engine.precision says what they do
POOLS = ("avg", "max", "flatten")
WEIGHTS = ("saved", "averages")
CACHE_MODES = ("auto", "off", "require")
CACHE_DTYPES = ("float32", "float16")
ON_NAN = ("stop", "rollback")
ENGINES = ("auto", "default")
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

Faults = Iterator[UserError]

_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")  # what tf.name_scope takes


def check(recipe: Recipe) -> None:
    """Refuses values that cannot be meant, all of them at once.

    Raises:
      UserError: naming each key, its value and what is allowed.
    """
    refuse(faults_in(recipe))


def check_with_all(recipe: Recipe) -> None:
    """Refuses what `check` refuses, and says beside it what is wrong with source and examples.

    Raises:
      UserError: as above.
    """
    if faults := list(faults_in(recipe)):
        from finetune.plan import beside

        refuse([*faults, *beside(faults, recipe)])


def faults_in(recipe: Recipe) -> Faults:
    """What `check` refuses, one after the other."""
    if recipe.heads and recipe.head != Head():
        yield UserError("recipe", "head", "given together with heads", "move it into heads")
    for key, head in named_heads(recipe).items():
        yield from _head("head" if not recipe.heads else f"heads.{key}", head)
    yield from _one_of("data.kind", recipe.data.kind, DATA_KINDS)
    yield from _one_of("data.preprocess", recipe.data.preprocess, PRESETS)
    if recipe.data.kind in ("arrays", "csv") and recipe.data.preprocess != "none":
        what = f"'{recipe.data.preprocess}' is for encoded images, and data.kind is {recipe.data.kind}"
        yield UserError("recipe", "data.preprocess", what, "scale the rows themselves, and write data.preprocess=none")
    yield from _one_of("train.optimizer", recipe.train.optimizer, OPTIMIZERS)
    yield from _one_of("train.schedule", recipe.train.schedule, DECAYS)
    yield from _one_of("train.on_nan", recipe.train.on_nan, ON_NAN)
    if recipe.eval.goal is not None:
        yield from _one_of("eval.goal", recipe.eval.goal, GOALS)
    yield from _raised(goal_of, recipe.eval.metric, recipe.eval.goal)
    yield from _one_of("distribute", recipe.distribute, MODES)
    yield from _one_of("train.precision", recipe.train.precision, PRECISIONS)
    yield from _filled("source.path", recipe.source.path)
    yield from _filled("cut", recipe.cut)
    yield from _one_of("source.weights", recipe.source.weights, WEIGHTS)
    yield from _trust(recipe.source.trust)
    yield from _rename(recipe.source.rename)
    yield from _patterns("source.allow_missing", recipe.source.allow_missing)
    yield from _stop_gradient("stop_gradient", recipe.stop_gradient)
    yield from _learn("learn", recipe.learn)
    yield from _learn_decay(recipe.learn_decay)
    yield from _patterns("lora.match", recipe.lora.match)
    yield from _number("lora.rank", recipe.lora.rank, least=1)
    yield from _number("lora.alpha", recipe.lora.alpha, above=0)

    yield from _number("distill.weight", recipe.distill.weight, above=0)
    yield from _number("distill.temperature", recipe.distill.temperature, above=0)
    if recipe.data.kind != "synthetic" and not recipe.data.path:
        yield UserError("recipe", "data.path", f"not given, and data.kind is {recipe.data.kind}", "add data.path=…")
    yield from _share("data.holdout", recipe.data.holdout)
    yield from _data(recipe.data)
    yield from _image_size(recipe.data.image_size)
    yield from _number("data.eval_crop", recipe.data.eval_crop, above=0)
    if recipe.data.eval_crop is not None and recipe.data.eval_crop > 1:
        yield UserError("recipe", "data.eval_crop", f"{recipe.data.eval_crop} is more than the whole", "e.g. 0.875")
    yield from _raised(settle, recipe.data.augment, recipe.data.kind)

    yield from _length(recipe.train.steps, recipe.train.epochs)
    yield from _number("train.batch_size", recipe.train.batch_size, least=1)
    yield from _number("train.learning_rate", recipe.train.learning_rate, above=0)
    yield from _number("train.warmup_steps", recipe.train.warmup_steps, least=0)
    yield from _number("train.mixup", recipe.train.mixup, least=0)
    yield from _number("train.cutmix", recipe.train.cutmix, least=0)
    if (recipe.train.mixup or recipe.train.cutmix) and recipe.train.batch_size < 2:
        yield UserError("recipe", "train.batch_size", "one example has no other to be mixed with", "give 2 or more")
    yield from _number("train.clip_norm", recipe.train.clip_norm, above=0)
    yield from _weight_decay(recipe.train.weight_decay, recipe.train.optimizer_args)
    yield from _patterns("train.decay_exclude", recipe.train.decay_exclude)
    yield from _number("train.l2_sp", recipe.train.l2_sp, least=0)
    yield from _number("train.l2_head", recipe.train.l2_head, least=0)
    yield from _number("train.plateau.patience", recipe.train.plateau.patience, least=1)
    yield from _between("train.plateau.factor", recipe.train.plateau.factor)
    yield from _number("train.stop_early", recipe.train.stop_early, least=1)
    yield from _decay(recipe.train)
    yield from _accumulate(recipe.train)
    yield from _share("train.ema", 0.0 if recipe.train.ema is None else recipe.train.ema)
    yield from _number("train.log_every_steps", recipe.train.log_every_steps, least=1)
    for number, phase in enumerate(recipe.phases):
        yield from _phase(f"phases[{number}]", phase, [before.name for before in recipe.phases[:number]], recipe.train)
        yield from _until(f"phases[{number}].until", phase.until, is_last=number == len(recipe.phases) - 1)
    yield from _number("eval.every_steps", recipe.eval.every_steps, least=1)
    yield from _number("eval.batch_size", recipe.eval.batch_size, least=1)
    yield from _number("eval.min_delta", recipe.eval.min_delta, least=0)
    yield from _number("checkpoint.every_steps", recipe.checkpoint.every_steps, least=1)
    yield from _number("checkpoint.every_minutes", recipe.checkpoint.every_minutes, above=0)
    yield from _number("checkpoint.keep", recipe.checkpoint.keep, least=1)
    yield from _number("checkpoint.keep_every_hours", recipe.checkpoint.keep_every_hours, above=0)
    yield from _cache(recipe)
    yield from _one_of("engine.mode", recipe.engine.mode, ENGINES)
    yield from _number("engine.threads", recipe.engine.threads, least=1)
    yield from _number("engine.gpus", recipe.engine.gpus, least=0)
    yield from _number("run.seed", recipe.run.seed, least=0)
    yield from _number("run.wait_for_workers", recipe.run.wait_for_workers, above=0)
    for key in recipe.run.allow_change:
        if key not in KINDS:
            yield UserError("recipe", "run.allow_change", f"'{key}' is no key of a recipe", instead_of(key))


def _raised(find: Callable[..., Any], *words: Any) -> Faults:
    """What a function of another room finds wrong."""
    try:
        find(*words)
    except UserError as fault:
        yield fault


def _cache(recipe: Recipe) -> Faults:
    yield from _one_of("cache.mode", recipe.cache.mode, CACHE_MODES)
    yield from _one_of("cache.dtype", recipe.cache.dtype, CACHE_DTYPES)
    yield from _number("cache.max_gb", recipe.cache.max_gb, above=0)
    yield from _number("cache.views", recipe.cache.views, least=1)
    how = recipe.data.augment, recipe.data.kind
    if recipe.cache.views is not None and not list(_raised(settle, *how)) and settle(*how) is None:
        what = f"{recipe.cache.views} views, but the examples are not varied"
        yield UserError("recipe", "cache.views", what, "add data.augment.preset=light, or leave it out")


def _objective(key: str, head: Head) -> Faults:
    if not is_path(head.objective or ""):
        what = f"'{head.objective}' names no function"
        yield UserError("recipe", f"{key}.objective", what, "write module:function; ours are named by head.loss")
    for word in ("label_smoothing", "class_weights", "focal"):
        if getattr(head, word) not in (None, 0.0):
            what = f"is part of our losses, and {head.objective} is lessened"
            yield UserError("recipe", f"{key}.{word}", what, "leave one of the two out")


def _head(key: str, head: Head) -> Faults:
    is_own = is_path(head.kind)
    if not is_own:
        yield from _one_of(f"{key}.kind", head.kind, HEAD_KINDS)
    if head.pool != "none" or not is_own:
        yield from _one_of(f"{key}.pool", head.pool, POOLS)
    if head.objective is not None:
        yield from _objective(key, head)
    yield from _one_of(f"{key}.loss", head.loss, LOSSES)
    yield from _scope(f"{key}.name", head.name)
    yield from _number(f"{key}.classes", head.classes, least=2)
    yield from _number(f"{key}.weight", head.weight, above=0)
    yield from _number(f"{key}.focal", head.focal, least=0)
    yield from _share(f"{key}.dropout", head.dropout)
    yield from _share(f"{key}.label_smoothing", head.label_smoothing)
    for number, size in enumerate(head.hidden):
        yield from _number(f"{key}.hidden[{number}]", size, least=1)
    if head.kind == "linear" and head.hidden:
        yield UserError("recipe", f"{key}.hidden", "a linear head has no hidden layers", f"set {key}.kind=mlp")
    if head.kind in HEAD_KINDS[1:] and not head.hidden:
        what = f"not given, and {key}.kind is {head.kind}"
        yield UserError("recipe", f"{key}.hidden", what, f"e.g. {key}.hidden=[256]")
    if head.loss in LOSSES and head.loss not in ("softmax", "sigmoid"):
        for word in ("label_smoothing", "class_weights", "focal", "classes"):
            if getattr(head, word) not in (None, 0.0):
                yield UserError("recipe", f"{key}.{word}", f"means nothing for {head.loss}", "leave it out")
    yield from _class_weights(f"{key}.class_weights", head.class_weights)
    if head.reuse.kernel is not None and (head.kind != "linear" or head.loss not in ("softmax", "sigmoid")):
        yield UserError("recipe", f"{key}.reuse", "only a linear head of classes has rows to reuse", "leave it out")
    if head.reuse.kernel is not None and not isinstance(head.reuse.labels, (str, list)):
        what = "the names of the old classes are needed, in their order"
        yield UserError("recipe", f"{key}.reuse.labels", what, "give a list, or a file with one a line")


def _class_weights(key: str, value: Any) -> Faults:
    if value is None or value == "balanced":
        return
    numbers = value.values() if isinstance(value, dict) else ()
    if not numbers or not all(isinstance(w, (int, float)) and math.isfinite(w) and w >= 0 for w in numbers):
        what = f"{value!r} is neither balanced nor a weight for each class"
        yield UserError("recipe", key, what, "e.g. {coat: 1, dress: 2}")


def _data(data: Data) -> Faults:
    yield from _one_of("data.balance", data.balance, BALANCES)
    if data.group is not None:
        yield from _regex("data.group", data.group)
    for key, given, kinds in (("columns", data.columns, NAMED_KINDS), ("args", data.args, ("tfds", "python"))):
        if given and data.kind not in kinds:
            what = f"is given, and data.kind is {data.kind}"
            yield UserError("recipe", f"data.{key}", what, f"it is for {', '.join(kinds)}; leave it out")
    for field, names in data.columns.items():
        if not (isinstance(names, str) or (isinstance(names, list) and all(isinstance(n, str) for n in names))):
            yield UserError("recipe", f"data.columns.{field}", f"{names!r} is no list of columns", "e.g. [age, height]")
    if data.bucket != sorted(set(data.bucket)) or any(length < 1 for length in data.bucket):
        yield UserError("recipe", "data.bucket", f"{data.bucket} are no rising lengths", "e.g. [16, 32, 64]")
    if data.classes is not None and (len(set(data.classes)) != len(data.classes) or len(data.classes) < 2):
        yield UserError("recipe", "data.classes", f"{data.classes} are not two or more different names")


def _length(steps: int | None, epochs: float | None) -> Faults:
    where = "train.steps, train.epochs"
    if steps is None and epochs is None:
        yield UserError("recipe", where, "neither is given", "add one of them, e.g. train.steps=200")
    if steps is not None and epochs is not None:
        what = f"both are given ({steps} and {epochs:g})"
        yield UserError("recipe", where, what, "take one back: train.steps=null or train.epochs=null")
    yield from _number("train.steps", steps, least=0)
    yield from _number("train.epochs", epochs, least=0)


def _decay(train: Train) -> Faults:
    """What only some schedules read is refused with the others, or it would be passed over in silence."""
    yield from _share("train.schedule_end", train.schedule_end)
    if train.schedule_end and train.schedule in ("constant", "plateau", "step"):
        what = f"{train.schedule_end}, but the schedule {train.schedule} has no end to fall to"
        yield UserError("recipe", "train.schedule_end", what, "use train.schedule=cosine, linear or exponential")
    if train.schedule == "exponential" and not train.schedule_end:
        what = "0, which an exponential never reaches"
        yield UserError("recipe", "train.schedule_end", what, "e.g. train.schedule_end=0.01")
    if bool(train.decay_steps) != (train.schedule == "step"):
        what = f"{train.decay_steps}, and train.schedule is {train.schedule}"
        yield UserError("recipe", "train.decay_steps", what, "e.g. train.schedule=step train.decay_steps=[60,90]")
    for at in train.decay_steps:
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not (0 < at < 1 or (at >= 1 and at % 1 == 0)):
            what = f"{at!r} is neither a whole step nor a share between 0 and 1"
            yield UserError("recipe", "train.decay_steps", what, "e.g. [60, 90], or [0.6, 0.9] of all steps")
    yield from _number("train.decay_rate", train.decay_rate, above=0)


def _accumulate(train: Train) -> Faults:
    yield from _number("train.accumulate", train.accumulate, least=1)
    if train.accumulate >= 1 and train.batch_size % train.accumulate:
        what = f"a batch of {train.batch_size} has no {train.accumulate} equal portions"
        yield UserError("recipe", "train.accumulate", what, "it has to divide train.batch_size")


def _number(key: str, value: float | None, *, least: float | None = None, above: float | None = None) -> Faults:
    """None passes: a key that needs a value has no None in the schema."""
    if value is None:
        return
    if least is not None and not (math.isfinite(value) and value >= least):
        yield UserError("recipe", key, f"{value} is not {least} or more")
    if above is not None and not (math.isfinite(value) and value > above):
        yield UserError("recipe", key, f"{value} is not greater than {above}")


def _share(key: str, value: float) -> Faults:
    if not 0 <= value < 1:
        yield UserError("recipe", key, f"{value} is no share from 0 up to, not including, 1", f"e.g. {key}=0.2")


def _between(key: str, value: float) -> Faults:
    if not 0 < value < 1:
        yield UserError("recipe", key, f"{value} is not between 0 and 1", f"e.g. {key}=0.5")


def _one_of(key: str, value: str, allowed: Iterable[str]) -> Faults:
    if value not in allowed:
        what = f"'{value}' is not one of {', '.join(allowed)}"
        yield UserError("recipe", key, what, did_you_mean(value.lower(), allowed))


def _filled(key: str, value: str) -> Faults:
    if not value.strip():
        yield UserError("recipe", key, "is empty", f"write {key}=…")


def _scope(key: str, name: str) -> Faults:
    if not _SCOPE.fullmatch(name):
        what = f"'{name}' cannot be the scope of TensorFlow variables"
        yield UserError("recipe", key, what, "use letters, digits, _ . - /, with a letter, digit or dot first")


def _trust(value: Any) -> Faults:
    ops = isinstance(value, list) and all(isinstance(op, str) for op in value)
    if not (isinstance(value, bool) or ops):
        yield UserError("recipe", "source.trust", f"{value!r} is not true, false or a list of ops", "e.g. [DecodePng]")


def _phase(where: str, phase: Phase, before: list[str], train: Train) -> Faults:
    yield from _filled(f"{where}.name", phase.name)
    if phase.name in before:
        yield UserError("recipe", f"{where}.name", f"there is a phase '{phase.name}' before", "name it otherwise")
    if phase.stop_gradient is not None:
        yield from _stop_gradient(f"{where}.stop_gradient", phase.stop_gradient)
    yield from _learn(f"{where}.learn", phase.learn or [])
    yield from _number(f"{where}.learning_rate", phase.learning_rate, above=0)
    yield from _number(f"{where}.warmup_steps", phase.warmup_steps, least=0)
    yield from _one_of(f"{where}.schedule", phase.schedule or "constant", DECAYS)
    if phase.schedule != train.schedule and phase.schedule in ("exponential", "step"):
        what = f"'{phase.schedule}' is not train.schedule, which alone says how far and when it falls"
        yield UserError("recipe", f"{where}.schedule", what, "use cosine, linear or constant")
    yield from _one_of(f"{where}.optimizer", phase.optimizer or "adam", OPTIMIZERS)


def _until(where: str, until: Until, is_last: bool) -> Faults:
    ends = [until.step, until.epoch, until.plateau]
    if is_last and ends != [None] * 3:
        yield UserError("recipe", where, "the last phase goes on to the end of the run", "use train.steps for it")
    if not is_last and ends == [None] * 3:
        yield UserError(
            "recipe", where, "nothing ends this phase", "add e.g. until: {epoch: 2}, {step: 100}, {plateau: 3}"
        )
    if until.step is not None and until.epoch is not None:
        yield UserError("recipe", where, "both step and epoch are given", "take one back")
    yield from _number(f"{where}.step", until.step, least=1)
    yield from _number(f"{where}.epoch", until.epoch, above=0)
    yield from _number(f"{where}.plateau", until.plateau, least=1)
    if until.metric is not None:
        yield from _filled(f"{where}.metric", until.metric)


def _stop_gradient(where: str, value: Any) -> Faults:
    tensors = isinstance(value, list) and all(isinstance(tensor, str) for tensor in value)
    if not (isinstance(value, bool) or tensors):
        what = f"{value!r} is not true, false or a list of tensors"
        yield UserError("recipe", where, what, "e.g. [pool4:0]")


def _learn(key: str, rules: list[Any]) -> Faults:
    for number, rule in enumerate(rules):
        where = f"{key}[{number}]"
        if not (isinstance(rule, list) and len(rule) == 2 and isinstance(rule[0], str)):
            yield UserError("recipe", where, f"{rule!r} is no pair of a regex and a rate", 'e.g. ["conv5/.*", 0.1]')
            continue
        pattern, rate = rule
        yield from _regex(where, pattern)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not (math.isfinite(rate) and rate >= 0):
            what = f"the rate {rate!r} is no number of 0 or more"
            yield UserError("recipe", where, what, "it multiplies train.learning_rate")


def _learn_decay(value: float | None) -> Faults:
    if value is not None and not 0 < value <= 1:
        what = f"{value} is no share above 0 and up to 1"
        yield UserError("recipe", "learn_decay", what, "1 is the same rate for all layers; e.g. learn_decay=0.7")


def _weight_decay(value: float | None, optimizer_args: dict[str, Any]) -> Faults:
    yield from _number("train.weight_decay", value, least=0)
    if value is not None and "weight_decay" in optimizer_args:
        what = f"both are given ({value} and {optimizer_args['weight_decay']})"
        yield UserError("recipe", "train.weight_decay, train.optimizer_args", what, "take one of them back")


def _rename(rules: list[Any]) -> Faults:
    for number, rule in enumerate(rules):
        where = f"source.rename[{number}]"
        if not (isinstance(rule, list) and len(rule) == 2 and all(isinstance(part, str) for part in rule)):
            what = f"{rule!r} is no pair of a regex and a replacement"
            yield UserError("recipe", where, what, """e.g. ["^model/", ""]""")
            continue
        if faults := list(_regex(where, rule[0])):
            yield from faults
            continue
        try:
            # The empty alternative matches, so that the replacement is read.
            re.sub(f"{rule[0]}|", rule[1], "")
        except (re.error, IndexError) as error:
            yield UserError("recipe", where, f"'{rule[1]}' is no replacement for '{rule[0]}': {error}")


def _patterns(key: str, patterns: list[str]) -> Faults:
    for number, pattern in enumerate(patterns):
        yield from _regex(f"{key}[{number}]", pattern)


def _regex(where: str, pattern: str) -> Faults:
    try:
        re.compile(pattern)
    except re.error as error:
        yield UserError("recipe", where, f"'{pattern}' is no regular expression: {error}")


def _image_size(size: list[int] | None) -> Faults:
    if size is not None and not (len(size) == 2 and all(side >= 1 for side in size)):
        what = f"{size} is not [height, width] in whole pixels"
        yield UserError("recipe", "data.image_size", what, "e.g. [224, 224]")
