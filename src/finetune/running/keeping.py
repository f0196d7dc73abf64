"""What a run keeps: checkpoints to go on from, pairs for others, and the proof that they are what they should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.bits import same_bits
from finetune.errors import UserError
from finetune.learning.state import check_frozen, moved, saved_keys
from finetune.learning.train import check_finite
from finetune.plan import Plan
from finetune.results import checkpoints, export, report
from finetune.results.bundles import FrozenShard
from finetune.results.run_folder import RunFolder
from finetune.running.beside import Beside
from finetune.running.session import Session

AGAIN = 30.0  # seconds until what the disk did not take is tried again
PATIENCE = 600.0  # seconds that a run waits at its end, if it has to
PAUSE = 2.0  # seconds between two attempts then
STEM = "model"  # of every checkpoint: model.meta, model-100.index


def newest(folder: RunFolder, plan: Plan) -> checkpoints.Loaded | None:
    """The newest whole checkpoint of a run, without what is the source's; None if there is none."""
    moving, pieces = plan.moving(), plan.source.pieces()
    keys = saved_keys([variable.name for variable in plan.source.variables], pieces)
    taken = {name: key for name, key in keys.items() if name in moving}
    return checkpoints.load_newest(folder.checkpoints, STEM, taken, {*keys.values()} - {*taken.values()})


def check_sound(session: Session, step: int) -> None:
    """Raises `NonFinite` where a value is NaN or Inf, unless the recipe allows that: nothing such is ever kept."""
    if not session.recipe.source.allow_nonfinite:
        check_finite(session.state, step)


class Keeper:
    """Writes beside the training what a run keeps, as it is when it is asked to.

    What the disk does not take is held, and tried again until something newer takes its place: the training goes on.
    Any other error is told of when it is asked again: `save`, `keep_best` and `wait` raise it.
    """

    def __init__(self, folder: RunFolder, tell: Callable[[str], None] = lambda line: None):
        self.folder = folder
        self._tell = tell
        self._beside = Beside()
        self._frozen: tuple[str, FrozenShard | None] = "", None
        self._held: dict[str, Callable[[], None]] = {}  # what -> what writes it; changed by the thread alone
        self._refused: UserError | None = None
        self._tried = 0.0

    def save(self, session: Session, step: int, then: Callable[[], None] = lambda: None) -> None:
        """A checkpoint to go on from; `then` is called when it is safe.

        Raises:
          NonFinite: there is something in it that is not.
        """
        check_sound(session, step)
        state, asked = session.state, session.recipe.checkpoint
        # Slices of one variable stay together, and a matrix that adapters are merged into changes.
        frozen = state.frozen.keys() - session.pieces.keys() - _adapted(session)
        tensors = state.everything(step) | session.merged(state.variables())
        tensors |= session.standing.tensors() if session.recipe.phases or session.standing.owes else {}
        changing = _as_they_are({name: tensor for name, tensor in tensors.items() if name not in frozen})
        retention = checkpoints.Retention(asked.keep, asked.keep_every_hours)
        words = self.folder.checkpoints, f"{STEM}-{step}", changing, session.pieces, retention, time.time()
        shard = self._shard(session, frozen)

        def write() -> None:
            checkpoints.save(*words, shard)
            then()

        self._give(f"step {step}", "checkpoint", write)

    def keep_best(self, session: Session, evaluated: Mapping[str, float]) -> None:
        """The model as it is now, for others; `evaluated` are a step and what an evaluation gave then."""
        check_sound(session, int(evaluated["step"]))
        graph, values, pieces, texts = _of_pair(session, evaluated)
        write = partial(export.write_pair, self.folder.best, graph, _as_they_are(values), pieces, texts)
        self._give("the best model so far", "best", write)

    def try_again(self) -> None:
        """Tries to write what is held, if it was not tried just now."""
        if self._held and self._beside.is_idle() and time.monotonic() - self._tried >= AGAIN:
            self._retry()

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Until all is written; `check` is called between two attempts, and may raise.

        Raises:
          UserError: the disk does not take it for so long that nobody seems to see to it.
        """
        self._beside.wait()
        end = time.monotonic() + PATIENCE
        while self._held:
            if time.monotonic() > end and self._refused is not None:
                raise self._refused
            check()
            time.sleep(PAUSE)
            self._retry()
            self._beside.wait()

    def _retry(self) -> None:
        for kind, write in list(self._held.items()):
            self._give("what was held", kind, write)

    def _give(self, what: str, kind: str, write: Callable[[], None]) -> None:
        self._beside.do(partial(self._attempt, what, kind, write))

    def _attempt(self, what: str, kind: str, write: Callable[[], None]) -> None:
        try:
            write()
        except (UserError, OSError) as refused:
            error = refused
            if isinstance(error, OSError):
                error = checkpoints.cannot_be_written(self.folder.path, error)
            if error.code != "storage":
                raise
            if kind not in self._held:
                self._tell(
                    f"warning: {what} is not saved: {error.where}: {error.what}; the run goes on and tries again"
                )
            self._held[kind], self._refused = write, error
        else:
            if self._held.pop(kind, None) is not None:
                self._tell("storage: the disk takes it again")
        self._tried = time.monotonic()

    def close(self) -> None:
        """Waits as well, and raises nothing."""
        self._beside.close()

    def _shard(self, session: Session, names: Collection[str]) -> FrozenShard | None:
        """What is frozen now, which stays the same as long as a phase lasts."""
        frozen, certificate = session.state.frozen, session.standing.frozen
        if self._frozen[0] != certificate:
            shard = FrozenShard({name: frozen[name] for name in sorted(names)}) if names else None
            self._frozen = certificate, shard
        return self._frozen[1]


def _as_they_are(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Their values now, whatever later steps make of the variables.

    In the memory of the CPU nothing is copied for it: a step that changes a variable whose value is still held gives it
    new memory.
    """
    with tf.device("CPU:0"):
        copied = {name: np.array(t) if isinstance(t, np.ndarray | np.generic) else t for name, t in tensors.items()}
        return {name: tf.identity(tensor) for name, tensor in copied.items()}


def _adapted(session: Session) -> set[str]:
    return {adapter.variable for adapter in session.model.adapters}


def write_graph(session: Session, folder: RunFolder) -> bool:
    """The graph of all checkpoints, which is written once; whether it was now."""
    if (place := folder.checkpoints / f"{STEM}.meta").exists():
        return False
    checkpoints.write_bytes(place, session.meta.SerializeToString())
    return True


def write_pair(session: Session, place: Path, evaluated: Mapping[str, float]) -> None:
    """The model as it is now, for others; `evaluated` are a step and what an evaluation gave then."""
    export.write_pair(place, *_of_pair(session, evaluated))


def _of_pair(session: Session, evaluated: Mapping[str, float]) -> tuple[Any, Mapping[str, Any], Any, Mapping[str, str]]:
    """What a pair is written of."""
    texts = report.beside_the_pair(session.plan, session.model, session.recipe, evaluated)
    return session.meta, session.merged(session.state.judged()), session.pieces, texts


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
    pretrained, frozen, pieces = session.pretrained, session.state.frozen, session.pieces
    never = pretrained.keys() - session.plan.moving()
    untouched = never - _adapted(session)
    _compare({name: np.asarray(frozen[name]) for name in never & frozen.keys()}, pretrained)
    for pair in (folder.model, folder.best):
        if pair.exists():
            _compare(export.read_back(pair, untouched, pieces), pretrained)
    if since := frozen.keys() - never:  # what an earlier phase has changed, and the last one has not
        check_frozen(frozen, session.standing.frozen)
        _compare(export.read_back(folder.model, since, pieces), {name: np.asarray(frozen[name]) for name in since})
    return len(untouched & session.plan.source.start.keys.keys())  # the others have nothing to be identical to


def _compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    if changed := [name for name, value in found.items() if not same_bits(value, expected[name])]:
        raise moved(changed)
