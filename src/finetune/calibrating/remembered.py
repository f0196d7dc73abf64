"""What was measured before, in a file of the user's: by what was measured, and on which machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.calibrating.setting import Choice, from_record
from finetune.errors import UserError
from finetune.own_place import own_place
from finetune.results.checkpoints import write_text

FILE, LOCK = "engines.json", "engines.lock"
MOST = 200  # entries; the oldest go first


def file() -> Path:
    """Where it lies."""
    return own_place(FILE)


def key_of(about: Mapping[str, Any]) -> str:
    """The name of an entry: a digest of all that a measurement depends on."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def recall(path: Path, key: str) -> tuple[Choice | None, str]:
    """What the file has under a key, and what is wrong with the file, if anything is."""
    try:
        entry = _entries(path).get(key)
    except (OSError, ValueError):
        return None, f"engine: {path} cannot be read and is passed over"
    setting = from_record(entry.get("setting")) if isinstance(entry, Mapping) else None
    if setting is None or not isinstance(entry, Mapping):
        return None, ""
    return Choice(setting, tuple(str(line) for line in entry.get("said", ()))), ""


def remember(path: Path, key: str, choice: Choice) -> str:
    """Puts an entry into the file, in the place of what was there; says what was wrong, if anything was."""
    try:
        entries = _entries(path)
    except (OSError, ValueError):
        entries = {}
    entries.pop(key, None)
    entries[key] = {"setting": choice.setting.record(), "said": list(choice.said)}
    kept = dict(list(entries.items())[-MOST:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    except (OSError, UserError) as error:
        return f"engine: not remembered: {error}"
    return ""


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Measures while no other process of this user does, for both would be slower; calls `waiting` if one does.

    The lock ends with the process that has it. Where there can be none, nobody waits.
    """
    with ExitStack() as held:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(path.with_name(LOCK).open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _entries(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no mapping")
    return found
