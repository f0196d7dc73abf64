"""Ends runs wherever they touch a file, and looks at what the same command makes of what is left.

    python -m benchmarks.torture FOLDER && python -m benchmarks.torture.table

A run of finetune that has everything at once (phases, dropout, augmentation, accumulation, averages), and one of plain
TensorFlow beside it, are stopped before each call that changes a file. What a kill or a loss of power would leave of
the disk at that moment is kept, and given to the same command later. Others find their disk full, are killed and
signalled at random moments. What comes out is written into benchmarks/results/torture.json. Needs Linux and a C
compiler.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Queue
from typing import Any

from benchmarks.machine import machine
from benchmarks.torture.faults import FULL, Watch, shim
from benchmarks.torture.table import RESULTS, ROWS, SIDES, table
from benchmarks.torture.trees import Tree, keep, lay
from finetune.reading.weights import read_index, read_tensors

EVERYTHING = """
defaults: [vgg_2class]
stop_gradient: false
source: {feeds: {keep_prob: {train: 0.5, eval: 1.0}}}
data: {augment: {preset: light}}
phases:
  - {name: head, until: {step: 3}, stop_gradient: true}
  - {name: all, optimizer: sgd, optimizer_args: {momentum: 0.9}, learning_rate: 0.001}
train: {steps: 8, batch_size: 8, accumulate: 2, ema: 0.9, log_every_steps: 1}
eval: {every_steps: 4, probe: false}
checkpoint: {every_steps: 2}
cache: {mode: "off"}
engine: {mode: default}
"""
LAST = 8  # the step at which both end
SLOWEST = 300.0  # seconds
FEW = 40  # calls for which a disk is full
LEAVING = ("killed", "power", "names")  # faults that leave something on the disk, and no process
STORM = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@dataclass(frozen=True)
class Side:
    """Who is tortured: the command that trains in a folder, and the checkpoints and pairs that it ends with."""

    command: Callable[[Path], list[str]]
    ends_with: Sequence[str]

    def answer(self, run: Path) -> str:
        """A digest of all that a finished run leaves: variables, optimizers, and what it logged."""
        found = hashlib.sha256()
        for prefix in self.ends_with:
            tensors = read_tensors(str(run / prefix), sorted(read_index(str(run / prefix))))
            for name, value in sorted(tensors.items()):
                found.update(
                    name.encode() + (repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
                )
        log = run / "metrics.jsonl"
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            entry = {key: value for key, value in json.loads(line).items() if key != "examples_per_second"}
            found.update(json.dumps(entry).encode())
        return found.hexdigest()


def sides(recipe: Path) -> dict[str, Side]:
    """By name, as in the table."""
    recipe.write_text(EVERYTHING, encoding="utf-8")
    ours = [sys.executable, "-m", "finetune", f"recipe={recipe}"]
    plain = [sys.executable, "-m", "benchmarks.torture.plain"]
    ends = [f"checkpoints/model-{LAST}", "model/model", "best/model"]
    return {
        "finetune": Side(lambda run: [*ours, f"run.dir={run}"], ends),
        "plain": Side(lambda run: [*plain, str(run)], [f"model-{LAST}"]),
    }


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    status: int
    said: str

    @property
    def saved(self) -> int:
        """The last step that it said to be saved."""
        return max((int(step) for step in re.findall(r"^saved step (\d+)$", self.said, re.MULTILINE)), default=0)

    @property
    def began_after(self) -> int | None:
        """The step after which it went on; the last where nothing was left to do, none where it did not get so far."""
        if "finished: " in self.said:
            return LAST
        found = re.search(r"goes on after step (\d+)|begins at step (0)", self.said)
        return int(found[1] or found[2]) if found else None

    def has_lost(self, saved: int) -> bool:
        """Whether it made steps again that were said to be saved."""
        return self.began_after is not None and self.began_after < saved


@dataclass(frozen=True)
class Moment:
    """A call that is about to be made: the step that was said to be saved, and what each fault leaves of the disk."""

    saved: int
    trees: Mapping[str, Tree]


@dataclass(frozen=True)
class Verdict:
    """What the same command made of what was left."""

    ended: Ended
    is_same: bool

    def outcome(self, saved: int) -> str:
        """The `same` bits, `other` ones, steps `lost`, or work `refused`."""
        if self.ended.status != 0:
            return "refused"
        if self.ended.has_lost(saved):
            return "lost"
        return "same" if self.is_same else "other"


class Torture:
    """One side in one folder, its undisturbed answer, and the calls that it makes on the way."""

    def __init__(self, side: Side, work: Path):
        self.side, self.work = side, work
        self.disk = work / "disk"
        self.run = self.disk / "run"
        self.watch = Watch(shim(work), self.disk, work / "calls", work / "kept")
        self._anew()
        whole = self._go(self.watch.environment())
        assert whole.status == 0, whole.said
        self.calls = len(self.watch.calls())
        self.answer = side.answer(self.run)

    def moments(self, pool: Path) -> Iterator[Moment]:
        """Every call of one run that nothing else disturbs."""
        self._anew()
        environment = self.watch.environment(1, many=1_000_000)
        with (self.work / "said").open("w", encoding="utf-8") as said:
            process = subprocess.Popen(self.side.command(self.run), stdout=said, stderr=said, env=environment)
            try:
                while os.WIFSTOPPED(status := os.waitpid(process.pid, os.WUNTRACED)[1]):
                    ended = Ended(0, (self.work / "said").read_text(encoding="utf-8"))
                    left = {
                        "killed": self.watch.now(),
                        "power": self.watch.without_power(names_survive=False),
                        "names": self.watch.without_power(names_survive=True),
                    }
                    yield Moment(ended.saved, {fault: keep(there, pool) for fault, there in left.items()})
                    process.send_signal(signal.SIGCONT)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                process.kill()
                process.wait()
        assert process.returncode == 0, (self.work / "said").read_text(encoding="utf-8")

    def judge(self, tree: Tree, pool: Path) -> Verdict:
        """What the command makes of this disk."""
        lay(tree, self.disk, pool)
        return self._judged()

    def full(self, at: int) -> str:
        """A disk that is full from a call on, for some calls."""
        self._anew()
        first = self._go(self.watch.environment(at, str(FULL), FEW))
        return self._judged().outcome(first.saved)

    def killed_at_random(self, kills: int, draw: random.Random) -> str:
        """One run, killed so many times at any moment, among files of others."""
        self._anew()
        saved, decoys = 0, {}
        for _ in range(kills):
            ended = self._go(after=draw.uniform(0.0, 12.0))
            if ended.status == 0:
                break
            if ended.has_lost(saved):
                return "lost"
            saved = max(saved, ended.saved)
            decoys = decoys or self._decoys()
        outcome = self._judged().outcome(saved)
        if any(not path.exists() or path.read_text() != text for path, text in decoys.items()):
            return "lost"
        return outcome

    def stormed(self, draw: random.Random) -> str:
        """One run that gets bursts of signals at random moments, until it is done."""
        self._anew()
        saved = 0
        for _ in range(20):
            ended = self._go(after=draw.uniform(0.5, 12.0), storm=draw)
            if ended.has_lost(saved):
                return "lost"
            saved = max(saved, ended.saved)
            if ended.status == 0:
                break
        return self._judged().outcome(saved)

    def _judged(self) -> Verdict:
        again = self._go()
        return Verdict(again, again.status == 0 and self.side.answer(self.run) == self.answer)

    def _anew(self) -> None:
        shutil.rmtree(self.disk, ignore_errors=True)
        self.disk.mkdir(parents=True)

    def _decoys(self) -> dict[Path, str]:
        """Files of others, with names that are nearly those of a run's."""
        names = ["model-{}.index.bak", "xmodel-{}.index", "model{}.index", "notes-{}.txt", "model-{}.data"]
        decoys = {}
        for place in (self.run, self.run / "checkpoints"):
            for number in range(100) if place.is_dir() else ():
                decoys |= {place / name.format(number): f"decoy {number}" for name in names}
        for path, text in decoys.items():
            path.write_text(text, encoding="utf-8")
        return decoys

    def _go(
        self,
        environment: Mapping[str, str] | None = None,
        after: float | None = None,
        storm: random.Random | None = None,
    ) -> Ended:
        """Starts the command; after some seconds it is killed, or gets a storm of signals."""
        with (self.work / "said").open("w+", encoding="utf-8") as said:
            command = self.side.command(self.run)
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
            try:
                if after is not None:
                    try:
                        process.wait(after)
                    except subprocess.TimeoutExpired:
                        self._disturb(process, storm)
                process.wait(SLOWEST)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            return Ended(process.returncode, said.read())

    def _disturb(self, process: subprocess.Popen[bytes], storm: random.Random | None) -> None:
        if storm is None:
            process.kill()
            return
        for _ in range(storm.randrange(1, 200)):
            process.send_signal(storm.choice(STORM))
            time.sleep(0.001)


def rows(
    tortures: Sequence[Torture], wanted: Sequence[str], every: int, kills: int, storms: int
) -> Iterator[tuple[str, str]]:
    """(row, outcome) of what is done to one side, in several folders at once."""
    first, draw = tortures[0], random.Random(0)
    free: Queue[Torture] = Queue()
    for torture in tortures:
        free.put(torture)

    def one(do: Callable[[Torture], Any]) -> Any:
        torture = free.get()
        try:
            return do(torture)
        finally:
            free.put(torture)

    with ThreadPoolExecutor(len(tortures)) as workers:
        if faults := [fault for fault in LEAVING if fault in wanted]:
            pool = first.work / "contents"
            moments = list(islice(first.moments(pool), 0, None, every))
            trees = list(dict.fromkeys(moment.trees[fault] for moment in moments for fault in faults))
            print(f"{len(moments)} moments, {len(trees)} different disks", flush=True)
            verdicts = zip(
                trees, workers.map(lambda tree: one(lambda torture: torture.judge(tree, pool)), trees), strict=True
            )
            known: dict[Tree, Verdict] = {}
            for moment in moments:
                for fault in faults:
                    while (tree := moment.trees[fault]) not in known:
                        known.update([next(verdicts)])
                    yield fault, known[tree].outcome(moment.saved)
        if "full" in wanted:
            calls = range(1, first.calls + 1, every)
            yield from (("full", found) for found in workers.map(lambda at: one(lambda each: each.full(at)), calls))
        if "random" in wanted:
            yield "random", first.killed_at_random(kills, draw)
        for _ in range(storms if "storm" in wanted else 0):
            yield "storm", first.stormed(draw)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description="End runs wherever they are.")
    parser.add_argument("folder", type=Path, help="where runs go; some 100 MB")
    parser.add_argument("--every", type=int, default=1, help="so-manyth call")
    parser.add_argument("--kills", type=int, default=30, help="of one run, at random moments")
    parser.add_argument("--storms", type=int, default=3, help="runs that get storms of signals")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--only", choices=SIDES, help="the other one stays as it was")
    parser.add_argument("--row", choices=ROWS, action="append", help="these rows; the others stay as they were")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow")}
    about = {"versions": versions, "machine": machine(), "date": str(datetime.date.today())}
    before = (
        json.loads(args.out.read_text(encoding="utf-8"))["sides"]
        if (args.only or args.row) and args.out.exists()
        else {}
    )
    for name, side in sides(args.folder.resolve() / "everything.yaml").items():
        if args.only in (None, name):
            places = [args.folder.resolve() / name / str(number) for number in range(args.workers)]
            tortures = [Torture(side, place) for place in places]
            print(f"{name}: {tortures[0].calls} calls", flush=True)
            found = before.setdefault(name, {"outcomes": {}})
            found["calls"] = tortures[0].calls
            outcomes: dict[str, Counter[str]] = {}
            for row, outcome in rows(tortures, args.row or list(ROWS), args.every, args.kills, args.storms):
                outcomes.setdefault(row, Counter())[outcome] += 1
                print(name, row, outcome, flush=True)
                found["outcomes"] |= outcomes
                content = json.dumps({**about, "sides": before}, indent=1)
                args.out.write_text(content + "\n", encoding="utf-8")
    print(table(json.loads(args.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
