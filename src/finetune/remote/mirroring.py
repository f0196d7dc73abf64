"""A run folder that lies elsewhere: what it holds is worked on here, and sent there whenever something is whole.

`sent.json` there says which files make the folder, and their SHA-256. It is written at once, after the files that have
changed; these lie in `.new` until then, and get their names afterwards. So whoever reads `sent.json`, whenever a sender
was killed, finds one moment of the run, and the whole of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.remote import courier
from finetune.remote.holding import MARK, alone_at
from finetune.remote.places import parted, place_here, within
from finetune.results.checkpoints import aside_of, is_aside
from finetune.results.manifests import digest_of

RECORD, _NEW = "sent.json", ".new"

Line = Callable[[str], None]


class Mirror:
    """A folder here and the one elsewhere that it is sent to; one process at a time has it.

    Args:
      still: raises where another process has the folder now.
    """

    def __init__(self, url: str, folder: Path, still: Callable[[], None] = lambda: None):
        self.url, self.folder, self._still = url, folder, still
        self._files: dict[str, list[Any]] = {}  # there: name -> [bytes, SHA-256]
        self._sent: dict[str, tuple[int, ...]] = {}  # here: what each was like when it was sent
        self._round = 0
        # Of this round, there: what has not got its name yet, and what may not be removed yet.
        self._unnamed: set[str] = set()
        self._gone: set[str] = set()

    def bring(self, tell: Line) -> None:
        """Makes the folder here what the one elsewhere is.

        Raises:
          UserError: it is no run folder, or cannot be read.
        """
        try:
            self._bring(tell)
        except OSError as error:
            what = f"'{self.url}' cannot be read: {error.strerror}"
            raise UserError("recipe", "run.dir", what, "is the name right, and may this machine read it?") from error

    def _bring(self, tell: Line) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        there = courier.files_below(self.url)
        if RECORD in there:
            self._round, self._files, self._gone = _read(self.url, there[RECORD].size)
        elif others := sorted(name for name in there if name != MARK and not name.startswith(f"{_NEW}/")):
            what = f"'{self.url}' holds {others[0]} and is no run folder"
            raise UserError("recipe", "run.dir", what, "name a new or an empty folder")
        for path in [*self.folder.rglob("*")]:
            if path.is_file() and self._name(path) not in self._files:
                path.unlink()
        self._unnamed = {name for name in self._files if f"{_NEW}/{self._round}/{name}" in there}
        lacking = [name for name, seen in self._files.items() if not _is(self.folder / name, seen)]
        if lacking:
            tell(f"run.dir: fetching {len(lacking)} files of {self.url}")
        for name, is_whole in zip(
            lacking, courier.together(lambda n: self._fetch(n, n in there), lacking), strict=True
        ):
            if not is_whole:
                tell(f"warning: {within(self.url, name)} is not what was sent there")
        self._sent = {name: _seen(self.folder / name) for name in self._files if (self.folder / name).exists()}

    def _fetch(self, name: str, is_named: bool) -> bool:
        """Copies a file from there, where there may be one of its name; whether it is what was sent."""
        to = self.folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        aside, is_whole = aside_of(to), False
        for place in [within(self.url, name)] * is_named + [self._new(name)] * (name in self._unnamed):
            is_whole = is_whole or [*courier.fetch(place, str(aside))] == self._files[name]
        if aside.exists():
            os.replace(aside, to)
        return is_whole

    def settle(self) -> None:
        """Gives their names to the files of the last round, and removes what is gone, as far as that was not done.

        To be called by who has the folder: the sender may have been killed, or refused, before it came to that.
        """

        def name_it(name: str) -> None:
            with suppress(FileNotFoundError):  # it was moved, and the answer was lost
                courier.move(self._new(name), within(self.url, name))
            self._unnamed.discard(name)

        courier.together(name_it, list(self._unnamed))
        courier.together(lambda name: courier.remove(within(self.url, name)), self._gone)
        courier.remove_folder(within(self.url, _NEW))
        self._gone = set()

    def send(self) -> None:
        """Sends what has changed here since it was sent last.

        Raises:
          UserError: it cannot be written there, or another process has the folder now.
        """
        try:
            self._send()
        except OSError as error:
            todo = "the same command goes on from the last save there"
            raise UserError("storage", self.url, f"cannot be written: {error.strerror}", todo) from error

    def _send(self) -> None:
        here = {name: path for path in self.folder.rglob("*") if _belongs(name := self._name(path)) and path.is_file()}
        now = {name: _seen(path) for name, path in here.items()}
        changed = [name for name, seen in now.items() if seen and seen != self._sent.get(name)]
        gone = {name for name in self._files if not now.get(name)}
        if not (changed or gone or self._unnamed or self._gone):
            return
        self._still()
        if self._unnamed or self._gone:  # what follows would take away what waits for its name
            self.settle()
        self._round += 1
        put = courier.together(lambda name: _put(here[name], self._new(name)), changed)
        files = {name: seen for name, seen in self._files.items() if name not in gone}
        files |= {name: [*what] for name, what in zip(changed, put, strict=True) if what is not None}
        self._still()
        content = json.dumps({"round": self._round, "files": files, "gone": sorted(gone)}, indent=1)
        courier.write(within(self.url, RECORD), content.encode())
        self._files, self._sent = files, {name: seen for name, seen in now.items() if seen and name in files}
        self._unnamed, self._gone = {name for name in changed if name in files}, gone
        self.settle()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _new(self, name: str) -> str:
        return within(self.url, _NEW, str(self._round), name)


@contextmanager
def at_home(
    url: str, wait: bool, writes: bool, check: Callable[[], None], tell: Line
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """(a folder here in the place of one elsewhere, what sends it there).

    Args:
      writes: whether the folder is to be this process's alone; else it is a copy that is gone afterwards.
      wait: whether to wait for another process that has it.
      check: is called while it waits, and may raise.

    Raises:
      UserError: it is in use, it is no run folder, or it cannot be read or written.
    """
    try:
        courier.stat(url)
    except UserError as error:
        raise UserError(error.code, "run.dir", f"'{url}': {error.what}", error.todo) from error
    if not writes:
        with tempfile.TemporaryDirectory(prefix="finetune-run-") as folder:
            copy = Mirror(url, Path(folder) / (parted(url)[1] or "run"))
            copy.bring(tell)
            yield copy.folder, lambda: None
        return
    with alone_at(url, wait, tell, check) as still:
        mirror = Mirror(url, place_here("runs", url), still)
        tell(f"run.dir: {url}, worked on in {mirror.folder}")
        mirror.bring(tell)
        mirror.settle()
        yield mirror.folder, mirror.send
        mirror.send()
        tell(f"run.dir: {url} has all of it")


def _read(url: str, size: int) -> tuple[int, dict[str, list[Any]], set[str]]:
    try:
        found = json.loads(courier.read(within(url, RECORD), 0, size))
        files = {str(name): [int(bytes_), str(sha)] for name, (bytes_, sha) in found["files"].items()}
        gone = {str(name) for name in found["gone"]}
        if strange := [name for name in (*files, *gone) if name.startswith("/") or {"..", "."} & {*name.split("/")}]:
            raise ValueError(f"'{strange[0]}' is no name")
        return int(found["round"]), files, gone
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError("storage", within(url, RECORD), what, "put it back, or name another run.dir") from error


def _belongs(name: str) -> bool:
    """Whether it is more than what has not come to its place, or the lock of this machine."""
    return name != MARK and not any(map(is_aside, name.split("/")))


def _seen(path: Path) -> tuple[int, ...]:
    """What tells a file from what it was; nothing if it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _put(path: Path, url: str) -> tuple[int, str] | None:
    try:
        return courier.put(str(path), url)
    except FileNotFoundError:  # a run may remove what it has written
        return None


def _is(path: Path, seen: list[Any]) -> bool:
    """Whether a file here is what was sent."""
    if not path.is_file() or path.stat().st_size != seen[0]:
        return False
    return digest_of(path) == seen[1]
