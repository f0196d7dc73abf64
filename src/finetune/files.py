"""What a file is, judged by its first bytes."""

from __future__ import annotations

import os
import pwd
import stat

from finetune.errors import UserError

_LENGTH = 512  # enough for the mark of a tar archive, which stands at byte 257

# What opens a file, and where -> what the file is, and what to do about it.
_MARKS = {
    (0, b"version https://git-lfs"): ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (0, b"\x1f\x8b"): ("a gzip archive", "unpack it first"),
    (0, b"PK\x03\x04"): ("a zip archive", "unpack it first"),
    (0, b"PK\x05\x06"): ("an empty zip archive", "download it again"),
    (0, b"BZh"): ("a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ\0"): ("an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd"): ("a zstd archive", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c"): ("a 7z archive", "unpack it first"),
    (257, b"ustar"): ("a tar archive", "unpack it first"),
    (0, b"\x89HDF\r\n\x1a\n"): ("an HDF5 file, as Keras writes it", "give the files that tf.train.Saver wrote"),
    (0, b"\x93NUMPY"): ("a NumPy array", "give the files that tf.train.Saver wrote"),
}
_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")

_NO_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_readable(path: str | os.PathLike[str], expected: str) -> None:
    """Refuses what cannot be `expected` ("a .meta file"): no file, an empty one, or one of another kind.

    Raises:
      UserError: the message says what the file is instead.
    """
    start = first_bytes(path, expected)
    if not start:
        raise UserError("source", str(path), "this file is empty", "copy or download it again")
    if not start.strip(b"\0"):
        raise UserError("source", str(path), "this file begins with zeros only", "copy or download it again")
    found = _kind(start)
    if found:
        raise UserError("source", str(path), f"this is {found[0]}, not {expected}", found[1])


def first_bytes(path: str | os.PathLike[str], expected: str) -> bytes:
    """How a file begins; nothing but a regular file is opened, for opening a pipe or a device may never return.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    where = str(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = _NO_FILE.get(stat.S_IFMT(mode), "no regular file")
            raise UserError("source", where, f"this is {kind}, not {expected}", "give the path of the file itself")
        with open(path, "rb") as file:
            return file.read(_LENGTH)
    except FileNotFoundError:
        broken = os.path.islink(path)
        what = f"this link leads to {os.readlink(path)}, which is not there" if broken else "there is no such file"
        raise UserError("source", where, what, f"give the path of {expected}") from None
    except PermissionError:
        what = f"user {_user()} has no permission to read it"
        raise UserError("source", where, what, f"chmod a+r {where}, or copy it") from None
    except OSError as error:
        raise UserError("source", where, f"it cannot be read: {error.strerror}", "copy it elsewhere") from None
    except ValueError:
        # A path with a null byte in it, or with characters that the file system cannot encode.
        raise UserError("source", where, "this is no path", f"give the path of {expected}") from None


def _user() -> str:
    """Whoever runs this, by name, or by number where no name is known, as in some containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _kind(start: bytes) -> tuple[str, str] | None:
    """What the first bytes give away, and what to do; None if they could be anything."""
    for (offset, mark), found in _MARKS.items():
        if start.startswith(mark, offset):
            return found
    if start.lstrip().lower().startswith(_PAGE):
        return "a web page", "download it again: the address led to a page about the file, or to an error"
    # White space before the brace is not skipped: a newline is how an ordinary .meta begins.
    if start[:1] in (b"{", b"[") and start[1:].lstrip()[:1] in (b'"', b"{", b"[", b"}", b"]"):
        return "a JSON text", "download it again: it may be a server's error message"
    return None
