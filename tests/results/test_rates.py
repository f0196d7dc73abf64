from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from finetune.learning.find_rate import Sweep, rate_at
from finetune.results import rates

FALLING = [3.0 - 0.05 * n for n in range(50)]


def test_both_files_are_written_and_the_lines_can_be_copied_into_a_command(tmp_path: Path):
    found = Sweep([rate_at(n) for n in range(1, 51)], FALLING, FALLING)
    lines = rates.write(tmp_path / "new", found)
    assert [line.partition(":")[0] for line in lines] == ["sweep", "valley", "steepest", "picture"]
    assert "train.learning_rate=" in lines[1]
    stored = [json.loads(line) for line in (tmp_path / "new" / rates.LINES).read_text().splitlines()]
    assert [row["learning_rate"] for row in stored] == list(found.rates)
    drawn = ElementTree.parse(tmp_path / "new" / rates.PICTURE).getroot()
    lines_drawn = [e for e in drawn.iter() if e.tag.endswith("polyline")]
    for line in lines_drawn:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) == 50
        assert all(0 <= x <= rates.WIDTH and 0 <= y <= rates.HEIGHT for x, y in points)
        assert [y for _, y in points] == sorted(y for _, y in points)  # down is down
    assert len(lines_drawn) == 2


def test_a_flat_or_single_loss_can_be_drawn(tmp_path: Path):
    for count in (1, 20):
        found = Sweep([rate_at(n) for n in range(1, count + 1)], [0.0] * count, [0.0] * count)
        lines = rates.write(tmp_path, found)
        assert "no suggestion" in lines[1]
