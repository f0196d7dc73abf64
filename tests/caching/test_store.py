"""Rows on disk: whole or absent, by several processes at once, and never more than asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.caching import store as stores
from finetune.caching.filling import fill
from finetune.caching.shelf import RECORDS
from finetune.caching.store import Layout, Store, make_room, open_store
from finetune.errors import UserError

LAYOUT = Layout(
    count=10, chunk=4, rows={"a": (2,), "b": ()}, dtypes={"a": np.dtype(np.float32), "b": np.dtype(np.int64)}
)
ROWS = {"a": np.arange(20, dtype=np.float32).reshape(10, 2), "b": np.arange(10)}
LIMIT = 1e9
OPEN: list[Store] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def opened(root: Path, key: str = "key", layout: Layout = LAYOUT) -> Store:
    OPEN.append(open_store(root, key, layout, {}, LIMIT))
    return OPEN[-1]


def compute(chunks):
    for chunk in chunks:
        yield chunk, {name: rows[LAYOUT.span(chunk)] for name, rows in ROWS.items()}


def same(store: Store) -> bool:
    return all(np.array_equal(rows, ROWS[name]) for name, rows in store.arrays().items())


def test_what_is_filled_is_read_back_by_another_and_by_plain_numpy(tmp_path):
    seen: list[int] = []
    first = opened(tmp_path)
    fill(first, compute, seen.append)
    assert seen == [0, 4, 8, 10]
    again = opened(tmp_path)
    assert again.missing() == again.check() == []
    assert same(again)
    np.testing.assert_array_equal(np.load(tmp_path / "key" / "a.npy"), ROWS["a"])


def test_a_fill_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_SYNC_AFTER", 0.0)
    first = opened(tmp_path)
    chunks = compute(first.claimed())
    first.write(*next(chunks))
    first.close()
    again, made = opened(tmp_path), []
    fill(again, lambda chunks: compute(made.append(c) or c for c in chunks))
    assert made == [1, 2]
    assert same(again)


def test_rows_that_were_not_synced_do_not_count(tmp_path):
    first = opened(tmp_path)
    first.write(*next(compute(first.claimed())))
    assert opened(tmp_path).missing() == [0, 1, 2]
    first.sync()
    assert opened(tmp_path).missing() == [1, 2]


def test_a_chunk_that_was_changed_is_made_anew(tmp_path):
    fill(opened(tmp_path), compute)
    rows = np.load(tmp_path / "key" / "a.npy", mmap_mode="r+")
    rows[5] = 99
    rows.flush()
    store = opened(tmp_path)
    assert store.check() == store.missing() == [1]
    fill(store, compute)
    assert same(store)


def test_a_file_that_was_cut_off_is_made_whole(tmp_path):
    fill(opened(tmp_path), compute)
    os.truncate(tmp_path / "key" / "a.npy", os.path.getsize(tmp_path / "key" / "a.npy") - 12)
    store = opened(tmp_path)
    assert store.check() == [2]
    fill(store, compute)
    assert same(store)


def test_a_folder_that_was_left_half_made_is_made_anew(tmp_path):
    fill(opened(tmp_path), compute)
    (tmp_path / "key" / "about.json").unlink()
    assert opened(tmp_path).missing() == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.npy", "b.npy", "done"])
@pytest.mark.parametrize("left", [None, b"", bytes(128), b"\x93NUMPY\x01\x00v\x00{'descr"])
def test_a_folder_that_a_loss_of_power_emptied_is_made_anew(tmp_path, name, left):
    fill(opened(tmp_path), compute)
    OPEN.pop().close()
    if left is None:
        (tmp_path / "key" / name).unlink()
    else:
        (tmp_path / "key" / name).write_bytes(left)
    store = opened(tmp_path)
    store.check()
    assert store.missing() == [0, 1, 2]
    fill(store, compute)
    assert same(store)


def test_heads_are_on_the_disk_before_a_store_says_that_it_is_there(tmp_path, monkeypatch):
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    opened(tmp_path)
    about = next(place for place, name in enumerate(synced) if "about.json" in name)
    assert {"a.npy", "b.npy", "done"} <= set(synced[:about])


def test_processes_share_the_work_and_none_does_it_twice(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        import numpy as np
        from finetune.caching.filling import fill
        from finetune.caching.store import Layout, open_store
        layout = Layout(120, 4, {"a": (2,)}, {"a": np.dtype(np.float32)})
        def compute(chunks):
            for chunk in chunks:
                time.sleep(0.02)
                print(chunk, flush=True)
                span = layout.span(chunk)
                yield chunk, {"a": np.arange(span.start * 2, span.stop * 2, dtype=np.float32).reshape(-1, 2)}
        store = open_store(Path(sys.argv[1]), "key", layout, {}, 1e9)
        fill(store, compute)
        assert not store.missing()
    """)
    words = [sys.executable, "-c", script, str(tmp_path)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = [sorted(map(int, process.communicate(timeout=60)[0].split())) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(chunk for each in made for chunk in each) == list(range(30))
    assert sum(map(bool, made)) > 1
    np.testing.assert_array_equal(np.load(tmp_path / "key" / "a.npy").reshape(-1), np.arange(240))


def test_the_oldest_go_first_and_what_is_in_use_or_no_store_stays(tmp_path):
    big = Layout(100, 50, {"a": (1000,)}, {"a": np.dtype(np.float32)})  # 400 kB
    for age, name in enumerate(("old", "used", "new")):
        store = opened(tmp_path, name, big)
        fill(store, lambda chunks: ((c, {"a": np.ones((50, 1000), np.float32)}) for c in chunks))
        if name != "used":
            store.close()
        os.utime(tmp_path / name / "about.json", (1000 + age, 1000 + age))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.npy").write_bytes(bytes(10**6))
    assert make_room(tmp_path, 400_000, 2_000_000, set()) == []
    assert make_room(tmp_path, 400_000, 1_300_000, set()) == ["old"]
    assert make_room(tmp_path, 400_000, 100_000, set()) == ["new"]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["mine", "used"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"name another place in cache\.dir, or set cache\.mode=off"):
        opened(tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*words):
        raise OSError(28, "No space left on device")

    store = opened(tmp_path)
    monkeypatch.setattr(stores.os, "pwrite", full)
    with pytest.raises(UserError, match=r"cannot be kept: No space left on device; name another place in cache\.dir"):
        fill(store, compute)


def test_half_floats_tell_their_error_and_refuse_what_they_cannot_hold(tmp_path):
    half = Layout(4, 4, {"a": (1,)}, {"a": np.dtype(np.float16)})
    values = np.float32([[1.0], [1.0001], [0.3333], [-2.0]])
    errors = fill(opened(tmp_path, "half", half), lambda chunks: ((c, {"a": values}) for c in chunks))
    assert errors["a"] == pytest.approx(1e-4 / 2, rel=0.1)
    with pytest.raises(UserError, match=r"float16 has no room for 7e\+04, which is in a; set cache\.dtype=float32"):
        fill(opened(tmp_path, "large", half), lambda chunks: ((c, {"a": values * 3.5e4}) for c in chunks))


def test_the_index_of_record_files_takes_of_the_same_room_and_stays(tmp_path):
    for name, age in (("old", 2), ("new", 1)):
        store = open_store(tmp_path, name, Layout(100_000, 1000, {"x": ()}, {"x": np.dtype(np.float32)}), {}, LIMIT)
        for chunk in store.claimed():
            store.write(chunk, {"x": np.ones(1000, np.float32)})
        store.sync()
        store.close()
        os.utime(tmp_path / name / "about.json", (1000 - age, 1000 - age))
    (tmp_path / RECORDS).mkdir()
    (tmp_path / RECORDS / "a").write_bytes(bytes(400_000))
    assert make_room(tmp_path, 400_000, 1_800_000, set()) == []
    assert make_room(tmp_path, 400_000, 1_500_000, set()) == ["old"]
    assert (tmp_path / RECORDS / "a").exists()
