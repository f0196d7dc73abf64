"""The script of a job: a text that people can read, keep and submit by hand.

It asks the run to save when somebody asks it to end, and begins again where the run ends with status 75.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune import __version__
from finetune.errors import STATUS, printable
from finetune.interruption import REQUEUE
from finetune.jobs import job_folder
from finetune.jobs.cluster_words import KUBERNETES, LOCAL, SLURM, Cluster, processes

PORT = 2222  # on which the workers of one run find each other, where nobody says otherwise


@dataclass(frozen=True)
class Order:
    """What is to be run: `tasks` frozen recipes, which `command` has asked for, in the folder `here`."""

    folder: Path
    name: str
    tasks: int
    is_sweep: bool
    here: Path
    command: Sequence[str]


def script(order: Order, cluster: Cluster) -> str:
    """The text of the script."""
    kind = cluster.kind
    head = {SLURM: _slurm_head, LOCAL: _local_head, KUBERNETES: _kubernetes_head}[kind](order, cluster)
    tail = {SLURM: _SLURM_TAIL, LOCAL: _LOCAL_TAIL, KUBERNETES: _KUBERNETES_TAIL}[kind]
    parts = [head, _middle(order, cluster), _RUN.format(python=_python(order, cluster), asked=128 + 10), tail]
    return "\n".join(parts).replace("{REQUEUE}", str(REQUEUE)).replace("{STORAGE}", str(STATUS["storage"]))


def _slurm_head(order: Order, cluster: Cluster) -> str:
    """What sbatch reads, and how a task is called."""
    task = "%a" if order.is_sweep else "0"
    output = str(job_folder.output_of(Path(str(order.folder).replace("%", "%%")), task))
    options = {
        "job-name": order.name,
        "chdir": str(order.here),
        "output": output,
        "open-mode": "append",  # else what was printed before is lost when the job begins again
        "requeue": "",
        "signal": f"B:USR1@{cluster.notice}",
        "time": cluster.time,
        "array": _array(order, cluster),
        "nodes": str(cluster.nodes),
        "ntasks": str(processes(cluster)),
        "cpus-per-task": cluster.cpus,
        "gres": None if cluster.gpus is None else f"gpu:{cluster.gpus}",
        "mem": cluster.mem,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
    }
    given = [f"--{key}{f'={value}' if value else ''}" for key, value in options.items() if value is not None]
    # A job of an array must be named A_a: the id of its last task is the whole array's too.
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {_for_sbatch(option)}" for option in given),
            *(f"#SBATCH {line.removeprefix('#SBATCH').strip()}" for line in cluster.lines),
            *_title(order, f"sbatch {shlex.quote(str(order.folder / job_folder.SCRIPT))}"),
            "",
            "task=${SLURM_ARRAY_TASK_ID:-0}",
            "recipe=$task",
            "id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
            "id=${id:-$SLURM_JOB_ID}",
        ]
    )


def _array(order: Order, cluster: Cluster) -> str | None:
    if not order.is_sweep:
        return None
    return f"0-{order.tasks - 1}" + (f"%{cluster.at_once}" if cluster.at_once else "")


def _for_sbatch(option: str) -> str:
    """An option as sbatch reads it in a script, where spaces separate.

    >>> print(_for_sbatch("--chdir=/home/me/my runs"))
    "--chdir=/home/me/my runs"
    """
    plain = all(c.isalnum() or c in "-_=./:@%,+" for c in option)
    return option if plain else '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _local_head(order: Order, cluster: Cluster) -> str:
    lines = ["#!/bin/bash", *_title(order, f"bash {shlex.quote(str(order.folder / job_folder.SCRIPT))}"), ""]
    if order.is_sweep:
        lines += [
            "# Without a number it is all tasks, so many at once.",
            'if [ -z "$1" ]; then',
            f'    seq 0 {order.tasks - 1} | xargs -P {cluster.at_once or 1} -I TASK bash "$0" TASK',
            "    exit",
            "fi",
        ]
    outputs = shlex.quote(str(order.folder / "output-"))
    return "\n".join([*lines, "task=${1:-0}", "recipe=$task", f'exec >> {outputs}"$task.log" 2>&1 < /dev/null'])


def _kubernetes_head(order: Order, cluster: Cluster) -> str:
    outputs = shlex.quote(str(order.folder / "output-"))
    lines = [
        "#!/bin/bash",
        *_title(order, f"kubectl apply -f {shlex.quote(str(order.folder / 'job.yaml'))}"),
        "",
        "task=${JOB_COMPLETION_INDEX:-0}",
        f"recipe={'$task' if order.is_sweep else '0'}",
        f'exec > >(tee -a {outputs}"$task.log") 2>&1  # for kubectl logs, and for submit --logs',
    ]
    return "\n".join(lines)


def _title(order: Order, again: str) -> list[str]:
    command = printable(shlex.join(["python", "-m", "finetune", "submit", *order.command]))  # a comment is one line
    return [
        f"# finetune {__version__} made this of: {command}",
        "# It runs recipe and code as they were then, which lie beside it. Again, with the same:",
        f"#   {again}",
    ]


def _middle(order: Order, cluster: Cluster) -> str:
    """Where it runs, what it says of itself, and what people want before."""
    setup = ["", *cluster.setup, ""] if cluster.setup else []
    workers = _workers(order, cluster) if cluster.kind == KUBERNETES and processes(cluster) > 1 else []
    return "\n".join(
        [
            f"job={shlex.quote(str(order.folder))}",
            f"cd {shlex.quote(str(order.here))} || exit 2",
            'tell() { echo "$(date "+%Y-%m-%d %H:%M:%S") job: $*" | tee -a "$job/events-$task.txt"; }',
            *setup,
            f'cancelled() {{ [ -e "$job/{job_folder.CANCELLED}" ] || [ -e "$job/{job_folder.CANCELLED}-$task" ]; }}',
            '! cancelled || { tell "cancelled before it began"; exit 0; }',
            "",
            "# The frozen copies, and no folder that happens to be the current one, are looked into first.",
            f'export PYTHONSAFEPATH=1 PYTHONPATH="$job/{job_folder.CODE}${{PYTHONPATH:+:$PYTHONPATH}}"',
            *workers,
            "",
        ]
    )


def _workers(order: Order, cluster: Cluster) -> list[str]:
    """How each pod of several that train together knows itself and the others."""
    hosts = ", ".join(f'"{order.name}-{n}.{order.name}:{PORT}"' for n in range(processes(cluster)))
    config = f'{{"cluster": {{"worker": [{hosts}]}}, "task": {{"type": "worker", "index": \'$task\'}}}}'
    return [f"export TF_CONFIG='{config}'"]


def _python(order: Order, cluster: Cluster) -> str:
    by_default = "python" if cluster.kind == KUBERNETES else sys.executable
    python = f'{shlex.quote(cluster.python or by_default)} "$job/{job_folder.CODE}" recipe="$job/frozen-$recipe.yaml"'
    if cluster.kind != SLURM or processes(cluster) == 1:
        return python
    # A worker that has saved must not end those that still do; srun does not take the number of cores from sbatch.
    cores = f" --cpus-per-task={cluster.cpus}" if cluster.cpus else ""
    return f"srun --kill-on-bad-exit=0{cores} {python}"


_RUN = """\
# Whoever asks this script to end asks the run, which saves and ends with {{REQUEUE}}. The run is told by USR1: srun
# hands that to its processes, and on TERM it would end them. It is told once: asked again, it would not wait for its
# save.
child='' asked='' over=''
ask() {{ [ -n "$asked" ] || {{ asked=yes; [ -z "$child" ] || kill -USR1 "$child" 2> /dev/null; }}; }}
trap ask USR1
trap 'over=yes; ask' TERM

# Its exit status is left in $code.
run() {{
    tell "started on $(hostname), process $$"
    {python} &
    child=$!
    [ -z "$asked" ] || kill -USR1 "$child"
    # A signal interrupts wait; the status that counts is that of the last wait.
    wait "$child"; code=$?
    while [ "$code" -gt 128 ] && kill -0 "$child" 2> /dev/null; do wait "$child"; code=$?; done
    wait "$child" 2> /dev/null; last=$?
    [ "$last" = 127 ] || code=$last
    # Asked before it could say what it does then: nothing was under way.
    if [ -n "$asked" ] && [ "$code" = {asked} ]; then code={{REQUEUE}}; fi
}}
"""

_SLURM_TAIL = """\
# Only a job that is RUNNING may be put back into the queue. One that was cancelled is COMPLETING by now, and would come
# back; one that was preempted Slurm puts back by itself.
again() {
    ! cancelled && [ "$(squeue --noheader --jobs="$id" --format=%T)" = RUNNING ] || return
    tell "ended with $code, begins again: scontrol $1"
    scontrol "$1" "$id" && { sleep 60; exit "$code"; } # until Slurm ends this script
}

run
case $code in
    {REQUEUE}) again requeue ;;
    {STORAGE}) again requeuehold ;; # it waits until somebody has made room: scontrol release
esac
tell "ended with $code"
exit "$code"
"""

_LOCAL_TAIL = """\
while run; [ "$code" = {REQUEUE} ] && [ -z "$over" ] && ! cancelled; do
    tell "ended with $code, begins again"
    child='' asked=''
done
tell "ended with $code"
exit "$code"
"""

_KUBERNETES_TAIL = """\
run
tell "ended with $code"
exit "$code"
"""
