"""A private Slurm of one node on this machine's loopback interface, for tests and for trying things out.

    eval "$(python scripts/slurm_on_loopback.py start FOLDER)" && sbatch job.sh
    python scripts/slurm_on_loopback.py stop FOLDER

It needs munged, slurmctld, slurmd and Slurm's commands (Debian and Ubuntu: slurm-wlm and munge), and neither systemd
nor cgroups nor anything configured. Keys, sockets, state and logs lie in FOLDER, which has to have a short path; all
runs as whoever starts it. The node has two partitions: `low`, which is the default, and `high`, which preempts it.

From Python: `with running(folder) as environment:`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.ports import free_ports

DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order in which they start
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"  # is not on everybody's path
_LONGEST = 100  # a socket's path has at most 108 bytes, and munged adds ".lock" to it
_PATIENCE = 60  # seconds

# cred_expire is also how long a job waits that was put back, and one second more; below 5 Slurm takes 120. What is not
# a default of Slurm's is there to look at the queue at once, to need no cgroups, and to listen on loopback alone.
_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
MpiDefault=none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
MinJobAge=600
ReturnToService=2
JobRequeue=1
KillWait=30
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=DEFAULT Nodes={host} MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""


class NoSlurm(RuntimeError):
    """Why there is none."""


def missing() -> str:
    """Why a Slurm cannot be started here; empty if it can."""
    absent = [name for name in (*DAEMONS, *COMMANDS) if _program(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    if not _is_loopback(socket.gethostname()):  # Slurm listens on the address of the host's name
        return f"the host's name {socket.gethostname()!r} is no loopback address (/etc/hosts)"
    return ""


@contextmanager
def running(folder: Path, cpus: int = 4) -> Iterator[dict[str, str]]:
    """A Slurm, as long as the block lasts; gives the environment for its commands."""
    try:
        yield start(folder, cpus)
    finally:
        stop(folder)


def start(folder: Path, cpus: int = 4) -> dict[str, str]:
    """Starts the daemons; gives the environment for Slurm's commands.

    Args:
      cpus: of the node, whatever the machine has.

    Raises:
      NoSlurm: it is not installed, or does not start.
    """
    folder = folder.resolve()
    if why := missing():
        raise NoSlurm(why)
    if len(os.fsencode(folder / "munge.socket")) > _LONGEST:
        raise NoSlurm(f"the path is too long for a socket: {folder}")
    if any(map(_lives, _recorded(folder).values())):
        raise NoSlurm(f"one runs in {folder} already")
    conf = _written(folder, cpus)
    # What a job is told would mislead the commands if this is one.
    foreign = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["SLURM_CONF"] = str(conf)
    munge = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE.items()]
    commands = {
        "munged": ["--foreground", "--force", *munge, "--num-threads=2", "--origin=127.0.0.1"],
        "slurmctld": ["-D", "-i", "-f", str(conf)],
        "slurmd": ["-D", "-f", str(conf)],
    }
    try:
        for name in DAEMONS:
            _launch(folder, name, commands[name], environment)
            if name == "munged":
                _wait(folder, (folder / "munge.socket").exists)
        _wait(folder, lambda: _node_is_idle(environment))
    except BaseException:
        stop(folder)
        raise
    return environment


def stop(folder: Path) -> None:
    """Cancels what is left and ends the daemons."""
    folder = folder.resolve()
    recorded = _recorded(folder)
    if all(map(_lives, recorded.values())) and len(recorded) == len(DAEMONS):
        _cancel_all({**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    for name in reversed(DAEMONS):
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 10
            while (seen := recorded.get(name)) and _lives(seen) and time.monotonic() < deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen[0], number)
                time.sleep(0.1)
    for process in _step_daemons(folder / "slurm.conf"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    (folder / "processes.json").unlink(missing_ok=True)


_MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _written(folder: Path, cpus: int) -> Path:
    """Makes the folder as the daemons want it; gives the configuration."""
    for place in (folder, folder / "state", folder / "spool"):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
    key = folder / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
    (folder / "munge.socket").unlink(missing_ok=True)
    controller, daemon = free_ports(2)
    values = {"folder": folder, "cpus": cpus, "controller": controller, "daemon": daemon}
    host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.geteuid()).pw_name
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=host, user=user, **values))
    return conf


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def _launch(folder: Path, name: str, words: list[str], environment: dict[str, str]) -> None:
    """Starts a daemon in a session of its own, and records it."""
    program = _program(name) or name
    output = (folder / f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    opened = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, *output)]
    process = os.posix_spawn(
        program,
        [program, *words],
        environment,
        file_actions=[*opened, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT],
    )
    record = {**_recorded(folder), name: (process, _began(process))}
    (folder / "processes.json").write_text(json.dumps(record))


def _recorded(folder: Path) -> dict[str, tuple[int, str | None]]:
    """The number and the time of the start of each daemon, which together are of one process only."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "processes.json").read_text())
    return {}


def _lives(seen: tuple[int, str | None]) -> bool:
    process, began = seen
    return began is not None and _began(process) == began


def _began(process: int) -> str | None:
    """When a process was started, as the kernel counts; None once it has ended."""
    with contextlib.suppress(OSError):  # a child of this process has to be asked for before it is gone
        os.waitpid(process, os.WNOHANG)
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _wait(folder: Path, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not is_ready():
        ended = [name for name, seen in _recorded(folder).items() if not _lives(seen)]
        if ended or time.monotonic() > deadline:
            said = [(folder / f"{name}.out").read_text(errors="replace")[-1000:] for name in ended]
            raise NoSlurm(f"{', '.join(ended) or 'the node'} did not start: {' '.join(said)}")
        time.sleep(0.1)


def _node_is_idle(environment: dict[str, str]) -> bool:
    command = [_program("sinfo") or "sinfo", "--noheader", "--format=%T"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and set(answer.stdout.split()) == {"idle"}


def _cancel_all(environment: dict[str, str]) -> None:
    """Cancels until nothing is left: a script may put its job back when it is told to end."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        command = ["squeue", "--noheader", "--format=%A"]
        left = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.split()
        if not left:
            return
        subprocess.run(["scancel", "--quiet", *set(left)], env=environment, capture_output=True, check=False)
        time.sleep(0.5)


def _step_daemons(conf: Path) -> list[int]:
    """The processes that watch over steps: they outlive slurmd, and nobody has recorded them."""
    mark, found = b"SLURM_CONF=" + os.fsencode(conf), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_one = entry.name.isdigit() and (entry / "comm").read_text().strip() == "slurmstepd"
            if is_one and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def main() -> int:
    """What is said on the command line."""
    verb, folder = (sys.argv[1:] + [""] * 2)[:2]
    if verb not in ("start", "stop") or not folder:
        print(__doc__)
        return 2
    try:
        if verb == "stop":
            stop(Path(folder))
        else:
            print(f"export SLURM_CONF={shlex.quote(start(Path(folder))['SLURM_CONF'])}")
    except NoSlurm as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
