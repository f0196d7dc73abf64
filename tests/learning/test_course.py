"""Phases: what ends one, what is refused before the first step, what stays frozen, and that a resume is exact."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune import recipe, recipe_files
from finetune.check import check
from finetune.compose import Composed, compose
from finetune.errors import UserError
from finetune.learning.course import Phase, Standing, check_metrics, naming, standing_in, unreached, with_ends
from finetune.learning.state import State, make_state
from finetune.plan import make_plan
from finetune.reading.weights import read_index, read_tensors
from finetune.recipe import Train, Until
from finetune.results import checkpoints
from finetune.results.run_folder import claim
from finetune.run import run

# A run that dies leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

GOLDEN = Path(__file__).resolve().parents[1] / "goldens" / "conv_ref"
# Everything that a resume could get wrong at once: dropout, a plateau, an optimizer of its own, rates that change.
PHASES = (
    "phases=["
    "{name: head, until: {step: 3}, stop_gradient: true},"
    "{name: top, until: {plateau: 2, metric: accuracy}, learn: [['fc6/.*', 0.1], ['fc7/.*', 1], ['.*', 0]],"
    " learning_rate: 1e-4},"
    "{name: all, learn: [['conv1/biases', 0], ['.*', 1]], optimizer: sgd, optimizer_args: {momentum: 0.9},"
    " learning_rate: 1e-2, schedule: cosine, warmup_steps: 2}]"
)
WORDS = ["recipe=vgg_2class", f"source.path={GOLDEN}", "cut=fc7:0", "stop_gradient=false", "data.kind=synthetic"]
WORDS += ["source.feeds={keep_prob:{train:0.5,eval:1.0}}", "head.classes=3", "train.steps=9", "train.batch_size=4"]
WORDS += ["eval.every_steps=1", "checkpoint.every_steps=1", "checkpoint.keep=20"]


@pytest.fixture(scope="module")
def composed() -> Composed:
    return compose([*WORDS, PHASES])


def start(composed: Composed, folder: Path) -> int:
    asked = replace(composed.recipe, run=replace(composed.recipe.run, dir=str(folder)))
    return run(asked, composed.yaml, [])


def killed(composed: Composed, folder: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        start(composed, folder)


def everything(prefix: Path) -> dict[str, np.ndarray]:
    return read_tensors(str(prefix), sorted(read_index(str(prefix))))


def logged(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


@pytest.fixture(scope="module")
def whole(composed: Composed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(composed, folder) == 0
    return folder


# ---- a run


def test_a_run_that_is_killed_at_every_step_ends_bit_identical(composed, whole, tmp_path, monkeypatch):
    """Each turn saves one step and dies at the next save, when it has made a further step and evaluated it."""
    save, folder = checkpoints.save, tmp_path / "run"
    for turn in range(1, 10):
        saves: list[str] = []

        def once(*words, saves=saves):
            saves.append(words[1])
            if len(saves) > 1:
                raise KeyboardInterrupt
            save(*words)

        monkeypatch.setattr(checkpoints, "save", once)
        killed(composed, folder)
        assert saves == [f"model-{turn}", f"model-{turn + 1}"][: 10 - turn]
    for prefix in ("checkpoints/model-9", "model/model"):
        ours, undisturbed = everything(folder / prefix), everything(whole / prefix)
        assert ours.keys() == undisturbed.keys()
        assert [name for name in ours if not np.array_equal(ours[name], undisturbed[name])] == []
    assert logged(folder) == logged(whole)
    phases = [json.loads((f / "run.json").read_text())["phases"] for f in (folder, whole)]
    assert phases[0] == phases[1]


def test_a_plateau_ends_a_phase_where_it_is_found(whole):
    record = json.loads((whole / "run.json").read_text())
    began = {name: phase["began"] for name, phase in record["phases"].items()}
    accuracies = [line["accuracy"] for line in logged(whole) if line["phase"] == "eval" and line["part"] == "top"]
    best = int(np.argmax(accuracies))  # the first of equal ones
    assert len(accuracies) == best + 1 + 2
    assert began == {"head": 0, "top": 3, "all": 3 + len(accuracies)}
    assert began["all"] < 9
    assert standing_in(everything(whole / "checkpoints/model-9")).began == (0, 3, began["all"])


def test_metrics_name_the_phase(whole):
    assert {line["step"] for line in logged(whole) if line["part"] == "head"} == {0, 1, 2, 3}


def test_what_is_frozen_stays_and_what_learns_moves(whole):
    """In each phase, and in the pair at the end."""
    record = json.loads((whole / "run.json").read_text())["phases"]
    source = everything(GOLDEN / "model")
    head, top = (everything(whole / f"checkpoints/model-{step}") for step in (3, record["all"]["began"]))
    pair = everything(whole / "model/model")

    def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
        names = {name for name in source.keys() & after.keys() if name.endswith(("weights", "biases"))}
        return {name for name in names if not np.array_equal(before[name], after[name])}

    names = [{f"{layer}/{kind}" for kind in ("weights", "biases")} for layer in ("fc6", "fc7")]
    assert moved(source, head) == set()
    assert moved(head, top) == names[0] | names[1] == record["top"]["learns"].keys() - record["head"]["learns"].keys()
    assert moved(top, pair) == names[0] | names[1] | {"conv1/weights"}
    assert "frozen: 1 variables in the pair are bit-identical to the source" in (whole / "train.log").read_text()


def test_each_phase_says_what_learns_and_what_did_not(whole):
    lines = [line[20:] for line in (whole / "train.log").read_text().splitlines()]
    assert [line for line in lines if line.startswith(("phase:", "frozen:"))][:5] == [
        "phase: head (1 of 3, after step 0): 2 variables learn, 21 values, by adam at 0.001, until step 3",
        "frozen: 6 variables are bit-identical to what they were when head began",
        "phase: top (2 of 3, after step 3): 6 variables learn, 595 values, by adam at 0.0001 × 0.1 to 1, "
        "until 2 evaluations without a better accuracy",
        "frozen: 2 variables are bit-identical to what they were when top began",
        "phase: all (3 of 3, after step 6): 7 variables learn, 703 values, by sgd at 0.01, cosine, to the end",
    ]


def test_a_checkpoint_holds_the_optimizer_of_its_phase_only(whole):
    slots = [[n for n in everything(whole / f"checkpoints/model-{step}") if n[:10] == "optimizer/"] for step in (3, 9)]
    assert [{name.split("/")[2] for name in names} for names in slots] == [{"adam"}, {"sgd"}]


def test_a_variable_that_moves_though_it_is_frozen_is_found(composed, tmp_path, monkeypatch):
    """The digest of what was there when the phase began lies in the checkpoint."""
    save = checkpoints.save

    def meddled(folder, name, *more):
        save(folder, name, *more)
        written = everything(folder / name)
        checkpoints.write(folder, name, {**written, "conv1/weights": written["conv1/weights"] + 1.0}, {})
        (folder / f"{name}.manifest").unlink()  # or it is told there already
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", meddled)
    killed(composed, tmp_path / "run")
    with pytest.raises(UserError, match="frozen variables: are no longer bit-identical to what they started from"):
        start(composed, tmp_path / "run")


# ---- an optimizer at the boundary


def state(learning_rate: float, rates: dict[str, float], **more: object) -> State:
    train = Train(optimizer="adam", learning_rate=learning_rate, **more)  # type: ignore[arg-type]
    return make_state({name: np.zeros(1, np.float32) for name in "ab"}, rates, [], {}, train)


def left_by(before: State) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in before.everything(1).items()}


def test_an_optimizer_goes_on_where_the_same_variables_learn_at_another_rate():
    before, after = state(0.1, {"a": 1.0, "b": 0.5}), state(0.01, {"a": 1.0, "b": 0.5})
    before.groups.apply({"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)})
    after.restore(left_by(before), begins=True)
    slots = {name: float(np.sum(value)) for name, value in after.groups.state().items()}
    assert [v for n, v in slots.items() if n.endswith("iteration")] == [1.0, 1.0]
    assert [v for n, v in slots.items() if n.endswith("learning_rate")] == pytest.approx([0.01, 0.005])


def test_an_optimizer_starts_anew_where_another_variable_learns():
    before, after = state(0.1, {"a": 1.0}), state(0.1, {"a": 1.0, "b": 1.0})
    before.groups.apply({"a": np.ones(1, np.float32)})
    after.restore(left_by(before), begins=True)
    assert all(float(v) == 0.0 for n, v in after.groups.state().items() if n.endswith("iteration"))
    with pytest.raises(UserError, match="the checkpoint to go on from lacks optimizer/1/adam/b"):
        after.restore(left_by(before), begins=False)


# ---- what a resume may change


@pytest.mark.parametrize(("phases", "harmful"), [("until: {plateau: 2}", True), ("until: {step: 2}", False)])
def test_evaluations_may_not_change_where_they_end_a_phase(phases, harmful, tmp_path):
    words = [*WORDS, f"phases=[{{name: a, {phases}}}, {{name: b}}]"]
    (tmp_path / "recipe.yaml").write_text(compose([*words, "run.dir=x"]).yaml)
    now = compose([*words, "run.dir=x", "eval.every_steps=2"]).yaml
    if not harmful:
        assert claim(tmp_path, now).changed
        return
    with pytest.raises(UserError, match=r"eval.every_steps: 1 there, 2 now"):
        claim(tmp_path, now)


def test_a_finished_run_that_goes_on_is_not_finished_until_it_is(composed, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    asked = composed.recipe
    allowed = ["train.steps"]  # the rate of the last phase falls towards the last step
    run = replace(asked.run, allow_change=allowed)
    longer = replace(asked, train=replace(asked.train, steps=11), run=run)
    yaml = composed.yaml.replace("steps: 9", "steps: 11")
    monkeypatch.setattr(checkpoints, "save", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
    killed(replace(composed, recipe=longer, yaml=yaml), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "running"
    assert not claim(tmp_path / "run", yaml, allowed).is_finished


# ---- refused before the first step


def refusal(composed: Composed, phases: str) -> str:
    asked = recipe_files.parse(f"phases: [{phases}]", "here")["phases"]
    made = [recipe.Phase(**{**phase, "until": Until(**phase.get("until", {}))}) for phase in asked]
    with pytest.raises(UserError) as caught:
        _checked(replace(composed.recipe, phases=made))
    return str(caught.value)


def _checked(asked: recipe.Recipe) -> None:
    check(asked)
    make_plan(asked)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("stop_gradient: true, learn: [['fc6/.*', 1], ['.*', 0]]", "phases[1].learn: 'fc6/.*' asks for rate 1, but no"),
        ("learn: [['fc9/.*', 1], ['.*', 0]]", "phases[1].learn: the rule 'fc9/.*' matches none"),
        ("learn: [['fc6/.*', -1]]", "phases[1].learn[0]: the rate -1 is no number"),
        ("stop_gradient: ['fc_7:0']", "phases[1].stop_gradient: the graph has no tensor 'fc_7:0'; did you mean fc7:0"),
        ("optimizer: sdg", "phases[1].optimizer: 'sdg' is not one of"),
        ("schedule: cosin", "phases[1].schedule: 'cosin' is not one of"),
        ("learning_rate: 0", "phases[1].learning_rate: 0 is not greater than 0"),
        ("until: {step: 9}", "phases[1].until: the last phase goes on to the end of the run"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(composed, phase, message):
    assert message in refusal(composed, f"{{name: head, until: {{step: 3}}}}, {{name: all, {phase}}}")


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("{name: a},{name: b}", "phases[0].until: nothing ends this phase"),
        ("{name: a, until: {step: 3}},{name: a}", "phases[1].name: there is a phase 'a' before"),
        ("{name: a, until: {step: 3, epoch: 1}},{name: b}", "phases[0].until: both step and epoch are given"),
        ("{name: a, until: {plateau: 2}, schedule: cosine},{name: b}", "phases[0].schedule: 'cosine' falls towards"),
        ("{name: a, until: {step: 9}},{name: b, until: {step: 3}},{name: c}", "phases[1].until: ends with step 3"),
    ],
)
def test_phases_that_do_not_follow_each_other_are_refused(composed, phases, message):
    assert message in refusal(composed, phases)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("phases=[{name: a, lerning_rate: 1}]", "'lerning_rate' is no key of phase; did you mean learning_rate?"),
        ("phases=[{name: a, until: {stop: 9}}]", "'stop' is no key of until; did you mean step?"),
        ("phases=[{until: {step: 9}}]", "phases[0].name: not given"),
    ],
)
def test_a_word_that_is_no_key_of_a_phase_is_refused(word, message):
    with pytest.raises(UserError) as caught:
        compose([*WORDS, word])
    assert message in str(caught.value)


def test_what_only_tensorflow_can_refuse_is_refused_before_anything_is_written(composed, tmp_path):
    wrong = replace(composed.recipe.phases[2], optimizer_args={"beta_1": 0.5})
    asked = replace(composed.recipe, phases=[*composed.recipe.phases[:2], wrong])
    with pytest.raises(UserError) as caught:
        start(replace(composed, recipe=asked), tmp_path / "run")
    assert str(caught.value).startswith("error[recipe] phases[2].optimizer_args: sgd refuses {'beta_1': 0.5}")
    assert not (tmp_path / "run").exists()


def test_a_plateau_needs_examples_to_look_at(composed):
    asked = replace(composed.recipe, data=replace(composed.recipe.data, holdout=0.0))
    with pytest.raises(UserError, match=r"phases\[1\].until.plateau: a plateau is one of the held-out examples, and"):
        make_plan(asked)


def test_an_optimizer_of_its_own_does_not_take_the_arguments_of_another(composed):
    train = replace(composed.recipe.train, optimizer_args={"beta_1": 0.5})
    given = {"optimizer": "sgd", "optimizer_args": {"momentum": 0.9}}
    phases = [
        recipe.Phase(name, Until(step=n + 1), **said)
        for n, (name, said) in enumerate(
            {"same": {}, "named": {"optimizer": "adam"}, "other": {"optimizer": "sgd"}, "whole": given}.items()
        )
    ]
    phases[-1].until = Until()
    plan = make_plan(replace(composed.recipe, train=train, phases=phases))
    assert [p.train.optimizer_args for p in plan.phases] == [{"beta_1": 0.5}, {"beta_1": 0.5}, {}, {"momentum": 0.9}]
    assert [p.train.optimizer for p in plan.phases] == ["adam", "adam", "sgd", "sgd"]


def test_only_what_a_phase_may_say_is_blamed_on_it():
    named = {"learn (w)": "phases[1].learn (w)", "train.optimizer": "phases[1].optimizer", "cut": "cut"}
    for where, place in named.items():
        with pytest.raises(UserError) as caught, naming("phases[1]"):
            raise UserError("recipe", where, "what", "todo", "more")
        assert caught.value.where == place
        assert str(caught.value).endswith("what; todo\nmore")


# ---- arithmetic


def phase(**known) -> Phase:
    return Phase(None, Train(), **known)  # type: ignore[arg-type]


def test_standing_counts_evaluations_that_are_no_better():
    watched, standing = phase(patience=2), Standing()
    for loss, waited in ((1.0, 0), (0.5, 0), (0.5, 1), (math.nan, 2)):
        assert not standing.is_over(watched, 1)
        standing = standing.seen(watched, {"loss": loss})
        assert standing.waited == waited
    assert standing.is_over(watched, 1)
    assert standing.at([watched, phase()], 7) == Standing((0, 7))
    assert standing.at([watched], 7) == standing, "the last phase goes on"


def test_of_an_accuracy_more_is_better():
    standing = Standing().seen(phase(patience=2, metric="a/accuracy"), {"a/accuracy": 0.5})
    assert standing.seen(phase(patience=2, metric="a/accuracy"), {"a/accuracy": 0.6}).waited == 0
    assert standing.seen(phase(patience=2, metric="a/accuracy"), {"a/accuracy": 0.4}).waited == 1


def test_a_phase_that_is_over_when_it_begins_is_passed_over():
    assert Standing(waited=1).at([phase(patience=1), phase(last=5), phase()], 6) == Standing((0, 6, 6))


def test_standing_survives_a_checkpoint():
    standing = Standing((0, 3), 0.25, 1, "abc")
    assert (
        standing_in(
            {
                name: np.asarray(value, object if isinstance(value, bytes) else None)
                for name, value in standing.tensors().items()
            }
        )
        == standing
    )
    assert standing_in({}) == Standing()


def test_ends_count_from_the_beginning_of_the_run_and_schedules_from_that_of_the_phase():
    asked = [recipe.Phase("a", Until(epoch=1.5)), recipe.Phase("b", Until(step=20, plateau=3)), recipe.Phase("c")]
    train = Train(schedule="linear", warmup_steps=2)
    phases = with_ends([Phase(None, train, p.name) for p in asked], asked, lambda epochs: int(epochs * 8))  # type: ignore[arg-type]
    assert [(p.last, p.patience) for p in phases] == [(12, None), (20, 3), (None, None)]
    share = phases[1].share_of_rate(12, 100)
    assert share is not None
    assert [share(step) for step in (13, 14, 15, 20)] == [0.5, 1.0, 1.0, pytest.approx(1 / 6)]
    assert unreached(phases, 15) == []
    assert unreached(phases, 12) == ["warning: phase b is not reached: the run ends with step 12, a with 12"]


def test_a_plateau_is_one_of_something_that_is_measured():
    check_metrics([phase(metric="auc")], [])
    with pytest.raises(UserError, match="no 'acuracy'; did you mean accuracy"):
        check_metrics([phase(patience=1, metric="acuracy", key="phases[0]")], ["loss", "accuracy"])


def test_a_metric_that_no_evaluation_gives_is_refused_before_the_first_step(composed):
    phases = "{name: a, until: {plateau: 2, metric: mae}}, {name: b}"
    message = "phases[0].until.metric: an evaluation gives loss, accuracy, and no 'mae'"
    assert message in refusal(composed, phases)
