"""The words about a cluster, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.jobs.cluster_words import KUBERNETES, Cluster, settled
from tests.graphs import refusal


def refused(*words: str) -> str:
    return str(refusal(settled, list(words)))


def test_words_set_keys_of_a_kind(workdir: Path):
    words = ["cluster=slurm", "cluster.time=1:00:00", "cluster.cpus=4", "cluster.gpus=a100:2", "cluster.mem=16G"]
    more = ["cluster.lines=[--constraint=a100, --exclusive]", "cluster.setup=module load cuda", "cluster.account='me'"]
    assert settled([*words, *more]) == Cluster(
        kind="slurm",
        time="1:00:00",
        cpus=4,
        gpus="a100:2",
        mem="16G",
        account="me",
        lines=["--constraint=a100", "--exclusive"],
        setup=["module load cuda"],
    )


def test_a_file_of_ones_own_says_it_once_and_a_word_counts_for_more(workdir: Path):
    Path("clusters").mkdir()
    Path("clusters/big.yaml").write_text("kind: slurm\npartition: gpu\ntime: 90\nsetup: [module load cuda]\n")
    assert settled(["cluster=big", "cluster.time=30"]) == Cluster(
        kind="slurm", partition="gpu", time="30", setup=["module load cuda"]
    )
    assert settled(["cluster=clusters/big.yaml"]).time == "90"


def test_volumes_are_a_mapping():
    words = ["cluster=kubernetes", "cluster.image=x", "cluster.volumes={work: /mnt/work}"]
    assert settled(words) == Cluster(kind=KUBERNETES, image="x", volumes={"work": "/mnt/work"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "cluster: not given; add cluster=slurm or cluster=local or cluster=kubernetes"),
        (["cluster"], "cluster: is not key=value"),
        (["cluster=slrum"], "cluster: there is no clusters/slrum.yaml, and no kind 'slrum'; did you mean slurm?"),
        (["cluster=mine.yaml"], "cluster: there is no mine.yaml"),
        (["cluster=slurm", "cluster.tiem=3"], "cluster.tiem: unknown key; did you mean time or notice or mem?"),
        (["cluster=slurm", "cluster.cpus=many"], "cluster.cpus: 'many' is not a whole number"),
        (["cluster=slurm", "cluster.cpus=true"], "cluster.cpus: True is not a whole number"),
        (["cluster=slurm", "cluster.cpus=0"], "cluster.cpus: 0 is not 1 or more"),
        (["cluster=slurm", "cluster.lines=[1]"], "cluster.lines: [1] is not a list of text"),
        (["cluster=slurm", "cluster.lines=[a"], "cluster.lines:1: "),
        (["cluster=slurm", "cluster.setup=a\nb"], "more than one line"),
        (["cluster=slurm", "cluster.mem=lots"], "cluster.mem: 'lots' is no size; e.g. 16G"),
        (["cluster=slurm", "cluster.gpus=some"], "cluster.gpus: 'some' is no number of GPUs"),
        (["cluster=slurm", "cluster.time=2"], "cluster.notice: 120 s are not less than cluster.time, which is 120 s"),
        (["cluster=slurm", "cluster.nodes=2", "cluster.tasks=1"], "cluster.tasks: 1 are fewer than cluster.nodes=2"),
        (["cluster=slurm", "cluster.image=x"], "cluster.image: is not for slurm; leave it out, or use kubernetes"),
        (["cluster=local", "cluster.time=3"], "cluster.time: is not for local; leave it out, or use slurm"),
        (["cluster=kubernetes"], "cluster.image: not given"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(workdir: Path, words: list[str], message: str):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time: 3\n", "mine.yaml: has no kind; add kind: slurm"),
        ("kind: slurm\ntiem: 3\n", "mine.yaml: unknown key tiem; did you mean time or notice or mem?"),
        ("kind: pbs\n", "cluster.kind: 'pbs' is not one of slurm, local, kubernetes"),
        ("kind: slurm\nnodes: two\n", "cluster.nodes: 'two' is not a whole number"),
    ],
)
def test_a_wrong_file_is_named(workdir: Path, text: str, message: str):
    Path("mine.yaml").write_text(text)
    assert message in refused("cluster=mine.yaml")
