"""What `files` says of the things that users give in place of a model's files."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.files import check_readable, first_bytes


def refusal(path: str | Path) -> UserError:
    with pytest.raises(UserError) as caught:
        check_readable(path, "a .meta file")
    assert (caught.value.code, caught.value.where) == ("source", str(path))
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("model.meta", b"x")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.meta"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "todo"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "a web page", "download"),
        (b"<HTML><body>404</body>", "a web page", "download"),
        (b"<?xml version='1.0'?><Error/>", "a web page", "download"),
        (gzip.compress(b"x"), "a gzip archive", "unpack"),
        (zipped(), "a zip archive", "unpack"),
        (tarred(), "a tar archive", "unpack"),
        (b'{\n  "error": 404}', "a JSON text", "server"),
        (b'["a"]', "a JSON text", "server"),
        (b"\x89HDF\r\n\x1a\n....", "an HDF5 file", "tf.train.Saver"),
        (b"", "empty", "again"),
        (bytes(1000), "zeros", "again"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # archives hold the time, ids must not
)
def test_other_kinds_of_files_are_named(tmp_path: Path, content: bytes, what: str, todo: str) -> None:
    path = tmp_path / "m.meta"
    path.write_bytes(content)
    error = refusal(path)
    assert what in error.what
    assert todo in error.todo


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x3c\x0a\x3a<html>",  # a message of 60 bytes first: the length is the code of "<"
        b"\x0a{\x0a\x05",  # and one of 123 bytes: that of "{"
        b"meta_info_def {\n  stripped_op_list {\n",
        b"\0\0\x06\x08\x01",
        b"x",
    ],
)
def test_what_could_be_a_model_is_let_through(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.meta"
    path.write_bytes(content)
    check_readable(path, "a .meta file")
    assert first_bytes(path, "a .meta file") == content


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "a socket" in refusal(tmp_path / "socket").what
    assert "a named pipe" in refusal(tmp_path / "pipe").what
    assert "a device" in refusal("/dev/zero").what
    assert refusal(tmp_path).what == "this is a folder, not a .meta file"


def test_missing_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.meta").what == "there is no such file"
    (tmp_path / "link").symlink_to("gone.meta")
    assert "leads to gone.meta" in refusal(tmp_path / "link").what
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "loop", tmp_path / "file" / "m.meta", tmp_path / ("m" * 300), f"{tmp_path}/a\0b", "\udcff"):
        refusal(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.meta"
    path.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)  # permissions do not hold for root, as whom tests may run
    assert "permission" in refusal(path).what


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.meta"
    path.write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(builtins, "open", fail)
    assert "Input/output error" in refusal(path).what
