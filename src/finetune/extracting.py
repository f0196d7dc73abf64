"""The features at the cut, in a file: those of the source, or of a finished run.

usage: python -m finetune extract RUN --out FILE [options] [key=value …]
       python -m finetune extract recipe=NAME --out FILE [options] [key=value …]

  RUN               a run folder: features of its finished pair; with it only keys that begin with data. or eval.
  recipe=NAME       features of the pair that a recipe starts from; nothing is trained
  key=value         a key of the recipe, e.g. data.path=images

options:
      --out FILE    FILE.npz, or FILE.tfrecord
      --cut TENSOR  there, and not at the recipe's cuts; may be given several times
      --shards N    so many TFRecord files, NAME-00000-of-0000N.tfrecord
      --best        the pair in best/ and not the final one

A row for each example, those to train on first: the features under the name of each cut, `id` (file or row),
`held_out`, and what each head is to learn under its name, with the name of the class under HEAD/label.

examples:
  python -m finetune extract recipe=vgg_2class --out features.npz
  python -m finetune extract recipe=vgg_2class data.path=images --cut fc7 --cut pool3 --out features.npz
  python -m finetune extract runs/vgg_2class --out features.tfrecord --shards 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.calibrating.setting import Choice, as_given
from finetune.check import check
from finetune.errors import UserError, printable
from finetune.finished import engine_of, find_model, stored_recipe
from finetune.parser import Parser
from finetune.plan import Plan, make_plan, read_at, read_pair
from finetune.recipe import Recipe
from finetune.remote.fetching import run_at_hand
from finetune.results.card import read_card
from finetune.results.feature_files import SUFFIXES, key, names, open_sink
from finetune.start import start_tensorflow
from finetune.surgery.source import Source

USAGE = "write extract RUN|recipe=NAME --out FILE.npz|FILE.tfrecord [--cut TENSOR] [--shards N] [--best] [key=value …]"


def extract(words: list[str]) -> int:
    """Writes the features of every example and says what was written."""
    options, overrides = _options(words)
    out = Path(options.out)
    recipe, plan, source = _sources(options, overrides)
    start_tensorflow(engine_of(Path(options.run)) if options.run is not None else Choice(as_given(recipe)))
    from finetune.running.answering import answers, make_answer

    answer = make_answer(source, recipe.run.seed, recipe.source.allow_nonfinite)
    size = recipe.eval.batch_size or plan.portion
    began, shapes = time.monotonic(), {}
    with open_sink(out, columns(plan), options.shards) as sink:
        first = 0
        for examples in (plan.training, plan.held_out):
            for found in answers(source, examples, recipe.data, size, answer):
                sink.add(first + found.places, found.rows)
                shapes |= {cut: rows for cut, rows in found.rows.items()}
            first += len(examples)
    seconds = time.monotonic() - began
    for cut, rows in shapes.items():
        print(printable(f"{key(cut)}: {rows.dtype} {(first, *rows.shape[1:])}".replace(",)", ")")))
    print(printable(f"{first} examples, {first / seconds:.0f} in a second"))
    for file in names(out, options.shards):
        print(printable(f"written: {file}, {file.stat().st_size / 1e6:.1f} MB"))
    return 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("extract", USAGE)
    parser.add_argument("run", metavar="RUN", nargs="?")
    parser.add_argument("--out", metavar="FILE", required=True)
    parser.add_argument("--cut", metavar="TENSOR", action="append", default=[])
    parser.add_argument("--shards", metavar="N", type=int, default=1)
    parser.add_argument("--best", action="store_true")
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in words if word not in overrides])
    if (options.run is None) != any(word.startswith("recipe=") for word in overrides):
        raise UserError("recipe", "extract", "takes a run folder or recipe=NAME, one of the two", USAGE)
    if options.best and options.run is None:
        raise UserError("recipe", "--best", "goes with a run folder", "leave it out")
    out = Path(options.out)
    if out.suffix not in SUFFIXES:
        raise UserError("recipe", "--out", f"'{out}' does not end in {' or '.join(SUFFIXES)}", "that says how to write")
    if options.shards < 1 or (options.shards > 1 and out.suffix == ".npz"):
        what = f"{options.shards} is not 1 or more" if options.shards < 1 else "a .npz is one file"
        raise UserError("recipe", "--shards", what, "leave it out, or write a .tfrecord")
    if taken := [file for file in names(out, options.shards) if file.exists()]:
        raise UserError("recipe", "--out", f"'{taken[0]}' is there already", "name another file, or remove it")
    return options, overrides


def _sources(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[Recipe, Plan, Source]:
    """The recipe, what it plans, and the pair whose features are asked for."""
    if options.run is None:
        from finetune.compose import compose

        recipe = compose(list(overrides)).recipe
        check(recipe)
        plan = make_plan(recipe)
        return recipe, plan, read_at(recipe, options.cut) if options.cut else plan.source
    options.run = run_at_hand(options.run)
    run = Path(options.run)
    model = find_model(run, options.best)
    recipe = stored_recipe(run, overrides)
    check(recipe)
    plan = make_plan(recipe)
    cuts = options.cut or list(plan.source.cuts)
    return recipe, plan, read_pair(recipe, str(model), cuts, read_card(model).inputs)


def columns(plan: Plan) -> dict[str, np.ndarray]:
    """What is known of every example, those to train on first."""
    parts = plan.training, plan.held_out
    found = {
        "id": np.array([source for part in parts for source in part.sources], object),
        "held_out": np.concatenate([np.full(len(part), part is plan.held_out) for part in parts]),
    }
    for task in plan.tasks:
        found[task.name] = np.concatenate([part.targets[task.name] for part in parts])
        if task.is_exclusive:
            found[f"{task.name}/label"] = np.array(task.classes, object)[found[task.name]]
    return found
