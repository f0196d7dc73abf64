"""A finished run, as the verbs find it that use one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.calibrating.setting import Choice, Setting, from_record
from finetune.errors import UserError
from finetune.recipe import Recipe
from finetune.results.card import CARD
from finetune.results.run_folder import BEST, MODEL, RECIPE, RECORD, read_record

CHANGEABLE = ("data.", "eval.")  # keys that say nothing about the model


def find_model(run: Path, best: bool) -> Path:
    """The folder of a finished pair, from that of its run or from itself.

    Raises:
      UserError: there is no run, or it is not finished.
    """
    name = BEST if best else MODEL
    if (run / CARD).is_file() and not best:
        return run
    if not (run / RECORD).is_file():
        there = "holds no run" if run.is_dir() else "is not there" if not run.exists() else "is a file"
        raise UserError("recipe", str(run), f"this folder {there}", "name a run folder, e.g. runs/vgg_2class")
    if (run / name / CARD).is_file():
        return run / name
    if best and (run / MODEL / CARD).is_file():
        raise UserError("recipe", "--best", f"'{run}' kept no best model", "leave --best out to take the final one")
    raise UserError("recipe", str(run), "this run is not finished", "the command that started it goes on with it")


def engine_of(run: Path) -> Choice:
    """How TensorFlow computed in a run, for the same bits again; by itself where there is no record of it."""
    return Choice(from_record(read_record(run).get("engine")) or Setting())


def stored_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run was made by, with other examples or metrics.

    Raises:
      UserError: there is none, or an override that would make another model.
    """
    from finetune.compose import compose

    if strange := [word for word in overrides if not word.startswith(CHANGEABLE)]:
        what = "is part of how the model was made"
        raise UserError("recipe", strange[0], what, "only keys of data. and eval. can be given here")
    if not (run / RECIPE).is_file():
        raise UserError(
            "recipe", str(run), f"this folder holds no {RECIPE}", "name the run folder, not the model in it"
        )
    return compose([f"recipe={run / RECIPE}", *overrides]).recipe
