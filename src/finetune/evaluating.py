"""How good a finished run is: on the examples that it held out, or on others.

usage: python -m finetune evaluate RUN [PATH] [options] [key=value …]

  RUN               a run folder, e.g. runs/vgg_2class
  PATH              other examples, of the kind of the run's own; all of them are looked at, and their classes are
                    those of the run
  key=value         a key of the recipe that begins with data. or eval., e.g. eval.metrics=[auc] or data.eval_crop=1

options:
      --best        the pair in best/ and not the final one
      --json        print what evaluation.json has, for programs
      --out FOLDER  write evaluation.json and predictions.csv there; the run folder is never written to

examples:
  python -m finetune evaluate runs/vgg_2class
  python -m finetune evaluate runs/vgg_2class new_images --out judged
  python -m finetune evaluate runs/vgg_2class --best --json eval.metrics=[balanced_accuracy,auc]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.check import check
from finetune.errors import UserError, printable, shortlist
from finetune.examples.tasks import Task
from finetune.finished import engine_of, find_model, stored_recipe
from finetune.parser import Parser
from finetune.plan import make_plan
from finetune.recipe import Recipe
from finetune.remote.fetching import run_at_hand
from finetune.results.card import Card, read_card
from finetune.results.run_folder import BEST, MODEL, read_record
from finetune.start import start_tensorflow
from finetune.surgery.source import read_values

USAGE = "write evaluate RUN [PATH] [--best] [--json] [--out FOLDER] [key=value …]"
WIDEST = 20  # classes of a confusion matrix that fits on a screen


def evaluate(words: list[str]) -> int:
    """Looks at a finished run's pair and prints how good it is."""
    options, overrides = _options(words)
    run = Path(run_at_hand(options.run))
    model = find_model(run, options.best)
    card = read_card(model)
    recipe = _recipe(run, overrides, options.data, card)
    plan = make_plan(recipe)
    _check_classes(plan.tasks, card, recipe.data.path)
    if not len(plan.held_out):
        raise UserError("recipe", str(run), "nothing was held out in this run", "name examples: evaluate RUN PATH")

    start_tensorflow(engine_of(run))
    from finetune.judging import findings
    from finetune.results import run_files, run_folder
    from finetune.running import keeping, looking
    from finetune.running.session import open_session

    record = read_record(run)
    begun = len(record.get("phases", ())) or 1
    plan = replace(plan, phases=plan.phases[begun - 1 : begun])  # what is kept then is what the bits depend on
    pretrained = read_values(plan.source, recipe.run.seed, recipe.source.allow_nonfinite)
    session = open_session(recipe, plan, pretrained, kept=run_folder.kept(record, plan.phases))
    keeping.take_up_pair(session, model)
    if session.frozen_part is not None:  # the bits are those of the run, which took what it kept
        session.frozen_part.fill(training=False, temporary=True)
    found = looking.evaluations(session)
    own = options.data is None and not any(word.startswith("data.") for word in overrides)
    logged = {name: run_files.first_numbers(run, phase) for name, phase in findings.EARLIER.items()} if own else {}
    judged = findings.judge(found, recipe.eval.metrics, recipe.run.seed, logged)
    content = findings.content(_step(run, model), judged, plan.held_out.sources, looking.old_task(session))
    session.close()
    if options.out is not None:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        findings.write(out, content, found, plan.held_out.sources)
    if options.json:
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return 0
    where = "other examples" if not own else "held-out examples"
    print(printable(f"{model}, step {content['step']}, on {content['examples']} {where}"))
    for line in lines(content):
        print(printable(line))
    if options.out is not None:
        print(printable(f"written: {options.out}/{findings.EVALUATION}, {findings.PREDICTIONS}"))
    return 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("evaluate", USAGE)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("data", metavar="PATH", nargs="?")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", metavar="FOLDER")
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in words if word not in overrides])
    if options.out is not None and Path(options.out).is_file():
        raise UserError("recipe", "--out", f"'{options.out}' is a file", "name a folder")
    return options, overrides


def _recipe(run: Path, overrides: Sequence[str], data: str | None, card: Card) -> Recipe:
    """The stored recipe of a run, for its own examples or for others."""
    recipe = stored_recipe(run, overrides)
    if data is not None:
        # The same examples twice: those to train on say what there is to learn, and the others are looked at.
        known = {head.classes for head in card.heads.values() if head.classes}
        classes = recipe.data.classes or (list(known.pop()) if len(known) == 1 else None)
        recipe = replace(recipe, data=replace(recipe.data, path=data, eval_path=data, classes=classes))
    check(recipe)
    return recipe


def _check_classes(tasks: Sequence[Task], card: Card, path: str | None) -> None:
    for task in tasks:
        if task.classes != card.heads[task.name].classes:
            there, known = (shortlist(list(classes)) for classes in (task.classes, card.heads[task.name].classes))
            what = f"its classes are {there}, and {task.name} tells {known} apart"
            raise UserError("data", str(path), what, "give examples of all of them, or data.classes in that order")


def _step(run: Path, model: Path) -> int:
    record = read_record(run)
    at = {MODEL: record, BEST: record.get("best") or {}}.get(model.name, {})
    return int(at.get("step", -1))


def lines(content: Mapping[str, Any]) -> list[str]:
    """An `evaluation.json` for people."""
    said: list[str] = []
    for name, head in content["heads"].items():
        said += [f"{name}:"] if len(content["heads"]) > 1 else []
        others = list(head["baselines"])
        rows = [["metric", "value", f"{content['confidence']:.0%} interval", *others]]
        for metric, found in head["metrics"].items():
            beside = [_number(head["baselines"][other].get(metric)) for other in others]
            rows.append([metric, _number(found["value"]), _ends(found), *beside])
        said += _table(rows)
        if head["by_class"]:
            rows = [["class", "precision", "recall", "f1", "examples"]]
            for row in head["by_class"]:
                rows.append(
                    [row["class"], *(_number(row[k]) for k in ("precision", "recall", "f1")), str(row["support"])]
                )
            said += ["", *_table(rows)]
        if head["confusion"] and len(head["classes"]) <= WIDEST:
            rows = [["is \\ taken for", *head["classes"]]]
            rows += [[c, *map(str, row)] for c, row in zip(head["classes"], head["confusion"], strict=True)]
            said += ["", *_table(rows)]
        said.append("")
    return said[:-1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ends(found: Mapping[str, float | None]) -> str:
    return "" if found["low"] is None else f"{found['low']:.4g} to {found['high']:.4g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of one width: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    made = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  " + "  ".join(row).rstrip() for row in made]
