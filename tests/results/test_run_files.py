from __future__ import annotations

from pathlib import Path

from finetune.results.run_files import METRICS, first_numbers, is_run, read


def test_everything_of_a_run_is_read_back(run_folder: Path):
    run = read(run_folder)
    assert is_run(run_folder)
    assert run.is_finished
    assert run.name == "run"
    assert run.step == 4
    assert run.recipe["train.steps"] == 4
    assert [entry["step"] for entry in run.of_phase("eval")] == [0, 2, 4]
    assert len(run.predictions["id"]) == run.evaluation["examples"]
    assert list(run.predictions) == ["id", "label", "prediction", "probability", "loss"]
    assert run.log[0].startswith("init: ")
    assert run.picture.startswith(b"<svg")


def test_what_is_not_there_is_empty(tmp_path: Path):
    assert not is_run(tmp_path)
    run = read(tmp_path)
    assert (run.recipe, run.record, run.entries, run.evaluation, run.predictions) == ({}, {}, [], {}, {})
    assert (run.log, run.seconds, run.picture, run.glimpses, run.step) == ([], 0.0, b"", {}, 0)


def test_what_was_cut_short_or_is_being_written_is_left_out(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "phase": "train", "loss": NaN}\n7\n{"step": 2, "ph')
    (tmp_path / "evaluation.json").write_text('{"step": 1')
    (tmp_path / "examples.json").write_text("[]")
    run = read(tmp_path)
    assert [entry["step"] for entry in run.entries] == [1]
    assert (run.evaluation, run.glimpses) == ({}, {})


def test_of_numbers_a_line_that_is_none_counts_for_nothing(tmp_path: Path):
    assert first_numbers(tmp_path, "eval") == {}
    (tmp_path / METRICS).write_bytes(b'{"step": 0, "pha\n\xff\n7\n{"step": 0, "phase": "eval", "loss": 1.0}\n{"st')
    assert first_numbers(tmp_path, "eval") == {"step": 0, "phase": "eval", "loss": 1.0}


def test_names_with_lines_and_quotes_stay_whole(tmp_path: Path):
    (tmp_path / "predictions.csv").write_text('id,label\n"a ""b"",\u2028 c","two\nlines"\nd,e\n')
    assert read(tmp_path).predictions == {"id": ['a "b",\u2028 c', "d"], "label": ["two\nlines", "e"]}


def test_each_process_counts_from_its_first_line_to_its_last(tmp_path: Path):
    (tmp_path / "train.log").write_text(
        "2026-01-01 00:00:00 init: runs/x begins\n"
        "2026-01-01 00:00:30 saved step 5\n"
        "2026-01-01 09:00:00 error[data] data.path: a requeued job did not find it\n"
        "Traceback (most recent call last):\n"
        "2026-01-02 00:00:00 resume: runs/x goes on\n"
        "2026-01-02 00:01:10 result: fine\n"
        "2026-01-02 00:02:00 report: runs/x/report.html\n"
    )
    assert read(tmp_path).seconds == 100.0
