from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.errors import UserError
from finetune.results.checkpoints import Loaded, cannot_be_written
from finetune.results.report import Report, forget_after, open_report
from finetune.results.run_files import METRICS
from tests.results.test_appending import Full


def test_numbers_go_to_people_and_to_programs(tmp_path: Path, capsys):
    report = Report(tmp_path)
    report.scalars("train", 10, {"loss": 0.123456789})
    report.close()
    assert "train | step     10 | loss 0.1235" in capsys.readouterr().out
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 10, "phase": "train", "loss": 0.123456789}
    assert "loss 0.1235" in (tmp_path / "train.log").read_text()


def test_what_a_killed_run_reported_after_its_last_save_is_taken_back(tmp_path: Path, capsys):
    report = Report(tmp_path)
    for step in (1, 2, 3, 4):
        report.scalars("train", step, {"loss": 1.0})
    report.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 5, "pha')  # cut short by the kill
    forget_after(tmp_path, 2)
    report = Report(tmp_path)
    report.scalars("train", 3, {"loss": 2.0})
    report.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_rollback_takes_back_what_came_after_and_stays_itself(tmp_path: Path, capsys):
    report = Report(tmp_path)
    for number in (1, 2):
        for step in (1, 2, 3):
            report.scalars("train", step, {"loss": float(number)})
        report.rollback(number, Loaded(1, {}), False, 4, "the loss is nan", 0.5**number)
    report.scalars("train", 2, {"loss": 3.0})
    report.close()
    assert "rollback 2: at step 4 the loss is nan; back to step 1, at 0.25 of" in capsys.readouterr().out

    def told() -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
        return [(line["step"], line.get("loss", -line.get("number", 0))) for line in lines]

    # The attempts began at step 1 here, so that of each the first step stays.
    assert told() == [(1, 1.0), (1, -1), (1, 2.0), (1, -2), (2, 3.0)]
    # A resume from a checkpoint that knows of one rollback makes the other once more.
    forget_after(tmp_path, 1, rollbacks=1)
    assert told() == [(1, 1.0), (1, -1), (1, 2.0)]


def test_a_rollback_takes_back_an_evaluation_that_is_owed_and_names_what_is_damaged(tmp_path: Path, capsys):
    report = Report(tmp_path)
    report.scalars("train", 4, {"loss": 1.0})
    report.scalars("eval", 4, {"loss": 1.0})
    report.rollback(1, Loaded(4, {}, ["model-6: a checksum"]), True, 7, "the loss is nan", 0.5)
    report.scalars("eval", 4, {"loss": 1.0})
    report.close()
    assert "warning: a newer checkpoint is damaged and passed over: model-6: a checksum\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train", "rollback", "eval"]


def test_a_rollback_on_a_full_disk_ends_in_an_error_of_the_disk(tmp_path: Path, monkeypatch, capsys):
    def full(path: Path, *_: object) -> None:
        raise cannot_be_written(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr("finetune.results.report.write_text", full)
    report = Report(tmp_path)
    report.scalars("train", 1, {"loss": 1.0})
    with pytest.raises(UserError, match="No space left on device") as said:
        report.rollback(1, Loaded(0, {}), False, 1, "the loss is nan", 0.5)
    report.close()
    assert said.value.status == 5


def test_numbers_that_the_disk_refused_are_written_when_a_step_is_saved(tmp_path: Path, capsys):
    report = Report(tmp_path)
    full = report._metrics._file = Full(report._metrics._file, room=0)
    report.scalars("train", 1, {"loss": 1.0})
    full.room = 10**6
    report.line("saved step 1")
    assert json.loads((tmp_path / METRICS).read_text())["step"] == 1
    report.close()


def test_a_line_that_is_none_is_forgotten(tmp_path: Path):
    (tmp_path / METRICS).write_bytes(b'{"step": 0, "pha\n\xff\n7\n{"step": 0, "phase": "eval", "loss": 1.0}\n{"st')
    assert forget_after(tmp_path, 0) == []
    assert (tmp_path / METRICS).read_text() == '{"step": 0, "phase": "eval", "loss": 1.0}\n'


def test_tensorboard_drops_them_too(tmp_path: Path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for loss, steps in ((1.0, (1, 2, 3, 4)), (2.0, (3, 4))):
        forget_after(tmp_path, steps[0] - 1)
        report = Report(tmp_path)
        for step in steps:
            report.scalars("train", step, {"loss": loss})
        report.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors("train/loss")]
    assert points == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def points(folder: Path, tag: str = "train/loss") -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Tensors(tag)]


def test_tensorboard_too_has_an_evaluation_once_that_was_owed(tmp_path: Path, capsys):
    report = Report(tmp_path)
    report.scalars("train", 2, {"loss": 1.0})
    report.scalars("eval", 2, {"loss": 1.0})
    report.close()
    forget_after(tmp_path, 2, owes=True)
    report = Report(tmp_path)
    report.scalars("eval", 2, {"loss": 1.0})
    report.close()
    assert points(tmp_path, "eval/loss") == points(tmp_path) == [2]


def test_what_others_put_into_the_folder_of_tensorboard_stays(tmp_path: Path, capsys):
    report = Report(tmp_path)
    for step in (1, 2, 3):
        report.scalars("train", step, {"loss": 1.0})
    report.close()
    events = tmp_path / "tensorboard"
    (ours,) = events.iterdir()
    (events / "plugins" / "profile").mkdir(parents=True)
    (events / "outside").write_bytes(ours.read_bytes())
    (events / "events.out.tfevents.1.link.1.0.v2").symlink_to("outside")
    theirs = {
        "notes.txt": b"what somebody noted, longer than a header",
        "projector_config.pbtxt": b"embeddings {}",
        "events.out.tfevents.1.text.1.0.v2": b"this is no record at all",
        "events.out.tfevents.1.profile-empty": ours.read_bytes(),
        "outside": ours.read_bytes(),
    }
    with tf.io.TFRecordWriter(str(events / "events.out.tfevents.1.records.1.0.v2")) as writer:
        writer.write(b"\xff\xff")
    theirs["events.out.tfevents.1.records.1.0.v2"] = (events / "events.out.tfevents.1.records.1.0.v2").read_bytes()
    for name, content in theirs.items():
        (events / name).write_bytes(content)
    whole = ours.read_bytes()
    for step in (1, -1):
        assert forget_after(tmp_path, step) == []
        assert {name: (events / name).read_bytes() for name in theirs} == theirs
        assert (events / "plugins" / "profile").is_dir()
        assert (events / "events.out.tfevents.1.link.1.0.v2").is_symlink()
        assert len(ours.read_bytes()) < len(whole)
        whole = ours.read_bytes()
        assert sorted(file.name for file in events.iterdir() if file.name.startswith(".")) == []


def test_what_tensorboard_cannot_take_back_is_a_warning(tmp_path: Path, monkeypatch, capsys):
    report = Report(tmp_path)
    for step in (1, 2):
        report.scalars("train", step, {"loss": 1.0})
    report.close()

    def full(path: Path, *_: object) -> None:
        raise cannot_be_written(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr("finetune.results.report.write_bytes", full)
    (warning,) = forget_after(tmp_path, 1)
    assert warning.startswith(f"warning: TensorBoard may show steps after 1 twice: {tmp_path / 'tensorboard'}")
    assert warning.endswith("cannot be written: No space left on device")
    assert points(tmp_path) == [1, 2]
    open_report(tmp_path, Loaded(1, {})).close()
    assert warning in capsys.readouterr().out


def test_a_process_that_is_killed_leaves_all_its_steps_to_tensorboard(tmp_path: Path, capsys):
    report = Report(tmp_path)
    for step in (1, 2):
        report.scalars("train", step, {"loss": 1.0})
    assert points(tmp_path) == [1, 2]  # as they are now: nothing was closed
    report.close()


def test_a_frame_says_whether_the_model_is_right():
    from finetune.results.report import framed

    image = np.zeros((112, 112, 3), np.uint8)
    assert framed(image, True)[0, 0].argmax() == 1  # green
    assert framed(image, False)[0, 0].argmax() == 0  # red


def test_training_images_stand_side_by_side(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from finetune.results.report import mosaic

    images = np.stack([np.full((50, 60, 3), 10 * i, np.uint8) for i in range(6)])
    drawn = mosaic(images)
    assert drawn.shape == (2 * 54, 4 * 64, 3)
    assert [[int(drawn[27 + 54 * y, 32 + 64 * x, 0]) for x in range(4)] for y in range(2)] == [
        [0, 10, 20, 30],
        [40, 50, 255, 255],
    ]
    report = Report(tmp_path)
    report.training(images)
    report.training(images[:0])
    report.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Tensors("training images after augmentation")] == [0]


def test_where_tensorboard_cannot_be_written_now_its_curves_have_a_gap(tmp_path, monkeypatch):
    from tensorboard.compat.proto.event_pb2 import Event

    make, refusals = tf.summary.create_file_writer, [1]

    def full_at_first(*words):
        if refusals:
            refusals.pop()
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        return make(*words)

    monkeypatch.setattr(tf.summary, "create_file_writer", full_at_first)
    told = Report(tmp_path)
    told.scalars("train", 1, {"loss": 1.0})
    told.scalars("train", 2, {"loss": 0.5})
    told.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    (events,) = (tmp_path / "tensorboard").iterdir()
    steps = [Event.FromString(r).step for r in tf.data.TFRecordDataset(str(events)).as_numpy_iterator()]
    assert steps == [0, 2]
