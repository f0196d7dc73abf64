from __future__ import annotations

from pathlib import Path

from finetune.__main__ import main


def test_the_picture_shows_each_head_at_its_own_cut(tmp_path: Path):
    words = ["recipe=two_heads", "train.epochs=null", "train.steps=1", "eval.probe=false"]
    assert main([*words, f"run.dir={tmp_path / 'run'}"]) == 0
    boxes = (tmp_path / "run/graph.svg").read_text(encoding="utf-8").partition(">conv3<")[2]
    conv3, _, others = boxes.partition(">conv4<")
    assert ">and a new head, ink: mlp → 1 number<" in conv3
    assert "ink" not in others
    assert ">garments: linear → 3 classes<" in others
    assert ">771 parameters · learns (new)<" in others  # its own, and not those of the other head
