"""How fast ours is beside others: the same weights, examples, batch size and threads, in turns.

    python -m benchmarks.speed FOLDER && python -m benchmarks.speed.table

The first makes its work in FOLDER (some 2 GB) and writes every time into benchmarks/results/speed.json; the second
writes ratios into docs/benchmarks.md. All that are compared are started, and all but one are stopped: each computes a
part, an epoch or a step, and then the next one, so that what else the machine does befalls all alike. With --small and
--repeats 1 it takes some minutes, to see that everything runs. PyTorch takes part if it is installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed.once import once
from benchmarks.speed.ours import ours
from benchmarks.speed.table import JOB, RESULTS, is_complete, table
from benchmarks.speed.workload import EXAMPLES, NETS, SMALL, SMALL_EXAMPLES, Net
from benchmarks.watched import NEVER, Watched, at, in_turns, of_a_step, watched

PART = r"^(ready|epoch|step)\b|cache: .* computed|train \| step"
MANY = 100  # epochs of ours in a part, where they are of a head alone
LATER = 2  # parts that are measured, at the least
SETTLING = 2  # further steps of VGG-16, in which ours still gets quicker (25 to 19 s once), and which do not count
DECODED = "decoded"  # ours with images that are decoded already
# What is compared, and in which company: so many as the memory holds. Ours is in each.
COMPARED: Sequence[tuple[str, Sequence[str]]] = (
    ("frozen", ("tutorial", "keras", "by_hand", "pytorch", "hub")),
    ("prefix", ("keras", "by_hand", "pytorch")),
    ("full", ("by_hand", "keras")),
    ("full", ("pytorch", DECODED)),
)
OTHERS = ("tutorial", "keras", "by_hand", "pytorch")
LIMITS = [sys.executable, "-m", "benchmarks.speed.limits"]


@dataclass(frozen=True)
class Work:
    """A net, the folder with its pair and examples, and how many they are."""

    name: str
    folder: Path
    net: Net
    examples: int
    small: bool


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Compare speed with others.")
    parser.add_argument("folder", type=Path, help="where pairs, examples and runs go")
    parser.add_argument("--images", type=int, default=64, help="of VGG-16")
    parser.add_argument("--job-images", type=int, default=1200, help=f"of a job of {JOB} epochs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        metavar="WHAT",
        help="e.g. vgg16, 'vgg16 frozen', job or once; the others stay as they were",
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    nets = SMALL if args.small else NETS
    named = ("finetune", "tensorflow", "keras", "torch")
    versions = {name: importlib.metadata.version(name) for name in named if importlib.util.find_spec(name)}
    about = {"small": args.small, "operations": nets["vgg16"].operations(), "batch": nets["vgg16"].batch}
    dated = {"versions": versions, "machine": machine(), "date": str(datetime.date.today())}
    times = json.loads(args.out.read_text(encoding="utf-8"))["times"] if args.only and args.out.exists() else {}
    wanted = args.only or [*nets, "job", "once"]
    times = {name: found for name, found in times.items() if not _is_wanted(name, wanted)}
    given = args.folder, args.small, args.images, args.job_images, args.repeats, wanted
    for name, found in _measured(*given):
        print(name, json.dumps(found), flush=True)
        times.setdefault(name, []).append(found)
        args.out.write_text(json.dumps({**about, **dated, "times": times}, indent=1) + "\n", encoding="utf-8")
    whole = json.loads(args.out.read_text(encoding="utf-8"))
    print(table(whole) if is_complete(whole) else "the table needs vgg16 and job too")


def _measured(
    folder: Path, small: bool, images: int, job_images: int, repeats: int, wanted: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was measured, by its name."""
    nets = SMALL if small else NETS
    rows = SMALL_EXAMPLES if small else EXAMPLES
    works = {n: Work(n, folder / n, net, images if net.jpeg else rows, small) for n, net in nets.items()}
    for work in works.values():
        make(work)
    vgg = works["vgg16"]
    if any(_is_wanted(name, wanted) for name in ("vgg16 frozen", "job")) and not small:
        learn_engine(vgg)
    for repeat in range(repeats):
        for name in works:
            if name == "vgg16" and _is_wanted("vgg16 frozen", wanted):
                yield "limits", json.loads(watched([*LIMITS, str(vgg.folder)], {}).lines[-1][1])
            for what, peers in COMPARED if name == "vgg16" else (("frozen", OTHERS), ("full", OTHERS)):
                if _is_wanted(f"{name} {what}", wanted):
                    there = [peer for peer in peers if _takes_part(peer, repeat)]
                    yield f"{name} {what}", side_by_side(works[name], what, there)
        if "once" in wanted:
            yield "once", once(folder / "once", vgg.folder, vgg.net)
    if "job" in wanted:
        yield "job", job(vgg, job_images)


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    if name == "limits":
        return _is_wanted("vgg16 frozen", wanted)
    return name in wanted or name.split()[0] in wanted


def _takes_part(peer: str, repeat: int) -> bool:
    if peer == "hub":  # far from all others: once is enough
        return not repeat
    return peer != "pytorch" or importlib.util.find_spec("torch") is not None


def make(work: Work) -> None:
    """Makes the pair and the examples, in a process of its own, for what that leaves in memory is not ours."""
    words = [str(work.folder), work.name, str(work.examples), *["--small"] * work.small]
    watched([sys.executable, "-m", "benchmarks.speed.workload", *words], {})


def _hurry(work: Work) -> list[str]:
    return ["engine.mode=default"] * work.small  # nothing is measured that is to be small


def learn_engine(vgg: Work) -> None:
    """Lets a long job find its engine, which is remembered: the jobs that follow are too short to look for one."""
    with ours(vgg.folder, vgg.net, "frozen", ["cache.mode=off"]) as long:
        long.turn(r"train \| step")


def side_by_side(work: Work, what: str, peers: Sequence[str]) -> dict[str, Any]:
    """Who -> the seconds until it was `ready`, of the `first` epoch and each `later` epoch or step; its memory.

    And how many `examples` there were.
    """
    shutil.rmtree(work.folder / "cache", ignore_errors=True)
    epoch = -(-work.examples // work.net.batch)
    unit = 1 if what == "full" and work.net.jpeg else epoch  # steps that are told at once, and whose time is given
    part = [f"train.log_every_steps={unit * MANY if what == 'frozen' else unit}", *_hurry(work)]
    each = {"finetune": ours(work.folder, work.net, what, part)}
    for peer in peers:
        words = [peer, str(work.folder), work.name, "--what", what, *["--small"] * work.small]
        command = [sys.executable, "-m", "benchmarks.speed.contenders", *words]
        each[peer] = ours(work.folder, work.net, what, part, decoded=True) if peer == DECODED else Watched(command)
    # The first two are the start and the first epoch or step. Of ours, the part after it compiles.
    settling = SETTLING * (what == "full" and work.net.jpeg)
    in_turns(list(each.values()), PART, 3 + LATER + settling)
    of_ours = ("finetune", DECODED)
    found = {
        who: _of_ours(one, unit, settling) if who in of_ours else _of_a_peer(one, settling) for who, one in each.items()
    }
    return {"examples": work.examples, **found}


def _of_a_peer(one: Watched, settling: int) -> dict[str, Any]:
    ready = at(one, "^ready")
    ends = [when for when, line in one.lines if re.match("epoch|step", line)]
    first, *later = (after - before for before, after in pairwise([ready, *ends]))
    settled = {"early": later[:settling], "later": later[settling:]}
    return {"ready": ready, "first": first, **settled, "memory": one.memory}


def _of_ours(one: Watched, unit: int, settling: int) -> dict[str, Any]:
    later = [seconds * unit for seconds in of_a_step(one)]
    later = later[bool(settling) :]  # its first step is said one part before those of the others
    found = {"early": later[:settling], "later": later[settling:], "memory": one.memory}
    if not any("rows to train on" in line for _, line in one.lines):  # nothing is kept
        return found
    # In the first epoch, what is kept is computed.
    ready, filled = at(one, "cache: .* computed"), at(one, "rows to train on")
    return {**found, "ready": ready, "first": filled - ready + median(found["later"])}


def job(vgg: Work, images: int) -> dict[str, float]:
    """A whole job of so many images, from the start of the process to its end."""
    larger = replace(vgg, folder=vgg.folder.with_name(f"{vgg.name}-job"), examples=images)
    make(larger)
    shutil.rmtree(larger.folder / "cache", ignore_errors=True)
    with ours(larger.folder, larger.net, "frozen", [f"train.epochs={JOB}", *_hurry(vgg)]) as whole:
        whole.turn(NEVER)
    return {"images": images, "whole": whole.whole}


if __name__ == "__main__":
    main()
