"""Asks for what lies elsewhere.

TensorFlow knows the file systems, and some of its settings count only before it is imported, when a run does not know
them yet: so a process of its own has them (`carrier`). It is started when something is asked for the first time, and
ends with this one. Whatever a network does, no thread of TensorFlow's waits for it here.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeVar

from finetune.errors import UserError
from finetune.interruption import Interrupted
from finetune.remote.carrier import AT_ONCE
from finetune.remote.places import scheme_of, within

_ERRORS = {"NotFoundError": errno.ENOENT, "PermissionDeniedError": errno.EACCES}
_ERRORS |= {"FileNotFoundError": errno.ENOENT}  # of a file here
# A client that keeps what it was told sees the lock of another process too late, and one that reads ahead by 64 MB, the
# default, reads a thousand records to give one.
_ENVIRONMENT = {"GCS_STAT_CACHE_MAX_AGE": "0", "GCS_READAHEAD_BUFFER_SIZE_BYTES": "4096"}


T = TypeVar("T")


class Stat(NamedTuple):
    """What is known of something without reading it."""

    size: int
    changed: int  # ns since 1970
    is_folder: bool


class Courier:
    """The process, and the questions that it has not answered yet; any thread may ask."""

    def __init__(self) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {name: text for name, text in _ENVIRONMENT.items() if name not in os.environ}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "finetune.remote.carrier"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
        )
        self._open: dict[int, Future[tuple[Any, bytes]]] = {}
        self._asked, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="finetune-courier", daemon=True)
        self._thread.start()

    def ask(self, do: str, *words: Any, content: bytes = b"") -> tuple[Any, bytes]:
        """(what was found, its content).

        Raises:
          OSError: it cannot be done; `filename` is what it is about.
        """
        future: Future[tuple[Any, bytes]] = Future()
        with self._lock:
            self._asked += 1
            number, self._open[self._asked] = self._asked, future
            line = json.dumps({"number": number, "do": do, "words": words, "size": len(content)}).encode()
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(line + b"\n" + content)
                self._process.stdin.flush()
            except (OSError, ValueError):  # it has ended, and may be closed
                self._open.pop(number, None)
                gone = True
            else:
                gone = False
        if gone:
            self._thread.join()
            raise self._ended
        said, given = future.result()
        if "error" in said:
            first = said["what"].strip().splitlines()[:1] or [said["error"]]
            if said["error"] == "UnimplementedError" and scheme_of(words[0]) not in (known := self.ask("schemes")[0]):
                raise _unknown_scheme(words[0], known)
            raise OSError(_ERRORS.get(said["error"], errno.EIO), first[0][:300], words[0])
        return said["found"], given

    def close(self) -> None:
        """Ends the process; who waits for an answer gets an error."""
        self._process.kill()
        self._thread.join()
        with self._lock, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._said.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            while line := answers.readline():
                said = json.loads(line)
                self._open.pop(said["number"]).set_result((said, answers.read(said["size"])))
        self._ended = self._last_words()
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for future in left:
            future.set_exception(self._ended)

    def _last_words(self) -> OSError:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        return OSError(errno.EIO, f"the process that has TensorFlow's file systems ended, status {status}{said}")


@cache
def _courier() -> Courier:
    found = Courier()
    atexit.register(found.close)
    return found


def stat(url: str) -> Stat | None:
    """What is known of a file or folder; None if there is none."""
    try:
        return Stat(*_courier().ask("stat", url)[0])
    except FileNotFoundError:
        return None


def names_in(url: str) -> list[str]:
    """What lies in a folder, of which folders may end with a slash; nothing if there is no such folder."""
    try:
        names = _courier().ask("names", url)[0]
    except FileNotFoundError:
        return []
    if strange := [name for name in names if name.rstrip("/") in ("", ".", "..") or "/" in name.rstrip("/")]:
        raise UserError("storage", url, f"'{strange[0]}' there is no name for a file here", "give it another name")
    return names


def files_below(url: str, wanted: Callable[[str], bool] = lambda name: True, at: str = "") -> dict[str, Stat]:
    """Files of a folder and of its folders, by their names in it; none if there is no such folder.

    Args:
      wanted: whether a name is; that of a folder ends with a slash, and one that is not wanted is not looked into.
      at: what the names begin with.
    """
    names = [name for name in names_in(url) if wanted(at + name) or wanted(f"{at}{name}/")]
    plain = [name for name in names if not name.endswith("/")]
    seen = dict(zip(plain, together(stat, [within(url, name) for name in plain]), strict=True))
    folders = [name for name in names if name.endswith("/")]
    folders += [f"{name}/" for name, found in seen.items() if found is not None and found.is_folder]
    files = {name: found for name, found in seen.items() if found is not None and not found.is_folder}
    below = [files_below(within(url, name.rstrip("/")), wanted, at + name) for name in folders if wanted(at + name)]
    return {at + name: found for name, found in files.items() if wanted(at + name)} | {
        name: found for files in below for name, found in files.items()
    }


def read(url: str, offset: int, size: int) -> bytes:
    """Some bytes of a file; fewer where it ends."""
    return _courier().ask("read", url, offset, size)[1] if size else b""


def write(url: str, content: bytes) -> None:
    """A file of this content, at once."""
    _courier().ask("write", url, content=content)


def fetch(url: str, path: str) -> tuple[int, str]:
    """Copies a file to a path here; gives how many bytes it had, and their SHA-256."""
    size, digest = _courier().ask("fetch", url, path)[0]
    return size, digest


def put(path: str, url: str) -> tuple[int, str]:
    """Copies a file from here, at once; gives how many bytes it had, and their SHA-256."""
    size, digest = _courier().ask("put", path, url)[0]
    return size, digest


def move(url: str, to: str) -> None:
    """Gives a file another name, under which there may be one."""
    _courier().ask("move", url, to)


def remove(url: str) -> None:
    """Removes a file, if it is there."""
    try:
        _courier().ask("remove", url)
    except FileNotFoundError:
        return


def remove_folder(url: str) -> None:
    """Removes a folder and all that is in it, if it is there."""
    try:
        _courier().ask("remove_folder", url)
    except FileNotFoundError:
        return


def together(do: Callable[[Any], T], words: Iterable[Any]) -> list[T]:
    """What is found for each, many at once: most of the time of each is waiting."""
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(threads.map(do, words))
    except (KeyboardInterrupt, Interrupted):  # at once, and not when the file under way has come
        _courier().close()
        _courier.cache_clear()
        raise
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _unknown_scheme(url: str, known: list[str]) -> UserError:
    what = f"TensorFlow has no file system for {scheme_of(url)}:// here, only for {', '.join(f'{s}://' for s in known)}"
    return UserError("recipe", url, what, "copy it to one of these, or mount it as a folder")
