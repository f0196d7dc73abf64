"""What a finished run says of images or rows that have no labels.

usage: python -m finetune predict RUN PATH [PATH …] [options] [key=value …]

  RUN               a run folder, e.g. runs/vgg_2class
  PATH              images, and folders of them; or the file of rows that the data.kind of the run reads
  key=value         a key of the recipe that begins with data. or eval., e.g. eval.batch_size=64

options:
      --best        the pair in best/ and not the final one
      --top K       so many classes of each example, the most probable first (3)
      --json        a JSON object a line, for programs
      --csv         a CSV table: id, prediction, probability
      --out FILE    write there, and not to the terminal

An image that cannot be decoded is named at the end, when all others are done, and the exit status is 2 then.

examples:
  python -m finetune predict runs/vgg_2class photos
  python -m finetune predict runs/vgg_2class a.png b.png --json
  python -m finetune predict runs/regression pictures.npz --csv --out ink.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from finetune.check import check
from finetune.errors import UserError, printable
from finetune.examples.data import Examples
from finetune.examples.folders import SUFFIXES
from finetune.examples.kinds import read_kind
from finetune.examples.tasks import Task
from finetune.finished import engine_of, find_model, stored_recipe
from finetune.judging.evaluate import Evaluation
from finetune.judging.findings import probabilities
from finetune.parser import Parser
from finetune.plan import read_pair
from finetune.recipe import Recipe
from finetune.remote.fetching import data_at_hand, run_at_hand
from finetune.results.card import Card, HeadCard, read_card
from finetune.start import start_tensorflow
from finetune.surgery.source import Source

USAGE = "write predict RUN PATH [PATH …] [--best] [--top K] [--json|--csv] [--out FILE]"
BAD = 2  # the exit status where something could not be read

Write = Callable[[Sequence[str], Mapping[str, Evaluation]], None]  # of a batch: names, and answers by head


def predict(words: list[str]) -> int:
    """Prints a line for each example."""
    options, overrides = _options(words)
    options.run = run_at_hand(options.run)
    run = Path(options.run)
    model = find_model(run, options.best)
    card = read_card(model)
    recipe = stored_recipe(run, overrides)
    check(recipe)
    heads = {head: _output(found) for head, found in card.heads.items()}
    source = read_pair(recipe, str(model), list(heads.values()), card.inputs)
    examples = _examples(recipe, source, options.paths)
    if options.out is None:
        return _run(options, recipe, source, examples, card, sys.stdout)
    aside = Path(f"{options.out}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="") as out:
            status = _run(options, recipe, source, examples, card, out)
        os.replace(aside, options.out)
    finally:
        aside.unlink(missing_ok=True)
    print(printable(f"written: {options.out}"))
    return status


def _run(
    options: argparse.Namespace, recipe: Recipe, source: Source, examples: Examples, card: Card, out: TextIO
) -> int:
    start_tensorflow(engine_of(Path(options.run)))
    from finetune.running.answering import answers, make_answer, unreadable

    answer = make_answer(source, recipe.run.seed, recipe.source.allow_nonfinite)
    write = FORMS[options.form](card, out, options.top)
    size = source.batch_size or recipe.eval.batch_size or recipe.train.batch_size
    bad: list[str] = []
    while len(examples):
        done = 0
        try:
            for found in answers(source, examples, recipe.data, size, answer):
                write([examples.sources[int(place)] for place in found.places], _judged(card, found.rows))
                done += len(found.places)
                out.flush()
            break
        except UserError:
            if bad or examples.arrays is not None:
                raise
        # Only now each file is tried by itself: as a rule all are good, and decoding takes the longest.
        rest = examples.where(np.arange(len(examples)) >= done)
        bad = unreadable(source, rest, recipe.data)
        names = {said.rpartition(" (")[0] for said in bad}
        examples = rest.where(np.array([file not in names for file in rest.sources]))
    for said in bad:
        print(printable(f"not read: {said}"), file=sys.stderr)
    return BAD if bad else 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("predict", USAGE)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("paths", metavar="PATH", nargs="+")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--top", metavar="K", type=int, default=3)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json")
    form.add_argument("--csv", dest="form", action="store_const", const="csv")
    parser.add_argument("--out", metavar="FILE")
    overrides = [word for word in words if word.startswith(("data.", "eval.")) and "=" in word]
    options = parser.parse_args([word for word in words if word not in overrides])
    if options.top < 1:
        raise UserError("recipe", "--top", f"{options.top} is not 1 or more")
    if options.out is not None and Path(options.out).exists():
        raise UserError("recipe", "--out", f"'{options.out}' is there already", "name another file, or remove it")
    return options, overrides


def _output(head: HeadCard) -> str:
    """The tensor of what is to be told: probabilities, or numbers."""
    return next(tensor for kind, tensor in head.outputs.items() if kind != "logits")


# ---- Examples


def _examples(recipe: Recipe, source: Source, paths: Sequence[str]) -> Examples:
    if recipe.data.kind == "images":
        files = list(dict.fromkeys(file for path in paths for file in _images(path)))
        return Examples(files, {}, [""] * len(files))
    if len(paths) > 1:
        what = f"{len(paths)} are given, and data.kind={recipe.data.kind} reads one"
        raise UserError("recipe", "PATH", what, "name one file, or one folder")
    data = replace(recipe.data, path=paths[0], eval_path=None, group=None)
    return read_kind(data, paths[0], list(source.inputs), [], "PATH")


def _images(path: str) -> list[str]:
    place = Path(os.path.expanduser(data_at_hand(path, "PATH")))
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        seen = [str(file) for file in sorted(found) if not any(p[0] == "." for p in file.relative_to(place).parts)]
        if not seen:
            raise UserError("data", path, f"this folder has no {'/'.join(SUFFIXES)} files", "name another")
        return seen
    if not place.is_file():
        raise UserError("data", path, "there is no such file or folder", "name images, or folders of them")
    return [str(place)]


# ---- What is said of them


def _judged(card: Card, rows: Mapping[str, np.ndarray]) -> dict[str, Evaluation]:
    """The answers of each head to a batch, as those to held-out examples are told, but without labels."""
    none = np.zeros(0, np.float32)
    return {
        name: Evaluation(
            Task(name, "", "", head.loss, head.classes, rows[_output(head)].shape[-1]), none, rows[_output(head)], none
        )
        for name, head in card.heads.items()
    }


def _lines(card: Card, out: TextIO, top: int) -> Write:
    """For people: what it is, and how probable."""

    def write(sources: Sequence[str], judged: Mapping[str, Evaluation]) -> None:
        for place, source in enumerate(sources):
            parts = []
            for head, found in judged.items():
                best = ", ".join(f"{name} {p:.3f}" for name, p in _best(found, place, top).items())
                parts.append(f"{head}: " * (len(judged) > 1) + (best or found.said(found.outputs[place])))
            print(printable(f"{source}  {'; '.join(parts)}"), file=out)

    return write


def _json_lines(card: Card, out: TextIO, top: int) -> Write:
    def write(sources: Sequence[str], judged: Mapping[str, Evaluation]) -> None:
        for place, source in enumerate(sources):
            told = {head: _told(found, place, top) for head, found in judged.items()}
            content = next(iter(told.values())) if len(told) == 1 else {"heads": told}
            print(json.dumps({"id": source, **content}, ensure_ascii=False), file=out)

    return write


def _told(found: Evaluation, place: int, top: int) -> dict[str, Any]:
    if not found.task.classes:
        return {"values": np.atleast_1d(found.outputs[place]).astype(float).tolist()}
    said = found.predictions[place]
    if found.task.is_exclusive:
        prediction: Any = found.said(said)
    else:
        prediction = [name for name, there in zip(found.task.classes, said, strict=True) if there]
    return {"prediction": prediction, "probabilities": _best(found, place, top)}


def _best(found: Evaluation, place: int, top: int) -> dict[str, float]:
    """The most probable classes, the first one first; none of numbers."""
    if not found.task.classes:
        return {}
    order = np.argsort(-found.outputs[place], kind="stable")[:top]
    return {found.task.classes[i]: float(found.outputs[place][i]) for i in order}


def _csv_lines(card: Card, out: TextIO, top: int) -> Write:
    """The columns of `predictions.csv` that need no label."""
    rows = csv.writer(out, lineterminator="\n")
    named = {head: f"{head}/" if len(card.heads) > 1 else "" for head in card.heads}
    rows.writerow(["id", *(named[head] + column for head in card.heads for column in ("prediction", "probability"))])

    def write(sources: Sequence[str], judged: Mapping[str, Evaluation]) -> None:
        columns = [
            c for found in judged.values() for c in ([*map(found.said, found.predictions)], probabilities(found))
        ]
        rows.writerows(zip(sources, *columns, strict=True))

    return write


FORMS = {None: _lines, "json": _json_lines, "csv": _csv_lines}
