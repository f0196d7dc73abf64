"""Inspecting a pair: what is proposed for it, for people, for programs, and as a recipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import packaged
from finetune.__main__ import main
from finetune.check import check
from finetune.compose import compose
from finetune.inspecting.feeding import Feed, Tensor
from finetune.inspecting.inspect import inspect
from finetune.reading import metagraph
from finetune.showing import table
from finetune.surgery.trust import reason

GOLDENS = Path(__file__).parents[1] / "goldens"
PAIRS = sorted({p.parent for p in GOLDENS.rglob("*.meta")})
DEMO = packaged.asset("demo/small_vgg")


def test_the_demo_is_cut_at_the_last_activation_before_its_logits():
    found = inspect(DEMO)
    assert found.cuts[0].tensor == "fc7:0"
    assert found.cuts[0].dominates
    assert found.feeding.inputs == (Tensor("images:0", "float32", (None, 28, 28, 1)),)
    assert found.feeding.feeds == (Feed("keep_prob:0", "float32", train=0.5, eval=1.0),)
    assert (found.cuts[0].parameters, found.cuts[0].bytes_per_example) == (219_056, 1024)
    assert 0 < len(found.feeding.kept) < found.nodes


def test_variables_are_found_or_an_optimizer_s():
    status = {v.name: v.status for v in inspect(DEMO).variables}
    assert status["fc7/weights"] == "found"
    assert status["fc7/weights/Adam"] == "optimizer slot"
    assert set(status.values()) == {"found", "optimizer slot"}


@pytest.mark.parametrize("folder", PAIRS, ids=lambda p: p.name)
def test_every_golden_has_a_cut_an_input_and_a_short_table(folder: Path):
    found = inspect(str(folder))
    assert found.cuts
    assert found.feeding.inputs
    assert not found.feeding.refused
    assert all(cut.parameters > 0 for cut in found.cuts)
    assert len(table(found).splitlines()) <= 60


@pytest.mark.parametrize("folder", PAIRS, ids=lambda p: p.name)
def test_a_golden_s_recipe_settles_with_its_pair(folder: Path, workdir: Path, capsys: pytest.CaptureFixture[str]):
    from finetune.surgery.source import read_source

    assert main(["inspect", str(folder), "--recipe", "out.yaml"]) == 0
    recipe = compose(["recipe=out.yaml", "data.kind=synthetic"]).recipe
    check(recipe)
    source = read_source(recipe.source.path, recipe.cut, recipe.source.inputs, recipe.source.feeds)
    assert len(source.variables) > 0
    assert source.batch_size in (None, recipe.train.batch_size)


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", DEMO, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"inputs", "feeds", "cuts", "variables", "refused", "dropped", "producer"}
    assert content["inputs"] == [{"tensor": "images:0", "dtype": "float32", "shape": [None, 28, 28, 1]}]
    assert content["feeds"] == [{"tensor": "keep_prob:0", "dtype": "float32", "train": 0.5, "eval": 1.0}]
    expected = {"tensor": "fc7:0", "dtype": "float32", "shape": [None, 1, 1, 256], "parameters": 219_056}
    assert content["cuts"][0] == {**expected, "dominates": True, "bytes_per_example": 1024}
    assert content["refused"] == []
    assert {"op": "SaveV2", "count": 1, "why": reason("SaveV2")} in content["dropped"]


def with_op(folder: Path, name: str, op: str) -> str:
    """The demo with another op in one of its nodes."""
    pair = metagraph.find_pair(DEMO)
    for file in pair.meta.parent.glob(f"{Path(pair.prefix).name}.*"):
        shutil.copy(file, folder)
    meta = metagraph.read(pair.meta)
    next(n for n in meta.graph_def.node if n.name == name).op = op
    (folder / pair.meta.name).write_bytes(meta.SerializeToString())
    return str(folder)


def test_a_cut_that_needs_a_refused_op_is_not_the_first(tmp_path: Path):
    found = inspect(with_op(tmp_path, "fc6", "MyOp"))
    assert (found.cuts[0].tensor, found.cuts[1].tensor) == ("fc6/BiasAdd:0", "fc7:0")
    assert found.feeding.refused == ()


def test_what_no_cut_avoids_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = with_op(tmp_path, "conv1", "MyOp")
    refused = {"node": "conv1", "op": "MyOp", "why": "is not an op that finetune knows"}
    assert main(["inspect", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == [refused]
    assert main(["inspect", folder]) == 0
    told = "refused below the first cut:\n  conv1  MyOp is not an op that finetune knows\n"
    assert told in capsys.readouterr().out


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", DEMO]) == 0
    out = capsys.readouterr().out
    for part in (
        "written by",
        "images:0  float32  ?×28×28×1",
        "train 0.5, eval 1.0",
        "219,056 parameters below",
        "dropped: ",
    ):
        assert part in out


def test_no_tensorflow_is_imported():
    script = f"import sys; from finetune.__main__ import main; main(['inspect', {DEMO!r}])\n"
    script += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error[recipe] inspect: the following arguments are required: PATH"),
        (["nowhere/at/all"], "error[source] inspect: there is no folder"),
        ([DEMO, "--recipe", "out.txt"], "error[recipe] --recipe: 'out.txt' does not end in .yaml"),
        ([DEMO, "--portrait"], "error[recipe] inspect: unrecognized arguments: --portrait"),
        ([DEMO, "--recipe", "taken.yaml"], "error[recipe] --recipe: 'taken.yaml' is there already"),
    ],
)
def test_errors_say_what_to_do(words: list[str], message: str, workdir: Path, capsys: pytest.CaptureFixture[str]):
    Path("taken.yaml").write_text("cut: fc7:0\n")
    assert main(["inspect", *words]) in (2, 3)
    assert capsys.readouterr().err.startswith(message)
    assert Path("taken.yaml").read_text() == "cut: fc7:0\n"


@pytest.mark.slow
@pytest.mark.parametrize("pair", [DEMO, str(GOLDENS / "conv_ref"), str(GOLDENS / "bn_moments")])
def test_the_recipe_trains_as_it_stands(pair: str, workdir: Path):
    assert main(["inspect", pair, "--recipe", "out.yaml"]) == 0
    words = ["recipe=out.yaml", "data.kind=synthetic", "head.classes=3", "train.steps=3"]
    line = [sys.executable, "-m", "finetune", *words]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
