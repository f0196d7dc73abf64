"""What learns is said once and covers every variable."""

from __future__ import annotations

import pytest

from finetune.reading.variables import Update, Variable, find_updates, find_variables
from finetune.surgery.cut import cut
from finetune.surgery.freeze import barriers, behind, blocked, decide, live_updates
from tests.graphs import cond_graph, fed, golden, graph, loop_graph, node, refusal, variable


def layers():
    """Three layers, the second with a skip connection from the first."""
    return graph(
        fed("x", None, 3),
        *(variable(name, 3) for name in ("conv1/w", "conv2/w", "fc/w")),
        node("conv1", "Mul", "x", "conv1/w"),
        node("conv2", "Mul", "conv1", "conv2/w"),
        node("sum", "Add", "conv2", "conv1"),
        node("fc", "Mul", "sum", "fc/w"),
    )


def reached(*stops: str) -> set[str]:
    return {name for name in behind(layers(), ["fc:0"], stops) if name.endswith("/w")}


ALL = {"conv1/w", "conv2/w", "fc/w"}


# ---- barriers


def test_true_is_a_barrier_at_the_cut_and_false_is_none():
    assert barriers(layers(), ["fc:0"], True) == ["fc:0"]
    assert barriers(layers(), ["fc:0"], False) == []


def test_a_list_is_a_barrier_at_each_of_its_tensors():
    assert barriers(layers(), ["fc:0"], ["sum", "conv1:0"]) == ["sum:0", "conv1:0"]
    assert barriers(layers(), ["fc:0"], []) == []


def test_a_barrier_that_the_graph_does_not_have_is_refused():
    error = refusal(barriers, layers(), "fc:0", ["conv3"])
    assert (error.where, error.what) == ("stop_gradient", "the graph has no tensor 'conv3:0'")
    assert "conv1:0" in error.todo


def test_no_gradient_passes_a_barrier():
    assert reached() == ALL
    assert reached("fc:0") == set()
    assert reached("sum:0") == {"fc/w"}


def test_a_gradient_goes_round_a_barrier_by_another_way():
    assert reached("conv2:0") == {"fc/w", "conv1/w"}
    assert reached("conv2:0", "conv1:0") == {"fc/w"}


def test_a_variable_is_blocked_by_the_nearest_barrier_on_each_way():
    ends = blocked(layers(), ["conv1:0", "conv2:0", "sum:0"])
    assert {name: ends.get(name) for name in ALL} == {"conv1/w": ("conv1:0",), "conv2/w": ("conv2:0",), "fc/w": None}
    assert blocked(layers(), ["conv2:0", "sum:0"])["conv1/w"] == ("conv2:0", "sum:0")


def test_a_barrier_at_one_output_lets_the_others_pass():
    source = graph(variable("w", 4), node("split", "Split", "w"), node("out", "Add", "split", "split:1"))
    assert "w" in behind(source, ["out:0"], ["split:0"])
    assert "w" not in behind(source, ["out:0"], ["split:0", "split:1"])


def test_gradients_reach_into_branches_and_loops():
    assert {"a", "b"} <= behind(cond_graph(), ["out:0"], [])
    assert "w" in behind(loop_graph(), ["out:0"], [])


# ---- rules


def fates(*learn, within=frozenset(ALL), extra=(), updates=(), live=frozenset(), ends=("sum:0",)):
    names = [Variable(name, name, 1, (3,), True, False) for name in sorted(ALL)]
    by_name = dict.fromkeys([*ALL, *(v.name for v in extra)], tuple(ends))
    decided = decide([*names, *extra], learn, set(within), updates, set(live), by_name)
    return {f.variable.name: (f.rate, f.why) for f in decided}


def rates(*learn, **given):
    return {name: rate for name, (rate, _) in fates(*learn, **given).items()}


def test_without_rules_all_that_a_gradient_reaches_learns():
    assert fates(within={"fc/w"}) == {
        "conv1/w": (0.0, "frozen: no gradient passes the barrier sum:0"),
        "conv2/w": (0.0, "frozen: no gradient passes the barrier sum:0"),
        "fc/w": (1.0, "learns"),
    }


def test_the_first_rule_that_matches_counts():
    assert rates(["conv1/.*", 0], ["conv.*", 0.1], [".*", 1]) == {"conv1/w": 0.0, "conv2/w": 0.1, "fc/w": 1.0}
    assert rates([".*", 1], ["conv.*", 0.1]) == dict.fromkeys(ALL, 1.0)


def test_a_rule_matches_a_whole_name():
    assert rates(["conv1/w", 0], [".*", 1])["conv1/w"] == 0.0
    refusal(fates, ["conv1", 0], [".*", 1])


def test_a_rule_says_why():
    decided = fates(["conv1/.*", 0], [".*", 0.5])
    assert decided["conv1/w"][1] == "frozen: rule 'conv1/.*'"
    assert decided["fc/w"][1] == "learns: rule '.*'"


def test_a_rule_that_matches_nothing_is_refused():
    error = refusal(fates, ["conv7/.*", 0.1], [".*", 1])
    assert (error.where, error.status) == ("learn", 2)
    assert error.what == "the rule 'conv7/.*' matches none of the 3 variables below the cut"
    assert error.todo == "a rule matches a whole name, such as conv1/w"


def test_a_rule_without_any_variable_is_refused():
    assert refusal(decide, [], [[".*", 1]], set(), [], set()).todo == "a rule matches a whole name, such as none"


def test_a_rule_that_a_barrier_defeats_is_refused():
    error = refusal(fates, ["conv.*", 0.1], [".*", 1], within={"fc/w"})
    assert error.what == "'conv.*' asks for rate 0.1, but no gradient reaches conv1/w, conv2/w past the barrier sum:0"
    assert error.todo == "set stop_gradient to false, or to a tensor below them"


def test_a_variable_that_no_barrier_blocks_and_no_gradient_reaches_is_said_to_be_so():
    assert fates(within={"fc/w"}, ends=())["conv1/w"] == (0.0, "frozen: no gradient reaches it")
    error = refusal(fates, ["conv.*", 0.1], [".*", 1], within={"fc/w"}, ends=())
    assert error.what == "'conv.*' asks for rate 0.1, but no gradient reaches conv1/w, conv2/w"


def test_a_rule_that_reaches_some_of_its_variables_is_obeyed_there():
    decided = fates([".*", 1], within={"fc/w"})
    assert decided["fc/w"][0] == 1.0
    assert decided["conv1/w"] == (0.0, "frozen: no gradient passes the barrier sum:0")


def test_a_rule_of_rate_zero_needs_no_gradient():
    assert rates(["conv.*", 0], [".*", 1], within={"fc/w"}) == {"conv1/w": 0.0, "conv2/w": 0.0, "fc/w": 1.0}


def test_an_uncovered_variable_stops_the_run():
    error = refusal(fates, ["conv1/.*", 0.1])
    assert (error.where, error.what) == ("learn", "no rule covers conv2/w, fc/w")
    assert error.todo == "end learn with ['.*', 0] to freeze the rest, or ['.*', 1] to train it"


def test_what_no_gradient_reaches_need_not_be_covered():
    assert rates(["fc/.*", 0.1], within={"fc/w"}) == {"conv1/w": 0.0, "conv2/w": 0.0, "fc/w": 0.1}


def test_the_same_rule_twice_is_two_rules():
    assert rates(["conv1/w", 0], ["conv1/w", 1], [".*", 1])["conv1/w"] == 0.0


def test_what_the_source_does_not_train_stays_frozen():
    steps = Variable("steps", "steps", 9, (), False, False)
    decided = fates([".*", 1], extra=[steps], within=ALL | {"steps"})
    assert decided["steps"] == (0.0, "frozen: the source does not train it")


# ---- batch norm


MEAN = Variable("conv1/mean", "conv1/mean", 1, (3,), False, False)
UPDATE = Update("conv1/update", "conv1/mean")


def statistics(*learn, live: bool):
    given = {"extra": [MEAN], "updates": [UPDATE], "live": {"conv1/mean"} if live else set()}
    return fates(*learn, **given)["conv1/mean"]


def test_statistics_learn_with_their_layer():
    assert statistics(live=True) == (1.0, "learns")
    assert statistics(live=False) == (0.0, "frozen: no gradient passes the barrier sum:0")


def test_a_rule_may_freeze_the_statistics_of_a_layer_that_learns():
    assert statistics([".*/mean", 0], [".*", 1], live=True) == (0.0, "frozen: rule '.*/mean'")


def test_statistics_that_no_rule_names_are_frozen_and_stop_no_run():
    assert statistics(["conv1/w", 1], ["conv2/w", 1], ["fc/w", 1], live=True) == (0.0, "frozen: no rule names it")


@pytest.mark.parametrize("name", ["bn_cond", "bn_moments", "bn_side_effect"])
def test_statistics_follow_their_layer(name):
    source = golden(name)
    below = cut(source.graph, [source.cut])
    updates = find_updates(source.meta, source.graph, below)
    every = {u.variable for u in updates}
    assert live_updates(source.graph, below, updates, behind(below, [source.cut], [])) == every
    assert live_updates(source.graph, below, updates, behind(below, [source.cut], [source.cut])) == set()


def test_statistics_below_a_barrier_stay_and_those_above_it_move():
    source = golden("bn_cond")
    below = cut(source.graph, [source.cut])
    updates = find_updates(source.meta, source.graph, below)
    free = behind(below, [source.cut], ["block1/Relu6:0"])
    live = live_updates(source.graph, below, updates, free)
    assert live == {"block2/bn/moving_mean", "block2/bn/moving_variance"}
    decided = decide(find_variables(source.meta, below), [], free, updates, live)
    assert {f.variable.name for f in decided if f.rate} == {n for n in source.keys if n.startswith("block2/")}
