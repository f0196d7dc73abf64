"""What lies elsewhere comes here when it is needed, and again when it has changed there."""

import re

import numpy as np
import pytest

from finetune import packaged
from finetune.errors import UserError
from finetune.reading.metagraph import find_pair
from finetune.remote import fetching
from finetune.remote.fetching import data_at_hand, pair_at_hand, run_at_hand
from tests.remote.cloud import Cloud

PAIR = packaged.asset("demo/small_vgg")
STEM = "model.ckpt-1125"


@pytest.fixture
def pair(bucket: Cloud) -> Cloud:
    bucket.add(packaged.Path(PAIR), "pairs/vgg")
    return bucket


@pytest.mark.parametrize(
    "name", ["", "/", f"/{STEM}", f"/{STEM}.meta", f"/{STEM}.index", f"/{STEM}.data-00000-of-00001", "/checkpoint"]
)
def test_a_pair_by_any_of_its_names(pair: Cloud, name: str):
    found = find_pair(pair_at_hand(f"gs://bucket/pairs/vgg{name}"))
    there = find_pair(PAIR)
    assert [path.name for path in found.files] == [path.name for path in there.files]
    assert [path.read_bytes() for path in found.files] == [path.read_bytes() for path in there.files]


def test_only_the_newest_checkpoint_of_a_folder_comes(pair: Cloud):
    for name in (f"{STEM}0.index", f"{STEM}0.data-00000-of-00001", "events.out.tfevents.1"):
        pair.put(f"pairs/vgg/{name}", b"x")
    pair_at_hand("gs://bucket/pairs/vgg")
    assert {name.rpartition("/")[2] for name in pair.read()} == {
        "checkpoint",
        f"{STEM}.meta",
        f"{STEM}.index",
        f"{STEM}.data-00000-of-00001",
    }


def test_what_lies_beside_a_pair_is_not_looked_at(pair: Cloud):
    for number in range(50):
        pair.put(f"pairs/vgg/images/{number}.png", b"x")
        pair.put(f"pairs/vgg/{number}.txt", b"x")
    for asked in ("", f"/{STEM}", "/checkpoint"):
        pair_at_hand(f"gs://bucket/pairs/vgg{asked}")
    data_at_hand("gs://bucket/pairs/vgg/1.txt", "data.path")
    looked_at = {name for _, name in pair.asked if name.endswith((".png", ".txt"))}
    assert looked_at == {"pairs/vgg/1.txt"}


def test_a_saved_model_comes_whole(bucket: Cloud):
    for name in ("saved_model.pb", "variables/variables.index", "assets/words.txt"):
        bucket.put(f"served/{name}", name.encode())
    for asked in ("gs://bucket/served", "gs://bucket/served/saved_model.pb"):
        here = packaged.Path(pair_at_hand(asked))
        folder = here if here.is_dir() else here.parent
        assert (folder / "variables/variables.index").read_bytes() == b"variables/variables.index"
        assert (folder / "assets/words.txt").is_file()


def test_what_is_here_does_not_come_again(bucket: Cloud, capsys):
    bucket.put("rows.npz", bytes(2_000_000))
    here = data_at_hand("gs://bucket/rows.npz", "data.path")
    assert re.match(r"fetching gs://bucket: 1 file, 2.0 MB\nfetched: .* s\n", capsys.readouterr().err)
    assert data_at_hand("gs://bucket/rows.npz", "data.path") == here
    assert bucket.read() == ["rows.npz"]
    assert capsys.readouterr().err == ""


def test_what_has_changed_comes_again_and_what_went_goes(bucket: Cloud):
    bucket.put("images/a/1.png", b"one")
    bucket.put("images/a/2.png", b"two")
    folder = packaged.Path(data_at_hand("gs://bucket/images", "data.path"))
    opened = (folder / "a/1.png").open("rb")  # as a run that is at work maps its rows
    bucket.put("images/a/1.png", b"eno")
    del bucket.objects["images/a/2.png"]
    assert data_at_hand("gs://bucket/images", "data.path") == str(folder)
    assert (folder / "a/1.png").read_bytes() == b"eno"
    assert not (folder / "a/2.png").exists()
    assert opened.read() == b"one"
    opened.close()
    (folder / "a/1.png").write_bytes(b"?")  # somebody has cut it short
    data_at_hand("gs://bucket/images", "data.path")
    assert (folder / "a/1.png").read_bytes() == b"eno"


def test_a_pattern_and_a_table_with_its_images(bucket: Cloud):
    for name in ("train-0.tfrecord", "train-1.tfrecord", "eval-0.tfrecord"):
        bucket.put(f"shards/{name}", b"x")
    asked = data_at_hand("gs://bucket/shards/train-*", "data.path")
    assert sorted(path.name for path in packaged.Path(asked).parent.glob("*")) == [
        "train-0.tfrecord",
        "train-1.tfrecord",
    ]
    bucket.put("listed/all.csv", b"file,label\nimages/1.png,a\n")
    bucket.put("listed/images/1.png", b"x")
    table = packaged.Path(data_at_hand("gs://bucket/listed/all.csv", "data.path", with_others=True))
    assert (table.parent / "images/1.png").is_file()


def test_a_run_folder_comes_without_its_checkpoints(bucket: Cloud):
    for name in ("run.json", "model/model.meta", "checkpoints/model-1.index", ".new/3/run.json"):
        bucket.put(f"runs/one/{name}", b"{}")
    folder = packaged.Path(run_at_hand("gs://bucket/runs/one"))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()) == [
        "model/model.meta",
        "run.json",
    ]


def test_what_is_here_already_is_taken_where_it_lies(tmp_path):
    assert pair_at_hand(str(tmp_path)) == data_at_hand(str(tmp_path), "data.path") == run_at_hand(str(tmp_path))
    assert pair_at_hand(str(tmp_path)) == str(tmp_path)


def test_one_that_was_killed_leaves_nothing_half(bucket: Cloud):
    bucket.put("rows.npz", b"rows")
    here = packaged.Path(data_at_hand("gs://bucket/rows.npz", "data.path"))
    here.with_name(".fetching-rows.npz").write_bytes(b"ro")
    here.unlink()
    data_at_hand("gs://bucket/rows.npz", "data.path")
    assert [path.name for path in here.parent.iterdir()] == ["rows.npz"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket/pairs/vgx/model", "there is nothing of that name"),
        (f"gs://bucket/pairs/vgg/{STEM[:-1]}", f"there is nothing of that name; did you mean {STEM}?"),
        ("s3://bucket/vgg", "TensorFlow has no file system for s3:// here"),
    ],
)
def test_what_is_not_there(pair: Cloud, url: str, said: str):
    with pytest.raises(UserError) as error:
        pair_at_hand(url)
    assert said in str(error.value)
    assert str(error.value).startswith(f"error[source] source.path: '{url}'")
    assert len(str(error.value).splitlines()) == 1


def test_what_may_not_be_read(bucket: Cloud):
    bucket.put("rows.npz", b"rows")
    bucket.refuses = re.compile("rows")
    with pytest.raises(UserError, match="HTTP response code 403; is the name right, and may this machine read it"):
        data_at_hand("gs://bucket/rows.npz", "data.path")


def test_what_does_not_fit(bucket: Cloud, monkeypatch):
    bucket.put("rows.npz", b"rows")
    usage = fetching.shutil.disk_usage("/")._replace(free=3)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="are free; free some space, or set XDG_CACHE_HOME to a larger disk"):
        data_at_hand("gs://bucket/rows.npz", "data.path")


def test_arrays_from_elsewhere_are_read_as_those_from_here(bucket: Cloud, tmp_path):
    from finetune.examples.kinds import read_kind
    from finetune.recipe import Data

    np.savez(tmp_path / "rows.npz", x=np.arange(12.0).reshape(4, 3), label=np.array([0, 1, 0, 1]))
    bucket.put("rows.npz", (tmp_path / "rows.npz").read_bytes())
    here = read_kind(Data(kind="arrays"), str(tmp_path / "rows.npz"), ["x"], ["label"])
    there = read_kind(Data(kind="arrays"), "gs://bucket/rows.npz", ["x"], ["label"])
    assert list(here.hashes) == list(there.hashes)
