"""The contest, with contenders whose times are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from finetune.calibrating.contest import Failed, Ready, Times, contest
from finetune.calibrating.setting import Setting
from finetune.calibrating.work import Work

LONG = Work(1000, 1000)
ON = Setting(onednn=True)


@dataclass
class Fake:
    """A contender with the times of its rounds; after the last it has crashed."""

    ready: Ready
    rounds: list[Times]
    closed: list[Fake]

    def turn(self) -> Times:
        if not self.rounds:
            raise Failed("exit status -11")
        return self.rounds.pop(0)

    def close(self) -> None:
        self.closed.append(self)


@dataclass
class Machine:
    """What each setting takes, in seconds of its rounds."""

    takes: dict[Setting, Sequence[Times]]
    work: Work = LONG
    has_onednn: bool = True
    entered: list[Fake] = field(default_factory=list)
    closed: list[Fake] = field(default_factory=list)

    def enter(self, setting: Setting) -> Fake:
        if setting not in self.takes:
            raise Failed("exit status 3: no such kernel")
        ready = Ready(bool(setting.onednn) and self.has_onednn, 0, self.work, self.takes[setting][0])
        self.entered.append(Fake(ready, list(self.takes[setting]), self.closed))
        return self.entered[-1]


def every(*changes: dict[str, object]) -> Callable[[Ready], Iterable[dict[str, object]]]:
    return lambda ready: changes


def steady(forward: float, step: float) -> list[Times]:
    return [Times(forward, step)] * 20


def held(
    machine: Machine, *changes: dict[str, object], clock: Callable[[], float] = lambda: 0.0
) -> tuple[Setting, str]:
    choice = contest(machine.enter, Setting(), every(*changes), clock)
    assert len(machine.closed) == len(machine.entered)  # no process is left behind
    return choice.setting, "\n".join(choice.said)


def test_what_is_faster_is_taken_and_said():
    setting, said = held(Machine({Setting(): steady(4, 14), ON: steady(3, 12)}), {"onednn": True})
    assert setting == ON
    assert "engine: oneDNN on, as measured" in said
    assert "forward 3 s, 4 s with TensorFlow's defaults; step 12 s, 14 s with" in said


def test_the_job_says_what_counts():
    takes = {Setting(): steady(4, 14), ON: steady(3, 20)}
    assert held(Machine(takes, Work(1000, 0)), {"onednn": True})[0] == ON
    assert held(Machine(takes, Work(1000, 1)), {"onednn": True})[0] == ON
    assert held(Machine(takes, Work(0, 1000)), {"onednn": True})[0] == Setting()
    assert held(Machine(takes, LONG), {"onednn": True})[0] == Setting()


def test_the_default_wins_ties_and_near_ties():
    for step in (14, 13.7):
        setting, said = held(Machine({Setting(): steady(4, 14), ON: steady(4, step)}), {"onednn": True})
        assert setting == Setting()
        assert said.endswith("not taken")


def test_the_default_wins_where_repeats_differ_by_more_than_is_gained():
    noisy = [Times(4, step) for step in (10, 16, 9, 15, 12)]
    assert held(Machine({Setting(): steady(4, 14), ON: noisy}), {"onednn": True})[0] == Setting()


def test_a_slow_spell_of_the_machine_does_not_decide():
    slow = [Times(4 * by, 14 * by) for by in (1, 3, 1, 2, 1)]
    same = [Times(3.9 * by, 13.8 * by) for by in (1, 3, 1, 2, 1)]
    better = [Times(3 * by, 12 * by) for by in (1, 3, 1, 2, 1)]
    assert held(Machine({Setting(): slow, ON: same}), {"onednn": True})[0] == Setting()
    assert held(Machine({Setting(): slow, ON: better}), {"onednn": True})[0] == ON


def test_what_crashes_is_left_out_at_the_start_and_on_the_way():
    setting, said = held(Machine({Setting(): steady(4, 14)}), {"onednn": True})
    assert (setting, said.count("left out: exit status 3: no such kernel")) == (Setting(), 1)
    setting, said = held(Machine({Setting(): steady(4, 14), ON: [Times(1, 1)]}), {"onednn": True})
    assert (setting, said.count("left out: exit status -11")) == (Setting(), 1)


def test_where_nothing_can_be_measured_nothing_is_changed():
    setting, said = held(Machine({}), {"onednn": True})
    assert (setting, said) == (
        Setting(),
        "engine: TensorFlow's defaults (not measured: exit status 3: no such kernel)",
    )


def test_where_the_best_so_far_does_not_last_nothing_is_changed():
    takes = {Setting(): steady(4, 14), ON: [Times(3, 12)] * 6, Setting(onednn=True, threads=4): steady(2, 10)}
    setting, said = held(Machine(takes), {"onednn": True}, {"threads": 4})
    assert (setting, said) == (Setting(), "engine: TensorFlow's defaults (not measured: exit status -11)")


def test_what_this_tensorflow_does_not_take_is_not_chosen():
    machine = Machine({Setting(): steady(4, 14), ON: steady(1, 1)}, has_onednn=False)
    setting, said = held(machine, {"onednn": True})
    assert (setting, "this TensorFlow does not take it" in said) == (Setting(), True)


def test_changes_add_up_and_each_has_to_beat_the_best_so_far():
    both = Setting(onednn=True, threads=4)
    takes = {Setting(): steady(4, 14), ON: steady(3, 12), both: steady(2, 10)}
    takes |= {Setting(onednn=True, threads=4, xla=True): steady(2, 11)}
    assert held(Machine(takes), {"onednn": True}, {"threads": 4}, {"xla": True})[0] == both


def test_measuring_ends_when_it_has_taken_its_share_of_the_job():
    # 5 % of a job of 2 × (4 + 14) seconds is 1.8 seconds.
    now = iter(range(100))
    machine = Machine({Setting(): steady(4, 14), ON: steady(3, 12)}, Work(2, 2))
    setting, said = held(machine, {"onednn": True}, {"threads": 1}, clock=lambda: float(next(now)))
    assert (setting, len(machine.entered)) == (ON, 2)
    assert "oneDNN on, 1 thread is not tried: measuring has taken its share of the job" in said
