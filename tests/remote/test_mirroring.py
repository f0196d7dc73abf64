"""A run folder that lies elsewhere is one moment of the run, wherever its sender was killed."""

import json
import re
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.remote.mirroring import RECORD, Mirror, at_home
from tests.remote.cloud import Cloud

URL = "gs://bucket/runs/one"

FIRST = {"run.json": "1", "checkpoints/model-1.index": "one", "best/model.data": "old", "log": "x"}
SECOND = {"run.json": "2", "checkpoints/model-2.index": "two", "best/model.data": "new", "log": "x"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists() or (folder / name).read_text() != content:
            (folder / name).write_text(content)


def held(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def brought(folder: Path) -> tuple[dict[str, str], list[str]]:
    told: list[str] = []
    mirror = Mirror(URL, folder)
    mirror.bring(told.append)
    return held(folder), told


def there(bucket: Cloud) -> dict[str, str]:
    """What somebody sees who knows nothing of us."""
    names = {name.removeprefix("runs/one/"): name for name in bucket.objects if name.startswith("runs/one/")}
    plain = {name: bucket.objects[whole].decode() for name, whole in names.items() if not whole.endswith("/")}
    return {name: content for name, content in plain.items() if name != RECORD}


@pytest.fixture
def mirror(bucket: Cloud, tmp_path: Path) -> Mirror:
    """One that has sent the first moment, and has the second."""
    found = Mirror(URL, tmp_path / "work")
    found.bring(print)
    fill(found.folder, FIRST)
    found.send()
    return found


def test_what_is_sent_is_there_under_its_name_and_comes_back(mirror: Mirror, bucket: Cloud, tmp_path: Path):
    assert there(bucket) == FIRST
    fill(mirror.folder, SECOND)
    mirror.send()
    assert there(bucket) == SECOND
    assert not [name for name in bucket.objects if ".new" in name]
    assert brought(tmp_path / "elsewhere") == (SECOND, [f"run.dir: fetching 4 files of {URL}"])


def test_only_what_has_changed_is_sent(mirror: Mirror, bucket: Cloud):
    begin = len(bucket.asked)
    mirror.send()
    assert len(bucket.asked) == begin
    fill(mirror.folder, FIRST | {"log": "xy"})
    mirror.send()
    written = [name for method, name in bucket.asked[begin:] if method == "WRITE" and not name.endswith("/")]
    assert written == ["runs/one/.new/2/log", f"runs/one/{RECORD}", "runs/one/log"]


def test_what_is_half_written_here_and_the_lock_stay_here(mirror: Mirror, bucket: Cloud):
    fill(
        mirror.folder,
        FIRST | {".writing-run.json.7": "{", "checkpoints/.writing-model-3.7/model-3.index": "", "run.lock": ""},
    )
    mirror.send()
    assert there(bucket) == FIRST


def test_a_sender_that_is_killed_anywhere_leaves_one_moment(bucket: Cloud, tmp_path: Path):
    """After each change in the bucket: what comes is the first moment or the second, and the next sender mends it."""
    seen = []
    for kill in range(100):
        bucket.clear()
        mirror = Mirror(URL, tmp_path / f"work-{kill}")
        mirror.bring(print)
        fill(mirror.folder, FIRST)
        mirror.send()
        fill(mirror.folder, SECOND)
        bucket.left = kill
        try:
            mirror.send()
            done = bucket.left > 0
        except UserError:
            done = False
        bucket.left = None
        found, told = brought(tmp_path / f"reader-{kill}")
        assert found in (FIRST, SECOND), kill
        assert not [line for line in told if "warning" in line]
        seen.append(found == SECOND)
        after = Mirror(URL, tmp_path / f"next-{kill}")
        after.bring(print)
        after.settle()
        assert held(after.folder) == found
        assert not [name for name in bucket.objects if ".new" in name]
        fill(after.folder, SECOND)
        after.send()
        assert there(bucket) == SECOND, kill
        if done:
            break
    assert {*seen} == {False, True}
    assert 7 < len(seen) < 100


def test_what_it_could_not_send_it_sends_the_next_time(mirror: Mirror, bucket: Cloud):
    fill(mirror.folder, SECOND)
    bucket.refuses = re.compile("WRITE .*model-2")
    with pytest.raises(UserError, match=rf"error\[storage\] {URL}: cannot be written: .*403"):
        mirror.send()
    bucket.refuses = re.compile("(?!)")
    mirror.send()
    assert there(bucket) == SECOND


def test_what_could_not_get_its_name_gets_it_the_next_time(mirror: Mirror, bucket: Cloud, tmp_path: Path):
    fill(mirror.folder, SECOND)
    bucket.refuses = re.compile("(WRITE runs/one/(run.json|checkpoints/)|DELETE .*model-1)")
    with pytest.raises(UserError, match="cannot be written"):
        mirror.send()
    assert brought(tmp_path / "meanwhile")[0] == SECOND
    bucket.refuses = re.compile("(?!)")
    fill(mirror.folder, SECOND | {"log": "xy"})
    mirror.send()
    assert there(bucket) == SECOND | {"log": "xy"}
    mirror.send()
    assert brought(tmp_path / "later") == (SECOND | {"log": "xy"}, [f"run.dir: fetching 4 files of {URL}"])


def test_a_first_sender_that_is_killed_leaves_a_folder_to_begin_in(bucket: Cloud, tmp_path: Path):
    for kill in range(100):
        bucket.clear()
        mirror = Mirror(URL, tmp_path / f"work-{kill}")
        mirror.bring(print)
        fill(mirror.folder, FIRST)
        bucket.left = kill
        try:
            mirror.send()
            done = bucket.left > 0
        except UserError:
            done = False
        bucket.left = None
        after = Mirror(URL, tmp_path / f"next-{kill}")
        after.bring(print)
        assert held(after.folder) in ({}, FIRST), kill
        after.settle()
        fill(after.folder, SECOND)
        after.send()
        assert there(bucket) == SECOND, kill
        if done:
            break
    assert 5 < kill < 99


def test_who_has_lost_the_folder_sends_nothing(mirror: Mirror, bucket: Cloud, tmp_path: Path):
    def lost() -> None:
        raise UserError("recipe", "run.dir", "another has it now")

    late = Mirror(URL, tmp_path / "late", lost)
    late.bring(print)
    fill(late.folder, SECOND)
    with pytest.raises(UserError, match="another has it now"):
        late.send()
    assert there(bucket) == FIRST


def test_what_is_there_counts_and_not_what_an_earlier_job_left_here(mirror: Mirror, bucket: Cloud):
    fill(mirror.folder, SECOND)  # and was killed before it was sent
    assert brought(mirror.folder)[0] == FIRST


def test_what_is_the_same_here_does_not_come_again(mirror: Mirror, bucket: Cloud):
    begin = len(bucket.asked)
    assert brought(mirror.folder) == (FIRST, [])
    assert bucket.read(begin) == [f"runs/one/{RECORD}"]


def test_a_file_that_somebody_has_changed_there_is_told_of(mirror: Mirror, bucket: Cloud, tmp_path: Path):
    bucket.put("runs/one/log", b"?")
    found, told = brought(tmp_path / "other")
    assert found == FIRST | {"log": "?"}
    assert told[1:] == [f"warning: {URL}/log is not what was sent there"]


def test_a_folder_of_something_else_is_refused(bucket: Cloud, tmp_path: Path):
    bucket.put("runs/one/thesis.tex", b"x")
    with pytest.raises(
        UserError, match=f"'{URL}' holds thesis.tex and is no run folder; name a new or an empty folder"
    ):
        brought(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"round": 1}',
        '{"round": 1, "files": {"../../x": [1, "a"]}, "gone": []}',
        '{"round": 1, "files": {"a": 1}}',
    ],
)
def test_a_damaged_list_is_refused(bucket: Cloud, tmp_path: Path, content: str):
    bucket.put(f"runs/one/{RECORD}", content.encode())
    with pytest.raises(UserError, match=rf"error\[storage\] {URL}/{RECORD}: cannot be read \(.*; put it back, or name"):
        brought(tmp_path)


def test_a_copy_for_reading_is_gone_afterwards(mirror: Mirror, bucket: Cloud):
    with at_home(URL, False, False, lambda: None, print) as (folder, send):
        assert held(folder) == FIRST
        (folder / "log").write_text("mine")
        send()
    assert not folder.exists()
    assert there(bucket) == FIRST


def test_a_run_is_worked_on_here_and_sent_at_its_end(bucket: Cloud, capsys):
    with at_home(URL, False, True, lambda: None, print) as (folder, _):
        fill(folder, FIRST)
    assert there(bucket) == FIRST
    assert json.loads(bucket.objects[f"runs/one/{RECORD}"])["round"] == 1
    assert f"run.dir: {URL} has all of it" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["gs://bucket/", "gs://bucket/run[lr=0.1]*?/größe 1", "gs://bucket/a%20b/"])
def test_a_folder_of_any_name(bucket: Cloud, tmp_path: Path, url: str):
    mirror = Mirror(url, tmp_path / "work")
    mirror.bring(print)
    fill(mirror.folder, FIRST)
    mirror.send()
    prefix = url.removeprefix("gs://bucket").strip("/")
    assert f"{prefix}/best/model.data".lstrip("/") in bucket.objects
    copy = Mirror(url, tmp_path / "copy")
    copy.bring(print)
    assert held(copy.folder) == FIRST


def test_a_scheme_that_nobody_knows():
    elsewhere = at_home("s3://b/run", False, True, lambda: None, print)
    with (
        pytest.raises(UserError, match=r"error\[recipe\] run.dir: 's3://b/run': TensorFlow has no file system"),
        elsewhere,
    ):
        pass
