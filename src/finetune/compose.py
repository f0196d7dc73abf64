"""The door to Hydra: words of the command line in, a plain `Recipe` out, and every failure as a `UserError`.

Nothing behind this module knows Hydra or OmegaConf.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import typing
from collections.abc import Iterable
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from finetune import keys, packaged, recipe_files
from finetune.errors import UserError
from finetune.names import did_you_mean
from finetune.recipe import Recipe
from finetune.remote.places import is_remote

EXAMPLE = "python -m finetune recipe=vgg_2class"
# Keys that make no other run.
_WHO_AND_WHERE = ("recipe", "run.dir", "run.wait", "run.wait_for_workers", "run.allow_change", "run.workers")
_WHO_AND_WHERE += ("run.worker", "distribute")

OmegaConf.register_new_resolver("packaged", packaged.asset, replace=True)


@dataclasses.dataclass(frozen=True)
class Composed:
    """One run's recipe, ready to use and ready to store."""

    recipe: Recipe
    yaml: str  # with interpolations as they were written, so that no path of this machine gets into it
    overrides: list[str]


def compose(words: list[str]) -> Composed:
    """The recipe that `recipe=NAME key=value …` means.

    Raises:
      UserError: there is no such recipe, key or value.
    """
    return compose_prepared(prepared(words), words)


def anchored(composed: Composed) -> Composed:
    """The same run, said from any folder: with the whole path of its run folder."""
    recipe, config = composed.recipe, OmegaConf.create(composed.yaml)
    config.run.dir = recipe.run.dir if is_remote(recipe.run.dir) else os.path.abspath(recipe.run.dir or ".")
    there = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, dir=config.run.dir))
    return Composed(there, OmegaConf.to_yaml(config), composed.overrides)


def run_dir(name: str, overrides: Iterable[str]) -> str:
    """Where a run lies if the recipe does not say: a function of its name and its overrides, never of the clock.

    >>> run_dir("vgg_2class", ["recipe=vgg_2class"])
    'runs/vgg_2class'
    >>> run_dir("vgg_2class", ["train.steps=3", "run.seed=1"]) == run_dir("vgg_2class", ["run.seed=1", "train.steps=3"])
    True
    """
    telling = [word for word in overrides if key_in(word) not in _WHO_AND_WHERE and not for_hydra(word)]
    # Sorted by key only: of two values for one key the later one counts, so their order stays.
    text = "\n".join(sorted(telling, key=key_in))
    return f"runs/{name}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}" if telling else f"runs/{name}"


def print_recipe(flags: list[str], words: list[str]) -> int:
    """Leaves it to Hydra to print the recipe (`--cfg job`)."""
    argv, environment = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    try:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, do not print
        sys.argv = [argv[0], *flags, *prepared(words)]
        hydra.main(config_path=str(packaged.configs()), config_name="finetune", version_base="1.3")(_nothing)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error) from error
    finally:
        sys.argv = argv
        if environment is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
    return 0


def _nothing(config: DictConfig) -> None:
    """What Hydra would start."""


# From words to what Hydra composes


def prepared(words: list[str], sweep: bool = False) -> list[str]:
    """The words in Hydra's grammar, with every recipe that they name registered and every key known."""
    for word in words:
        _spelled(word)
    choices = [word.partition("=")[2] for word in words if key_in(word) == "recipe"]
    if not choices or not choices[-1]:
        more = (*recipe_files.listing(recipe_files.known()), f"example: {EXAMPLE}")
        raise UserError("recipe", "recipe", "not given", "add recipe=NAME", *more)
    choice = choices[-1]
    if "," in choice and not sweep and not recipe_files.is_path(choice):
        raise _several("recipe", choice)
    names = _register(choice.split(",") if sweep else [choice])
    others = [_readable(word, sweep) for word in words if key_in(word) != "recipe"]
    spelled = (name if name.replace("-", "_").isidentifier() else _quoted(name) for name in names)
    return [f"recipe={','.join(spelled)}", *others]


def _spelled(word: str) -> None:
    """Refuses a word that is no `key=value`, or whose key is unknown."""
    key, equals, value = word.partition("=")
    if word.startswith(("+", "~")) and not for_hydra(word):
        plain = f"{key.lstrip('+~')}={value or 'null' if word.startswith('~') else value}"
        raise UserError("recipe", word, "keys are neither added nor removed, only set", f"write {plain}")
    if not equals or not key:
        known = recipe_files.known()
        guess = f"did you mean recipe={word}?" if word in known or recipe_files.is_path(word) else "write key=value"
        raise UserError("recipe", word, "is not key=value", guess)
    if key != "recipe" and not for_hydra(word):
        keys.refuse_unknown(key)


def _readable(word: str, sweep: bool) -> str:
    """The word in Hydra's grammar, in which values are typed and keys are short."""
    key, _, value = word.partition("=")
    tensor = key.removeprefix("source.feeds.")
    if tensor != key and (":" in tensor or "/" in tensor):
        # Hydra has no such keys on the left of the equals sign, but it has them in a mapping.
        word = f"source.feeds={{{tensor.replace(':', chr(92) + ':')}:{value}}}"
    # A path such as /data/user=me/café is no value in Hydra's grammar, and a name such as 1e5 is a number.
    text = keys.is_text(key) and not set(value) & set("'\"\\")
    try:
        (parsed,) = OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        if text:
            return f"{key}={_quoted(value)}"
        more = """a regex or text with special characters stands in two kinds of quotes: 'learn=[["(a|b)/.*", 0.1]]'"""
        raise UserError("recipe", key, f"cannot read {word}", "is a quote or bracket missing?", more) from None
    if parsed.is_sweep_override():
        if not sweep:
            raise _several(key, value)
    elif text and isinstance(parsed.value(), (bool, int, float)):
        return f"{key}={_quoted(value)}"
    return word


def _several(key: str, value: str) -> UserError:
    todo = "add --multirun to train with each; write a list in brackets, and text with a comma in two kinds of quotes"
    return UserError("recipe", key, f"'{value}' is several values", todo)


def _quoted(text: str) -> str:
    return f"'{text}'"


def _register(choices: list[str]) -> list[str]:
    """Puts the schema, the chosen recipes and those that they derive from where Hydra finds them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=_schema())
    chosen = [recipe_files.find(choice) for choice in choices]
    names = [path.stem for path in chosen]
    for name, (file, content) in recipe_files.family(chosen).items():
        keys.refuse_unknown_in(keys.ours(content), str(file))
        _refuse_mistyped(keys.ours(content), str(file))
        node = {"name": name} | content if name in names else content
        store.store(group="recipe", name=name, package="_global_", node=OmegaConf.create(node))
    return names


def _schema() -> DictConfig:
    schema = OmegaConf.structured(Recipe)
    for key in keys.OPEN:  # otherwise Hydra closes them with all the rest, and a new key in them needs a +
        OmegaConf.set_struct(OmegaConf.select(schema, key), False)
    return schema


def compose_prepared(line: list[str], words: list[str]) -> Composed:
    """The recipe of words in Hydra's grammar; `words` are those that its folder is a function of."""
    try:
        with hydra.initialize_config_dir(str(packaged.configs()), version_base="1.3"):
            config = hydra.compose("finetune", line)
    except Exception as error:  # some of what a defaults list can hold ends in an assertion
        raise explained(error) from error
    return _composed(config, words)


def _composed(config: DictConfig, words: list[str]) -> Composed:
    """The plain objects; the last step, at which interpolations are resolved and nothing may be missing."""
    try:
        if missing := OmegaConf.missing_keys(config):
            absent = sorted(missing, key=[*keys.KINDS, *missing].index)  # in the order of the schema
            todo = f"add {' '.join(f'{key}=…' for key in absent)} or write it into the recipe"
            raise UserError("recipe", ", ".join(absent), "not given", todo)
        config.run.dir = config.run.dir or run_dir(config.name, words)
        recipe = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explained(error) from error
    return Composed(_at_home(typing.cast(Recipe, recipe)), OmegaConf.to_yaml(config), words)


def _at_home(recipe: Recipe) -> Recipe:
    # No shell expands the ~ of data.path=~/images.
    for group, name in (
        (recipe.source, "path"),
        (recipe.data, "path"),
        (recipe.data, "eval_path"),
        (recipe.run, "dir"),
    ):
        if (path := getattr(group, name)) is not None:
            setattr(group, name, os.path.expanduser(path))
    return recipe


def key_in(word: str) -> str:
    """What a word sets."""
    return word.partition("=")[0].lstrip("+~")


def for_hydra(word: str) -> bool:
    """Whether a word says how something is started, and not what."""
    return key_in(word).startswith(("hydra.", "hydra/"))


def _refuse_mistyped(content: dict[str, Any], file: str) -> None:
    """Hydra would find it too, but does not name the file."""
    try:
        OmegaConf.merge(_schema(), content)
    except OmegaConfBaseException as error:
        raise explained(error, file) from error


def explained(error: Exception, file: str = "") -> UserError:
    """What Hydra or OmegaConf has to say, in a line of ours."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException) or not cause.full_key:
        return UserError("recipe", file or "recipe", _first_line(error))
    key = cause.full_key
    wanted, what = keys.wanted(key), _first_line(cause)
    if isinstance(cause, ConfigKeyError) and dataclasses.is_dataclass(cause.object_type):
        known = [field.name for field in dataclasses.fields(cause.object_type)]
        group = cause.object_type.__name__.lower()
        where, what = file or "phases", f"'{cause.key}' is no key of {group}"
        return UserError("recipe", where, what, did_you_mean(str(cause.key), known) or f"known are {', '.join(known)}")
    if isinstance(cause, InterpolationResolutionError):
        what = what.rpartition("raised while resolving interpolation: ")[2].strip('"')
    elif wanted and isinstance(cause, ConfigTypeError):
        what = f"has to be {wanted}"
    elif wanted and isinstance(cause, ValidationError):
        what = f"{keys.shown(cause.value)} is not {wanted}"
    return UserError("recipe", file or key, f"{key}: {what}" if file else what)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
