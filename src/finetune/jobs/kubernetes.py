"""A job as a manifest for Kubernetes: a Job, indexed where there are several pods.

It says which exit status means what, so that nothing that cannot become right is tried again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import STATUS, UserError
from finetune.interruption import REQUEUE
from finetune.jobs.cluster_words import Cluster, processes
from finetune.jobs.job_folder import SCRIPT
from finetune.jobs.job_script import PORT, Order

MANIFEST = "job.yaml"
BUG = 70
# A recipe, a source, numbers that are not finite and a bug of ours are the same the next time.
FINAL = sorted({STATUS["recipe"], STATUS["data"], STATUS["source"], STATUS["numerics"], BUG})
RETRIES = 6  # Kubernetes' own number: for what is ended from outside, and for a disk that may have room in a while
_LONGEST = 50  # of a name; with the number of a pod it may have 63 characters


def name_of(run: Path, number: str) -> str:
    """A name that Kubernetes takes, of a run folder and the number of its job; each submission has its own.

    >>> name_of(Path("/mnt/disk/runs/VGG_2class"), "1")
    'vgg-2class-4f4c-1'
    """
    plain = re.sub(r"[^a-z0-9]+", "-", run.name.lower()).strip("-")[: _LONGEST - 10].strip("-") or "run"
    # A name of DNS begins with a letter, and two folders may have runs of one name.
    letter = "" if plain[0].isalpha() else "run-"
    return f"{letter}{plain}-{hashlib.sha256(os.fsencode(run)).hexdigest()[:4]}-{number}"


def check_mounted(cluster: Cluster, places: Mapping[str, Path]) -> None:
    """Refuses a job whose pods would not see its files.

    Raises:
      UserError: a place lies in no volume.
    """
    for key, place in places.items():
        if not any(place.is_relative_to(mounted) for mounted in cluster.volumes.values()):
            known = ", ".join(cluster.volumes.values()) or "there is none"
            what = f"'{place}', {key}, is in none of the volumes that pods see ({known})"
            todo = "add cluster.volumes={CLAIM: FOLDER}, where FOLDER is mounted here as in the pods"
            raise UserError("recipe", "cluster.volumes", what, todo)


def manifest(order: Order, cluster: Cluster) -> str:
    """The text of the manifest."""
    workers = processes(cluster)
    if order.is_sweep and workers > 1:
        what = "a sweep with several workers in each run is not one Job"
        raise UserError("recipe", "cluster.nodes", what, "leave one of the two out")
    documents = [_job(order, cluster)] if workers == 1 else [_service(order, cluster), _job(order, cluster)]
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120)
    return f"# kubectl apply -f {order.folder / MANIFEST}\n{text}"


def _meta(order: Order, cluster: Cluster) -> dict[str, Any]:
    return {"name": order.name, **({"namespace": cluster.namespace} if cluster.namespace else {})}


def _job(order: Order, cluster: Cluster) -> dict[str, Any]:
    workers = processes(cluster)
    spec: dict[str, Any] = {"backoffLimit": RETRIES}
    if order.is_sweep:
        # One bad combination is no reason to end the others.
        at_once = min(cluster.at_once or order.tasks, order.tasks)
        spec = {"backoffLimitPerIndex": RETRIES, "completions": order.tasks, "parallelism": at_once}
    elif workers > 1:
        spec |= {"completions": workers, "parallelism": workers}
    if order.is_sweep or workers > 1:
        spec |= {"completionMode": "Indexed"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _meta(order, cluster),
        "spec": {**spec, "podFailurePolicy": {"rules": _rules(order)}, "template": {"spec": _pod(order, cluster)}},
    }


def _rules(order: Order) -> list[dict[str, Any]]:
    """What follows from how a pod has ended; the first that fits counts. What fits none is tried again, a few times."""

    def ended_with(values: list[int], action: str) -> dict[str, Any]:
        return {"action": action, "onExitCodes": {"containerName": "finetune", "operator": "In", "values": values}}

    return [
        ended_with([REQUEUE], "Ignore"),  # it begins again, and that is not counted
        ended_with(FINAL, "FailIndex" if order.is_sweep else "FailJob"),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _pod(order: Order, cluster: Cluster) -> dict[str, Any]:
    container = {
        "name": "finetune",
        "image": cluster.image,
        "command": ["bash", str(order.folder / SCRIPT)],
        "resources": _resources(cluster),
        "volumeMounts": [{"name": f"volume-{n}", "mountPath": at} for n, at in enumerate(cluster.volumes.values())],
    }
    volumes = [
        {"name": f"volume-{n}", "persistentVolumeClaim": {"claimName": claim}}
        for n, claim in enumerate(cluster.volumes)
    ]
    several = {"subdomain": order.name} if processes(cluster) > 1 else {}
    return {
        "restartPolicy": "Never",  # what a podFailurePolicy asks for
        "terminationGracePeriodSeconds": cluster.notice,
        **several,
        "containers": [container],
        "volumes": volumes,
    }


def _resources(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Asked for and granted alike, so that nothing else on the node takes it away."""
    wanted: dict[str, Any] = {}
    if cluster.cpus:
        wanted["cpu"] = cluster.cpus
    if cluster.mem:
        # Slurm's 16G are 2^34 bytes, which Kubernetes writes 16Gi; without a unit they are megabytes.
        wanted["memory"] = f"{cluster.mem}i" if cluster.mem[-1].isalpha() else f"{cluster.mem}Mi"
    if cluster.gpus:
        wanted["nvidia.com/gpu"] = int(cluster.gpus.rpartition(":")[2])
    return {"requests": dict(wanted), "limits": dict(wanted)} if wanted else {}


def _service(order: Order, cluster: Cluster) -> dict[str, Any]:
    """Gives the pods names by which they find each other, before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(order, cluster),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"job-name": order.name},
            "ports": [{"port": PORT}],
        },
    }
