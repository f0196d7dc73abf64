"""A trial is a process: how it ends, and what it says, is told and ends nothing else."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from finetune.interruption import REQUEUE, Interruption
from finetune.results.lock import alone_in
from finetune.sweeping.one_gpu import VISIBLE
from finetune.sweeping.trials import Place, Trial, error_in, passing_on, run_trial

# In the place of the package, whose training would take seconds. Its words are a program.
STANDING_IN = "import sys\nexec(sys.argv[1])\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    package = tmp_path / "instead" / "finetune"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STANDING_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    (tmp_path / "scratch").mkdir()
    return Place(tmp_path / "sweep", tmp_path / "scratch")


def trial(program: str, folder: str = "runs/a") -> Trial:
    return Trial(0, (program,), (), Path(folder))


def test_what_it_says_is_shown_and_kept(workdir: Path, place: Place, capsys):
    done = run_trial(trial("print('one', flush=True); print('two', file=sys.stderr)"), place)
    assert (done.status, done.error) == (0, "")
    assert capsys.readouterr().out == "one\ntwo\n"
    assert place.log(trial("")).read_text() == "one\ntwo\n"
    quiet = Place(place.folder, place.scratch, is_shown=False)
    run_trial(trial("print('three')"), quiet)
    assert capsys.readouterr().out == ""
    assert place.log(trial("")).read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("print('error[data] a: is b; do c'); sys.exit(2)", 2, "error[data] a: is b; do c"),
        ("print('error[source] a: b\\n  c: d'); sys.exit(3)", 3, "error[source] a: b"),
        ("import os; os.kill(os.getpid(), 9)", 137, "ended by SIGKILL: from outside, or out of memory"),
        ("import os; os.abort()", 134, "ended by SIGABRT"),
        ("print('last words'); sys.exit(7)", 7, "status 7: last words"),
    ],
)
def test_how_it_fails_is_told(workdir: Path, place: Place, program: str, status: int, error: str):
    done = run_trial(trial(program), place)
    assert (done.status, done.error) == (status, error)


def test_it_has_one_gpu_of_those_that_are_shared(workdir: Path, place: Place, monkeypatch, capsys):
    monkeypatch.delenv(VISIBLE, raising=False)
    program = f"import os; print(os.environ.get('{VISIBLE}'))"
    for number in range(3):
        one = Trial(number, (program,), (), Path("runs/a"))
        run_trial(one, Place(place.folder, place.scratch, ["4", "7"]))
    run_trial(one, place)
    assert capsys.readouterr().out == "4\n7\n4\nNone\n"


SAVES = """
import signal, time
def save(number, frame):
    print("saved"); sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(60)
"""


def test_one_that_is_asked_to_end_is_waited_for_and_no_other_begins(workdir: Path, place: Place):
    interruption = Interruption()
    log = place.log(trial(""))

    def ask() -> None:
        while not (log.exists() and "begun" in log.read_text()):
            time.sleep(0.01)
        interruption.wait()
        interruption.ask(signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with passing_on(interruption, place.stop):
        assert run_trial(trial(SAVES), place).status == REQUEUE
        asking.join()
        assert log.read_text() == "begun\nsaved\n"
        assert run_trial(trial("print('never')"), place).status == REQUEUE
    assert log.read_text() == "begun\nsaved\n"


def test_it_waits_for_what_a_killed_sweep_has_left(workdir: Path, place: Place, capsys):
    left = threading.Event()
    Path("runs/a").mkdir(parents=True)

    def leftover() -> None:
        with alone_in(Path("runs/a"), wait=False):
            left.set()
            time.sleep(0.5)

    leaving = threading.Thread(target=leftover)
    leaving.start()
    left.wait()
    assert run_trial(trial("print('now')"), place).status == 0
    leaving.join()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("waiting for runs/a, which is in use by process ")
    assert last == "now"


def test_the_error_is_the_last_one_by_its_first_line():
    lines = ["error[data] old: x", "init: again", "error[data] new: y", "  and more"]
    assert error_in(lines, 2) == "error[data] new: y"
    assert error_in([], 1) == "status 1"
