"""One process at a time in a run folder, by a lock that ends with the process that has it, however that ends.

`flock` locks within one machine, and between machines where their file system does: NFS (since Linux 2.6.12), Lustre
(mounted with `flock`), GPFS, CephFS. What has no locks says so, and the run says so too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from finetune.errors import UserError
from finetune.results.checkpoints import cannot_be_written, sync_folder

LOCK = "run.lock"
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_PAUSE = 0.2  # seconds between two looks: a wait in the system would not hear of signals in time


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def alone_in(
    folder: Path,
    wait: bool,
    tell: Callable[[str], None] = _say,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is not there, and removed again if nothing came into it.

    Args:
      wait: whether to wait for another process that has it.
      tell: is told what people should know.
      check: is called while it waits, and may raise.

    Raises:
      UserError: another process has it, or it cannot be written.
    """
    made: list[Path] = []
    try:
        with _locked(folder / LOCK, wait, tell, check, made):
            yield
    finally:
        _remove(made)


@contextmanager
def _locked(
    path: Path, wait: bool, tell: Callable[[str], None], check: Callable[[], None], made: list[Path]
) -> Iterator[None]:
    told = False
    while True:
        file = _opened(path, made)
        if file is None:
            continue  # who had the folder made it for nothing, and removed it
        with file:
            if (taken := _taken(file, path, tell)) and not _is_there(file, path):
                continue  # it was removed before it was locked
            if taken:
                if os.fstat(file.fileno()).st_size:  # whoever ends by itself removes it
                    tell(f"{_whose(path)} was ended from outside: killed, out of memory, or without power")
                with suppress(OSError):  # a full disk: it is only for people
                    file.truncate(0)
                    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode())
                try:
                    yield
                finally:  # while it is still ours
                    with suppress(OSError):  # what ends the run is to be told, and not this
                        path.unlink(missing_ok=True)
                return
            if not wait:
                todo = "wait for it with run.wait=true, or name another run.dir"
                raise UserError("recipe", "run.dir", f"'{path.parent}' is in use by {_whose(path)}", todo)
            if not told:
                tell(f"waiting for {path.parent}, which is in use by {_whose(path)}")
                told = True
        check()
        time.sleep(_PAUSE)


def _opened(path: Path, made: list[Path]) -> IO[bytes] | None:
    """The file, in a folder that is made if it is not there and then added to `made`; None if it is gone again."""
    missing = [place for place in (path.parent, *path.parent.parents) if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made += [place for place in missing if place not in made]
        for place in missing:  # a folder that the disk does not know takes all that is in it along
            sync_folder(place.parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_be_written(path.parent, error) from error
    try:
        return path.open("ab", buffering=0)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_be_written(path, error) from error


def _taken(file: IO[bytes], path: Path, tell: Callable[[str], None]) -> bool:
    """Whether the lock is ours now, or there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NONE:
            raise cannot_be_written(path, error) from error
        tell(
            f"warning: the file system of {path.parent} has no locks: see to it that no other process uses this folder"
        )
    return True


def _is_there(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _whose(path: Path) -> str:
    """Who has the lock, as far as the file says."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _remove(made: list[Path]) -> None:
    """Removes the folders that were made for nothing: those in which there is something stay."""
    with suppress(OSError):
        for place in made:
            place.rmdir()
