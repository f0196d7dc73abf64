"""Copies on this machine of what lies elsewhere, made when they are needed and when something has changed there.

They lie in `~/.cache/finetune/fetched` (or in that of XDG_CACHE_HOME), in a folder for each folder elsewhere, and may
be removed when no run is at work. `fetched.json` there says of each file what it was like when it was copied.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError, printable, shortlist
from finetune.names import did_you_mean
from finetune.reading.metagraph import GRAPHS, MEMBERS, SAVED_MODELS, STATE, latest_name
from finetune.remote import courier
from finetune.remote.courier import Stat
from finetune.remote.places import is_remote, parted, place_here, within

_RECORD, _LOCK, _ASIDE = "fetched.json", "lock", ".fetching-"
_UNSETTLED = ".new"  # what a run has sent and not yet given its name
_TOLD = 1e6  # bytes: fewer are copied without a word
_MANY = 100  # files
_ASSETS = ("variables/", "assets/")  # of a SavedModel

Wanted = Callable[[str], bool]


def pair_at_hand(path: str, key: str = "source.path") -> str:
    """Where a pair lies on this machine: there already, or copied there.

    Raises:
      UserError: it cannot be copied.
    """
    if not is_remote(path):
        return path
    with _explained("source", key, path):
        folder, name = _meant(path)
        if name in ("", STATE, *SAVED_MODELS):
            return str(_copies(folder, _of_a_pair(folder), name) / name)
        stems = {name, _stem_of(name)}
        return str(_copies(folder, lambda file: _stem_of(file) in stems, name) / name)


def data_at_hand(path: str, key: str, with_others: bool = False) -> str:
    """Where a file of data, those of a pattern, or a folder lies on this machine: there already, or copied there.

    Args:
      with_others: whether what lies beside a file belongs to it.

    Raises:
      UserError: it cannot be copied.
    """
    if not is_remote(path):
        return path
    with _explained("data", key, path):
        folder, name = _meant(path)
        return str(_copies(folder, lambda file: with_others or _is_meant(name, file), name) / name)


def shards_of(path: str, key: str) -> dict[str, Stat]:
    """The files elsewhere that a path means, in their order; of a folder those with tfrecord in their names.

    Raises:
      UserError: there are none.
    """

    def wanted(file: str) -> bool:
        return "/" not in file and ("tfrecord" in file.lower() if not name else _is_meant(name, file))

    with _explained("data", key, path):
        folder, name = _meant(path)
        if not (found := courier.files_below(folder, wanted)):
            what = "there is nothing of that name" if name else "no file in it has tfrecord in its name"
            raise UserError("recipe", path, what, _nearest(name, folder))
    return {within(folder, file): seen for file, seen in sorted(found.items())}


def run_at_hand(path: str, but: Sequence[str] = ("checkpoints",)) -> str:
    """Where a run folder, or a folder of them, lies on this machine: there already, or copied but for some folders.

    Raises:
      UserError: it cannot be copied.
    """
    if not is_remote(path):
        return path
    left_out = {*but, _UNSETTLED}
    with _explained("recipe", "RUN", path):
        return str(_copies(path, lambda file: not left_out & {*file.split("/")[:-1]}))


def _meant(path: str) -> tuple[str, str]:
    """(a folder elsewhere, the name of what is meant in it); no name where all of it is."""
    path = path.rstrip("/")
    seen = courier.stat(path)
    return (path, "") if seen is not None and seen.is_folder else parted(path)


def _is_meant(name: str, file: str) -> bool:
    """Whether a file is the one of a name or of a pattern; of no name each is."""
    return not name or ("/" not in file and (file == name or fnmatch.fnmatchcase(file, name)))


@contextmanager
def _explained(code: str, key: str, url: str) -> Iterator[None]:
    """What goes wrong between here and there, in a line."""
    try:
        yield
    except OSError as error:
        what = f"'{url}' cannot be read: {error.strerror}"
        raise UserError(code, key, what, "is the name right, and may this machine read it?") from error
    except UserError as error:
        told = error.code if error.code == "storage" else code
        raise UserError(told, key, f"'{url}': {error.what}", error.todo) from error


def _stem_of(name: str) -> str:
    found = MEMBERS.match(name)
    return found["stem"] if found else name


def _of_a_pair(folder: str) -> Wanted:
    """Which files of a folder belong to its pair: not those of each checkpoint, where `checkpoint` names one."""
    names, latest = courier.names_in(folder), None
    if STATE in names:
        latest = latest_name(_copies(folder, lambda file: file == STATE))
    if f"{latest}.index" not in names and latest not in names:
        latest = None

    def wanted(file: str) -> bool:
        if MEMBERS.match(file) and "/" not in file:
            return latest in (None, _stem_of(file)) or file.endswith(".meta")
        return file in (STATE, latest) or file.endswith(GRAPHS) or file.startswith(_ASSETS)

    return wanted


def _copies(url: str, wanted: Wanted, name: str = "") -> Path:
    """The folder here with the wanted files of one elsewhere, as they are there now; `name` is what was asked for."""
    files = courier.files_below(url, wanted)
    if not files:
        raise UserError("recipe", url, "there is nothing of that name", _nearest(name, url))
    place = place_here("fetched", url)
    root = place.parent
    with _alone(root):
        record = _read_record(root)
        for went in [file for file in record if wanted(file) and file not in files]:
            (place / went).unlink(missing_ok=True)
            del record[went]
        left = {file: seen for file, seen in files.items() if not _is_there(place / file, seen, record.get(file))}
        if left:
            _copy(url, left, place)
        record |= {file: [seen.size, seen.changed] for file, seen in files.items()}
        aside = root / f"{_ASIDE}{_RECORD}"
        aside.write_text(json.dumps({"url": url, "files": record}, indent=1), encoding="utf-8")
        os.replace(aside, root / _RECORD)
    return place


def _nearest(name: str, folder: str) -> str:
    there = sorted({_stem_of(file.rstrip("/")) for file in courier.names_in(folder)})
    return did_you_mean(name, there) or (f"the folder has {shortlist(there)}" if there else "is the name right?")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time copies into a folder; what one that was killed left half copied is removed."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in root.rglob(f"{_ASIDE}*"):
            left.unlink()
        yield


def _read_record(root: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((root / _RECORD).read_text(encoding="utf-8"))["files"]
        return {str(name): list(seen) for name, seen in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_there(path: Path, seen: Stat, recorded: list[int] | None) -> bool:
    return recorded == [seen.size, seen.changed] and path.is_file() and path.stat().st_size == seen.size


def _copy(url: str, files: Mapping[str, Stat], place: Path) -> None:
    size = sum(seen.size for seen in files.values())
    place.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(place).free):
        what = f"{_megabytes(size)} do not fit into {place}, where {_megabytes(free)} are free"
        raise UserError("storage", str(place), what, "free some space, or set XDG_CACHE_HOME to a larger disk")
    is_told, began = size >= _TOLD or len(files) >= _MANY, time.monotonic()
    if is_told:
        files_in_words = f"{len(files):,} file{'s' * (len(files) > 1)}"
        print(printable(f"fetching {url}: {files_in_words}, {_megabytes(size)}"), file=sys.stderr, flush=True)

    def copy(name: str) -> None:
        to = place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        aside = to.with_name(f"{_ASIDE}{to.name}")
        copied, _ = courier.fetch(within(url, name), str(aside))
        if copied != files[name].size:
            what = f"{copied:,} of {files[name].size:,} bytes came: it changes while it is copied"
            raise UserError("storage", within(url, name), what, "give the same command again")
        os.replace(aside, to)

    courier.together(copy, files)
    if is_told:
        print(printable(f"fetched: {place} in {time.monotonic() - began:.1f} s"), file=sys.stderr, flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
