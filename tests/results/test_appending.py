"""Files that grow: what a full disk does not take is written later."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from finetune.results.appending import Appending


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int):
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def fileno(self) -> int:
        return self.file.fileno()

    @property
    def closed(self) -> bool:
        return self.file.closed

    def close(self) -> None:
        self.file.close()


def test_text_is_added(tmp_path: Path):
    (tmp_path / "log").write_text("before\n")
    log = Appending(tmp_path / "log")
    log.write("größer\n")
    assert (tmp_path / "log").read_text() == "before\ngrößer\n"
    log.write("\udcff\n")  # a name of a file that is no text
    log.sync()
    log.close()
    assert (tmp_path / "log").read_text() == "before\ngrößer\n\\udcff\n"


def test_what_a_full_disk_does_not_take_comes_with_the_next(tmp_path: Path):
    log = Appending(tmp_path / "log")
    full = log._file = Full(log._file, room=7)
    log.write("first\n")
    log.write("second\n")
    log.write("third\n")
    assert (tmp_path / "log").read_text() == "first\ns"
    full.room = 100
    log.write("fourth\n")
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\nfourth\n"
    full.room = 0
    log.write("lost\n")
    log.close()
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\nfourth\n"


def test_what_was_held_is_written_before_a_sync(tmp_path: Path):
    log = Appending(tmp_path / "log")
    full = log._file = Full(log._file, room=0)
    log.write("held\n")
    full.room = 100
    log.sync()
    assert (tmp_path / "log").read_text() == "held\n"
    log.close()


def test_it_may_be_closed_twice(tmp_path: Path):
    log = Appending(tmp_path / "log")
    log.close()
    log.close()
