"""The source as it lies on disk: which files make the pair, and the graph in its `.meta`.

Format: `MetaGraphDef`, tensorflow/core/protobuf/meta_graph.proto.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from finetune import names
from finetune.errors import UserError, shortlist
from finetune.files import check_readable
from finetune.protos import GraphDef, MetaGraphDef, VariableDef

_SHARD = r"-\d{5}-of-\d{5}"
MEMBERS = re.compile(rf"^(?P<stem>.*)(?:\.meta|\.index|\.data{_SHARD}|(?<!\.data){_SHARD})$", re.DOTALL)
STEP = re.compile(r"-\d+$")
STATE = "checkpoint"
_LARGEST = 2**31 - 1  # bytes that protobuf reads or writes as one message
_SAVED_MODEL = b"\x08\x01\x12"  # version 1, then a graph; no MetaGraphDef begins so
_LONGEST_STATE = 2**20  # bytes; a line for each checkpoint that is kept


@dataclass(frozen=True)
class Pair:
    """A `.meta` file and the prefix of the checkpoint beside it.

    The prefix of a V2 checkpoint names no file (`model` for `model.index`); that of a V1 checkpoint is the file, or
    what comes before `-?????-of-?????` in the names of several.
    """

    meta: Path
    prefix: str

    @property
    def files(self) -> list[Path]:
        """Every file of the pair that exists, the `.meta` first."""
        folder, stem = Path(self.prefix).parent, _stem(self.prefix)
        if self.prefix.endswith("/"):
            folder = Path(self.prefix)
        members = [f for f in sorted(folder.iterdir()) if _is_member(f.name, stem) and not f.name.endswith(".meta")]
        # A pipe of such a name is none of its files, and reading it would never end.
        return [self.meta, *(f for f in members if f.is_file())]


def find_pair(path: str, key: str = "source.path") -> Pair:
    """The pair that `path` means: a folder, a prefix, or any file of the pair.

    The `checkpoint` file of a folder is asked only for a name inside that folder: it often holds the path of
    the author's machine.

    Raises:
      UserError: nothing there, a member missing, or several pairs and no way to choose.
    """
    try:
        return _find_pair(Path(os.path.expanduser(path)), key)
    except OSError as error:
        raise UserError(
            "source", key, f"'{path}' cannot be read: {error.strerror}", "copy the pair elsewhere"
        ) from None


def _find_pair(given: Path, key: str) -> Pair:
    if given.is_dir():
        return _pair_in_folder(given, key)
    folder, name = given.parent, given.name
    if name == STATE and latest_name(folder) is not None:
        return _pair_in_folder(folder, key)
    if not folder.is_dir():
        raise UserError(
            "source", key, f"there is no folder '{folder}'", "give a folder, a prefix or any file of the pair"
        )
    stem = name
    if (member := MEMBERS.match(name)) and (given.exists() or _members(folder, member["stem"])):
        stem = member["stem"]
    if not _members(folder, stem):
        there = sorted({m["stem"] for f in folder.iterdir() if (m := MEMBERS.match(f.name))})
        raise UserError(
            "source",
            key,
            f"there is no '{given}', and no pair of that name",
            names.did_you_mean(stem, there) or (f"the folder has {shortlist(there)}" if there else "no pair is there"),
        )
    return _pair(folder, stem, key)


def _stem(prefix: str) -> str:
    return "" if prefix.endswith("/") else Path(prefix).name


def _is_member(name: str, stem: str) -> bool:
    member = MEMBERS.match(name)
    return name == stem or (member is not None and member["stem"] == stem)


def _members(folder: Path, stem: str) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if _is_member(f.name, stem) and not f.is_dir())


def _pair_in_folder(folder: Path, key: str) -> Pair:
    files = {f.name for f in folder.iterdir() if not f.is_dir()}
    stems = sorted({m["stem"] for f in files if (m := MEMBERS.match(f)) and f.endswith((".meta", ".index"))})
    if not stems:
        inner = [d.name for d in folder.iterdir() if d.is_dir() and any(d.glob("*.meta"))]
        if (folder / "saved_model.pb").exists():
            raise UserError("source", key, f"'{folder}' is a SavedModel", "give a .meta and its checkpoint")
        first = min(inner, key=lambda name: (name != "model", name), default="")  # a run folder has its pair there
        hint = f"did you mean {folder / first}?" if inner else "a pair is NAME.meta beside NAME.index"
        raise UserError("source", key, f"there is no .meta in folder '{folder}'", hint)
    latest = latest_name(folder)
    if latest is not None and (latest in stems or _is_v1(latest, files)):
        return _pair(folder, latest, key)
    weights = [s for s in stems if f"{s}.index" in files or _is_v1(s, files)]
    complete = [s for s in weights if f"{s}.meta" in files]
    for choice in (complete, weights, stems):
        if len(choice) == 1:
            return _pair(folder, choice[0], key)
    choice = weights or stems
    raise UserError("source", key, f"'{folder}' holds {len(choice)} pairs", f"name one: {shortlist(choice, 8)}")


def _is_v1(stem: str, files: set[str]) -> bool:
    """Whether there is a checkpoint of the format before V2: one file of that name, or several."""
    return stem in files or any(re.fullmatch(re.escape(stem) + _SHARD, f) for f in files)


def latest_name(folder: Path) -> str | None:
    """The name that the folder's `checkpoint` file gives as the newest, or None if it has no usable one."""
    state = folder / STATE
    try:
        if not state.is_file() or state.stat().st_size > _LONGEST_STATE:
            return None
        text = state.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r'^model_checkpoint_path: "((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    if not found:
        return None
    try:
        path = text_format.text_encoding.CUnescape(found[1]).decode(errors="replace")
    except ValueError:
        return None
    return "" if path.endswith("/") else Path(path).name


def _pair(folder: Path, stem: str, key: str) -> Pair:
    """The pair of one name, if every member of it is there."""
    files = {f.name for f in folder.iterdir() if not f.is_dir()}
    meta = _meta_for(stem, files)
    if meta is None:
        has = [f for f in (f"{stem}.index", stem) if f in files]
        what = f"no {stem}.meta beside {folder / has[0] if has else folder / stem}"
        todo = "weights alone do not say what to compute: save a .meta with the code that made them"
        if others := sorted(f for f in files if f.endswith(".meta")):
            todo = f"if {shortlist(others)} belongs to it, give it that name"
        raise UserError("source", key, what, todo)
    if f"{stem}.index" in files:
        if not any(f.startswith(f"{stem}.data-") for f in files):
            raise UserError(
                "source", key, f"{folder / stem}.data-00000-of-00001 is missing", "copy it beside the .index"
            )
        return Pair(folder / meta, str(folder / stem) if stem else f"{folder}/")
    if _is_v1(stem, files):
        return Pair(folder / meta, str(folder / stem))
    has_data = any(f.startswith(f"{stem}.data-") for f in files)
    raise UserError(
        "source",
        key,
        f"{folder / (stem + '.index')} is missing" + (" though its .data is there" if has_data else ""),
        "copy the whole pair: .meta, .index and .data-?????-of-?????",
    )


def _meta_for(stem: str, files: set[str]) -> str | None:
    """The `.meta` of a checkpoint: of the same name, or the one written once for all steps of a run."""
    metas = sorted(f for f in files if f.endswith(".meta"))
    if f"{stem}.meta" in metas:
        return f"{stem}.meta"
    base = STEP.sub("", stem)
    same_run = [m for m in metas if STEP.sub("", m.removesuffix(".meta")) == base]
    if same_run:
        return same_run[0]
    return metas[0] if len(metas) == 1 else None


def read(path: Path) -> Any:
    """The `MetaGraphDef` in a file, binary or text.

    Raises:
      UserError: the file is something else; the message says what it looks like.
    """
    check_readable(path, "a .meta file")
    if (size := path.stat().st_size) > _LARGEST:
        what = f"it has {size:,} bytes, and protobuf reads at most {_LARGEST:,} of a graph"
        raise UserError("source", str(path), what, "save the .meta without the constants that make it so large")
    content = path.read_bytes()
    meta = MetaGraphDef()
    try:
        meta.ParseFromString(content)
    except DecodeError:
        try:
            text_format.Parse(content.decode("utf-8"), meta, allow_unknown_field=True)
        except (text_format.ParseError, UnicodeDecodeError, RecursionError):
            todo = "is the file complete? copy it again"
            raise UserError("source", str(path), f"this is {_otherwise(content)}", todo) from None
    if not meta.graph_def.node or content.startswith(_SAVED_MODEL):
        what = f"this holds no graph: it is {_otherwise(content)}"
        raise UserError("source", str(path), what, "give the .meta that tf.train.Saver wrote")
    return meta


def _otherwise(content: bytes) -> str:
    """What the content of a file is that should be a `MetaGraphDef`."""
    if content.startswith(_SAVED_MODEL):
        return "a SavedModel, not a MetaGraphDef"
    frozen = GraphDef()
    with contextlib.suppress(DecodeError):
        frozen.ParseFromString(content)
    is_graph = len(frozen.node) > 0 and all(node.name and node.op for node in frozen.node)
    return "a GraphDef, as frozen graphs are, not a MetaGraphDef" if is_graph else "not a MetaGraphDef"


def stamps(paths: list[Path]) -> dict[Path, tuple[int, ...]]:
    """What changes about a file when somebody writes it or puts another in its place; reads no content."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()  # whoever reads it will say why
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def check_unchanged(before: Mapping[Path, tuple[int, ...]]) -> None:
    """Refuses files that are no longer as they were when `stamps` were taken of them.

    Raises:
      UserError: the message names the file.
    """
    for path, stamp in before.items():
        if _stamp(path) != stamp:
            todo = "wait until nothing writes it, or copy the pair, and start again"
            raise UserError("source", str(path), "this file changed while it was being read", todo)


def digest(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    digests = {}
    for path in paths:
        sha = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
        digests[path.name] = sha.hexdigest()
    return digests


def node_list(meta: Any, collection: str) -> list[str]:
    """The names in a collection of nodes, tensors or ops."""
    return list(meta.collection_def[collection].node_list.value) if collection in meta.collection_def else []


def variable_defs(meta: Any, collection: str) -> list[Any]:
    """The `VariableDef` messages in a collection; those that cannot be parsed are left out."""
    found = []
    if collection in meta.collection_def:
        for content in meta.collection_def[collection].bytes_list.value:
            definition = VariableDef()
            try:
                definition.ParseFromString(content)
            except DecodeError:
                continue
            found.append(definition)
    return found


def producer(meta: Any) -> str:
    """Which TensorFlow wrote the graph, as far as it says."""
    return meta.meta_info_def.tensorflow_version or f"GraphDef version {meta.graph_def.versions.producer}"
