"""The manifest: what the API of Kubernetes takes, and what follows from how a run ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.jobs.cluster_words import KUBERNETES, Cluster
from finetune.jobs.job_script import Order, script
from finetune.jobs.kubernetes import check_mounted, manifest, name_of
from tests.graphs import refusal

# The fields that batch/v1 and v1 have where we write something; what is not among them is refused by the server, or
# worse, passed over. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
JOB = "backoffLimit backoffLimitPerIndex completions parallelism completionMode podFailurePolicy template suspend"
POD = "restartPolicy terminationGracePeriodSeconds subdomain containers volumes nodeSelector tolerations"
CONTAINER = "name image command args env resources volumeMounts workingDir"


def order(folder: Path, tasks: int = 1) -> Order:
    run = folder / "runs/vgg_2class"
    return Order(run.with_name("vgg_2class.job") / "1", name_of(run, "1"), tasks, tasks > 1, folder, ["a"])


def cluster(**changed: Any) -> Cluster:
    return Cluster(kind=KUBERNETES, image="registry/finetune:1", **changed)


def job(folder: Path, tasks: int = 1, **changed: Any) -> dict[str, Any]:
    *_, found = yaml.safe_load_all(manifest(order(folder, tasks), cluster(**changed)))
    return found


def action(rules: list[dict[str, Any]], status: int) -> str:
    """What Kubernetes does when a container ends with this status: the first rule that fits counts."""
    return next((rule["action"] for rule in rules if status in rule.get("onExitCodes", {}).get("values", [])), "Count")


def test_every_field_is_one_that_kubernetes_knows(tmp_path: Path):
    found = job(tmp_path, nodes=2, cpus=4, mem="16G", gpus="a100:2", volumes={"work": str(tmp_path)})
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "Job")
    spec = found["spec"]
    assert set(spec) <= set(JOB.split())
    pod = spec["template"]["spec"]
    assert set(pod) <= set(POD.split())
    (container,) = pod["containers"]
    assert set(container) <= set(CONTAINER.split())
    assert container["resources"]["limits"] == {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 2}
    assert container["volumeMounts"] == [{"name": "volume-0", "mountPath": str(tmp_path)}]
    assert pod["volumes"] == [{"name": "volume-0", "persistentVolumeClaim": {"claimName": "work"}}]
    assert container["command"] == ["bash", f"{tmp_path}/runs/vgg_2class.job/1/job.sh"]
    for rule in spec["podFailurePolicy"]["rules"]:
        assert set(rule) in ({"action", "onExitCodes"}, {"action", "onPodConditions"})
        assert rule.get("onExitCodes", {"operator": "In"})["operator"] == "In"
        assert rule.get("onExitCodes", {"containerName": "finetune"})["containerName"] == container["name"]


def test_what_follows_from_an_exit_status(tmp_path: Path):
    spec = job(tmp_path)["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    said = {status: action(rules, status) for status in (75, 2, 3, 4, 70, 5, 137)}
    assert said == {75: "Ignore", 2: "FailJob", 3: "FailJob", 4: "FailJob", 70: "FailJob", 5: "Count", 137: "Count"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 6
    # A failure policy has to list its values in order, none twice, and no 0.
    for rule in rules:
        values = rule.get("onExitCodes", {}).get("values", [1])
        assert values == sorted(set(values))
        assert 0 not in values


def test_a_sweep_is_indexed_and_one_bad_combination_ends_no_other(tmp_path: Path):
    spec = job(tmp_path, tasks=5, at_once=2)["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (5, 2, "Indexed")
    assert action(spec["podFailurePolicy"]["rules"], 2) == "FailIndex"
    assert spec["backoffLimitPerIndex"] == 6
    assert "recipe=$task\n" in script(order(tmp_path, 5), cluster())


def test_workers_find_each_other_by_name(tmp_path: Path):
    service, found = yaml.safe_load_all(manifest(order(tmp_path), cluster(nodes=2)))
    name = found["metadata"]["name"]
    assert service["kind"] == "Service"
    assert service["metadata"]["name"] == name == found["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    text = script(order(tmp_path), cluster(nodes=2))
    (line,) = [line for line in text.splitlines() if line.startswith("export TF_CONFIG=")]
    assert line.count(f".{name}:2222") == 2
    assert "recipe=0\n" in text


@pytest.mark.parametrize("name", ["vgg_2class-1a2b3c4d", "Ärger", "9", "x" * 200, "a.b"])
def test_a_name_is_one_that_dns_takes(name: str):
    found = name_of(Path("/mnt") / name, "12")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) + len("-99999") <= 63


def test_two_folders_of_one_name_are_two_jobs():
    assert name_of(Path("/a/x"), "1") != name_of(Path("/b/x"), "1") != name_of(Path("/b/x"), "2")


def test_what_pods_would_not_see_is_refused(tmp_path: Path):
    check_mounted(cluster(volumes={"work": str(tmp_path)}), {"where": tmp_path / "runs/x"})
    error = str(refusal(check_mounted, cluster(volumes={"work": "/mnt"}), {"where": tmp_path}))
    assert f"cluster.volumes: '{tmp_path}', where, is in none of the volumes that pods see (/mnt)" in error


def test_a_sweep_of_several_workers_is_refused(tmp_path: Path):
    assert "several workers" in str(refusal(manifest, order(tmp_path, 2), cluster(nodes=2)))
