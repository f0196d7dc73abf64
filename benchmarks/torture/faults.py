"""Faults of the machine: a disk as it is at a call that changes it, or whose power is lost there, or that is full."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHIM = Path(__file__).with_name("shim.c")
FULL = errno.ENOSPC
FAILING = (errno.EIO, errno.EDQUOT, errno.EROFS)
EMPTY = Path(os.devnull)


def shim(folder: Path) -> Path:
    """The library that counts the calls of a process, compiled.

    Raises:
      CalledProcessError: there is no C compiler, or it does not take it.
    """
    library = folder / "shim.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
    return library


@dataclass(frozen=True)
class Watch:
    """Where the shim writes down what happens below `root`."""

    library: Path
    root: Path
    log: Path
    kept: Path

    def environment(self, at: int | None = None, how: str = "stop", many: int = 1) -> dict[str, str]:
        """What a process has to be told, to have a fault at a call or to stop before it, or neither."""
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir(parents=True)
        self.log.unlink(missing_ok=True)
        fault = {} if at is None else {"TORTURE_AT": str(at), "TORTURE_HOW": how, "TORTURE_MANY": str(many)}
        places = {"TORTURE_ROOT": self.root, "TORTURE_LOG": self.log, "TORTURE_KEPT": self.kept}
        named = {name: os.path.realpath(place) for name, place in places.items()}
        return {**os.environ, "LD_PRELOAD": str(self.library), **named, **fault}

    def calls(self) -> list[str]:
        """The calls that were made."""
        return [line for line in self._lines() if line.startswith("call ")]

    def now(self) -> dict[str, Path]:
        """What is below `root`: where the content of each path is. A folder is its own."""
        return {str(path.relative_to(self.root)): path for path in sorted(self.root.rglob("*"))}

    def without_power(self, names_survive: bool) -> dict[str, Path]:
        """The same as a disk has it whose power is lost now.

        Files have the content with which they were synced last, and none if they never were. Folders have the names
        with which they were synced last; with `names_survive` those that they have, as most file systems would write
        them soon.
        """
        folders = _tree(self.root) if names_survive else self._folders()
        return dict(self._left(folders, _identities([self.root])[0], ""))

    def _left(
        self, folders: Mapping[str, Mapping[str, tuple[str, bool]]], folder: str, place: str
    ) -> Iterator[tuple[str, Path]]:
        for name, (identity, is_folder) in sorted(folders.get(folder, {}).items()):
            if is_folder:
                yield place + name, self.root
                yield from self._left(folders, identity, f"{place}{name}/")
            else:
                content = self.kept / identity
                yield place + name, content if content.exists() else EMPTY

    def _folders(self) -> dict[str, dict[str, tuple[str, bool]]]:
        """Each folder that was synced, with its names at the last time that was done."""
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        folder, names = "", {}
        for line in self._lines():
            kind, _, rest = line.partition(" ")
            if kind == "folder":
                folder, names = rest, {}
            elif kind == "name":
                identity, is_folder, name = rest.split(" ", 2)
                names[name] = identity, is_folder == "1"
            elif kind == "whole":
                found[folder] = names
        return found

    def _lines(self) -> Sequence[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else ()


def _tree(root: Path) -> dict[str, dict[str, tuple[str, bool]]]:
    inside = list(root.rglob("*"))
    identities = dict(zip([root, *inside], _identities([root, *inside]), strict=True))
    found: dict[str, dict[str, tuple[str, bool]]] = {identities[root]: {}}
    for path in inside:
        found.setdefault(identities[path.parent], {})[path.name] = identities[path], path.is_dir()
    return found


def _identities(paths: Sequence[Path]) -> list[str]:
    """As the shim writes them: the inode and the time of birth, which only `stat` of coreutils tells."""
    command = ["stat", "--format=%i %.9W", *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    split = [re.split(r"[ .]", line) for line in lines]
    return [f"{inode}-{seconds}-{int(parts)}" for inode, seconds, parts in split]
