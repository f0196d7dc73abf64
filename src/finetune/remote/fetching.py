"""Copies on this machine of what lies elsewhere, made when they are needed and when something has changed there.

They lie in `~/.cache/finetune/fetched` (or in that of XDG_CACHE_HOME), in a folder for each folder elsewhere, and may
be removed when no run is at work. `fetched.json` there says of each file what it was like when it was copied.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from finetune.errors import UserError, printable, shortlist
from finetune.names import did_you_mean
from finetune.reading.metagraph import GRAPHS, MEMBERS, SAVED_MODELS, STATE, latest_name
from finetune.remote import courier
from finetune.remote.courier import Stat
from finetune.remote.places import is_remote, parted, within

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
        folder, name = parted(path)
        files = courier.files_below(path)
        if name and not files:
            files = courier.files_below(folder)
            if name in SAVED_MODELS or name == STATE:
                return str(_copies(folder, files, _of_a_folder(folder, files), name) / name)
            found = MEMBERS.match(name)
            stems = {name} | ({found["stem"]} if found else set())
            return str(_copies(folder, files, lambda file: file == name or _stem_of(file) in stems, name) / name)
        return str(_copies(path, files, _of_a_folder(path, files)))


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
        folder, name = parted(path)
        files = courier.files_below(path)
        if files or not name:
            return str(_copies(path, files, lambda file: True))
        files = courier.files_below(folder)
        wanted = partial(fnmatch.fnmatchcase, pat=name)
        return str(_copies(folder, files, lambda file: with_others or file == name or wanted(file), name) / name)


def shards_of(path: str, key: str) -> dict[str, Stat]:
    """The files elsewhere that a path means, in their order; of a folder those with tfrecord in their names.

    Raises:
      UserError: there are none.
    """
    folder, name = parted(path)
    with _explained("data", key, path):
        inside = courier.files_below(path)
        within_it = {file for file in inside if "/" not in file and "tfrecord" in file.lower()}
        beside = {} if inside or not name else courier.files_below(folder)
        matching = {file for file in beside if file == name or fnmatch.fnmatchcase(file, name)}
        found = {within(path, file): inside[file] for file in within_it}
        found |= {within(folder, file): beside[file] for file in matching if "/" not in file}
        if not found:
            what = "no file in it has tfrecord in its name" if inside else "there is nothing of that name"
            raise UserError("recipe", path, what, _nearest(name, inside or beside))
    return dict(sorted(found.items()))


def run_at_hand(path: str, but: Sequence[str] = ("checkpoints",)) -> str:
    """Where a run folder, or a folder of them, lies on this machine: there already, or copied but for some folders.

    Raises:
      UserError: it cannot be copied.
    """
    if not is_remote(path):
        return path
    left_out = {*but, _UNSETTLED}
    with _explained("recipe", "RUN", path):
        return str(_copies(path, courier.files_below(path), lambda file: not left_out & {*file.split("/")[:-1]}))


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


def _of_a_folder(url: str, files: Mapping[str, Stat]) -> Wanted:
    """Which files of a folder belong to its pair: not those of each checkpoint, where `checkpoint` names one."""
    latest = None
    if STATE in files:
        latest = latest_name(_copies(url, files, lambda file: file == STATE))
    if f"{latest}.index" not in files and latest not in files:
        latest = None

    def wanted(file: str) -> bool:
        if MEMBERS.match(file) and "/" not in file:
            return latest in (None, _stem_of(file)) or file.endswith(".meta")
        return file in (STATE, latest) or file.endswith(GRAPHS) or file.startswith(_ASSETS)

    return wanted


def _copies(url: str, files: Mapping[str, Stat], wanted: Wanted, name: str = "") -> Path:
    """The folder here with the wanted files of one elsewhere, as they are there now; `name` is what was asked for."""
    chosen = {name: seen for name, seen in files.items() if wanted(name)}
    if not chosen:
        raise UserError("recipe", url, "there is nothing of that name", _nearest(name, files))
    root = _home() / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    place = root / (parted(url)[1] or "bucket")
    with _alone(root):
        record = _read_record(root)
        _remove_what_went(place, record, files)
        left = {name: seen for name, seen in chosen.items() if not _is_there(place / name, seen, record.get(name))}
        if left:
            _copy(url, left, place)
        record |= {name: [seen.size, seen.changed] for name, seen in chosen.items()}
        aside = root / f"{_ASIDE}{_RECORD}"
        aside.write_text(json.dumps({"url": url, "files": record}, indent=1), encoding="utf-8")
        os.replace(aside, root / _RECORD)
    return place


def _nearest(name: str, files: Mapping[str, Stat]) -> str:
    there = sorted({_stem_of(file.partition("/")[0]) for file in files})
    return did_you_mean(name, there) or (f"the folder has {shortlist(there)}" if there else "is the name right?")


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "finetune" / "fetched"


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


def _remove_what_went(place: Path, record: dict[str, list[int]], files: Mapping[str, Stat]) -> None:
    for name in record.keys() - files.keys():
        (place / name).unlink(missing_ok=True)
        del record[name]


def _copy(url: str, files: Mapping[str, Stat], place: Path) -> None:
    size = sum(seen.size for seen in files.values())
    place.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(place).free):
        what = f"{_megabytes(size)} of {url} do not fit: {_megabytes(free)} are free"
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
