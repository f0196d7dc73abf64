"""The words that say where a job runs and what it may use, with their defaults and the reasons for them.

They are no part of a recipe: where a run is computed changes neither its folder nor its recipe.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune import recipe_files
from finetune.errors import UserError
from finetune.names import did_you_mean

SLURM, LOCAL, KUBERNETES = KINDS = ("slurm", "local", "kubernetes")
FOLDER = "clusters"  # of the current folder, for files of the user's own


@dataclass(frozen=True)
class Cluster:
    """Where a job runs, and what it may use there."""

    kind: str = SLURM  # slurm, kubernetes, or local: a process on this machine that outlives the terminal
    # The most that one start of the job takes, as Slurm writes it (90, 24:00:00, 2-12); None: what the partition says.
    # A short one starts sooner, for the scheduler finds gaps for it, and the run goes on in the next one.
    time: str | None = None
    # Seconds before its end at which a job is asked to save. Slurm looks twice a minute, so it may be a minute more. It
    # has to be enough for a step, a save, and at the worst a compilation.
    notice: int = 120
    nodes: int = 1
    tasks: int | None = None  # processes that train together, on all nodes; None: one on each
    cpus: int | None = None  # of each process
    gpus: str | None = None  # of each node: 2, or a100:2
    mem: str | None = None  # of each node: 16G
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    at_once: int | None = None  # runs of a sweep that may go on at the same time; None: all, and one where it is local
    lines: list[str] = field(default_factory=list)  # whatever else sbatch takes: --constraint=a100
    setup: list[str] = field(default_factory=list)  # lines of shell before the run: module load cuda
    # The interpreter; None: the one that submits, for it has what the run needs, or python in an image.
    python: str | None = None
    image: str | None = None  # with Python and what finetune needs
    volumes: dict[str, str] = field(default_factory=dict)  # claim -> where it is mounted, in the pods and here
    namespace: str | None = None


# What some kinds have no use for. To pass over it would be to promise what is not done.
_ONLY = {
    "time": (SLURM,),
    "nodes": (SLURM, KUBERNETES),
    "tasks": (SLURM, KUBERNETES),
    "cpus": (SLURM, KUBERNETES),
    "gpus": (SLURM, KUBERNETES),
    "mem": (SLURM, KUBERNETES),
    "partition": (SLURM,),
    "account": (SLURM,),
    "qos": (SLURM,),
    "notice": (SLURM, KUBERNETES),
    "lines": (SLURM,),
    "image": (KUBERNETES,),
    "volumes": (KUBERNETES,),
    "namespace": (KUBERNETES,),
}
_HINTS = typing.get_type_hints(Cluster)
_IN_WORDS = {int: "a whole number", str: "text", list: "a list", dict: "a mapping"}
_SIZE = re.compile(r"\d+[KMGT]?")
_GPUS = re.compile(r"([\w.-]+:)?\d+")
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


def processes(cluster: Cluster) -> int:
    """How many train together."""
    return cluster.tasks or cluster.nodes


def is_word(word: str) -> bool:
    """Whether a word of the command line is about the cluster and not about the recipe.

    >>> is_word("cluster=slurm"), is_word("cluster.time=60"), is_word("data.path=cluster")
    (True, True, False)
    """
    return word.partition("=")[0].partition(".")[0] == "cluster"


def settled(words: Sequence[str]) -> Cluster:
    """What `cluster=NAME cluster.key=value …` means.

    NAME is a kind, a file clusters/NAME.yaml of the current folder, or a path ending in .yaml. Of two values the later
    one counts, and a word counts for more than the file.

    Raises:
      UserError: there is no such cluster, key or value.
    """
    for word in words:
        if "=" not in word:
            raise UserError("recipe", word, "is not key=value", "write cluster=slurm")
    pairs = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    names = [value for key, value in pairs if key == "cluster"]
    if not names:
        raise UserError("recipe", "cluster", "not given", f"add {' or '.join(f'cluster={kind}' for kind in KINDS)}")
    values = _content(names[-1])
    for key, text in pairs:
        if key != "cluster":
            name = _known(key.removeprefix("cluster."), key)
            values[name] = _read(name, text)
    return _checked(Cluster(**{name: _typed(name, value) for name, value in values.items()}), values)


def seconds(time: str) -> int | None:
    """How long a time limit of Slurm's is; None for one that has no end.

    >>> [seconds(text) for text in ("90", "1:30", "1:00:00", "2-12", "1-0:30", "infinite")]
    [5400, 90, 3600, 216000, 88200, None]
    """
    if not _TIME.fullmatch(time):
        return None
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # days-hours:minutes:seconds
        hours, minutes, last = [*parts, 0, 0][:3]
    elif len(parts) < 3:  # minutes:seconds
        hours, minutes, last = 0, *[*parts, 0][:2]
    else:
        hours, minutes, last = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + last


def _content(name: str) -> dict[str, Any]:
    """The keys that a kind, a name or a path stands for."""
    if name in KINDS:
        return {"kind": name}
    path = Path(name).expanduser() if recipe_files.is_path(name) else Path(FOLDER) / f"{name}.yaml"
    if not path.is_file():
        own = [found.stem for found in Path(FOLDER).glob("*.yaml")]
        guess = did_you_mean(name, [*KINDS, *own]) or f"known are {', '.join([*KINDS, *own])}"
        raise UserError("recipe", "cluster", f"there is no {path}, and no kind '{name}'", guess)
    found = recipe_files.read(path)
    if "kind" not in found:
        raise UserError("recipe", str(path), "has no kind", f"add kind: {SLURM}")
    return {_known(str(key), str(path)): value for key, value in found.items()}


def _known(name: str, where: str) -> str:
    if name not in _HINTS:
        guess = did_you_mean(name, _HINTS) or f"known are {', '.join(_HINTS)}"
        what = "unknown key" if where.startswith("cluster.") else f"unknown key {name}"
        raise UserError("recipe", where, what, guess)
    return name


def _read(name: str, text: str) -> Any:
    """A word's value. Text is taken as it stands: 1:00:00 is no number, and a path may have any character."""
    if list in _kinds(name) and not text.startswith("["):  # one line of shell, whatever is in it
        return [text]
    if str in _kinds(name):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    return recipe_files.parse(f"value: {text}", f"cluster.{name}")["value"]


def _kinds(name: str) -> tuple[Any, ...]:
    """What a key takes, of the types in `_IN_WORDS` and None."""
    hint = _HINTS[name]
    options = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    return tuple(typing.get_origin(option) or option for option in options)


def _typed(name: str, value: Any) -> Any:
    kinds = _kinds(name)
    if str in kinds and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a file may say time: 60
    if list in kinds and isinstance(value, str):
        return [value]
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, bool) or not isinstance(value, kinds) or not all(isinstance(part, str) for part in inner):
        what = next(words for kind, words in _IN_WORDS.items() if kind in kinds)
        of_text = " of text" * (list in kinds or dict in kinds)
        raise UserError("recipe", f"cluster.{name}", f"{value!r} is not {what}{of_text}")
    return value


def _checked(cluster: Cluster, given: Mapping[str, Any]) -> Cluster:
    if cluster.kind not in KINDS:
        raise UserError("recipe", "cluster.kind", f"'{cluster.kind}' is not one of {', '.join(KINDS)}")
    for name in given:
        if cluster.kind not in _ONLY.get(name, KINDS):
            what = f"is not for {cluster.kind}"
            raise UserError("recipe", f"cluster.{name}", what, f"leave it out, or use {' or '.join(_ONLY[name])}")
    for name in ("notice", "nodes", "tasks", "cpus", "at_once"):
        value = getattr(cluster, name)
        if value is not None and value < 1:
            raise UserError("recipe", f"cluster.{name}", f"{value} is not 1 or more")
    for text in dataclasses.astuple(cluster):
        for line in text if isinstance(text, list) else [text]:
            if isinstance(line, str) and "\n" in line:
                raise UserError("recipe", "cluster", f"{line!r} is more than one line", "give each line by itself")
    if cluster.mem is not None and not _SIZE.fullmatch(cluster.mem):
        raise UserError("recipe", "cluster.mem", f"'{cluster.mem}' is no size", "e.g. 16G")
    if cluster.gpus is not None and not _GPUS.fullmatch(cluster.gpus):
        raise UserError("recipe", "cluster.gpus", f"'{cluster.gpus}' is no number of GPUs", "e.g. 2, or a100:2")
    limit = seconds(cluster.time) if cluster.time else None
    if limit is not None and limit <= cluster.notice:
        what = f"{cluster.notice} s are not less than cluster.time, which is {limit} s"
        raise UserError("recipe", "cluster.notice", what, "give more time, or a shorter notice")
    if cluster.kind == KUBERNETES and cluster.image is None:
        raise UserError("recipe", "cluster.image", "not given", "name an image with Python and what finetune needs")
    if cluster.tasks is not None and cluster.tasks < cluster.nodes:
        raise UserError("recipe", "cluster.tasks", f"{cluster.tasks} are fewer than cluster.nodes={cluster.nodes}")
    return cluster
