"""What a page says of heads of every kind, from the files that judging writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.examples.tasks import Task
from finetune.judging import findings
from finetune.judging.drift import Drift
from finetune.judging.evaluate import Evaluation
from finetune.pages import page, page_heads
from finetune.results.run_files import read

RANDOM = np.random.default_rng(5)
COUNT = 60


def one_class(classes: int, name: str = "kind") -> Evaluation:
    labels = RANDOM.integers(0, classes, COUNT)
    shares = RANDOM.dirichlet(np.ones(classes), COUNT).astype(np.float32)
    names = tuple(f"class {i}" for i in range(classes))
    return Evaluation(Task(name, "c:0", name, "softmax", names, classes), labels, shares, 1 - shares[:, 0])


def many_classes() -> Evaluation:
    hot = (RANDOM.random((COUNT, 3)) < 0.4).astype(np.float32)
    shares = RANDOM.random((COUNT, 3)).astype(np.float32)
    return Evaluation(Task("tags", "c:0", "tags", "sigmoid", ("x", "y", "z"), 3), hot, shares, shares[:, 0])


def numbers() -> Evaluation:
    sizes = RANDOM.normal(size=(COUNT, 2)).astype(np.float32)
    return Evaluation(
        Task("size", "c:0", "size", "huber", (), 2), sizes, sizes + np.array([0.5, -0.25]), sizes[:, 0] ** 2
    )


def written(folder: Path, *found: Evaluation, old_head: Drift | None = None) -> tuple[Path, Mapping[str, Any]]:
    evaluations = {each.task.name: each for each in found}
    judged = findings.judge(evaluations, (), 0, {})
    names = [str(i) for i in range(COUNT)]
    findings.write(folder, findings.content(7, judged, names, old_head), evaluations, names)
    return folder, judged


def text_of(folder: Path) -> str:
    return page.page(read(folder))


def test_a_few_classes_have_a_matrix_and_many_the_worst_mistakes(tmp_path: Path):
    folder, judged = written(tmp_path, one_class(3))
    text = text_of(folder)
    for row in judged["kind"]["confusion"]:
        assert all(f">{count}<small>{count / sum(row):.0%}</small></td>" in text for count in row)
    folder, judged = written(tmp_path, one_class(60))
    text = text_of(folder)
    assert 'class="confusion"' not in text
    worst = judged["kind"]["mistakes"][0]
    assert f"{worst['is']}</th><td>{worst['taken_for']}</td>" in text
    assert "all 60 classes" in text
    assert all(f">class {i}</th>" in text for i in range(60))


def test_intervals_of_classes_are_those_of_their_counts(tmp_path: Path):
    folder, judged = written(tmp_path, one_class(2))
    text = text_of(folder)
    matrix = judged["kind"]["confusion"]
    hits, support, named = matrix[0][0], sum(matrix[0]), matrix[0][0] + matrix[1][0]
    for share, of in ((hits / support, support), (hits / named, named)):
        low, high = page_heads.wilson(share, of)
        assert page_heads.value(share, low, high) in text


def test_numbers_have_scattered_points_and_residuals(tmp_path: Path):
    folder, _ = written(tmp_path, numbers())
    text = text_of(folder)
    for output, off in ((0, 0.5), (1, -0.25)):
        scattered = text.partition(f"Output {output} of 2: said over is</figcaption>")[2].partition("</svg>")[0]
        assert scattered.count("<circle") == COUNT
        residuals = text.partition(f'aria-label="Output {output} of 2: residuals: ')[2].partition('"')[0]
        low, high = (float(word) for word in residuals.partition(" from ")[2].split(" to "))
        assert low <= off <= high
        assert high - low < 0.01
    assert "Least sure" not in text


def test_several_heads_have_a_section_each(tmp_path: Path):
    folder, judged = written(tmp_path, one_class(2), many_classes(), numbers())
    text = text_of(folder)
    for name, head in judged.items():
        assert f"Held-out examples: {name}" in text
        main = head["metrics"][head["main"]]
        assert page_heads.value(main["value"], main["low"], main["high"]) in text
    assert "ROC of 3 of 3 classes" in text
    assert text.count("<figcaption>Calibration (expected error") == 2


def test_old_heads_are_said_to_have_moved(tmp_path: Path):
    text = text_of(written(tmp_path, one_class(2), old_head=Drift("fc8:0", COUNT, 0.5, 0.125, 0.75))[0])
    assert "75.0%" in text
    assert "fc8:0" in text
    assert "Old task" not in text_of(written(tmp_path, one_class(2))[0])


@pytest.mark.parametrize("make", [lambda: one_class(3), many_classes, numbers])
def test_outputs_that_are_no_numbers_have_a_page(tmp_path: Path, make: Any):
    found = make()
    found.outputs[:] = np.nan
    found.losses[:] = np.nan
    assert "Held-out examples" in text_of(written(tmp_path, found)[0])
