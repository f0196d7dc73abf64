"""Model files that are missing, damaged, something else, or oddly named: each fault, and what is promised of it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inspecting.inspect import inspect
from finetune.protos import BundleEntryProto, BundleHeaderProto
from finetune.reading import table
from finetune.reading.metagraph import digest, find_pair, read
from finetune.reading.weights import check_data, read_index, read_tensors
from finetune.surgery.source import read_source, read_values
from tests.acceptance.mutants import bytes_changed, copied, settled, survive
from tests.graphs import golden, refusal, variable
from tests.reading.test_weights import block
from tests.reading.test_weights import table as packed
from tests.surgery.test_source import pair

NAME = "dense_resource"  # a small V2 pair, model.*
MEMBERS = ("model.meta", "model.index", "model.data-00000-of-00001")
DATA = MEMBERS[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(NAME, tmp_path / "pair")


def refused(path: Path, *says: str) -> UserError:
    """The pair at a path is refused, at once, in a line that has all of `says`, and nothing is written beside it."""
    around = path if path.is_dir() else path.parent
    before = sorted(around.rglob("*")) if around.is_dir() else []
    began = time.perf_counter()
    error = refusal(lambda: settled(path, NAME))
    assert time.perf_counter() - began < 2
    assert (error.code, error.status) == ("source", 3)
    assert [part for part in says if part not in str(error)] == [], str(error)
    assert (sorted(around.rglob("*")) if around.is_dir() else []) == before
    return error


def values(folder: Path) -> dict[str, np.ndarray]:
    return read_values(settled(folder, NAME))


# ---- 1 to 4: what is missing or cut short


def test_01_a_missing_meta_is_named_with_those_that_are_there(folder: Path):
    (folder / "model.meta").rename(folder / "other.meta")
    shutil.copy(folder / "other.meta", folder / "third.meta")
    refused(folder / "model", "no model.meta", "other.meta, third.meta")


def test_02_a_missing_data_file_is_named_and_not_a_variable(folder: Path):
    (folder / DATA).unlink()
    assert "ariable" not in str(refused(folder, str(folder / DATA), "is missing"))


def test_03_a_missing_index_is_named_and_whether_there_are_values(folder: Path):
    (folder / "model.index").unlink()
    refused(folder / "model", "model.index is missing though its .data is there")
    (folder / DATA).unlink()
    assert "though" not in str(refused(folder / "model", "model.index is missing"))


@pytest.mark.parametrize("share", ["nothing", "one byte", "half", "all but one byte"])
def test_04_a_truncated_data_file_is_named_with_both_sizes(folder: Path, share: str):
    size = (folder / DATA).stat().st_size
    left = {"nothing": 0, "one byte": 1, "half": size // 2, "all but one byte": size - 1}[share]
    os.truncate(folder / DATA, left)
    refused(folder, DATA, f"expected {size} bytes, found {left}", "download it again")


# ---- 5 to 7: flipped bits


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_05_a_flipped_bit_in_any_tensor_is_found_and_the_tensor_and_its_bytes_are_named(folder: Path):
    content, rng = (folder / DATA).read_bytes(), random.Random(5)
    entries = read_index(str(folder / "model"))
    assert len(entries) > 5
    for name, entry in entries.items():
        (folder / DATA).write_bytes(flipped(content, entry.offset + rng.randrange(entry.size), rng.randrange(8)))
        error = refusal(read_tensors, str(folder / "model"), list(entries))
        assert error.where == str(folder / DATA)
        assert f"'{name}' (bytes {entry.offset} to {entry.offset + entry.size})" in error.what
        assert "checksum" in error.what


@pytest.mark.slow
def test_05_a_bit_of_every_byte_of_every_tensor_counts(folder: Path):
    content = (folder / DATA).read_bytes()
    entries = read_index(str(folder / "model"))
    owner = {at: n for n, entry in entries.items() for at in range(entry.offset, entry.offset + entry.size)}
    for at, name in owner.items():
        (folder / DATA).write_bytes(flipped(content, at, at % 8))
        assert f"'{name}'" in refusal(read_tensors, str(folder / "model"), [name]).what


def mutants_of(content: bytes) -> Iterator[bytes]:
    """Every byte with its lowest bit flipped, with all bits flipped, and every early end."""
    for at in range(len(content)):
        for mask in (1, 255):
            yield content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]
        yield content[:at]


def damaged_index(folder: Path, mutants: list[bytes]) -> int:
    """How many of some mutants of an index are refused; the others say the same as before."""
    index, intact, refusals = folder / "model.index", read_index(str(folder / "model")), 0
    for mutant in mutants:
        index.write_bytes(mutant)
        try:
            found = read_index(str(folder / "model"))
        except UserError as error:
            found = intact if error.where == str(index) else None
            refusals += 1
        assert found == intact
    return refusals


def test_06_a_damaged_index_is_named_or_harmless(folder: Path):
    mutants = random.Random(6).sample(list(mutants_of((folder / "model.index").read_bytes())), 300)
    assert damaged_index(folder, mutants) > 250


@pytest.mark.slow
def test_06_every_mutant_of_an_index_is_refused_or_harmless(folder: Path):
    mutants = list(mutants_of((folder / "model.index").read_bytes()))
    assert len(mutants) - damaged_index(folder, mutants) <= 2 * (48 + 13)  # padding of the footer, an empty block


def test_07_a_damaged_meta_is_refused_or_passes_all_checks(tmp_path: Path):
    passed, failed = survive(60, 7, tmp_path, bytes_changed)
    assert passed
    assert failed


def test_07_a_meta_that_cannot_be_parsed_is_named(folder: Path):
    content = (folder / "model.meta").read_bytes()
    for end in (1, 100, len(content) // 2, len(content) - 1):
        (folder / "model.meta").write_bytes(content[:end])
        refused(folder, str(folder / "model.meta"))
    (folder / "model.meta").write_bytes(b"graph_def { node { attr { value { func " + b"{ attr { value { func " * 5000)
    refused(folder, "model.meta")


@pytest.mark.slow
def test_07_ten_thousand_damaged_metas(tmp_path: Path):
    passed, failed = survive(10_000, 70, tmp_path, bytes_changed)
    assert passed
    assert failed


# ---- 8 to 12: something else


def archives() -> dict[str, bytes]:
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.meta"))
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("model.meta", "x")
    return {"gzip": gzip.compress(b"x"), "zip": zipped.getvalue(), "tar": tar.getvalue()}


STRANGERS = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html><body>Not found</body></html>", "download it again"),
    "a JSON text": (b'{"message": "Not Found"}', "server's error"),
    **{f"a {kind} archive": (content, "unpack it first") for kind, content in archives().items()},
}


def strange(folder: Path, member: str, what: str) -> None:
    content, todo = STRANGERS[what]
    (folder / member).write_bytes(content)
    if member == DATA and (size := (folder / DATA).stat().st_size) < 100:
        assert size < golden(NAME).folder.joinpath(DATA).stat().st_size
    refused(folder, str(folder / member), f"this is {what}", todo)


@pytest.mark.parametrize("member", MEMBERS)
def test_08_a_git_lfs_pointer_is_told(folder: Path, member: str):
    strange(folder, member, "a Git LFS pointer")


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("what", ["a web page", "a JSON text"])
def test_09_a_failed_download_is_told(folder: Path, member: str, what: str):
    strange(folder, member, what)


@pytest.mark.parametrize("member", MEMBERS[:2])
@pytest.mark.parametrize("what", ["a gzip archive", "a zip archive", "a tar archive"])
def test_10_an_archive_is_told_and_to_be_unpacked(folder: Path, member: str, what: str):
    strange(folder, member, what)


def test_10_an_archive_is_told_in_the_place_of_values_though_it_is_large_enough(folder: Path):
    size = (folder / DATA).stat().st_size
    (folder / DATA).write_bytes(gzip.compress(os.urandom(size)).ljust(size, b"\0"))
    error = refusal(values, folder)
    assert (error.where, error.what) == (str(folder / DATA), "this is a gzip archive, not a part of a checkpoint")


@pytest.mark.parametrize("member", MEMBERS[:2])
def test_11_an_empty_file_is_told(folder: Path, member: str):
    os.truncate(folder / member, 0)
    refused(folder, member, "this file is empty")


def test_12_what_is_no_meta_is_told(folder: Path):
    meta, content = folder / "model.meta", golden(NAME).meta.SerializeToString()
    meta.write_bytes(golden(NAME).meta.graph_def.SerializeToString())
    refused(folder, "model.meta", "a GraphDef, as frozen graphs are")
    digits = [len(content) & 127 | 128, len(content) >> 7 & 127 | 128, len(content) >> 14]
    meta.write_bytes(b"\x08\x01\x12" + bytes(digits) + content)  # version 1, and a graph as its second field
    refused(folder, "model.meta", "a SavedModel")
    meta.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(folder, "model.meta", "an HDF5 file")


def test_12_a_meta_in_text_form_is_read(folder: Path):
    (folder / "model.meta").write_text(str(golden(NAME).meta))
    assert len(settled(folder, NAME).below.nodes) == len(settled(golden(NAME).folder, NAME).below.nodes)


# ---- 13 and 14: what cannot be read


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:  # the whole path may be too long
        listener.bind(path.name)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("make", [a_folder, os.mkfifo, a_socket, a_device, a_dangling_link], ids=lambda f: f.__name__)
def test_13_what_is_no_file_is_refused_at_once(folder: Path, member: str, make: Callable[[Path], None]):
    (folder / member).unlink()
    make(folder / member)
    refused(folder / "model", member)


def test_13_a_pipe_that_only_looks_like_a_member_is_not_read(folder: Path):
    os.mkfifo(folder / "model.data-00007-of-00009")
    assert sorted(digest(settled(folder, NAME).pair.files)) == sorted(MEMBERS)


@contextlib.contextmanager
def as_somebody(folder: Path) -> Iterator[None]:
    """As a user whom permissions hold off, which they do not the superuser."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A pair in a folder that everybody may read."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield copied(NAME, Path(path) / "pair")


@pytest.mark.parametrize("member", MEMBERS)
def test_14_a_file_that_may_not_be_read_is_named_and_the_user_too(open_folder: Path, member: str):
    (open_folder / member).chmod(0)
    with as_somebody(open_folder):
        user = pwd.getpwuid(os.geteuid()).pw_name
        refused(open_folder, str(open_folder / member), f"user {user} has no permission")


# ---- 15 to 19: names


@pytest.mark.parametrize("way", ["", "/", "/model", *(f"/{member}" for member in MEMBERS)])
def test_15_any_way_to_name_a_pair_means_the_same(folder: Path, way: str):
    assert find_pair(f"{folder}{way}").prefix == str(folder / "model")


def test_16_a_prefix_may_have_no_name(tmp_path: Path):
    folder = copied(NAME, tmp_path / "pair")
    for member in MEMBERS:
        (folder / member).rename(folder / member.removeprefix("model"))
    for path in (f"{folder}/", str(folder), str(folder / ".meta")):
        assert len(settled(Path(path), NAME).variables) == len(golden(NAME).keys)


def test_17_several_pairs_are_listed(folder: Path):
    for member in MEMBERS:
        shutil.copy(folder / member, folder / member.replace("model", "second"))
    (folder / "checkpoint").unlink()
    refused(folder, "holds 2 pairs", "model, second")


ODD = ["a b", "größe", "run[1,2]", "*", "?", "a\nb", "x" * 200, "-x", "{a}", "a\\b", "~", "%s", "\x1b[31m"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_18_folders_and_prefixes_may_have_odd_names(tmp_path: Path, name: str):
    folder = copied(NAME, tmp_path / name)
    for member in MEMBERS:
        (folder / member).rename(folder / member.replace("model", name))
    (folder / "checkpoint").unlink()
    expected = values(golden(NAME).folder)
    found = read_values(settled(folder / name, NAME))
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in expected.items()}


def test_19_a_missing_shard_is_named(tmp_path: Path):
    header = BundleHeaderProto(num_shards=3).SerializeToString()
    entry = BundleEntryProto(dtype=1, size=20, shard_id=1)
    entry.shape.dim.add().size = 5
    folder = Path(pair(tmp_path, variable("sentence/bias", 5)))
    (folder / "model.index").write_bytes(packed([block({b"": header, b"sentence/bias": entry.SerializeToString()})]))
    (folder / DATA).unlink()
    for shard in (0, 2):
        (folder / f"model.data-{shard:05d}-of-00003").write_bytes(bytes(20))
    error = refusal(read_source, str(folder), "out", {}, {})
    assert error.where == str(folder / "model.data-00001-of-00003")


# ---- 20 to 23: other checkpoints


def test_20_values_of_another_checkpoint_are_told(folder: Path):
    content = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(bytes(byte ^ 1 for byte in content))
    error = refusal(values, folder)
    count = len(golden(NAME).keys)
    assert error.where == str(folder / DATA)
    assert f"checksum does not match; nor can those of {count - 1} others of {count}" in error.what
    assert "of one checkpoint" in error.todo


def test_21_a_graph_of_another_model_is_told(tmp_path: Path):
    folder = pair(tmp_path, variable("tower/a", 5), variable("tower/b", 5))
    error = refusal(read_source, folder, "out", {}, {})
    assert "2 of 2 variables below the cut" in error.what
    assert error.todo


def test_22_a_checkpoint_of_one_file_is_read(tmp_path: Path):
    folder = copied("v1_checkpoint", tmp_path / "pair")
    about = golden("v1_checkpoint")
    source = settled(folder, "v1_checkpoint")
    assert {v.key for v in source.variables} == set(about.keys.values())
    assert all(value.size for value in read_values(source).values())


def big_endian(folder: Path) -> None:
    """Rewrites a checkpoint as a machine of the other byte order would have written it."""
    entries = read_index(str(folder / "model"))
    content = bytearray((folder / DATA).read_bytes())
    records = dict(table.records(folder / "model.index"))
    for name, entry in entries.items():
        width = entry.size // max(1, int(np.prod(entry.shape)))
        piece = np.frombuffer(bytes(content[entry.offset : entry.offset + entry.size]), f"V{width}")
        turned = b"".join(bytes(value)[::-1] for value in piece.tolist())
        content[entry.offset : entry.offset + entry.size] = turned
        proto = BundleEntryProto.FromString(records[name.encode()])
        proto.crc32c = table.masked_crc32c(turned)
        records[name.encode()] = proto.SerializeToString()
    header = BundleHeaderProto.FromString(records[b""])
    header.endianness = BundleHeaderProto.BIG
    records[b""] = header.SerializeToString()
    (folder / DATA).write_bytes(content)
    (folder / "model.index").write_bytes(packed([block(records)]))


def test_23_a_checkpoint_of_a_big_endian_machine_has_the_same_values(folder: Path):
    before, content = values(folder), (folder / DATA).read_bytes()
    big_endian(folder)
    assert (folder / DATA).read_bytes() != content
    after = values(folder)
    assert {n: v.tolist() for n, v in after.items()} == {n: v.tolist() for n, v in before.items()}


# ---- 24 to 26: places and sizes


def test_24_a_folder_that_may_not_be_written_is_read_and_left_alone(open_folder: Path):
    open_folder.chmod(0o555)
    before = [(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(open_folder.iterdir())]
    with as_somebody(open_folder):
        with pytest.raises(PermissionError):
            (open_folder / "x").touch()
        assert values(open_folder)
        assert inspect(str(open_folder)).cuts
    assert [(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(open_folder.iterdir())] == before
    open_folder.chmod(0o755)


def in_place(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content)


def renamed_over(path: Path) -> None:
    shutil.copy2(path, path.with_name("aside"))
    os.replace(path.with_name("aside"), path)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("write", [in_place, renamed_over, Path.unlink], ids=lambda f: f.__name__)
def test_25_a_file_that_changes_while_it_is_read_is_named(folder: Path, member: str, write: Callable[[Path], Any]):
    source = settled(folder, NAME)
    digests = digest(source.pair.files)
    assert read_values(source)
    write(folder / member)
    error = refusal(read_values, source)
    if write is not Path.unlink or member == "model.meta":
        assert (error.where, error.what) == (str(folder / member), "this file changed while it was being read")
    assert set(digests) == set(MEMBERS)


def test_26_a_meta_that_is_too_large_for_its_format_is_told_at_once(folder: Path):
    content = (folder / "model.meta").read_bytes()
    os.truncate(folder / "model.meta", 3 * 2**30)
    refused(folder, "model.meta", "3,221,225,472 bytes", "at most 2,147,483,647")
    (folder / "model.meta").write_bytes(content)
    os.truncate(folder / "model.index", 3 * 2**30)
    refused(folder, "model.index")


MEMORY = """
import json, resource, sys
from finetune.reading.weights import read_tensors
read_tensors(sys.argv[1], ["b"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_tensors(sys.argv[1], ["a"])
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


@pytest.mark.slow
def test_26_a_huge_checkpoint_takes_the_memory_of_what_is_read(tmp_path: Path):
    size = 64 * 2**20
    zeros = np.zeros(size // 4, np.float32)
    records = {b"": BundleHeaderProto(num_shards=1).SerializeToString()}
    for name, offset, values in ((b"a", 50 * 2**30, zeros), (b"b", 0, zeros[:4])):
        proto = BundleEntryProto(
            dtype=1, offset=offset, size=values.nbytes, crc32c=table.masked_crc32c(values.tobytes())
        )
        proto.shape.dim.add().size = values.size
        records[name] = proto.SerializeToString()
    (tmp_path / "model.index").write_bytes(packed([block(records)]))
    (tmp_path / DATA).touch()
    os.truncate(tmp_path / DATA, 50 * 2**30 + size)  # a file with a hole
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "model")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    assert json.loads(result.stdout) < 2 * size
    entries = read_index(str(tmp_path / "model"))
    check_data(str(tmp_path / "model"), entries, ["a"])
    assert stat.S_ISREG((tmp_path / DATA).stat().st_mode)
    assert read(golden(NAME).folder / "model.meta")
