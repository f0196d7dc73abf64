"""Values that cannot be meant are refused before TensorFlow is imported."""

from __future__ import annotations

import pytest

from finetune.check import OPTIMIZERS, check
from finetune.errors import UserError
from finetune.recipe import Augment, Data, Recipe, Source, Train


def good() -> Recipe:
    return Recipe(
        name="r",
        source=Source(path="pair"),
        cut="fc7:0",
        data=Data(path="images", preprocess="unit"),
        train=Train(steps=3),
    )


def test_a_good_recipe_passes():
    check(good())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("source.path", " ", "source.path: is empty"),
        ("cut", "", "cut: is empty"),
        ("head.kind", "Linear", "'Linear' is not one of linear, mlp, conv; did you mean linear?"),
        ("head.pool", "average", "'average' is not one of avg, max, flatten; did you mean avg?"),
        ("head.classes", 1, "head.classes: 1 is not 2 or more"),
        ("engine.mode", "fast", "engine.mode: 'fast' is not one of auto, default"),
        ("engine.threads", 0, "engine.threads: 0 is not 1 or more"),
        ("head.name", "_head", "'_head' cannot be the scope"),
        ("head.name", "", "'' cannot be the scope"),
        ("head.name", "my head", "'my head' cannot be the scope"),
        (
            "data.kind",
            "image",
            "'image' is not one of images, arrays, tfrecord, csv, tfds, python, synthetic; did you mean images?",
        ),
        ("data.path", None, "data.path: not given, and data.kind is images"),
        ("data.holdout", 1.0, "data.holdout: 1.0 is no share"),
        ("data.holdout", float("nan"), "data.holdout: nan is no share"),
        ("data.image_size", [224], "[224] is not [height, width]"),
        ("data.image_size", [224, 0], "[224, 0] is not [height, width]"),
        ("train.steps", -1, "train.steps: -1 is not 0 or more"),
        ("train.steps", None, "train.steps, train.epochs: neither is given"),
        ("train.epochs", 2.0, "train.steps, train.epochs: both are given (3 and 2)"),
        ("train.batch_size", 0, "train.batch_size: 0 is not 1 or more"),
        ("train.learning_rate", 0.0, "train.learning_rate: 0.0 is not greater than 0"),
        ("train.learning_rate", float("inf"), "train.learning_rate: inf is not greater than 0"),
        ("data.eval_crop", 0.0, "data.eval_crop: 0.0 is not greater than 0"),
        ("data.eval_crop", 1.2, "data.eval_crop: 1.2 is more than the whole"),
        ("data.augment", Augment(preset="big"), "data.augment.preset: 'big' is not one of light, medium, strong"),
        ("train.mixup", -0.1, "train.mixup: -0.1 is not 0 or more"),
        ("train.cutmix", float("inf"), "train.cutmix: inf is not 0 or more"),
        ("train.optimizer", "Adam", "did you mean adam"),
        ("train.schedule_end", 1.0, "train.schedule_end: 1.0 is no share"),
        ("train.schedule_end", 0.1, "train.schedule_end: 0.1, but the schedule constant has no end"),
        ("train.schedule", "exponential", "train.schedule_end: 0, which an exponential never reaches"),
        ("train.schedule", "step", "train.decay_steps: [], and train.schedule is step"),
        ("train.decay_steps", [60], "train.decay_steps: [60], and train.schedule is constant"),
        ("train.decay_rate", 0.0, "train.decay_rate: 0.0 is not greater than 0"),
        ("train.accumulate", 0, "train.accumulate: 0 is not 1 or more"),
        ("train.accumulate", 5, "train.accumulate: a batch of 32 has no 5 equal portions"),
        ("train.ema", 1.0, "train.ema: 1.0 is no share"),
        ("train.ema", -0.1, "train.ema: -0.1 is no share"),
        ("train.precision", "half", "'half' is not one of float32, mixed_bfloat16, mixed_float16"),
        ("train.log_every_steps", 0, "train.log_every_steps: 0 is not 1 or more"),
        ("eval.every_steps", 0, "eval.every_steps: 0 is not 1 or more"),
        ("eval.batch_size", 0, "eval.batch_size: 0 is not 1 or more"),
        ("checkpoint.every_steps", 0, "checkpoint.every_steps: 0 is not 1 or more"),
        ("checkpoint.every_minutes", 0.0, "checkpoint.every_minutes: 0.0 is not greater than 0"),
        ("checkpoint.keep", 0, "checkpoint.keep: 0 is not 1 or more"),
        ("checkpoint.keep_every_hours", -1.0, "checkpoint.keep_every_hours: -1.0 is not greater than 0"),
        ("run.seed", -1, "run.seed: -1 is not 0 or more"),
        ("run.wait_for_workers", 0.0, "run.wait_for_workers: 0.0 is not greater than 0"),
        ("stop_gradient", "fc7:0", "'fc7:0' is not true, false or a list of tensors"),
        ("stop_gradient", [1], "[1] is not true, false or a list of tensors"),
        ("stop_gradient", None, "None is not true, false or a list of tensors"),
        ("source.weights", "average", "'average' is not one of saved, averages; did you mean averages"),
        ("source.rename", ["a"], "source.rename[0]: 'a' is no pair of a regex and a replacement"),
        ("source.rename", [["a", "b"], ["a", 1]], "source.rename[1]: ['a', 1] is no pair"),
        ("source.rename", [["(a", "b"]], "source.rename[0]: '(a' is no regular expression"),
        ("source.rename", [["a", "\\1"]], "source.rename[0]: '\\1' is no replacement for 'a'"),
        ("source.allow_missing", ["a", "(b"], "source.allow_missing[1]: '(b' is no regular expression"),
        ("learn", ["conv5"], "learn[0]: 'conv5' is no pair of a regex and a rate"),
        ("learn", [["a", 1.0], ["(b", 1.0]], "learn[1]: '(b' is no regular expression"),
        ("learn", [["a", -0.1]], "learn[0]: the rate -0.1 is no number of 0 or more"),
        ("learn", [["a", True]], "learn[0]: the rate True is no number of 0 or more"),
        ("learn_decay", 0.0, "learn_decay: 0.0 is no share above 0 and up to 1"),
        ("learn_decay", 1.5, "learn_decay: 1.5 is no share above 0 and up to 1"),
        ("learn_decay", float("nan"), "learn_decay: nan is no share"),
        ("lora.match", ["a", "(b"], "lora.match[1]: '(b' is no regular expression"),
        ("lora.rank", 0, "lora.rank: 0 is not 1 or more"),
        ("lora.alpha", 0.0, "lora.alpha: 0.0 is not greater than 0"),
        ("train.weight_decay", -0.1, "train.weight_decay: -0.1 is not 0 or more"),
        ("train.decay_exclude", ["(b"], "train.decay_exclude[0]: '(b' is no regular expression"),
        ("train.l2_sp", -1.0, "train.l2_sp: -1.0 is not 0 or more"),
        ("train.l2_head", float("inf"), "train.l2_head: inf is not 0 or more"),
    ],
)
def test_135_a_value_that_cannot_be_meant_is_refused(key, value, message):
    recipe = good()
    group, _, name = key.rpartition(".")
    setattr(getattr(recipe, group) if group else recipe, name, value)
    with pytest.raises(UserError) as caught:
        check(recipe)
    assert message in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize("value", [True, False, [], ["pool4:0", "pool5:0"]])
def test_stop_gradient_may_be_a_switch_or_tensors(value):
    recipe = good()
    recipe.stop_gradient = value
    check(recipe)


@pytest.mark.parametrize("rule", [["^a/", ""], ["(?i)A(b)|c", r"\g<1>"], ["$", "/x"]])
def test_what_re_sub_takes_is_a_rule(rule):
    recipe = good()
    recipe.source.rename = [rule]
    check(recipe)


def test_137_weight_decay_is_said_once():
    recipe = good()
    recipe.train.weight_decay = 0.1
    check(recipe)
    recipe.train.optimizer_args = {"weight_decay": 0.2}
    with pytest.raises(UserError, match=r"train.weight_decay, train.optimizer_args: both are given \(0.1 and 0.2\)"):
        check(recipe)


def test_mixing_takes_two():
    recipe = good()
    recipe.train.batch_size = 1
    check(recipe)
    recipe.train.mixup = 0.2
    with pytest.raises(UserError, match=r"train.batch_size: one example has no other to be mixed with"):
        check(recipe)


def test_made_up_data_needs_no_path():
    recipe = good()
    recipe.data.kind, recipe.data.path = "synthetic", None
    check(recipe)


@pytest.mark.slow
def test_keras_has_the_optimizers_that_are_written_down():
    keras = pytest.importorskip("keras")
    for name in OPTIMIZERS:
        assert type(keras.optimizers.get(name)).__name__.lower() == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"balance": "sampled"}, "data.balance: 'sampled' is not one of none, sampling; did you mean sampling?"),
        ({"group": "(a"}, "data.group: '(a' is no regular expression"),
        ({"columns": {"x": ["a"]}}, "data.columns: is given, and data.kind is images"),
        ({"args": {"x": 1}}, "data.args: is given, and data.kind is images"),
        ({"kind": "csv", "preprocess": "none", "columns": {"x": [1]}}, "data.columns.x: [1] is no list of columns"),
        ({"bucket": [4, 2]}, "data.bucket: [4, 2] are no rising lengths"),
        ({"bucket": [0, 2]}, "data.bucket: [0, 2] are no rising lengths"),
        ({"classes": ["a", "a"]}, "data.classes: ['a', 'a'] are not two or more different names"),
    ],
)
def test_words_about_data_that_cannot_be_meant_are_refused(data, message):
    recipe = good()
    for name, value in data.items():
        setattr(recipe.data, name, value)
    with pytest.raises(UserError) as caught:
        check(recipe)
    assert message in str(caught.value)


@pytest.mark.parametrize("at", ["60", 1.5, 0, -3, True, float("nan"), None])
def test_a_decay_step_is_a_whole_step_or_a_share(at: object):
    recipe = good()
    recipe.train.schedule, recipe.train.decay_steps = "step", [at]
    with pytest.raises(UserError, match="is neither a whole step nor a share"):
        check(recipe)


def test_all_faults_are_told_at_once():
    recipe = good()
    recipe.cut, recipe.train.batch_size, recipe.run.seed, recipe.head.pool = "", 0, -1, "average"
    with pytest.raises(UserError) as refused:
        check(recipe)
    assert str(refused.value).splitlines() == [
        "error[recipe] head.pool: 'average' is not one of avg, max, flatten; did you mean avg?",
        "  cut: is empty; write cut=…",
        "  train.batch_size: 0 is not 1 or more",
        "  run.seed: -1 is not 0 or more",
    ]
    recipe.eval.every_steps, recipe.checkpoint.keep = 0, 0
    with pytest.raises(UserError) as refused:
        check(recipe)
    lines = str(refused.value).splitlines()
    assert (len(lines), lines[-1]) == (5, "  and 2 more")
