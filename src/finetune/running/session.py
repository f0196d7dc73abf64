"""What a run works on: the grafted model, the values in it, and where in its course the run is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from finetune.augmenting.augment_keys import settle
from finetune.augmenting.mixing import Mixing, make_mixing
from finetune.bits import digest
from finetune.calibrating.work import BACKWARD, operations_of
from finetune.distributing.team import ALONE, Team
from finetune.engine import lora
from finetune.engine.graft import OLD, Model, check_gradients, graft, pair_graph, regraft
from finetune.engine.heads import initial_values
from finetune.engine.old_head import make_old_head
from finetune.engine.reuse import with_old_rows
from finetune.engine.rows import check_sizes
from finetune.errors import UserError
from finetune.examples import batches
from finetune.examples.data import Examples
from finetune.interruption import GoesOn, Interruption
from finetune.learning import monitor
from finetune.learning.course import Phase, Standing, naming, standing_in
from finetune.learning.distill import with_old_logits
from finetune.learning.l2_sp import anchors, penalised
from finetune.learning.optimizers import make
from finetune.learning.state import State, as_saved, check_frozen, make_state
from finetune.learning.strides import longest, make_stride, one_by_one
from finetune.learning.train import Step, Stride, make_step
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.results.checkpoints import Loaded
from finetune.running.frozen_part import Decision, FrozenPart, decide

Values = Mapping[str, Any]

MOST_PROBED = 1_000_000  # bytes
MOST_TURNS = 1000  # of a loop, where nothing tells them


@dataclass
class Session:
    """What a run works on. Where a phase begins, the seven fields from `standing` on are replaced.

    `pretrained` are the source's values and `fresh` the first ones of heads and adapters, by variable. `start` is the
    step that is made already, `stop` the last one. `share` gives the share of the learning rate that a step takes.
    """

    recipe: Recipe
    plan: Plan
    pretrained: Mapping[str, np.ndarray]
    fresh: Mapping[str, np.ndarray]
    pieces: Mapping[str, tuple[str, str]]
    loaders: tuple[batches.Loader, batches.Loader]  # of the training and of the held-out examples
    kept: Mapping[str, Sequence[str]]  # the tensors that the run keeps of the phases it has begun, by phase
    mixing: Mixing | None
    old_head: Callable[[Values], Values] | None
    said: list[str]  # of sizes that were changed, and rows that were taken over
    interruption: Interruption
    team: Team
    start: int
    stop: int
    standing: Standing
    phase: Phase
    decision: Decision
    model: Model
    frozen_part: FrozenPart | None = field(init=False, default=None)
    state: State = field(init=False)
    share: Callable[[int], float] | None = field(init=False)
    made: int = field(init=False, default=0)  # the last step that was made
    goes_on: GoesOn | None = field(init=False, default=None)  # asked after an evaluation, where there are other runs
    is_given_up: bool = field(init=False, default=False)  # for it has said no

    @property
    def rules(self) -> monitor.Rules:
        """What follows from an evaluation in the phase under way."""
        rules = self.plan.rules
        return rules if self.phase.train.schedule == "plateau" else replace(rules, plateau=None)

    @cached_property
    def meta(self) -> Any:
        """The `MetaGraphDef` of the pair that is written: the same in every phase."""
        return pair_graph(self.plan.source, self.model)

    @cached_property
    def varied(self) -> bool:
        """Whether training examples are augmented."""
        return settle(self.recipe.data.augment, self.recipe.data.kind) is not None

    # ---- Values

    def values_in(self, saved: Loaded | None) -> dict[str, Any]:
        """All that there is in a checkpoint, or at step 0; what no phase changes is the source's."""
        never = {name: self.pretrained[name] for name in self.pretrained.keys() - self.plan.moving()}
        taken = as_saved(saved.values, self.pieces) if saved else {}
        return {**self.pretrained, **self.fresh, **taken, **never}

    def take_up(self, values: Values, step: int) -> None:
        """Begins the phase in which `standing` is, or goes on with it, from all that there is."""
        if self.phase is not (phase := self.plan.phases[self.standing.number]):
            self.phase, self.decision = phase, self._decided(phase)
            self.model = regraft(self.model, phase.variants, self.decision.rest)
        begins = step == self.standing.began[-1]
        variables = {name: values[name] for name in (*self.pretrained, *self.fresh)}
        with naming(phase.key):
            state = make_state(variables, self.model.rates, self.model.updated, self.pieces, phase.train)
        state.restore(values, begins)
        if begins:
            state.conclude(monitor.anew(state.watch))
        if begins or not self.standing.frozen:
            frozen = digest(state.frozen)
        else:
            check_frozen(state.frozen, frozen := self.standing.frozen)
        self.state, self.standing = state, replace(self.standing, frozen=frozen)
        self.close()
        if self.decision.part is not None:
            words = self.recipe, self.plan, self.decision, self.decision.part, self.loaders
            self.frozen_part = FrozenPart(*words, state.variables())
        left = lambda: monitor.share_of_rate(state.watch, self.rules)  # noqa: E731
        self.share = phase.share_of_rate(self.standing.began[-1], self.plan.steps, left)

    def turn(self, step: int) -> None:
        """Begins the next phase, if the one under way is over."""
        self.standing = self.standing.at(self.plan.phases, step)
        self.take_up({name: np.asarray(value) for name, value in self.state.everything(step).items()}, step)

    def merged(self, values: Values) -> dict[str, Any]:
        """What replaces frozen matrices in the written pair: they and the small ones beside them in one."""
        return lora.merged(self.model.adapters, values)

    def _decided(self, phase: Phase) -> Decision:
        return decide(self.recipe, self.plan, phase, self.loaders, self.kept.get(phase.name))

    def whole(self) -> Session:
        """The same with a model of all of the source, to which nothing is an input but the source's own."""
        whole = copy(self)
        whole.model, whole.frozen_part, whole.team = regraft(self.model, self.model.variants), None, ALONE
        return whole

    def close(self) -> None:
        """Lets go of what is kept of the frozen part."""
        if self.frozen_part is not None:
            self.frozen_part.close()
        self.frozen_part = None

    # ---- Examples and steps

    @property
    def longest_stride(self) -> int:
        """How many steps may be made in one call: one, unless they take rows of one shape and nothing else is in them.

        However many there are, the bits are the same.
        """
        part, train = self.frozen_part, self.recipe.train
        if self.team.replicas > 1:  # after a worker was lost, all know which step was the last
            return 1
        if train.accumulate > 1 or self.state.scale is not None or self.model.teacher is not None:
            return 1
        if part is not None and (part.read(training=True) is None or (train.xla and not part.part.is_to_the_cut)):
            return 1
        if part is not None:
            operations = 0.0 if part.part.is_to_the_cut else self._operations({})
            return longest(part.part.frontier.bytes * train.batch_size, operations)
        if self.plan.training.arrays is None or self.varied or self.mixing is not None or train.xla:
            return 1
        rows = batches.row_shapes(self.plan.training, self._loader(self.plan.training))
        if any(None in shape for shape in rows.values()):  # as long as the longest of their batch
            return 1
        values = sum(math.prod(n or 1 for n in shape) for shape in rows.values())
        return longest(4 * values * train.batch_size, self._operations(rows))

    def _operations(self, rows: Mapping[str, tuple[int | None, ...]]) -> float:
        """Those of a step, about; a loop is taken to turn as often as the rows are long."""
        graph = self.phase.variants.training.graph
        has_loops = any(node.op == "Enter" for node in graph.nodes.values())
        turns = max([n or 1 for shape in rows.values() for n in shape] or [MOST_TURNS]) if has_loops else 1
        return BACKWARD * operations_of(self.plan) * turns * self.recipe.train.batch_size

    def training_batches(self, start: int, stop: int, ends: Sequence[int] | None = None) -> Iterator[batches.Batch]:
        """The batches of steps `start` + 1 to `stop`; with `ends` one for each stride, which ends there."""
        part, views = self.frozen_part, self.recipe.cache.views
        words = start, stop, *self._portion, self.plan.members
        if part is not None and (read := part.read(training=True)) is not None:
            made = batches.training_batches(*read, *words, views=views, ends=ends, share=self.team.share)
        else:
            examples = self.plan.training, self._loader(self.plan.training)
            how = self.varied, self.mixing, views, ends, self.team.share
            made = batches.training_batches(*examples, *words, *how)
            made = made if part is None else part.through(made, training=True)
        return made if self.model.teacher is None else with_old_logits(made, self.model.teacher, self.pretrained, OLD)

    def plain_batch(self, step: int) -> batches.Batch:
        """The examples of a step, neither augmented nor mixed."""
        load = self._loader(self.plan.training)
        words = step - 1, step, *self._portion, self.plan.members
        return next(self._as_taken(batches.training_batches(self.plan.training, load, *words), training=True))

    def in_order(self, examples: Examples) -> Iterator[batches.Batch]:
        """Every example once, as evaluation takes them; raises `Interrupted` between two batches if that is asked."""
        if (part := self.frozen_part) is not None:
            if examples is self.plan.held_out:
                examples = part.kept.get(False, examples)
            if part.holds(examples):
                return self._heeding(part.in_order(examples, *self._judged))
        return self._as_taken(self.in_order_as_they_are(examples))

    def in_order_as_they_are(self, examples: Examples) -> Iterator[batches.Batch]:
        """The same with the source's own inputs, whatever is kept."""
        return self._heeding(batches.evaluation_batches(examples, self._loader(examples), *self._judged))

    def _heeding(self, given: Iterator[batches.Batch]) -> Iterator[batches.Batch]:
        for batch in given:
            self.interruption.check()
            yield batch

    def to_learn_from(self) -> Examples:
        """The training examples as an evaluation would take them: what is kept of them, where that is the same."""
        part = self.frozen_part
        kept = part.kept.get(True) if part is not None and part.part.is_one and not self.varied else None
        return self.plan.training if kept is None else kept

    def first_inputs(self) -> Values:
        """The inputs of a first batch: fewer examples where each is large, for it takes as long to compute them."""
        training, source = self.plan.training, self.plan.source
        inputs = batches.first_inputs(training, self._loader(training), source.probe_size)
        if (source.fixed or source).batch_size is not None:
            return inputs
        each = max(1, sum(tensor.numpy().nbytes for tensor in inputs.values()) // source.probe_size)
        return {name: tensor[: max(2, MOST_PROBED // each)] for name, tensor in inputs.items()}

    def seen_in_training(self) -> np.ndarray:
        """The images of the first batch as augmentation leaves them; none where nothing is varied."""
        if not self.varied and self.mixing is None:
            return np.zeros((0, 1, 1, 3), np.uint8)
        words = self.recipe.data, *self._portion, self.plan.members, self.mixing
        return batches.seen_in_training(self.plan.training, self.plan.source.input_kinds(), *words)

    def step_with(self, share: Callable[[int], float] | None, ema: float | None = None) -> Step:
        """A step of the phase under way, which takes such a share of the learning rate."""
        train, program = self.recipe.train, self._penalised()
        return make_step(program, self.state, self.recipe.run.seed, share, train.clip_norm, train.accumulate, ema)

    def _penalised(self) -> Callable[[Values], Values]:
        train, learning = self.recipe.train, self.model.rates
        drawn = anchors(
            learning, self.pretrained, self.model.new_variables, self.plan.l2_sp(train, learning), train.l2_head
        )
        return penalised(self.team.across(self.model.step), drawn)

    def stride_with(self, share: Callable[[int], float] | None, ema: float | None = None) -> Stride:
        """Steps as above, as many at once as may be."""
        step = self.step_with(share, ema)
        if self.longest_stride == 1:
            return one_by_one(step)
        words = self.state, self.recipe.run.seed, share, self.recipe.train.clip_norm, ema
        return make_stride(self._penalised(), step, *words)

    @property
    def _judged(self) -> tuple[int, bool]:
        """How many examples an evaluation takes at once, and whether it has to be as many for the last ones."""
        return self.recipe.eval.batch_size or self.plan.portion, self.plan.source.batch_size is not None

    @property
    def _portion(self) -> tuple[int, int]:
        return self.recipe.train.batch_size, self.recipe.run.seed

    def _as_taken(self, given: Iterator[batches.Batch], training: bool = False) -> Iterator[batches.Batch]:
        """Batches of the source's inputs as the model takes them."""
        return given if self.frozen_part is None else self.frozen_part.through(given, training)

    def _loader(self, examples: Examples) -> batches.Loader:
        return self.loaders[examples is self.plan.held_out]


def _check_shares(recipe: Recipe, plan: Plan, replicas: int) -> None:
    if replicas == 1:
        return
    if plan.source.batch_size is not None:
        what = f"the source takes exactly {plan.source.batch_size} examples at once, and {replicas} replicas share them"
        raise UserError("recipe", "distribute", what, "set distribute=none")
    if plan.portion % replicas:
        near = max(1, round(plan.portion / replicas)) * replicas * recipe.train.accumulate
        what = f"{plan.portion} examples cannot be shared equally by {replicas} replicas"
        raise UserError("recipe", "train.batch_size", what, f"take {near}")


def open_session(
    recipe: Recipe,
    plan: Plan,
    pretrained: Mapping[str, np.ndarray],
    saved: Loaded | None = None,
    kept: Mapping[str, Sequence[str]] = MappingProxyType({}),
    interruption: Interruption | None = None,
    team: Team = ALONE,
) -> Session:
    """Grafts the heads, and begins with fresh values or goes on from a checkpoint in the phase that it was in.

    Args:
      kept: the tensors that the run keeps of each phase that it has begun, none for nothing.
      interruption: what tells whether the run was asked to end.

      team: the workers that make the run.

    Raises:
      UserError: the recipe does not fit the source or the workers, or the checkpoint not the recipe.
    """
    train, seed, source = recipe.train, recipe.run.seed, plan.source
    _check_shares(recipe, plan, team.replicas)
    start = 0 if saved is None else saved.step
    standing = Standing() if saved is None else standing_in(saved.values)
    # An evaluation may have ended the run before its last step.
    is_over = saved is not None and monitor.ends(monitor.watch_in(saved.values), plan.rules)
    standing = standing if is_over else standing.at(plan.phases, start)
    phase = plan.phases[standing.number]

    kinds = source.input_kinds()
    loaders = (
        batches.make_loader(plan.training, kinds, recipe.data),
        batches.make_loader(plan.held_out, kinds, recipe.data),
    )
    probe = partial(batches.probe, plan.training, loaders[0], plan.portion, pretrained)
    sized = check_sizes(source, phase.variants.evaluation, phase.variants.feeds, probe()) if source.is_resized else []
    mixing = make_mixing(train.mixup, train.cutmix, plan.tasks)
    distill = recipe.distill if recipe.distill.tensor is not None else None
    decision = decide(recipe, plan, phase, loaders, kept.get(phase.name))
    with naming(phase.key):
        words = distill, mixing is not None, train.precision, bool(train.xla)
        model = graft(phase.variants, plan.heads, plan.tasks, probe, *words, decision.rest)
    for later in plan.phases[1:] if saved is None else ():  # what is wrong with one is said before the first step
        with naming(later.key):
            check_gradients(model, later.variants)
            make(later.train.optimizer, later.train.learning_rate, later.train.optimizer_args)
    old_head = plan.old_head and make_old_head(plan.old_head, seed, recipe.source.allow_nonfinite, probe())
    heads, reused = with_old_rows(initial_values(model.new_variables, seed), plan.tasks, plan.heads, source)
    session = Session(
        recipe=recipe,
        plan=plan,
        pretrained=pretrained,
        fresh=heads | lora.initial_values(model.adapters, seed),
        pieces=source.pieces(),
        loaders=loaders,
        kept=kept,
        mixing=mixing,
        old_head=old_head,
        said=[*sized, *reused],
        interruption=interruption or Interruption(),
        team=team,
        start=start,
        stop=start if is_over else max(start, plan.steps),
        standing=standing,
        phase=phase,
        decision=decision,
        model=model,
    )
    session.take_up(session.values_in(saved), start)
    return session
