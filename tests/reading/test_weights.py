"""Checkpoints read without TensorFlow, against TensorFlow's own reader and against damaged and hostile files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.protos import BundleEntryProto, BundleHeaderProto, SavedTensorSlices
from finetune.reading import slices
from finetune.reading.weights import check_data, read_index, read_tensors, restore

WHOLE = np.arange(320, dtype=np.float32).reshape(40, 8)
PLAIN = {
    "a/weights": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "a/count": np.array(7, np.int64),
    "a/empty": np.zeros([0, 3], np.float32),
    "b/flags": np.array([True, False]),
    "b/half": np.array([0.5, 2.0], np.float16),
    "b/words": np.array([b"one", b"", b"three\0"], object),
    "b/word": np.array(b"end\0", object),
}
# What the pieces of a partitioned variable are written as, and the rows that they hold.
PIECES = {"40 8 0,25:0,8": WHOLE[:25], "40 8 25,15:-": WHOLE[25:]}


@pytest.fixture(scope="module")
def tf() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


def save_tensors(tf: Any, path: Path, tensors: list[tuple[str, str, Any]], version: int = 2) -> None:
    """Writes name, shape and slice, and values, as the ops of a Saver do."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        names, specs, values = map(list, zip(*tensors, strict=True))
        if version == 1:
            op = tf.raw_ops.SaveSlices(filename=str(path), tensor_names=names, shapes_and_slices=specs, data=values)
        else:
            op = tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=specs, tensors=values)
        session.run(op)


@pytest.fixture(scope="module")
def made(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints as TensorFlow writes them: v2, sharded, pieces, half, v1, v1_sharded, v1_pieces."""
    folder = tmp_path_factory.mktemp("made")
    plain = [(name, "", value) for name, value in PLAIN.items()]
    pieces = [("p", spec, value) for spec, value in PIECES.items()]
    v1 = [("w", "", PLAIN["a/weights"]), ("n", "", PLAIN["a/count"]), ("flags", "", PLAIN["b/flags"])]

    save = partial(save_tensors, tf)
    save(folder / "v2", plain)
    save(folder / "pieces", [*plain, *pieces])
    save(folder / "half", [(name, spec, value.astype(np.float16)) for name, spec, value in pieces])
    save(folder / "v1", v1, version=1)
    save(folder / "v1_pieces", [*v1, *pieces], version=1)
    save(folder / "v1_sharded-00000-of-00002", [*v1, pieces[0]], version=1)
    save(folder / "v1_sharded-00001-of-00002", [pieces[1]], version=1)
    save(folder / "part0", [*plain, pieces[0]])
    save(folder / "part1", [pieces[1]])
    parts = [str(folder / "part0"), str(folder / "part1")]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(
            tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(folder / "sharded"))
        )
    return folder


def copied(made: Path, name: str, to: Path) -> str:
    """The prefix of a copy that a test may damage."""
    to.mkdir(parents=True, exist_ok=True)
    for path in made.iterdir():
        if path.name == name or path.name.startswith((f"{name}.", f"{name}-")):
            shutil.copy(path, to)
    return str(to / name)


def refusal(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == "source"
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


# What TensorFlow wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v2", "sharded", "pieces", "half", "v1", "v1_pieces", "v1_sharded"])
def test_the_index_is_what_tensorflow_lists(tf: Any, made: Path, name: str) -> None:
    found = read_index(str(made / name))
    reader = tf.train.load_checkpoint(str(made / name) + ("-?????-of-?????" if name == "v1_sharded" else ""))
    types = {key: dtype.as_datatype_enum for key, dtype in reader.get_variable_to_dtype_map().items()}
    shapes = reader.get_variable_to_shape_map()
    assert list(found) == sorted(shapes)
    assert {key: list(entry.shape) for key, entry in found.items()} == shapes
    assert {key: entry.dtype for key, entry in found.items()} == types


@pytest.mark.parametrize("name", ["sharded", "pieces", "v1_pieces", "v1_sharded"])
def test_partitioned_variables_keep_their_pieces_in_the_words_of_saver(made: Path, name: str) -> None:
    found = read_index(str(made / name))
    assert found["p"].shape == (40, 8)
    assert [piece.spec for piece in found["p"].slices] == ["0,25:0,8", "25,15:-"]
    assert [piece.shard for piece in found["p"].slices] == ([0, 1] if name.endswith("sharded") else [0, 0])
    assert found["p"].size == (0 if name.startswith("v1") else WHOLE.nbytes)
    assert not any(entry.slices for key, entry in found.items() if key != "p")


def test_places_are_those_of_the_bytes(made: Path) -> None:
    entry = read_index(str(made / "v2"))["a/weights"]
    data = (made / "v2.data-00000-of-00001").read_bytes()
    assert data[entry.offset : entry.offset + entry.size] == PLAIN["a/weights"].tobytes()


def test_the_index_is_read_without_tensorflow(made: Path) -> None:
    code = """
import sys
from finetune.reading.weights import check_data, read_index
for prefix in sys.argv[1:]:
    entries = read_index(prefix)
    check_data(prefix, entries, entries)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, made / "pieces", made / "v1"], check=True, timeout=60)


@pytest.mark.parametrize("name", ["v2", "sharded", "pieces"])
def test_values(made: Path, name: str) -> None:
    expected = PLAIN if name == "v2" else PLAIN | {"p": WHOLE}
    found = read_tensors(str(made / name), expected)
    assert read_tensors(str(made / name), []) == {}
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        assert np.array_equal(found[key], value)


@pytest.mark.parametrize("name", ["v1", "v1_pieces", "v1_sharded"])
def test_values_of_v1(made: Path, name: str) -> None:
    expected = {"w": PLAIN["a/weights"], "n": PLAIN["a/count"], "flags": PLAIN["b/flags"]}
    expected |= {} if name == "v1" else {"p": WHOLE}
    found = read_tensors(str(made / name), expected)
    assert all(found[key].dtype == value.dtype and np.array_equal(found[key], value) for key, value in expected.items())


def test_values_of_types_whose_pieces_tensorflow_does_not_join(made: Path) -> None:
    assert np.array_equal(read_tensors(str(made / "half"), ["p"])["p"], WHOLE.astype(np.float16))


@pytest.mark.parametrize("name", ["sharded", "pieces", "v1_pieces", "v1_sharded"])
def test_tensorflow_restores_pieces_as_a_saver_asks_for_them(made: Path, name: str) -> None:
    whole, inner = restore(str(made / name), [("p", "", 1), ("p", "40 8 20,10:-", 1)])
    assert np.array_equal(whole, WHOLE)
    assert np.array_equal(inner, WHOLE[20:30])
    assert restore(str(made / name), []) == []


def test_tensorflow_restores_texts_and_scalars(made: Path) -> None:
    words, word, count = restore(str(made / "v2"), [("b/words", "", 7), ("b/word", "", 7), ("a/count", "", 9)])
    assert (words.tolist(), word.tolist(), count) == ([b"one", b"", b"three\0"], b"end\0", 7)


def test_tensorflow_does_not_join_pieces_of_every_type(tf: Any, made: Path) -> None:
    with pytest.raises(tf.errors.OpError):
        restore(str(made / "half"), [("p", "", 19)])


@pytest.mark.parametrize("folder", ["lr=[0.1,x]", "what?", "a*b", "back\\slash"])
@pytest.mark.parametrize("name", ["sharded", "v1", "v1_sharded"])
def test_folders_that_tensorflow_takes_for_patterns(made: Path, tmp_path: Path, folder: str, name: str) -> None:
    prefix = copied(made, name, tmp_path / folder)
    found = read_index(prefix)
    check_data(prefix, found, found)
    assert set(read_tensors(prefix, found)) == set(found)


def test_a_prefix_that_is_also_a_folder(made: Path, tmp_path: Path) -> None:
    prefix = copied(made, "v2", tmp_path)
    (tmp_path / "v2").mkdir()
    for ending in (".index", ".data-00000-of-00001"):
        shutil.copy(prefix + ending, tmp_path / "v2" / ending)
    for same in (prefix, f"{prefix}/"):
        assert read_tensors(same, ["a/count"])["a/count"] == 7


# What is missing or damaged ------------------------------------------------------------------------------------------


def test_names_that_the_checkpoint_lacks(made: Path) -> None:
    error = refusal(lambda: read_tensors(str(made / "v2"), ["a/count", "c"]))
    assert "no c" in error.what
    assert "a/count" in error.todo


def test_nothing_there(tmp_path: Path) -> None:
    assert "neither" in refusal(lambda: read_index(str(tmp_path / "m"))).what
    assert "a folder" in refusal(lambda: read_index(str(tmp_path))).what
    refusal(lambda: read_index(f"{tmp_path}/a\0b"))


@pytest.mark.parametrize("ending", ["", ".index"])
def test_other_files_in_its_place(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m{ending}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in refusal(lambda: read_index(str(tmp_path / "m"))).what
    path.write_bytes(b"x" * 1000)
    assert "no whole checkpoint" in refusal(lambda: read_index(str(tmp_path / "m"))).what
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in refusal(lambda: read_index(str(tmp_path / "m"))).what


def test_an_index_given_as_if_it_were_v1(made: Path) -> None:
    assert "list of tensors" in refusal(lambda: read_index(str(made / "v2.index"))).what


def test_a_missing_data_file_is_named(made: Path, tmp_path: Path) -> None:
    prefix = copied(made, "sharded", tmp_path)
    found = read_index(prefix)
    os.remove(f"{prefix}.data-00001-of-00002")
    error = refusal(lambda: check_data(prefix, found, found))
    assert error.where == f"{prefix}.data-00001-of-00002"
    assert "sharded.data-00000-of-00002" in error.what
    check_data(prefix, found, ["a/weights"])
    os.remove(f"{prefix}.data-00000-of-00002")
    assert "no other" in refusal(lambda: read_tensors(prefix, ["p"])).what


def test_a_short_data_file(made: Path, tmp_path: Path) -> None:
    prefix = copied(made, "v2", tmp_path)
    path = Path(f"{prefix}.data-00000-of-00001")
    size = path.stat().st_size
    entries = read_index(prefix)
    os.truncate(path, size - 1)
    assert refusal(lambda: check_data(prefix, entries, ["a/count"])).what == f"expected {size} bytes, found {size - 1}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in refusal(lambda: check_data(prefix, entries, entries)).what
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in refusal(lambda: check_data(prefix, entries, entries)).what


def test_a_missing_part_of_v1(made: Path, tmp_path: Path) -> None:
    prefix = copied(made, "v1_sharded", tmp_path)
    os.remove(f"{prefix}-00000-of-00002")
    error = refusal(lambda: read_index(prefix))
    assert error.where == f"{prefix}-00000-of-00002"
    assert "there is v1_sharded-00001-of-00002" in error.what
    for name in ("v1_sharded-00000-of-00001", "v1_sharded-00000-of-00002"):
        shutil.copy(made / "v1_sharded-00000-of-00002", tmp_path / name)
    assert "several checkpoints" in refusal(lambda: read_index(prefix)).what


def test_damaged_values_name_their_tensor(made: Path, tmp_path: Path) -> None:
    prefix = copied(made, "v2", tmp_path)
    data = bytearray(Path(f"{prefix}.data-00000-of-00001").read_bytes())
    data[read_index(prefix)["a/weights"].offset] ^= 1
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    error = refusal(lambda: read_tensors(prefix, ["a/count", "a/weights"]))
    assert "'a/weights'" in error.what
    assert "checksum" in error.what
    assert read_tensors(prefix, ["a/count"])["a/count"] == 7


def test_damaged_values_of_v1_beyond_the_first_block(tf: Any, tmp_path: Path) -> None:
    prefix = str(tmp_path / "big")
    tensors = [(name, "", np.full([100_000], number, np.float32)) for number, name in enumerate("ab", 1)]
    save_tensors(tf, Path(prefix), tensors, version=1)
    data = bytearray(Path(prefix).read_bytes())
    data[len(data) // 2 + 100_000] ^= 1
    Path(prefix).write_bytes(data)
    assert list(read_index(prefix)) == ["a", "b"]
    assert read_tensors(prefix, ["a"])["a"].sum() == 100_000
    assert "'b'" in refusal(lambda: read_tensors(prefix, ["a", "b"])).what


@pytest.mark.parametrize(("name", "ending"), [("pieces", ".index"), ("v1", "")])
def test_no_damaged_byte_and_no_early_end_goes_unseen(made: Path, tmp_path: Path, name: str, ending: str) -> None:
    prefix = copied(made, name, tmp_path)
    path = Path(prefix + ending)
    content, intact = path.read_bytes(), read_index(prefix)
    harmless = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with contextlib.suppress(UserError):
            assert read_index(prefix) == intact
            harmless += 1
    assert harmless <= 48 + 13  # the padding of the footer and the empty block for metadata
    for end in range(len(content)):
        path.write_bytes(content[:end])
        refusal(lambda: read_index(prefix))


# What TensorFlow would not write -------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """The checksum bit by bit, as slow and as plain as it can be."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    digits = b""
    while number > 127:
        digits += bytes([number & 127 | 128])
        number >>= 7
    return digits + bytes([number])


def block(records: Mapping[bytes, bytes]) -> bytes:
    entries = [b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in records.items()]
    restarts = [sum(map(len, entries[:number])) for number in range(len(entries))]
    return b"".join(entries) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(blocks: list[bytes], kind: int = 0) -> bytes:
    """A table of data blocks that are given as they are to be stored."""
    content, handles = b"", []
    index = {bytes([255, number]): number for number in range(len(blocks))}
    for data in [*blocks, block({}), None]:
        data = block({key: handles[number] for key, number in index.items()}) if data is None else data
        trailer = bytes([kind if len(handles) < len(blocks) else 0])
        handles.append(varint(len(content)) + varint(len(data)))
        content += data + trailer + struct.pack("<I", crc32c(data + trailer))
    return content + (handles[-2] + handles[-1]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def header(**fields: Any) -> bytes:
    return BundleHeaderProto(**{"num_shards": 1, **fields}).SerializeToString()


def entry(shape: list[int] | None = None, spec: list[slices.Extents] | None = None, **fields: Any) -> bytes:
    proto = BundleEntryProto(**{"dtype": 1, "size": 24, **fields})
    for size in [2, 3] if shape is None else shape:
        proto.shape.dim.add().size = size
    for extents in spec or []:
        add_slice(proto.slices.add(), extents)
    return proto.SerializeToString()


def add_slice(proto: Any, extents: slices.Extents) -> None:
    for start, length in extents:
        extent = proto.extent.add()
        extent.start = start
        if length != -1:
            extent.length = length


HALVES: list[slices.Extents] = [((0, 1), slices.ALL), ((1, 1), slices.ALL)]


def key(number: int) -> bytes:
    return slices.stored_key(b"w", HALVES[number])


def row(**fields: Any) -> bytes:
    return entry([1, 3], **{"size": 12, **fields})


def test_a_table_of_our_own_is_what_tensorflow_lists(tf: Any, tmp_path: Path) -> None:
    pieces = {key(number): row(offset=12 * number) for number in (0, 1)}
    first = block({b"": header(), **pieces, b"v": entry(spec=None)})
    content = table([first, block({b"w": entry(spec=HALVES, size=0)})])
    (tmp_path / "m.index").write_bytes(content)
    found = read_index(str(tmp_path / "m"))
    assert {name: list(each.shape) for name, each in found.items()} == {"v": [2, 3], "w": [2, 3]}
    assert tf.train.list_variables(str(tmp_path / "m")) == [("v", [2, 3]), ("w", [2, 3])]
    assert [(piece.spec, piece.offset) for piece in found["w"].slices] == [("0,1:-", 0), ("1,1:-", 12)]


HOSTILE_HEADERS = {
    "no data files": header(num_shards=0),
    "fewer than none": header(num_shards=-1),
    "too many": header(num_shards=2**31 - 1),
    "neither little-endian nor big-endian": header(endianness=2),
    "newer": header(version={"producer": 9, "min_consumer": 9}),
    "garbled": b"\xff\xff\xff",
}
HOSTILE_ENTRIES = {
    "overflow": entry([2**40, 2**40]),
    "overflow beside zero": entry([2**40, 0, 2**40], size=0),
    "negative dimension": entry([2, -3]),
    "unknown dimension": entry([-1]),
    "1000 dimensions": entry([1] * 1000, size=4),
    "unknown rank": BundleEntryProto(dtype=1, shape={"unknown_rank": True}).SerializeToString(),
    "unknown type": entry(dtype=999),
    "no type": entry(dtype=0),
    "a reference": entry(dtype=101),
    "negative size": entry(size=-24),
    "size unlike the shape": entry(size=20),
    "terabytes in no bytes": entry([2**40], size=4),
    "too few bytes for its strings": entry(dtype=7, size=5),
    "negative offset": entry(offset=-1),
    "negative data file": entry(shard_id=-1),
    "data file beyond the last": entry(shard_id=1),
    "garbled": b"\x12\xff\xff",
    "pieces without their data": entry(spec=HALVES),
    "a piece beyond the shape": entry(spec=[((0, 1), slices.ALL), ((1, 2), slices.ALL)]),
    "a piece before the shape": entry(spec=[((-1, 3), slices.ALL)]),
    "a piece of another rank": entry(spec=[((0, 2),)]),
    "an empty piece": entry(spec=[((0, 0), slices.ALL)]),
    "a piece that overflows": entry(spec=[((2**62, 2**62), slices.ALL)]),
    "half of the pieces": entry(spec=HALVES[:1]),
}


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_hostile_headers(tmp_path: Path, what: str) -> None:
    (tmp_path / "m.index").write_bytes(table([block({b"": HOSTILE_HEADERS[what]})]))
    refusal(lambda: read_index(str(tmp_path / "m")))


@pytest.mark.parametrize("what", HOSTILE_ENTRIES)
def test_hostile_entries(tmp_path: Path, what: str) -> None:
    (tmp_path / "m.index").write_bytes(table([block({b"": header(), b"w": HOSTILE_ENTRIES[what]})]))
    error = refusal(lambda: read_index(str(tmp_path / "m")))
    assert what == "garbled" or "'w'" in error.what


@pytest.mark.parametrize(
    "records",
    [
        {key(0): row(dtype=2, size=24), key(1): row(), b"w": entry(spec=HALVES)},
        {key(0): entry([3, 1], size=12), key(1): row(), b"w": entry(spec=HALVES)},
        {key(0): row(), key(1): row(), b"w": entry(spec=[HALVES[0], HALVES[0]])},
        {key(0): row(), key(1): row(), b"w": entry()},
        {b"w\xff": entry()},
        {b"w": entry(), b"v": entry()},
    ],
    ids=["another type", "another shape", "twice the same", "pieces of nothing", "no UTF-8", "out of order"],
)
def test_hostile_records(tmp_path: Path, records: dict[bytes, bytes]) -> None:
    (tmp_path / "m.index").write_bytes(table([block({b"": header(), **records})]))
    refusal(lambda: read_index(str(tmp_path / "m")))


@pytest.mark.parametrize(
    "content",
    [
        table([]),
        table([block({})]),
        table([block({b"w": entry()})]),
        table([block({b"": header()})], kind=2),
        table([block({b"": header()})], kind=1),
        table([struct.pack("<I", 2**32 - 1)]),
        table([b"\0\0" + b"\xff" * 20 + struct.pack("<I", 0)]),
        table([b"\1\0\0" + struct.pack("<I", 0)]),
        table([b"\0\0\5" + struct.pack("<I", 0)]),
        bytes([255] * 40) + struct.pack("<Q", 0xDB4775248B80FB57),
        b"\0\0\0\1".ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57),
    ],
    ids=[
        "no block",
        "an empty block",
        "no header",
        "unknown compression",
        "garbled compression",
        "too many restarts",
        "a number without end",
        "a key that shares with none",
        "a value beyond the block",
        "a footer of endless numbers",
        "an index block outside the file",
    ],
)
def test_hostile_tables(tmp_path: Path, content: bytes) -> None:
    for name in ("m.index", "v1"):
        (tmp_path / name).write_bytes(content)
    refusal(lambda: read_index(str(tmp_path / "m")))
    refusal(lambda: read_index(str(tmp_path / "v1")))


def v1(*tensors: dict[str, Any], **fields: Any) -> bytes:
    saved = SavedTensorSlices(meta={"versions": {"producer": 1, **fields}})
    for tensor in tensors:
        proto = saved.meta.tensor.add(name=tensor.get("name", "w"), type=tensor.get("type", 1))
        for size in tensor.get("shape", [2, 3]):
            proto.shape.dim.add().size = size
        for extents in tensor.get("spec", [(slices.ALL, slices.ALL)]):
            add_slice(proto.slice.add(), extents)
    return table([block({b"": saved.SerializeToString()})])


def test_v1_pieces_may_be_listed_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(v1({"spec": HALVES[:1]}, {"spec": HALVES[1:]}, {"name": "v"}))
    found = read_index(str(tmp_path / "m"))
    assert {name: [piece.spec for piece in each.slices] for name, each in found.items()} == {
        "v": [],
        "w": ["0,1:-", "1,1:-"],
    }


@pytest.mark.parametrize(
    "content",
    [
        v1({"shape": [2**40, 2**40]}),
        v1({"shape": [-2, 3]}),
        v1({"shape": [1] * 1000, "spec": [(slices.ALL,) * 1000]}),
        v1({"type": 999}),
        v1({"spec": []}),
        v1({"spec": HALVES[:1]}),
        v1({"spec": [((1, 2), slices.ALL)]}),
        v1({"spec": HALVES[:1]}, {"spec": HALVES[1:], "type": 2}),
        v1({}, {}),
        v1({}, min_consumer=9),
        table([block({b"": b"\xff\xff"})]),
    ],
)
def test_hostile_v1(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    refusal(lambda: read_index(str(tmp_path / "m")))


def test_garbage_behind_good_checksums_is_refused_or_harmless(made: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    pieces = {key(number): row(offset=12 * number) for number in (0, 1)}
    good = block({b"": header(), **pieces, b"v": entry(), b"w": entry(spec=HALVES, size=0)})
    for _ in range(1000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        (tmp_path / "m.index").write_bytes(table([bytes(bad)]))
        with contextlib.suppress(UserError):
            found = read_index(str(tmp_path / "m"))
            assert all(min(each.shape, default=0) >= 0 <= each.size for each in found.values())


# Snappy, in which TensorFlow 1.1 and some SavedModels wrote their indices --------------------------------------------


def snappy(data: bytes) -> bytes:
    """Copies of the last four bytes or more that are the same, of each kind in turn; single bytes otherwise."""
    out, at, turn = varint(len(data)), 0, 0
    while at < len(data):
        size = next((n for n in range(11, 3, -1) if data.rfind(data[at : at + n], 0, at + n - 1) >= 0), 0)
        back = at - data.rfind(data[at : at + size], 0, at + size - 1)
        if not size or at + size > len(data):
            out, at = out + b"\0" + data[at : at + 1], at + 1
            continue
        kind = turn % 3
        out += [
            bytes([1 | size - 4 << 2 | back >> 8 << 5, back & 255]),
            bytes([2 | size - 1 << 2]) + back.to_bytes(2, "little"),
            bytes([3 | size - 1 << 2]) + back.to_bytes(4, "little"),
        ][kind]
        at, turn = at + size, turn + 1
    return out


def test_a_compressed_index(tf: Any, tmp_path: Path) -> None:
    names = [f"layer_{number}/{'x' * 20}/weights".encode() for number in range(9)]
    plain = block({b"": header(), **{name: entry() for name in names}})
    packed = snappy(plain)
    assert len(packed) < len(plain)
    (tmp_path / "m.index").write_bytes(table([packed], kind=1))
    assert list(read_index(str(tmp_path / "m"))) == [name.decode() for name in names]
    assert [name for name, _ in tf.train.list_variables(str(tmp_path / "m"))] == [name.decode() for name in names]


@pytest.mark.parametrize("size", [59, 60, 61, 256, 257, 70_000])
def test_compressed_literals_of_all_sizes(tmp_path: Path, size: int) -> None:
    plain = block({b"": header(), b"w": entry(), b"x" * size: entry()})
    width = ((len(plain) - 1).bit_length() + 7) // 8
    literal = bytes([59 + width << 2]) + (len(plain) - 1).to_bytes(width, "little") + plain
    (tmp_path / "m.index").write_bytes(table([varint(len(plain)) + literal], kind=1))
    assert len(read_index(str(tmp_path / "m"))) == 2


def test_garbage_in_a_compressed_index(tmp_path: Path) -> None:
    rng = random.Random(0)
    packed = snappy(block({b"": header(), b"weights": entry(), b"weights/Adam": entry()}))
    for _ in range(200):
        bad = bytearray(packed)
        bad[rng.randrange(len(bad))] = rng.randrange(256)
        (tmp_path / "m.index").write_bytes(table([bytes(bad[: rng.randint(1, len(bad))])], kind=1))
        with contextlib.suppress(UserError):
            read_index(str(tmp_path / "m"))
