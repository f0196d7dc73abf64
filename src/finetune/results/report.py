"""The place from which a run speaks: the terminal, its log, its metrics and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError, printable
from finetune.examples.data import Examples
from finetune.judging.evaluate import Evaluation
from finetune.learning import monitor
from finetune.learning.course import standing_in
from finetune.recipe import Recipe
from finetune.recipe_files import flat
from finetune.results.appending import Appending
from finetune.results.checkpoints import Loaded, cannot_be_written, tidy, write_bytes, write_text
from finetune.results.run_files import LOG, METRICS

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


def passed_over(saved: Loaded) -> list[str]:
    """A warning for each checkpoint that is newer than the one that was taken, and damaged."""
    return [f"warning: a newer checkpoint is damaged and passed over: {why}" for why in saved.damaged]
