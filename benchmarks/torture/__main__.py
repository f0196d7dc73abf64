"""Ends runs wherever they touch a file, and looks at what the same command makes of what is left.

    python -m benchmarks.torture FOLDER --every 5 && python -m benchmarks.torture.table

A run of finetune that has everything at once (phases, dropout, augmentation, accumulation, averages), and one of plain
TensorFlow beside it, are killed at each so-manyth call that changes a file, lose the power of their disk there, find it
full, are killed and signalled at random moments. What comes out is written into benchmarks/results/torture.json. Needs
Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.torture.faults import FULL, Watch, shim
from benchmarks.torture.table import RESULTS, SIDES, table
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
    def began_after(self) -> int:
        """The step after which it went on; the last one where there was nothing left to do."""
        if "finished: " in self.said:
            return LAST
        found = re.search(r"goes on after step (\d+)", self.said)
        return int(found[1]) if found else 0


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

    def killed(self, at: int) -> str:
        """At a call."""
        return self._judged(self._faulty(at))

    def without_power(self, at: int, names_survive: bool) -> str:
        """Killed at a call, by a disk that has what was synced."""
        first = self._faulty(at)
        self.watch.lose_power(names_survive)
        return self._judged(first)

    def full(self, at: int) -> str:
        """A disk that is full from a call on, for some calls."""
        return self._judged(self._faulty(at, str(FULL), FEW))

    def killed_at_random(self, kills: int, draw: random.Random) -> str:
        """One run, killed so many times at any moment, among files of others."""
        self._anew()
        saved, decoys = 0, {}
        for _ in range(kills):
            ended = self._go(after=draw.uniform(0.0, 12.0))
            if ended.status == 0:
                break
            if ended.said and ended.began_after < saved:
                return "lost"
            saved = max(saved, ended.saved)
            decoys = decoys or self._decoys()
        outcome = self._judged(Ended(1, f"saved step {saved}\n" if saved else ""))
        if any(not path.exists() or path.read_text() != text for path, text in decoys.items()):
            return "lost"
        return outcome

    def stormed(self, draw: random.Random) -> str:
        """One run that gets bursts of signals at random moments, until it is done."""
        self._anew()
        saved = 0
        for _ in range(20):
            ended = self._go(after=draw.uniform(0.5, 12.0), storm=draw)
            if ended.said and ended.began_after < saved:
                return "lost"
            saved = max(saved, ended.saved)
            if ended.status == 0:
                break
        return self._judged(Ended(1, f"saved step {saved}\n" if saved else ""))

    def _faulty(self, at: int, how: str = "kill", many: int = 1) -> Ended:
        self._anew()
        return self._go(self.watch.environment(at, how, many))

    def _judged(self, first: Ended) -> str:
        """What the same command makes of what is left: `same` bits, `other` ones, steps `lost`, or work `refused`."""
        again = self._go()
        if again.status != 0:
            return "refused"
        if again.began_after < first.saved:
            return "lost"
        return "same" if self.side.answer(self.run) == self.answer else "other"

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


def rows(torture: Torture, every: int, kills: int, storms: int) -> Iterator[tuple[str, str]]:
    """(row, outcome) of all that is done to one side."""
    draw = random.Random(0)
    for at in range(1, torture.calls + 1, every) if every else ():
        yield "killed", torture.killed(at)
        yield "power", torture.without_power(at, names_survive=False)
        yield "names", torture.without_power(at, names_survive=True)
        yield "full", torture.full(at)
    if kills:
        yield "random", torture.killed_at_random(kills, draw)
    for _ in range(storms):
        yield "storm", torture.stormed(draw)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description="End runs wherever they are.")
    parser.add_argument("folder", type=Path, help="where runs go; some 100 MB")
    parser.add_argument("--every", type=int, default=5, help="so-manyth call; 0 for none")
    parser.add_argument("--kills", type=int, default=30, help="of one run, at random moments; 0 for none")
    parser.add_argument("--storms", type=int, default=3, help="runs that get storms of signals")
    parser.add_argument(
        "--only", choices=SIDES, help="the other one stays as it was, as do rows that are not asked for"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("finetune", "tensorflow")}
    about = {"versions": versions, "machine": machine(), "date": str(datetime.date.today())}
    before = json.loads(args.out.read_text(encoding="utf-8"))["sides"] if args.only and args.out.exists() else {}
    for name, side in sides(args.folder.resolve() / "everything.yaml").items():
        if args.only in (None, name):
            torture = Torture(side, args.folder.resolve() / name)
            print(f"{name}: {torture.calls} calls", flush=True)
            found = before.setdefault(name, {"outcomes": {}})
            found |= {"calls": torture.calls} | ({"every": args.every} if args.every else {})
            outcomes: dict[str, Counter[str]] = {}
            for row, outcome in rows(torture, args.every, args.kills, args.storms):
                outcomes.setdefault(row, Counter())[outcome] += 1
                print(name, row, outcome, flush=True)
                found["outcomes"] |= outcomes
                content = json.dumps({**about, "sides": before}, indent=1)
                args.out.write_text(content + "\n", encoding="utf-8")
    print(table(json.loads(args.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
