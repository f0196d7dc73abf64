"""Recipes and overrides become plain objects, and what is wrong with them is said in a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune import packaged
from finetune.check import check
from finetune.compose import compose, run_dir
from finetune.errors import UserError
from finetune.recipe import Recipe
from finetune.recipe_files import differences

DERIVED = "defaults: [vgg_2class, _self_]\n"


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(list(words))
    assert caught.value.status == 2
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


def value_of(key: str, *words: str):
    value = compose(["recipe=vgg_2class", *words]).recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_every_recipe_that_ships_composes_and_passes(workdir):
    for path in packaged.recipes().glob("*.yaml"):
        recipe = compose([f"recipe={path.stem}"]).recipe
        assert type(recipe) is Recipe
        assert recipe.name == path.stem
        check(recipe)


def test_composing_writes_nothing_and_stays_in_its_folder(workdir):
    compose(["recipe=vgg_2class"])
    assert os.listdir() == []
    assert Path.cwd() == workdir


def test_the_text_for_the_run_folder_has_no_path_of_this_machine(workdir):
    composed = compose(["recipe=vgg_2class"])
    assert Path(composed.recipe.source.path).is_absolute()
    assert "${packaged:demo/small_vgg}" in composed.yaml
    assert str(packaged.recipes().parent) not in composed.yaml


def test_the_stored_text_is_a_recipe_that_means_the_same(workdir):
    composed = compose(["recipe=vgg_2class", "train.steps=7", "source.feeds.a/b:0=0.5", "cut=3:0"])
    Path("stored.yaml").write_text(composed.yaml)
    again = compose(["recipe=stored.yaml"])
    assert again.recipe == composed.recipe
    assert differences(composed.yaml, again.yaml) == []


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("train.steps=3", "train.steps", 3),
        ("train.steps=null", "train.steps", None),
        ("train.epochs=2", "train.epochs", 2.0),
        ("train.learning_rate=1e-2", "train.learning_rate", 0.01),
        ("train.optimizer_args.momentum=0.9", "train.optimizer_args", {"momentum": 0.9}),
        ("source.inputs.images=images:0", "source.inputs", {"images": "images:0"}),
        ("source.feeds.keep_prob=0.5", "source.feeds", {"keep_prob": 0.5}),
        ("source.feeds.keep_prob={train:0.5,eval:1.0}", "source.feeds", {"keep_prob": {"train": 0.5, "eval": 1.0}}),
        ("source.feeds.is_training=false", "source.feeds", {"keep_prob": 1.0, "is_training": False}),
        ("source.feeds.keep_prob:0=0.5", "source.feeds", {"keep_prob": 1.0, "keep_prob:0": 0.5}),
        ("source.feeds.m/phase.x:0={eval:2}", "source.feeds", {"keep_prob": 1.0, "m/phase.x:0": {"eval": 2}}),
        ('learn=[["conv5/.*",0.1]]', "learn", [["conv5/.*", 0.1]]),
        ("learn=[[conv5/.*,0.1]]", "learn", [["conv5/.*", 0.1]]),
        ("stop_gradient=false", "stop_gradient", False),
        ("stop_gradient=[pool4:0,pool5:0]", "stop_gradient", ["pool4:0", "pool5:0"]),
        ("data.image_size=[64,48]", "data.image_size", [64, 48]),
        ("cut=conv5_3/Relu:0", "cut", "conv5_3/Relu:0"),
        ("cut=3:0", "cut", "3:0"),
        ("cut=1e5", "cut", "1e5"),
        ("cut='fc6:0'", "cut", "fc6:0"),
        ("source.path=/data/user=me/café (1)/m", "source.path", "/data/user=me/café (1)/m"),
        ("source.path=~/m", "source.path", str(Path("~/m").expanduser())),
        ("source.path=folder/", "source.path", "folder/"),
        ("source.path=~nobody-of-that-name/m", "source.path", "~nobody-of-that-name/m"),
        ("run.dir=/scratch/me", "run.dir", "/scratch/me"),
    ],
)
def test_a_word_sets_its_key_without_a_plus(workdir, word, key, value):
    assert value_of(key, word) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian.steps=3", "trian.steps: unknown key; did you mean train.steps?"),
        ("train.step=3", "train.step: unknown key; did you mean train.steps?"),
        ("seed=3", "seed: unknown key; did you mean run.seed?"),
        ("cut.x=3", "cut.x: unknown key; did you mean cut?"),
        ("zzz=3", "zzz: unknown key; known are name, source, cut"),
        ("train.steps=abc", "train.steps: 'abc' is not a whole number"),
        ("train.steps=3.5", "train.steps: 3.5 is not a whole number"),
        ("train.steps=true", "train.steps: true is not a whole number"),
        ("train.steps=", "train.steps: '' is not a whole number"),
        ("train.learning_rate=fast", "train.learning_rate: 'fast' is not a number"),
        ("train.batch_size=null", "train.batch_size: null is not a whole number"),
        ("data.image_size=64", "data.image_size: 64 is not a list"),
        ("data.image_size=[64,x]", "data.image_size[1]: 'x' is not a whole number"),
        ("source.feeds=1", "source.feeds: 1 is not a mapping"),
        ("cut=[a,b]", "cut: ['a', 'b'] is not text"),
        ("train=3", "train: 3 is not a group of keys such as train.steps"),
        ("source=[]", "source: has to be a group of keys such as source.path"),
        ("train.steps", "train.steps: is not key=value; write key=value"),
        ("vgg_2class", "vgg_2class: is not key=value; did you mean recipe=vgg_2class?"),
        ("=3", "=3: is not key=value"),
        ("cut='fc7:0", "cut: cannot read cut='fc7:0; is a quote or bracket missing?"),
        ("learn=[[(a|b),1]]", "two kinds of quotes"),
        ("train.steps=3,4", "train.steps: '3,4' is several values; add --multirun"),
        ("+train.steps=3", "only set; write train.steps=3"),
        ("+foo=3", "only set; write foo=3"),
        ("~train.steps", "only set; write train.steps=null"),
        ("source.feeds.x=???", "source.feeds.x: not given"),
        ("cut=${nope}", "cut: Interpolation key 'nope' not found"),
        ("cut=${cut}", "cut: Recursive interpolation detected"),
        ("data.path=${oc.env:NO_SUCH_NAME}", "data.path: Environment variable 'NO_SUCH_NAME' not found"),
        ("source.path=${packaged:demo/none_such}", "source.path: the package has no asset 'demo/none_such'"),
        ("hydra.nope=3", "hydra.nope: Key 'nope' not in"),
        ("hydra/launcher=nope", "Could not find 'hydra/launcher/nope'"),
        ("recipe=vgg_2clas", "no recipe named 'vgg_2clas'; did you mean vgg_2class or "),
        ("recipe=a,b", "recipe: 'a,b' is several values; add --multirun"),
    ],
)
def test_134_135_a_wrong_word_is_refused_in_one_line(workdir, word, message):
    assert message in refusal("recipe=vgg_2class", word)


def test_without_a_recipe_the_recipes_are_listed(workdir):
    text = refusal("train.steps=3")
    assert "recipe: not given" in text
    listed = text.split("recipes: ")[1].splitlines()[0]
    assert "vgg_2class" in listed.split(", ")
    assert "example: python -m finetune recipe=vgg_2class" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {steps: 3}\n", "mine.yaml: unknown key trian; did you mean train?"),
        ("train: {stepz: 3}\n", "mine.yaml: unknown key train.stepz; did you mean train.steps?"),
        ("train: {steps: abc}\n", "mine.yaml: train.steps: 'abc' is not a whole number"),
        ("source:\n", "mine.yaml: source: null is not a group of keys such as source.path"),
        ("learn: conv5\n", "mine.yaml: learn: 'conv5' is not a list"),
        ("train:\n\tsteps: 3\n", "mine.yaml:2: "),
        ("defaults: [3]\n", "Unsupported type in defaults"),
        ("defaults: [/train: long]\n", "In 'recipe/mine': Could not find 'train/long'"),
        ("{}\n", "source.path, cut, data.preprocess: not given; add source.path=… cut=… data.preprocess=…"),
    ],
)
def test_134_135_136_a_wrong_recipe_file_is_named(workdir, text, message):
    Path("recipes").mkdir()
    Path("recipes/mine.yaml").write_text(text)
    assert message in refusal("recipe=mine")


def test_a_recipe_by_path_works_from_anywhere(tmp_path, workdir, monkeypatch):
    Path("mine.yaml").write_text(DERIVED + "train: {steps: 3}\n")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    recipe = compose([f"recipe={tmp_path / 'mine.yaml'}"]).recipe
    assert (recipe.name, recipe.train.steps, recipe.cut) == ("mine", 3, "fc7:0")
    assert compose(["recipe=../mine.yaml"]).recipe == recipe


def test_a_derived_recipe_adds_to_its_base_and_keeps_its_own_name(workdir):
    Path("a b.yaml").write_text(
        "defaults: [vgg_2class]\ntrain: {steps: 3}\nsource: {feeds: {keep_prob:0: {train: 0.5, eval: 1.0}}}\n"
    )
    Path("second.yaml").write_text("defaults: ['a b', _self_]\nrun: {seed: 5}\n")
    recipe = compose(["recipe=second.yaml"]).recipe
    assert (recipe.name, recipe.train.steps, recipe.run.seed) == ("second", 3, 5)
    assert recipe.source.feeds == {"keep_prob": 1.0, "keep_prob:0": {"train": 0.5, "eval": 1.0}}
    assert recipe.run.dir == "runs/second"
    assert compose(["recipe=a b.yaml"]).recipe.run.dir == "runs/a b"


def test_the_run_folder_is_a_function_of_recipe_and_overrides(workdir):
    assert value_of("run.dir") == "runs/vgg_2class"
    first = value_of("run.dir", "train.steps=3")
    assert first == value_of("run.dir", "train.steps=3") != value_of("run.dir", "train.steps=4")
    assert value_of("run.dir", "hydra.job.name=x") == "runs/vgg_2class"
    same = ["run.wait=true", "run.wait_for_workers=9", "run.allow_change=[cut]", "distribute=none", "run.worker=1"]
    assert run_dir("r", ["recipe=r", *same]) == "runs/r"  # or what goes on with a run would begin another
    folder = run_dir("r", ["recipe=r", "train.steps=3", "run.dir=x"])
    assert folder.startswith("runs/r-")
    assert len(folder) == len("runs/r-") + 8
    assert run_dir("r", ["cut=a", "cut=b"]) != run_dir("r", ["cut=b", "cut=a"])


def test_differences_are_keys_with_both_values():
    old = "name: a\ntrain: {steps: 3, optimizer_args: {}}\nlearn: [[a, 1.0]]\n"
    new = "name: a\ntrain: {steps: 4, optimizer_args: {momentum: 0.9}}\nlearn: [[a, 2.0]]\ncut: fc7:0\n"
    assert differences(old, new) == [
        ("train.steps", 3, 4),
        ("train.optimizer_args", {}, None),
        ("learn", [["a", 1.0]], [["a", 2.0]]),
        ("train.optimizer_args.momentum", None, 0.9),
        ("cut", None, "fc7:0"),
    ]
    assert differences(new, new) == []
