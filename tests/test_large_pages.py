"""A process asks for large pages where that is of use and nobody has decided otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import __main__, large_pages
from finetune.large_pages import are_on, to_be_told

ASKED = "glibc.malloc.hugetlb=1"


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "sys/kernel/mm/transparent_hugepage"
    place.mkdir(parents=True)
    (place / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "_glibc", lambda: (2, 36))
    return tmp_path


def test_it_is_told_where_linux_waits_to_be_asked(linux):
    assert to_be_told({}, linux) == {"GLIBC_TUNABLES": ASKED}
    assert to_be_told({"GLIBC_TUNABLES": "glibc.a=2"}, linux) == {"GLIBC_TUNABLES": f"glibc.a=2:{ASKED}"}
    assert are_on(to_be_told({}, linux), linux)
    assert not are_on({}, linux)


@pytest.mark.parametrize("mode", ["[always] madvise never", "always madvise [never]"])
def test_it_is_not_told_where_linux_has_decided(linux, mode):
    (linux / "sys/kernel/mm/transparent_hugepage/enabled").write_text(mode)
    assert to_be_told({}, linux) == {}
    assert are_on({}, linux) == mode.startswith("[always]")


def test_what_the_user_says_stays(linux):
    off = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert to_be_told(off, linux) == {}
    assert not are_on(off, linux)


def test_without_a_glibc_that_can_it_is_not_told(linux, monkeypatch):
    for version in ((), (2, 31)):
        monkeypatch.setattr(large_pages, "_glibc", lambda version=version: version)
        assert to_be_told({}, linux) == {}
    assert to_be_told({}, linux / "none") == {}


def test_a_process_begins_anew_with_the_same_words(monkeypatch):
    began: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(large_pages, "to_be_told", lambda environment: {"GLIBC_TUNABLES": ASKED})
    monkeypatch.setattr(os, "execve", lambda *words: began.append(words))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "finetune", "list", "ä b"])
    monkeypatch.setattr(sys, "argv", ["finetune", "list", "recipes", "more"])
    __main__.main()
    program, words, environment = began[0]
    assert (program, words) == (sys.executable, [sys.executable, "-m", "finetune", "list", "ä b"])
    assert environment["GLIBC_TUNABLES"] == ASKED
    began.clear()
    __main__.main(["list", "recipes", "more"])  # called from within another program
    assert began == []


def test_a_process_that_cannot_begin_anew_goes_on(monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(large_pages, "to_be_told", lambda environment: {"GLIBC_TUNABLES": ASKED})
    monkeypatch.setattr(os, "execve", fail)
    large_pages.restart_with_them()


def test_the_command_answers_as_ever():
    environment = {name: text for name, text in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "finetune", "recipe=no_such"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error[recipe] recipe: no recipe named 'no_such'")
