"""What a run works on: the grafted model, the values in it, and where in its course the run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from finetune.augmenting.augment_keys import settle
from finetune.augmenting.mixing import Mixing, make_mixing
from finetune.engine import lora
from finetune.engine.graft import OLD, Model, check_gradients, graft, pair_graph, regraft
from finetune.engine.heads import initial_values
from finetune.engine.old_head import make_old_head
from finetune.engine.reuse import with_old_rows
from finetune.engine.rows import check_sizes
from finetune.examples import batches
from finetune.examples.data import Examples
from finetune.learning import monitor
from finetune.learning.course import Phase, Standing, naming, standing_in
from finetune.learning.distill import with_old_logits
from finetune.learning.l2_sp import anchors, penalised
from finetune.learning.optimizers import make
from finetune.learning.state import State, as_saved, check_frozen, digest, make_state
from finetune.learning.train import Step, make_step
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.results.checkpoints import Loaded

Values = Mapping[str, Any]


@dataclass
class Session:
    """What a run works on. Where a phase begins, the last five fields are replaced; nothing else ever is.

    `pretrained` are the source's values and `fresh` the first ones of heads and adapters, by variable. `start` is the
    step that is made already, `stop` the last one. `share` gives the share of the learning rate that a step takes.
    """

    recipe: Recipe
    plan: Plan
    pretrained: Mapping[str, np.ndarray]
    fresh: Mapping[str, np.ndarray]
    pieces: Mapping[str, tuple[str, str]]
    loaders: tuple[batches.Loader, batches.Loader]  # of the training and of the held-out examples
    mixing: Mixing | None
    old_head: Callable[[Values], Values] | None
    said: list[str]  # of sizes that were changed, and rows that were taken over
    start: int
    stop: int
    standing: Standing
    phase: Phase
    model: Model
    state: State = field(init=False)
    share: Callable[[int], float] | None = field(init=False)

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
            self.phase, self.model = phase, regraft(self.model, phase.variants)
        begins = step == self.standing.began[-1]
        variables = {name: values[name] for name in (*self.pretrained, *self.fresh)}
        with naming(phase.key):
            state = make_state(variables, self.model.rates, self.model.updated, self.pieces, phase.train)
        state.restore(values, begins)
        if begins:
            state.conclude(monitor.anew(state.watch))
        frozen = self.standing.frozen if self.standing.frozen and not begins else digest(state.frozen)
        check_frozen(state.frozen, frozen)
        self.state, self.standing = state, replace(self.standing, frozen=frozen)
        left = lambda: monitor.share_of_rate(state.watch, self.rules)  # noqa: E731
        self.share = phase.share_of_rate(self.standing.began[-1], self.plan.steps, left)

    def turn(self, step: int) -> None:
        """Begins the next phase, if the one under way is over."""
        self.standing = self.standing.at(self.plan.phases, step)
        self.take_up({name: np.asarray(value) for name, value in self.state.everything(step).items()}, step)

    def merged(self, values: Values) -> dict[str, Any]:
        """What replaces frozen matrices in the written pair: they and the small ones beside them in one."""
        return lora.merged(self.model.adapters, values)

    # ---- Examples and steps

    def training_batches(self, start: int, stop: int) -> Iterator[batches.Batch]:
        """The batches of steps `start` + 1 to `stop`."""
        made = batches.training_batches(
            self.plan.training,
            self._loader(self.plan.training),
            start,
            stop,
            *self._portion,
            self.plan.members,
            self.varied,
            self.mixing,
        )
        return made if self.model.teacher is None else with_old_logits(made, self.model.teacher, self.pretrained, OLD)

    def plain_batch(self, step: int) -> batches.Batch:
        """The examples of a step, neither augmented nor mixed."""
        load = self._loader(self.plan.training)
        words = step - 1, step, *self._portion, self.plan.members
        return next(batches.training_batches(self.plan.training, load, *words))

    def in_order(self, examples: Examples) -> Iterator[batches.Batch]:
        """Every example once, as evaluation takes them."""
        size = self.recipe.eval.batch_size or self.plan.portion
        whole = self.plan.source.batch_size is not None
        return batches.evaluation_batches(examples, self._loader(examples), size, whole)

    def first_inputs(self) -> Values:
        """The inputs of a first batch."""
        training = self.plan.training
        return batches.first_inputs(training, self._loader(training), self.plan.source.probe_size)

    def seen_in_training(self) -> np.ndarray:
        """The images of the first batch as augmentation leaves them; none where nothing is varied."""
        if not self.varied and self.mixing is None:
            return np.zeros((0, 1, 1, 3), np.uint8)
        words = self.recipe.data, *self._portion, self.plan.members, self.mixing
        return batches.seen_in_training(self.plan.training, self.plan.source.input_kinds(), *words)

    def step_with(self, share: Callable[[int], float] | None, ema: float | None = None) -> Step:
        """A step of the phase under way, which takes such a share of the learning rate."""
        train, learning = self.recipe.train, self.model.rates
        drawn = anchors(
            learning, self.pretrained, self.model.new_variables, self.plan.l2_sp(train, learning), train.l2_head
        )
        program = penalised(self.model.step, drawn)
        return make_step(program, self.state, self.recipe.run.seed, share, train.clip_norm, train.accumulate, ema)

    @property
    def _portion(self) -> tuple[int, int]:
        return self.recipe.train.batch_size, self.recipe.run.seed

    def _loader(self, examples: Examples) -> batches.Loader:
        return self.loaders[examples is self.plan.held_out]


def open_session(
    recipe: Recipe, plan: Plan, pretrained: Mapping[str, np.ndarray], saved: Loaded | None = None
) -> Session:
    """Grafts the heads, and begins with fresh values or goes on from a checkpoint in the phase that it was in.

    Raises:
      UserError: the recipe does not fit the source, or the checkpoint not the recipe.
    """
    train, seed, source = recipe.train, recipe.run.seed, plan.source
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
    with naming(phase.key):
        words = distill, mixing is not None, train.precision, bool(train.xla)
        model = graft(phase.variants, plan.heads, plan.tasks, probe, *words)
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
        mixing=mixing,
        old_head=old_head,
        said=[*sized, *reused],
        start=start,
        stop=start if is_over else max(start, plan.steps),
        standing=standing,
        phase=phase,
        model=model,
    )
    session.take_up(session.values_in(saved), start)
    return session
