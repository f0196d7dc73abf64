"""The process that has TensorFlow's file systems, and does there what `courier` asks for.

    python -m finetune.remote.carrier

A question is a line of JSON and `size` bytes after it, and so is an answer. They may come in another order than the
questions. At the end of its input it ends, whatever is under way.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finetune.interruption import SIGNALS

AT_ONCE = 32  # questions: what they wait for is a network
_BLOCK = 1 << 24


def main() -> None:
    """Answers until there are no more questions."""
    for number in SIGNALS:  # which are for the run: it may want to save what it has
        signal.signal(number, signal.SIG_IGN)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing else gets among the answers
    lock = threading.Lock()

    def answer(question: dict[str, Any], content: bytes) -> None:
        try:
            found, given = DOINGS[question["do"]](content, *question["words"])
            said = {"found": found}
        except Exception as error:
            given, said = b"", {"error": type(error).__name__, "what": str(getattr(error, "message", error))}
        with lock:
            out.write(json.dumps({**said, "number": question["number"], "size": len(given)}).encode() + b"\n" + given)
            out.flush()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        while line := sys.stdin.buffer.readline():
            question = json.loads(line)
            threads.submit(answer, question, sys.stdin.buffer.read(question["size"]))
        os._exit(0)


def _schemes(_: bytes) -> tuple[Any, bytes]:
    return sorted(filter(None, _gfile().get_registered_schemes())), b""


def _stat(_: bytes, url: str) -> tuple[Any, bytes]:
    """[bytes, when it was changed in ns, whether it is a folder]."""
    found = _gfile().stat(url)
    return [found.length, found.mtime_nsec, found.is_directory], b""


def _names(_: bytes, url: str) -> tuple[Any, bytes]:
    """What lies in a folder; folders end with a slash where the file system says it so."""
    return sorted(_gfile().listdir(url)), b""


def _read(_: bytes, url: str, offset: int, size: int) -> tuple[Any, bytes]:
    stream = _stream(url, size)
    stream.seek(offset)
    return None, stream.read(size)


def _write(content: bytes, url: str) -> tuple[Any, bytes]:
    _gfile().makedirs(url.rpartition("/")[0])
    with _gfile().GFile(url, "wb") as file:
        file.write(content)
    return None, b""


def _fetch(_: bytes, url: str, path: str) -> tuple[Any, bytes]:
    with open(path, "wb") as here:
        found = _copied(_stream(url, _BLOCK), here)
        os.fsync(here.fileno())
        return found, b""


def _put(_: bytes, path: str, url: str) -> tuple[Any, bytes]:
    _gfile().makedirs(url.rpartition("/")[0])
    with open(path, "rb") as here, _gfile().GFile(url, "wb") as there:
        return _copied(here, there), b""


def _copied(source: Any, target: Any) -> tuple[int, str]:
    """(bytes, SHA-256) of what was copied."""
    size, sha = 0, hashlib.sha256()
    while block := source.read(_BLOCK):
        target.write(block)
        sha.update(block)
        size += len(block)
    return size, sha.hexdigest()


def _move(_: bytes, url: str, to: str) -> tuple[Any, bytes]:
    _gfile().makedirs(to.rpartition("/")[0])
    _gfile().rename(url, to, overwrite=True)
    return None, b""


def _remove(_: bytes, url: str) -> tuple[Any, bytes]:
    _gfile().remove(url)
    return None, b""


def _remove_folder(_: bytes, url: str) -> tuple[Any, bytes]:
    _gfile().rmtree(url)
    return None, b""


def _stream(url: str, size: int) -> Any:
    """What `tf.io.gfile.GFile` reads with, which asks for 512 KB at a time, however much is wanted."""
    from tensorflow.python.lib.io import _pywrap_file_io  # pyright: ignore[reportMissingImports]  # compiled

    return _pywrap_file_io.BufferedInputStream(url, size)


def _gfile() -> Any:
    from tensorflow.io import gfile  # pyright: ignore[reportMissingImports]  # made when TensorFlow is imported

    return gfile


DOINGS: dict[str, Callable[..., tuple[Any, bytes]]] = {
    "schemes": _schemes,
    "stat": _stat,
    "names": _names,
    "read": _read,
    "write": _write,
    "fetch": _fetch,
    "put": _put,
    "move": _move,
    "remove": _remove,
    "remove_folder": _remove_folder,
}

if __name__ == "__main__":
    main()
