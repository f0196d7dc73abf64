"""What a run keeps: checkpoints to go on from, pairs for others, and the proof that they are what they should be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.learning.state import check_frozen, digest, saved_keys
from finetune.learning.train import check_finite
from finetune.plan import Plan
from finetune.results import checkpoints, export, report
from finetune.results.run_folder import RunFolder
from finetune.running.session import Session

STEM = "model"  # of every checkpoint: model.meta, model-100.index


def newest(folder: RunFolder, plan: Plan) -> checkpoints.Loaded | None:
    """The newest whole checkpoint of a run; None if there is none."""
    source = plan.source
    keys = saved_keys([variable.name for variable in source.variables], source.pieces())
    return checkpoints.load_newest(folder.checkpoints, STEM, keys)


def check_sound(session: Session, step: int) -> None:
    """Raises `NonFinite` where a value is NaN or Inf, unless the recipe allows that: nothing such is ever kept."""
    if not session.recipe.source.allow_nonfinite:
        check_finite(session.state, step)


def save(session: Session, folder: RunFolder, step: int) -> None:
    """A checkpoint to go on from.

    Raises:
      NonFinite: there is something in it that is not.
      UserError: what is frozen has changed.
    """
    check_sound(session, step)
    state, asked = session.state, session.recipe.checkpoint
    check_frozen(state.frozen, session.standing.frozen)
    tensors = state.everything(step) | session.merged(state.variables())
    tensors |= session.standing.tensors() if session.recipe.phases else {}
    retention = checkpoints.Retention(asked.keep, asked.keep_every_hours)
    checkpoints.save(folder.checkpoints, f"{STEM}-{step}", tensors, session.pieces, retention, time.time())


def write_graph(session: Session, folder: RunFolder) -> bool:
    """The graph of all checkpoints, which is written once; whether it was now."""
    if (place := folder.checkpoints / f"{STEM}.meta").exists():
        return False
    checkpoints.write_bytes(place, session.meta.SerializeToString())
    return True


def write_pair(session: Session, place: Path, evaluated: Mapping[str, float]) -> None:
    """The model as it is now, for others; `evaluated` are a step and what an evaluation gave then."""
    beside = report.beside_the_pair(session.plan, session.model, session.recipe, evaluated)
    export.write_pair(place, session.meta, session.merged(session.state.judged()), session.pieces, beside)


def take_up_pair(session: Session, place: Path) -> None:
    """Goes on with the values of a written pair, in which adapters are merged and averages are taken."""
    small = session.model.small_variables  # they begin at a product of zero
    names = [*session.pretrained, *(name for name in session.fresh if name not in small)]
    read = export.read_back(place, names, session.pieces)
    session.take_up({**session.fresh, **read}, session.standing.began[-1])


def prove_frozen(session: Session, folder: RunFolder) -> int:
    """Reads the written pairs back and compares what is frozen with the source, bit by bit; gives how many variables.

    Raises:
      UserError: they are not the same.
    """
    merged = {adapter.variable for adapter in session.model.adapters}
    untouched = session.pretrained.keys() - session.plan.moving() - merged
    for pair in (folder.model, folder.best):
        if pair.exists():
            _compare(pair, {name: session.pretrained[name] for name in untouched}, session.pieces)
    frozen = session.state.frozen
    check_frozen(frozen, session.standing.frozen)
    if since := frozen.keys() - merged - untouched:  # what an earlier phase has changed, and the last one has not
        _compare(folder.model, {name: frozen[name] for name in since}, session.pieces)
    return len(untouched & session.plan.source.start.keys.keys())  # the others have nothing to be identical to


def _compare(pair: Path, values: Mapping[str, Any], pieces: Mapping[str, tuple[str, str]]) -> None:
    check_frozen(export.read_back(pair, values.keys(), pieces), digest(values))
