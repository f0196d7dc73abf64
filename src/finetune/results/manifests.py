"""The manifest beside each checkpoint: which files are its own, what is in them, and whether it stays for good.

It is on the disk before the first of its files and goes after the last: whatever a kill leaves half written or half
deleted is listed somewhere, and a file that nothing lists is somebody else's. See docs/decisions/0014.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finetune.errors import UserError

ENDING = ".manifest"
_CHUNK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Manifest:
    """What one checkpoint consists of.

    `number` says which save of its folder it was, for a clock may be set back and a step made twice; `saved` is when,
    in seconds since 1970, and `period` when the period began for which one stays for good. `files` are their SHA-256
    by name. One that stays `for_good` is never deleted.
    """

    name: str
    number: int
    saved: float
    period: float
    files: Mapping[str, str]
    for_good: bool = False

    def text(self) -> str:
        """What its file says."""
        said = {"number": self.number, "saved": self.saved, "period": self.period, "for_good": self.for_good}
        return listing(self.files, said)


def listing(files: Mapping[str, str], more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The text of a manifest: the digest of each file, and what else there is to say."""
    return json.dumps({**more, "files": dict(files)}, indent=1, ensure_ascii=False) + "\n"


def digest_of(file: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` prints it."""
    found = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def read(folder: Path, name: str) -> Manifest | None:
    """The manifest of a checkpoint; None if there is none, or none that speaks of this checkpoint's files alone."""
    own = re.compile(re.escape(name) + r"\.(index|data-\d{5}-of-\d{5})")
    try:
        said = json.loads((folder / f"{name}{ENDING}").read_text(encoding="utf-8"))
        files = {file: str(digest) for file, digest in said["files"].items()}
        times = float(said["saved"]), float(said["period"])
        found = Manifest(name, int(said["number"]), *times, files, bool(said["for_good"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    is_ours = all(own.fullmatch(file) for file in files) and all(math.isfinite(time) for time in times)
    return found if is_ours else None


def all_in(folder: Path, stem: str) -> list[Manifest]:
    """Those of all checkpoints of a stem in a folder, in the order in which they were saved."""
    if not folder.is_dir():
        return []
    named = [re.fullmatch(re.escape(stem) + r"-\d+" + re.escape(ENDING), file.name) for file in folder.iterdir()]
    found = [read(folder, match[0].removesuffix(ENDING)) for match in named if match]
    return sorted((one for one in found if one is not None), key=lambda one: one.number)


def check(folder: Path, name: str, files: Iterable[str]) -> None:
    """Compares files with what the manifest of their checkpoint says of them, if it has one.

    Raises:
      UserError: one is not what was saved.
    """
    listed = read(folder, name)
    for file in files if listed is not None else ():
        if listed is not None and digest_of(folder / file) != listed.files.get(file):
            what = f"this is not the file that was saved: {name}{ENDING} has another digest of it"
            raise UserError("storage", str(folder / file), what, "copy it again")
