"""Examples are read whole or refused, and each is always on the same side of the hold-out."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune import packaged
from finetune.examples import folders
from finetune.examples.data import Examples, from_arrays, hold_out
from finetune.examples.folders import class_folders
from finetune.examples.kinds import read_examples
from finetune.examples.numpy_files import arrays
from finetune.examples.tasks import make_task, with_targets
from finetune.recipe import Data, Head
from tests.graphs import refusal

PNG = b"\x89PNG\r\n\x1a\n"


def images(root: Path, **counts: int) -> Path:
    """Class folders of files that begin as images do, each of another content."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(PNG + f"{name} {i}".encode())
    return root


def npz(path: Path, **content: object) -> str:
    np.savez(path, **content)  # type: ignore[arg-type]
    return str(path)


def some(*contents: str, labels: list[int] | None = None) -> Examples:
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in contents]
    numbers = np.asarray(labels if labels is not None else [0] * len(contents), np.int64)
    return Examples(list(contents), {"labels": numbers}, hashes, targets={"head": numbers})


def of_folders(path: Path | str) -> Examples:
    return class_folders(str(path), "labels")


def learnt(examples: Examples) -> tuple[tuple[str, ...], list[int]]:
    """The classes of the one column, and the place of each example among them."""
    task = make_task("head", Head(), "cut:0", "labels", examples)
    return task.classes, with_targets(examples, [task]).targets["head"].tolist()


# ---- class folders


def test_classes_are_the_folders_in_alphabetical_order(tmp_path):
    found = of_folders(images(tmp_path, dog=2, cat=1, ant=1))
    assert learnt(found) == (("ant", "cat", "dog"), [0, 1, 2, 2])
    assert [Path(s).parent.name for s in found.sources] == ["ant", "cat", "dog", "dog"]


def test_the_order_of_the_files_is_that_of_their_names(tmp_path):
    images(tmp_path, a=1, b=1)
    for name in ("z.jpg", "m.JPEG", "deep.gif"):
        (tmp_path / "a" / name).write_bytes(b"\xff\xd8\xff" + name.encode())
    assert [Path(s).name for s in of_folders(tmp_path).sources[:4]] == [
        "000.png",
        "deep.gif",
        "m.JPEG",
        "z.jpg",
    ]


def test_folders_may_be_called_anything(tmp_path):
    root = images(tmp_path / "lr=[0.1] größe *", **{"klasse eins": 1, "[b]": 1, "模型": 1})
    assert learnt(of_folders(root))[0] == ("[b]", "klasse eins", "模型")


def test_a_path_may_begin_at_home_or_at_somebody_who_is_not_here(tmp_path, monkeypatch):
    images(tmp_path, a=1, b=1)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert len(of_folders(f"~/{tmp_path.name}")) == 2
    assert "there is no folder" in refusal(of_folders, "~nobody-of-that-name/x").what
    assert "there is no file" in refusal(arrays, "~nobody-of-that-name/x", ["x"], ["labels"]).what


def test_images_may_lie_deeper(tmp_path):
    images(tmp_path / "a", left=1, right=1)
    images(tmp_path, b=1)
    assert learnt(of_folders(tmp_path))[1] == [0, 0, 1]


def test_hidden_files_and_what_is_no_image_by_name_are_ignored(tmp_path):
    images(tmp_path, a=1, b=1, **{".git": 1})
    images(tmp_path / "a", **{".ipynb_checkpoints": 2})
    for name in ("._000.png", ".hidden.png", "Thumbs.db", "labels.txt"):
        (tmp_path / "a" / name).write_bytes(b"x")
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "readme.png").write_bytes(b"x")
    found = of_folders(tmp_path)
    assert learnt(found)[0] == ("a", "b")
    assert len(found) == 2


def test_131_no_such_folder(tmp_path):
    error = refusal(of_folders, str(tmp_path / "none"))
    assert (error.where, error.status) == ("data.path", 2)
    assert error.what == f"there is no folder '{tmp_path / 'none'}'"
    assert error.todo == "give a folder with one folder per class"


@pytest.mark.parametrize(("folders", "count"), [({}, "0 class folders"), ({"a": 1}, "1 class folder")])
def test_131_fewer_than_two_classes(tmp_path, folders, count):
    error = refusal(of_folders, str(images(tmp_path, **folders)))
    assert error.what == f"'{tmp_path}' has {count}"


def test_131_an_empty_class_is_named(tmp_path):
    error = refusal(of_folders, str(images(tmp_path, a=1, b=0)))
    assert (error.where, error.what) == (str(tmp_path / "b"), "the class folder is empty")
    assert ".png" in error.todo


def test_130_all_files_that_cannot_be_read_are_named_at_once(tmp_path):
    images(tmp_path, a=2, b=1)
    for name, content in (("a.png", b""), ("b.png", b"<html>"), ("c.jpg", b"version https://git-lfs")):
        (tmp_path / "a" / name).write_bytes(content)
    (tmp_path / "b" / "gone.png").symlink_to("nowhere")
    error = refusal(of_folders, str(tmp_path))
    lines = str(error).splitlines()
    assert lines[0].endswith("a.png (empty): this image cannot be read (4 such files); replace or remove it")
    assert [line.rpartition("/")[2] for line in lines[1:]] == [
        "b.png (not an image)",
        "c.jpg (not an image)",
        "gone.png (No such file or directory)",
    ]


def test_many_bad_files_are_five_lines_at_most(tmp_path):
    images(tmp_path, a=1, b=1)
    for i in range(100):
        (tmp_path / "a" / f"x{i}.png").touch()
    assert "(100 such files)" in str(refusal(of_folders, str(tmp_path)))


def test_one_bad_file_is_not_counted():
    error = refusal(folders.refuse_unreadable, ["x.png (empty)"])
    assert (error.where, error.what) == ("x.png (empty)", "this image cannot be read")
    folders.refuse_unreadable([])


def test_every_kind_of_image_begins_in_its_own_way(tmp_path):
    images(tmp_path, a=1, b=1)
    for i, start in enumerate((b"\xff\xd8\xff\xe0", b"GIF87a", b"GIF89a", b"BM", PNG)):
        (tmp_path / "a" / f"k{i}.bmp").write_bytes(start)  # names lie, and decoders look at the content
    assert len(of_folders(tmp_path)) == 7


def test_the_demo_has_class_folders():
    demo = Path(packaged.asset("demo/small_vgg")).parent
    folders = [d for d in demo.iterdir() if d.is_dir() and any(d.glob("*/*.png"))]
    for folder in folders:
        assert len(learnt(of_folders(folder))[0]) >= 2
    assert folders


# ---- a folder to evaluate on


def test_a_folder_to_evaluate_on_may_have_fewer_classes(tmp_path):
    images(tmp_path / "train", a=3, b=3, c=3)
    images(tmp_path / "test", c=1)
    words = Data(path=str(tmp_path / "train"), eval_path=str(tmp_path / "test"))
    training, held = read_examples(words, [], ["labels"])
    assert len(training) == 9
    assert held is not None
    assert held.columns["labels"].tolist() == ["c"]


def test_folders_have_one_label(tmp_path):
    error = refusal(read_examples, Data(path=str(images(tmp_path, a=1, b=1))), [], ["labels", "age"])
    assert (error.where, error.what) == ("head.labels", "'age': folders have one label, which is called 'labels'")


def test_a_folder_to_evaluate_on_without_images_is_not_passed_over(tmp_path):
    images(tmp_path / "train", a=3, b=3)
    (tmp_path / "test").mkdir()
    error = refusal(read_examples, Data(path=str(tmp_path / "train"), eval_path=str(tmp_path / "test")), [], ["labels"])
    assert (error.where, error.what) == ("data.eval_path", f"'{tmp_path / 'test'}' has 0 class folders")


# ---- arrays


def test_rows_are_read_by_the_names_of_the_inputs(tmp_path):
    path = npz(tmp_path / "d.npz", left=np.ones((3, 2)), right=np.zeros(3), labels=np.array([0, 2, 1], np.uint8))
    found = arrays(path, ["right", "left"], ["labels"])
    assert list(found.arrays or ()) == ["right", "left"]
    assert learnt(found) == (("0", "1", "2"), [0, 2, 1])
    assert found.sources == ["0", "1", "2"]


def test_a_lone_array_is_the_lone_input_whatever_its_name(tmp_path):
    path = npz(tmp_path / "d.npz", features=np.ones((2, 2)), y=np.array([0, 1]))
    assert list(arrays(path, ["x"], ["y"]).arrays or ()) == ["x"]


def test_several_columns_are_no_inputs(tmp_path):
    path = npz(tmp_path / "d.npz", features=np.ones((2, 2)), y=np.array([0, 1]), z=np.array([0.5, 0.1]))
    found = arrays(path, ["x"], ["y", "z"])
    assert list(found.arrays or ()) == ["x"]
    assert {name: column.tolist() for name, column in found.columns.items()} == {"y": [0, 1], "z": [0.5, 0.1]}


def test_no_such_file(tmp_path):
    error = refusal(arrays, str(tmp_path / "d.npz"), ["x"], ["labels"])
    assert (error.where, error.what) == ("data.path", f"there is no file '{tmp_path / 'd.npz'}'")


def test_objects_are_refused_and_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = npz(tmp_path / "d.npz", x=np.array([Bomb(), Bomb()], dtype=object), labels=np.array([0, 1]))
    error = refusal(arrays, path, ["x"], ["labels"])
    assert (error.where, error.todo) == (path, "write it with numpy.savez")
    assert "not a .npz file of plain arrays" in error.what
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"PK\x03\x04broken", b"\x80\x04K\x01."])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    error = refusal(arrays, str(tmp_path / "d.npz"), ["x"], ["labels"])
    assert (error.where, error.todo) == (str(tmp_path / "d.npz"), "write it with numpy.savez")
    assert "this is not a .npz file" in error.what


def test_a_single_array_a_folder_a_plain_zip_and_a_cut_off_file_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("labels", "text")
    whole = Path(npz(tmp_path / "w.npz", x=np.ones((100, 100)), labels=np.zeros(100, int)))
    whole.write_bytes(whole.read_bytes()[:5000])
    np.savez_compressed(tmp_path / "c.npz", labels=np.zeros(1000, int))
    damaged = bytearray((tmp_path / "c.npz").read_bytes())
    damaged[60:70] = bytes(10)
    (tmp_path / "c.npz").write_bytes(damaged)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "z.npz", "w.npz", "c.npz"):
        assert "this is not a .npz file" in refusal(arrays, str(tmp_path / name), ["x"], ["labels"]).what


def test_missing_labels_are_named(tmp_path):
    path = npz(tmp_path / "d.npz", x=np.ones(2), label=np.zeros(2, int))
    error = refusal(arrays, path, ["x"], ["labels"])
    assert (error.where, error.what, error.todo) == (
        "data.labels",
        f"{path} has no array 'labels'",
        "did you mean label?",
    )
    assert refusal(arrays, path, ["x"], ["zzz"]).todo == "the file has label, x"


def test_a_missing_input_is_named(tmp_path):
    path = npz(tmp_path / "d.npz", left=np.ones(2), rihgt=np.ones(2), labels=np.zeros(2, int))
    error = refusal(arrays, path, ["left", "right"], ["labels"])
    assert (error.where, error.todo) == ("source.inputs.right", "did you mean rihgt?")
    assert error.what == f"{path} has no array of that name"


@pytest.mark.parametrize(("rows", "what"), [(np.ones((3, 2)), "'x' has 3 rows"), (np.array(1.0), "'x' has no rows")])
def test_another_length_is_refused_with_both(rows, what):
    error = refusal(from_arrays, {"x": rows}, {"labels": np.array([0, 1])}, "d.npz")
    assert (error.where, error.what) == ("d.npz", f"{what}, 'labels' has 2")
    assert error.todo == "give all the same length"


def test_no_rows_are_refused():
    error = refusal(from_arrays, {"x": np.ones((0, 2))}, {"labels": np.zeros(0, int)}, "d.npz")
    assert (error.where, error.what) == ("d.npz", "there are no rows")


# ---- held out


def many(count: int = 10_000) -> Examples:
    """Examples of which some are equal, with classes of which chance holds out none."""
    rows = (np.arange(count * 3) % 9973).astype(np.float32).reshape(count, 3)
    labels = np.arange(count) % 7
    labels[[5, 50]], labels[[6, 9]] = 7, 8
    found = from_arrays({"x": rows}, {"labels": labels}, "here")
    return replace(found, targets={"head": labels, "size": rows[:, :2]})


@pytest.mark.parametrize(
    ("grouped", "share", "training", "held_out"),
    [
        (False, 0.2, "8056 8467cff95461f905", "1944 c5a8496490eddc4d"),
        (False, 0.0004, "9990 3a8cd868a72fa11a", "10 3e27eabca5066dba"),
        (True, 0.2, "7864 32b479039a9be212", "2136 5f10fa3e3d16b027"),
        (True, 0.0004, "9968 306c80fc18df603b", "32 9ca4152d80b7b65a"),
    ],
)
def test_sides_and_digests_are_those_of_runs_that_are_there(grouped: bool, share: float, training: str, held_out: str):
    """A run that goes on compares its digests with those that it has recorded, by whatever version it began."""
    groups = [str(number % 977) for number in range(10_000)] if grouped else None
    sides = hold_out(many(), share, groups)
    assert [f"{len(side)} {side.digest()[:16]}" for side in sides] == [training, held_out]


def sides(examples: Examples, share: float) -> dict[str, str]:
    train, held = hold_out(examples, share)
    assert len(train) + len(held) == len(examples)
    return {**dict.fromkeys(train.sources, "train"), **dict.fromkeys(held.sources, "held out")}


def test_the_share_is_about_what_was_asked_for():
    many = some(*[f"file {i}" for i in range(2000)])
    assert 350 < len(hold_out(many, 0.2)[1]) < 450
    assert len(hold_out(many, 0.0)[1]) == 0


def test_an_example_stays_on_its_side_when_others_come():
    before = [f"file {i}" for i in range(200)]
    more = [f"new {i}" for i in range(200)]
    old, new = sides(some(*before), 0.2), sides(some(*more, *before), 0.2)
    assert {name: new[name] for name in before} == old


def test_an_example_goes_by_its_content_not_its_name(tmp_path):
    images(tmp_path, a=40, b=40)
    before = {Path(s).read_bytes(): side for s, side in sides(of_folders(tmp_path), 0.3).items()}
    for i, path in enumerate(sorted((tmp_path / "a").iterdir())):
        path.rename(tmp_path / "a" / f"renamed {-i}.png")
    assert {Path(s).read_bytes(): side for s, side in sides(of_folders(tmp_path), 0.3).items()} == before


def test_equal_examples_are_on_the_same_side():
    copies = [f"file {i % 20}" for i in range(60)]
    train, held = hold_out(some(*copies), 0.3)
    assert not set(train.hashes) & set(held.hashes)
    assert len(held)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_every_class_is_on_both_sides(share):
    contents = [f"file {i}" for i in range(12)]
    labels = [i // 2 for i in range(12)]
    train, held = hold_out(some(*contents, labels=labels), share)
    assert set(train.targets["head"].tolist()) == set(held.targets["head"].tolist()) == set(range(6))


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_equal_examples_are_on_the_same_side_even_where_chance_left_a_class_out(share):
    contents = ["x", "x", "y", "y", "z", "z"]
    train, held = hold_out(some(*contents, labels=[0] * 6), share)
    assert not set(train.hashes) & set(held.hashes)
    assert train.hashes
    assert held.hashes


def test_a_class_of_one_content_is_trained_on_whole():
    train, held = hold_out(some("x", "x", "x", "y", labels=[0, 0, 0, 1]), 0.0001)
    assert (len(train), len(held)) == (4, 0)


def test_the_rest_is_in_its_order():
    train, held = hold_out(some(*[f"{i}" for i in range(50)]), 0.3)
    assert [int(s) for s in train.sources] == sorted(map(int, train.sources))
    assert [int(s) for s in held.sources] == sorted(map(int, held.sources))


# ---- examples


def test_choosing_examples_chooses_all_of_them():
    found = from_arrays({"x": np.arange(4)}, {"labels": np.array([0, 1, 1, 0])}, "d.npz")
    found = found.where(np.array([0, 1, 0, 1], bool))
    assert found.sources == ["1", "3"]
    assert found.columns["labels"].tolist() == [1, 0]
    assert (found.arrays or {})["x"].tolist() == [1, 3]
    assert len(set(found.hashes)) == 2


def test_the_digest_is_of_content_label_and_order():
    first = some("a", "b", labels=[0, 1])
    assert first.digest() == some("a", "b", labels=[0, 1]).digest()
    others = [some("b", "a", labels=[0, 1]), some("a", "b", labels=[1, 0]), some("a", "c", labels=[0, 1])]
    assert len({first.digest(), *(o.digest() for o in others)}) == 4


def test_rows_that_differ_in_one_field_differ():
    found = from_arrays({"x": np.zeros(2), "y": np.array([0, 1])}, {"labels": np.array([0, 1])}, "d.npz")
    assert found.hashes[0] != found.hashes[1]
