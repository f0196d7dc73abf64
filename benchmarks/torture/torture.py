"""One job in one folder: what it does undisturbed, and what it comes to under each fault."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.torture.decoys import Decoys
from benchmarks.torture.faults import FAILING, FULL, Watch, shim
from benchmarks.torture.jobs import Job
from benchmarks.torture.lives import Ended, Hunt, Life, Strike
from benchmarks.torture.remains import differences, litter, remains
from benchmarks.torture.trees import Tree, keep, lay

FEW = 40  # calls for which a disk takes nothing
ALL = 1_000_000  # calls: all that a process makes
PATIENCE = 10.0  # seconds in which a run whose disk stays full has made its steps


@dataclass(frozen=True)
class Moment:
    """A call that is about to be made: the step that was said to be saved, and what each fault leaves of the disk."""

    saved: int
    trees: Mapping[str, Tree]


@dataclass(frozen=True)
class Verdict:
    """What the same command made of what was left; `wrong` says what the folder then lacks, `more` what is too much."""

    ended: Ended
    wrong: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def outcome(self, saved: int) -> str:
        """Work `refused`, steps `lost`, `other` bits, `litter`, or the `same` as if nothing had been."""
        if self.ended.status != 0:
            return "refused"
        if self.ended.has_lost(saved):
            return "lost"
        return "other" if self.wrong else "litter" if self.more else "same"


class Torture:
    """A job in a folder, what it leaves there undisturbed, and the calls that it makes on the way."""

    def __init__(self, job: Job, work: Path):
        self.job, self.work = job, work
        self.disk = work / "disk"
        self.run = self.disk / "run"
        self.watch = Watch(shim(work), self.disk, work / "calls", work / "kept")
        self._anew()
        whole = self._life(self.watch.environment())
        assert whole.status == 0, whole.said
        self.calls = len(self.watch.calls())
        self.whole = remains(self.run)

    # ---- What a kill or a loss of power leaves, at each call

    def moments(self, pool: Path) -> Iterator[Moment]:
        """Every call of one run that nothing else disturbs."""
        self._anew()
        environment = self.watch.environment(1, many=ALL)
        with (self.work / "said").open("w", encoding="utf-8") as said:
            process = subprocess.Popen(self.job.command(self.run), stdout=said, stderr=said, env=environment)
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

    # ---- A disk that takes nothing

    def full(self, at: int, how: int = FULL) -> str:
        """A disk that takes nothing from a call on, for some calls: a run that trains goes on all the same."""
        self._anew()
        first = self._life(self.watch.environment(at, str(how), FEW))
        where = f"{errno.errorcode[how]} at call {at}"
        outcome = self._outcome(first, self.job.when_full, where)
        if outcome in ("same", "litter") and first.status != 0 and first.began_after is not None:
            return self._noted("ended", first, where=where)
        return outcome

    def failing(self, at: int) -> str:
        """The same with errors of the disk, of a quota, or of a file system that can only be read."""
        return self.full(at, Random(at).choice(FAILING))

    def stays_full(self, at: int) -> str:
        """A disk that is full from a call on, as long as the process lives, which is asked to end after a while."""
        self._anew()
        environment = self.watch.environment(at, str(FULL), ALL)
        with Life(self.job, self.run, self.work / "said", environment) as life:
            life.until(lambda: life.has_said("is not saved"), 60.0)
            for _ in range(2):
                life.rest(PATIENCE)
                life.send(signal.SIGTERM)
            ended = life.ended()
        allowed = self.job.when_full | {-signal.SIGTERM, 128 + signal.SIGTERM}
        return self._outcome(ended, allowed, f"full from call {at} on")

    # ---- Struck at random moments

    def hunt(self, strike: Strike, most: int, draw: Random) -> Hunt:
        """One run that is struck again and again until it is done, and no more than so often, among files of others."""
        self._anew()
        hunt, decoys, saved = Hunt(), Decoys(self.disk), 0
        allowed = strike.statuses | self.job.when_asked
        while hunt.strikes < most:
            with Life(self.job, self.run, self.work / "said", each=lambda: self._beset(decoys)) as life:
                strike.do(life, draw)
                ended = life.ended()
            hunt.statuses.append(ended.status)
            if ended.is_fault(allowed):
                hunt.outcome = self._noted("bug", ended)
            elif ended.has_lost(saved):
                hunt.outcome = self._noted("lost", ended)
            if hunt.outcome:
                return hunt
            saved = max(saved, ended.saved)
            if ended.status == 0:
                break
            hunt.strikes += life.is_struck
            hunt.training += life.is_struck and ended.began_after is not None
            hunt.seconds = max(hunt.seconds, ended.seconds)
        verdict = self._judged(decoys)
        hunt.outcome = verdict.outcome(saved)
        if gone := decoys.gone():
            hunt.outcome, verdict = "destroyed", replace(verdict, wrong=tuple(f"{place} is gone" for place in gone))
        self._noted(hunt.outcome, verdict.ended, verdict)
        return hunt

    def _beset(self, decoys: Decoys) -> None:
        """Puts the files of others into the folder as soon as it is a run's."""
        if self.job.is_begun(self.run):
            decoys.put()

    # ---- What is said of it

    def _outcome(self, first: Ended, allowed: frozenset[int], where: str) -> str:
        """What becomes of a run whose process met a fault, where only some statuses are right."""
        if first.is_fault(allowed):
            return self._noted("bug", first, where=where)
        verdict = self._judged()
        return self._noted(verdict.outcome(first.saved), first, verdict, where)

    def _judged(self, decoys: Decoys | None = None) -> Verdict:
        again = self._life()
        if again.status != 0:
            return Verdict(again)
        found = remains(self.run, decoys.in_run if decoys else ())
        wrong, more = differences(found, self.whole, self.job.last), litter(self.run, found, self.whole)
        return Verdict(again, tuple(wrong), tuple(more))

    def _noted(self, outcome: str, ended: Ended, verdict: Verdict | None = None, where: str = "") -> str:
        if outcome != "same":
            self.note(outcome, ended, verdict, where)
        return outcome

    def note(self, outcome: str, ended: Ended, verdict: Verdict | None = None, where: str = "") -> None:
        """Keeps what there is to know of an outcome that is not good, for people."""
        said = [f"{outcome} {where}: status {ended.status}", ended.said]
        if verdict is not None:
            said += [f"the same command: status {verdict.ended.status}", verdict.ended.said, *verdict.wrong]
            said += verdict.more
        number = len(list(self.work.glob("odd-*.txt")))
        (self.work / f"odd-{number}.txt").write_text("\n".join(said), encoding="utf-8")

    # ---- Its lives

    def _anew(self) -> None:
        shutil.rmtree(self.disk, ignore_errors=True)
        self.disk.mkdir(parents=True)

    def _life(self, environment: Mapping[str, str] | None = None) -> Ended:
        """One that nothing strikes."""
        with Life(self.job, self.run, self.work / "said", environment) as life:
            return life.ended()
