"""Workers find each other, and make sure that they are about the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

import finetune
from finetune.distributing.cluster import Cluster
from finetune.distributing.meeting import meet, named
from finetune.distributing.team import ALONE, Team
from finetune.errors import UserError, shortlist
from finetune.interruption import take_signals_back
from finetune.recipe import Recipe
from finetune.recipe_files import flat

WAIT = 60.0  # seconds for TensorFlow's own part, in which each wakes its GPUs: all have met just before
SILENCE = 10.0  # seconds without a sign of life after which a worker counts as lost
# Keys that may differ between workers.
_OWN = ("run.worker", "run.workers", "run.dir", "cache.dir", "run.wait", "run.wait_for_workers")


def join(mode: str, cluster: Cluster | None, wait: float, check: Callable[[], None]) -> Team:
    """All that train together, once each of them has come.

    Args:
      wait: for how many seconds the others are waited for.
      check: is called meanwhile, and may raise.

    Raises:
      UserError: the recipe asks for GPUs that are not there, or a worker did not come.
    """
    if cluster is not None:
        meet(cluster, wait, check=check)
        return _join_workers(cluster)
    gpus = tf.config.get_visible_devices("GPU")
    if mode == "mirrored" and len(gpus) < 2:
        what = f"mirrored, and {len(gpus)} GPUs are visible to TensorFlow"
        raise UserError("recipe", "distribute", what, "set distribute=auto, or see to the driver")
    return Team(strategy=tf.distribute.MirroredStrategy()) if mode in ("auto", "mirrored") and len(gpus) > 1 else ALONE


def _join_workers(cluster: Cluster) -> Team:
    # TensorFlow's own way to tell it, from which TFConfigClusterResolver reads it; a server is started by that.
    tasks = {"cluster": {"worker": list(cluster.workers)}, "task": {"type": "worker", "index": cluster.index}}
    os.environ["TF_CONFIG"] = json.dumps(tasks)
    # gRPC takes the proxy that clusters have for the way out of them, also to a worker, and waits there for ever.
    spared = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")  # noqa: SIM112 - that is its name
    os.environ["no_grpc_proxy"] = ",".join([*filter(None, [spared]), *cluster.hosts])  # noqa: SIM112
    # Its own defaults notice a frozen worker after a minute or more.
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager.context import context

    eager: Any = context()
    eager.configure_coordination_service(
        "standalone",
        "/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(WAIT * 1000),
        heartbeat_timeout_in_ms=int(SILENCE * 1000),
        shutdown_barrier_timeout_in_ms=int(SILENCE * 1000),
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=len(cluster.workers))],
    )
    # Else it waits for longer than anybody does, and hears no signal, for one that is killed before it has registered.
    eager.coordination_service.cluster_register_with_barrier = True
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        take_signals_back()  # its server takes SIGTERM for a notice that nobody here asks for
        return Team(cluster, strategy)
    except (tf.errors.OpError, RuntimeError) as error:
        missing = re.findall(r"/task:(\d+)", str(error).partition("timed out task names")[2].partition("\n\n")[0])
        names = [named(cluster, int(number)) for number in missing if int(number) < len(cluster.workers)]
        who = shortlist(names) if names else "TensorFlow"
        what = f"{who} did not join the workers that had met ({str(error).splitlines()[0][:200]})"
        raise UserError("machine", cluster.origin, what, "what do the others say?") from error


def check_alike(team: Team, recipe: Recipe, digests: Mapping[str, Mapping[str, str]], step: int) -> None:
    """Refuses workers that are not about the same: another program, recipe, source, data, or place to go on from.

    Raises:
      UserError: naming the worker, and what is not the same.
    """
    keys = {key: value for key, value in flat(asdict(recipe)).items() if key not in _OWN}
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    mine = {
        "the code of finetune": _digest_of_code(),
        **{f"the version of {name}": version for name, version in versions.items()},
        **{key: json.dumps(value, default=str) for key, value in keys.items()},
        **{f"the files of {key}": json.dumps(found, sort_keys=True) for key, found in digests.items()},
        "the step to go on from": str(step),
    }
    chief, *others = team.gathered({name: _short(text) for name, text in mine.items()})
    for number, other in enumerate(others, 1):
        if differing := [name for name in {**chief, **other} if chief.get(name) != other.get(name)]:
            who = team.cluster.workers[number] if team.cluster else ""
            what = f"worker {number} ({who}) has another value of {differing[0]} than the chief"
            lines = [f"  {name}: {chief.get(name)} there, {other.get(name)} here" for name in differing[:3]]
            shared = "run.dir has to be on a file system that all of them share"
            raise UserError("recipe", "distribute", what, f"start all with the same; {shared}", *lines)


def _short(text: str) -> str:
    return text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_of_code() -> str:
    """Of all Python files of the package."""
    found = hashlib.sha256()
    root = Path(finetune.__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def said(team: Team) -> list[str]:
    """The line about it before the first step."""
    if team.replicas == 1:
        return []
    what = f"{team.workers} workers, " if team.workers > 1 else ""
    where = f" ({', '.join(team.cluster.workers)}, by {team.cluster.origin})" if team.cluster else ""
    return [f"distribute: {what}{team.replicas} replicas{where}; each computes its share of a batch"]
