"""Lint, format, types and the direction of imports, as tests, so that one command checks everything."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "finetune"

# From the top down: a room imports only rooms that stand after it.
# fmt: off
ROOMS = [
    "__main__", "mirroring", "holding", "sweep", "search", "summary", "trials", "wire", "one_gpu", "run",
    "submitting", "submitted", "predicting", "listing", "sbatch", "detached", "kubernetes", "job_script",
    "cluster_words", "freezing", "job_folder", "states", "extracting", "checkup", "reporting", "evaluating",
    "showing", "inspect", "feeding", "candidates", "answers", "flow", "exporting", "finished", "parser",
    "answering", "ending", "rate_search", "rehearsal", "beginning", "bystanding", "doubts", "training", "looking",
    "setbacks", "keeping", "beside", "reload", "convert", "onnx", "savedmodel", "tflite", "frozen_pb", "parity",
    "serving", "doctor", "duplicates", "headers", "glimpses", "feature_files", "damage", "calibration",
    "remembered", "process", "contest", "verdict", "trial", "asked", "compose", "check", "keys", "session", "rows",
    "frozen_part", "space", "model_picture", "opening", "fates", "labels_and_card", "report", "appending",
    "picture", "layout", "repeats", "proof", "graft", "batches", "export", "start", "old_head", "nonfinite",
    "precision", "reuse", "own_heads", "heads", "lora", "mixing", "gathering", "images", "preprocess", "augment",
    "rand_augment", "erasing", "pixels", "padding", "card", "work", "augment_keys", "setting", "unfreezing",
    "l2_sp", "strides", "train", "state", "optimizers", "bits", "averages", "decay", "loss_scale", "joining",
    "team", "accumulation", "distill", "part", "shapes", "compile", "losses", "filling", "splitting", "frontier",
    "dependence", "store", "key", "comparison", "page", "page_curves", "page_made", "page_heads", "run_files",
    "run_folder", "lock", "machine", "plan", "synthetic", "recipe_files", "packaged", "large_pages", "findings",
    "intervals", "drift", "baselines", "evaluate", "metrics", "curves", "kinds", "tfds", "tfrecords",
    "record_index", "progress", "scanning", "checksums", "shelf", "own_code", "own_functions", "elements",
    "manifest", "folders", "text_tables", "columns", "numpy_files", "rates", "patience", "checkpoints", "bundles",
    "manifests", "find_rate", "course", "schedules", "variants", "source", "settle", "backbone", "sizes", "dropout",
    "weights", "trust", "costs", "soundness", "branches", "modes", "randomness", "parameters", "constants",
    "renaming", "initial", "tables", "index", "slices", "table", "adapters", "distance", "layers", "freeze",
    "specialize", "cut", "functions", "bodies", "variables", "objects", "fetching", "metagraph", "frozen", "loops",
    "graph", "files", "allowed_ops", "output_args", "protos", "monitor", "plots", "markup", "hardest", "tasks",
    "data", "compact", "recipe", "names", "meeting", "cluster", "devices", "courier", "places", "carrier",
    "own_place", "errors", "fields", "axes", "interruption",
]
# fmt: on


def rooms() -> dict[str, Path]:
    found = [path for path in SOURCE.rglob("*.py") if path.stem != "__init__"]
    assert len({path.stem for path in found}) == len(found), "two rooms of one name"
    return {path.stem: path for path in found}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "finetune":
            last = str(node.module).split(".")[-1]
            found |= {last} if last in rooms() else {alias.name for alias in node.names}
    return found & rooms().keys()


def test_imports_go_downwards_only():
    assert sorted(ROOMS) == sorted(rooms())
    upwards = [(r, o) for r, path in rooms().items() for o in imported(path) if ROOMS.index(o) <= ROOMS.index(r)]
    assert upwards == []


def test_every_room_says_in_one_line_what_it_is():
    for room, path in rooms().items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert doc.partition("\n")[0].endswith("."), room


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_lint():
    result = run(sys.executable, "-m", "ruff", "check", ".")
    assert result.returncode == 0, result.stdout


def test_format():
    result = run(sys.executable, "-m", "ruff", "format", "--check", ".")
    assert result.returncode == 0, result.stdout


def test_types():
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    result = run(pyright, "--pythonpath", sys.executable)
    if "error" not in result.stdout and result.returncode:  # it fetches itself from the npm registry at its first run
        pytest.skip(f"pyright does not start: {result.stderr.strip().splitlines()[-1:]}")
    assert result.returncode == 0, result.stdout
