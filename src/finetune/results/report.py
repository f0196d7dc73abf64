"""What people read of a run: lines, metrics, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from finetune.engine.graft import Model
from finetune.engine.proof import Proof
from finetune.errors import UserError, printable, shortlist
from finetune.examples.batches import image_geometry
from finetune.examples.data import Examples
from finetune.examples.tasks import Task
from finetune.graph import dtype_name
from finetune.inspecting import layers
from finetune.inspecting.picture import Caption, counted, draw, note
from finetune.inspecting.repeats import short
from finetune.judging.evaluate import Evaluation
from finetune.learning import monitor
from finetune.learning.course import Phase, Standing, standing_in
from finetune.names import node_of
from finetune.plan import Plan
from finetune.reading import metagraph
from finetune.recipe import Recipe, Train
from finetune.recipe_files import flat
from finetune.results.appending import Appending
from finetune.results.card import CARD
from finetune.results.checkpoints import Loaded, cannot_be_written, tidy, write_bytes, write_text
from finetune.results.run_files import LOG, METRICS, entries
from finetune.results.run_files import PICTURE as PICTURE
from finetune.start import Started
from finetune.surgery import freeze
from finetune.surgery.freeze import Fate
from finetune.surgery.source import Source

EVENTS = "tensorboard"
SHOWN = 8  # held-out images in TensorBoard

Pictures = Callable[[Examples, Sequence[int]], np.ndarray]  # uint8 [images, height, width, 3], none for other data

_HELD_OUT = "held-out"  # with which the names of their pictures begin
_EVENT_FILES = "events.out.tfevents.*.v2"  # as `tf.summary` names them
_AROUND_RECORD = 16  # bytes of its length and of both checksums
BETWEEN = 30.0  # seconds between two lines of a wait that no terminal shows a bar of


class Report:
    """The one place from which a run speaks: terminal, `train.log`, `metrics.jsonl` and TensorBoard."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._log = Appending(folder / LOG)
        self._metrics = Appending(folder / METRICS)
        self._events: Any = None
        self._bar: Any = None
        self._speaking = threading.Lock()  # what is written beside the training is told of when it is done
        self._said = self._shown = time.monotonic()
        self.part = ""  # the name of the phase under way

    def line(self, text: str) -> None:
        """One line for people, on the terminal and, with the time, in the log."""
        text = printable(text)  # names come from files of others
        with self._speaking:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._metrics.write("")  # a disk that takes what was held takes the numbers of its steps too
            if self._bar is not None:
                self._bar.clear()
            try:
                print(text, flush=True)
            except OSError:
                # Whoever read along has gone, or the terminal is closed; the run and its log go on.
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open until the end
            if self._bar is not None:
                self._bar.refresh()

    def scalars(self, phase: str, step: int, values: Mapping[str, float], note: str = "") -> None:
        """Numbers of one step, for people, for programs and for TensorBoard; `note` is for people."""
        import tensorflow as tf

        part = {"part": self.part} if self.part else {}
        with self._speaking:
            self._metrics.write(json.dumps({"step": step, "phase": phase, **part, **values}) + "\n")
        with self._drawing(step):
            for name, value in values.items():
                tf.summary.scalar(f"{phase}/{name}", value)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.line(f"{phase:>5} | step {step:>6} | {shown}{note}")

    def rollback(self, number: int, saved: Loaded, owes: bool, failed: int, what: str, share: float) -> None:
        """Takes back what was reported of the steps after `saved`, to which the run goes back, and says why.

        An evaluation of that step that it `owes` is taken back too.
        """
        step = saved.step
        self._close_events()
        self._metrics.sync()
        warnings = forget_after(self._folder, step, rollbacks=number - 1, owes=owes)
        before, self._metrics = self._metrics, Appending(self._folder / METRICS)
        before.close()
        entry = {"step": step, "phase": "rollback", "number": number, "failed": failed, "what": what, "share": share}
        self._metrics.write(json.dumps(entry) + "\n")
        if self._bar is not None:
            self._bar.n = step
        for line in [*passed_over(saved), *warnings]:
            self.line(line)
        self.line(f"rollback {number}: at step {failed} {what}; back to step {step}, at {share:g} of the learning rate")

    def graph(self, meta: Any) -> None:
        """The graph of the grafted model, for TensorBoard."""
        import tensorflow as tf

        with self._drawing(0):
            tf.summary.graph(tf.compat.v1.GraphDef.FromString(meta.graph_def.SerializeToString()))

    def hparams(self, recipe: Recipe) -> None:
        """The recipe as hyper-parameters, so that TensorBoard can compare runs."""
        from tensorboard.plugins.hparams import api

        with self._drawing(0):
            values = flat(asdict(recipe))
            given = {name: value for name, value in values.items() if value not in (None, [], {})}
            api.hparams({n: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for n, v in given.items()})

    def predictions(
        self, step: int, examples: Examples, found: Mapping[str, Evaluation], pictures: Pictures, always: bool
    ) -> None:
        """A few held-out images with what each head says of them, in a green frame if it is right, a red one if not.

        Unless they are to be shown `always`, they are every half minute: evaluations may take less time than they do.
        """
        import tensorflow as tf

        if not always and time.monotonic() - self._shown < BETWEEN:
            return
        self._shown = time.monotonic()
        chosen = [round(i) for i in np.linspace(0, len(examples) - 1, min(len(examples), SHOWN))]
        images = pictures(examples, chosen)
        for head, judged in found.items():
            name = _HELD_OUT if len(found) == 1 else f"{_HELD_OUT} {head}"
            rows = ["| image | is | taken for | probability |", "|---|---|---|---|"]
            with self._drawing(step):
                for place, (index, image) in enumerate(zip(chosen, images, strict=False)):
                    label, guess = judged.said(judged.targets[index]), judged.said(judged.predictions[index])
                    right = bool(judged.is_right[index]) if judged.task.classes else None
                    tf.summary.image(f"{name}/{place} {label}", framed(image, right)[np.newaxis])
                    share = f"{judged.outputs[index].max():.2f}" if judged.task.classes else ""
                    rows.append(f"| {place} | {label} | {guess} {'✗' if right is False else ''} | {share} |")
                if len(images):
                    tf.summary.text(f"{name} predictions", "\n".join(rows))

    def training(self, images: np.ndarray) -> None:
        """Some training images as the model sees them, uint8 [images, height, width, 3]; nothing if there are none."""
        import tensorflow as tf

        if len(images):
            with self._drawing(0):
                tf.summary.image("training images after augmentation", mosaic(images)[np.newaxis])

    def progress(self, start: int, stop: int) -> None:
        """Shows a bar, if there is a terminal to show it on."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=stop, initial=start, unit="step", dynamic_ncols=True, leave=False)

    def advance(self, loss: float) -> None:
        """One step further."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update()

    def computed(self, rows: int, of: int) -> None:
        """How many rows of the frozen part are kept: a bar of its own, or a line every half minute."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is None:
                self._bar = tqdm(total=of, initial=rows, unit="example", dynamic_ncols=True, leave=False)
            self._bar.update(rows - self._bar.n)
            if rows == of:
                self._bar.close()
                self._bar = None
        elif time.monotonic() - self._said > BETWEEN:
            self._said = time.monotonic()
            self.line(f"cache: {rows} of {of} rows")

    def close(self) -> None:
        """Writes out what is still held."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._close_events()
        self._log.close()
        self._metrics.close()

    def sync(self) -> None:
        """Makes the numbers that were told so far survive a loss of power."""
        with self._speaking:
            self._metrics.sync()

    def _close_events(self) -> None:
        import tensorflow as tf

        if self._events is not None:
            with contextlib.suppress(tf.errors.OpError):
                self._events.close()
            self._events = None

    @contextlib.contextmanager
    def _drawing(self, step: int) -> Iterator[None]:
        """For TensorBoard, at a step; where that cannot be written, its curves have a gap."""
        import tensorflow as tf

        writer = self._writer()
        with contextlib.suppress(tf.errors.OpError), writer.as_default(step=step):
            yield

    def _writer(self) -> Any:
        """Of events; one that writes nothing where none can be made now."""
        import tensorflow as tf

        if self._events is None:
            with contextlib.suppress(OSError):  # made by TensorFlow, it would not have the rights of the others
                (self._folder / EVENTS).mkdir(exist_ok=True)
            try:
                self._events = tf.summary.create_file_writer(str(self._folder / EVENTS))
            except tf.errors.OpError:
                return tf.summary.create_noop_writer()
        return self._events


def framed(image: np.ndarray, right: bool | None) -> np.ndarray:
    """The image in a frame that says whether the model is right, grey if that is no question; uint8 RGB.

    >>> framed(np.zeros((112, 112, 3), np.uint8), True).shape
    (120, 120, 3)
    """
    colour = np.array({True: (0, 150, 70), False: (210, 30, 40), None: (128, 128, 128)}[right], np.uint8)
    picture = np.empty((image.shape[0] + 8, image.shape[1] + 8, 3), np.uint8)
    picture[:] = colour
    picture[4:-4, 4:-4] = image
    return picture


def mosaic(images: np.ndarray) -> np.ndarray:
    """Up to sixteen images side by side, four to a row; small ones are enlarged pixel by pixel.

    >>> mosaic(np.zeros((3, 28, 28, 3), np.uint8)).shape
    (116, 348, 3)
    """
    shown = images[: 2 * SHOWN]
    across = min(len(shown), 4)
    larger = max(1, 112 // max(shown.shape[1:3]))
    shown = np.pad(shown.repeat(larger, 1).repeat(larger, 2), [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=255)
    shown = np.concatenate([shown, np.full((-len(shown) % across, *shown.shape[1:]), 255, np.uint8)])
    rows = shown.reshape(-1, across, *shown.shape[1:]).swapaxes(1, 2)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)


def forget_after(folder: Path, step: int, rollbacks: int = 0, owes: bool = False) -> list[str]:
    """Takes back what a run reported beyond the step from which it goes on, and all but its first few rollbacks.

    An evaluation of that step that it `owes` is taken back too. Gives warnings of what TensorBoard still shows.

    Raises:
      UserError: the numbers cannot be written.
    """
    path, events = folder / METRICS, folder / EVENTS
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_text(path, "".join(f"{line}\n" for line in lines if _stays(line, step, rollbacks, owes)))
    if not events.is_dir():
        return []
    tidy(events)
    return [line for file in sorted(events.iterdir()) if _is_ours(file) for line in _forget_events(file, step, owes)]


def _is_ours(path: Path) -> bool:
    """Whether our writer may have made a file: others put theirs into that folder too."""
    return fnmatch(path.name, _EVENT_FILES) and path.is_file() and not path.is_symlink()


def _forget_events(path: Path, step: int, owes: bool) -> list[str]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    kept, at, dropped = [], 0, False
    try:
        content = path.read_bytes()
        with contextlib.suppress(tf.errors.DataLossError):  # the record that the kill cut short, always the last
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event, end = Event.FromString(record), at + len(record) + _AROUND_RECORD
                if not at and event.WhichOneof("what") != "file_version":
                    return []  # no writer of events has made it
                if not at or event.step <= step - (owes and _is_of_evaluation(event)):
                    kept.append(content[at:end])
                else:
                    dropped = True
                at = end
        if kept and (dropped or at < len(content)):
            write_bytes(path, b"".join(kept))
    except DecodeError:  # another's records
        return []
    except (tf.errors.OpError, OSError, UserError) as error:
        what = error.what if isinstance(error, UserError) else cannot_be_written(path, error).what
        return [f"warning: TensorBoard may show steps after {step} twice: {path}: {what}"]
    return []


def _is_of_evaluation(event: Any) -> bool:
    return any(value.tag.startswith(("eval/", _HELD_OUT)) for value in event.summary.value)


def _stays(line: str, step: int, rollbacks: int, owes: bool) -> bool:
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        entry = json.loads(line)
        if entry.get("phase") == "rollback":
            return int(entry["number"]) <= rollbacks
        return int(entry["step"]) <= step - (owes and entry.get("phase") == "eval")
    return False  # a line cut short by the kill


def variable_table(rows: Iterable[tuple[str, Sequence[int], str]]) -> list[str]:
    """Lines that say of every variable what it is and what becomes of it."""
    shown = [(name, "×".join(map(str, shape)) or "scalar", why) for name, shape, why in rows]
    widths = [max((len(row[i]) for row in shown), default=0) for i in (0, 1)]
    return [f"  {name:<{widths[0]}}  {shape:>{widths[1]}}  {why}" for name, shape, why in shown]


def open_report(folder: Path, saved: Loaded | None) -> Report:
    """The report of a run that begins, or goes on from a checkpoint."""
    if saved is None:
        warnings = forget_after(folder, -1)
    else:
        rollbacks, owes = monitor.watch_in(saved.values).rollbacks, standing_in(saved.values).owes
        warnings = forget_after(folder, saved.step, rollbacks, owes)
    report = Report(folder)
    for line in warnings:
        report.line(line)
    return report


def first_line(folder: Path, prefix: str, stem: str, saved: Loaded | None) -> str:
    """Whether this is a beginning or a continuation, and of what."""
    if saved is None:
        return f"init: {folder} begins at step 0 with the weights of {prefix}"
    return f"resume: {folder} goes on after step {saved.step}, from checkpoints/{stem}-{saved.step}"


def passed_over(saved: Loaded) -> list[str]:
    """A warning for each checkpoint that is newer than the one that was taken, and damaged."""
    return [f"warning: a newer checkpoint is damaged and passed over: {why}" for why in saved.damaged]


def opening(plan: Plan, model: Model, saved: Loaded | None, started: Started, proof: Proof | None) -> list[str]:
    """What is known before the first step: source, cut, what learns, and the examples."""
    source = plan.source
    rows = [(f.variable.name, source.shapes[f.variable.name], _told(f, model)) for f in model.variants.fates]
    rows += [(name, shape, _told_new(a.rate, "lora")) for a in model.adapters for name, shape in a.shapes.items()]
    rows += [(name, shape, _told_new(1.0, "new")) for name, shape in model.new_variables.items()]
    feeds = [f"{tensor}={_shown(value)}" for tensor, value in model.feeds.items()]
    return [
        *(passed_over(saved) if saved else []),
        f"device: {started.device}",
        *started.engine.said,
        f"source: {source.pair.name}, written by TensorFlow {metagraph.producer(source.meta)}; "
        f"{len(source.below.nodes)} of {len(source.whole.nodes)} nodes are below the cut",
        *([_where_weights_lie(source)] if source.pair.is_one_file else []),
        *_weights(source),
        f"cut: {model.said}",
        *([f"feeds: {', '.join(feeds)}"] if feeds else []),
        *([f"bypassed: Print and Assert nodes {shortlist(list(source.bypassed))}"] if source.bypassed else []),
        "variables:",
        *variable_table(rows),
        *([f"  not below the cut: {shortlist(list(source.above))}"] if source.above else []),
        *([_adapted(source, model)] if model.adapters else []),
        f"data: {len(plan.training)} examples to train on ({'; '.join(_learnt(plan, task) for task in plan.tasks)}), "
        f"{len(plan.held_out)} held out",
        *(proof.lines(shortlist(list(source.cuts))) if proof else []),
    ]


def _told_new(rate: float, kind: str) -> str:
    return f"learns ({kind})" if rate == 1.0 else f"learns ({kind}), rate × {rate:.4g}"


def _adapted(source: Source, model: Model) -> str:
    """How much of all there is learns, where small matrices do."""
    shapes = {**source.shapes, **model.small_variables, **model.new_variables}
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    learning = sum(counts[name] for name in model.rates)
    many = f"{len(model.adapters)} matrices" if len(model.adapters) > 1 else "1 matrix"
    return f"lora: {many}, {learning:,} of {sum(counts.values()):,} parameters learn"


def numerics(train: Train, model: Model, averages: int, started: Started) -> list[str]:
    """How a step computes, where that is not the usual way."""
    lines = []
    if train.accumulate > 1:
        lines.append(
            f"step: {train.accumulate} portions of {train.batch_size // train.accumulate} examples, one after the other"
        )
    if train.ema is not None:
        lines.append(
            f"averages: evaluation and the written pair take moving averages of {averages} variables "
            f"(decay {train.ema:g}); checkpoints hold both"
        )
    if train.precision != "float32":
        kind = train.precision.removeprefix("mixed_")
        done = f"{model.products} products and convolutions of a step are {kind}, all else and evaluation float32"
        slow = "; most CPUs compute them several times slower" if started.device.startswith("cpu") else ""
        none = f"a step has no product or convolution that could be {kind}"
        lines.append(f"precision: {done + slow if model.products else none}")
    if train.xla:
        lines.append("xla: the step is compiled before it first runs; its random numbers are not those without XLA")
    return lines


def _learnt(plan: Plan, task: Task) -> str:
    """What a head has to learn from: how many examples of each class, or the range of the numbers."""
    targets = plan.training.targets[task.name]
    named = f"{task.name}: " if len(plan.tasks) > 1 else ""
    if not task.classes:
        return f"{named}{task.outputs} numbers from {targets.min():.4g} to {targets.max():.4g}"
    counts = np.bincount(targets, minlength=task.outputs) if task.is_exclusive else targets.sum(axis=0)
    return named + ", ".join(f"{name} {count:.0f}" for name, count in list(zip(task.classes, counts, strict=True))[:10])


def _where_weights_lie(source: Source) -> str:
    if metagraph.is_frozen(source.pair.meta):
        return "no checkpoint: the weights are constants of the frozen graph"
    return f"no checkpoint lies beside {source.pair.name}: the weights are the constants that variables start from"


def _weights(source: Source) -> list[str]:
    """Where the variables start from."""
    start, all_of_them = source.start, len(source.variables)
    count = sum(math.prod(start.shapes[name]) for name in start.keys)
    lines = [
        f"weights: {len(start.keys)} of {all_of_them} variables found, {count:,} values; "
        f"{source.unused_keys} other tensors of the checkpoint are not needed"
    ]
    if start.averaged:
        lines.append(f"averages: {len(start.averaged)} of {all_of_them} variables start from their moving averages")
    if start.missing:
        anew = [f"{name} ({source.first_value(name)})" for name in start.missing]
        lines.append(f"missing: the checkpoint lacks {shortlist(anew)}, as source.allow_missing allows")
    return lines


def picture(plan: Plan, model: Model) -> str:
    """The layers of the grafted model, what learns and where the barriers are, as an SVG file."""
    source = plan.source
    reached = {*model.rates, *model.updated}
    beside = {adapter.variable: adapter.rate for adapter in model.adapters}  # what the written pair has changed
    fates = [
        f if f.variable.name in reached else replace(f, rate=beside.get(f.variable.name, 0.0), why=_told(f, model))
        for f in model.variants.fates
    ]
    inputs = list(source.inputs.values())
    drawn = layers.diagram(source.below, source.cut, inputs, fates, source.shapes, model.variants.barriers)
    heads = {task.name: f"{task.name}: {plan.heads[task.name].kind} → {_outputs(task)}" for task in plan.tasks}
    above = [graft for graft in model.grafts if graft.cut == source.cut]
    on_others = {node_of(g.cut): f"and a new head, {heads[g.scope]}" for g in model.grafts if g not in above}
    boxes = (replace(box, marks=(*box.marks, *_found(on_others, box.nodes))) for box in drawn.boxes)
    drawn = replace(drawn, boxes=tuple(boxes))
    given = next((s.partition(", ")[2] for s in model.said.split("; ") if s.startswith(f"{source.cut}, ")), "")
    feeds = [f"{tensor} = {_shown(value)}" for tensor, value in model.feeds.items()]
    caption = Caption(
        title=f"{source.pair.name} cut at {source.cut}",
        lines=[f"feeds: {'; '.join(feeds)}"] if feeds else [],
        cut=source.cut,
        given=given,
        head=[
            *(heads[graft.scope] for graft in above),
            f"{counted(sum(math.prod(shape) for graft in above for shape in graft.variables.values()))} · learns (new)",
        ],
        barred=source.cut in model.variants.barriers,
        note=note(layers.unneeded(source.whole, source.below), len(source.whole.nodes)),
    )
    return draw(short(drawn), caption)


def _found(marks: Mapping[str, str], nodes: Collection[str]) -> list[str]:
    return [mark for node, mark in marks.items() if node in nodes]


def _outputs(task: Task) -> str:
    return f"{task.outputs} {'class' if task.classes else 'number'}{'es' if task.classes else 's' * (task.outputs > 1)}"


def _told(fate: Fate, model: Model) -> str:
    if _rate(fate, model) != fate.rate:
        return freeze.UNREACHED
    return fate.why if fate.rate in (0.0, 1.0) else f"{fate.why}, rate × {fate.rate:.4g}"


def _rate(fate: Fate, model: Model) -> float:
    return fate.rate if fate.variable.name in {*model.rates, *model.updated} else 0.0


def variable_record(plan: Plan, model: Model) -> dict[str, Any]:
    """The table of variables for programs.

    `variables` has, by name: shape; `key` in the checkpoint, None where it lacks the variable; `start`; the `rate` at
    which it learns, 0 for frozen; and what decided that: `rule`, `barriers`, and `why` in words.
    """
    start = plan.source.start
    below = {
        fate.variable.name: {
            "shape": start.shapes[fate.variable.name],
            "key": start.keys.get(fate.variable.name),
            "start": plan.source.first_value(fate.variable.name),
            "rate": _rate(fate, model),
            "rule": fate.rule,
            "barriers": fate.barriers,
            "why": _told(fate, model),
        }
        for fate in model.variants.fates
    }
    new = {
        name: {
            "shape": shape,
            "key": None,
            "start": "new",
            "rate": model.rates[name],
            "rule": None,
            "barriers": (),
            "why": "learns",
        }
        for name, shape in {**model.small_variables, **model.new_variables}.items()
    }
    return {"variables": {**below, **new}, "not_below_the_cut": plan.source.above}


def phase_lines(plan: Plan, model: Model, phase: Phase, standing: Standing) -> list[str]:
    """What learns from now on; nothing where the run has only one part."""
    if not phase.name:
        return []
    began, train, rates = standing.began[-1], phase.train, sorted(set(model.rates.values()))
    shapes = {**plan.source.shapes, **model.new_variables, **model.small_variables}
    learning = [math.prod(shapes[name]) for name in {*model.rates, *model.updated}]
    times = f" × {rates[0]:g} to {rates[-1]:g}" if len(rates) > 1 else f" × {rates[0]:g}" * (rates[0] != 1)
    falling = "" if train.schedule == "constant" else f", {train.schedule}"
    ends = [f"step {phase.last}"] if phase.last is not None else []
    ends += [f"{phase.patience} evaluations without a better {phase.metric}"] if phase.patience is not None else []
    until = f", until {' or '.join(ends)}" if ends else ", to the end"
    return [
        f"phase: {phase.name} ({standing.number + 1} of {len(plan.phases)}, after step {began}): "
        f"{len(learning)} variables learn, {sum(learning):,} values, by {train.optimizer} "
        f"at {train.learning_rate:g}{times}{falling}{until}"
    ]


def phase_record(
    record: Mapping[str, Any], plan: Plan, model: Model, phase: Phase, standing: Standing
) -> dict[str, Any]:
    """What programs may know of the phases so far: after which step each began, and which variables learn at what rate.

    Nothing where the run has only one part.
    """
    if not phase.name:
        return {}
    begun = [other.name for other in plan.phases[: standing.number]]
    earlier = {name: entry for name, entry in record.get("phases", {}).items() if name in begun}
    now = {"began": standing.began[-1], "learns": dict(model.rates), "updated": sorted(model.updated)}
    return {**variable_record(plan, model), "phases": {**earlier, phase.name: now}}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and len(set(value.values())) > 1:
        return " / ".join(f"{v} in {k}" for k, v in value.items())
    return str(next(iter(value.values())) if isinstance(value, Mapping) else value)


def first_numbers(folder: Path, phase: str) -> dict[str, Any]:
    """What was logged of a phase at step 0, before any training; nothing if it was not."""
    return next((entry for entry in entries(folder) if entry["phase"] == phase and entry["step"] == 0), {})


def best(watch: monitor.Watch, metric: str, folder: Path) -> dict[str, Any] | None:
    """The step and the value of the best evaluation, and where its pair is; None if there was no evaluation."""
    if watch.best_step < 0:
        return None
    # It holds another where `eval.keep_best` was not always the same, or where a run was killed after a better one and
    # then told to evaluate less often.
    kept = folder.exists() and json.loads((folder / CARD).read_text(encoding="utf-8"))["evaluated"]["step"]
    pair = folder.name if kept == watch.best_step else None
    return {"step": watch.best_step, "metric": metric, "value": watch.best, "pair": pair}


def best_elsewhere(best: Mapping[str, Any] | None, last: int) -> str:
    """What is added to the result of a run whose last evaluation was not its best."""
    if best is None or best["step"] == last:
        return ""
    where = f", whose model is in {best['pair']}/" if best["pair"] else ""
    return f"; the best {best['metric']} was {best['value']:.4g} at step {best['step']}{where}"


def beside_the_pair(plan: Plan, model: Model, recipe: Recipe, evaluated: Mapping[str, float]) -> dict[str, str]:
    """Files that tell a stranger how to use the pair: the labels, what goes in and comes out, and how good it is.

    Args:
      evaluated: the step of its evaluation and what that gave; empty if there was none.
    """
    kinds = plan.source.input_kinds()
    as_images = recipe.data.kind == "images"
    channels, size = None, recipe.data.image_size
    if as_images:
        ((_, shape),) = kinds.values()
        channels, size = image_geometry(shape, size)
    card = {
        "inputs": dict(model.inputs),
        "takes": {field: {"dtype": dtype_name(dtype), "shape": shape} for field, (dtype, shape) in kinds.items()},
        "preprocess": recipe.data.preprocess if as_images else None,
        "image_size": size,
        "channels": channels,
        "eval_crop": recipe.data.eval_crop,
        "feeds": {
            tensor: value["eval"] if isinstance(value, Mapping) else value for tensor, value in model.feeds.items()
        },
        "cut": plan.source.cut,
        "heads": {
            task.name: {
                "loss": task.loss,
                "classes": list(task.classes),
                "outputs": {"logits": f"{task.name}/logits:0", graft.loss.output: f"{task.name}/{graft.loss.output}:0"},
            }
            for task, graft in zip(plan.tasks, model.grafts, strict=True)
        },
        "evaluated": {name: value if math.isfinite(value) else None for name, value in evaluated.items()},
    }
    with_classes = [task for task in plan.tasks if task.classes]
    labels = {
        "labels.txt" if len(with_classes) == 1 else f"labels.{task.name}.txt": "".join(f"{c}\n" for c in task.classes)
        for task in with_classes
    }
    return {**labels, CARD: json.dumps(card, indent=2, ensure_ascii=False) + "\n"}
