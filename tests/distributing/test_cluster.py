"""Who trains together: by the recipe, by TF_CONFIG, by Slurm, or nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune.distributing.cluster import Cluster, find_cluster, slurm_tasks, warning
from finetune.errors import UserError

STEP = {
    "SLURM_JOB_ID": "191",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[2,01]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}


def config(kind: str, index: int, **jobs: list[str]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}


def found(mode: str = "auto", workers: tuple[str, ...] = (), worker: int | None = None, **environment: str) -> Any:
    return find_cluster(mode, workers, worker, environment)


def test_one_process_trains_alone():
    assert found() is None
    assert found(workers=("a:1",), worker=0) is None
    assert found(**config("worker", 0, worker=["a:1"])) is None
    assert found("none", **config("worker", 0, worker=["a:1", "b:1"])) is None


def test_the_recipe_says_who_they_are():
    cluster = found(workers=("a:1", "b:1"), worker=1)
    assert cluster == Cluster(("a:1", "b:1"), 1, "run.workers")
    assert not cluster.is_chief
    assert cluster.said == "worker 1 of 2 (b:1, by run.workers)"


def test_or_tf_config_with_or_without_a_chief_of_its_own():
    assert found(**config("worker", 1, worker=["a:1", "b:1"])).index == 1
    assert found(**config("worker", 0, chief=["c:1"], worker=["a:1"])) == Cluster(("c:1", "a:1"), 1, "TF_CONFIG")
    assert found(**config("chief", 0, chief=["c:1"], worker=["a:1"])).is_chief


def test_or_slurm_in_the_order_of_its_nodes():
    assert found(**STEP) == Cluster(("gpu2:20064", "gpu2:20065", "gpu01:20064"), 2, "Slurm")


def test_a_batch_script_is_no_task_and_copies_are_warned_of():
    script = {name: value for name, value in STEP.items() if "STEP" not in name} | {"SLURM_NTASKS": "3"}
    assert slurm_tasks(script) == 0
    assert found(**script) is None
    assert warning("none", script) == warning("auto", STEP) == []
    (line,) = warning("none", STEP)
    assert line == (
        "warning: Slurm has started 3 tasks (SLURM_NTASKS), and distribute=none: each trains the same by itself"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "multi_worker"}, "distribute: multi_worker, but nothing says who they are"),
        ({"workers": ("a:1", "b:1")}, "run.worker: not given, and run.workers has 2"),
        ({"workers": ("a:1", "b:1"), "worker": 2}, "run.worker: 2, and run.workers has 2; .*: 0 to 1"),
        ({"workers": ("a", "b:1"), "worker": 0}, "run.workers: 'a' is no HOST:PORT"),
        ({"workers": ("a:65536", "b:1"), "worker": 0}, "run.workers: 'a:65536' is no HOST:PORT"),
        ({"workers": ("a:1", "a:1"), "worker": 0}, "run.workers: two workers have one address"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG: cannot be read"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG: cannot be read"),
        (config("evaluator", 0, worker=["a:1", "b:1"]), "there is no evaluator 0"),
        (config("worker", 2, worker=["a:1", "b:1"]), "there is no worker 2"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "3"}, "Slurm: SLURM_STEP_NODELIST=.* do not fit each other"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "3,1"}, "Slurm: SLURM_STEP_NODELIST=.* do not fit each other"),
        ({**STEP, "SLURM_PROCID": "3"}, "Slurm: SLURM_STEP_NODELIST=.* do not fit each other"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "x"}, "SLURM_NTASKS: 'x' is no whole number"),
    ],
)
def test_124_what_makes_no_sense_is_refused(given: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        found(**given)


def test_the_hosts_of_workers_have_no_ports():
    assert Cluster(("node1:2222", "node1:2223", "[::1]:2222"), 0, "run.workers").hosts == ["node1", "::1"]
