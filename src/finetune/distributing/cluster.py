"""Which workers train together, and which of them this process is.

Nothing here imports TensorFlow. Its own `SlurmClusterResolver` needs a GPU on every node, and takes the nodes in the
order of their names, which is not that of Slurm's ranks (TensorFlow 2.21).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import UserError

MODES = ("auto", "none", "mirrored", "multi_worker")
_ADDRESS = r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}"
_FIRST, _OF_A_JOB, _JOBS = 20000, 64, 190  # ports, below those that Linux gives to connections


@dataclass(frozen=True)
class Cluster:
    """The workers by address, the chief first, and the place of this process among them; `origin` is who said so."""

    workers: tuple[str, ...]
    index: int
    origin: str

    @property
    def is_chief(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    @property
    def hosts(self) -> list[str]:
        """Where they are, without ports: of an IPv6 address what stands in its brackets."""
        return list(dict.fromkeys(host_and_port(worker)[0] for worker in self.workers))

    @property
    def said(self) -> str:
        """For people."""
        return f"worker {self.index} of {len(self.workers)} ({self.workers[self.index]}, by {self.origin})"


def find_cluster(
    mode: str, workers: Sequence[str], worker: int | None, environment: Mapping[str, str]
) -> Cluster | None:
    """Who trains together: by the recipe, by TF_CONFIG, or by Slurm; None where this process trains alone.

    Args:
      mode: `distribute` of the recipe.
      workers: their addresses as the recipe has them, and which one this `worker` is.

    Raises:
      UserError: what says it makes no sense, or nothing says it and the recipe asks for several workers.
    """
    if mode in ("none", "mirrored"):
        return None
    if workers:
        found = Cluster(tuple(workers), _place(worker, len(workers)), "run.workers")
    elif environment.get("TF_CONFIG"):
        found = _by_tf_config(environment["TF_CONFIG"])
    elif slurm_tasks(environment) > 1:
        found = _by_slurm(environment)
    elif mode == "multi_worker":
        what = "multi_worker, but nothing says who they are"
        todo = "start it with srun, set TF_CONFIG, or give run.workers=[HOST:PORT,…] and run.worker=0"
        raise UserError("recipe", "distribute", what, todo)
    else:
        return None
    for address in found.workers:
        if not re.fullmatch(_ADDRESS, address) or not 0 < host_and_port(address)[1] < 1 << 16:
            raise UserError("recipe", found.origin, f"'{address}' is no HOST:PORT", "write such as node1:2222")
    if len(set(found.workers)) < len(found.workers):
        raise UserError("recipe", found.origin, "two workers have one address", "give each a port of its own")
    return found if len(found.workers) > 1 else None


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of an address.

    >>> host_and_port("node1:2222"), host_and_port("[::1]:2222")
    (('node1', 2222), ('::1', 2222))
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def slurm_tasks(environment: Mapping[str, str]) -> int:
    """How many tasks the Slurm step of this process has; 0 if it is in none.

    A batch script has SLURM_NTASKS too, but is no task: only what `srun` starts has a step.
    """
    if "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        return 0
    return _whole(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "0", "SLURM_NTASKS")


def warning(mode: str, environment: Mapping[str, str]) -> list[str]:
    """What to say where a scheduler starts copies that know nothing of each other."""
    tasks = slurm_tasks(environment)
    if mode in ("auto", "multi_worker") or tasks < 2:
        return []
    what = f"Slurm has started {tasks} tasks (SLURM_NTASKS), and distribute={mode}: each trains the same by itself"
    return [f"warning: {what}"]


def _place(worker: int | None, count: int) -> int:
    if worker is None or not 0 <= worker < count:
        what = f"{'not given' if worker is None else worker}, and run.workers has {count}"
        raise UserError("recipe", "run.worker", what, f"say which of them this process is: 0 to {count - 1}")
    return worker


def _by_tf_config(text: str) -> Cluster:
    """By https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver."""
    try:
        content: Any = json.loads(text)
        jobs, task = content["cluster"], content["task"]
        chiefs, others = list(jobs.get("chief", [])), list(jobs.get("worker", []))
        kind, place = task["type"], int(task["index"])
        if kind not in ("chief", "worker") or not 0 <= place < len({"chief": chiefs, "worker": others}[kind]):
            raise ValueError(f"there is no {kind} {place}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot be read ({type(error).__name__}: {error})"
        todo = """write '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'"""
        raise UserError("recipe", "TF_CONFIG", what, todo) from error
    return Cluster((*chiefs, *others), place if kind == "chief" else len(chiefs) + place, "TF_CONFIG")


def _by_slurm(environment: Mapping[str, str]) -> Cluster:
    """By the variables of a step: https://slurm.schedmd.com/srun.html, "Output environment variables"."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE", "")
    # Two jobs may have one node: ports by the job's number, which grows by one.
    first = _FIRST + _OF_A_JOB * (_whole(environment.get("SLURM_JOB_ID", "0"), "SLURM_JOB_ID") % _JOBS)
    try:
        counts = list(_per_node(tasks))
        hosts = [host for part in _parts(nodes) for host in _hosts(part)]
        place, tasks_there = _whole(environment["SLURM_PROCID"], "SLURM_PROCID"), sum(counts)
        if tasks_there != slurm_tasks(environment) or not 0 <= place < tasks_there:
            raise ValueError("other tasks")
        workers = [f"{host}:{first + n}" for host, count in zip(hosts, counts, strict=True) for n in range(count)]
    except ValueError as error:
        what = f"SLURM_STEP_NODELIST={nodes} and SLURM_STEP_TASKS_PER_NODE={tasks} do not fit each other"
        raise UserError("recipe", "Slurm", what, "set TF_CONFIG, or give run.workers") from error
    return Cluster(tuple(workers), place, "Slurm")


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError("recipe", name, f"'{text}' is no whole number", "unset it, or start with srun") from None


def _per_node(text: str) -> Iterator[int]:
    """The numbers of tasks, node by node.

    >>> list(_per_node("3(x2),1"))
    [3, 3, 1]
    """
    for part in text.split(","):
        count, _, times = part.partition("(x")
        yield from [int(count)] * int(times.rstrip(")") or 1)


def _parts(text: str) -> list[str]:
    """Names and ranges of names, cut at the commas outside of brackets.

    >>> _parts("gpu[01-02,7],login")
    ['gpu[01-02,7]', 'login']
    """
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)


def _hosts(part: str) -> Iterator[str]:
    """The names that a range of names stands for.

    >>> list(_hosts("gpu[08-10,2]-ib"))
    ['gpu08-ib', 'gpu09-ib', 'gpu10-ib', 'gpu2-ib']
    """
    if not (found := re.match(r"([^\[]*)\[([^\]]*)\](.*)", part)):
        yield part
        return
    before, ranges, after = found.groups()
    for one in ranges.split(","):
        low, _, high = one.partition("-")
        for number in range(int(low), int(high or low) + 1):
            for rest in _hosts(after):
                yield f"{before}{number:0{len(low)}}{rest}"
