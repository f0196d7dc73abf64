"""What people read of a run: lines, metrics, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.engine.graft import Model
from finetune.engine.proof import Proof
from finetune.errors import printable, shortlist
from finetune.inspecting import layers
from finetune.inspecting.picture import Caption, counted, draw, note
from finetune.inspecting.repeats import short
from finetune.learning.data import Examples
from finetune.learning.evaluate import Evaluation
from finetune.learning.tasks import Task, majority
from finetune.plan import Plan
from finetune.reading import metagraph
from finetune.recipe import Recipe, Train
from finetune.recipe_files import flat
from finetune.results.checkpoints import Loaded, write_text
from finetune.start import Started
from finetune.surgery import freeze
from finetune.surgery.freeze import Fate
from finetune.surgery.source import Source

EVENTS = "tensorboard"
METRICS = "metrics.jsonl"
LOG = "train.log"
PICTURE = "graph.svg"
SHOWN = 8  # held-out images in TensorBoard

Pictures = Callable[[Examples, Sequence[int]], np.ndarray]  # uint8 [images, height, width, 3], none for other data


class Report:
    """The one place from which a run speaks: terminal, `train.log`, `metrics.jsonl` and TensorBoard."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._log = (folder / LOG).open("a", encoding="utf-8")
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._events: Any = None
        self._bar: Any = None

    def line(self, text: str) -> None:
        """One line for people, on the terminal and, with the time, in the log."""
        text = printable(text)  # names come from files of others
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()
        if self._bar is not None:
            self._bar.clear()
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Whoever read along has gone; the run and its log go on.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open until the end
        if self._bar is not None:
            self._bar.refresh()

    def scalars(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, for people, for programs and for TensorBoard."""
        import tensorflow as tf

        self._metrics.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
        self._metrics.flush()
        with self._writer().as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{phase}/{name}", value)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.line(f"{phase:>5} | step {step:>6} | {shown}")

    def graph(self, meta: Any) -> None:
        """The graph of the grafted model, for TensorBoard."""
        import tensorflow as tf

        with self._writer().as_default(step=0):
            tf.summary.graph(tf.compat.v1.GraphDef.FromString(meta.graph_def.SerializeToString()))

    def hparams(self, recipe: Recipe) -> None:
        """The recipe as hyper-parameters, so that TensorBoard can compare runs."""
        from tensorboard.plugins.hparams import api

        with self._writer().as_default(step=0):
            values = flat(asdict(recipe))
            given = {name: value for name, value in values.items() if value not in (None, [], {})}
            api.hparams({n: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for n, v in given.items()})

    def predictions(self, step: int, examples: Examples, found: Mapping[str, Evaluation], pictures: Pictures) -> None:
        """A few held-out images with what each head says of them, in a green frame if it is right, a red one if not."""
        import tensorflow as tf

        chosen = [round(i) for i in np.linspace(0, len(examples) - 1, min(len(examples), SHOWN))]
        images = pictures(examples, chosen)
        for head, judged in found.items():
            name = "held-out" if len(found) == 1 else f"held-out {head}"
            rows = ["| image | is | taken for | probability |", "|---|---|---|---|"]
            with self._writer().as_default(step=step):
                for place, (index, image) in enumerate(zip(chosen, images, strict=False)):
                    label, guess = judged.said(judged.targets[index]), judged.said(judged.predictions[index])
                    right = bool(judged.is_right[index]) if judged.task.classes else None
                    tf.summary.image(f"{name}/{place} {label}", framed(image, right)[np.newaxis])
                    share = f"{judged.outputs[index].max():.2f}" if judged.task.classes else ""
                    rows.append(f"| {place} | {label} | {guess} {'✗' if right is False else ''} | {share} |")
                if len(images):
                    tf.summary.text(f"{name} predictions", "\n".join(rows))

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

    def close(self) -> None:
        """Writes out what is still held."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._events is not None:
            self._events.close()
        self._log.close()
        self._metrics.close()

    def _writer(self) -> Any:
        import tensorflow as tf

        if self._events is None:
            self._events = tf.summary.create_file_writer(str(self._folder / EVENTS))
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


def forget_after(folder: Path, step: int) -> None:
    """Takes back what a killed run reported beyond the step it is resumed from."""
    path = folder / METRICS
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line, step) <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))
    if (folder / EVENTS).is_dir():
        for events in sorted((folder / EVENTS).iterdir()):
            _forget_events_after(events, step)


def _forget_events_after(path: Path, step: int) -> None:
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event

    kept, dropped = [], False
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            if Event.FromString(record).step <= step:
                kept.append(record)
            else:
                dropped = True
    except tf.errors.DataLossError:  # the record that the kill cut short, always the last
        dropped = True
    if dropped:
        aside = path.with_name(f".{path.name}")
        with tf.io.TFRecordWriter(str(aside)) as writer:
            for record in kept:
                writer.write(record)
        os.replace(aside, path)


def _step_of(line: str, step: int) -> int:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return step + 1  # a line cut short by the kill


def variable_table(rows: Iterable[tuple[str, Sequence[int], str]]) -> list[str]:
    """Lines that say of every variable what it is and what becomes of it."""
    shown = [(name, "×".join(map(str, shape)) or "scalar", why) for name, shape, why in rows]
    widths = [max((len(row[i]) for row in shown), default=0) for i in (0, 1)]
    return [f"  {name:<{widths[0]}}  {shape:>{widths[1]}}  {why}" for name, shape, why in shown]


def open_report(folder: Path, saved: Loaded | None) -> Report:
    """The report of a run that begins, or goes on from a checkpoint."""
    forget_after(folder, -1 if saved is None else saved.step)
    return Report(folder)


def first_line(folder: Path, prefix: str, stem: str, saved: Loaded | None) -> str:
    """Whether this is a beginning or a continuation, and of what."""
    if saved is None:
        return f"init: {folder} begins at step 0 with the weights of {prefix}"
    return f"resume: {folder} goes on after step {saved.step}, from checkpoints/{stem}-{saved.step}"


def opening(plan: Plan, model: Model, saved: Loaded | None, started: Started, proof: Proof | None) -> list[str]:
    """What is known before the first step: source, cut, what learns, and the examples."""
    source = plan.source
    damaged = [f"warning: a newer checkpoint is damaged and passed over: {d}" for d in (saved.damaged if saved else [])]
    rows = [(f.variable.name, source.shapes[f.variable.name], _told(f, model)) for f in plan.phases.fates]
    rows += [(name, shape, "learns (new)") for name, shape in model.new_variables.items()]
    feeds = [f"{tensor}={_shown(value)}" for tensor, value in model.feeds.items()]
    return [
        *damaged,
        f"device: {started.device}",
        f"source: {source.pair.name}, written by TensorFlow {metagraph.producer(source.meta)}; "
        f"{len(source.below.nodes)} of {len(source.whole.nodes)} nodes are below the cut",
        *([_where_weights_lie(source)] if source.pair.is_one_file else []),
        *_weights(source),
        f"cut: {source.cut}, {model.said}",
        *([f"feeds: {', '.join(feeds)}"] if feeds else []),
        *([f"bypassed: Print and Assert nodes {shortlist(list(source.bypassed))}"] if source.bypassed else []),
        "variables:",
        *variable_table(rows),
        *([f"  not below the cut: {shortlist(list(source.above))}"] if source.above else []),
        f"data: {len(plan.training)} examples to train on ({'; '.join(_learnt(plan, task) for task in plan.tasks)}), "
        f"{len(plan.held_out)} held out",
        *(proof.lines(source.cut) if proof else []),
    ]


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
    fates = [f if f.variable.name in reached else replace(f, rate=0.0, why=_told(f, model)) for f in plan.phases.fates]
    inputs = list(source.inputs.values())
    drawn = layers.diagram(source.below, source.cut, inputs, fates, source.shapes, plan.phases.barriers)
    feeds = [f"{tensor} = {_shown(value)}" for tensor, value in model.feeds.items()]
    caption = Caption(
        title=f"{source.pair.name} cut at {source.cut}",
        lines=[f"feeds: {'; '.join(feeds)}"] if feeds else [],
        cut=source.cut,
        given=model.said,
        head=[
            *(f"{t.name}: {plan.heads[t.name].kind} → {_outputs(t)}" for t in plan.tasks),
            f"{counted(sum(math.prod(shape) for shape in model.new_variables.values()))} · learns (new)",
        ],
        barred=source.cut in plan.phases.barriers,
        note=note(layers.unneeded(source.whole, source.below), len(source.whole.nodes)),
    )
    return draw(short(drawn), caption)


def _outputs(task: Task) -> str:
    return f"{task.outputs} {'classes' if task.classes else 'numbers'}"


def _told(fate: Fate, model: Model) -> str:
    if _rate(fate, model) != fate.rate:
        return freeze.UNREACHED
    return fate.why if fate.rate in (0.0, 1.0) else f"{fate.why}, rate × {fate.rate:g}"


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
        for fate in plan.phases.fates
    }
    new = {
        name: {"shape": shape, "key": None, "start": "new", "rate": 1.0, "rule": None, "barriers": (), "why": "learns"}
        for name, shape in model.new_variables.items()
    }
    return {"variables": {**below, **new}, "not_below_the_cut": plan.source.above}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and len(set(value.values())) > 1:
        return " / ".join(f"{v} in {k}" for k, v in value.items())
    return str(next(iter(value.values())) if isinstance(value, Mapping) else value)


def result(plan: Plan, final: Mapping[str, Evaluation] | None, folder: Path) -> str:
    """The one sentence to remember, with what it has to be compared with."""
    if final is None:
        return f"trained for {plan.steps} steps; nothing was held out to evaluate on"
    untrained = first_evaluation(folder) or {}
    told = []
    for name, found in final.items():
        measure = "accuracy" if found.task.classes else "mae"
        named, key = ("", measure) if len(final) == 1 else (f"{name}: ", f"{name}/{measure}")
        beside = [f"majority class {majority(found.targets):.3f}"] if found.task.is_exclusive else []
        beside += [f"untrained head {untrained[key]:.3f}"] if key in untrained else []
        told.append(f"{named}{measure} {found.metrics()[measure]:.3f} ({', '.join(beside)})")
    (first, _, rest), *others = (line.partition(" (") for line in told)
    return "; ".join([f"{first} on {len(plan.held_out)} held-out examples ({rest}", *("".join(o) for o in others)])


def first_evaluation(folder: Path) -> dict[str, Any] | None:
    """What was logged of step 0, before any training."""
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["phase"] == "eval" and entry["step"] == 0:
            return entry
    return None


def beside_the_pair(plan: Plan, model: Model, recipe: Recipe) -> dict[str, str]:
    """Files that tell a stranger how to use the pair: the labels, and what goes in and comes out."""
    card = {
        "inputs": dict(model.inputs),
        "preprocess": recipe.data.preprocess if recipe.data.kind == "images" else None,
        "image_size": recipe.data.image_size,
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
    }
    with_classes = [task for task in plan.tasks if task.classes]
    labels = {
        "labels.txt" if len(with_classes) == 1 else f"labels.{task.name}.txt": "".join(f"{c}\n" for c in task.classes)
        for task in with_classes
    }
    return {**labels, "model.json": json.dumps(card, indent=2, ensure_ascii=False) + "\n"}
