"""Small files are whole or as good as absent, and never more than may be."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from finetune.caching.shelf import RECORDS, Shelf, cache_folder, size_of


def shelf(place: Path, most: float = 1e6) -> Shelf:
    return Shelf(place / RECORDS, most)


def aged(file: Path, days: float) -> float:
    then = time.time() - days * 86_400
    os.utime(file, (then, then))
    return then


def test_what_is_put_is_got_by_any_process(tmp_path: Path):
    shelf(tmp_path).put("a", b"content")
    assert shelf(tmp_path).get("a") == b"content"
    assert shelf(tmp_path).get("b") is None
    assert [file.name for file in (tmp_path / RECORDS).iterdir()] == ["a"]


@pytest.mark.parametrize("left", [0, 3, 4, 5, 10])
def test_a_file_that_was_cut_off_is_not_there(tmp_path: Path, left: int):
    shelf(tmp_path).put("a", b"content")
    os.truncate(tmp_path / RECORDS / "a", left)
    assert shelf(tmp_path).get("a") is None


@pytest.mark.parametrize("place", range(11))
def test_a_file_with_a_bit_turned_over_is_not_there(tmp_path: Path, place: int):
    shelf(tmp_path).put("a", b"content")
    content = bytearray((tmp_path / RECORDS / "a").read_bytes())
    content[place] ^= 1
    (tmp_path / RECORDS / "a").write_bytes(content)
    assert shelf(tmp_path).get("a") is None
    shelf(tmp_path).put("a", b"content")
    assert shelf(tmp_path).get("a") == b"content"


def test_the_file_that_was_not_used_for_the_longest_goes_first(tmp_path: Path):
    for days, name in enumerate("abc", 1):
        shelf(tmp_path).put(name, bytes(8192))
        aged(tmp_path / RECORDS / name, days)
    assert shelf(tmp_path).get("c") is not None  # which is a use
    one = shelf(tmp_path, most=size_of(tmp_path) + 100)
    one.put("d", bytes(8192))
    assert sorted(file.name for file in (tmp_path / RECORDS).iterdir()) == ["a", "c", "d"]


def test_features_beside_it_take_of_the_same_room_and_stay(tmp_path: Path):
    (tmp_path / "0abe").mkdir()
    (tmp_path / "0abe" / "x.npy").write_bytes(bytes(40_000))
    with pytest.raises(OSError, match=r"cache\.max_gb"):
        shelf(tmp_path, most=41_000).put("a", bytes(8192))
    assert (tmp_path / "0abe" / "x.npy").exists()
    assert list((tmp_path / RECORDS).iterdir()) == []


def test_what_killed_processes_left_goes_where_room_is_needed_and_what_is_being_written_stays(tmp_path: Path):
    shelf(tmp_path).put("a", bytes(8192))
    for name, days in ((".writing-b.old", 2), (".writing-b.new", 0)):
        (tmp_path / RECORDS / name).write_bytes(bytes(8192))
        aged(tmp_path / RECORDS / name, days)
    shelf(tmp_path, most=size_of(tmp_path) + 100).put("c", bytes(8192))
    assert sorted(file.name for file in (tmp_path / RECORDS).iterdir()) == [".writing-b.new", "a", "c"]


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        shelf(tmp_path).put("a", b"content")
    assert list((tmp_path / RECORDS).iterdir()) == []


def test_where_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder(None) == Path("/cache/finetune/features")
    assert cache_folder("/shared") == Path("/shared")
