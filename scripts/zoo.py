"""Takes every source in a folder from file to trained pair, without an edit, and prints what became of each.

    python scripts/zoo.py FOLDER [NAME ...] [--runs RUNS] [--jobs 2]

For each source: `inspect --recipe`, a run of three steps on made-up data with that recipe as it stands, and plain
TensorFlow restoring the pair that was written. Beside it stands what plain `import_meta_graph` does with the same
file. That imports files whole, which runs parts of them: only for a folder of files that you trust.

A source is a folder with a pair or a SavedModel, or a frozen `.pb`, in FOLDER or one level below.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TRIAL = ("data.kind=synthetic", "head.classes=3", "train.steps=3")
LIMIT = 900  # seconds for one command

# Two questions to plain TensorFlow in one process, for its import takes seconds.
PLAIN = """
import sys, tensorflow as tf
v1 = tf.compat.v1
def attempt(question):
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            return question(session)
    except BaseException as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
        return f"{type(error).__name__}: {lines[0]}"
def imported(session):
    v1.train.import_meta_graph(sys.argv[1], clear_devices=False)
    return "ok"
def restored(session):
    saver = v1.train.import_meta_graph(sys.argv[2] + "/model.meta")
    saver.restore(session, tf.train.latest_checkpoint(sys.argv[2]))
    session.graph.get_tensor_by_name("head/probabilities:0")
    return "ok"
print("imported", attempt(imported) if sys.argv[1].endswith(".meta") else "no .meta")
print("restored", attempt(restored) if sys.argv[2] else "-")
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one source; each field is a cell of the table."""

    name: str
    plain: str
    cut: str
    trained: str
    features: str
    restored: str
    seconds: str

    @property
    def whole(self) -> bool:
        """Whether it went all the way."""
        return self.trained == self.restored == "ok"


def main() -> int:
    """Prints the table and how many went all the way; the exit status says whether all did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where recipes and runs go; made anew")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    found = [s for s in sources(asked.folder) if not asked.names or s.stem in asked.names]
    asked.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        outcomes = []
        for outcome in pool.map(lambda source: take(source, asked.runs.resolve()), found):
            outcomes.append(outcome)
            print(f"{len(outcomes)}/{len(found)} {outcome.name}: {outcome.trained}", file=sys.stderr, flush=True)
    print(table(outcomes))
    good = sum(outcome.whole for outcome in outcomes)
    metas = [outcome for outcome in outcomes if outcome.plain != "no .meta"]
    imported = sum(outcome.plain == "ok" for outcome in metas)
    print(f"\n{good} of {len(outcomes)} trained and restored.")
    print(f"Plain import_meta_graph takes {imported} of {len(metas)} .meta files.")
    return 0 if good == len(outcomes) else 1


def sources(folder: Path) -> list[Path]:
    """Every folder with a pair or a SavedModel, and every frozen `.pb`, in a folder or one level below."""
    found = []
    for path in sorted(folder.iterdir()):
        inside = sorted(path.iterdir()) if path.is_dir() and not _is_source(path) else []
        found += [source for source in (path, *inside) if _is_source(source)]
    return found


def _is_source(path: Path) -> bool:
    if path.is_dir():
        return any(f.name.endswith(".meta") or f.name == "saved_model.pb" for f in path.iterdir())
    return path.suffix == ".pb"


def take(source: Path, runs: Path) -> Outcome:
    """One source, all the way."""
    began, recipe, run = time.monotonic(), runs / f"{source.stem}.yaml", runs / source.stem
    recipe.unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    inspected, error = _finetune("inspect", str(source), "--json", "--recipe", str(recipe))
    cut, trained, features, written = "-", error, "-", ""
    if not error:
        cut = json.loads(inspected)["cuts"][0]["tensor"]
        _, error = _finetune(f"recipe={recipe}", *TRIAL, f"run.dir={run}")
        trained = error or "ok"
    if trained == "ok":
        features = json.loads((run / "run.json").read_text()).get("proof", {}).get("features", "-")
        written = str(run / "model")
    metas = sorted(source.glob("*.meta")) + sorted(source.glob(".meta")) if source.is_dir() else []
    plain, restored = _plain(str(metas[0]) if metas else str(source), written)
    return Outcome(source.stem, plain, cut, trained, features, restored, f"{time.monotonic() - began:.0f}")


def _finetune(*words: str) -> tuple[str, str]:
    """(standard output, error) of a command; the error is its first line, and empty if there was none."""
    done = _process([sys.executable, "-m", "finetune", *words])
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")] or done.stderr.splitlines()[-1:]
    return done.stdout, "" if done.returncode == 0 else (lines or [f"exit status {done.returncode}"])[0]


def _plain(meta: str, written: str) -> tuple[str, str]:
    done = _process([sys.executable, "-c", PLAIN, meta, written])
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("imported ", "restored ")))
    died = f"exit status {done.returncode}"
    return said.get("imported", died), said.get("restored", died)


def _process(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=quiet, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"no answer in {LIMIT} seconds")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as Markdown."""
    titles = ("source", "plain import_meta_graph", "cut", "trained", "features", "restored", "s")
    rows = [titles, ("---",) * len(titles)]
    rows += [tuple(_cell(str(value)) for value in vars(outcome).values()) for outcome in outcomes]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    shown = text if len(text) <= 110 else f"{text[:109]}…"
    return shown.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
