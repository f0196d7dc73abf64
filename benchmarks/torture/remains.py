"""What a finished run leaves in its folder, and how that differs from what another one left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from finetune.errors import UserError
from finetune.protos import MetaGraphDef
from finetune.reading.weights import read_index, read_tensors

Remains = Mapping[str, str]  # path within the folder -> digest of what counts in it

# What tells of times and of every process that took part, and the files of TensorBoard, whose names are new each time.
_TOLD = re.compile(r"train\.log|tensorboard/.*")
_TIMES = ("report.html",)  # there has to be one
_COUNTS = ("status", "step", "result", "metrics", "best", "intervals", "phases", "kept", "digests", "data")
# What a checkpoint holds beside the run's own where the disk has not taken the best pair yet (decision 0011).
_OWED = "finetune/owed"
_NUMBERED = re.compile(r"(?:checkpoints/)?model-(\d+)\..*")


def remains(run: Path, others: Collection[str] = ()) -> Remains:
    """All that is in a folder, but for the files of `others` and for what tells of times."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if name not in others and not _TOLD.fullmatch(name) and (path.is_symlink() or not path.is_dir()):
            found[name] = _digest(path)
    return found


def differences(found: Remains, whole: Remains, last: int) -> list[str]:
    """What is lacking or has another content.

    Of the checkpoints only the last one has to be there: a run that is asked to end saves one more, and one that a disk
    does not take is left out. Each that is in both has to be the same.
    """
    said = []
    for name, digest in whole.items():
        if name in found:
            said += [f"{name} has another content"] if found[name] != digest else []
        elif _step(name) in (None, last):
            said.append(f"{name} is lacking")
    return said


def litter(run: Path, found: Remains, whole: Remains) -> list[str]:
    """What is there for nothing: files that no undisturbed run leaves, and checkpoints that no state file lists."""
    steps = {None, *map(_step, whole)}
    said = [f"{name} is there too" for name in found if name not in whole and _step(name) in steps]
    listed = {place: _listed(run / place) for place in ("", "checkpoints")}
    return said + [
        f"{name} is there, and no state file lists it"
        for name in found
        if _step(name) is not None and Path(name).name.partition(".")[0] not in listed[name.rpartition("/")[0]]
    ]


def _step(name: str) -> int | None:
    numbered = _NUMBERED.fullmatch(name)
    return int(numbered[1]) if numbered else None


def _listed(folder: Path) -> set[str]:
    """The checkpoints that the `checkpoint` file of a folder names."""
    state = folder / "checkpoint"
    text = state.read_text(encoding="utf-8") if state.exists() else ""
    return {Path(path).name for path in re.findall(r'^all_model_checkpoint_paths: "(.*)"$', text, re.MULTILINE)}


def _digest(path: Path) -> str:
    return hashlib.sha256(b"\0".join(_content(path))).hexdigest()


def _content(path: Path) -> Iterator[bytes]:
    """What counts in a file."""
    if path.suffix == ".index":
        yield from _tensors(path.with_suffix(""))
    elif path.name == "metrics.jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = {key: value for key, value in json.loads(line).items() if key != "examples_per_second"}
            yield json.dumps(entry).encode()
    elif path.name == "run.json":
        record = json.loads(path.read_text(encoding="utf-8"))
        yield json.dumps({key: record.get(key) for key in _COUNTS}).encode()
    elif path.suffix == ".manifest":
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        yield from (name.encode() for name, digest in listed.items() if not _is(path.with_name(name), digest))
    elif path.suffix == ".meta":  # whose maps are written in any order
        yield MetaGraphDef.FromString(path.read_bytes()).SerializeToString(deterministic=True)
    elif path.name == "checkpoint":  # it has times, and more names where a run was asked to end
        yield from re.findall(rb'^model_checkpoint_path: "(?:.*/)?(.*)"$', path.read_bytes(), re.MULTILINE)
    elif path.name not in _TIMES and ".data-" not in path.name:
        yield path.read_bytes()


def _is(file: Path, digest: str) -> bool:
    """Whether there is no such file, or it is the one with this SHA-256."""
    return not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() == digest


def _tensors(prefix: Path) -> Iterator[bytes]:
    try:
        tensors = read_tensors(str(prefix), sorted(read_index(str(prefix))))
    except UserError as error:
        yield str(error).encode()
        return
    for name, value in sorted(tensors.items()):
        if name.startswith(_OWED):
            continue
        yield name.encode()
        yield repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
