"""What a run computes once for each example and keeps: whether it does, where, and the batches that come of it."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.augmenting.augment_keys import settle
from finetune.caching.filling import fill
from finetune.caching.key import key_of
from finetune.caching.part import Part, find_parts
from finetune.caching.shelf import cache_folder
from finetune.caching.store import Layout, Store, find_store, open_store
from finetune.engine.compile import as_function, features_program
from finetune.errors import UserError
from finetune.examples import batches
from finetune.examples.data import Examples
from finetune.examples.fields import as_rows
from finetune.learning.course import Phase
from finetune.plan import Plan
from finetune.recipe import Data, Recipe
from finetune.results.report import Report
from finetune.running.space import free_at
from finetune.start import onednn_is_on
from finetune.surgery.variants import Variants

BLOCK = 32  # examples that are computed at once, whatever the batch size is: their last bits depend on it
_LEAST = 1.5  # epochs from which on it pays
_SPARE = 0.9  # of the free space of the disk, no more

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What of a phase is kept: nothing where `part` is None; `said` tells people why. Of both sides one may be."""

    part: Part | None
    training: bool
    held_out: bool
    said: str

    @property
    def tensors(self) -> list[str]:
        """What is kept."""
        return [] if self.part is None else list(self.part.frontier.tensors)

    @property
    def rest(self) -> Variants | None:
        """The rest of the model behind what is kept."""
        return None if self.part is None else self.part.rest


def decide(
    recipe: Recipe,
    plan: Plan,
    phase: Phase,
    loaders: tuple[batches.Loader, batches.Loader],
    before: Sequence[str] | None = None,
) -> Decision:
    """Decides for one phase.

    Args:
      before: what the run keeps of this phase, if that is under way: the last bits depend on it, so it goes on so.

    Raises:
      UserError: the recipe requires what cannot be.
    """
    asked = recipe.cache
    if asked.mode == "off" or (before is not None and not before):
        return Decision(None, False, False, "")
    why, count = "", len(plan.training) * (asked.views or 1)
    epochs = _steps_of(plan, phase) * recipe.train.batch_size / max(1, count)
    varied = settle(recipe.data.augment, recipe.data.kind) is not None and asked.views is None
    rows = batches.row_shapes(plan.training, loaders[0])
    training = not varied and not recipe.train.mixup and not recipe.train.cutmix
    if not training and not len(plan.held_out):
        why = "no two epochs have the same examples; see cache.views"
    elif any(None in shape for shape in rows.values()):
        why = "rows are padded to the longest of their batch: give data.bucket one length"
    elif asked.mode == "auto" and epochs < _LEAST and before is None:
        why = f"{epochs:.1f} epochs are too few to gain by it"
    if not why:
        parts, why = find_parts(phase.variants, rows, plan.source.batch_size)
        kept = count * training + len(plan.held_out)
        # A run that goes on may have all of it already.
        place = cache_folder(asked.dir)
        free = free_at(place) * _SPARE if before is None else math.inf
        least = None
        for part in parts:
            if before is not None and list(part.frontier.tensors) != list(before):
                continue
            size = part.frontier.bytes * kept // (2 if asked.dtype == "float16" else 1)
            least = size if least is None else min(least, size)
            if size <= min(asked.max_gb * 1e9, free):
                return Decision(part, training, True, _said(part, training, recipe))
        if least is not None:
            room = f"{place} has room for {free / 1e9:.3g}" if free else f"{place} cannot be written"
            room = f"cache.max_gb is {asked.max_gb:g}" if free > asked.max_gb * 1e9 else room
            why = f"{least / 1e9:.3g} GB would be kept, and {room}"
    if before is not None:
        what = f"this run keeps {', '.join(before)}, which can no longer be: {why or 'the graph is another one'}"
        raise UserError("recipe", "cache.mode", what, "mend that, or go on with cache.mode=off and other last bits")
    if asked.mode == "require":
        raise UserError("recipe", "cache.mode", f"nothing can be kept: {why}", "set cache.mode=auto")
    return Decision(None, False, False, f"cache: off: {why}")


def _steps_of(plan: Plan, phase: Phase) -> int:
    """The steps of a phase, as far as it is known when it ends."""
    number = plan.phases.index(phase)
    before = [earlier.last for earlier in plan.phases[:number] if earlier.last is not None]
    return (plan.steps if phase.last is None else min(phase.last, plan.steps)) - max(before, default=0)


def _said(part: Part, training: bool, recipe: Recipe) -> str:
    at = f"{', '.join(part.frontier.tensors)} {'is' if len(part.frontier.tensors) == 1 else 'are'}"
    ended = f"; no further, for {part.ended_by}" if part.ended_by else ""
    if training:
        views = f" in each of {recipe.cache.views} views" if recipe.cache.views else ""
        return f"cache: {at} computed once{views} for each example ({part.frontier.bytes:,} bytes){ended}"
    varied = "varied anew each time; see cache.views"
    what = "mixed (train.mixup, train.cutmix)" if recipe.train.mixup or recipe.train.cutmix else varied
    return f"cache: {at} computed once for the held-out examples only: those to train on are {what}{ended}"


@dataclass
class FrozenPart:
    """The part that is kept of a phase: it is computed as it is needed, or read, once it was filled.

    `values` are the variables that it reads. `close` lets go of the files.
    """

    recipe: Recipe
    plan: Plan
    decision: Decision
    part: Part
    loaders: tuple[batches.Loader, batches.Loader]
    values: Values
    kept: dict[bool, Examples] = field(default_factory=dict)  # whether they are trained on -> rows in their place
    _open: ExitStack = field(default_factory=ExitStack)

    # ---- As it is needed

    def through(self, given: Iterator[batches.Batch], training: bool = False) -> Iterator[batches.Batch]:
        """The batches with what is kept in the place of their inputs, computed now."""
        for inputs, targets, indices in given:
            yield self.compute(inputs, training), targets, indices

    def compute(self, inputs: Values, training: bool = False) -> dict[str, Any]:
        """What is kept, of a batch."""
        given = {f"input/{name}": tensor for name, tensor in inputs.items()}
        found = self._functions[training]({**self._variables, **given, "seed": (0, 0)})
        return self.part.features_of(found)

    @cached_property
    def _variables(self) -> dict[str, Any]:
        return {f"variable/{name}": value for name, value in self.values.items()}

    @cached_property
    def _functions(self) -> dict[bool, Callable[[Values], Values]]:
        parts = {False: self.part.evaluation, True: self.part.training}
        return {training: as_function(features_program(backbone)) for training, backbone in parts.items()}

    # ---- Once

    def read(self, training: bool) -> tuple[Examples, batches.Loader] | None:
        """The examples with what is kept as their inputs, and what loads them; None if it was not filled."""
        examples = self.kept.get(training)
        return None if examples is None else (examples, self.loader(examples))

    def holds(self, examples: Examples) -> bool:
        """Whether these examples are rows that are kept."""
        return set(examples.arrays or ()) == self.part.fields.keys()

    def in_order(self, examples: Examples, batch_size: int, whole: bool) -> Iterator[batches.Batch]:
        """Every kept row once, as `evaluation_batches` would give them; there is nothing to be prepared."""
        kinds = {field: self.part.frontier.dtypes[tensor] for field, tensor in self.part.fields.items()}
        for start in range(0, len(examples), batch_size):
            places = np.arange(start, start + batch_size if whole else min(start + batch_size, len(examples)))
            places = np.minimum(places, len(examples) - 1)
            rows = {field: as_rows(held).read(places) for field, held in (examples.arrays or {}).items()}
            inputs = {field: tf.constant(rows[field].astype(kind)) for field, kind in kinds.items()}
            yield inputs, {head: tf.constant(t[places]) for head, t in examples.targets.items()}, places

    def loader(self, examples: Examples) -> batches.Loader:
        """What loads kept rows; by a second number, if it gets one: the place among all views."""
        shapes, dtypes = self.part.frontier.rows, self.part.frontier.dtypes
        kinds = {
            field: (tf.as_dtype(dtypes[tensor]).as_datatype_enum, (None, *shapes[tensor]))
            for field, tensor in self.part.fields.items()
        }
        load = batches.make_loader(examples, kinds, Data(kind="arrays", preprocess="none"))
        return lambda index, place=None: load(index if place is None else place)

    def fill(
        self, training: bool, progress: Callable[[int, int], None] = lambda rows, of: None, temporary: bool = False
    ) -> list[str]:
        """Computes what is not kept yet of one side; gives what people are told of it.

        Args:
          progress: is told how many rows are there, and how many there will be.
          temporary: what is not kept already is kept for this process only.

        Raises:
          UserError: it cannot be kept.
        """
        examples = self.plan.training if training else self.plan.held_out
        wanted = self.decision.training if training else self.decision.held_out
        if not wanted or not len(examples) or training in self.kept:
            return []
        views = (self.recipe.cache.views or 1) if training else 1
        asked = self.recipe.cache
        layout = self._layout(len(examples) * views)
        key, root = self._key(examples, training, views, layout), cache_folder(asked.dir)
        if temporary and not find_store(root, key):
            root = Path(tempfile.mkdtemp(prefix="finetune-"))
            self._open.callback(shutil.rmtree, root, ignore_errors=True)
        store = open_store(root, key, layout, self._about(layout, examples), asked.max_gb * 1e9)
        with ExitStack() as opened:
            opened.callback(store.close)
            damaged = len(store.check())
            missing = len(store.missing())
            compute = partial(self._chunks, store, examples, training, views)
            errors = fill(store, compute, lambda rows: progress(rows, layout.count))
            self._open.push(opened.pop_all())  # of one that fails, to be tried again, nothing stays open
        self.kept[training] = replace(examples, arrays=store.arrays())
        side = "to train on" if training else "held out"
        told = [f"cache: {layout.count} rows {side} {'are computed' if missing else 'were there'}: {store.folder}"]
        told += [f"cache: {damaged} chunks were damaged, and are computed anew"] if damaged else []
        if missing and asked.dtype == "float16":
            told.append(f"cache: float16 makes an error of {max(errors.values()):.2g} of the largest value at most")
        return told

    def close(self) -> None:
        """Lets go of the files, and of temporary ones altogether."""
        self._open.close()

    def _layout(self, count: int) -> Layout:
        frontier, half = self.part.frontier, self.recipe.cache.dtype == "float16"
        kept = {field: frontier.dtypes[tensor] for field, tensor in self.part.fields.items()}
        if half:
            kept = {field: np.dtype(np.float16) if dtype == np.float32 else dtype for field, dtype in kept.items()}
        rows = {field: frontier.rows[tensor] for field, tensor in self.part.fields.items()}
        return Layout(count, self.plan.source.batch_size or BLOCK, rows, kept)

    def _chunks(
        self, store: Store, examples: Examples, training: bool, views: int, chunks: Iterator[int]
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """What is kept, chunk by chunk."""
        layout, load = store.layout, self.loaders[0 if training else 1]
        whole = self.plan.source.batch_size is not None
        seed = self.recipe.run.seed if training and self.recipe.cache.views else None
        order: list[int] = []

        def places() -> Iterator[np.ndarray]:
            for chunk in chunks:
                order.append(chunk)
                span = layout.span(chunk)
                yield np.arange(span.start, span.start + layout.chunk if whole else span.stop)

        given = batches.chosen_batches(examples, load, places, layout.count, layout.chunk, seed)
        for number, (inputs, _, _) in enumerate(given):
            span = layout.span(order[number])
            found = self.compute(inputs, training)
            yield order[number], {name: rows.numpy()[: span.stop - span.start] for name, rows in found.items()}

    def _key(self, examples: Examples, training: bool, views: int, layout: Layout) -> str:
        recipe, source = self.recipe, self.plan.source
        backbone = self.part.training if training else self.part.evaluation
        varied: Any = None
        if training and recipe.cache.views:
            varied = [views, recipe.run.seed, repr(recipe.data.augment)]
        gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        more = {
            "views": varied,
            "block": layout.chunk,
            "dtypes": {name: str(dtype) for name, dtype in layout.dtypes.items()},
            "tensorflow": [
                tf.version.VERSION,
                onednn_is_on(),
                *(gpu.get("device_name") for gpu in gpus),
            ],
        }
        return key_of(backbone, self.values, source.input_kinds(), recipe.data, examples.hashes, more)

    def _about(self, layout: Layout, examples: Examples) -> dict[str, Any]:
        """For people who look into the folder."""
        return {
            "what": "features of a frozen part, one row an example; safe to remove when no run uses it",
            "source": str(self.plan.source.pair.prefix),
            "tensors": dict(self.part.fields),
            "rows": layout.count,
            "bytes": layout.bytes,
        }


def fill_both(part: FrozenPart | None, tell: Report, check: Callable[[], None] = lambda: None) -> None:
    """Computes what is not kept yet, if anything is to be; `check` may end it where nothing is lost."""

    def progress(rows: int, of: int) -> None:
        check()
        tell.computed(rows, of)

    for training in (True, False) if part is not None else ():
        for line in part.fill(training, progress) if part is not None else ():
            tell.line(line)
