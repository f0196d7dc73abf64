"""Work that is done beside the training: one thread writes while the next steps are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_MOST = 2  # not done at once: each holds in memory what it writes


class Beside:
    """Works given one after the other, done in that order; what follows one that fails is not done.

    A work that fails is told of where `do`, `wait` or `look` is called next: they raise what it raised.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finetune-writer")
        self._given: deque[Future[None]] = deque()

    def do(self, work: Callable[[], None]) -> None:
        """Gives it to the thread; waits first where that has too much to do already."""
        self.wait(_MOST - 1)
        before = self._given[-1] if self._given else None
        self._given.append(self._thread.submit(_after, before, work))

    def wait(self, left: int = 0) -> None:
        """Until no more than so many are not done."""
        while self._given and (len(self._given) > left or self._given[0].done()):
            self._given.popleft().result()

    def look(self) -> None:
        """Waits for nothing; only tells of what has failed."""
        self.wait(_MOST)

    def is_idle(self) -> bool:
        """Whether all is done."""
        return all(one.done() for one in self._given)

    def close(self) -> None:
        """Waits for what is under way, for it is worth having; raises nothing."""
        self._thread.shutdown(wait=True)


def _after(before: Future[None] | None, work: Callable[[], None]) -> None:
    if before is not None:
        before.result()
    work()
