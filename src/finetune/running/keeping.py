"""What a run keeps: checkpoints to go on from, pairs for others, and the proof that they are what they should be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.bits import same_bits
from finetune.errors import UserError
from finetune.interruption import Interruption
from finetune.learning.state import check_frozen, moved, saved_keys
from finetune.learning.train import check_finite
from finetune.plan import Plan
from finetune.results import checkpoints, export
from finetune.results.bundles import FrozenShard
from finetune.results.checkpoints import Loaded
from finetune.results.labels_and_card import beside_the_pair
from finetune.results.run_folder import RunFolder
from finetune.running import patience
from finetune.running.beside import Beside
from finetune.running.session import Session

AGAIN = 30.0  # seconds until what the disk did not take is tried again
LEAVE = 20.0  # seconds for which a run that is asked to end tries to save: schedulers kill it after 30
CHECKPOINT, BEST = "checkpoint", "best"
STEM = "model"  # of every checkpoint: model.meta, model-100.index
OWED = "finetune/owed/"  # what a checkpoint holds of a best pair that is not written yet
EVALUATED = "finetune/owed"  # and of what its evaluation gave


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


@dataclass(frozen=True)
class Work:
    """Something to write; `write` is given what is owed when its turn comes.

    `owed` is what a checkpoint holds of it as long as it is not written, `refused` what the disk said of it last.
    """

    what: str
    write: Callable[[Mapping[str, Any]], None]
    owed: Mapping[str, Any] = field(default_factory=dict)
    refused: UserError | None = None


class Keeper:
    """Writes beside the training what a run keeps, as it is when it is asked to.

    Where `run`, the folder with the checkpoints to go on from, is not its own, another worker writes, and this one only
    checks.

    What the disk does not take is held, and tried again until something newer takes its place: the training goes on.
    Any other error is told of after the next step, or where it is asked again: `save`, `keep_best`, `try_again` and
    `wait` raise it.

    `send` is called when a checkpoint is whole: where the folder is a copy of one that lies elsewhere, it goes there.

    Where the disk takes a checkpoint and not the best pair, which is larger, the checkpoint holds what the pair is made
    of: no save waits for a pair, and a run that goes on from there writes it.
    """

    def __init__(
        self,
        folder: RunFolder,
        tell: Callable[[str], None] = lambda line: None,
        run: RunFolder | None = None,
        send: Callable[[], None] = lambda: None,
    ):
        self.folder, self.run, self._send = folder, run or folder, send
        self._writes = self.run is folder
        self._tell = tell
        self._beside = Beside()
        self._frozen: tuple[str, FrozenShard | None] = "", None
        self._held: dict[str, Work] = {}  # by kind; changed by the thread alone
        self._tried = 0.0

    def save(self, session: Session, step: int, then: Callable[[], None] = lambda: None) -> None:
        """A checkpoint to go on from; `then` is called when it is safe.

        Raises:
          NonFinite: there is something in it that is not.
        """
        check_sound(session, step)
        if not self._writes:
            return
        state, asked = session.state, session.recipe.checkpoint
        # Slices of one variable stay together, and a matrix that adapters are merged into changes.
        frozen = state.frozen.keys() - session.pieces.keys() - _adapted(session)
        tensors = state.everything(step) | session.merged(state.variables())
        tensors |= session.standing.tensors() if session.recipe.phases or session.standing.owes else {}
        changing = _as_they_are({name: tensor for name, tensor in tensors.items() if name not in frozen})
        retention = checkpoints.Retention(asked.keep, asked.keep_every_hours)
        folder, pieces, now = self.folder.checkpoints, session.pieces, time.time()
        shard = self._shard(session, frozen)

        def write(owed: Mapping[str, Any]) -> None:
            checkpoints.save(folder, f"{STEM}-{step}", {**changing, **owed}, pieces, retention, now, shard)
            self._send()
            then()

        self._give(CHECKPOINT, Work(f"step {step}", write))

    def keep_best(self, session: Session, evaluated: Mapping[str, float]) -> None:
        """The model as it is now, for others; `evaluated` are a step and what an evaluation gave then."""
        check_sound(session, int(evaluated["step"]))
        if self._writes:
            self._keep_best(session, evaluated, _as_they_are(session.merged(session.state.judged())))

    def take_up(self, session: Session, saved: Loaded) -> None:
        """Writes the best pair that a checkpoint owes, if it owes one."""
        if EVALUATED in saved.values and self._writes:
            evaluated = json.loads(bytes(saved.values[EVALUATED].item()))
            owed = {name.removeprefix(OWED): value for name, value in saved.values.items() if name.startswith(OWED)}
            self._keep_best(session, evaluated, {**session.pretrained, **owed})

    def _keep_best(self, session: Session, evaluated: Mapping[str, float], values: Mapping[str, Any]) -> None:
        never = session.pretrained.keys() - session.plan.moving() - _adapted(session)
        owed = {f"{OWED}{name}": value for name, value in values.items() if name not in never}
        words = session.meta, values, session.pieces, _texts(session, evaluated)

        def write(_: Mapping[str, Any]) -> None:
            export.write_pair(self.folder.best, *words)

        work = Work("the best model so far", write, {**owed, EVALUATED: json.dumps(evaluated).encode()})
        self._give(BEST, work)

    def try_again(self) -> None:
        """Tries to write what is held, if it was not tried just now."""
        self._beside.look()
        if self._held and self._beside.is_idle() and time.monotonic() - self._tried >= AGAIN:
            self._retry(*self._held)

    def wait(self, interruption: Interruption) -> None:
        """Until all is written; of a run that is asked to end, only what it goes on from, and not for long.

        What is under way is waited for even then: either it comes to its end, or the scheduler ends both.

        Raises:
          Interrupted: the run is asked to end, and may.
          UserError: the disk does not take it for so long that nobody seems to see to it, or as long as there is.
        """
        self._beside.wait()
        end, leaves = time.monotonic() + patience.PATIENCE, False
        while self._held:
            if interruption.by and not leaves:
                end, leaves = min(end, time.monotonic() + LEAVE), True
            first = self._held.get(CHECKPOINT)
            if leaves and first is None:
                break
            if time.monotonic() > end:
                refused = (first or self._held[BEST]).refused
                assert refused is not None
                raise refused
            time.sleep(patience.PAUSE)
            self._retry(*([CHECKPOINT] if leaves else self._held))
            self._beside.wait()
        interruption.check()

    def leave(self, interruption: Interruption) -> None:
        """Ends the run if it is asked to end, as soon as what it goes on from is written; see `wait`."""
        if interruption.by:
            self.wait(interruption)

    def _retry(self, *kinds: str) -> None:
        for kind in kinds:
            self._give(kind, self._held[kind])

    def _give(self, kind: str, work: Work) -> None:
        self._beside.do(lambda: self._attempt(kind, work))

    def _attempt(self, kind: str, work: Work) -> None:
        try:
            work.write(self._held[BEST].owed if BEST in self._held else {})
        except (UserError, OSError) as error:
            refused = patience.of_the_disk(error)
            if kind not in self._held:
                what = f"{work.what} is not saved: {refused.where}: {refused.what}"
                self._tell(f"warning: {what}; the run goes on and tries again")
            self._held[kind] = replace(work, refused=refused)
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
    values = session.merged(session.state.judged())
    export.write_pair(place, session.meta, values, session.pieces, _texts(session, evaluated))


def _texts(session: Session, evaluated: Mapping[str, float]) -> Mapping[str, str]:
    return beside_the_pair(session.plan, session.model, session.recipe, evaluated)


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
