from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from finetune.__main__ import main
from finetune.learning.monitor import Watch
from finetune.results.report import METRICS, Report, best, best_elsewhere, forget_after, variable_table


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
        report.rollback(number, 1, 4, "the loss is nan", 0.5**number)
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


def test_the_best_is_said_with_its_pair_if_that_was_kept(tmp_path: Path):
    watch = Watch(best=0.5, best_step=10, mark=0.5)
    assert best(Watch(), "loss", tmp_path / "best") is None
    unkept = best(watch, "loss", tmp_path / "best")
    assert unkept == {"step": 10, "metric": "loss", "value": 0.5, "pair": None}
    assert best_elsewhere(unkept, 20) == "; the best loss was 0.5 at step 10"
    assert best_elsewhere(unkept, 10) == best_elsewhere(None, 10) == ""
    (tmp_path / "best").mkdir()
    (tmp_path / "best/model.json").write_text(json.dumps({"evaluated": {"step": 14, "loss": 0.25}}))
    assert best(watch, "loss", tmp_path / "best") == unkept
    (tmp_path / "best/model.json").write_text(json.dumps({"evaluated": {"step": 10, "loss": 0.5}}))
    kept = best(watch, "loss", tmp_path / "best")
    assert best_elsewhere(kept, 20) == "; the best loss was 0.5 at step 10, whose model is in best/"


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


def test_the_table_of_variables_is_aligned():
    assert variable_table([("a/w", (3, 4), "learns"), ("step", (), "frozen")]) == [
        "  a/w      3×4  learns",
        "  step  scalar  frozen",
    ]


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


def test_the_picture_shows_each_head_at_its_own_cut(tmp_path: Path):
    words = ["recipe=two_heads", "train.epochs=null", "train.steps=1", "eval.probe=false"]
    assert main([*words, f"run.dir={tmp_path / 'run'}"]) == 0
    boxes = (tmp_path / "run/graph.svg").read_text(encoding="utf-8").partition(">conv3<")[2]
    conv3, _, others = boxes.partition(">conv4<")
    assert ">and a new head, ink: mlp → 1 number<" in conv3
    assert "ink" not in others
    assert ">garments: linear → 3 classes<" in others
    assert ">771 parameters · learns (new)<" in others  # its own, and not those of the other head
