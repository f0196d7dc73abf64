"""A finished run for other programs.

usage: python -m finetune export RUN --to FORMAT [options]

  RUN               a run folder, e.g. runs/vgg_2class
  FORMAT            pair, savedmodel, frozen, tflite or onnx, with preprocessing and class names inside

options:
      --out FOLDER  a new folder; without it RUN/export/FORMAT, which a later export replaces
      --best        the pair in best/ and not the final one

A process without finetune loads what was written and compares it with the pair; a file that differs is not left.

examples:
  python -m finetune export runs/vgg_2class --to savedmodel
  python -m finetune export runs/vgg_2class --to tflite --out phone
  python -m finetune export runs/vgg_2class --to onnx --best
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from finetune.errors import UserError, printable
from finetune.finished import find_model
from finetune.names import did_you_mean
from finetune.parser import Parser
from finetune.remote.fetching import run_at_hand
from finetune.remote.places import is_remote
from finetune.results.card import CARD, read_card
from finetune.start import start_tensorflow

FORMATS = ("pair", "savedmodel", "frozen", "tflite", "onnx")
USAGE = f"write export RUN --to {'|'.join(FORMATS)} [--out FOLDER] [--best]"
_EXTRAS = {"onnx": ("tf2onnx", "onnx", "onnxruntime")}


def export(words: list[str]) -> int:
    """Exports the model of a run folder."""
    options = _options(words)
    if options.out is None and is_remote(options.run):
        raise UserError("recipe", "--out", "not given, and the run is not on this machine", "add --out FOLDER")
    model = find_model(Path(run_at_hand(options.run)), options.best)
    card = read_card(model)
    place = _place(model, options.to, options.out)
    _check_extra(options.to)
    start_tensorflow()
    from finetune.exports.convert import convert

    for line in convert(model, card, options.to, place):
        print(printable(line))
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser("export", USAGE)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--to", metavar="FORMAT", required=True)
    parser.add_argument("--out", metavar="FOLDER")
    parser.add_argument("--best", action="store_true")
    options = parser.parse_args(words)
    if options.to not in FORMATS:
        todo = did_you_mean(options.to, FORMATS) or f"the formats are {', '.join(FORMATS)}"
        raise UserError("recipe", "--to", f"there is no format '{options.to}'", todo)
    return options


def _place(model: Path, to: str, out: str | None) -> Path:
    """The folder to write: RUN/export/FORMAT, which a later export replaces, or a new one."""
    if out is None:
        return model.parent / "export" / (to if model.name == "model" else f"{model.name}-{to}")
    place = Path(out).expanduser().resolve()
    if place.suffix in (".pb", ".tflite", ".onnx", ".meta"):
        what = f"'{out}' is the name of a file, and an export is a folder: the model, its labels and {CARD}"
        raise UserError("recipe", "--out", what, f"write --out {place.with_suffix('')}")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError("recipe", "--out", f"'{out}' is there already", "name another folder, or remove it")
    return place


def _check_extra(to: str) -> None:
    missing = [name for name in _EXTRAS.get(to, ()) if importlib.util.find_spec(name) is None]
    if missing:
        what = f"needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UserError("recipe", f"--to {to}", what, f"pip install 'finetune[{to}]'")
