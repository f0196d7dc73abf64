"""The source as it lies on disk: which files make the pair, and the graph in one of them.

The graph is a `.meta` beside its checkpoint, or that of a SavedModel, whose checkpoint is `variables/variables`, or a
frozen `.pb`, whose weights are constants in it.
Formats: tensorflow/core/protobuf/meta_graph.proto, saved_model.proto, tensorflow/core/framework/graph.proto.
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
from finetune.protos import GraphDef, MetaGraphDef, SavedModel, VariableDef
from finetune.reading import frozen

_SHARD = r"-\d{5}-of-\d{5}"
MEMBERS = re.compile(rf"^(?P<stem>.*)(?:\.meta|\.index|\.data{_SHARD}|(?<!\.data){_SHARD})$", re.DOTALL)
STEP = re.compile(r"-\d+$")
STATE = "checkpoint"
GRAPHS = (".pb", ".pbtxt")
SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
WHOLE_PAIR = "copy the whole pair: .meta, .index and .data-?????-of-?????"
SERVED = "serve"  # the tag of the graph that a SavedModel is loaded for
_LARGEST = 2**31 - 1  # bytes that protobuf reads or writes as one message
_SAVED_MODEL = b"\x08\x01\x12"  # version 1, then a graph; no MetaGraphDef begins so
_LONGEST_STATE = 2**20  # bytes; a line for each checkpoint that is kept


@dataclass(frozen=True)
class Pair:
    """The file of a graph, mostly a `.meta`, and the prefix of its checkpoint.

    The prefix of a V2 checkpoint names no file (`model` for `model.index`); that of a V1 checkpoint is the file, or
    what comes before `-?????-of-?????` in the names of several. A graph whose weights are constants in it is its own
    checkpoint.
    """

    meta: Path
    prefix: str

    @property
    def name(self) -> str:
        """The name of the graph's file, with its folder where the file alone says nothing."""
        inner = self.meta.name == ".meta" or self.meta.name in SAVED_MODELS
        return f"{self.meta.absolute().parent.name}/{self.meta.name}" if inner else self.meta.name

    @property
    def is_one_file(self) -> bool:
        """Whether the graph is its own checkpoint."""
        return self.prefix == str(self.meta)

    @property
    def files(self) -> list[Path]:
        """Every file of the pair that exists, that of the graph first."""
        if self.is_one_file:
            return [self.meta]
        folder, stem = Path(self.prefix).parent, _stem(self.prefix)
        if self.prefix.endswith("/"):
            folder = Path(self.prefix)
        members = [f for f in sorted(folder.iterdir()) if _is_member(f.name, stem) and not f.name.endswith(".meta")]
        # A pipe of such a name is none of its files, and reading it would never end.
        return [self.meta, *(f for f in members if f.is_file())]


def find_pair(path: str, key: str = "source.path") -> Pair:
    """The pair that `path` means: a folder, a prefix, any file of the pair, a SavedModel or a frozen `.pb`.

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
    if given.suffix in GRAPHS and given.exists():
        return _pair_of_graph(given)
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
        graphs = [f for f in SAVED_MODELS if f in files] or sorted(f for f in files if f.endswith(".pb"))
        if len(graphs) > 1:
            what = f"'{folder}' holds {len(graphs)} graphs and no .meta"
            raise UserError("source", key, what, f"name one: {shortlist(graphs, 8)}")
        if graphs:
            return _pair_of_graph(folder / graphs[0])
        inner = [d.name for d in folder.iterdir() if d.is_dir() and (any(d.glob("*.meta")) or _saved_models(d))]
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


def _saved_models(folder: Path) -> list[Path]:
    return [folder / name for name in SAVED_MODELS if (folder / name).exists()]


def _pair_of_graph(graph: Path) -> Pair:
    """The pair of a SavedModel, or of a graph that is its own checkpoint."""
    return Pair(graph, str(graph) if is_frozen(graph) else str(graph.parent / "variables" / "variables"))


def is_frozen(path: Path) -> bool:
    """Whether the file of a graph has to hold the weights too, as constants: a SavedModel may have no variables."""
    if path.name in SAVED_MODELS:
        return not (path.parent / "variables" / "variables.index").exists()
    return path.suffix in GRAPHS


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
    if meta is None and (folder.name, stem) == ("variables", "variables") and (above := _saved_models(folder.parent)):
        return _pair_of_graph(above[0])
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
    if any(f.startswith(f"{stem}.data-") for f in files):
        what = f"{folder / (stem + '.index')} is missing though its .data is there"
        raise UserError("source", key, what, WHOLE_PAIR)
    return Pair(folder / meta, str(folder / meta))  # what its variables start from may be constants


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
    """The `MetaGraphDef` in a file, binary or text; the weights of a frozen graph are variables in it.

    Raises:
      UserError: the file is something else; the message says what it looks like.
    """
    return frozen.with_variables(parse(path)) if is_frozen(path) else parse(path)


def parse(path: Path) -> Any:
    """The `MetaGraphDef` in a file with its graph as it stands there.

    Raises:
      UserError: the file is something else; the message says what it looks like.
    """
    if path.name in SAVED_MODELS:
        return _with_graph(_served(_parsed(path, SavedModel(), "a SavedModel"), path), path)
    if path.suffix in GRAPHS:
        meta = MetaGraphDef()
        _parsed(path, meta.graph_def, "a frozen .pb")
        return _with_graph(meta, path)
    return _with_graph(_parsed(path, MetaGraphDef(), "a .meta file"), path)


def _with_graph(meta: Any, path: Path) -> Any:
    if not meta.graph_def.node:
        raise UserError("source", str(path), "this holds no graph", "give the .meta that tf.train.Saver wrote")
    return meta


def _parsed(path: Path, message: Any, expected: str) -> Any:
    """The message with the content of a file, of which no copy stays."""
    check_readable(path, expected)
    if (size := path.stat().st_size) > _LARGEST:
        what = f"it has {size:,} bytes, and protobuf reads at most {_LARGEST:,} of a graph"
        raise UserError("source", str(path), what, "save it without the constants that make it so large")
    content = path.read_bytes()
    wanted = message.DESCRIPTOR.name
    if wanted == "MetaGraphDef" and content.startswith(_SAVED_MODEL):
        todo = "give it its name, saved_model.pb, or its folder"
        raise UserError("source", str(path), "this is a SavedModel, not a MetaGraphDef", todo)
    try:
        message.ParseFromString(content)
    except DecodeError:
        try:
            text_format.Parse(content.decode("utf-8"), message, allow_unknown_field=True)
        except (text_format.ParseError, UnicodeDecodeError, RecursionError):
            what, todo = f"this is not a {wanted}", "is the file complete? copy it again"
            if wanted == "MetaGraphDef" and _is_graph(content):
                what, todo = f"this is a GraphDef, as frozen graphs are, not a {wanted}", "give it the ending .pb"
            raise UserError("source", str(path), what, todo) from None
    return message


def _is_graph(content: bytes) -> bool:
    found = GraphDef()
    with contextlib.suppress(DecodeError):
        found.ParseFromString(content)
    return len(found.node) > 0 and all(node.name and node.op for node in found.node)


def _served(saved: Any, path: Path) -> Any:
    """The graph of a SavedModel that is meant to be served; what it would initialise or load is never run."""
    graphs = list(saved.meta_graphs)
    tags = [sorted(meta.meta_info_def.tags) for meta in graphs]
    for fits in (lambda given: given == [SERVED], lambda given: SERVED in given, lambda given: True):
        chosen = [meta for meta, given in zip(graphs, tags, strict=True) if fits(given)]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            shown = shortlist(["+".join(given) or "no tag" for given in tags], 8)
            what = f"this SavedModel holds {len(graphs)} graphs, with the tags {shown}"
            raise UserError("source", str(path), what, f"save one with the tag '{SERVED}' alone")
    raise UserError("source", str(path), "this SavedModel holds no graph", "is the file complete? copy it again")


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
