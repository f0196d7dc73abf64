"""What TensorFlow's own client of a bucket gives, through the process that has it."""

import os
import re
import signal
from contextlib import closing

import pytest

from finetune.errors import UserError
from finetune.remote import courier
from finetune.remote.courier import files_below, move, put, read, remove, remove_folder, stat, together, write
from tests.remote.cloud import Cloud


def test_a_file_is_written_read_in_parts_moved_and_removed(bucket: Cloud):
    write("gs://bucket/a/b.txt", b"0123456789")
    seen = stat("gs://bucket/a/b.txt")
    assert seen is not None
    assert seen.size == 10
    assert not seen.is_folder
    assert read("gs://bucket/a/b.txt", 3, 4) == b"3456"
    assert read("gs://bucket/a/b.txt", 8, 100) == b"89"
    move("gs://bucket/a/b.txt", "gs://bucket/c.txt")
    assert stat("gs://bucket/a/b.txt") is None
    assert bucket.objects["c.txt"] == b"0123456789"
    remove("gs://bucket/c.txt")
    remove("gs://bucket/c.txt")  # as good as removed
    assert "c.txt" not in bucket.objects


def test_a_read_takes_no_more_than_it_asks_for(bucket: Cloud):
    """The client's default reads ahead by 64 MB, for each record that is read."""
    bucket.put("large", bytes(1 << 20))
    begin = len(bucket.asked)
    assert read("gs://bucket/large", 1000, 100_000) == bytes(100_000)
    assert {*bucket.read(begin)} == {"large"}
    assert bucket.bytes_read < 110_000


def test_files_come_with_the_folders_they_lie_in(bucket: Cloud):
    for name in ("run/a", "run/b/c", "run/b/d/e", "other/f"):
        bucket.put(name, name.encode())
    assert {name: seen.size for name, seen in files_below("gs://bucket/run").items()} == {"a": 5, "b/c": 7, "b/d/e": 9}
    assert files_below("gs://bucket/none") == {}


def test_more_files_than_a_page_of_the_list_has(bucket: Cloud):
    for number in range(1203):
        bucket.put(f"many/{number:04}", b"x")
    assert len(files_below("gs://bucket/many")) == 1203


def test_names_that_lead_elsewhere_are_refused(bucket: Cloud):
    bucket.put("run/../../etc/passwd", b"x")
    with pytest.raises(UserError, match=r"'\.\./' there is no name for a file here"):
        files_below("gs://bucket/run")


def test_a_folder_goes_with_all_that_is_in_it(bucket: Cloud):
    bucket.put("run/a/b", b"x")
    bucket.put("running", b"x")
    remove_folder("gs://bucket/run")
    remove_folder("gs://bucket/run")
    assert set(bucket.objects) == {"running"}


def test_what_is_refused_is_an_error_of_the_system(bucket: Cloud, tmp_path):
    bucket.refuses = re.compile("secret")
    bucket.put("secret", b"x")
    with pytest.raises(OSError, match="403") as error:
        read("gs://bucket/secret", 0, 1)
    assert error.value.filename == "gs://bucket/secret"
    with pytest.raises(FileNotFoundError):
        put(str(tmp_path / "none"), "gs://bucket/none")


def test_a_scheme_that_nobody_knows_is_named_with_those_that_are_known():
    with pytest.raises(UserError, match=r"no file system for s3:// here, only for file://, gs://, ram://"):
        stat("s3://bucket/x")


def test_many_are_asked_at_once(bucket: Cloud):
    names = [f"gs://bucket/{number}" for number in range(50)]
    together(lambda name: write(name, name.encode()), names)
    assert together(lambda name: read(name, 0, 99), names) == [name.encode() for name in names]


def test_a_process_that_ends_is_an_error_for_all_who_wait():
    with closing(courier.Courier()) as one:
        assert "gs" in one.ask("schemes")[0]
        one._process.send_signal(signal.SIGTERM)  # which is for the run, not for it
        assert "gs" in one.ask("schemes")[0]
        os.kill(one._process.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="ended, status -9"):
            one.ask("schemes")
        with pytest.raises(OSError, match="ended, status -9"):
            one.ask("schemes")
