"""Files of others, with names that are nearly those of a run's: 1,000 in its folders, beside it, and links."""

from __future__ import annotations

import os
from pathlib import Path

_NEARLY = ["model-{}.index.bak", "xmodel-{}.index", "model{}.index", "notes-{}.txt", "model-{}.data"]
_EXACTLY = ["model-{}.index", "model-{}.data-00000-of-00001", "model-{}.meta"]
_EVENTS = ["notes-{}.txt", "my.events.out.tfevents.{}", "events.{}.bak"]
# Of the places in a run's folder others may take only names that are not the run's own.
_PLACES = {
    "run": (_NEARLY, 50),
    "run/checkpoints": (_NEARLY, 50),
    "run/tensorboard": (_EVENTS, 50),
    "run2/checkpoints": (_EXACTLY, 50),
    "run.bak": (_EXACTLY, 20),
    ".": (["notes-{}.txt"], 40),
}
_LINKED = ("run", "run/checkpoints", "run/tensorboard")
_LINKS = 17  # in each of them, to a file of others and to a folder


class Decoys:
    """Files of others on one disk, in place as soon as they are put there."""

    def __init__(self, disk: Path):
        self._disk = disk
        self._left: dict[Path, tuple[int, int, bytes]] = {}

    @property
    def in_run(self) -> set[str]:
        """Those that are in the folder `run`, by their paths in it."""
        run = self._disk / "run"
        return {path.relative_to(run).as_posix() for path in self._left if path.is_relative_to(run)}

    def __len__(self) -> int:
        return len(self._left)

    def put(self) -> None:
        """Writes them, once."""
        if self._left:
            return
        for place, (names, count) in _PLACES.items():
            (self._disk / place).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                for name in names:
                    path = self._disk / place / name.format(number)
                    path.write_text(f"{place} {path.name}", encoding="utf-8")
                    self._note(path)
        for place in _LINKED:
            for number in range(_LINKS):
                for kind, target in (("file", "run.bak/model-1.index"), ("folder", "run2/checkpoints")):
                    path = self._disk / place / f"model-{number}.{kind}"
                    path.symlink_to(self._disk / target)
                    self._note(path)

    def gone(self) -> list[str]:
        """Those that are not there any more, or are not what they were: another file, another content."""
        return [
            str(path.relative_to(self._disk))
            for path, before in self._left.items()
            if not os.path.lexists(path) or _seen(path) != before
        ]

    def _note(self, path: Path) -> None:
        self._left[path] = _seen(path)


def _seen(path: Path) -> tuple[int, int, bytes]:
    """The inode and when it was changed last, for inodes are used again, and the content or where a link leads."""
    content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
    about = path.lstat()
    return about.st_ino, about.st_ctime_ns, content
