"""What is done to one side, row by row of the table, in several folders at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from queue import Queue
from random import Random
from typing import Any

from benchmarks.torture.lives import STRIKES, Hunt
from benchmarks.torture.torture import Torture, Verdict
from benchmarks.torture.trees import Tree

LEAVING = ("killed", "power", "names")  # faults that leave something on the disk, and no process
FULL = {"full": Torture.full, "failing": Torture.failing, "stays": Torture.stays_full}
RARELY = {"stays": 10}  # these take so much longer that fewer calls are looked at
EACH = 40  # strikes of one run at most
IN_VAIN = 20  # runs that are done before they are struck


@dataclass(frozen=True)
class Asked:
    """How much of it: each so-manyth call, and how many strikes of each kind."""

    every: int
    strikes: dict[str, int]


class Folders:
    """Several places for the same job, each of which is used by one thread at a time."""

    def __init__(self, tortures: Sequence[Torture]):
        self.first = tortures[0]
        self._free: Queue[Torture] = Queue()
        for torture in tortures:
            self._free.put(torture)
        self.count = len(tortures)
        self._threads = ThreadPoolExecutor(self.count)

    def each(self, do: Callable[[Torture, Any], Any], of: Iterable[Any]) -> Iterator[Any]:
        """Does it to each of these, in order, wherever there is a free place."""

        def one(given: Any) -> Any:
            torture = self._free.get()
            try:
                return do(torture, given)
            finally:
                self._free.put(torture)

        return self._threads.map(one, of)

    def one_by_one(self, do: Callable[[Torture, Any], Any], of: Iterable[Any]) -> Iterator[Any]:
        """Does it to each of these, in order, in the first place alone."""
        return (do(self.first, given) for given in of)

    def close(self) -> None:
        """Begins nothing more."""
        self._threads.shutdown(cancel_futures=True)


def left_at_calls(folders: Folders, faults: Sequence[str], every: int) -> Iterator[tuple[str, str]]:
    """(fault, outcome) for what kills and losses of power leave; what is left at several moments is judged once."""
    pool = folders.first.work / "contents"
    moments = list(islice(folders.first.moments(pool), 0, None, every))
    trees = list(dict.fromkeys(moment.trees[fault] for moment in moments for fault in faults))
    print(f"{len(moments)} moments, {len(trees)} different disks", flush=True)
    judged = folders.each if folders.first.job.may_move else folders.one_by_one
    verdicts = zip(trees, judged(lambda torture, tree: (torture, torture.judge(tree, pool)), trees), strict=True)
    known: dict[Tree, tuple[Torture, Verdict]] = {}
    for number, moment in enumerate(moments):
        for fault in faults:
            while (tree := moment.trees[fault]) not in known:
                known.update([next(verdicts)])
            torture, verdict = known[tree]
            outcome = verdict.outcome(moment.saved)
            if outcome != "same":
                torture.note(outcome, verdict.ended, verdict, f"{fault} at call {number * every + 1}")
            yield fault, outcome


def on_full_disks(folders: Folders, row: str, every: int) -> Iterator[str]:
    """Outcomes of a disk that takes nothing from a call on."""
    calls = range(1, folders.first.calls + 1, every * RARELY.get(row, 1))
    yield from folders.each(FULL[row], calls)


def struck(folders: Folders, row: str, strikes: int, before: int = 0) -> Iterator[Hunt]:
    """Runs that are struck at random moments, as many as it takes for so many strikes; `before` were struck already."""
    left, in_vain = strikes, 0
    for first in count(before, folders.count):
        if left <= 0 or in_vain >= IN_VAIN:
            return
        most = min(EACH, -(-left // folders.count))
        draws = [Random(f"{row} {first + number}") for number in range(min(folders.count, left))]
        for hunt in folders.each(lambda torture, draw: torture.hunt(STRIKES[row], most, draw), draws):  # noqa: B023
            left -= hunt.strikes
            in_vain += not hunt.strikes
            yield hunt
